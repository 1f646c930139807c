//! A detector's numbers, out of its tensors.

use burn::tensor::Tensor;
use lenslet_data::boxes::BoxLabel;
use lenslet_models::Output;

use super::LossValue;
use super::anchor::{AnchorSpec, anchor_loss};
use super::decode::{Detection, decode_anchors, decode_grid};
use super::grid::grid_loss;
use crate::TrainError;

/// What a detector gave for a batch.
pub(crate) enum Raw {
    /// Numbers and `[N, anchors, rows, columns, values]`, a scale each.
    Anchors(Vec<(Vec<f32>, [usize; 5])>),
    /// Numbers and `[N, rows, columns, values]`.
    Grid(Vec<f32>, [usize; 4]),
}

impl Raw {
    /// The numbers of `output`.
    ///
    /// # Errors
    /// When it is no detector's.
    pub fn of(output: &Output) -> Result<Self, TrainError> {
        match output {
            Output::Anchors(scales) => {
                let numbers = scales.iter().map(|s| (numbers(s), s.dims()));
                Ok(Self::Anchors(numbers.collect()))
            }
            Output::Grid(grid) => Ok(Self::Grid(numbers(grid), grid.dims())),
            _ => Err(TrainError::Mismatch(
                "the model finds no boxes; choose one for detection, such as yolo".into(),
            )),
        }
    }

    /// The loss against the boxes of each image, in pixels of the input, and its gradients.
    pub fn loss(&self, spec: &AnchorSpec, boxes: &[Vec<BoxLabel>]) -> LossValue {
        match self {
            Self::Anchors(scales) => {
                let outputs: Vec<(&[f32], [usize; 2])> = scales
                    .iter()
                    .map(|(values, [_, _, h, w, _])| (values.as_slice(), [*h, *w]))
                    .collect();
                anchor_loss(spec, &outputs, boxes)
            }
            Self::Grid(values, [_, h, w, _]) => {
                grid_loss(values, [*h, *w], spec.classes, spec.input, boxes)
            }
        }
    }

    /// The boxes in each image that are at least so sure, before suppression.
    pub fn decode(&self, spec: &AnchorSpec, least: f64) -> Vec<Vec<Detection>> {
        match self {
            Self::Anchors(scales) => {
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
                (0..images).map(of).collect()
            }
            Self::Grid(values, [images, h, w, _]) => {
                let each = values.chunks_exact((values.len() / images.max(&1)).max(1));
                let of = |raw: &[f32]| decode_grid(raw, [*h, *w], spec.classes, spec.input, least);
                each.map(of).collect()
            }
        }
    }
}

/// The numbers of `tensor`, in order.
pub(crate) fn numbers<const D: usize>(tensor: &Tensor<D>) -> Vec<f32> {
    let data = tensor.to_data().convert::<f32>();
    data.try_into_vec().expect("converted to this type")
}
