//! The safetensors format.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use half::f16;
use safetensors::tensor::{Dtype, Metadata, TensorView};

use crate::tensor::{Stored, decode};
use crate::{Tensor, Values, Weights, WeightsError, names, write_atomic};

/// The bytes of a header that are read at most, as the format's own library has it.
const LARGEST_HEADER: u64 = 100_000_000;

/// How floats are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// As they are.
    F32,
    /// Rounded to 16 bits: half the size.
    F16,
}

/// Whether a file opens like safetensors: the length of its header in eight bytes, then JSON.
pub(crate) fn is_safetensors(path: &Path) -> Result<bool, WeightsError> {
    let mut opening = Vec::new();
    File::open(path)
        .and_then(|file| file.take(9).read_to_end(&mut opening))
        .map_err(WeightsError::io("read", path))?;
    // A pickle or zip archive has neither the brace in ninth place nor zeros, the upper bytes of the
    // header's length, in front of it.
    Ok(opening.get(8) == Some(&b'{') && opening[5..8] == [0; 3])
}

/// Reads the bytes of a `.safetensors`. `path` is for the error only.
///
/// # Errors
/// When they are damaged or hold a tensor of a type that no weights have.
pub fn from_safetensors(bytes: &[u8], path: &Path) -> Result<Weights, WeightsError> {
    from_reader(bytes, bytes.len() as u64, path)
}

/// Reads a `.safetensors` file, tensor by tensor: the memory is that of the values.
pub(crate) fn read(path: &Path) -> Result<Weights, WeightsError> {
    let file = File::open(path).map_err(WeightsError::io("read", path))?;
    let len = file
        .metadata()
        .map_err(WeightsError::io("read", path))?
        .len();
    from_reader(file, len, path)
}

fn from_reader(mut from: impl Read, len: u64, path: &Path) -> Result<Weights, WeightsError> {
    let damaged = |reason: &str| WeightsError::Format {
        path: path.to_path_buf(),
        reason: format!("{reason} ({len} bytes)"),
    };
    if len < 8 {
        return Err(damaged("it has no header"));
    }
    let mut fill =
        |bytes: &mut [u8]| (from.read_exact(bytes)).map_err(WeightsError::io("read", path));
    let mut header = [0; 8];
    fill(&mut header)?;
    let header = u64::from_le_bytes(header);
    if header > LARGEST_HEADER || header > len - 8 {
        return Err(damaged("its header is not whole"));
    }
    let mut json = vec![0; header as usize];
    fill(&mut json)?;
    let header: Metadata = serde_json::from_slice(&json).map_err(|e| damaged(&e.to_string()))?;
    if header.data_len() as u64 != len - 8 - json.len() as u64 {
        return Err(damaged("its tensors are not as long as its header says"));
    }
    let names = header.offset_keys();
    let mut tensors = Vec::with_capacity(names.len());
    // Tensors lie one behind the other, which the header was checked for.
    for name in names {
        let Some(info) = header.info(&name) else {
            continue;
        };
        let stored = stored(info.dtype).ok_or_else(|| WeightsError::Type {
            path: path.to_path_buf(),
            tensor: name.clone(),
            found: format!("{:?}", info.dtype),
        })?;
        let bytes = info.data_offsets.1 - info.data_offsets.0;
        let values = match stored {
            Stored::F32 => {
                let mut values = vec![0f32; bytes / size_of::<f32>()];
                fill(bytemuck::cast_slice_mut(&mut values))?;
                for value in &mut values {
                    *value = f32::from_bits(u32::from_le(value.to_bits()));
                }
                Values::F32(values)
            }
            _ => {
                let mut raw = vec![0; bytes];
                fill(&mut raw)?;
                decode(&raw, stored)
            }
        };
        tensors.push(Tensor {
            name,
            shape: info.shape.clone(),
            values,
        });
    }
    names::clean(&mut tensors);
    let metadata = header.metadata().clone().unwrap_or_default();
    Ok(Weights { tensors, metadata })
}

fn stored(dtype: Dtype) -> Option<Stored> {
    Some(match dtype {
        Dtype::F64 => Stored::F64,
        Dtype::F32 => Stored::F32,
        Dtype::F16 => Stored::F16,
        Dtype::BF16 => Stored::Bf16,
        Dtype::I64 => Stored::I64,
        Dtype::I32 => Stored::I32,
        Dtype::I16 => Stored::I16,
        Dtype::I8 => Stored::I8,
        Dtype::U8 => Stored::U8,
        Dtype::BOOL => Stored::Bool,
        _ => return None,
    })
}

/// The bytes of a `.safetensors` with these tensors. Integers stay integers.
///
/// # Errors
/// When a tensor's shape does not fit its values, or two have one name.
pub fn to_safetensors(
    tensors: &[Tensor],
    metadata: Option<HashMap<String, String>>,
    precision: Precision,
) -> Result<Vec<u8>, WeightsError> {
    let encoded: Vec<(Dtype, Vec<u8>)> = tensors
        .iter()
        .map(|t| encode(&t.values, precision))
        .collect();
    let mut views = Vec::with_capacity(tensors.len());
    for (t, (dtype, bytes)) in tensors.iter().zip(&encoded) {
        if t.shape.iter().product::<usize>() != t.values.len() {
            return Err(WeightsError::Shape {
                tensor: t.name.clone(),
                shape: t.shape.clone(),
                values: t.values.len(),
            });
        }
        let view = TensorView::new(*dtype, t.shape.clone(), bytes)?;
        views.push((t.name.as_str(), view));
    }
    Ok(safetensors::serialize(views, metadata)?)
}

fn encode(values: &Values, precision: Precision) -> (Dtype, Vec<u8>) {
    match (values, precision) {
        (Values::F32(v), Precision::F32) => {
            (Dtype::F32, v.iter().flat_map(|x| x.to_le_bytes()).collect())
        }
        (Values::F32(v), Precision::F16) => {
            let halves = v.iter().map(|&x| f16::from_f32(x));
            (Dtype::F16, halves.flat_map(f16::to_le_bytes).collect())
        }
        (Values::I64(v), _) => (Dtype::I64, v.iter().flat_map(|x| x.to_le_bytes()).collect()),
    }
}

/// Writes a `.safetensors`, whole or not at all.
///
/// # Errors
/// When a tensor's shape does not fit its values or the file cannot be written.
pub fn write(
    path: &Path,
    tensors: &[Tensor],
    metadata: Option<HashMap<String, String>>,
    precision: Precision,
) -> Result<(), WeightsError> {
    let bytes = to_safetensors(tensors, metadata, precision)?;
    write_atomic(path, &bytes).map_err(WeightsError::io("write", path))
}
