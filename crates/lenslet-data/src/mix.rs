//! Mixup and cutmix: each picture of a batch is blended with another, and so are their targets.

use crate::rng::Purpose;
use crate::transform::setting;
use crate::{Batch, DataError, Rng};
use serde::{Deserialize, Serialize};

/// Which mixing is done. With both, each batch gets one or the other, by the toss of a coin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Mix {
    /// Mixup (Zhang et al. 2017): pictures are averaged with weights from Beta(alpha, alpha). 0 is none; 0.2 is usual.
    pub mixup_alpha: f32,
    /// Cutmix (Yun et al. 2019): a rectangle comes from the other picture; its share is from Beta(alpha, alpha). 0 is
    /// none; 1 is usual.
    pub cutmix_alpha: f32,
}

/// What was mixed with what: picture `i` of the batch keeps the share `lambda`, the rest is from `partner[i]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Mixed {
    /// The share of the picture itself, 0 to 1.
    pub lambda: f32,
    /// The labels of the others, `[N]`.
    pub partner_labels: Vec<u32>,
}

impl Mixed {
    /// The targets, `[N, classes]`: `lambda` for the label and the rest for the partner's, with `smoothing` spread over
    /// all classes. Labels that are no class count for nothing.
    pub fn targets(&self, labels: &[u32], classes: usize, smoothing: f32) -> Vec<f32> {
        let mut targets = vec![smoothing / classes.max(1) as f32; labels.len() * classes];
        let sharp = 1.0 - smoothing;
        for (row, (&own, &other)) in targets
            .chunks_exact_mut(classes.max(1))
            .zip(labels.iter().zip(&self.partner_labels))
        {
            for (label, share) in [(own, self.lambda), (other, 1.0 - self.lambda)] {
                if let Some(t) = row.get_mut(label as usize) {
                    *t += sharp * share;
                }
            }
        }
        targets
    }
}

impl Mix {
    /// Checks that the settings make sense.
    ///
    /// # Errors
    /// [`DataError::Setting`] naming the field.
    pub fn validate(&self) -> Result<(), DataError> {
        for (name, alpha) in [
            ("mixup_alpha", self.mixup_alpha),
            ("cutmix_alpha", self.cutmix_alpha),
        ] {
            if !(0.0..=1e3).contains(&alpha) {
                return Err(setting(name, alpha, "it must be from 0 (none) to 1000"));
            }
        }
        Ok(())
    }

    /// Mixes `batch` with itself shifted by one. The draws depend on `seed`, `epoch` and the batch's number. Without an
    /// alpha above 0 nothing changes and `lambda` is 1.
    pub fn apply(&self, batch: &mut Batch, seed: u64, epoch: u64) -> Mixed {
        let mut rng = Rng::keyed(seed, Purpose::Mix, epoch, batch.number as u64);
        let n = batch.labels.len();
        let mut partner_labels = batch.labels.clone();
        partner_labels.rotate_right(1.min(n));
        let cut = match (self.mixup_alpha > 0.0, self.cutmix_alpha > 0.0) {
            (true, true) => rng.chance(0.5),
            (mixup, cutmix) if !mixup && !cutmix => {
                return Mixed {
                    lambda: 1.0,
                    partner_labels,
                };
            }
            (_, cutmix) => cutmix,
        };
        let [_, _, h, w] = batch.shape;
        let lambda = if cut {
            let share = rng.beta(self.cutmix_alpha.into());
            let rectangle = rectangle(share, w, h, &mut rng);
            blend_with_previous(batch, |own, other| {
                for (own, other) in own.chunks_exact_mut(h * w).zip(other.chunks_exact(h * w)) {
                    for y in rectangle[1]..rectangle[3] {
                        let line = y * w + rectangle[0]..y * w + rectangle[2];
                        own[line.clone()].copy_from_slice(&other[line]);
                    }
                }
            });
            let area = (rectangle[2] - rectangle[0]) * (rectangle[3] - rectangle[1]);
            1.0 - area as f32 / (h * w).max(1) as f32
        } else {
            let lambda = rng.beta(self.mixup_alpha.into()) as f32;
            blend_with_previous(batch, |own, other| {
                for (own, other) in own.iter_mut().zip(other) {
                    *own = lambda * *own + (1.0 - lambda) * other;
                }
            });
            lambda
        };
        Mixed {
            lambda,
            partner_labels,
        }
    }
}

/// Left, top, right, bottom of the part that comes from the other picture: about `1 - share` of the area around a random
/// centre, cut at the edges.
fn rectangle(share: f64, w: usize, h: usize, rng: &mut Rng) -> [usize; 4] {
    let half = 0.5 * (1.0 - share).max(0.0).sqrt();
    let mut side = |n: usize| {
        let (centre, reach) = (rng.below(n as u64) as usize, (half * n as f64) as usize);
        (centre.saturating_sub(reach), (centre + reach).min(n))
    };
    let ((left, right), (top, bottom)) = (side(w), side(h));
    [left, top, right, bottom]
}

/// Calls `blend` with each picture and the one before it (the last, for the first), all as they were.
fn blend_with_previous(batch: &mut Batch, blend: impl Fn(&mut [f32], &[f32])) {
    let len = batch.shape[1..].iter().product::<usize>();
    let n = batch.shape[0];
    if n < 2 || len == 0 {
        return;
    }
    let last = batch.images[(n - 1) * len..].to_vec();
    for i in (1..n).rev() {
        let (before, own) = batch.images.split_at_mut(i * len);
        blend(&mut own[..len], &before[(i - 1) * len..]);
    }
    blend(&mut batch.images[..len], &last);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Four pictures of 2 x 8 x 6, each of one value.
    fn batch(number: usize) -> Batch {
        let images = (0..4).flat_map(|i| vec![i as f32 * 10.0; 96]).collect();
        Batch {
            number,
            shape: [4, 2, 8, 6],
            images,
            labels: vec![0, 1, 2, 0],
            indices: vec![0, 1, 2, 3],
        }
    }

    #[test]
    fn mixup_averages() {
        let mix = Mix {
            mixup_alpha: 0.4,
            cutmix_alpha: 0.0,
        };
        let mut one = batch(5);
        let mixed = mix.apply(&mut one, 1, 2);
        let l = mixed.lambda;
        assert!((0.0..=1.0).contains(&l));
        for (i, previous) in [(0usize, 3usize), (1, 0), (2, 1), (3, 2)] {
            let expected = l * i as f32 * 10.0 + (1.0 - l) * previous as f32 * 10.0;
            assert!(
                one.images[i * 96..(i + 1) * 96]
                    .iter()
                    .all(|v| (v - expected).abs() < 1e-5)
            );
        }
        assert_eq!(mixed.partner_labels, [0, 0, 1, 2]);
        let (mut again, mut other) = (batch(5), batch(6));
        assert_eq!(mix.apply(&mut again, 1, 2), mixed);
        assert_ne!(mix.apply(&mut other, 1, 2).lambda, l);
    }

    #[test]
    fn cutmix_moves_the_share_it_states() {
        let mix = Mix {
            mixup_alpha: 0.0,
            cutmix_alpha: 1.0,
        };
        for number in 0..50 {
            let mut one = batch(number);
            let mixed = mix.apply(&mut one, 1, 2);
            let kept = one.images[96..192].iter().filter(|&&v| v == 10.0).count() as f32 / 96.0;
            assert!((kept - mixed.lambda).abs() < 1e-6);
            assert!(one.images[96..192].iter().all(|&v| v == 10.0 || v == 0.0));
        }
    }

    #[test]
    fn targets_add_up() {
        let mixed = Mixed {
            lambda: 0.75,
            partner_labels: vec![2, 1],
        };
        let targets = mixed.targets(&[0, 1], 4, 0.0);
        assert_eq!(targets, [0.75, 0.0, 0.25, 0.0, 0.0, 1.0, 0.0, 0.0]);
        let smooth = mixed.targets(&[0, 1], 4, 0.1);
        assert!(
            smooth
                .chunks(4)
                .all(|row| (row.iter().sum::<f32>() - 1.0).abs() < 1e-6)
        );
    }

    #[test]
    fn nothing_and_single_pictures() {
        let mut one = batch(0);
        assert_eq!(Mix::default().apply(&mut one, 1, 2).lambda, 1.0);
        assert_eq!(one, batch(0));
        let mut single = Batch {
            number: 0,
            shape: [1, 1, 1, 1],
            images: vec![3.0],
            labels: vec![1],
            indices: vec![0],
        };
        let mixed = Mix {
            mixup_alpha: 1.0,
            cutmix_alpha: 1.0,
        }
        .apply(&mut single, 1, 2);
        assert_eq!((single.images, mixed.partner_labels), (vec![3.0], vec![1]));
        assert!(
            Mix {
                mixup_alpha: -1.0,
                cutmix_alpha: 0.0
            }
            .validate()
            .is_err()
        );
    }

    /// Mean one half and the variance of Beta(a, a), 1 / (8 a + 4).
    #[test]
    fn beta_has_its_moments() {
        for alpha in [0.2, 1.0, 3.0] {
            let mut rng = Rng::keyed(1, Purpose::Mix, 0, 0);
            let draws: Vec<f64> = (0..20_000).map(|_| rng.beta(alpha)).collect();
            let mean = draws.iter().sum::<f64>() / 20_000.0;
            let variance = draws.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / 20_000.0;
            let expected = 1.0 / (8.0 * alpha + 4.0);
            assert!(
                (mean - 0.5).abs() < 0.01 && (variance / expected - 1.0).abs() < 0.05,
                "{alpha} {mean} {variance}"
            );
        }
    }
}
