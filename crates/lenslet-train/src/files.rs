//! Files that are never half-written.

use std::path::Path;

use crate::TrainError;

/// Writes `bytes` beside `path` and renames, so that a reader sees the old file or the new one.
///
/// # Errors
/// When the folder cannot be written to or the disk is full; the old file is left as it was.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), TrainError> {
    lenslet_weights::write_atomic(path, bytes).map_err(TrainError::io("write", path))
}
