//! A trained model on pictures of unknown class.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use burn::tensor::Device;
use lenslet_data::{DataError, FileDataset, Loader, LoaderConfig, OnUnreadable, decode};
use lenslet_models::Model;
use serde::Serialize;

use crate::evaluate::{forward, run_averaged};
use crate::metrics::{softmax, top_k};
use crate::{EngineKind, ModelInfo, Runner, TestTime, TrainError, even_batch, load_model};

/// A class and how likely it is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Prediction {
    /// Its name.
    pub class: String,
    /// From 0 to 1; all classes together give 1.
    pub probability: f64,
}

/// How pictures are predicted.
#[derive(Debug, Clone)]
pub struct Predicting {
    /// Classes that are told.
    pub top: usize,
    /// What is averaged over.
    pub test_time: TestTime,
    /// Pictures a call at most; bounds the memory.
    pub batch_size: usize,
    /// Threads that decode.
    pub threads: usize,
    /// What runs the model.
    pub engine: EngineKind,
}

/// Who is told what a picture shows, or why it could not be read.
pub type EachPicture<'a, E> =
    dyn FnMut(&Path, Result<Vec<Prediction>, DataError>) -> Result<(), E> + 'a;

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

    /// The `k` likeliest classes of each of the picture files, likeliest first, told to `each` in
    /// the order of the files as batches are done; false when `stop` was raised. A file that cannot
    /// be read is told as an error and stops nothing. The model ends here, so that its memory goes back as it is
    /// compiled.
    ///
    /// # Errors
    /// When there are no files, or what `each` says.
    pub fn predict<E: From<TrainError>>(
        self,
        files: Vec<PathBuf>,
        how: &Predicting,
        each: &mut EachPicture<'_, E>,
        stop: &AtomicBool,
    ) -> Result<bool, E> {
        let batch = even_batch(files.len(), how.batch_size);
        let [c, h, w] = self.info.preprocess.output_shape();
        let runner = Runner::logits(how.engine, self.model, [batch, c, h, w], &self.device)?;
        let dataset = Arc::new(FileDataset::unlabelled(files));
        let settings = LoaderConfig {
            batch_size: batch,
            workers: how.threads,
            on_unreadable: OnUnreadable::Skip { limit: 1.0 },
            ..LoaderConfig::default()
        };
        let loader = Loader::new(dataset.clone(), self.info.preprocess, None, settings);
        let loader = loader.map_err(TrainError::from)?;
        let path = |index: usize| dataset.files()[index].path.as_path();
        let mut epoch = loader.epoch(0);
        let mut told = 0;
        loop {
            let batch = epoch.next();
            for skipped in epoch.take_skipped() {
                each(path(skipped.index), Err(skipped.error))?;
            }
            let Some(batch) = batch else {
                return Ok(true);
            };
            let batch = batch.map_err(TrainError::from)?;
            let logits = run_averaged(&runner, batch.images, batch.shape, how.test_time)?;
            let rows = logits.chunks_exact(self.info.classes.len());
            for (row, &index) in rows.zip(&batch.indices) {
                each(path(index), Ok(best(row, &self.info.classes, how.top)))?;
                told += 1;
            }
            if stop.load(Ordering::Relaxed) && told < dataset.files().len() {
                return Ok(false);
            }
        }
    }
}

fn best(logits: &[f32], classes: &[String], k: usize) -> Vec<Prediction> {
    let probabilities = softmax(logits);
    let best = top_k(logits, k).into_iter();
    best.map(|class| Prediction {
        class: classes[class].clone(),
        probability: probabilities[class],
    })
    .collect()
}
