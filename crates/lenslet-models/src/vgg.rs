//! VGG.
//!
//! K. Simonyan, A. Zisserman, *Very Deep Convolutional Networks for Large-Scale Image
//! Recognition*, ICLR 2015, table 1 (columns A, B, D, E), each also with batch normalisation.

use lenslet_nn::{
    Activation, BatchNorm2dConfig, Conv2dConfig, Dropout, Init, LinearConfig, MaxPool2d,
    Sequential, WeightInit,
};

use crate::plain::SequentialNet;
use crate::registry::Build;
use crate::{BuildOptions, Published, Variant};

/// Channels of the five stages.
const WIDTHS: [usize; 5] = [64, 128, 256, 512, 512];

/// What a VGG is built from.
#[derive(Debug, Clone)]
pub struct VggConfig {
    depths: [usize; 5],
    batch_norm: bool,
}

impl VggConfig {
    /// Convolutions in each of the five stages, with or without batch normalisation.
    pub fn new(depths: [usize; 5], batch_norm: bool) -> Self {
        Self { depths, batch_norm }
    }

    /// Column A: 11 layers.
    pub fn vgg11(batch_norm: bool) -> Self {
        Self::new([1, 1, 2, 2, 2], batch_norm)
    }

    /// The stages of 3x3 convolutions, each ending in a pool; and where they end.
    pub(crate) fn features(&self, init: &mut Init) -> (Sequential, Vec<(usize, usize, usize)>) {
        let mut features = Sequential::new();
        let mut stages = Vec::new();
        let mut channels = 3;
        for (i, (&depth, &width)) in self.depths.iter().zip(&WIDTHS).enumerate() {
            for _ in 0..depth {
                let conv = Conv2dConfig::new(channels, width, 3)
                    .with_padding(1)
                    .with_init(WeightInit::KaimingNormalFanOut);
                features.push(conv.init(init).into());
                if self.batch_norm {
                    features.push(BatchNorm2dConfig::new(width).init(init).into());
                }
                features.push(Activation::Relu.into());
                channels = width;
            }
            features.push(MaxPool2d::new(2, 2).into());
            stages.push((features.len() - 1, width, 2 << i));
        }
        (features, stages)
    }

    /// Makes the network: convolutions after He et al. by the outputs, linear layers normal with
    /// a deviation of 0.01.
    pub fn init(&self, options: &BuildOptions, init: &mut Init) -> SequentialNet {
        let (features, stages) = self.features(init);
        let dropout = options.dropout.unwrap_or(0.5);
        let linear = |from, to| LinearConfig::new(from, to).with_init(WeightInit::Normal(0.01));
        let classifier = vec![
            linear(512 * 7 * 7, 4096).init(init).into(),
            Activation::Relu.into(),
            Dropout::new(dropout).into(),
            linear(4096, 4096).init(init).into(),
            Activation::Relu.into(),
            Dropout::new(dropout).into(),
            options.head(linear(4096, options.num_classes), init).into(),
        ];
        SequentialNet::new(features, Some(7), classifier, stages)
    }
}

const fn base(name: &'static str, build: Build) -> Variant {
    Variant {
        family: "VGG",
        year: 2014,
        paper: "Simonyan and Zisserman, Very Deep Convolutional Networks for Large-Scale Image \
                Recognition",
        classifier: "classifier.6",
        first_conv: "features.0",
        ..Variant::imagenet(name, build)
    }
}

macro_rules! vgg {
    ($name:literal, $depths:expr, $batch_norm:literal, $top1:literal, $top5:literal) => {
        Variant {
            published: Published::v1($top1, $top5),
            ..base($name, |o, i| {
                VggConfig::new($depths, $batch_norm).init(o, i).into()
            })
        }
    };
}

pub(crate) static VARIANTS: &[Variant] = &[
    vgg!("vgg11", [1, 1, 2, 2, 2], false, 69.02, 88.628),
    vgg!("vgg11_bn", [1, 1, 2, 2, 2], true, 70.37, 89.81),
    vgg!("vgg13", [2, 2, 2, 2, 2], false, 69.928, 89.246),
    vgg!("vgg13_bn", [2, 2, 2, 2, 2], true, 71.586, 90.374),
    vgg!("vgg16", [2, 2, 3, 3, 3], false, 71.592, 90.382),
    vgg!("vgg16_bn", [2, 2, 3, 3, 3], true, 73.36, 91.516),
    vgg!("vgg19", [2, 2, 4, 4, 4], false, 72.376, 90.876),
    vgg!("vgg19_bn", [2, 2, 4, 4, 4], true, 74.218, 91.842),
];
