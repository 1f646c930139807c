//! How good detections are.

use std::sync::atomic::{AtomicBool, Ordering};

use lenslet_boxes::{AveragePrecision, Found, Truth, average_precision};
use lenslet_data::Loader;
use lenslet_data::boxes::BoxSamples;

use super::predict::{Detector, Thresholds};
use crate::{SkippedFile, TrainError};

/// What an evaluation of boxes found.
#[derive(Debug, Clone, PartialEq)]
pub struct DetectEvaluation {
    /// Mean loss of the batches.
    pub loss: f64,
    /// By class and overlap.
    pub precision: AveragePrecision,
    /// Pictures seen.
    pub samples: usize,
    /// Pictures that could not be read.
    pub skipped: Vec<SkippedFile>,
}

/// Runs a detector over everything in `loader`, which must not change pictures at random; `None` when
/// `stop` was raised.
///
/// # Errors
/// When too many pictures cannot be read, or the model is no detector.
pub fn evaluate_boxes(
    detector: &Detector<'_>,
    loader: &Loader<BoxSamples>,
    progress: &mut dyn FnMut(usize),
    stop: &AtomicBool,
) -> Result<Option<DetectEvaluation>, TrainError> {
    let (mut truths, mut found) = (Vec::new(), Vec::new());
    let mut samples = 0;
    let mut loss = 0.0;
    let mut epoch = loader.epoch(0);
    for batch in epoch.by_ref() {
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let batch = batch?;
        let raw = detector.raw(batch.images, batch.shape)?;
        let boxes: Vec<_> = batch.labels.iter().map(|t| t.boxes.clone()).collect();
        loss += raw.loss(detector.spec(), &boxes).loss * boxes.len() as f64;
        let detections = detector.thinned(&raw, &Thresholds::MEASURED);
        for (target, detections) in batch.labels.iter().zip(detections) {
            let [width, height] = target.picture;
            let [frame_height, frame_width] = detector.spec().input;
            let letterbox =
                lenslet_boxes::Letterbox::new([width, height], [frame_width, frame_height]);
            truths.extend(target.whole.iter().map(|label| Truth {
                image: samples,
                class: label.class as usize,
                rect: label.rect,
                crowd: label.crowd,
            }));
            found.extend(detections.into_iter().map(|one| Found {
                image: samples,
                class: one.class,
                rect: letterbox.into_picture(&one.rect),
                score: one.score,
            }));
            samples += 1;
        }
        progress(samples);
    }
    let classes = loader.samples().set().classes().len();
    Ok(Some(DetectEvaluation {
        loss: loss / samples.max(1) as f64,
        precision: average_precision(classes, &truths, &found),
        samples,
        skipped: epoch.skipped().iter().map(SkippedFile::of).collect(),
    }))
}
