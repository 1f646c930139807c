//! Fully connected layer.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use crate::{Activation, BiasInit, Init, WeightInit, cpu};

/// What `torch.nn.Linear` takes.
#[derive(Debug, Clone)]
pub struct LinearConfig {
    in_features: usize,
    out_features: usize,
    bias: bool,
    weight_init: WeightInit,
    bias_init: BiasInit,
}

impl LinearConfig {
    /// A layer with a bias.
    pub fn new(in_features: usize, out_features: usize) -> Self {
        Self {
            in_features,
            out_features,
            bias: true,
            weight_init: WeightInit::Default,
            bias_init: BiasInit::Default,
        }
    }

    /// Whether a value per output is added.
    pub fn with_bias(mut self, bias: bool) -> Self {
        self.bias = bias;
        self
    }

    /// First values other than PyTorch's default; a bias starts at zero then.
    pub fn with_init(mut self, weight: WeightInit) -> Self {
        self.weight_init = weight;
        self.bias_init = BiasInit::Zeros;
        self
    }

    /// First values of the bias.
    pub fn with_bias_init(mut self, bias: BiasInit) -> Self {
        self.bias_init = bias;
        self
    }

    /// Features of the input and of the output.
    pub fn features(&self) -> (usize, usize) {
        (self.in_features, self.out_features)
    }

    /// Makes the layer. PyTorch's default values: weight and bias uniform in
    /// `±1 / sqrt(in_features)`.
    pub fn init(&self, init: &mut Init) -> Linear {
        let (inputs, outputs) = (self.in_features, self.out_features);
        Linear {
            weight: self.weight_init.weight(init, [outputs, inputs]),
            bias: self
                .bias
                .then(|| self.bias_init.bias(init, outputs, inputs)),
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
        self.forward_activated(x, None)
    }

    /// The same with an activation behind it, which costs no pass of its own where its derivative can be had from its value.
    pub fn forward_activated<const D: usize>(
        &self,
        x: Tensor<D>,
        activation: Option<Activation>,
    ) -> Tensor<D> {
        let bias = self.bias.as_ref().map(Param::val);
        linear(x, self.weight.val(), bias, [None, activation])
    }

    /// The layer behind an activation. In training that one's value is not kept for the backward pass but computed again, where its
    /// derivative needs its input, which is kept anyway.
    pub fn forward_of<const D: usize>(&self, activation: Activation, x: Tensor<D>) -> Tensor<D> {
        let bias = self.bias.as_ref().map(Param::val);
        linear(x, self.weight.val(), bias, [Some(activation), None])
    }
}

/// `y = after(before(x) * weight^T + bias)` on the last dimension.
pub(crate) fn linear<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
    [before, after]: [Option<Activation>; 2],
) -> Tensor<D> {
    let (fused, rest) = Activation::split(after);
    // An activation that is known by its output keeps nothing else.
    let (known, recomputed) = Activation::split(before);
    let x = Activation::apply(known, x);
    if let Some(y) = cpu::linear(&x, &weight, bias.as_ref(), [recomputed, fused]) {
        return Activation::apply(rest, y);
    }
    let x = Activation::apply(recomputed, x);
    let mut shape = x.dims();
    let [out_features, in_features] = weight.dims();
    shape[D - 1] = out_features;
    let rows = x.reshape([-1, in_features as isize]);
    let y = rows.matmul(weight.transpose());
    let y = match bias {
        Some(bias) => y + bias.unsqueeze(),
        None => y,
    };
    Activation::apply(after, y.reshape(shape))
}
