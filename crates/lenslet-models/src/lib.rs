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

// Modules are made once and stay in their vectors; boxes would only add indirection.
#![allow(clippy::large_enum_variant)]

pub mod alexnet;
pub mod backbone;
mod composed;
pub mod convnext;
mod darknet;
pub mod densenet;
pub mod detector;
pub mod efficientnet;
pub mod efficientnet_lite;
pub mod googlenet;
pub mod guide_convnext;
pub mod guide_vit;
mod imagenet;
pub mod inception;
pub mod lenet;
pub mod mnasnet;
pub mod mobilenet;
pub mod mobilenet_v3;
mod model;
mod naming;
mod plain;
mod published;
mod registry;
pub mod regnet;
pub mod resnet;
pub mod shufflenet;
pub mod squeezenet;
pub mod swin;
pub mod unet;
pub mod unet_over;
pub mod vgg;
pub mod vit;
mod weights;
pub mod yolo;

pub use composed::{composed, grey};
pub use imagenet::imagenet_classes;
pub use model::{ImageModel, Model, Output, Stage};
pub use naming::Naming;
pub use plain::SequentialNet;
pub use published::{PUBLISHED_URL, PublishedFile};
pub use registry::{BuildOptions, Published, Task, Variant, near_names, variant, variants};
pub use weights::{Auxiliary, Classes, LoadOptions, Loaded, ModelError, export};
