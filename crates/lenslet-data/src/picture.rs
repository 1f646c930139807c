//! Decoded pictures.

use crate::DataError;
use image::ImageEncoder;
use serde::{Deserialize, Serialize};

/// The colour channels that a model takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Channels {
    /// One channel of luma.
    Grey,
    /// Red, green, blue.
    Rgb,
}

impl Channels {
    /// The number of channels: 1 or 3.
    pub fn count(self) -> usize {
        match self {
            Self::Grey => 1,
            Self::Rgb => 3,
        }
    }
}

/// A picture of 8-bit samples in `[H, W, C]` order, C being 1 (grey), 3 (RGB) or 4 (RGBA).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    width: usize,
    height: usize,
    channels: usize,
    data: Vec<u8>,
}

impl Image {
    /// A picture from its samples in `[height, width, channels]` order.
    ///
    /// # Errors
    /// [`DataError::ImageShape`] when a side is 0, `channels` is none of 1, 3, 4, or `data` has another length than the three
    /// figures say.
    pub fn new(
        width: usize,
        height: usize,
        channels: usize,
        data: Vec<u8>,
    ) -> Result<Self, DataError> {
        let expected = width
            .checked_mul(height)
            .and_then(|p| p.checked_mul(channels));
        if width == 0
            || height == 0
            || !matches!(channels, 1 | 3 | 4)
            || expected != Some(data.len())
        {
            return Err(DataError::ImageShape {
                width,
                height,
                channels,
                found: data.len(),
            });
        }
        Ok(Self {
            width,
            height,
            channels,
            data,
        })
    }

    /// A picture whose samples are all `value`; sides below 1 count as 1.
    pub(crate) fn filled(width: usize, height: usize, channels: usize, value: u8) -> Self {
        let (width, height) = (width.max(1), height.max(1));
        Self {
            width,
            height,
            channels,
            data: vec![value; width * height * channels],
        }
    }

    /// Columns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Samples a pixel: 1, 3 or 4.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// The samples in `[H, W, C]` order.
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    pub(crate) fn data_mut(&mut self) -> &mut [u8] {
        &mut self.data
    }

    /// The samples of row `y`, `width * channels` of them.
    pub(crate) fn row(&self, y: usize) -> &[u8] {
        let n = self.width * self.channels;
        &self.data[y * n..(y + 1) * n]
    }

    pub(crate) fn row_mut(&mut self, y: usize) -> &mut [u8] {
        let n = self.width * self.channels;
        &mut self.data[y * n..(y + 1) * n]
    }

    /// The picture in another number of channels, as Pillow's `convert("L")` and `convert("RGB")` do it: luma by
    /// ITU-R 601 weights in 16-bit fixed point, grey repeated, **alpha dropped** (not composited on a background).
    pub fn to_channels(self, channels: Channels) -> Self {
        let pixels = self.width * self.height;
        let data = match (self.channels, channels) {
            (1, Channels::Grey) | (3, Channels::Rgb) => return self,
            (1, Channels::Rgb) => self.data.iter().flat_map(|&v| [v; 3]).collect(),
            (n, Channels::Grey) => self
                .data
                .chunks_exact(n)
                .map(|p| luma(p[0], p[1], p[2]))
                .collect(),
            (n, Channels::Rgb) => {
                let mut data = Vec::with_capacity(pixels * 3);
                for p in self.data.chunks_exact(n) {
                    data.extend_from_slice(&p[..3]);
                }
                data
            }
        };
        Self {
            channels: channels.count(),
            data,
            ..self
        }
    }

    /// The part of the picture from (`left`, `top`), `width` by `height`. Where that reaches over the picture's edges
    /// the result is 0.
    pub fn crop(&self, left: isize, top: isize, width: usize, height: usize) -> Self {
        let mut out = Self::filled(width, height, self.channels, 0);
        // The columns of the result that lie inside the picture.
        let from = left.saturating_neg().clamp(0, width as isize) as usize;
        let to = (self.width as isize)
            .saturating_sub(left)
            .clamp(from as isize, width as isize) as usize;
        if from == to {
            return out;
        }
        let (c, first) = (self.channels, (left + from as isize) as usize);
        for y in 0..out.height {
            let Some(source) = top
                .checked_add_unsigned(y)
                .and_then(|v| usize::try_from(v).ok())
                .filter(|&v| v < self.height)
            else {
                continue;
            };
            let taken = &self.row(source)[first * c..(first + to - from) * c];
            out.row_mut(y)[from * c..to * c].copy_from_slice(taken);
        }
        out
    }

    /// As [`Image::crop`], but where that reaches over the picture's edges the result is `fill`.
    pub fn crop_onto(
        &self,
        left: isize,
        top: isize,
        width: usize,
        height: usize,
        fill: u8,
    ) -> Self {
        let mut part = self.crop(left, top, width, height);
        let inside = |v: isize, side: usize| (0..side as isize).contains(&v);
        let channels = self.channels;
        for y in 0..part.height {
            let whole = !inside(top + y as isize, self.height);
            for (x, pixel) in part.row_mut(y).chunks_exact_mut(channels).enumerate() {
                if whole || !inside(left + x as isize, self.width) {
                    pixel.fill(fill);
                }
            }
        }
        part
    }

    /// The middle of the picture, `width` by `height`; zeros around it where the picture is smaller. The odd pixel goes
    /// where torchvision's `center_crop` puts it.
    pub fn center_crop(&self, width: usize, height: usize) -> Self {
        let offset = |have: usize, want: usize| {
            if want > have {
                // torchvision pads first: floor((want - have) / 2) in front.
                -(((want - have) / 2) as isize)
            } else {
                round_half_even((have - want) as f64 / 2.0) as isize
            }
        };
        self.crop(
            offset(self.width, width),
            offset(self.height, height),
            width,
            height,
        )
    }

    /// The picture as the content of a PNG file.
    ///
    /// # Errors
    /// [`DataError::Internal`]: none in a sound build.
    pub fn to_png(&self) -> Result<Vec<u8>, DataError> {
        let colour = match self.channels {
            1 => image::ExtendedColorType::L8,
            3 => image::ExtendedColorType::Rgb8,
            _ => image::ExtendedColorType::Rgba8,
        };
        let mut file = Vec::new();
        let encoder = image::codecs::png::PngEncoder::new(&mut file);
        encoder
            .write_image(&self.data, self.width as u32, self.height as u32, colour)
            .map_err(|e| DataError::Internal {
                what: "writing PNG".into(),
                reason: e.to_string(),
            })?;
        Ok(file)
    }

    /// Pictures side by side in rows of `columns`, white between and around them: what a person looks at to see what a
    /// model sees. Cells are as large as the largest picture.
    pub fn contact_sheet(pictures: &[Self], columns: usize) -> Self {
        const GAP: usize = 4;
        let width = pictures.iter().map(|p| p.width).max().unwrap_or(1) + GAP;
        let height = pictures.iter().map(|p| p.height).max().unwrap_or(1) + GAP;
        let columns = columns.clamp(1, pictures.len().max(1));
        let rows = pictures.len().div_ceil(columns).max(1);
        let mut sheet = Self::filled(columns * width + GAP, rows * height + GAP, 3, 255);
        for (i, picture) in pictures.iter().enumerate() {
            let picture = picture.clone().to_channels(Channels::Rgb);
            let (left, top) = (i % columns * width + GAP, i / columns * height + GAP);
            for y in 0..picture.height {
                sheet.row_mut(top + y)[left * 3..(left + picture.width) * 3]
                    .copy_from_slice(picture.row(y));
            }
        }
        sheet
    }

    /// Mirrored left to right.
    pub fn flip_horizontal(mut self) -> Self {
        for row in self.data.chunks_exact_mut(self.width * self.channels) {
            match self.channels {
                1 => row.reverse(),
                3 => row.as_chunks_mut::<3>().0.reverse(),
                _ => row.as_chunks_mut::<4>().0.reverse(),
            }
        }
        self
    }

    /// Mirrored top to bottom.
    pub fn flip_vertical(mut self) -> Self {
        let n = self.width * self.channels;
        let h = self.height;
        for y in 0..h / 2 {
            let (upper, lower) = self.data.split_at_mut((h - 1 - y) * n);
            upper[y * n..(y + 1) * n].swap_with_slice(&mut lower[..n]);
        }
        self
    }
}

/// ITU-R 601 luma as Pillow computes it.
pub(crate) fn luma(r: u8, g: u8, b: u8) -> u8 {
    ((u32::from(r) * 19_595 + u32::from(g) * 38_470 + u32::from(b) * 7_471 + 0x8000) >> 16) as u8
}

/// Rounding as Python's `round`: halves to the even neighbour.
pub(crate) fn round_half_even(x: f64) -> f64 {
    x.round_ties_even()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ramp(width: usize, height: usize, channels: usize) -> Image {
        let data = (0..width * height * channels)
            .map(|i| (i % 251) as u8 + 1)
            .collect();
        Image {
            width,
            height,
            channels,
            data,
        }
    }

    #[test]
    fn wrong_lengths_are_refused() {
        assert!(Image::new(2, 2, 3, vec![0; 11]).is_err());
        assert!(Image::new(0, 2, 3, vec![]).is_err());
        assert!(Image::new(2, 2, 2, vec![0; 8]).is_err());
        assert!(Image::new(usize::MAX, 2, 4, vec![0; 8]).is_err());
    }

    #[test]
    fn alpha_is_dropped_and_luma_weighted() {
        let image = Image::new(1, 1, 4, vec![200, 100, 50, 0]).unwrap();
        assert_eq!(
            image.clone().to_channels(Channels::Rgb).data(),
            [200, 100, 50]
        );
        assert_eq!(image.to_channels(Channels::Grey).data(), [124]);
    }

    #[test]
    fn a_png_returns_the_picture() {
        for channels in [1, 3, 4] {
            let image = ramp(5, 3, channels);
            let png = image.to_png().unwrap();
            let back = crate::decode::decode(
                &png,
                std::path::Path::new("x"),
                crate::decode::Limits::default(),
            )
            .unwrap();
            assert_eq!(back.image, image);
        }
    }

    #[test]
    fn a_contact_sheet_holds_every_picture() {
        let pictures = [ramp(5, 3, 1), ramp(2, 4, 3), ramp(5, 3, 4)];
        let sheet = Image::contact_sheet(&pictures, 2);
        assert_eq!((sheet.width, sheet.height), (22, 20));
        assert_eq!(sheet.crop(13, 4, 2, 4), pictures[1]);
        assert_eq!(
            sheet.crop(4, 12, 5, 3),
            pictures[2].clone().to_channels(Channels::Rgb)
        );
        assert_eq!(Image::contact_sheet(&[], 0).channels, 3);
    }

    proptest! {
        /// Against the definition, pixel by pixel.
        #[test]
        fn crop_takes_what_is_there(w in 1usize..9, h in 1usize..9, left in -12isize..12, top in -12isize..12, cw in 1usize..9, ch in 1usize..9) {
            let image = ramp(w, h, 3);
            let out = image.crop(left, top, cw, ch);
            for y in 0..ch {
                for x in 0..cw {
                    let (sx, sy) = (left + x as isize, top + y as isize);
                    let inside = (0..w as isize).contains(&sx) && (0..h as isize).contains(&sy);
                    for k in 0..3 {
                        let expected = if inside { image.data[(sy as usize * w + sx as usize) * 3 + k] } else { 0 };
                        prop_assert_eq!(out.data[(y * cw + x) * 3 + k], expected);
                    }
                }
            }
        }

        #[test]
        fn flipping_twice_changes_nothing(w in 1usize..9, h in 1usize..9, c in prop::sample::select(vec![1usize, 3, 4])) {
            let image = ramp(w, h, c);
            prop_assert_eq!(&image.clone().flip_horizontal().flip_horizontal(), &image);
            prop_assert_eq!(&image.clone().flip_vertical().flip_vertical(), &image);
        }
    }
}
