//! `torch.nn.Sequential`: layers by position.

use burn::module::Module;
use burn::tensor::Tensor;

use crate::{Activation, AvgPool2d, Conv2d, Linear};

/// One entry of a [`Sequential`].
#[derive(Module, Debug)]
pub enum Layer {
    /// A convolution.
    Conv2d(Conv2d),
    /// A fully connected layer over the channels.
    Linear(Linear),
    /// Average pooling.
    AvgPool2d(AvgPool2d),
    /// An element-wise activation.
    Activation(ActivationLayer),
}

/// An [`Activation`] that takes a place of its own in a [`Sequential`], so that the layers after
/// it keep PyTorch's numbers.
#[derive(Module, Debug)]
pub struct ActivationLayer {
    #[module(skip)]
    kind: Activation,
}

impl From<Conv2d> for Layer {
    fn from(layer: Conv2d) -> Self {
        Layer::Conv2d(layer)
    }
}

impl From<Linear> for Layer {
    fn from(layer: Linear) -> Self {
        Layer::Linear(layer)
    }
}

impl From<AvgPool2d> for Layer {
    fn from(layer: AvgPool2d) -> Self {
        Layer::AvgPool2d(layer)
    }
}

impl From<Activation> for Layer {
    fn from(kind: Activation) -> Self {
        Layer::Activation(ActivationLayer { kind })
    }
}

impl Layer {
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        match self {
            Layer::Conv2d(layer) => layer.forward(x),
            Layer::Linear(layer) => layer.forward(x),
            Layer::AvgPool2d(layer) => layer.forward(x),
            Layer::Activation(layer) => layer.kind.forward(x),
        }
    }
}

/// `torch.nn.Sequential` on `[N, H, W, C]`; parameters are named by position (`0.weight`).
pub type Sequential = Vec<Layer>;

/// Runs the layers one after the other.
pub fn forward_sequential(layers: &[Layer], x: Tensor<4>) -> Tensor<4> {
    layers.iter().fold(x, |x, layer| layer.forward(x))
}

/// Runs the layers one after the other on vectors `[N, features]`, as a classifier does.
pub fn forward_head(layers: &[Layer], x: Tensor<2>) -> Tensor<2> {
    let [n, features] = x.dims();
    let y = forward_sequential(layers, x.reshape([n, 1, 1, features]));
    let features = y.dims()[3];
    y.reshape([n, features])
}
