//! A trained model on pictures of unknown class.

use std::path::Path;

use burn::tensor::Device;
use lenslet_data::decode;
use lenslet_models::Model;
use serde::Serialize;

use crate::evaluate::forward;
use crate::metrics::{softmax, top_k};
use crate::{ModelInfo, TrainError, load_model};

/// A class and how likely it is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Prediction {
    /// Its name.
    pub class: String,
    /// From 0 to 1; all classes together give 1.
    pub probability: f64,
}

/// A model that is ready to predict.
pub struct Predictor {
    model: Model,
    info: ModelInfo,
    device: Device,
}

impl Predictor {
    /// Reads a model file, or the one in a run's folder.
    ///
    /// # Errors
    /// When it is no model file of this version.
    pub fn load(path: &Path, device: &Device) -> Result<Self, TrainError> {
        let (model, info) = load_model(path, device)?;
        Ok(Self::new(model, info, device))
    }

    /// A model that is on `device`, with its description.
    pub fn new(model: Model, info: ModelInfo, device: &Device) -> Self {
        Self {
            model,
            info,
            device: device.clone(),
        }
    }

    /// What the model file says about itself.
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The logits of a picture file, in the order of the classes.
    ///
    /// # Errors
    /// When the file cannot be read as a picture.
    pub fn logits(&self, path: &Path) -> Result<Vec<f32>, TrainError> {
        let preprocess = &self.info.preprocess;
        let image = decode::read(path)?.image;
        let mut input = vec![0.0; preprocess.output_len()];
        preprocess.apply(image, None, &mut input)?;
        let [c, h, w] = preprocess.output_shape();
        Ok(forward(&self.model, input, [1, c, h, w], &self.device))
    }

    /// The `k` likeliest classes of a picture file, likeliest first.
    ///
    /// # Errors
    /// When the file cannot be read as a picture.
    pub fn predict(&self, path: &Path, k: usize) -> Result<Vec<Prediction>, TrainError> {
        let logits = self.logits(path)?;
        let probabilities = softmax(&logits);
        Ok(top_k(&logits, k)
            .into_iter()
            .map(|class| Prediction {
                class: self.info.classes[class].clone(),
                probability: probabilities[class],
            })
            .collect())
    }
}
