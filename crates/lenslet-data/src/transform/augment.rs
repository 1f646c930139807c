//! Random changes of training pictures.

use super::{Affine, Interpolation, warp};
use crate::{DataError, Image, Rng};
use serde::{Deserialize, Serialize};

/// Random rotation, shift and scale: torchvision's `RandomAffine`, with bilinear interpolation.
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

/// What is done to training pictures at random, in the order of the fields.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Augment {
    /// Rotation, shift and scale.
    pub affine: Option<RandomAffine>,
}

impl Augment {
    /// For digits in a frame of 32 x 32: turned by up to 10 degrees, shifted by up to 2 pixels, 10 % larger or smaller.
    pub fn digits() -> Self {
        Self {
            affine: Some(RandomAffine {
                degrees: 10.0,
                translate: [0.0625, 0.0625],
                scale: [0.9, 1.1],
            }),
        }
    }

    /// Checks that the settings make sense.
    ///
    /// # Errors
    /// [`DataError::Setting`] naming the field.
    pub fn validate(&self) -> Result<(), DataError> {
        if let Some(a) = self.affine {
            let within = |v: f32, low: f32, high: f32| v >= low && v <= high;
            if !within(a.degrees, 0.0, 180.0) {
                return Err(setting(
                    "affine.degrees",
                    a.degrees,
                    "it must be from 0 to 180",
                ));
            }
            if !a.translate.iter().all(|&t| within(t, 0.0, 1.0)) {
                return Err(setting(
                    "affine.translate",
                    a.translate,
                    "each must be a fraction from 0 to 1",
                ));
            }
            if !(within(a.scale[0], 1e-3, a.scale[1]) && a.scale[1] <= 1e3) {
                return Err(setting(
                    "affine.scale",
                    a.scale,
                    "it must be two rising factors above 0",
                ));
            }
        }
        Ok(())
    }

    pub(super) fn apply(&self, image: Image, rng: &mut Rng) -> Result<Image, DataError> {
        let mut image = image;
        if let Some(affine) = self.affine {
            image = affine.apply(&image, rng);
        }
        Ok(image)
    }
}

pub(super) fn setting(
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
