//! Element-wise activations.

use burn::tensor::{Tensor, activation};

/// An element-wise activation, as a value: layers take it as data so that it can be fused into
/// the operation in front of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `max(x, 0)`
    Relu,
    /// `tanh(x)`
    Tanh,
}

impl Activation {
    /// Applies the activation to every element.
    pub fn forward<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        match self {
            Activation::Relu => activation::relu(x),
            Activation::Tanh => activation::tanh(x),
        }
    }
}
