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

/// The tensors of a safetensors file, whatever its metadata: weights to start from.
///
/// # Errors
/// When there is no such file, it is damaged, or a tensor has another type than f32 or i64.
pub fn read_weights(path: &Path) -> Result<StateDict, TrainError> {
    let path = model_path(path);
    let bytes = std::fs::read(&path).map_err(TrainError::io("read", &path))?;
    let fail = |reason: String| format_error(&path, "safetensors file", reason);
    let tensors = SafeTensors::deserialize(&bytes).map_err(|e| fail(e.to_string()))?;
    state_of(&tensors).map_err(fail)
}

fn state_of(tensors: &SafeTensors<'_>) -> Result<StateDict, String> {
    let mut dict = StateDict::new();
    for (name, view) in tensors.iter() {
        let dtype = match view.dtype() {
            Dtype::F32 => DType::F32,
            Dtype::I64 => DType::I64,
            other => return Err(format!("tensor {name} has type {other:?}")),
        };
        let data = TensorData::from_bytes_vec(view.data().to_vec(), view.shape().to_vec(), dtype);
        dict.push((name.to_string(), data));
    }
    Ok(dict)
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

/// Reads a model file onto `device`. A folder means the `model.safetensors` in it.
///
/// # Errors
/// When there is no such file, it is damaged, of another or a newer format, or its tensors do not
/// fit the architecture it names.
pub fn load_model(path: &Path, device: &Device) -> Result<(Model, ModelInfo), TrainError> {
    let path = model_path(path);
    let (tensors, info): (_, ModelInfo) = read_tensors(&path, "Lenslet model file")?;
    let variant = find_variant(&info.architecture)?;
    if info.classes.is_empty() {
        let reason = "it names no classes".into();
        return Err(format_error(&path, "Lenslet model file", reason));
    }
    info.preprocess.validate()?;
    let mut options = BuildOptions::new(info.classes.len());
    if let Some(built) = &info.options {
        options = built.clone();
        options.num_classes = info.classes.len();
    }
    let model = variant.build_with(&options, &mut Init::empty(device));
    let model =
        load_state_dict(model, tensors).map_err(|source| TrainError::Weights { path, source })?;
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

/// Writes named tensors (f32 and i64) with `header` as JSON in the metadata.
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

/// Reads what [`write_tensors`] wrote.
pub(crate) fn read_tensors<H: DeserializeOwned>(
    path: &Path,
    kind: &'static str,
) -> Result<(StateDict, H), TrainError> {
    let bytes = std::fs::read(path).map_err(TrainError::io("read", path))?;
    let fail = |reason: String| format_error(path, kind, reason);
    let damaged = |e: safetensors::SafeTensorError| {
        fail(format!(
            "{e} ({} bytes); it may be truncated or of another format, make or copy it again",
            bytes.len()
        ))
    };
    let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(damaged)?;
    let text = metadata
        .metadata()
        .as_ref()
        .and_then(|m| m.get(KEY))
        .ok_or_else(|| {
            fail("it is a safetensors file without Lenslet's description".to_string())
        })?;
    let malformed = |e: serde_json::Error| fail(format!("its description is malformed: {e}"));
    let version: Version = serde_json::from_str(text).map_err(malformed)?;
    if version.format > FORMAT {
        return Err(fail(format!(
            "it has format {}, this program reads up to {FORMAT}; update Lenslet",
            version.format
        )));
    }
    let header = serde_json::from_str(text).map_err(malformed)?;
    let tensors = SafeTensors::deserialize(&bytes).map_err(damaged)?;
    let dict = state_of(&tensors).map_err(fail)?;
    Ok((dict, header))
}
