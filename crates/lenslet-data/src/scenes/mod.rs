//! Pictures to try segmentation and detection on, made of real digits: MNIST's, in colour, of several sizes, turned a
//! little, partly over each other, on textured backgrounds. What is drawn depends on the seed and nothing else.

mod draw;
mod texture;
mod write;

pub use draw::{Scene, draw};
pub use write::{BoxFormat, MaskKind, SceneKind, SceneOptions, Written, write};

#[cfg(test)]
mod tests;
