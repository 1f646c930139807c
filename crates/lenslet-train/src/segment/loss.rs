//! Losses of a class for every pixel, with their gradients.

use lenslet_data::masks::IGNORE;
use lenslet_kernels::InOut;
use lenslet_kernels::pool::parallel_chunks_mut;
use lenslet_kernels::softmax;
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
/// Pixels that are worked on at a time.
const CHUNK: usize = 4096;
/// Probabilities from which on a logarithm is taken of them.
const SMALL: f32 = 1e-30;

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
    let weight = |label: u8| weights.map_or(1.0, |w| f64::from(w[usize::from(label)]));
    // Probabilities first; they become gradients in place.
    let mut gradient = vec![0.0; logits.len()];
    softmax(classes, InOut::Separate(logits, &mut gradient)).expect("whole rows");
    let mut parts = vec![Sums::new(classes); labels.len().div_ceil(CHUNK)];
    parallel_chunks_mut(&mut parts, 1, |i, part| {
        let rows = i * CHUNK..labels.len().min((i + 1) * CHUNK);
        let values = rows.start * classes..rows.end * classes;
        part[0].take_in(
            &logits[values.clone()],
            &gradient[values],
            &labels[rows],
            &weight,
        );
    });
    // In a fixed order, so that the threads' number is without effect.
    let mut sums = Sums::new(classes);
    parts.iter().for_each(|part| sums.add(part));
    let mut loss = 0.0;
    let entropy_counts = kind != PixelLoss::Dice && sums.norm > 0.0;
    if entropy_counts {
        loss += sums.entropy / sums.norm;
    }
    let slopes = (kind != PixelLoss::CrossEntropy).then(|| {
        let (dice, slopes) = sums.dice();
        loss += dice;
        slopes
    });
    let share = |label: u8| match entropy_counts {
        true => (weight(label) / sums.norm) as f32,
        false => 0.0,
    };
    parallel_chunks_mut(&mut gradient, CHUNK * classes, |i, chunk| {
        let mut by_probability = vec![0.0f32; classes];
        for (row, &label) in chunk.chunks_exact_mut(classes).zip(&labels[i * CHUNK..]) {
            if label == IGNORE {
                row.fill(0.0);
                continue;
            }
            let truth = usize::from(label);
            let share = share(label);
            let mut mean = 0.0;
            if let Some([outside, inside]) = &slopes {
                by_probability.copy_from_slice(outside);
                by_probability[truth] = inside[truth];
                mean = row.iter().zip(&by_probability).map(|(p, g)| p * g).sum();
            }
            for (p, g) in row.iter_mut().zip(&by_probability) {
                *p *= share + g - mean;
            }
            row[truth] -= share;
        }
    });
    PixelLossValue {
        loss,
        gradient,
        pixels: sums.pixels,
        right: sums.right,
    }
}

/// What the losses are made of, over some pixels.
#[derive(Clone)]
struct Sums {
    /// Weighted cross entropy, and the sum of the weights.
    entropy: f64,
    norm: f64,
    pixels: usize,
    right: usize,
    /// By class: the probability of the class on its own pixels.
    shared: Vec<f64>,
    /// By class: its probability on all pixels.
    mass: Vec<f64>,
    /// By class: its pixels.
    there: Vec<usize>,
}

impl Sums {
    fn new(classes: usize) -> Self {
        Self {
            entropy: 0.0,
            norm: 0.0,
            pixels: 0,
            right: 0,
            shared: vec![0.0; classes],
            mass: vec![0.0; classes],
            there: vec![0; classes],
        }
    }

    fn take_in(
        &mut self,
        logits: &[f32],
        probabilities: &[f32],
        labels: &[u8],
        weight: &impl Fn(u8) -> f64,
    ) {
        let classes = self.mass.len();
        let rows = probabilities
            .chunks_exact(classes)
            .zip(logits.chunks_exact(classes));
        for ((p, logits), &label) in rows.zip(labels).filter(|(_, label)| **label != IGNORE) {
            let truth = usize::from(label);
            let own = p[truth];
            // The first of the largest.
            let best =
                !p[..truth].iter().any(|v| *v >= own) && !p[truth + 1..].iter().any(|v| *v > own);
            self.pixels += 1;
            self.right += usize::from(best);
            let surprise = if own > SMALL {
                -f64::from(own).ln()
            } else {
                surprise(logits, truth)
            };
            let w = weight(label);
            self.entropy += w * surprise;
            self.norm += w;
            self.shared[truth] += f64::from(own);
            self.there[truth] += 1;
            for (sum, p) in self.mass.iter_mut().zip(p) {
                *sum += f64::from(*p);
            }
        }
    }

    fn add(&mut self, other: &Self) {
        self.entropy += other.entropy;
        self.norm += other.norm;
        self.pixels += other.pixels;
        self.right += other.right;
        for class in 0..self.mass.len() {
            self.shared[class] += other.shared[class];
            self.mass[class] += other.mass[class];
            self.there[class] += other.there[class];
        }
    }

    /// The Dice loss, and its derivatives by a probability: by class, where the pixel is not of the
    /// class, and where it is.
    fn dice(&self) -> (f64, [Vec<f32>; 2]) {
        let classes = self.mass.len();
        let count = self.there.iter().filter(|n| **n > 0).count().max(1) as f64;
        let mut loss = 0.0;
        let mut slopes = [vec![0.0; classes], vec![0.0; classes]];
        for class in (0..classes).filter(|&class| self.there[class] > 0) {
            let top = 2.0 * self.shared[class] + SMOOTH;
            let bottom = self.mass[class] + self.there[class] as f64 + SMOOTH;
            loss += (1.0 - top / bottom) / count;
            let outside = top / (bottom * bottom) / count;
            slopes[0][class] = outside as f32;
            slopes[1][class] = (outside - 2.0 / bottom / count) as f32;
        }
        (loss, slopes)
    }
}

/// Minus the logarithm of the softmax of `truth`, from the logits: a small probability is 0.
fn surprise(logits: &[f32], truth: usize) -> f64 {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f32 = logits.iter().map(|v| (v - largest).exp()).sum();
    f64::from(sum.ln() - (logits[truth] - largest))
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
