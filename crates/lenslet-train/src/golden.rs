//! Golden inputs: pictures in a model file with the logits they gave, to be replayed elsewhere.

use std::path::Path;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use burn::tensor::Device;
use lenslet_data::transform::resize;
use lenslet_data::{DataError, Dataset, Image, Interpolation, Preprocess, Resize, decode};
use lenslet_models::Model;
use serde::{Deserialize, Serialize};

use crate::evaluate::forward;
use crate::{ModelInfo, TrainError};

/// Pictures that a model file carries.
const COUNT: usize = 4;

/// Longest shorter side of such a picture.
const SIDE: usize = 256;

/// A picture and what the model made of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Golden {
    /// What a person would call the picture.
    pub id: String,
    /// The picture as base64 of a PNG.
    pub png: String,
    /// The logits on the machine that trained.
    pub logits: Vec<f32>,
}

impl Golden {
    /// The picture as the bytes of a PNG file. `path` is the model file, for the error.
    ///
    /// # Errors
    /// When what the model file holds is no base64.
    pub fn picture(&self, path: &Path) -> Result<Vec<u8>, TrainError> {
        BASE64_STANDARD
            .decode(&self.png)
            .map_err(|e| TrainError::Format {
                path: path.to_path_buf(),
                kind: "Lenslet model file",
                reason: format!("its golden picture {} is damaged: {e}", self.id),
            })
    }
}

/// Picks the first readable picture of each of the first classes of `dataset` and records the logits.
///
/// # Errors
/// When a picture does not suit the preprocessing.
pub fn record_golden(
    model: &Model,
    preprocess: &Preprocess,
    dataset: &dyn Dataset,
    device: &Device,
) -> Result<Vec<Golden>, TrainError> {
    let classes = dataset.class_names().len().min(COUNT) as u32;
    let of = |class| (0..dataset.len()).filter(move |&i| dataset.label(i) == Some(class));
    // A picture that cannot be read is passed over.
    let readable = |index| Some((index, dataset.get(index).ok()?.image));
    let firsts = (0..classes).filter_map(|class| of(class).find_map(readable));
    firsts
        .map(|(index, image)| golden_of(model, preprocess, dataset.id(index), image, device))
        .collect()
}

/// A picture and what the model makes of it.
pub(crate) fn golden_of(
    model: &Model,
    preprocess: &Preprocess,
    id: String,
    image: Image,
    device: &Device,
) -> Result<Golden, TrainError> {
    let image = shrunk(image)?;
    Ok(Golden {
        id,
        png: BASE64_STANDARD.encode(image.to_png()?),
        logits: logits(model, preprocess, image, device)?,
    })
}

/// A photo at a size that a model file can carry.
fn shrunk(image: Image) -> Result<Image, DataError> {
    let (width, height) = (image.width(), image.height());
    if width.min(height) <= SIDE {
        return Ok(image);
    }
    let (width, height) = Resize::ShortSide(SIDE).target(width, height);
    resize(image, width, height, Interpolation::Bilinear)
}

/// Replays the golden inputs and gives the largest difference of a logit from what was recorded,
/// relative to the largest recorded one, for each picture.
///
/// # Errors
/// When a stored picture is damaged.
pub fn replay_golden(
    model: &Model,
    info: &ModelInfo,
    device: &Device,
    path: &Path,
) -> Result<Vec<(String, f64)>, TrainError> {
    info.golden
        .iter()
        .map(|golden| {
            let png = golden.picture(path)?;
            let image = decode::decode(&png, path, decode::Limits::default())?.image;
            let got = logits(model, &info.preprocess, image, device)?;
            let scale = golden
                .logits
                .iter()
                .fold(f32::MIN_POSITIVE, |m, v| m.max(v.abs()));
            let worst = got
                .iter()
                .zip(&golden.logits)
                .map(|(g, w)| (g - w).abs())
                .fold(0.0, |m: f32, v| if v <= m { m } else { v });
            let fits = got.len() == golden.logits.len() && !worst.is_nan();
            let error = if fits {
                f64::from(worst / scale)
            } else {
                f64::INFINITY
            };
            Ok((golden.id.clone(), error))
        })
        .collect()
}

fn logits(
    model: &Model,
    preprocess: &Preprocess,
    image: Image,
    device: &Device,
) -> Result<Vec<f32>, TrainError> {
    let [c, h, w] = preprocess.output_shape();
    let mut input = vec![0.0; preprocess.output_len()];
    preprocess.apply(image, None, &mut input)?;
    Ok(forward(model, input, [1, c, h, w], device))
}
