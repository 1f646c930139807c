//! A trained model on pictures of any size.

use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use lenslet_data::masks::{Mask, voc_palette};
use lenslet_data::transform::GREY;
use lenslet_data::{Channels, DataError, Image, Preprocess, decode};
use lenslet_models::{ImageModel, Model, Output};
use lenslet_nn::to_nhwc;

use super::tiles::Tiling;
use crate::TrainError;

/// Tiles a call, at most; bounds the memory.
const TILES: usize = 16;

/// A segmentation model that is ready to work.
pub struct Segmenter<'a> {
    model: &'a Model,
    preprocess: Preprocess,
    classes: usize,
    device: &'a Device,
}

/// A picture under the colours of its classes.
#[derive(Debug, Clone, PartialEq)]
pub struct Overlay(pub Image);

impl<'a> Segmenter<'a> {
    /// A model in evaluation mode on `device`, for so many classes.
    pub fn new(
        model: &'a Model,
        preprocess: Preprocess,
        classes: usize,
        device: &'a Device,
    ) -> Self {
        Self {
            model,
            preprocess,
            classes,
            device,
        }
    }

    /// The probabilities of the classes, told to `each` row by row from the top: `[width * classes]`.
    /// The memory taken grows with the width of the picture, not with its height.
    ///
    /// # Errors
    /// When the model gives no map of its input's size.
    pub fn rows(
        &self,
        image: &Image,
        each: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<(), TrainError> {
        let tiling = Tiling::new([image.height(), image.width()], self.preprocess.crop);
        let [tile_height, tile_width] = tiling.tile;
        let (width, classes) = (image.width(), self.classes);
        // A band of the picture, one tile high.
        let mut band = vec![0.0f32; tile_height * width * classes];
        for (number, &top) in tiling.rows().iter().enumerate() {
            for columns in tiling.columns().chunks(TILES) {
                let places: Vec<[usize; 2]> = columns.iter().map(|&left| [top, left]).collect();
                let probabilities = self.tiles(image, &places)?;
                let size = tile_height * tile_width * classes;
                for (&left, tile) in columns.iter().zip(probabilities.chunks_exact(size)) {
                    for y in 0..tile_height.min(image.height() - top) {
                        let wy = tiling.weight(0, y);
                        for x in 0..tile_width.min(width - left) {
                            let w = wy * tiling.weight(1, x);
                            let from = &tile[(y * tile_width + x) * classes..][..classes];
                            let at = (y * width + left + x) * classes;
                            for (to, p) in band[at..][..classes].iter_mut().zip(from) {
                                *to += w * p;
                            }
                        }
                    }
                }
            }
            let done = tiling.finished(number);
            let count = done.len();
            for (i, y) in done.enumerate() {
                let row = &mut band[i * width * classes..][..width * classes];
                for pixel in row.chunks_exact_mut(classes) {
                    let sum: f32 = pixel.iter().sum();
                    pixel.iter_mut().for_each(|p| *p /= sum);
                }
                each(y, row);
            }
            // What the next row of tiles adds to moves to the band's top.
            let moved = count.min(tile_height) * width * classes;
            band.copy_within(moved.., 0);
            let left_over = band.len() - moved;
            band[left_over..].fill(0.0);
        }
        Ok(())
    }

    /// Probabilities of tiles by their top left corners: `[tiles, height, width, classes]`.
    fn tiles(&self, image: &Image, places: &[[usize; 2]]) -> Result<Vec<f32>, TrainError> {
        let [channels, height, width] = self.preprocess.output_shape();
        let size = self.preprocess.output_len();
        let mut input = vec![0.0; places.len() * size];
        for ([top, left], to) in places.iter().zip(input.chunks_exact_mut(size)) {
            let part = image.crop_onto(*left as isize, *top as isize, width, height, GREY);
            self.preprocess.apply(part, None, to)?;
        }
        let shape = [places.len(), channels, height, width];
        let x = Tensor::<4>::from_data(TensorData::new(input, shape), self.device);
        let map = match self.model.output(x) {
            Output::Map(map) => to_nhwc(map),
            _ => {
                return Err(TrainError::Mismatch(
                    "the model gives no class for every pixel; choose one for segmentation, such as unet".into(),
                ));
            }
        };
        let dims = map.dims();
        if dims != [places.len(), height, width, self.classes] {
            return Err(TrainError::Mismatch(format!(
                "the model gives a map of {} x {} for inputs of {height} x {width}; choose an --input-size that it \
                 keeps, a multiple of 32",
                dims[1], dims[2]
            )));
        }
        let mut values: Vec<f32> = map.into_data().iter::<f32>().collect();
        for pixel in values.chunks_exact_mut(self.classes) {
            let largest = pixel.iter().fold(f32::NEG_INFINITY, |m, v| m.max(*v));
            let mut sum = 0.0;
            for v in pixel.iter_mut() {
                *v = (*v - largest).exp();
                sum += *v;
            }
            pixel.iter_mut().for_each(|v| *v /= sum);
        }
        Ok(values)
    }

    /// The likeliest class of every pixel.
    ///
    /// # Errors
    /// As [`Segmenter::rows`].
    pub fn mask(&self, image: &Image) -> Result<Mask, TrainError> {
        let mut classes = Vec::with_capacity(image.width() * image.height());
        self.rows(image, &mut |_, row| {
            classes.extend(row.chunks_exact(self.classes).map(likeliest));
        })?;
        Ok(Mask {
            width: image.width(),
            height: image.height(),
            classes,
        })
    }

    /// The picture file `path` and the likeliest class of each of its pixels.
    ///
    /// # Errors
    /// When the file cannot be read as a picture, or as [`Segmenter::rows`].
    pub fn file(&self, path: &Path) -> Result<(Image, Mask), TrainError> {
        let image = decode::read(path)?.image;
        let mask = self.mask(&image)?;
        Ok((image, mask))
    }
}

/// The class of the highest of these, the first of several.
pub(super) fn likeliest(pixel: &[f32]) -> u8 {
    let mut best = 0;
    for (class, p) in pixel.iter().enumerate() {
        if *p > pixel[best] {
            best = class;
        }
    }
    best as u8
}

impl Overlay {
    /// `image` with the colours of PASCAL VOC's palette over it where `mask` has another class than 0.
    ///
    /// # Errors
    /// None in a sound build.
    pub fn new(image: &Image, mask: &Mask) -> Result<Self, DataError> {
        let palette = voc_palette();
        let image = image.clone().to_channels(Channels::Rgb);
        let mut data = image.data().to_vec();
        for (pixel, &class) in data.chunks_exact_mut(3).zip(&mask.classes) {
            if class == 0 {
                continue;
            }
            for (level, colour) in pixel.iter_mut().zip(palette[usize::from(class)]) {
                *level = ((u16::from(*level) * 2 + u16::from(colour) * 3) / 5) as u8;
            }
        }
        Ok(Self(Image::new(image.width(), image.height(), 3, data)?))
    }
}
