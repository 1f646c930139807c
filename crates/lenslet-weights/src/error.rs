//! What can go wrong, with the cure.

use std::path::{Path, PathBuf};

/// Why weights could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// The system refused.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// "read", "write".
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is no weight file, or a damaged one.
    #[error(
        "{} cannot be read as weights: {reason}. Wanted is a .safetensors file or a PyTorch .pth or .pt file; if \
         it is one, it may be truncated: copy or download it again",
        path.display()
    )]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A tensor of a type that no weights have.
    #[error(
        "{}: tensor {tensor} holds values of type {found}; weights are floats of 16, 32 or 64 bits, or integers",
        path.display()
    )]
    Type {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its type.
        found: String,
    },
    /// A tensor to be written whose shape is not that of its values.
    #[error("tensor {tensor} has shape {shape:?}, but {values} values")]
    Shape {
        /// The tensor.
        tensor: String,
        /// The shape given.
        shape: Vec<usize>,
        /// The number of values given.
        values: usize,
    },
    /// A published file could not be fetched.
    #[error(
        "cannot fetch {url}: {reason}. Try again when there is a network (a part that has arrived is kept), or download \
         the file elsewhere and give its path with --weights"
    )]
    Fetch {
        /// Where it is.
        url: String,
        /// What went wrong.
        reason: String,
    },
    /// What the safetensors format cannot hold.
    #[error("cannot make a .safetensors of these tensors: {0}")]
    Encode(#[from] safetensors::SafeTensorError),
}

impl WeightsError {
    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| WeightsError::Io {
            doing,
            path,
            source,
        }
    }
}
