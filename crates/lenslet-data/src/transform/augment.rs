//! Random changes of training pictures, with the names, the order and the draws' distributions of torchvision.

use super::rand_augment::RandAugment;
use super::{Affine, Interpolation, brightness, contrast, hue, resize, saturation, warp};
use crate::{DataError, Image, Rng};
use serde::{Deserialize, Serialize};

/// What is done to training pictures at random. The order is that of the fields; `random_resized_crop` takes the place of
/// the preprocessing's resize and crop, `random_erasing` comes after normalisation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Augment {
    /// A random part of the picture, resized to the input.
    pub random_resized_crop: Option<RandomResizedCrop>,
    /// Probability of mirroring left to right.
    pub horizontal_flip: f32,
    /// Random rotation.
    pub rotation: Option<RandomRotation>,
    /// Rotation, shift and scale.
    pub affine: Option<RandomAffine>,
    /// Random brightness, contrast, saturation and hue.
    pub color_jitter: Option<ColorJitter>,
    /// Operations of RandAugment.
    pub rand_augment: Option<RandAugment>,
    /// A rectangle of zeros in the normalised input.
    pub random_erasing: Option<RandomErasing>,
}

/// A part of random area and proportions, resized to the model's input.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RandomResizedCrop {
    /// Range of its area, as a fraction of the picture.
    pub scale: [f32; 2],
    /// Range of its width divided by its height.
    pub ratio: [f32; 2],
}

impl Default for RandomResizedCrop {
    fn default() -> Self {
        Self {
            scale: [0.08, 1.0],
            ratio: [3.0 / 4.0, 4.0 / 3.0],
        }
    }
}

/// Turned about the centre; the corners become black.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RandomRotation {
    /// Turned by an angle in `-degrees..degrees`.
    pub degrees: f32,
    /// torchvision's default is nearest.
    pub interpolation: Interpolation,
}

/// Random rotation, shift and scale, with bilinear interpolation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RandomAffine {
    /// Turned by an angle in `-degrees..degrees`.
    pub degrees: f32,
    /// Shifted by up to this fraction of the width, and of the height, either way.
    pub translate: [f32; 2],
    /// Scaled by a factor in this range.
    pub scale: [f32; 2],
}

/// Brightness, contrast and saturation by factors in `1 - x..1 + x`, hue by `-x..x` of the circle, in random order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs)]
pub struct ColorJitter {
    pub brightness: f32,
    pub contrast: f32,
    pub saturation: f32,
    pub hue: f32,
}

/// A rectangle set to 0 after normalisation (Zhong et al. 2017).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RandomErasing {
    /// Probability.
    pub p: f32,
    /// Range of its area, as a fraction of the input.
    pub scale: [f32; 2],
    /// Range of its height divided by its width.
    pub ratio: [f32; 2],
}

impl Default for RandomErasing {
    fn default() -> Self {
        Self {
            p: 0.5,
            scale: [0.02, 0.33],
            ratio: [0.3, 3.3],
        }
    }
}

impl Augment {
    /// For digits in a frame of 32 x 32: turned by up to 10 degrees, shifted by up to 2 pixels, 10 % larger or smaller.
    pub fn digits() -> Self {
        let affine = RandomAffine {
            degrees: 10.0,
            translate: [0.0625, 0.0625],
            scale: [0.9, 1.1],
        };
        Self {
            affine: Some(affine),
            ..Self::default()
        }
    }

    /// For photos of which there are few, on weights that know photos: a random resized crop of at least a third,
    /// horizontal flip, brightness and contrast by 0.1.
    pub fn photos_light() -> Self {
        Self {
            random_resized_crop: Some(RandomResizedCrop {
                scale: [1.0 / 3.0, 1.0],
                ..RandomResizedCrop::default()
            }),
            horizontal_flip: 0.5,
            color_jitter: Some(ColorJitter {
                brightness: 0.1,
                contrast: 0.1,
                ..ColorJitter::default()
            }),
            ..Self::default()
        }
    }

    /// For photos, as the guide has it: random resized crop, horizontal flip, rotation by up to 15 degrees, colour jitter
    /// of 0.2, 0.2, 0.2 and 0.1.
    pub fn photos() -> Self {
        Self {
            random_resized_crop: Some(RandomResizedCrop::default()),
            horizontal_flip: 0.5,
            rotation: Some(RandomRotation {
                degrees: 15.0,
                interpolation: Interpolation::Nearest,
            }),
            color_jitter: Some(ColorJitter {
                brightness: 0.2,
                contrast: 0.2,
                saturation: 0.2,
                hue: 0.1,
            }),
            ..Self::default()
        }
    }

    /// Checks that the settings make sense.
    ///
    /// # Errors
    /// [`DataError::Setting`] naming the field.
    pub fn validate(&self) -> Result<(), DataError> {
        let range = |name, r: [f32; 2], low: f32, high: f32, expected| {
            let sound = r[0] >= low && r[0] <= r[1] && r[1] <= high;
            if sound {
                Ok(())
            } else {
                Err(setting(name, r, expected))
            }
        };
        let within = |name, v: f32, high: f32, expected| range(name, [v, v], 0.0, high, expected);
        const PART: &str = "it must be two rising fractions, above 0 and up to 1";
        const RATIO: &str = "it must be two rising factors from 0.001 to 1000";
        within(
            "horizontal_flip",
            self.horizontal_flip,
            1.0,
            "it must be a probability from 0 to 1",
        )?;
        if let Some(c) = self.random_resized_crop {
            range("random_resized_crop.scale", c.scale, 1e-6, 1.0, PART)?;
            range("random_resized_crop.ratio", c.ratio, 1e-3, 1e3, RATIO)?;
        }
        if let Some(r) = self.rotation {
            within(
                "rotation.degrees",
                r.degrees,
                180.0,
                "it must be from 0 to 180",
            )?;
        }
        if let Some(a) = self.affine {
            within(
                "affine.degrees",
                a.degrees,
                180.0,
                "it must be from 0 to 180",
            )?;
            for t in a.translate {
                within(
                    "affine.translate",
                    t,
                    1.0,
                    "each must be a fraction from 0 to 1",
                )?;
            }
            range("affine.scale", a.scale, 1e-3, 1e3, RATIO)?;
        }
        if let Some(j) = self.color_jitter {
            for (name, v) in [
                ("brightness", j.brightness),
                ("contrast", j.contrast),
                ("saturation", j.saturation),
            ] {
                within(name, v, 1e3, "it must be at least 0")?;
            }
            within("hue", j.hue, 0.5, "it must be from 0 to 0.5")?;
        }
        if let Some(r) = self.rand_augment {
            r.validate()?;
        }
        if let Some(e) = self.random_erasing {
            within(
                "random_erasing.p",
                e.p,
                1.0,
                "it must be a probability from 0 to 1",
            )?;
            range("random_erasing.scale", e.scale, 1e-6, 1.0, PART)?;
            range("random_erasing.ratio", e.ratio, 1e-3, 1e3, RATIO)?;
        }
        Ok(())
    }

    /// The random part of a picture in `width` x `height`; `None` when there is no random crop.
    pub(super) fn crop(
        &self,
        image: &Image,
        width: usize,
        height: usize,
        interpolation: Interpolation,
        rng: &mut Rng,
    ) -> Option<Result<Image, DataError>> {
        let [left, top, w, h] = self
            .random_resized_crop?
            .draw(image.width(), image.height(), rng);
        Some(resize(
            image.crop(left as isize, top as isize, w, h),
            width,
            height,
            interpolation,
        ))
    }

    /// Everything between the crop and normalisation.
    pub(super) fn apply(&self, mut image: Image, rng: &mut Rng) -> Image {
        // Draws are made whether or not they are used, so that a probability does not shift the draws behind it.
        if rng.chance(self.horizontal_flip.into()) {
            image = image.flip_horizontal();
        }
        if let Some(r) = self.rotation {
            let angle = rng.range(-f64::from(r.degrees), r.degrees.into());
            let map = Affine::about_centre(image.width(), image.height(), angle, 1.0, 0.0, 0.0);
            image = warp(&image, map, r.interpolation, 0);
        }
        if let Some(affine) = self.affine {
            image = affine.apply(&image, rng);
        }
        if let Some(jitter) = self.color_jitter {
            image = jitter.apply(image, rng);
        }
        if let Some(rand_augment) = self.rand_augment {
            image = rand_augment.apply(image, rng);
        }
        image
    }

    /// What comes after normalisation, on `[C, H, W]`.
    pub(super) fn erase(&self, input: &mut [f32], [_, h, w]: [usize; 3], rng: &mut Rng) {
        let Some(erasing) = self.random_erasing else {
            return;
        };
        if let Some([left, top, width, height]) = erasing.draw(w, h, rng) {
            for plane in input.chunks_exact_mut(h * w) {
                for row in plane.chunks_exact_mut(w).skip(top).take(height) {
                    row[left..left + width].fill(0.0);
                }
            }
        }
    }
}

pub(crate) fn setting(
    setting: &'static str,
    found: impl std::fmt::Debug,
    expected: &'static str,
) -> DataError {
    DataError::Setting {
        setting,
        found: format!("{found:?}"),
        expected,
    }
}

/// Attempts at a rectangle that fits, as in torchvision.
const ATTEMPTS: usize = 10;

/// A side ratio whose logarithm is uniform.
fn draw_ratio(ratio: [f32; 2], rng: &mut Rng) -> f64 {
    rng.range(f64::from(ratio[0]).ln(), f64::from(ratio[1]).ln())
        .exp()
}

impl RandomResizedCrop {
    /// Left, top, width and height.
    fn draw(&self, width: usize, height: usize, rng: &mut Rng) -> [usize; 4] {
        let area = (width * height) as f64;
        for _ in 0..ATTEMPTS {
            let target = area * rng.range(self.scale[0].into(), self.scale[1].into());
            let ratio = draw_ratio(self.ratio, rng);
            let w = (target * ratio).sqrt().round_ties_even() as usize;
            let h = (target / ratio).sqrt().round_ties_even() as usize;
            if (1..=width).contains(&w) && (1..=height).contains(&h) {
                let top = rng.below((height - h + 1) as u64) as usize;
                let left = rng.below((width - w + 1) as u64) as usize;
                return [left, top, w, h];
            }
        }
        // The middle, as much of it as the proportions allow.
        let own = width as f64 / height as f64;
        let [narrow, wide] = self.ratio.map(f64::from);
        let (w, h) = match own {
            r if r < narrow => (
                width,
                ((width as f64 / narrow).round_ties_even() as usize).clamp(1, height),
            ),
            r if r > wide => (
                ((height as f64 * wide).round_ties_even() as usize).clamp(1, width),
                height,
            ),
            _ => (width, height),
        };
        [(width - w) / 2, (height - h) / 2, w, h]
    }
}

impl RandomErasing {
    /// Left, top, width and height; `None` when nothing is erased.
    fn draw(&self, width: usize, height: usize, rng: &mut Rng) -> Option<[usize; 4]> {
        if !rng.chance(self.p.into()) {
            return None;
        }
        let area = (width * height) as f64;
        for _ in 0..ATTEMPTS {
            let target = area * rng.range(self.scale[0].into(), self.scale[1].into());
            let ratio = draw_ratio(self.ratio, rng);
            let h = (target * ratio).sqrt().round_ties_even() as usize;
            let w = (target / ratio).sqrt().round_ties_even() as usize;
            if (1..width).contains(&w) && (1..height).contains(&h) {
                let top = rng.below((height - h + 1) as u64) as usize;
                let left = rng.below((width - w + 1) as u64) as usize;
                return Some([left, top, w, h]);
            }
        }
        None
    }
}

impl RandomAffine {
    fn apply(&self, image: &Image, rng: &mut Rng) -> Image {
        let (w, h) = (image.width(), image.height());
        let mut symmetric = |limit: f64| rng.range(-limit, limit);
        let angle = symmetric(self.degrees.into());
        let dx = symmetric(f64::from(self.translate[0]) * w as f64);
        let dy = symmetric(f64::from(self.translate[1]) * h as f64);
        let scale = rng.range(self.scale[0].into(), self.scale[1].into());
        warp(
            image,
            Affine::about_centre(w, h, angle, scale, dx, dy),
            Interpolation::Bilinear,
            0,
        )
    }
}

impl ColorJitter {
    pub(super) fn apply(&self, mut image: Image, rng: &mut Rng) -> Image {
        let mut order = [0, 1, 2, 3];
        rng.shuffle(&mut order);
        let mut factor =
            |x: f32| rng.range((1.0 - f64::from(x)).max(0.0), 1.0 + f64::from(x)) as f32;
        let factors = [self.brightness, self.contrast, self.saturation].map(&mut factor);
        let shift = rng.range(-f64::from(self.hue), self.hue.into()) as f32;
        for op in order {
            image = match op {
                0 if self.brightness > 0.0 => brightness(image, factors[0]),
                1 if self.contrast > 0.0 => contrast(image, factors[1]),
                2 if self.saturation > 0.0 => saturation(image, factors[2]),
                3 if self.hue > 0.0 => hue(image, shift),
                _ => image,
            };
        }
        image
    }
}
