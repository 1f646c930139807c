//! DenseNet.
//!
//! G. Huang, Z. Liu, L. van der Maaten, K. Q. Weinberger, *Densely Connected Convolutional
//! Networks*, CVPR 2017, table 1 (DenseNet-BC: bottleneck of four growth rates, compression 0.5).

use burn::module::Module;
use burn::tensor::Tensor;
use lenslet_nn::tap::tap;
use lenslet_nn::{
    Activation, AdaptiveAvgPool2d, AvgPool2d, BatchNorm2d, BatchNorm2dConfig, BiasInit, Conv2d,
    Conv2dConfig, Head, Init, LinearConfig, MaxPool2d, Named, WeightInit, concat, conv_bn_act,
    flatten, to_nhwc,
};

use crate::model::{ImageModel, Stage, Taken};
use crate::registry::Build;
use crate::{BuildOptions, Published, Variant, naming};

const RELU: Activation = Activation::Relu;

/// A dense layer: normalise, 1x1 convolution to four growth rates, normalise, 3x3 convolution.
#[derive(Module, Debug)]
pub struct DenseLayer {
    norm1: BatchNorm2d,
    conv1: Conv2d,
    norm2: BatchNorm2d,
    conv2: Conv2d,
}

impl DenseLayer {
    /// A layer that makes `growth` new maps of `channels` old ones.
    pub fn new(channels: usize, growth: usize, weights: WeightInit, init: &mut Init) -> Self {
        let conv = |from, to, k| {
            Conv2dConfig::new(from, to, k)
                .with_padding(k / 2)
                .with_bias(false)
                .with_init(weights)
        };
        Self {
            norm1: BatchNorm2dConfig::new(channels).init(init),
            conv1: conv(channels, 4 * growth, 1).init(init),
            norm2: BatchNorm2dConfig::new(4 * growth).init(init),
            conv2: conv(4 * growth, growth, 3).init(init),
        }
    }

    /// `[N, H, W, channels]` to `[N, H, W, growth]`.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let x = RELU.forward(tap("norm1", || self.norm1.forward(x)));
        let (conv1, norm2) = (("conv1", &self.conv1), ("norm2", &self.norm2));
        let x = conv_bn_act(conv1, norm2, Some(RELU), None, x);
        tap("conv2", || self.conv2.forward(x))
    }
}

/// Halves channels, rows and columns between two dense blocks.
#[derive(Module, Debug)]
pub struct Transition {
    norm: BatchNorm2d,
    conv: Conv2d,
}

impl Transition {
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let x = RELU.forward(tap("norm", || self.norm.forward(x)));
        let x = tap("conv", || self.conv.forward(x));
        tap("pool", || AvgPool2d::new(2, 2).forward(x))
    }
}

/// One entry of a DenseNet's `features`.
#[derive(Module, Debug)]
enum Part {
    Conv(Conv2d),
    Norm(BatchNorm2d),
    Block(Named<DenseLayer>),
    Transition(Transition),
}

/// Names that differ between torchvision's definition and the guide's.
#[derive(Debug, Clone)]
struct Names {
    conv: &'static str,
    norm: &'static str,
    pool: &'static str,
    last_norm: &'static str,
    /// Of a layer in its block, before its number, and the first number.
    layer: (&'static str, usize),
}

const TORCHVISION: Names = Names {
    conv: "conv0",
    norm: "norm0",
    pool: "pool0",
    last_norm: "norm5",
    layer: ("denselayer", 1),
};

const GUIDE: Names = Names {
    conv: "0",
    norm: "1",
    pool: "3",
    last_norm: "norm_final",
    layer: ("layers.", 0),
};

/// What a DenseNet is built from.
#[derive(Debug, Clone)]
pub struct DenseNetConfig {
    growth: usize,
    depths: [usize; 4],
    first: usize,
    names: Names,
    weights: WeightInit,
}

impl DenseNetConfig {
    /// New maps a layer, layers in each block, and maps of the stem; torchvision's names.
    pub fn new(growth: usize, depths: [usize; 4], first: usize) -> Self {
        Self {
            growth,
            depths,
            first,
            names: TORCHVISION,
            weights: WeightInit::KaimingNormalFanIn,
        }
    }

    /// The guide's DenseNet-121, with its names and PyTorch's default values.
    pub fn guide() -> Self {
        Self {
            names: GUIDE,
            weights: WeightInit::Default,
            ..Self::new(32, [6, 12, 24, 16], 64)
        }
    }

    /// Makes the network: convolutions after He et al. by the inputs, the classifier's bias zero.
    pub fn init(&self, options: &BuildOptions, init: &mut Init) -> DenseNet {
        let conv = |from, to, k| {
            Conv2dConfig::new(from, to, k)
                .with_padding(k / 2)
                .with_bias(false)
                .with_init(self.weights)
        };
        let names = &self.names;
        let stem = conv(3, self.first, 7).with_stride(2).init(init);
        let norm = BatchNorm2dConfig::new(self.first).init(init);
        let mut features = vec![
            (names.conv.to_string(), Part::Conv(stem)),
            (names.norm.to_string(), Part::Norm(norm)),
        ];
        let mut stages = Vec::new();
        let mut channels = self.first;
        for (i, &depth) in self.depths.iter().enumerate() {
            let block = (0..depth).map(|l| {
                let from = channels + l * self.growth;
                let (layer, first) = names.layer;
                let name = format!("{layer}{}", l + first);
                (name, DenseLayer::new(from, self.growth, self.weights, init))
            });
            let name = format!("denseblock{}", i + 1);
            features.push((name.clone(), Part::Block(block.collect())));
            channels += depth * self.growth;
            stages.push(Stage::new(name, channels, 4 << i));
            if i + 1 < self.depths.len() {
                let transition = Transition {
                    norm: BatchNorm2dConfig::new(channels).init(init),
                    conv: conv(channels, channels / 2, 1).init(init),
                };
                features.push((format!("transition{}", i + 1), Part::Transition(transition)));
                channels /= 2;
            }
        }
        let norm = BatchNorm2dConfig::new(channels).init(init);
        features.push((names.last_norm.to_string(), Part::Norm(norm)));
        let bias = match self.weights {
            WeightInit::Default => BiasInit::Default,
            _ => BiasInit::Zeros,
        };
        let classifier = LinearConfig::new(channels, options.num_classes).with_bias_init(bias);
        DenseNet {
            features: features.into_iter().collect(),
            classifier: options.head(classifier, init),
            pool: names.pool,
            stages,
        }
    }
}

/// A stem, four dense blocks with transitions between them, a mean and a linear layer.
#[derive(Module, Debug)]
pub struct DenseNet {
    features: Named<Part>,
    classifier: Head,
    #[module(skip)]
    pool: &'static str,
    #[module(skip)]
    stages: Vec<Stage>,
}

impl DenseNet {
    fn features(&self, x: Tensor<4>, taken: &mut Taken) -> Tensor<4> {
        let x = tap("features", || {
            let mut x = to_nhwc(x);
            let mut parts = self.features.iter();
            let stem = (parts.next(), parts.next());
            if let (Some((a, Part::Conv(conv))), Some((b, Part::Norm(norm)))) = stem {
                x = conv_bn_act((a, conv), (b, norm), Some(RELU), None, x);
                let pool = MaxPool2d::new(3, 2).with_padding(1);
                x = tap(self.pool, || pool.forward(x));
            }
            for (name, part) in parts {
                x = tap(name, || match part {
                    Part::Conv(conv) => conv.forward(x),
                    Part::Norm(norm) => norm.forward(x),
                    Part::Block(layers) => dense_block(layers, x),
                    Part::Transition(transition) => transition.forward(x),
                });
                if let Part::Block(_) = part {
                    taken.offer(&x);
                }
            }
            x
        });
        RELU.forward(x)
    }
}

/// Every layer sees the maps of all layers before it.
fn dense_block(layers: &Named<DenseLayer>, x: Tensor<4>) -> Tensor<4> {
    layers.iter().fold(x, |x, (name, layer)| {
        let new = tap(name, || layer.forward(x.clone()));
        concat(vec![x, new])
    })
}

impl ImageModel for DenseNet {
    fn forward(&self, x: Tensor<4>) -> Tensor<2> {
        let x = self.embed(x);
        tap("classifier", || self.classifier.forward(x))
    }

    fn stages(&self, x: Tensor<4>) -> Vec<Tensor<4>> {
        Taken::from(|taken| self.features(x, taken))
    }

    fn stage_info(&self) -> Vec<Stage> {
        self.stages.clone()
    }

    fn embed(&self, x: Tensor<4>) -> Tensor<2> {
        let x = self.features(x, &mut Taken::none());
        flatten(tap("avgpool", || AdaptiveAvgPool2d::new(1).forward(x)))
    }

    fn classify(&self, features: Tensor<2>) -> Option<Tensor<2>> {
        Some(tap("classifier", || self.classifier.forward(features)))
    }
}

const fn base(name: &'static str, build: Build) -> Variant {
    Variant {
        family: "DenseNet",
        year: 2016,
        paper: "Huang et al., Densely Connected Convolutional Networks",
        min_size: 29,
        classifier: "classifier",
        first_conv: "features.conv0",
        naming: naming::DENSENET,
        ..Variant::imagenet(name, build)
    }
}

pub(crate) static VARIANTS: &[Variant] = &[
    Variant {
        published: Published::v1(74.434, 91.972),
        ..base("densenet121", |o, i| {
            DenseNetConfig::new(32, [6, 12, 24, 16], 64)
                .init(o, i)
                .into()
        })
    },
    Variant {
        published: Published::v1(77.138, 93.56),
        ..base("densenet161", |o, i| {
            DenseNetConfig::new(48, [6, 12, 36, 24], 96)
                .init(o, i)
                .into()
        })
    },
    Variant {
        published: Published::v1(75.6, 92.806),
        ..base("densenet169", |o, i| {
            DenseNetConfig::new(32, [6, 12, 32, 32], 64)
                .init(o, i)
                .into()
        })
    },
    Variant {
        published: Published::v1(76.896, 93.37),
        ..base("densenet201", |o, i| {
            DenseNetConfig::new(32, [6, 12, 48, 32], 64)
                .init(o, i)
                .into()
        })
    },
    Variant {
        licence: "MIT OR Apache-2.0",
        first_conv: "features.0",
        naming: &[],
        ..base("guide_densenet121", |o, i| {
            DenseNetConfig::guide().init(o, i).into()
        })
    },
];
