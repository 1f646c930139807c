//! A trained detector on pictures.

use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use lenslet_data::{Image, Preprocess, decode};
use lenslet_models::{BuildOptions, ImageModel, Model, Output};

use super::anchor::AnchorSpec;
use super::decode::{Detection, decode_anchors, decode_grid, thinned};
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
        most: 100,
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
        let x = Tensor::<4>::from_data(TensorData::new(images, shape), self.device);
        let found = decode(&self.spec, self.model.output(x), how.score)?;
        let thin = |found| thinned(found, how.overlap, how.most);
        Ok(found.into_iter().map(thin).collect())
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

/// The boxes of every image of a batch, before suppression.
fn decode(
    spec: &AnchorSpec,
    output: Output,
    least: f64,
) -> Result<Vec<Vec<Detection>>, TrainError> {
    match output {
        Output::Anchors(scales) => {
            let scales: Vec<(Vec<f32>, [usize; 5])> = scales
                .into_iter()
                .map(|scale| {
                    let dims = scale.dims();
                    (scale.into_data().iter::<f32>().collect(), dims)
                })
                .collect();
            let images = scales.first().map_or(0, |(_, dims)| dims[0]);
            let of = |image: usize| {
                let parts: Vec<(&[f32], [usize; 2])> = scales
                    .iter()
                    .map(|(values, [n, _, h, w, _])| {
                        let len = values.len() / n;
                        (&values[image * len..][..len], [*h, *w])
                    })
                    .collect();
                decode_anchors(spec, &parts, least)
            };
            Ok((0..images).map(of).collect())
        }
        Output::Grid(grid) => {
            let [images, h, w, _] = grid.dims();
            let values: Vec<f32> = grid.into_data().iter::<f32>().collect();
            let each = values.chunks_exact(values.len() / images.max(1));
            let of = |raw: &[f32]| decode_grid(raw, [h, w], spec.classes, spec.input, least);
            Ok(each.map(of).collect())
        }
        _ => Err(TrainError::Mismatch(
            "the model finds no boxes; choose one for detection, such as yolo".into(),
        )),
    }
}
