//! Boxes with classes: targets, losses, decoding, measures, prediction.

mod anchor;
mod anchors;
mod ciou;
mod decode;
mod draw;
mod dual;
mod evaluate;
mod grid;
mod predict;
mod raw;

pub use anchor::{AnchorSpec, anchor_loss};
pub use anchors::find_anchors;
pub use ciou::ciou_loss;
pub use decode::{Detection, decode_anchors, decode_grid};
pub use draw::draw_boxes;
pub use evaluate::{DetectEvaluation, evaluate_boxes};
pub use grid::grid_loss;
pub use predict::{Detector, Thresholds};
pub(crate) use raw::{Raw, numbers};

/// A loss and its gradient by every number that the model gave.
#[derive(Debug, Clone, PartialEq)]
pub struct LossValue {
    /// The loss.
    pub loss: f64,
    /// In the order of the outputs, one list a scale.
    pub gradients: Vec<Vec<f32>>,
}
