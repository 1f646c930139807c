//! Compiled inference of image models on the CPU.
//!
//! A model is captured as a graph ([`lenslet_graph::Graph`]), its layers are fused, every layer gets
//! a kernel and packed weights, every value a place in memory. What comes out is a [`Session`],
//! which any number of threads can run at once. Any Burn module will do:
//!
//! ```
//! use burn::nn::{Linear, LinearConfig, Relu, conv::{Conv2d, Conv2dConfig}};
//! use burn::{module::Module, tensor::{Device, Tensor}};
//! use lenslet_engine::{Engine, Options};
//!
//! #[derive(Module, Debug)]
//! struct Net { conv: Conv2d, fc: Linear }
//!
//! impl Net {
//!     fn forward(&self, x: Tensor<4>) -> Tensor<2> {
//!         self.fc.forward(Relu::new().forward(self.conv.forward(x)).flatten(1, 3))
//!     }
//! }
//!
//! let device = Device::flex();
//! let net = Net {
//!     conv: Conv2dConfig::new([3, 8], [3, 3]).init(&device),
//!     fc: LinearConfig::new(8 * 6 * 6, 10).init(&device),
//! };
//! let session = Engine::compile(&net, [1, 3, 8, 8], &Options::default(), Net::forward)?;
//! let logits = session.run(&vec![0.5; 3 * 8 * 8])?;
//! assert_eq!(logits.len(), 10);
//! # Ok::<(), lenslet_engine::EngineError>(())
//! ```
//!
//! Pictures of several sizes share one captured graph and its weights:
//!
//! ```
//! # use burn::nn::conv::{Conv2d, Conv2dConfig};
//! # use burn::tensor::Device;
//! # use lenslet_engine::{Engine, Options};
//! use lenslet_graph::Graph;
//!
//! let conv: Conv2d = Conv2dConfig::new([3, 8], [3, 3]).init(&Device::flex());
//! let graph = Graph::capture(&conv, [1, 3, 64, 64], Conv2d::forward)?;
//! let wide = Engine::compile_graph(graph.resized(&[1, 3, 64, 96])?, &Options::default())?;
//! assert_eq!(wide.run(&vec![0.5; 3 * 64 * 96])?.len(), 8 * 62 * 94);
//! # Ok::<(), lenslet_engine::EngineError>(())
//! ```

mod error;
mod fuse;
mod passes;
mod plan;
mod pointwise;
mod run;
mod session;
mod step;
mod view;
mod weight;

pub use error::EngineError;
pub use passes::PassInfo;
pub use session::{Engine, Options, Session, StepInfo};
