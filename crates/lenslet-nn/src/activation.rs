//! Element-wise activations.

use burn::tensor::{Tensor, activation};

use crate::cpu;

/// An element-wise activation, as a value: layers take it as data so that it can be fused into
/// the operation in front of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Activation {
    /// `max(x, 0)`
    Relu,
    /// `min(max(x, 0), 6)`
    Relu6,
    /// `x` where positive, else `slope * x`
    LeakyRelu {
        /// Factor of negative inputs (PyTorch's default is 0.01).
        slope: f32,
    },
    /// `x * sigmoid(x)`, also called swish
    Silu,
    /// `x * hard_sigmoid(x)`
    HardSwish,
    /// `min(max(x / 6 + 1 / 2, 0), 1)`
    HardSigmoid,
    /// `x / 2 * (1 + erf(x / sqrt(2)))`
    Gelu,
    /// GELU by its approximation with tanh
    GeluTanh,
    /// `1 / (1 + exp(-x))`
    Sigmoid,
    /// `tanh(x)`
    Tanh,
}

impl Activation {
    /// Applies the activation, if there is one.
    pub(crate) fn apply<const D: usize>(activation: Option<Self>, x: Tensor<D>) -> Tensor<D> {
        match activation {
            Some(activation) => activation.forward(x),
            None => x,
        }
    }

    /// Whether its derivative can be had from its value.
    pub(crate) fn is_known_by_output(self) -> bool {
        cpu::is_known_by_output(self)
    }

    /// The activation as the first of two where it is known by its output (the operation in front can apply it then), else as the second.
    pub(crate) fn split(activation: Option<Self>) -> (Option<Self>, Option<Self>) {
        match activation {
            Some(known) if known.is_known_by_output() => (activation, None),
            _ => (None, activation),
        }
    }

    /// Applies the activation to every element.
    pub fn forward<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        if let Some(y) = cpu::activate(&x, self) {
            return y;
        }
        match self {
            Activation::Relu => activation::relu(x),
            Activation::Relu6 => activation::relu6(x),
            Activation::LeakyRelu { slope } => activation::leaky_relu(x, f64::from(slope)),
            Activation::Silu => activation::silu(x),
            Activation::HardSwish => activation::hard_swish(x),
            Activation::HardSigmoid => activation::hard_sigmoid(x, 1.0 / 6.0, 0.5),
            Activation::Gelu => activation::gelu(x),
            Activation::GeluTanh => activation::gelu_approximate(x),
            Activation::Sigmoid => activation::sigmoid(x),
            Activation::Tanh => activation::tanh(x),
        }
    }
}
