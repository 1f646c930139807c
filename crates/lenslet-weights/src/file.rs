//! Files that are never half-written.

use std::io::Write;
use std::path::Path;

/// Writes `bytes` beside `path` and renames, so that a reader sees the old file or the new one.
///
/// # Errors
/// When the folder cannot be written to or the disk is full; the old file is left as it was.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".part");
    let part = path.with_file_name(name);
    let write = || {
        let mut file = std::fs::File::create(&part)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&part, path)
    };
    write().inspect_err(|_| {
        // What is left of a failed write is of no use to anyone.
        let _ = std::fs::remove_file(&part);
    })
}
