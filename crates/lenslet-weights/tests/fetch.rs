//! Fetching from a server on this machine that does what servers do.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lenslet_weights::fetch::{Patience, fetch};
use sha2::{Digest, Sha256};

/// How a server treats a request.
#[derive(Clone, Copy)]
enum Manner {
    /// Sends what is asked for, ranges too.
    Good,
    /// Closes the connection after so many bytes.
    CutsAfter(usize),
    /// Sends the whole whatever is asked.
    IgnoresRanges,
    /// Says 404.
    Missing,
    /// Sends a small piece every few milliseconds.
    Slow,
    /// Sends half, then nothing.
    FallsSilent,
}

struct Server {
    url: String,
    /// The `Range` of every request.
    ranges: Arc<Mutex<Vec<Option<String>>>>,
}

fn content() -> Vec<u8> {
    (0..300_000u32)
        .flat_map(|i| (i * 7).to_le_bytes())
        .collect()
}

fn hash(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    hash.iter().take(4).map(|b| format!("{b:02x}")).collect()
}

/// A server that treats its first requests as told and all others well.
fn serve(manners: &[Manner]) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!(
        "http://{}/model-1234abcd.pth",
        listener.local_addr().unwrap()
    );
    let ranges = Arc::new(Mutex::new(Vec::new()));
    let (seen, manners) = (Arc::clone(&ranges), manners.to_vec());
    std::thread::spawn(move || {
        for (i, stream) in listener.incoming().enumerate() {
            let manner = manners.get(i).copied().unwrap_or(Manner::Good);
            let (stream, seen) = (stream.unwrap(), Arc::clone(&seen));
            // A client that goes away is part of the play.
            std::thread::spawn(move || answer(stream, manner, &seen).ok());
        }
    });
    Server { url, ranges }
}

fn answer(
    mut stream: TcpStream,
    manner: Manner,
    seen: &Mutex<Vec<Option<String>>>,
) -> std::io::Result<()> {
    let mut range = None;
    for line in BufReader::new(stream.try_clone()?).lines() {
        let line = line?.to_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("range: bytes=") {
            range = Some(value.to_string());
        }
    }
    seen.lock().unwrap().push(range.clone());
    let whole = content();
    let from: usize = range
        .and_then(|r| r.trim_end_matches('-').parse().ok())
        .unwrap_or(0);
    let (status, body) = match manner {
        Manner::Missing => ("404 Not Found", &b"no such file"[..]),
        Manner::IgnoresRanges => ("200 OK", &whole[..]),
        _ if from > whole.len() => ("416 Range Not Satisfiable", &[][..]),
        _ if from > 0 => ("206 Partial Content", &whole[from..]),
        _ => ("200 OK", &whole[..]),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    match manner {
        Manner::CutsAfter(n) => stream.write_all(&body[..n]),
        Manner::Slow => body.chunks(100_000).try_for_each(|piece| {
            std::thread::sleep(Duration::from_millis(60));
            stream.write_all(piece)
        }),
        Manner::FallsSilent => {
            stream.write_all(&body[..body.len() / 2])?;
            std::thread::sleep(Duration::from_secs(2));
            Ok(())
        }
        _ => stream.write_all(body),
    }
}

const PATIENCE: Patience = Patience {
    answer: Duration::from_millis(500),
    piece: Duration::from_millis(500),
};

fn get(server: &Server, path: &Path, sha256: &str) -> Result<(), String> {
    fetch(&server.url, sha256, path, PATIENCE, &mut |_, _| {}).map_err(|e| e.to_string())
}

fn part(path: &Path) -> PathBuf {
    path.with_extension("pth.part")
}

#[test]
fn a_good_file_arrives_and_is_not_fetched_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("deep/cache/model.pth");
    let server = serve(&[]);
    let mut told = Vec::new();
    let progress = &mut |done, total| told.push((done, total));
    fetch(&server.url, &hash(&content()), &path, PATIENCE, progress).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), content());
    assert!(!part(&path).exists());
    assert_eq!(told.first(), Some(&(0, Some(1_200_000))));
    assert_eq!(told.last(), Some(&(1_200_000, Some(1_200_000))));
    get(&server, &path, &hash(&content())).unwrap();
    assert_eq!(server.ranges.lock().unwrap().len(), 1);
}

#[test]
fn what_was_cut_off_is_gone_on_with() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.pth");
    let server = serve(&[Manner::CutsAfter(500_000), Manner::FallsSilent]);
    let error = get(&server, &path, &hash(&content())).unwrap_err();
    assert!(error.contains("500000"), "{error}");
    assert!(error.contains("--weights"), "{error}");
    assert!(!path.exists());
    assert_eq!(std::fs::read(part(&path)).unwrap(), content()[..500_000]);

    let error = get(&server, &path, &hash(&content())).unwrap_err();
    assert!(error.contains("timeout"), "{error}");
    get(&server, &path, &hash(&content())).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), content());
    let ranges = server.ranges.lock().unwrap();
    let expected = [None, Some("500000-".into()), Some("850000-".into())];
    assert_eq!(*ranges, expected);
}

#[test]
fn servers_that_know_no_ranges_start_over() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.pth");
    let server = serve(&[Manner::CutsAfter(10_000), Manner::IgnoresRanges]);
    get(&server, &path, &hash(&content())).unwrap_err();
    get(&server, &path, &hash(&content())).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), content());
}

#[test]
fn a_part_longer_than_the_file_is_thrown_away() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.pth");
    std::fs::write(part(&path), vec![1; 2_000_000]).unwrap();
    get(&serve(&[]), &path, &hash(&content())).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), content());
}

#[test]
fn a_wrong_file_is_thrown_away() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.pth");
    let error = get(&serve(&[]), &path, "1234abcd").unwrap_err();
    let expected = format!("begins with {}, not with 1234abcd", hash(&content()));
    assert!(error.contains(&expected), "{error}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_missing_file_and_a_missing_server_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.pth");
    let error = get(&serve(&[Manner::Missing]), &path, "1234abcd").unwrap_err();
    assert!(error.contains("404"), "{error}");
    let nobody = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let server = Server {
        url: format!("http://{nobody}/model.pth"),
        ranges: Arc::default(),
    };
    let error = get(&server, &path, "1234abcd").unwrap_err();
    assert!(
        error.starts_with("cannot fetch http://127.0.0.1"),
        "{error}"
    );
    assert!(error.contains("when there is a network"), "{error}");
}

/// Twelve pieces of 60 ms each: longer in all than the patience for one.
#[test]
fn a_slow_server_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.pth");
    get(&serve(&[Manner::Slow]), &path, &hash(&content())).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), content());
}
