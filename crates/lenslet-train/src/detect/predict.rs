//! A trained detector on pictures.

use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use lenslet_data::{Image, Preprocess, decode};
use lenslet_models::{BuildOptions, ImageModel, Model};

use super::anchor::AnchorSpec;
use super::decode::{Detection, thinned};
use super::raw::Raw;
use crate::TrainError;

/// What a detector tells.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Thresholds {
    /// Boxes that it is less sure of are not told.
    pub score: f64,
    /// A box goes when a surer one of its class overlaps it by more.
    pub overlap: f64,
    /// Boxes a picture, at most.
    pub most: usize,
}

impl Thresholds {
    /// What people want to see.
    pub const SHOWN: Self = Self {
        score: 0.3,
        overlap: 0.45,
        most: 300,
    };
    /// What average precision looks at.
    pub const MEASURED: Self = Self {
        score: 0.005,
        overlap: 0.45,
        most: 300,
    };
}

/// A detector that is ready to work.
pub struct Detector<'a> {
    model: &'a Model,
    preprocess: Preprocess,
    spec: AnchorSpec,
    device: &'a Device,
}

impl<'a> Detector<'a> {
    /// A model in evaluation mode on `device`, which was built with `build`.
    pub fn new(
        model: &'a Model,
        preprocess: Preprocess,
        build: &BuildOptions,
        device: &'a Device,
    ) -> Self {
        Self {
            model,
            preprocess,
            spec: AnchorSpec::of(&preprocess, build),
            device,
        }
    }

    /// The boxes in letterboxed pictures, `images` being `[N, C, H, W]`, in pixels of the input.
    ///
    /// # Errors
    /// When the model is no detector.
    pub fn batch(
        &self,
        images: Vec<f32>,
        shape: [usize; 4],
        how: &Thresholds,
    ) -> Result<Vec<Vec<Detection>>, TrainError> {
        Ok(self.thinned(&self.raw(images, shape)?, how))
    }

    /// What the model gives for a batch.
    pub(super) fn raw(&self, images: Vec<f32>, shape: [usize; 4]) -> Result<Raw, TrainError> {
        let x = Tensor::<4>::from_data(TensorData::new(images, shape), self.device);
        Raw::of(&self.model.output(x))
    }

    /// The boxes that are told.
    pub(super) fn thinned(&self, raw: &Raw, how: &Thresholds) -> Vec<Vec<Detection>> {
        let found = raw.decode(&self.spec, how.score);
        let thin = |found| thinned(found, how.overlap, how.most);
        found.into_iter().map(thin).collect()
    }

    /// The boxes in a picture, in its pixels.
    ///
    /// # Errors
    /// As [`Detector::batch`].
    pub fn image(&self, image: &Image, how: &Thresholds) -> Result<Vec<Detection>, TrainError> {
        let [c, h, w] = self.preprocess.output_shape();
        let mut input = vec![0.0; self.preprocess.output_len()];
        let letterbox = self.preprocess.letterbox(image.width(), image.height());
        self.preprocess.apply(image.clone(), None, &mut input)?;
        let found = self.batch(input, [1, c, h, w], how)?;
        let back = found.into_iter().flatten().filter_map(|one| {
            let rect = letterbox.into_picture(&one.rect);
            rect.is_sound().then_some(Detection { rect, ..one })
        });
        Ok(back.collect())
    }

    /// The picture file `path` and the boxes in it.
    ///
    /// # Errors
    /// When the file cannot be read as a picture, or as [`Detector::batch`].
    pub fn file(
        &self,
        path: &Path,
        how: &Thresholds,
    ) -> Result<(Image, Vec<Detection>), TrainError> {
        let image = decode::read(path)?.image;
        let found = self.image(&image, how)?;
        Ok((image, found))
    }

    /// What the model's numbers mean.
    pub fn spec(&self) -> &AnchorSpec {
        &self.spec
    }
}

impl AnchorSpec {
    /// For inputs of `preprocess` to a model that was built with `build`.
    pub fn of(preprocess: &Preprocess, build: &BuildOptions) -> Self {
        Self {
            input: preprocess.crop,
            classes: build.num_classes,
            anchors: build.anchors.clone(),
        }
    }
}
