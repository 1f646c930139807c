//! A model on labelled pictures.

use std::sync::atomic::{AtomicBool, Ordering};

use burn::tensor::{Device, Tensor, TensorData};
use lenslet_data::Loader;
use lenslet_models::{ImageModel, Model};

use crate::metrics::softmax;
use crate::tally::{Evaluation, SkippedFile, Tally};
use crate::{Runner, TrainError};

/// What is averaged over when a model looks at a picture.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
pub enum TestTime {
    /// The picture as it is.
    #[default]
    None,
    /// The picture and its mirror image: the mean of the probabilities.
    Flip,
}

/// Logits of one batch, flat `[N * classes]`. `images` is `[N, C, H, W]`.
pub(crate) fn forward(
    model: &Model,
    images: Vec<f32>,
    shape: [usize; 4],
    device: &Device,
) -> Vec<f32> {
    let x = Tensor::<4>::from_data(TensorData::new(images, shape), device);
    model.forward(x).into_data().iter::<f32>().collect()
}

/// What `runner` makes of one batch, with the averaging of `test_time`: then the values are
/// logarithms of probabilities, which are logits as well.
pub(crate) fn run_averaged(
    runner: &Runner,
    images: Vec<f32>,
    shape: [usize; 4],
    test_time: TestTime,
) -> Result<Vec<f32>, TrainError> {
    if test_time == TestTime::None {
        return runner.run(images, shape);
    }
    let mut mirrored = images.clone();
    for row in mirrored.chunks_exact_mut(shape[3]) {
        row.reverse();
    }
    let plain = runner.run(images, shape)?;
    let mirrored = runner.run(mirrored, shape)?;
    let classes = plain.len() / shape[0].max(1);
    let rows = plain
        .chunks_exact(classes)
        .zip(mirrored.chunks_exact(classes));
    let averaged = rows.flat_map(|(a, b)| {
        let (a, b) = (softmax(a), softmax(b));
        let mean = |(a, b): (f64, f64)| ((a + b) / 2.0).max(f64::MIN_POSITIVE).ln() as f32;
        a.into_iter().zip(b).map(mean).collect::<Vec<f32>>()
    });
    Ok(averaged.collect())
}

/// Runs a model over everything in `loader`; `None` when `stop` was raised. `progress` is told the
/// number of pictures done.
///
/// # Errors
/// When a picture cannot be read and the loader does not skip such.
pub fn evaluate(
    runner: &Runner,
    loader: &Loader,
    test_time: TestTime,
    progress: &mut dyn FnMut(usize),
    stop: &AtomicBool,
) -> Result<Option<Evaluation>, TrainError> {
    let mut tally = Tally::new(loader.dataset().class_names().len());
    let mut epoch = loader.epoch(0);
    for batch in epoch.by_ref() {
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let batch = batch?;
        let logits = run_averaged(runner, batch.images, batch.shape, test_time)?;
        tally.add(&logits, &batch.labels, &batch.indices);
        progress(tally.samples());
    }
    let skipped = epoch.skipped().iter().map(SkippedFile::of).collect();
    Ok(Some(tally.finish(skipped)))
}
