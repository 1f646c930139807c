//! The layers image models are made of: Burn modules with PyTorch's names, shapes and defaults.
//!
//! Inside a model tensors are logically `[N, H, W, C]`; a model's public edge takes and gives
//! `[N, C, H, W]` (see [`to_nhwc`] and [`to_nchw`]). Parameters keep PyTorch's names and shapes
//! (`weight: [out, in / groups, kh, kw]`, `[out, in]`), so a state dictionary needs no key map.

mod activation;
mod conv;
mod init;
mod linear;
mod pool;
mod sequential;
mod state;

pub use activation::Activation;
pub use conv::{Conv2d, Conv2dConfig};
pub use init::Init;
pub use linear::{Linear, LinearConfig};
pub use pool::AvgPool2d;
pub use sequential::{ActivationLayer, Layer, Sequential, forward_head, forward_sequential};
pub use state::{
    LoadError, ModulePath, StateDict, is_buffer, load_state_dict, num_params, state_dict,
};

use burn::tensor::Tensor;

/// `[N, C, H, W]` to `[N, H, W, C]`, a view.
pub fn to_nhwc(x: Tensor<4>) -> Tensor<4> {
    x.permute([0, 2, 3, 1])
}

/// `[N, H, W, C]` to `[N, C, H, W]`, a view.
pub fn to_nchw(x: Tensor<4>) -> Tensor<4> {
    x.permute([0, 3, 1, 2])
}

/// Flattens `[N, H, W, C]` to `[N, C * H * W]` in PyTorch's order (channel outermost), as
/// `torch.flatten(x, 1)` does before a classifier.
pub fn flatten(x: Tensor<4>) -> Tensor<2> {
    let [n, h, w, c] = x.dims();
    to_nchw(x).reshape([n, c * h * w])
}
