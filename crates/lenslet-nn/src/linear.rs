//! Fully connected layer.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use crate::Init;

/// What `torch.nn.Linear` takes.
#[derive(Debug, Clone)]
pub struct LinearConfig {
    in_features: usize,
    out_features: usize,
    bias: bool,
}

impl LinearConfig {
    /// A layer with a bias.
    pub fn new(in_features: usize, out_features: usize) -> Self {
        Self {
            in_features,
            out_features,
            bias: true,
        }
    }

    /// Whether a value per output is added.
    pub fn with_bias(mut self, bias: bool) -> Self {
        self.bias = bias;
        self
    }

    /// Makes the layer with PyTorch's default values: weight and bias uniform in
    /// `±1 / sqrt(in_features)`.
    pub fn init(&self, init: &mut Init) -> Linear {
        let bound = 1.0 / (self.in_features as f64).sqrt();
        Linear {
            weight: init.uniform([self.out_features, self.in_features], bound),
            bias: self.bias.then(|| init.uniform([self.out_features], bound)),
        }
    }
}

/// `torch.nn.Linear`: `y = x * weight^T + bias`.
#[derive(Module, Debug)]
pub struct Linear {
    /// `[out_features, in_features]`
    pub weight: Param<Tensor<2>>,
    /// `[out_features]`
    pub bias: Option<Param<Tensor<1>>>,
}

impl Linear {
    /// `[…, in_features]` to `[…, out_features]`.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let mut shape = x.dims();
        let [out_features, in_features] = self.weight.lazy_shape().dims();
        shape[D - 1] = out_features;
        let y = x
            .reshape([-1, in_features as isize])
            .matmul(self.weight.val().transpose());
        match &self.bias {
            Some(bias) => (y + bias.val().unsqueeze()).reshape(shape),
            None => y.reshape(shape),
        }
    }
}
