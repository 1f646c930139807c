//! Published files over HTTPS, into a cache.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};
use ureq::http::{Response, StatusCode, header};
use ureq::{Agent, Body};

use crate::WeightsError;

/// How long to wait for a server.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// For a connection and for the beginning of an answer.
    pub answer: Duration,
    /// For the next piece of a file; however long the whole takes.
    pub piece: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            answer: Duration::from_secs(20),
            piece: Duration::from_secs(30),
        }
    }
}

/// The folder for fetched weights: `lenslet/weights` in the user's cache (`$XDG_CACHE_HOME`, else
/// `~/.cache`).
pub fn cache_dir() -> Option<PathBuf> {
    // The XDG specification has relative paths ignored.
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| Some(std::env::home_dir()?.join(".cache")))?;
    Some(cache.join("lenslet/weights"))
}

/// Brings the file at `url` to `path`, unless it is there already. `progress` is told the bytes that
/// have arrived and, where the server says it, how many there are.
///
/// The file grows beside `path` under the ending `.part` and gets its name when it is complete and its
/// SHA-256 begins with `sha256` (hexadecimal). What has arrived before an interruption is kept, and
/// the next call goes on from there.
///
/// # Errors
/// When the server cannot be reached, refuses, falls silent or sends something else than the file, or
/// the file cannot be written.
pub fn fetch(
    url: &str,
    sha256: &str,
    path: &Path,
    patience: Patience,
    progress: &mut dyn FnMut(u64, Option<u64>),
) -> Result<(), WeightsError> {
    if path.exists() {
        return Ok(());
    }
    let refused = |reason: String| WeightsError::Fetch {
        url: url.to_string(),
        reason,
    };
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".part");
    let part = path.with_file_name(name);
    let io = |source| WeightsError::io("write", &part)(source);
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(WeightsError::io("create", folder))?;
    }
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&part)
        .map_err(io)?;
    if file.try_lock().is_err() {
        return Err(refused("another program is fetching it now".into()));
    }

    let mut hash = Sha256::new();
    let mut done = std::io::copy(&mut file, &mut hash).map_err(io)?;
    let mut answer = request(url, done, patience).map_err(refused)?;
    if answer.status() == StatusCode::RANGE_NOT_SATISFIABLE {
        // The part is longer than the file.
        answer = request(url, 0, patience).map_err(refused)?;
    }
    if !answer.status().is_success() {
        return Err(refused(format!("the server answers {}", answer.status())));
    }
    if answer.status() != StatusCode::PARTIAL_CONTENT {
        // The whole comes, from its beginning.
        done = 0;
        hash = Sha256::new();
        file.set_len(0).map_err(io)?;
    }
    file.seek(SeekFrom::Start(done)).map_err(io)?;
    let total = answer.body().content_length().map(|rest| done + rest);
    let mut body = answer.body_mut().as_reader();
    let mut piece = vec![0; 1 << 16];
    loop {
        progress(done, total);
        match body.read(&mut piece) {
            Ok(0) => break,
            Ok(n) => {
                file.write_all(&piece[..n]).map_err(io)?;
                hash.update(&piece[..n]);
                done += n as u64;
            }
            Err(e) => return Err(refused(format!("{e} after {done} bytes"))),
        }
    }
    if let Some(total) = total.filter(|total| *total != done) {
        return Err(refused(format!("{done} of {total} bytes came")));
    }
    finish(file, &part, path, &hash.finalize(), sha256).map_err(|e| match e {
        Unfinished::Io(e) => io(e),
        Unfinished::Hash(found) => refused(format!(
            "its SHA-256 begins with {found}, not with {sha256}: it is another file, or was damaged on its way, and was \
             thrown away"
        )),
    })
}

enum Unfinished {
    Io(std::io::Error),
    Hash(String),
}

/// Gives a complete file its name, or throws a wrong one away.
fn finish(
    file: File,
    part: &Path,
    path: &Path,
    hash: &[u8],
    sha256: &str,
) -> Result<(), Unfinished> {
    let found: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    let found = &found[..sha256.len().min(found.len())];
    if !found.eq_ignore_ascii_case(sha256) {
        let _ = std::fs::remove_file(part);
        return Err(Unfinished::Hash(found.to_string()));
    }
    file.sync_all()
        .and_then(|()| std::fs::rename(part, path))
        .map_err(Unfinished::Io)
}

/// The file from byte `from` on.
fn request(url: &str, from: u64, patience: Patience) -> Result<Response<Body>, String> {
    let agent: Agent = Agent::config_builder()
        .http_status_as_error(false)
        .timeout_connect(Some(patience.answer))
        .timeout_recv_response(Some(patience.answer))
        .timeout_per_read(Some(patience.piece))
        .user_agent(concat!("lenslet/", env!("CARGO_PKG_VERSION")))
        .build()
        .into();
    let mut request = agent.get(url);
    if from > 0 {
        request = request.header(header::RANGE, format!("bytes={from}-"));
    }
    request.call().map_err(|e| e.to_string())
}
