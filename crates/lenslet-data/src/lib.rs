//! Datasets, image decoding, transforms and loaders for image models.
//!
//! The path of a picture: a [`Dataset`] decodes it ([`decode`]), a [`Preprocess`] makes a model's input of it
//! ([`transform`]), a [`Loader`] does so on worker threads and hands out [`Batch`]es of plain `f32` in `[N, C, H, W]`.
//! Nothing here knows about models or tensors.
//!
//! ```
//! use lenslet_data::{Augment, Loader, LoaderConfig, Preprocess, mnist};
//! use std::sync::Arc;
//!
//! let digits = mnist::embedded()?;
//! let config = LoaderConfig { batch_size: 64, shuffle: true, seed: 7, ..LoaderConfig::default() };
//! let loader = Loader::new(Arc::new(digits.train), Preprocess::lenet5(), Some(Augment::digits()), config)?;
//! for batch in loader.epoch(0).take(2) {
//!     let batch = batch?;
//!     assert_eq!(batch.shape, [64, 1, 32, 32]);
//! }
//! # Ok::<(), lenslet_data::DataError>(())
//! ```

pub mod boxes;
pub mod check;
pub mod decode;
pub mod folder;
pub mod idx;
pub mod loader;
pub mod masks;
pub mod mix;
pub mod mnist;
pub mod npy;
pub mod rng;
pub mod scenes;
pub mod table;
pub mod transform;

mod dataset;
mod error;
mod files;
mod fingerprint;
mod picture;
mod split;

pub use dataset::{Dataset, Sample, Subset, class_counts};
pub use error::DataError;
pub use files::{FileDataset, FileEntry, images_in, natural_order};
pub use fingerprint::Fingerprint;
pub use idx::IdxDataset;
pub use loader::{Batch, Epoch, Loader, LoaderConfig, OnUnreadable, Pictures, Samples, Skipped};
pub use picture::{Channels, Image};
pub use rng::Rng;
pub use transform::{Augment, Interpolation, Joint, PerChannel, Preprocess, Resize};
