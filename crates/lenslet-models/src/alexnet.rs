//! AlexNet.
//!
//! A. Krizhevsky, I. Sutskever, G. E. Hinton, *ImageNet Classification with Deep Convolutional
//! Neural Networks*, NIPS 2012. The guide's definition has the paper's widths in one tower and its
//! local response normalisation (section 3.3); torchvision's is the single tower of A. Krizhevsky,
//! *One weird trick for parallelizing convolutional neural networks*, 2014.

use lenslet_nn::{
    Activation, Conv2dConfig, Dropout, Init, LinearConfig, LocalResponseNorm, MaxPool2d, Sequential,
};

use crate::plain::SequentialNet;
use crate::registry::Build;
use crate::{BuildOptions, Published, Variant};

/// What an AlexNet is built from.
#[derive(Debug, Clone)]
pub struct AlexNetConfig {
    widths: [usize; 5],
    response_norm: bool,
}

impl AlexNetConfig {
    /// The single tower of 2014, torchvision's.
    pub fn single_tower() -> Self {
        Self {
            widths: [64, 192, 384, 256, 256],
            response_norm: false,
        }
    }

    /// The widths of 2012 and local response normalisation, as the guide has it.
    pub fn guide() -> Self {
        Self {
            widths: [96, 256, 384, 384, 256],
            response_norm: true,
        }
    }

    /// Makes the network with PyTorch's default values.
    pub fn init(&self, options: &BuildOptions, init: &mut Init) -> SequentialNet {
        let [c1, c2, c3, c4, c5] = self.widths;
        let dropout = options.dropout.unwrap_or(0.5);
        let mut features = Sequential::new();
        let mut stages = Vec::new();
        let convs = [
            (
                Conv2dConfig::new(3, c1, 11).with_stride(4).with_padding(2),
                true,
            ),
            (Conv2dConfig::new(c1, c2, 5).with_padding(2), true),
            (Conv2dConfig::new(c2, c3, 3).with_padding(1), false),
            (Conv2dConfig::new(c3, c4, 3).with_padding(1), false),
            (Conv2dConfig::new(c4, c5, 3).with_padding(1), true),
        ];
        for (i, (conv, pooled)) in convs.iter().enumerate() {
            features.push(conv.init(init).into());
            features.push(Activation::Relu.into());
            if *pooled {
                if self.response_norm && i < 2 {
                    features.push(LocalResponseNorm::new(5, 1e-4, 0.75, 2.0).into());
                }
                features.push(MaxPool2d::new(3, 2).into());
                stages.push((features.len() - 1, conv.out_channels(), 8 << stages.len()));
            }
        }
        let classifier = vec![
            Dropout::new(dropout).into(),
            LinearConfig::new(c5 * 6 * 6, 4096).init(init).into(),
            Activation::Relu.into(),
            Dropout::new(dropout).into(),
            LinearConfig::new(4096, 4096).init(init).into(),
            Activation::Relu.into(),
            options
                .head(LinearConfig::new(4096, options.num_classes), init)
                .into(),
        ];
        SequentialNet::new(features, Some(6), classifier, stages)
    }
}

const fn base(name: &'static str, build: Build) -> Variant {
    Variant {
        family: "AlexNet",
        year: 2012,
        paper: "Krizhevsky et al., ImageNet Classification with Deep Convolutional Neural Networks",
        min_size: 63,
        classifier: "classifier.6",
        first_conv: "features.0",
        ..Variant::imagenet(name, build)
    }
}

pub(crate) static VARIANTS: &[Variant] = &[
    Variant {
        year: 2014,
        paper: "Krizhevsky, One weird trick for parallelizing convolutional neural networks",
        published: Published::v1(56.522, 79.066),
        ..base("alexnet", |o, i| {
            AlexNetConfig::single_tower().init(o, i).into()
        })
    },
    Variant {
        licence: "MIT OR Apache-2.0",
        ..base("guide_alexnet", |o, i| {
            AlexNetConfig::guide().init(o, i).into()
        })
    },
];
