//! Learning-rate schedules over epochs.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

/// How the learning rate runs over the epochs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    /// Half a cosine down to zero (`CosineAnnealingLR` with `T_max` the epochs).
    Cosine,
    /// The same rate throughout.
    Constant,
    /// A tenth after every third of the epochs (`StepLR`).
    Step,
}

impl Schedule {
    /// What the learning rate is multiplied by in `epoch` (from 0) of `epochs`, the first
    /// `warmup` of which rise in equal steps to 1.
    pub fn factor(self, epoch: usize, epochs: usize, warmup: usize) -> f64 {
        if epoch < warmup {
            return (epoch + 1) as f64 / (warmup + 1) as f64;
        }
        let (at, length) = (epoch - warmup, epochs.saturating_sub(warmup).max(1));
        match self {
            Schedule::Cosine => (1.0 + (PI * at as f64 / length as f64).cos()) / 2.0,
            Schedule::Constant => 1.0,
            Schedule::Step => 0.1f64.powi((at / length.div_ceil(3)) as i32),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cosine_is_torch_closed_form() {
        let factors: Vec<f64> = (0..3).map(|e| Schedule::Cosine.factor(e, 3, 0)).collect();
        for (got, want) in factors.iter().zip([1.0, 0.75, 0.25]) {
            assert!((got - want).abs() < 1e-12, "{got} is not {want}");
        }
    }

    #[test]
    fn warmup_rises_and_then_hands_over() {
        let factor = |epoch| Schedule::Constant.factor(epoch, 10, 3);
        assert_eq!([0, 1, 2, 3].map(factor), [0.25, 0.5, 0.75, 1.0]);
        assert_eq!(Schedule::Cosine.factor(3, 10, 3), 1.0);
    }

    #[test]
    fn step_divides_by_ten_twice() {
        let factor = |epoch| Schedule::Step.factor(epoch, 9, 0);
        assert_eq!([0, 2, 3, 6].map(factor), [1.0, 1.0, 0.1, 0.1f64.powi(2)]);
    }
}
