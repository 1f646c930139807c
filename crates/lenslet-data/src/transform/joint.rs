//! Changes of a picture together with its mask, or with its boxes.

use super::{ColorJitter, Interpolation, Preprocess, resize};
use crate::boxes::BoxLabel;
use crate::{DataError, Image, Rng};
use lenslet_boxes::{Letterbox, Rect};
use serde::{Deserialize, Serialize};

/// What is done at random to training pictures whose masks or boxes have to follow.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Joint {
    /// Range of the factor by which a picture is enlarged; its logarithm is uniform.
    pub scale: [f32; 2],
    /// Probability of mirroring left to right.
    pub horizontal_flip: f32,
    /// Random brightness, contrast, saturation and hue.
    pub color_jitter: Option<ColorJitter>,
}

impl Default for Joint {
    fn default() -> Self {
        Self {
            scale: [0.75, 1.333],
            horizontal_flip: 0.0,
            color_jitter: Some(ColorJitter {
                brightness: 0.2,
                contrast: 0.2,
                saturation: 0.2,
                hue: 0.05,
            }),
        }
    }
}

/// A picture and the class of each of its pixels, in rows.
#[derive(Clone, Debug, PartialEq)]
pub struct Masked {
    /// The picture.
    pub image: Image,
    /// Classes, `[height * width]`.
    pub mask: Vec<u8>,
}

/// A picture and its boxes.
#[derive(Clone, Debug, PartialEq)]
pub struct Boxed {
    /// The picture.
    pub image: Image,
    /// In the picture's pixels.
    pub boxes: Vec<BoxLabel>,
}

/// Level of what lies around a picture, where a model sees more than it.
pub const GREY: u8 = 114;
/// A box is dropped when a crop leaves less of its area.
const LEAST_LEFT: f64 = 0.3;
/// A box is dropped when a side has fewer pixels.
const LEAST_SIDE: f64 = 2.0;

/// The part of a picture that is shown, and how.
struct View {
    left: isize,
    top: isize,
    width: usize,
    height: usize,
    mirrored: bool,
}

impl Joint {
    /// A view of `window` (width, height), enlarged at random, that shows as much of a picture of
    /// `picture` as fits, or all of it somewhere.
    fn draw(&self, picture: [usize; 2], window: [f64; 2], rng: &mut Rng) -> View {
        let [low, high] = self.scale.map(|s| f64::from(s).ln());
        let factor = rng.range(low, high).exp();
        let [width, height] = window.map(|side| (side / factor).round().max(1.0) as usize);
        let mut place = |have: usize, want: usize| {
            let room = have.abs_diff(want) as u64;
            let at = rng.below(room + 1) as isize;
            if have >= want { at } else { -at }
        };
        View {
            left: place(picture[0], width),
            top: place(picture[1], height),
            width,
            height,
            mirrored: rng.chance(self.horizontal_flip.into()),
        }
    }

    fn finish(&self, mut image: Image, view: &View, rng: &mut Rng) -> Image {
        if view.mirrored {
            image = image.flip_horizontal();
        }
        match self.color_jitter {
            Some(jitter) => jitter.apply(image, rng),
            None => image,
        }
    }

    /// A random part of `width` x `height`, and its mask; `outside` is the class of what lies beyond
    /// the picture.
    ///
    /// # Errors
    /// [`DataError::Setting`] for sizes that cannot be.
    pub fn masked(
        &self,
        sample: &Masked,
        [width, height]: [usize; 2],
        outside: u8,
        rng: &mut Rng,
    ) -> Result<Masked, DataError> {
        let picture = [sample.image.width(), sample.image.height()];
        let view = self.draw(picture, [width as f64, height as f64], rng);
        let image = cut(&sample.image, &view, width, height)?;
        let mut mask = vec![outside; width * height];
        for (y, row) in mask.chunks_exact_mut(width).enumerate() {
            let sy = source(y, height, view.height) + view.top;
            for (x, to) in row.iter_mut().enumerate() {
                let x = if view.mirrored { width - 1 - x } else { x };
                let sx = source(x, width, view.width) + view.left;
                let inside = |v: isize, side: usize| (0..side as isize).contains(&v);
                if inside(sx, picture[0]) && inside(sy, picture[1]) {
                    *to = sample.mask[sy as usize * picture[0] + sx as usize];
                }
            }
        }
        let image = self.finish(image, &view, rng);
        Ok(Masked { image, mask })
    }

    /// A random part of `width` x `height`, and the boxes in it.
    ///
    /// # Errors
    /// [`DataError::Setting`] for sizes that cannot be.
    pub fn boxed(
        &self,
        sample: &Boxed,
        [width, height]: [usize; 2],
        rng: &mut Rng,
    ) -> Result<Boxed, DataError> {
        let picture = [sample.image.width(), sample.image.height()];
        // At a factor of 1 the frame holds the whole picture.
        let least = picture[0] as f64 / width as f64;
        let least = least.max(picture[1] as f64 / height as f64);
        let window = [width as f64 * least, height as f64 * least];
        let view = self.draw(picture, window, rng);
        let image = cut(&sample.image, &view, width, height)?;
        let scale = [
            width as f64 / view.width as f64,
            height as f64 / view.height as f64,
        ];
        let shift = [
            -(view.left as f64) * scale[0],
            -(view.top as f64) * scale[1],
        ];
        let moved = sample.boxes.iter().filter_map(|label| {
            let whole = label.rect.mapped(scale, shift);
            let mut rect = whole.clamped(width as f64, height as f64);
            if view.mirrored {
                let right = width as f64 - rect.left;
                rect = Rect::new(width as f64 - rect.right, rect.top, right, rect.bottom);
            }
            let kept = rect.area() >= LEAST_LEFT * whole.area()
                && rect.width() >= LEAST_SIDE
                && rect.height() >= LEAST_SIDE;
            kept.then_some(BoxLabel { rect, ..*label })
        });
        let boxes = moved.collect();
        let image = self.finish(image, &view, rng);
        Ok(Boxed { image, boxes })
    }

    /// Checks that the settings make sense.
    ///
    /// # Errors
    /// [`DataError::Setting`] naming the field.
    pub fn validate(&self) -> Result<(), DataError> {
        let setting = |setting, found: String, expected| {
            Err(DataError::Setting {
                setting,
                found,
                expected,
            })
        };
        let [low, high] = self.scale;
        if !(low >= 0.05 && low <= high && high <= 20.0) {
            let expected = "it must be two rising factors from 0.05 to 20";
            return setting("scale", format!("{low} to {high}"), expected);
        }
        if !(0.0..=1.0).contains(&self.horizontal_flip) {
            let expected = "it must be a probability from 0 to 1";
            return setting(
                "horizontal_flip",
                self.horizontal_flip.to_string(),
                expected,
            );
        }
        Ok(())
    }
}

/// The pixel of `from` that pixel `to` of `len` shows.
fn source(to: usize, len: usize, from: usize) -> isize {
    ((2 * to + 1) * from / (2 * len)) as isize
}

/// The view in `width` x `height`, grey where it reaches over the picture.
fn cut(image: &Image, view: &View, width: usize, height: usize) -> Result<Image, DataError> {
    let part = image.crop_onto(view.left, view.top, view.width, view.height, GREY);
    resize(part, width, height, Interpolation::Bilinear)
}

/// A picture in the middle of a grey frame that is not smaller.
pub(super) fn framed(image: &Image, width: usize, height: usize) -> Image {
    let offset = |frame: usize, own: usize| -((frame.saturating_sub(own) / 2) as isize);
    let (left, top) = (offset(width, image.width()), offset(height, image.height()));
    image.crop_onto(left, top, width, height, GREY)
}

impl Preprocess {
    /// How a picture of `width` x `height` lies in the model's input, where it is letterboxed.
    pub fn letterbox(&self, width: usize, height: usize) -> Letterbox {
        Letterbox::new([width, height], [self.crop[1], self.crop[0]])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rng;
    use crate::rng::Purpose;
    use proptest::prelude::*;

    /// Black, with a white rectangle that is also the mask and the box.
    fn sample(width: usize, height: usize, rect: [usize; 4]) -> (Masked, Boxed) {
        let [left, top, right, bottom] = rect;
        let mask: Vec<u8> = (0..width * height)
            .map(|i| {
                let (x, y) = (i % width, i / width);
                u8::from((left..right).contains(&x) && (top..bottom).contains(&y))
            })
            .collect();
        let data = mask.iter().map(|&v| v * 255).collect();
        let image = Image::new(width, height, 1, data).unwrap();
        let label = BoxLabel {
            class: 3,
            rect: Rect::new(left as f64, top as f64, right as f64, bottom as f64),
            crowd: false,
        };
        let boxes = vec![label];
        (
            Masked {
                image: image.clone(),
                mask,
            },
            Boxed { image, boxes },
        )
    }

    const GEOMETRY: Joint = Joint {
        scale: [0.6, 1.7],
        horizontal_flip: 0.5,
        color_jitter: None,
    };

    proptest! {
        /// Where the mask says so the picture is white, but for the pixels at its edges.
        #[test]
        fn masks_follow_their_pictures(seed: u64, w in 20usize..80, h in 20usize..80) {
            let (sample, _) = sample(w, h, [4, 5, w / 2 + 5, h / 2 + 6]);
            let mut rng = Rng::keyed(seed, Purpose::Augment, 0, 0);
            let out = GEOMETRY.masked(&sample, [40, 32], 255, &mut rng).unwrap();
            let off = out.mask.iter().zip(out.image.data()).filter(|(m, v)| match m {
                0 => **v > 200,
                1 => **v < 55,
                _ => v.abs_diff(GREY) > 120,
            });
            prop_assert!(off.count() <= 4, "{out:?}");
        }

        /// The box lies around what is white.
        #[test]
        fn boxes_follow_their_pictures(seed: u64, w in 20usize..80, h in 20usize..80) {
            let (_, sample) = sample(w, h, [4, 5, w / 2 + 5, h / 2 + 6]);
            let mut rng = Rng::keyed(seed, Purpose::Augment, 0, 0);
            let out = GEOMETRY.boxed(&sample, [40, 32], &mut rng).unwrap();
            for label in &out.boxes {
                prop_assert_eq!(label.class, 3);
                let white = |x: usize, y: usize| out.image.data()[y * 40 + x] > 185;
                let columns: Vec<usize> = (0..40).filter(|&x| (0..32).any(|y| white(x, y))).collect();
                let rows: Vec<usize> = (0..32).filter(|&y| (0..40).any(|x| white(x, y))).collect();
                let (Some(first), Some(last)) = (columns.first(), columns.last()) else { continue };
                let near = |a: f64, b: usize| (a - b as f64).abs() <= 1.5;
                prop_assert!(near(label.rect.left, *first) && near(label.rect.right, *last + 1), "{label:?} {columns:?}");
                prop_assert!(near(label.rect.top, rows[0]) && near(label.rect.bottom, rows[rows.len() - 1] + 1));
            }
        }
    }

    #[test]
    fn a_frame_is_grey_around_the_picture() {
        let image = Image::new(2, 1, 1, vec![7, 9]).unwrap();
        let out = framed(&image, 2, 3);
        assert_eq!(out.data(), [GREY, GREY, 7, 9, GREY, GREY]);
    }
}
