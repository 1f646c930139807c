//! Image models, one file a family, and the registry of their variants.
//!
//! ```
//! use burn::tensor::{Device, Tensor};
//! use lenslet_models::{ImageModel, variant};
//! use lenslet_nn::Init;
//!
//! let device = Device::flex();
//! let lenet = variant("lenet5").unwrap().build(10, &mut Init::seeded(&device, 0));
//! let logits = lenet.forward(Tensor::zeros([1, 1, 32, 32], &device));
//! assert_eq!(logits.dims(), [1, 10]);
//! ```

mod lenet;
mod model;
mod registry;

pub use lenet::{LeNet5, LeNet5Config};
pub use model::{ImageModel, Model};
pub use registry::{Variant, near_names, variant, variants};
