//! Pictures that explain how image models work: a convolution with its kernel, the filters and
//! feature maps of a model, where a classifier looks (Grad-CAM), and how much of a picture a unit
//! sees. All are drawn with [`lenslet_draw`], as SVG or PNG.

pub mod convolution;
mod error;
mod field;
mod gradcam;
mod grid;
mod maps;
mod picture;

pub use error::ExplainError;
pub use field::{FieldPicture, effective_field, field_scene};
pub use gradcam::{Heat, gradcam, gradcam_scene};
pub use maps::{Maps, feature_maps, filters, maps_scene};
