//! Squeeze and excitation.

use burn::module::Module;
use burn::tensor::Tensor;

use crate::tap::tap;
use crate::{Activation, AdaptiveAvgPool2d, Conv2d, Conv2dConfig, Init, WeightInit, scale};

/// `torchvision.ops.SqueezeExcitation` on `[N, H, W, C]` (Hu et al., 2018): every channel is
/// scaled by a gate that two small layers compute from the channels' means.
#[derive(Module, Debug)]
pub struct SqueezeExcitation {
    /// `1x1`, channels to squeezed channels
    pub fc1: Conv2d,
    /// `1x1`, squeezed channels to channels
    pub fc2: Conv2d,
    #[module(skip)]
    activation: Activation,
    #[module(skip)]
    gate: Activation,
}

impl SqueezeExcitation {
    /// A gate over `channels` through `squeezed` channels, with `activation` between the two
    /// layers and `gate` after them.
    pub fn new(
        channels: usize,
        squeezed: usize,
        [activation, gate]: [Activation; 2],
        weights: WeightInit,
        init: &mut Init,
    ) -> Self {
        let conv = |from, to| Conv2dConfig::new(from, to, 1).with_init(weights);
        Self {
            fc1: conv(channels, squeezed).init(init),
            fc2: conv(squeezed, channels).init(init),
            activation,
            gate,
        }
    }

    /// `[N, H, W, C]` to the same shape.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let y = tap("avgpool", || AdaptiveAvgPool2d::new(1).forward(x.clone()));
        let y = self.activation.forward(tap("fc1", || self.fc1.forward(y)));
        let y = self.gate.forward(tap("fc2", || self.fc2.forward(y)));
        scale(x, y, None)
    }
}
