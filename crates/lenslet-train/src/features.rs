//! What a frozen backbone gives for every picture, computed once.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use lenslet_data::{Fingerprint, Loader};
use lenslet_models::{ImageModel, Model};
use lenslet_nn::state_dict;
use serde::{Deserialize, Serialize};

use crate::model_file::{FORMAT, read_tensors, write_tensors};
use crate::step::Input;
use crate::tally::{Evaluation, SkippedFile, Tally};
use crate::{EngineKind, Parts, Runner, TrainError};

/// The features of one dataset, sample by sample.
#[derive(Debug, Clone, PartialEq)]
pub struct FeatureSet {
    width: usize,
    /// `[samples * width]`; zeros for samples that could not be read.
    values: Vec<f32>,
    /// The labels, `None` where the sample could not be read.
    labels: Vec<Option<u32>>,
    /// Samples that could not be read.
    pub skipped: Vec<SkippedFile>,
}

/// What stands beside the tensors in a file of features.
#[derive(Serialize, Deserialize)]
struct Header {
    format: u32,
    key: String,
    skipped: [Vec<SkippedFile>; 2],
}

const KIND: &str = "file of cached features";

impl FeatureSet {
    /// Runs the frozen part of a model over everything in `loader`; `None` when `stop` was raised.
    ///
    /// # Errors
    /// As the loader's batches.
    pub fn compute(
        frozen: &Runner,
        loader: &Loader,
        progress: &mut dyn FnMut(usize),
        stop: &AtomicBool,
    ) -> Result<Option<Self>, TrainError> {
        let samples = loader.dataset().len();
        let mut set = Self {
            width: 0,
            values: Vec::new(),
            labels: vec![None; samples],
            skipped: Vec::new(),
        };
        let mut epoch = loader.epoch(0);
        let mut done = 0;
        for batch in epoch.by_ref() {
            if stop.load(Ordering::Relaxed) {
                return Ok(None);
            }
            let batch = batch?;
            done += batch.len();
            let features = frozen.run(batch.images, batch.shape)?;
            if set.width == 0 {
                set.width = features.len() / batch.shape[0];
                set.values = vec![0.0; samples * set.width];
            }
            let rows = features.chunks_exact(set.width);
            for ((row, &index), &label) in rows.zip(&batch.indices).zip(&batch.labels) {
                set.values[index * set.width..][..set.width].copy_from_slice(row);
                set.labels[index] = Some(label);
            }
            progress(done);
        }
        set.skipped = epoch.skipped().iter().map(SkippedFile::of).collect();
        Ok(Some(set))
    }

    /// The samples of `indices` that could be read: input, labels, and which they are.
    pub fn batch(&self, indices: &[usize]) -> (Input, Vec<u32>, Vec<usize>) {
        let (mut values, mut labels, mut kept) = (Vec::new(), Vec::new(), Vec::new());
        for &index in indices {
            if let Some(label) = self.labels[index] {
                values.extend_from_slice(&self.values[index * self.width..][..self.width]);
                labels.push(label);
                kept.push(index);
            }
        }
        let shape = [kept.len(), self.width];
        (Input::Features(values, shape), labels, kept)
    }

    /// The last layer of `model` on all of the features.
    pub fn evaluate(&self, model: &Model, classes: usize, device: &Device) -> Evaluation {
        /// Samples at a time.
        const BATCH: usize = 1024;
        let mut tally = Tally::new(classes);
        let all: Vec<usize> = (0..self.labels.len()).collect();
        for indices in all.chunks(BATCH) {
            let (input, labels, kept) = self.batch(indices);
            let Input::Features(values, shape) = input else {
                continue;
            };
            let x = Tensor::<2>::from_data(TensorData::new(values, shape), device);
            if let Some(logits) = model.classify(x) {
                let logits: Vec<f32> = logits.into_data().iter::<f32>().collect();
                tally.add(&logits, &labels, &kept);
            }
        }
        tally.finish(self.skipped.clone())
    }

    fn tensors(&self, name: &str) -> [(String, TensorData); 2] {
        let labels = self.labels.iter().map(|l| l.map_or(-1, i64::from));
        let labels: Vec<i64> = labels.collect();
        let count = labels.len();
        let values = TensorData::new(self.values.clone(), [count, self.width]);
        [
            (format!("{name}.features"), values),
            (format!("{name}.labels"), TensorData::new(labels, [count])),
        ]
    }
}

/// What decides the features: data, preprocessing, frozen weights, and in the last digits what
/// runs them.
pub(crate) fn key(
    data: &str,
    preprocess: &str,
    engine: EngineKind,
    model: &Model,
    parts: &Parts,
) -> String {
    let mut print = Fingerprint::default();
    print.add(data.as_bytes());
    print.add(format!("{engine:?}").as_bytes());
    print.add(preprocess.as_bytes());
    for (name, tensor) in state_dict(&model.valid()) {
        if parts.part(&name) < parts.stages() {
            print.add(name.as_bytes());
            print.add(tensor.as_bytes());
        }
    }
    print.text()
}

/// Keeps the features of the training and the validation data in the file `path`.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn save(path: &Path, key: &str, sets: [&FeatureSet; 2]) -> Result<(), TrainError> {
    let tensors = [sets[0].tensors("train"), sets[1].tensors("val")].concat();
    let header = Header {
        format: FORMAT,
        key: key.into(),
        skipped: sets.map(|set| set.skipped.clone()),
    };
    write_tensors(path, &tensors, &header)
}

/// The features that [`save`] kept under this key; `None` when there are none, or others, or the
/// file is damaged: they can be computed again.
pub(crate) fn load(path: &Path, key: &str) -> Option<[FeatureSet; 2]> {
    let (tensors, header): (_, Header) = read_tensors(path, KIND).ok()?;
    if header.key != key {
        return None;
    }
    let find = |name: String| tensors.iter().find(|(n, _)| *n == name).map(|(_, t)| t);
    let [train, val] = header.skipped;
    let set = |name: &str, skipped: Vec<SkippedFile>| {
        let features = find(format!("{name}.features"))?;
        let labels = find(format!("{name}.labels"))?;
        let [count, width] = features.shape().to_vec().try_into().ok()?;
        let labels: Vec<Option<u32>> = labels
            .iter::<i64>()
            .map(|l| u32::try_from(l).ok())
            .collect();
        (labels.len() == count).then(|| FeatureSet {
            width,
            values: features.iter::<f32>().collect(),
            labels,
            skipped,
        })
    };
    Some([set("train", train)?, set("val", val)?])
}
