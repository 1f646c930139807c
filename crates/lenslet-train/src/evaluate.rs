//! A model on labelled pictures.

use std::sync::atomic::{AtomicBool, Ordering};

use burn::tensor::{Device, Tensor, TensorData};
use lenslet_data::Loader;
use lenslet_models::{ImageModel, Model};

use crate::metrics::top_k;
use crate::{Confusion, TrainError};

/// What an evaluation found.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation {
    /// Mean cross entropy.
    pub loss: f64,
    /// Share of pictures whose class was the first guess.
    pub top1: f64,
    /// Share of pictures whose class was among the first five; `None` with five classes or fewer.
    pub top5: Option<f64>,
    /// Pictures by true and predicted class.
    pub confusion: Confusion,
    /// Pictures seen.
    pub samples: usize,
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

/// Runs a model in evaluation mode over everything in `loader`; `None` when `stop` was raised.
///
/// # Errors
/// When a picture cannot be read.
pub fn evaluate(
    model: &Model,
    loader: &Loader,
    device: &Device,
    stop: &AtomicBool,
) -> Result<Option<Evaluation>, TrainError> {
    let classes = loader.dataset().class_names().len();
    let mut confusion = Confusion::new(classes);
    let (mut loss, mut hits5, mut samples) = (0.0, 0usize, 0usize);
    for batch in loader.epoch(0) {
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let batch = batch?;
        let logits = forward(model, batch.images, batch.shape, device);
        for (row, &label) in logits.chunks_exact(classes).zip(&batch.labels) {
            let label = label as usize;
            let best = top_k(row, 5);
            confusion.add(label, best[0]);
            hits5 += usize::from(best.contains(&label));
            loss += row_loss(row, label);
            samples += 1;
        }
    }
    let share = |part: f64| part / samples.max(1) as f64;
    Ok(Some(Evaluation {
        loss: share(loss),
        top1: confusion.accuracy(),
        top5: (classes > 5).then(|| share(hits5 as f64)),
        confusion,
        samples,
    }))
}

/// Cross entropy of one row of logits, in f64.
fn row_loss(row: &[f32], label: usize) -> f64 {
    let largest = row.iter().fold(f32::NEG_INFINITY, |m, &v| m.max(v));
    let sum: f64 = row.iter().map(|&v| f64::from(v - largest).exp()).sum();
    sum.ln() - f64::from(row[label] - largest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loss_of_a_row_is_minus_the_log_probability() {
        let loss = row_loss(&[0.0, 2.0f32.ln()], 1);
        assert!((loss - (1.5f64).ln()).abs() < 1e-7);
    }
}
