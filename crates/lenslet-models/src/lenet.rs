//! LeNet-5.
//!
//! Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, *Gradient-Based Learning Applied to Document
//! Recognition*, Proceedings of the IEEE 86(11), 1998, section II.B. As the guide defines it: C3
//! is connected to every map of S2, the pools have no coefficients, the output is linear.

use lenslet_data::Preprocess;
use lenslet_nn::{
    Activation, AvgPool2d, Conv2dConfig, Head, HeadKind, Init, LinearConfig, Sequential,
};

pub use crate::plain::SequentialNet;
use crate::{BuildOptions, Variant};

/// What LeNet-5 is built from: three convolutions, two pools, two linear layers, all with tanh.
#[derive(Debug, Clone)]
pub struct LeNet5Config {
    num_classes: usize,
    head: HeadKind,
}

impl LeNet5Config {
    /// A network that tells `num_classes` classes apart.
    pub fn new(num_classes: usize) -> Self {
        Self {
            num_classes,
            head: HeadKind::Own,
        }
    }

    /// With another last layer.
    pub fn with_head(mut self, head: HeadKind) -> Self {
        self.head = head;
        self
    }

    /// Makes the network with PyTorch's default values.
    pub fn init(&self, init: &mut Init) -> SequentialNet {
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
            Head::new(self.head, LinearConfig::new(84, self.num_classes), init).into(),
        ];
        let stages = [(2, 6, 2), (5, 16, 4)];
        SequentialNet::new(features, None, classifier, stages)
    }
}

pub(crate) static VARIANTS: &[Variant] = &[Variant {
    family: "LeNet",
    year: 1998,
    paper: "LeCun et al., Gradient-Based Learning Applied to Document Recognition",
    licence: "MIT OR Apache-2.0",
    input: [1, 32, 32],
    num_classes: 10,
    preprocess: Preprocess::lenet5(),
    classifier: "classifier.2",
    first_conv: "features.0",
    ..Variant::imagenet("lenet5", |o: &BuildOptions, init| {
        LeNet5Config::new(o.num_classes)
            .with_head(o.head)
            .init(init)
            .into()
    })
}];
