//! The layers image models are made of: Burn modules with PyTorch's names, shapes and defaults.
//!
//! Inside a model tensors are logically `[N, H, W, C]`; a model's public edge takes and gives
//! `[N, C, H, W]` (see [`to_nhwc`] and [`to_nchw`]). Parameters keep PyTorch's names and shapes
//! (`weight: [out, in / groups, kh, kw]`, `[out, in]`), so a state dictionary needs no key map.

// Modules are made once and stay in their vectors; boxes would only add indirection.
#![allow(clippy::large_enum_variant)]

mod activation;
mod attention;
mod buffer;
mod conv;
mod cpu;
mod dropout;
mod fused;
mod head;
mod in_place;
mod init;
mod linear;
mod loss;
mod named;
mod norm;
mod pool;
mod residual;
mod sequential;
mod shape;
mod squeeze_excitation;
mod state;
pub mod tap;
pub mod timing;

pub use activation::Activation;
pub use attention::{
    MultiHeadAttention, MultiHeadAttentionConfig, first_attention, self_attention,
};
pub use buffer::Buffer;
pub use conv::{Conv2d, Conv2dConfig, ConvTranspose2d, ConvTranspose2dConfig, Padding};
pub use dropout::{Dropout, StochasticDepth};
pub use fused::conv_bn_act;
pub use head::{Head, HeadKind};
pub use in_place::{change_in_place, sum_of_squares};
pub use init::{BiasInit, Init, WeightInit};
pub use linear::{Linear, LinearConfig};
pub use loss::{cross_entropy, known_loss};
pub use named::Named;
pub use norm::{
    BatchNorm2d, BatchNorm2dConfig, GroupNorm, LayerNorm, LayerNormConfig, LocalResponseNorm,
};
pub use pool::{AdaptiveAvgPool2d, AvgPool2d, MaxPool2d, global_avg_pool};
pub use residual::Residual;
pub use sequential::{
    ActivationLayer, Identity, Layer, Sequential, conv_norm_act, forward_branch, forward_head,
    forward_range, forward_sequential, forward_tokens,
};
pub use shape::{
    Interpolation, add, channel_shuffle, concat, flatten, resize, scale, to_nchw, to_nhwc,
};
pub use squeeze_excitation::SqueezeExcitation;
pub use state::{
    LoadError, ModulePath, StateDict, is_buffer, load_state_dict, num_params, state_dict,
    tensor_shapes,
};
