//! A class for every pixel: losses, measures, prediction in tiles.

mod loss;
mod predict;
mod scores;
mod tiles;

pub use loss::{PixelLoss, PixelLossValue, pixel_loss};
pub use predict::{Overlay, Segmenter};
pub use scores::{PixelScores, SegmentEvaluation, evaluate_masks};
pub use tiles::Tiling;
