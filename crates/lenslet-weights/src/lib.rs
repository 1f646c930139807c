//! Weight files of image models: `.safetensors` and PyTorch's `.pth` and `.pt`, read and written.
//!
//! [`read`] gives a file's tensors as names, shapes and plain values, whatever format and precision
//! they were stored in; nothing in a file is ever executed. [`write()`] makes a `.safetensors`.
//! Nothing here knows about models: which tensors a model wants, and under which names, is the
//! business of `lenslet-models`.
//!
//! ```no_run
//! use std::path::Path;
//!
//! let weights = lenslet_weights::read(Path::new("resnet18-f37072fd.pth"))?;
//! for tensor in &weights.tensors {
//!     println!("{} {:?}", tensor.name, tensor.shape);
//! }
//! # Ok::<(), lenslet_weights::WeightsError>(())
//! ```

mod error;
#[cfg(feature = "fetch")]
pub mod fetch;
mod file;
mod names;
mod pytorch;
mod safe;
mod tensor;

pub use error::WeightsError;
pub use file::write_atomic;
pub use safe::{Precision, from_safetensors, to_safetensors, write};
pub use tensor::{Tensor, Values, Weights};

use std::path::Path;

/// Reads a weight file; its content, not its name, says what it is.
///
/// - Floats of 16, 32 and 64 bits (and bfloat16) become `f32`, integers `i64`.
/// - A checkpoint that keeps its weights under `state_dict`, `model_state_dict` or `model` gives
///   those; what stands beside them (an optimiser, the epoch) is left out.
/// - A prefix that all names share because of a wrapper (`module.`, `_orig_mod.`, `model.`) goes.
/// - Batch norm's counters (`num_batches_tracked`) are left out: nothing reads them.
///
/// # Errors
/// When the file cannot be read, is damaged or is no weight file.
pub fn read(path: &Path) -> Result<Weights, WeightsError> {
    let weights = if safe::is_safetensors(path)? {
        safe::read(path)?
    } else {
        pytorch::read(path)?
    };
    if weights.tensors.is_empty() {
        return Err(WeightsError::Format {
            path: path.to_path_buf(),
            reason: "it holds no tensors".into(),
        });
    }
    Ok(weights)
}
