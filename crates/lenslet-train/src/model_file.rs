//! The file that a trained model lives in: one `.safetensors` with PyTorch's tensor names, and
//! all that prediction needs as JSON in its metadata under `lenslet`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use burn::tensor::{DType, Device, TensorData};
use lenslet_data::Preprocess;
use lenslet_models::{BuildOptions, Model};
use lenslet_nn::{Init, StateDict, load_state_dict, state_dict};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::config::find_variant;
use crate::files::write_atomic;
use crate::{Golden, TrainError};

/// The format that this version writes, and the newest it reads.
pub const FORMAT: u32 = 1;

/// The metadata key of Lenslet's JSON.
const KEY: &str = "lenslet";

/// What errors call such a file.
const MODEL_FILE: &str = "Lenslet model file";

/// What a model file says about itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelInfo {
    /// Version of this description.
    pub format: u32,
    /// Name of the variant.
    pub architecture: String,
    /// Class names in the order of the logits.
    pub classes: Vec<String>,
    /// How the model was built; the definition as it is when nothing is said.
    #[serde(default)]
    pub options: Option<BuildOptions>,
    /// From a decoded picture to the model's input.
    pub preprocess: Preprocess,
    /// How it was trained: command, configuration, data, result.
    pub training: serde_json::Value,
    /// Pictures with the logits they gave where the model was trained.
    pub golden: Vec<Golden>,
}

/// Only the version, read first: the rest of a newer file may look different.
#[derive(Deserialize)]
struct Version {
    format: u32,
}

/// Writes a model with its description.
///
/// # Errors
/// When the file cannot be written.
pub fn save_model(path: &Path, model: &Model, info: &ModelInfo) -> Result<(), TrainError> {
    write_tensors(path, &state_dict(model), info)
}

/// Writes a model in half the size: floats rounded to 16 bits.
///
/// # Errors
/// When the file cannot be written.
pub fn save_model_f16(path: &Path, model: &Model, info: &ModelInfo) -> Result<(), TrainError> {
    let rounded = state_dict(model).into_iter().map(|(name, data)| {
        let float = data.dtype().is_float();
        let data = if float {
            data.convert_dtype(DType::F16)
        } else {
            data
        };
        (name, data)
    });
    write_tensors(path, &rounded.collect::<Vec<_>>(), info)
}

/// Reads a model file onto `device`. A folder means the `model.safetensors` in it.
///
/// # Errors
/// When there is no such file, it is damaged, of another or a newer format, or its tensors do not
/// fit the architecture it names.
pub fn load_model(path: &Path, device: &Device) -> Result<(Model, ModelInfo), TrainError> {
    let path = model_path(path);
    let bytes = std::fs::read(&path).map_err(TrainError::io("read", &path))?;
    parse_model(&bytes, &path, device)
}

/// Reads the bytes of a model file onto `device`. `path` is for errors only.
///
/// # Errors
/// As [`load_model`], but for the reading.
pub fn parse_model(
    bytes: &[u8],
    path: &Path,
    device: &Device,
) -> Result<(Model, ModelInfo), TrainError> {
    let (tensors, info): (_, ModelInfo) = parse_tensors(bytes, path, MODEL_FILE)?;
    let variant = find_variant(&info.architecture)?;
    if info.classes.is_empty() {
        let reason = "it names no classes".into();
        return Err(format_error(path, MODEL_FILE, reason));
    }
    info.preprocess.validate()?;
    let mut options = BuildOptions::new(info.classes.len());
    if let Some(built) = &info.options {
        options = built.clone();
        options.num_classes = info.classes.len();
    }
    let model = variant.build_with(&options, &mut Init::empty(device));
    let model = load_state_dict(model, tensors).map_err(|source| TrainError::Weights {
        path: path.to_path_buf(),
        source,
    })?;
    Ok((model, info))
}

/// The model file that a user means by a file or a run's folder.
pub fn model_path(path: &Path) -> PathBuf {
    if path.is_dir() {
        path.join("model.safetensors")
    } else {
        path.to_path_buf()
    }
}

fn format_error(path: &Path, kind: &'static str, reason: String) -> TrainError {
    TrainError::Format {
        path: path.to_path_buf(),
        kind,
        reason,
    }
}

/// Writes named tensors (f32, f16 and i64) with `header` as JSON in the metadata.
pub(crate) fn write_tensors(
    path: &Path,
    tensors: &[(String, TensorData)],
    header: &impl Serialize,
) -> Result<(), TrainError> {
    let text = serde_json::to_string(header)
        .map_err(|e| TrainError::io("write", path)(std::io::Error::other(e)))?;
    let views: Result<Vec<_>, _> = tensors
        .iter()
        .map(|(name, data)| {
            let dtype = match data.dtype() {
                DType::I64 => Dtype::I64,
                DType::F16 => Dtype::F16,
                _ => Dtype::F32,
            };
            let view = TensorView::new(dtype, data.shape().to_vec(), data.as_bytes())?;
            Ok((name.as_str(), view))
        })
        .collect();
    let metadata = HashMap::from([(KEY.to_string(), text)]);
    let bytes = views
        .and_then(|views| safetensors::serialize(views, Some(metadata)))
        .map_err(|e: safetensors::SafeTensorError| {
            TrainError::io("write", path)(std::io::Error::other(e))
        })?;
    write_atomic(path, &bytes)
}

/// Reads what [`write_tensors`] wrote; f16 widens to f32.
pub(crate) fn read_tensors<H: DeserializeOwned>(
    path: &Path,
    kind: &'static str,
) -> Result<(StateDict, H), TrainError> {
    let bytes = std::fs::read(path).map_err(TrainError::io("read", path))?;
    parse_tensors(&bytes, path, kind)
}

fn parse_tensors<H: DeserializeOwned>(
    bytes: &[u8],
    path: &Path,
    kind: &'static str,
) -> Result<(StateDict, H), TrainError> {
    let fail = |reason: String| format_error(path, kind, reason);
    let damaged = |e: safetensors::SafeTensorError| {
        fail(format!(
            "{e} ({} bytes); it may be truncated or of another format, make or copy it again",
            bytes.len()
        ))
    };
    let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(damaged)?;
    let text = metadata
        .metadata()
        .as_ref()
        .and_then(|m| m.get(KEY))
        .ok_or_else(|| {
            fail("it is a safetensors file without Lenslet's description".to_string())
        })?;
    let header = parse_description(text, path, kind)?;
    let tensors = SafeTensors::deserialize(bytes).map_err(damaged)?;
    let mut dict = StateDict::new();
    for (name, view) in tensors.iter() {
        let dtype = match view.dtype() {
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::I64 => DType::I64,
            other => return Err(fail(format!("tensor {name} has type {other:?}"))),
        };
        let data = TensorData::from_bytes_vec(view.data().to_vec(), view.shape().to_vec(), dtype);
        let data = match dtype {
            DType::F16 => data.convert_dtype(DType::F32),
            _ => data,
        };
        dict.push((name.to_string(), data));
    }
    Ok((dict, header))
}

/// What a file says about itself.
fn parse_description<H: DeserializeOwned>(
    text: &str,
    path: &Path,
    kind: &'static str,
) -> Result<H, TrainError> {
    let fail = |reason: String| format_error(path, kind, reason);
    let malformed = |e: serde_json::Error| fail(format!("its description is malformed: {e}"));
    let version: Version = serde_json::from_str(text).map_err(malformed)?;
    if version.format > FORMAT {
        return Err(fail(format!(
            "it has format {}, this program reads up to {FORMAT}; update Lenslet",
            version.format
        )));
    }
    serde_json::from_str(text).map_err(malformed)
}

/// The description in the metadata of a weight file, if it is a Lenslet model file. `path` is for
/// errors only.
pub(crate) fn description(
    metadata: &HashMap<String, String>,
    path: &Path,
) -> Result<Option<ModelInfo>, TrainError> {
    let text = metadata.get(KEY);
    text.map(|text| parse_description(text, path, MODEL_FILE))
        .transpose()
}
