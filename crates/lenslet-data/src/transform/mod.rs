//! From a decoded picture to a model's input.
//!
//! [`Preprocess`] is the one description of that path. It is stored in model files, and training, evaluation and
//! prediction all go through [`Preprocess::apply`] (training with an [`Augment`] in it), so that they cannot differ.

mod augment;
mod colour;
mod joint;
mod rand_augment;
mod resize;
mod warp;

pub(crate) use augment::setting;
pub use augment::{
    Augment, ColorJitter, RandomAffine, RandomErasing, RandomResizedCrop, RandomRotation,
};
pub use colour::{brightness, contrast, hue, saturation};
pub use joint::{Boxed, GREY, Joint, Masked};
pub use rand_augment::RandAugment;
pub use resize::resize;
pub use warp::{Affine, warp};

use crate::{Channels, DataError, Image, Rng};
use lenslet_boxes::Letterbox;
use serde::{Deserialize, Serialize};

/// The largest side of a model's input or of a resized picture.
const MAX_SIDE: usize = 16_384;

/// How pixels between pixels are computed.
///
/// Bilinear and bicubic resizing is antialiased, as in Pillow and in torchvision with `antialias=True`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Interpolation {
    /// The pixel at the centre.
    Nearest,
    /// Triangle filter.
    Bilinear,
    /// Keys' cubic with a = -0.5.
    Bicubic,
}

/// The size to which a picture is brought before the crop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resize {
    /// As it is.
    Keep,
    /// The shorter side to this length, the longer in proportion (rounded down): torchvision's `Resize(n)`.
    ShortSide(usize),
    /// To this height and width, whatever the proportions: torchvision's `Resize((h, w))`.
    Exact([usize; 2]),
    /// As large as fits into this height and width, in proportion; the crop then surrounds it with grey (114).
    Letterbox([usize; 2]),
}

impl Resize {
    /// Width and height that a picture of `width` x `height` gets.
    pub fn target(self, width: usize, height: usize) -> (usize, usize) {
        match self {
            Self::Keep => (width, height),
            Self::Exact([h, w]) => (w, h),
            Self::Letterbox([h, w]) => Letterbox::new([width, height], [w, h]).size.into(),
            Self::ShortSide(n) => {
                let long = |long: usize, short: usize| {
                    (n as u128 * long as u128 / short.max(1) as u128) as usize
                };
                if width <= height {
                    (n, long(height, width))
                } else {
                    (long(width, height), n)
                }
            }
        }
    }
}

/// A number for each channel.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "a list of one number for each channel, 1 or 3")]
pub enum PerChannel {
    /// For [`Channels::Grey`].
    Grey([f32; 1]),
    /// For [`Channels::Rgb`].
    Rgb([f32; 3]),
}

impl PerChannel {
    /// The numbers in the order of the channels.
    pub fn as_slice(&self) -> &[f32] {
        match self {
            Self::Grey(v) => v,
            Self::Rgb(v) => v,
        }
    }
}

/// Everything between a decoded picture and a model's input.
///
/// In this order: channels, [`Resize`], centre crop (zeros around where the picture is smaller), `(v / 255 - mean) / std`.
/// The orientation of the file has been applied before, by the decoder.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preprocess {
    /// The channels that the model takes; alpha is dropped.
    pub channels: Channels,
    /// Size before the crop.
    pub resize: Resize,
    /// Filter of the resizing.
    pub interpolation: Interpolation,
    /// Height and width of the model's input.
    pub crop: [usize; 2],
    /// Mean of each channel, of values in 0..1.
    pub mean: PerChannel,
    /// Standard deviation of each channel, of values in 0..1.
    pub std: PerChannel,
}

/// Mean and standard deviation of the ImageNet training set's channels, as in torchvision's weights.
const IMAGENET: ([f32; 3], [f32; 3]) = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);

impl Preprocess {
    /// A digit for LeNet-5: grey, 28 x 28, with a border of two zeros to 32 x 32 (LeCun et al. 1998, section II.B),
    /// normalised with MNIST's mean and standard deviation.
    pub const fn lenet5() -> Self {
        Self {
            channels: Channels::Grey,
            resize: Resize::Exact([28, 28]),
            interpolation: Interpolation::Bilinear,
            crop: [32, 32],
            mean: PerChannel::Grey([0.1307]),
            std: PerChannel::Grey([0.3081]),
        }
    }

    /// The usual evaluation on ImageNet: shorter side to `resize`, centre `crop`, ImageNet's mean and deviation.
    pub const fn imagenet(resize: usize, crop: usize, interpolation: Interpolation) -> Self {
        Self {
            channels: Channels::Rgb,
            resize: Resize::ShortSide(resize),
            interpolation,
            crop: [crop, crop],
            mean: PerChannel::Rgb(IMAGENET.0),
            std: PerChannel::Rgb(IMAGENET.1),
        }
    }

    /// With other values of mean and deviation, for three channels.
    pub const fn with_normalisation(mut self, mean: [f32; 3], std: [f32; 3]) -> Self {
        self.mean = PerChannel::Rgb(mean);
        self.std = PerChannel::Rgb(std);
        self
    }

    /// Shape of the result: channels, height, width.
    pub fn output_shape(&self) -> [usize; 3] {
        [self.channels.count(), self.crop[0], self.crop[1]]
    }

    /// Number of values of the result.
    pub fn output_len(&self) -> usize {
        self.output_shape().iter().product()
    }

    /// Checks that the description makes sense; call it on what comes from a file.
    ///
    /// # Errors
    /// [`DataError::Setting`] naming the field.
    pub fn validate(&self) -> Result<(), DataError> {
        let sizes = match self.resize {
            Resize::Keep => vec![],
            Resize::ShortSide(n) => vec![n],
            Resize::Exact(hw) | Resize::Letterbox(hw) => hw.to_vec(),
        };
        let n = self.channels.count();
        let (mean, std) = (self.mean.as_slice(), self.std.as_slice());
        let bad = |v: &[f32]| v.len() != n || v.iter().any(|x| !x.is_finite());
        let fault = if sizes.iter().any(|s| !(1..=MAX_SIDE).contains(s)) {
            Some((
                "resize",
                format!("{sizes:?}"),
                "each side must be from 1 to 16384",
            ))
        } else if self.crop.iter().any(|s| !(1..=MAX_SIDE).contains(s)) {
            Some((
                "crop",
                format!("{:?}", self.crop),
                "each side must be from 1 to 16384",
            ))
        } else if bad(mean) {
            Some((
                "mean",
                format!("{mean:?}"),
                "it must be one finite number for each channel",
            ))
        } else if bad(std) || std.iter().any(|&s| s <= 0.0) {
            Some((
                "std",
                format!("{std:?}"),
                "it must be one number above 0 for each channel",
            ))
        } else {
            None
        };
        fault.map_or(Ok(()), |(setting, found, expected)| {
            Err(DataError::Setting {
                setting,
                found,
                expected,
            })
        })
    }

    /// The picture as the model will see it, before normalisation: `crop` in size, 8 bits. With `augment` it is changed
    /// at random.
    ///
    /// # Errors
    /// [`DataError::Setting`] when the description makes no sense.
    pub fn pixels(
        &self,
        image: Image,
        augment: Option<(&Augment, &mut Rng)>,
    ) -> Result<Image, DataError> {
        let image = image.to_channels(self.channels);
        let [h, w] = self.crop;
        match augment {
            Some((augment, rng)) => {
                let part = augment.crop(&image, w, h, self.interpolation, rng);
                let image = part.unwrap_or_else(|| self.resized(image))?;
                Ok(augment.apply(image, rng))
            }
            None => self.resized(image),
        }
    }

    /// Resize and centre crop.
    fn resized(&self, image: Image) -> Result<Image, DataError> {
        let [h, w] = self.crop;
        let (width, height) = self.resize.target(image.width(), image.height());
        let image = resize(image, width, height, self.interpolation)?;
        Ok(if (image.height(), image.width()) == (h, w) {
            image
        } else if let Resize::Letterbox(_) = self.resize {
            joint::framed(&image, w, h)
        } else {
            image.center_crop(w, h)
        })
    }

    /// Writes the model's input for one picture into `out`, `[C, H, W]` as [`Preprocess::output_shape`] says.
    ///
    /// # Errors
    /// [`DataError::Buffer`] when `out` has another length; [`DataError::Setting`] when the description makes no sense.
    pub fn apply(
        &self,
        image: Image,
        mut augment: Option<(&Augment, &mut Rng)>,
        out: &mut [f32],
    ) -> Result<(), DataError> {
        if out.len() != self.output_len() {
            return Err(DataError::Buffer {
                found: out.len(),
                expected: self.output_len(),
            });
        }
        let image = self.pixels(image, augment.as_mut().map(|(a, rng)| (*a, &mut **rng)))?;
        self.normalise(&image, out);
        if let Some((augment, rng)) = augment {
            augment.erase(out, self.output_shape(), rng);
        }
        Ok(())
    }

    /// `(v / 255 - mean) / std` and `[H, W, C]` to `[C, H, W]`.
    pub(crate) fn normalise(&self, image: &Image, out: &mut [f32]) {
        let n = image.channels();
        let planes = out.chunks_exact_mut(image.width() * image.height());
        for (c, (plane, (mean, std))) in planes
            .zip(self.mean.as_slice().iter().zip(self.std.as_slice()))
            .enumerate()
        {
            // A byte has 256 values: the divisions are done once each.
            let table: [f32; 256] = std::array::from_fn(|v| (v as f32 / 255.0 - mean) / std);
            for (to, pixel) in plane.iter_mut().zip(image.data().chunks_exact(n)) {
                *to = table[usize::from(pixel[c])];
            }
        }
    }
}

#[cfg(test)]
mod tests;
