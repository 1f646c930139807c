//! Cross entropy.

use burn::tensor::activation::log_softmax;
use std::sync::Arc;

use burn::tensor::{Tensor, TensorData};
use lenslet_data::boxes::BoxLabel;
use lenslet_nn::cross_entropy;

use crate::detect::AnchorSpec;
use crate::segment::PixelLoss;

/// What a batch is to be recognised as.
#[derive(Debug, Clone, PartialEq)]
pub enum Target {
    /// The classes, `[N]`.
    Classes(Vec<u32>),
    /// Shares of all classes, row by row `[N * classes]`, each row adding up to 1; a smoothing of
    /// labels is in them.
    Shares(Vec<f32>),
    /// The class of every pixel, image after image, and what they are learnt by.
    Masks(Vec<u8>, PixelLoss),
    /// The boxes in each image, in pixels of the input, and what the detector's numbers mean.
    Boxes(Vec<Vec<BoxLabel>>, Arc<AnchorSpec>),
}

impl Target {
    /// Whether it is one class an image, or shares of classes.
    pub fn is_classes(&self) -> bool {
        matches!(self, Self::Classes(_) | Self::Shares(_))
    }
}

/// `torch.nn.CrossEntropyLoss`: the mean over a batch.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Criterion {
    /// A share of the target that is spread over all classes.
    pub label_smoothing: f64,
    /// A weight for each class.
    pub class_weights: Option<Vec<f32>>,
}

impl Criterion {
    /// The mean cross entropy of `logits` `[N, classes]`. With weights the mean over classes is
    /// weighted, that over shares is not, as in PyTorch.
    pub fn loss(&self, logits: Tensor<2>, target: &Target) -> Tensor<1> {
        let [n, classes] = logits.dims();
        match (target, &self.class_weights) {
            (Target::Classes(labels), None) => cross_entropy(logits, labels, self.label_smoothing),
            (Target::Classes(labels), Some(weights)) => {
                let even = (self.label_smoothing / classes as f64) as f32;
                let sharp = (1.0 - self.label_smoothing) as f32;
                let weight = |label: u32| weights.get(label as usize).copied().unwrap_or(1.0);
                let mut shares = Vec::with_capacity(n * classes);
                for &label in labels {
                    shares.extend(weights.iter().map(|w| w * even));
                    let at = shares.len() - classes + label as usize;
                    shares[at] += weight(label) * sharp;
                }
                let norm: f32 = labels.iter().map(|&label| weight(label)).sum();
                weighted(logits, shares, norm)
            }
            (Target::Shares(shares), weights) => {
                let mut shares = shares.clone();
                if let Some(weights) = weights {
                    for row in shares.chunks_exact_mut(classes) {
                        row.iter_mut().zip(weights).for_each(|(s, w)| *s *= w);
                    }
                }
                weighted(logits, shares, n as f32)
            }
            (Target::Masks(..) | Target::Boxes(..), _) => {
                unreachable!("the loss of masks and boxes is not of one vector an image")
            }
        }
    }
}

/// `-sum(shares * log_softmax(logits)) / norm`.
fn weighted(logits: Tensor<2>, shares: Vec<f32>, norm: f32) -> Tensor<1> {
    let data = TensorData::new(shares, logits.dims());
    let shares = Tensor::<2>::from_data(data, &logits.device());
    (log_softmax(logits, 1) * shares).sum() / -norm
}

/// Weights that give every class the same say: samples / (classes x samples of the class), as
/// scikit-learn's "balanced".
pub fn balanced_weights(counts: &[usize]) -> Vec<f32> {
    let total: usize = counts.iter().sum();
    let share = |&count: &usize| total as f32 / (counts.len() * count.max(1)) as f32;
    counts.iter().map(share).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    fn logits() -> Tensor<2> {
        Tensor::from_floats([[0.2, -1.0, 0.7], [1.5, 0.3, -0.2]], &Device::flex())
    }

    fn value(criterion: Criterion, target: Target) -> f32 {
        criterion.loss(logits(), &target).into_scalar()
    }

    /// `torch.nn.functional.cross_entropy` of the same logits (2.15.0).
    #[test]
    fn losses_are_pytorchs() {
        let plain = Criterion::default();
        let weighted = Criterion {
            label_smoothing: 0.1,
            class_weights: Some(vec![0.5, 2.0, 1.0]),
        };
        let classes = || Target::Classes(vec![2, 0]);
        let shares = || Target::Shares(vec![0.25, 0.0, 0.75, 0.5, 0.5, 0.0]);
        for (got, want) in [
            (value(plain.clone(), classes()), EXPECTED[0]),
            (value(plain, shares()), EXPECTED[1]),
            (value(weighted.clone(), classes()), EXPECTED[2]),
            (
                value(
                    Criterion {
                        label_smoothing: 0.0,
                        ..weighted
                    },
                    shares(),
                ),
                EXPECTED[3],
            ),
        ] {
            assert!((got - want).abs() < 1e-6, "{got} is not {want}");
        }
    }

    const EXPECTED: [f32; 4] = [0.488_217_6, 0.850_717_6, 0.715_630_65, 1.132_439];

    #[test]
    fn balanced_weights_even_out() {
        assert_eq!(balanced_weights(&[10, 30]), [2.0, 40.0 / 60.0]);
    }
}
