//! RandAugment (Cubuk et al. 2019), with the operations and magnitudes of torchvision.

use super::augment::setting;
use super::colour::map;
use super::{Affine, Interpolation, brightness, contrast, saturation, warp};
use crate::{DataError, Image, Rng};
use serde::{Deserialize, Serialize};

/// Some operations out of fourteen, drawn with replacement, all at one strength.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RandAugment {
    /// Operations a picture.
    pub num_ops: usize,
    /// Strength, 0 to 30.
    pub magnitude: usize,
}

impl Default for RandAugment {
    fn default() -> Self {
        Self {
            num_ops: 2,
            magnitude: 9,
        }
    }
}

/// The highest magnitude.
const STRONGEST: usize = 30;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    Identity,
    ShearX,
    ShearY,
    TranslateX,
    TranslateY,
    Rotate,
    Brightness,
    Color,
    Contrast,
    Sharpness,
    Posterize,
    Solarize,
    AutoContrast,
    Equalize,
}

const OPS: [Op; 14] = [
    Op::Identity,
    Op::ShearX,
    Op::ShearY,
    Op::TranslateX,
    Op::TranslateY,
    Op::Rotate,
    Op::Brightness,
    Op::Color,
    Op::Contrast,
    Op::Sharpness,
    Op::Posterize,
    Op::Solarize,
    Op::AutoContrast,
    Op::Equalize,
];

impl RandAugment {
    pub(super) fn validate(&self) -> Result<(), DataError> {
        match self {
            r if r.magnitude > STRONGEST => Err(setting(
                "rand_augment.magnitude",
                r.magnitude,
                "it must be from 0 to 30",
            )),
            r if r.num_ops > 14 => Err(setting(
                "rand_augment.num_ops",
                r.num_ops,
                "it must be from 0 to 14",
            )),
            _ => Ok(()),
        }
    }

    pub(super) fn apply(&self, mut image: Image, rng: &mut Rng) -> Image {
        for _ in 0..self.num_ops {
            let op = OPS[rng.below(OPS.len() as u64) as usize];
            let sign = if rng.chance(0.5) { -1.0 } else { 1.0 };
            image = op.apply(image, self.magnitude as f64 / STRONGEST as f64, sign);
        }
        image
    }
}

impl Op {
    /// The operation at `strength` 0 to 1; where it has two directions, that of `sign`.
    fn apply(self, image: Image, strength: f64, sign: f64) -> Image {
        let (w, h) = (image.width() as f64, image.height() as f64);
        let signed = strength * sign;
        let seen_through = |map: [f64; 6]| warp(&image, Affine(map), Interpolation::Nearest, 0);
        let factor = (1.0 + 0.9 * signed) as f32;
        match self {
            Self::Identity => image,
            // About the upper left corner, as in the original implementation.
            Self::ShearX => seen_through([1.0, -0.3 * signed, 0.0, 0.0, 1.0, 0.0]),
            Self::ShearY => seen_through([1.0, 0.0, 0.0, -0.3 * signed, 1.0, 0.0]),
            Self::TranslateX => seen_through([
                1.0,
                0.0,
                -(150.0 / 331.0 * w * signed).trunc(),
                0.0,
                1.0,
                0.0,
            ]),
            Self::TranslateY => seen_through([
                1.0,
                0.0,
                0.0,
                0.0,
                1.0,
                -(150.0 / 331.0 * h * signed).trunc(),
            ]),
            Self::Rotate => {
                let map = Affine::about_centre(
                    image.width(),
                    image.height(),
                    30.0 * signed,
                    1.0,
                    0.0,
                    0.0,
                );
                warp(&image, map, Interpolation::Nearest, 0)
            }
            Self::Brightness => brightness(image, factor),
            Self::Color => saturation(image, factor),
            Self::Contrast => contrast(image, factor),
            Self::Sharpness => sharpness(image, factor),
            Self::Posterize => {
                let bits = 8 - (4.0 * strength).round_ties_even() as u32;
                let kept = 0xffu8 << (8 - bits);
                map(image, &std::array::from_fn(|v| v as u8 & kept))
            }
            Self::Solarize => {
                let threshold = 255.0 * (1.0 - strength);
                map(
                    image,
                    &std::array::from_fn(|v| {
                        if (v as f64) < threshold {
                            v as u8
                        } else {
                            255 - v as u8
                        }
                    }),
                )
            }
            Self::AutoContrast => by_channel(image, stretched),
            Self::Equalize => by_channel(image, equalised),
        }
    }
}

/// Sharper (factor above 1) or smoother (0 is smoothed); a one-pixel border stays.
fn sharpness(image: Image, factor: f32) -> Image {
    let (w, h, c) = (image.width(), image.height(), image.channels());
    let mut out = image.clone();
    for y in 1..h.saturating_sub(1) {
        let rows = [image.row(y - 1), image.row(y), image.row(y + 1)];
        for i in c..(w.saturating_sub(1)) * c {
            let around: u32 = rows
                .iter()
                .map(|r| u32::from(r[i - c]) + u32::from(r[i]) + u32::from(r[i + c]))
                .sum();
            let centre = rows[1][i];
            // Weights 1 around and 5 in the middle, of 13.
            let smooth = ((around + 4 * u32::from(centre)) as f32 / 13.0).round();
            out.row_mut(y)[i] = (smooth + factor * (f32::from(centre) - smooth)) as u8;
        }
    }
    out
}

/// Applies to each channel the table that `table` makes of its histogram.
fn by_channel(mut image: Image, table: impl Fn(&[u32; 256]) -> [u8; 256]) -> Image {
    let c = image.channels();
    for k in 0..c.min(3) {
        let mut histogram = [0u32; 256];
        image
            .data()
            .iter()
            .skip(k)
            .step_by(c)
            .for_each(|&v| histogram[usize::from(v)] += 1);
        let table = table(&histogram);
        image
            .data_mut()
            .iter_mut()
            .skip(k)
            .step_by(c)
            .for_each(|v| *v = table[usize::from(*v)]);
    }
    image
}

/// From the darkest to the brightest value that occurs.
fn stretched(histogram: &[u32; 256]) -> [u8; 256] {
    let low = histogram.iter().position(|&n| n > 0).unwrap_or(0) as f64;
    let high = histogram.iter().rposition(|&n| n > 0).unwrap_or(255) as f64;
    if high <= low {
        return std::array::from_fn(|v| v as u8);
    }
    let scale = 255.0 / (high - low);
    std::array::from_fn(|v| (v as f64 * scale - low * scale) as u8)
}

/// To a flat histogram, by Pillow's rule.
fn equalised(histogram: &[u32; 256]) -> [u8; 256] {
    let last = histogram
        .iter()
        .rev()
        .find(|&&n| n > 0)
        .copied()
        .unwrap_or(0);
    let step = (histogram.iter().sum::<u32>() - last) / 255;
    if step == 0 {
        return std::array::from_fn(|v| v as u8);
    }
    let mut below = step / 2;
    std::array::from_fn(|v| {
        let value = (below / step).min(255) as u8;
        below += histogram[v];
        value
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture() -> Image {
        let data = (0..40 * 30 * 3)
            .map(|i| (40 + i * 31 % 160) as u8)
            .collect();
        Image::new(40, 30, 3, data).unwrap()
    }

    #[test]
    fn strength_zero_is_gentle() {
        for op in OPS
            .into_iter()
            .filter(|op| !matches!(op, Op::AutoContrast | Op::Equalize))
        {
            for sign in [-1.0, 1.0] {
                assert_eq!(op.apply(picture(), 0.0, sign), picture(), "{op:?}");
            }
        }
    }

    #[test]
    fn every_operation_changes_a_picture_and_keeps_its_size() {
        for op in OPS.into_iter().filter(|op| *op != Op::Identity) {
            let out = op.apply(picture(), 0.5, -1.0);
            assert_eq!((out.width(), out.height(), out.channels()), (40, 30, 3));
            assert_ne!(out, picture(), "{op:?}");
            // Small pictures have no middle.
            op.apply(Image::new(1, 1, 1, vec![7]).unwrap(), 1.0, 1.0);
        }
    }

    /// What Pillow makes of a photo, at strength 9 of 30 upwards.
    #[test]
    fn pillows_results() {
        let fixtures = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
        let photo = crate::decode::read(&fixtures.join("transforms/images/coffee_300x200.png"))
            .unwrap()
            .image;
        let json = std::fs::read_to_string(fixtures.join("extra.json")).unwrap();
        let expected: serde_json::Value = serde_json::from_str(&json).unwrap();
        let mut tested = 0;
        for op in OPS {
            let Some(grid) = expected[format!("{op:?}")].as_array() else {
                continue;
            };
            let out = op.apply(photo.clone(), 0.3, 1.0);
            for (at, pixel) in grid.iter().enumerate() {
                let y = ((at / 16) as f64 + 0.5) * 200.0 / 16.0;
                let x = ((at % 16) as f64 + 0.5) * 300.0 / 16.0;
                let ours = &out.row(y as usize)[x as usize * 3..][..3];
                let off = ours
                    .iter()
                    .zip(pixel.as_array().unwrap())
                    .map(|(&o, e)| e.as_i64().unwrap().abs_diff(o.into()))
                    .max();
                assert!(
                    off <= Some(1),
                    "{op:?} at {x}, {y}: {ours:?}, expected {pixel}"
                );
            }
            tested += 1;
        }
        assert_eq!(tested, 11);
    }

    #[test]
    fn known_values() {
        let image = Image::new(4, 1, 1, vec![10, 60, 110, 210]).unwrap();
        assert_eq!(
            Op::AutoContrast.apply(image.clone(), 0.3, 1.0).data(),
            [0, 63, 127, 255]
        );
        assert_eq!(
            Op::Posterize.apply(image.clone(), 1.0, 1.0).data(),
            [0, 48, 96, 208]
        );
        assert_eq!(
            Op::Solarize.apply(image.clone(), 0.5, 1.0).data(),
            [10, 60, 110, 45]
        );
        let shifted = Op::TranslateX.apply(image, 331.0 / 600.0, 1.0);
        assert_eq!(shifted.data(), [0, 10, 60, 110]);
        let half = Image::new(
            512,
            1,
            1,
            (0..512).map(|i| if i < 256 { 100 } else { 200 }).collect(),
        )
        .unwrap();
        // step = 256 / 255 = 1: the first value stays at 0, the second takes what lies below it.
        let out = Op::Equalize.apply(half, 0.0, 1.0);
        assert_eq!((out.data()[0], out.data()[511]), (0, 255));
    }
}
