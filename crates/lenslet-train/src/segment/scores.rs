//! How good masks are.

use std::sync::atomic::{AtomicBool, Ordering};

use lenslet_data::masks::{IGNORE, MaskSet};
use serde::Serialize;

use super::predict::{Segmenter, likeliest};
use crate::{Confusion, SkippedFile, TrainError};

/// Quality of one class's pixels; `None` where the class is neither there nor predicted.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PixelScores {
    /// Shared area over joint area.
    pub iou: Option<f64>,
    /// Twice the shared area over the sum of the areas.
    pub dice: Option<f64>,
    /// Pixels of the class.
    pub support: u64,
}

/// What an evaluation of masks found.
#[derive(Debug, Clone, PartialEq)]
pub struct SegmentEvaluation {
    /// Mean cross entropy of the pixels.
    pub loss: f64,
    /// Pixels by true and predicted class.
    pub confusion: Confusion,
    /// Pictures seen.
    pub samples: usize,
    /// Pictures with the lowest share of right pixels, the worst first: index and share.
    pub worst: Vec<(usize, f64)>,
    /// Pictures that could not be read.
    pub skipped: Vec<SkippedFile>,
}

/// Pictures that are remembered.
const KEPT: usize = 12;

impl SegmentEvaluation {
    /// Quality class by class.
    pub fn scores(&self) -> Vec<PixelScores> {
        let rows = self.confusion.rows();
        (0..rows.len())
            .map(|class| {
                let hits = rows[class][class];
                let support: u64 = rows[class].iter().sum();
                let predicted: u64 = rows.iter().map(|row| row[class]).sum();
                let sum = support + predicted;
                let share = |part: u64, whole: u64| (whole > 0).then(|| part as f64 / whole as f64);
                PixelScores {
                    iou: share(hits, sum - hits),
                    dice: share(2 * hits, sum),
                    support,
                }
            })
            .collect()
    }

    /// The mean of the classes' IoU, over those that are there or predicted.
    pub fn mean_iou(&self) -> f64 {
        mean(self.scores().iter().filter_map(|s| s.iou))
    }

    /// The mean of the classes' Dice coefficient, over those that are there or predicted.
    pub fn mean_dice(&self) -> f64 {
        mean(self.scores().iter().filter_map(|s| s.dice))
    }

    /// Share of pixels whose class was found.
    pub fn pixel_accuracy(&self) -> f64 {
        self.confusion.accuracy()
    }
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values.fold((0.0, 0), |(sum, n), v| (sum + v, n + 1));
    sum / f64::from(count.max(1))
}

/// Runs a model over whole pictures, tile by tile; `None` when `stop` was raised. Pictures or masks
/// that cannot be read are left out and listed.
///
/// # Errors
/// When the model gives no maps.
pub fn evaluate_masks(
    segmenter: &Segmenter<'_>,
    set: &MaskSet,
    progress: &mut dyn FnMut(usize),
    stop: &AtomicBool,
) -> Result<Option<SegmentEvaluation>, TrainError> {
    let classes = set.classes().len();
    let mut found = SegmentEvaluation {
        loss: 0.0,
        confusion: Confusion::new(classes),
        samples: 0,
        worst: Vec::new(),
        skipped: Vec::new(),
    };
    let (mut entropy, mut pixels) = (0.0f64, 0u64);
    for index in 0..set.files().len() {
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let sample = match set.get(index) {
            Ok(sample) => sample,
            Err(error) => {
                found.skipped.push(SkippedFile {
                    id: set.files()[index].name.clone(),
                    reason: error.to_string(),
                });
                continue;
            }
        };
        let width = sample.image.width();
        let (mut right, mut counted) = (0u64, 0u64);
        segmenter.rows(&sample.image, &mut |y, row| {
            let labels = &sample.mask[y * width..][..width];
            for (pixel, &label) in row.chunks_exact(classes).zip(labels) {
                if label == IGNORE {
                    continue;
                }
                let predicted = likeliest(pixel);
                found.confusion.add(label.into(), predicted.into());
                entropy -= f64::from(pixel[usize::from(label)].max(f32::MIN_POSITIVE)).ln();
                right += u64::from(predicted == label);
                counted += 1;
            }
        })?;
        pixels += counted;
        let share = right as f64 / counted.max(1) as f64;
        let place = found.worst.partition_point(|(_, other)| *other <= share);
        found.worst.insert(place, (index, share));
        found.worst.truncate(KEPT);
        found.samples += 1;
        progress(index + 1);
    }
    found.loss = entropy / pixels.max(1) as f64;
    Ok(Some(found))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `sklearn.metrics.confusion_matrix([0,0,0,1,1,2], [0,0,1,1,2,2])` and what follows from it.
    #[test]
    fn scores_by_hand() {
        let mut confusion = Confusion::new(4);
        for (truth, predicted) in [(0, 0), (0, 0), (0, 1), (1, 1), (1, 2), (2, 2)] {
            confusion.add(truth, predicted);
        }
        let found = SegmentEvaluation {
            loss: 0.0,
            confusion,
            samples: 1,
            worst: Vec::new(),
            skipped: Vec::new(),
        };
        let iou: Vec<_> = found.scores().iter().map(|s| s.iou).collect();
        assert_eq!(iou, [Some(2.0 / 3.0), Some(1.0 / 3.0), Some(0.5), None]);
        assert_eq!(found.scores()[0].dice, Some(0.8));
        assert!((found.mean_iou() - 0.5).abs() < 1e-12);
        assert!((found.pixel_accuracy() - 4.0 / 6.0).abs() < 1e-12);
    }
}
