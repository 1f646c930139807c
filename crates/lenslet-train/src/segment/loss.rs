//! Losses of a class for every pixel, with their gradients.

use lenslet_data::masks::IGNORE;
use serde::{Deserialize, Serialize};

/// What is made small.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
#[serde(rename_all = "kebab-case")]
pub enum PixelLoss {
    /// The mean cross entropy of the pixels
    CrossEntropy,
    /// One minus the mean Dice coefficient of the classes
    Dice,
    /// Their sum
    #[default]
    Both,
}

/// Keeps the Dice coefficient of a class without pixels from being 0 by 0.
const SMOOTH: f64 = 1.0;

/// A loss and what came out beside it.
#[derive(Debug, Clone, PartialEq)]
pub struct PixelLossValue {
    /// The loss.
    pub loss: f64,
    /// Its gradient by every logit.
    pub gradient: Vec<f32>,
    /// Pixels of a class.
    pub pixels: usize,
    /// Those whose highest logit is their class's.
    pub right: usize,
}

/// The loss of `logits`, rows `[pixels, classes]`, against a class a pixel; pixels of class 255 have no
/// part in it. `weights` is a weight for each class in the cross entropy, whose mean is weighted, as
/// `torch.nn.CrossEntropyLoss` has it. The Dice coefficient is of the probabilities and taken over all
/// pixels, class by class (F. Milletari, N. Navab, S.-A. Ahmadi, *V-Net*, 3DV 2016, section 3), and
/// its mean over the classes that occur.
pub fn pixel_loss(
    kind: PixelLoss,
    logits: &[f32],
    labels: &[u8],
    classes: usize,
    weights: Option<&[f32]>,
) -> PixelLossValue {
    let mut result = PixelLossValue {
        loss: 0.0,
        gradient: vec![0.0; logits.len()],
        pixels: 0,
        right: 0,
    };
    let weight = |label: u8| weights.map_or(1.0, |w| w[usize::from(label)]);
    // Probabilities first; they become gradients in place.
    let (mut entropy, mut norm) = (0.0f64, 0.0f64);
    let rows = logits
        .chunks_exact(classes)
        .zip(result.gradient.chunks_exact_mut(classes));
    for ((row, p), &label) in rows.zip(labels).filter(|(_, label)| **label != IGNORE) {
        let best = softmax_into(row, p);
        let truth = usize::from(label);
        result.pixels += 1;
        result.right += usize::from(best == truth);
        let w = f64::from(weight(label));
        // From the logits, since a small probability is 0.
        let largest = row[best];
        let sum: f32 = row.iter().map(|v| (v - largest).exp()).sum();
        entropy += w * f64::from(sum.ln() - (row[truth] - largest));
        norm += w;
    }
    let dice =
        (kind != PixelLoss::CrossEntropy).then(|| Dice::of(&result.gradient, labels, classes));
    let entropy_counts = kind != PixelLoss::Dice && norm > 0.0;
    if entropy_counts {
        result.loss += entropy / norm;
    }
    if let Some(dice) = &dice {
        result.loss += dice.loss;
    }
    let rows = result.gradient.chunks_exact_mut(classes).zip(labels);
    let mut by_probability = vec![0.0f32; classes];
    for (row, &label) in rows.filter(|(_, label)| **label != IGNORE) {
        let truth = usize::from(label);
        let share = if entropy_counts {
            (f64::from(weight(label)) / norm) as f32
        } else {
            0.0
        };
        let mut mean = 0.0;
        if let Some(dice) = &dice {
            for (class, (g, p)) in by_probability.iter_mut().zip(row.iter()).enumerate() {
                *g = dice.slopes[class][usize::from(class == truth)];
                mean += *g * p;
            }
        }
        for (class, (p, g)) in row.iter_mut().zip(&by_probability).enumerate() {
            let one = f32::from(u8::from(class == truth));
            *p = share * (*p - one) + *p * (g - mean);
        }
    }
    result
}

/// Probabilities of a row of logits, and the likeliest class.
fn softmax_into(row: &[f32], p: &mut [f32]) -> usize {
    let mut best = 0;
    for (class, v) in row.iter().enumerate() {
        if *v > row[best] {
            best = class;
        }
    }
    let largest = row[best];
    let mut sum = 0.0;
    for (to, v) in p.iter_mut().zip(row) {
        *to = (v - largest).exp();
        sum += *to;
    }
    p.iter_mut().for_each(|v| *v /= sum);
    best
}

/// The Dice loss and its derivatives by a probability.
struct Dice {
    loss: f64,
    /// By class: where the pixel is not of the class, and where it is.
    slopes: Vec<[f32; 2]>,
}

impl Dice {
    fn of(probabilities: &[f32], labels: &[u8], classes: usize) -> Self {
        let mut shared = vec![0.0f64; classes];
        let mut mass = vec![0.0f64; classes];
        let mut there = vec![false; classes];
        let rows = probabilities.chunks_exact(classes).zip(labels);
        for (row, &label) in rows.filter(|(_, label)| **label != IGNORE) {
            let truth = usize::from(label);
            for (sum, p) in mass.iter_mut().zip(row) {
                *sum += f64::from(*p);
            }
            shared[truth] += f64::from(row[truth]);
            mass[truth] += 1.0;
            there[truth] = true;
        }
        let count = there.iter().filter(|t| **t).count().max(1) as f64;
        let mut loss = 0.0;
        let slopes = (0..classes)
            .map(|class| {
                if !there[class] {
                    return [0.0; 2];
                }
                let (top, bottom) = (2.0 * shared[class] + SMOOTH, mass[class] + SMOOTH);
                loss += (1.0 - top / bottom) / count;
                let outside = top / (bottom * bottom) / count;
                [outside as f32, (outside - 2.0 / bottom / count) as f32]
            })
            .collect();
        Self { loss, slopes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, Tensor, TensorData};

    const LOGITS: [f32; 12] = [
        0.2, -1.0, 0.7, 1.5, 0.3, -0.2, -0.4, 0.9, 0.1, 2.0, -2.0, 0.5,
    ];
    const LABELS: [u8; 4] = [2, 0, IGNORE, 0];

    fn loss(kind: PixelLoss, logits: &[f32], weights: Option<&[f32]>) -> PixelLossValue {
        pixel_loss(kind, logits, &LABELS, 3, weights)
    }

    /// The gradients are the slopes of the losses, by central differences.
    #[test]
    fn gradients_are_slopes() {
        let weights = [0.5, 2.0, 1.5];
        for kind in [PixelLoss::CrossEntropy, PixelLoss::Dice, PixelLoss::Both] {
            for weights in [None, Some(&weights[..])] {
                let found = loss(kind, &LOGITS, weights);
                assert_eq!((found.pixels, found.right), (3, 3));
                for i in 0..LOGITS.len() {
                    let at = |step: f32| {
                        let mut moved = LOGITS;
                        moved[i] += step;
                        loss(kind, &moved, weights).loss
                    };
                    let slope = (at(1e-2) - at(-1e-2)) / 2e-2;
                    let got = f64::from(found.gradient[i]);
                    assert!(
                        (got - slope).abs() < 1e-4,
                        "{kind:?} {i}: {got} is not {slope}"
                    );
                }
            }
        }
    }

    /// The cross entropy is that of classification on the pixels of a class.
    #[test]
    fn cross_entropy_is_the_classifiers() {
        let kept: Vec<f32> = [&LOGITS[..6], &LOGITS[9..]].concat();
        let logits = Tensor::<2>::from_data(TensorData::new(kept, [3, 3]), &Device::flex());
        for weights in [None, Some(vec![0.5, 2.0, 1.5])] {
            let criterion = crate::Criterion {
                class_weights: weights.clone(),
                ..crate::Criterion::default()
            };
            let target = crate::Target::Classes(vec![2, 0, 0]);
            let want: f32 = criterion.loss(logits.clone(), &target).into_scalar();
            let got = loss(PixelLoss::CrossEntropy, &LOGITS, weights.as_deref()).loss;
            assert!((got - f64::from(want)).abs() < 1e-6, "{got} is not {want}");
        }
    }

    #[test]
    fn a_sure_and_right_map_costs_nothing() {
        let logits = [40.0, 0.0, 0.0, 40.0];
        let found = pixel_loss(PixelLoss::Both, &logits, &[0, 1], 2, None);
        assert!(found.loss < 1e-6, "{found:?}");
        let none = pixel_loss(PixelLoss::Both, &logits, &[IGNORE; 2], 2, None);
        assert_eq!((none.loss, none.gradient), (0.0, vec![0.0; 4]));
    }
}
