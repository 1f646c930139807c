//! LeNet-5.
//!
//! Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, *Gradient-Based Learning Applied to Document
//! Recognition*, Proceedings of the IEEE 86(11), 1998, section II.B. As the guide defines it: C3
//! is connected to every map of S2, the pools have no coefficients, the output is linear.

use burn::module::Module;
use burn::tensor::Tensor;
use lenslet_nn::{
    Activation, AvgPool2d, Conv2dConfig, Init, LinearConfig, Sequential, flatten, forward_head,
    forward_sequential, to_nchw, to_nhwc,
};

use crate::ImageModel;

/// What a [`LeNet5`] is built from.
#[derive(Debug, Clone)]
pub struct LeNet5Config {
    num_classes: usize,
}

impl LeNet5Config {
    /// A network that tells `num_classes` classes apart.
    pub fn new(num_classes: usize) -> Self {
        Self { num_classes }
    }

    /// Makes the network with PyTorch's default values.
    pub fn init(&self, init: &mut Init) -> LeNet5 {
        let features: Sequential = vec![
            Conv2dConfig::new(1, 6, 5).init(init).into(), // C1: 1@32x32 -> 6@28x28
            Activation::Tanh.into(),
            AvgPool2d::new(2, 2).into(),                   // S2: 6@14x14
            Conv2dConfig::new(6, 16, 5).init(init).into(), // C3: 16@10x10
            Activation::Tanh.into(),
            AvgPool2d::new(2, 2).into(),                     // S4: 16@5x5
            Conv2dConfig::new(16, 120, 5).init(init).into(), // C5: 120@1x1
            Activation::Tanh.into(),
        ];
        let classifier: Sequential = vec![
            LinearConfig::new(120, 84).init(init).into(), // F6
            Activation::Tanh.into(),
            LinearConfig::new(84, self.num_classes).init(init).into(),
        ];
        LeNet5 {
            features,
            classifier,
        }
    }
}

/// LeNet-5: three convolutions, two pools, two linear layers, all with tanh.
#[derive(Module, Debug)]
pub struct LeNet5 {
    features: Sequential,
    classifier: Sequential,
}

/// Where the stages end in `features`: S2, S4, C5.
const STAGE_ENDS: [usize; 3] = [3, 6, 8];

impl ImageModel for LeNet5 {
    fn forward(&self, x: Tensor<4>) -> Tensor<2> {
        forward_head(&self.classifier[2..], self.embed(x))
    }

    fn stages(&self, x: Tensor<4>) -> Vec<Tensor<4>> {
        let mut x = to_nhwc(x);
        let mut start = 0;
        STAGE_ENDS
            .iter()
            .map(|&end| {
                x = forward_sequential(&self.features[start..end], x.clone());
                start = end;
                to_nchw(x.clone())
            })
            .collect()
    }

    fn embed(&self, x: Tensor<4>) -> Tensor<2> {
        let x = flatten(forward_sequential(&self.features, to_nhwc(x)));
        forward_head(&self.classifier[..2], x)
    }
}
