//! A learning-rate range test (Smith, 2017, "Cyclical Learning Rates for Training Neural Networks",
//! section 3.3): the rate rises from step to step, and the losses show where training goes well.

use std::sync::atomic::{AtomicBool, Ordering};

use super::feed::Feed;
use super::{Observer, Trainer};
use crate::TrainError;
use crate::files::write_atomic;
use crate::history::{losses_by_rate_svg, rates_csv};
use crate::step::backward;

/// Steps of the test.
const STEPS: usize = 100;
/// First and last learning rate.
const RANGE: [f64; 2] = [1e-6, 1.0];
/// Share of the running mean of the losses that is kept from step to step.
const SMOOTHING: f64 = 0.9;
/// The test ends when the smoothed loss is this many times its lowest.
const DIVERGED: f64 = 4.0;

/// What a range test found.
#[derive(Debug, Clone, PartialEq)]
pub struct FoundRate {
    /// Learning rate of the classifier and the smoothed loss, step by step.
    pub points: Vec<(f64, f64)>,
    /// The rate at which the loss fell fastest; `None` when it did not fall.
    pub suggestion: Option<f64>,
}

impl Trainer {
    /// Raises the learning rate from step to step, and writes `lr-find.csv` and `lr-find.svg` into
    /// the run's folder; `None` when `stop` was raised. The model is not kept.
    ///
    /// # Errors
    /// As [`Trainer::run`], but divergence only ends the test.
    pub fn find_rate(
        mut self,
        observer: &mut dyn Observer,
        stop: &AtomicBool,
    ) -> Result<Option<FoundRate>, TrainError> {
        // The rate is looked for with all that is to train.
        self.config.train.head_epochs = 0;
        if !self.prepare_features(observer, stop)? {
            return Ok(None);
        }
        // Taken out, so that the batches can be read while the model changes.
        let features = self.features.take();
        let mut points: Vec<(f64, f64)> = Vec::new();
        let (mut mean, mut lowest) = (0.0, f64::INFINITY);
        let parts = self.parts.clone();
        let mult = self.config.train.backbone_lr_mult;
        'test: for epoch in 0.. {
            let mut feed = Feed::of(&self, features.as_ref(), epoch, 0);
            let before = points.len();
            while let Some(fed) = feed.next_batch() {
                let fed = fed?;
                if stop.load(Ordering::Relaxed) {
                    return Ok(None);
                }
                let step = points.len();
                let share = step as f64 / (STEPS - 1) as f64;
                let rate = RANGE[0] * (RANGE[1] / RANGE[0]).powf(share);
                self.device
                    .seed(self.config.train.seed ^ ((step as u64) << 20));
                let input = self.behind_backbone(fed.input)?;
                let (criterion, device) = (&self.criterion, &self.device);
                let done = backward(self.model(), input, &fed.target, criterion, device);
                mean = SMOOTHING * mean + (1.0 - SMOOTHING) * done.loss;
                let smooth = mean / (1.0 - SMOOTHING.powi(step as i32 + 1));
                let Some(gradients) = done.gradients.filter(|_| smooth <= DIVERGED * lowest) else {
                    break 'test;
                };
                points.push((rate, smooth));
                lowest = lowest.min(smooth);
                let head = parts.stages();
                let lr = |name: &str| rate * if parts.part(name) == head { 1.0 } else { mult };
                let max_norm = self.config.train.clip_grad_norm;
                let model = self.model.take().expect("there except during a step");
                let (model, norm) = self.optimizer.step(model, gradients, max_norm, &lr);
                self.model = Some(model);
                if points.len() == STEPS || !norm.is_finite() {
                    break 'test;
                }
            }
            if points.len() == before {
                break;
            }
        }
        let found = FoundRate {
            suggestion: steepest(&points),
            points,
        };
        let csv = rates_csv(&found.points);
        write_atomic(&self.run.file("lr-find.csv"), csv.as_bytes())?;
        let path = self.run.file("lr-find.svg");
        let svg = losses_by_rate_svg(&path, &found.points, found.suggestion)?;
        write_atomic(&path, svg.as_bytes())?;
        Ok(Some(found))
    }
}

/// The rate at which the loss falls fastest by the logarithm of the rate, before it is lowest.
fn steepest(points: &[(f64, f64)]) -> Option<f64> {
    /// Steps over which a slope is taken.
    const REACH: usize = 5;
    let (lowest, _) = points
        .iter()
        .enumerate()
        .min_by(|a, b| a.1.1.total_cmp(&b.1.1))?;
    let slope = |i: usize| points[i + REACH].1 - points[i].1;
    let candidates = 0..(lowest + 1).saturating_sub(REACH);
    let best = candidates.min_by(|&a, &b| slope(a).total_cmp(&slope(b)))?;
    (slope(best) < 0.0).then(|| points[best + REACH / 2].0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_steepest_descent_is_named() {
        let loss = |i: i32| match i {
            0..20 => 2.0,
            20..30 => 2.0 - f64::from(i - 20) * 0.15,
            _ => 0.65 + f64::from(i - 30) * 0.1,
        };
        let points: Vec<_> = (0..40).map(|i| (10f64.powi(i - 40), loss(i))).collect();
        let found = steepest(&points).unwrap();
        assert!((1e-20..1e-9).contains(&found), "{found}");
        assert_eq!(steepest(&[]), None);
        assert_eq!(steepest(&[(1e-3, 1.0); 20]), None);
    }
}
