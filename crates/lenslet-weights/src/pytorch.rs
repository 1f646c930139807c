//! PyTorch's own files, through `pytorch-reader`: pickles are parsed, never run.

use std::path::Path;

use pytorch_reader::{DType, PytorchError, PytorchReader};

use crate::tensor::{Stored, decode};
use crate::{Tensor, Weights, WeightsError, names};

/// The entries of a checkpoint under which training programs keep a model's weights, in the order
/// in which they are looked for.
const WRAPPERS: [&str; 3] = ["state_dict", "model_state_dict", "model"];

/// How many times its own size a file's tensors may take. A view can repeat one stored value any
/// number of times; weights that share storage stay far below this.
const LARGEST_EXPANSION: u64 = 4;

pub(crate) fn read(path: &Path) -> Result<Weights, WeightsError> {
    let size = std::fs::metadata(path)
        .map_err(WeightsError::io("read", path))?
        .len();
    let entries = open(path)?.into_tensors();
    let claimed: u64 = entries
        .values()
        .map(|t| t.byte_len() as u64)
        .fold(0, u64::saturating_add);
    if claimed > size.saturating_mul(LARGEST_EXPANSION) {
        let reason = format!("it has {size} bytes and claims {claimed} bytes of tensors");
        return Err(format_error(path, reason));
    }
    // The largest first: while one is decoded, it is in memory twice.
    let mut entries: Vec<_> = entries.into_iter().collect();
    entries.sort_by_key(|(_, entry)| std::cmp::Reverse(entry.byte_len()));
    let mut tensors = Vec::with_capacity(entries.len());
    for (name, entry) in entries {
        let stored = stored(entry.dtype()).ok_or_else(|| WeightsError::Type {
            path: path.to_path_buf(),
            tensor: name.clone(),
            found: format!("{:?}", entry.dtype()),
        })?;
        let bytes = entry
            .read()
            .map_err(|e| format_error(path, e.to_string()))?;
        tensors.push(Tensor {
            name,
            shape: entry.shape().to_vec(),
            values: decode(&bytes, stored),
        });
    }
    names::clean(&mut tensors);
    Ok(Weights {
        tensors,
        ..Weights::default()
    })
}

/// Opens the entry that holds the weights, or the whole file where it has none of that name.
fn open(path: &Path) -> Result<PytorchReader, WeightsError> {
    for key in WRAPPERS {
        match PytorchReader::with_top_level_key(path, key) {
            Err(PytorchError::KeyNotFound(_)) => {}
            Ok(reader) if reader.is_empty() => {}
            other => return other.map_err(|e| refused(path, e)),
        }
    }
    PytorchReader::new(path).map_err(|e| refused(path, e))
}

fn refused(path: &Path, error: PytorchError) -> WeightsError {
    match error {
        PytorchError::Io(source) if source.kind() != std::io::ErrorKind::UnexpectedEof => {
            WeightsError::io("read", path)(source)
        }
        other => format_error(path, other.to_string()),
    }
}

fn format_error(path: &Path, reason: String) -> WeightsError {
    WeightsError::Format {
        path: path.to_path_buf(),
        reason,
    }
}

/// The type of the bytes that the reader gives, which are little-endian on every supported machine.
fn stored(dtype: DType) -> Option<Stored> {
    Some(match dtype {
        DType::F64 => Stored::F64,
        DType::F32 => Stored::F32,
        DType::F16 => Stored::F16,
        DType::BF16 => Stored::Bf16,
        DType::I64 => Stored::I64,
        DType::I32 => Stored::I32,
        DType::I16 => Stored::I16,
        DType::I8 => Stored::I8,
        DType::U8 => Stored::U8,
        DType::Bool => Stored::Bool,
        DType::U64 | DType::U32 | DType::U16 => return None,
    })
}
