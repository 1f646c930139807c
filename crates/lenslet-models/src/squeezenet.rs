//! SqueezeNet.
//!
//! F. N. Iandola et al., *SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and <0.5MB
//! model size*, 2016, table 1; version 1.1 pools earlier (the authors' repository).

use burn::module::Module;
use burn::tensor::Tensor;
use lenslet_nn::tap::tap;
use lenslet_nn::{
    Activation, AdaptiveAvgPool2d, Conv2d, Conv2dConfig, Dropout, Init, Layer, MaxPool2d,
    Sequential, WeightInit, concat, flatten, forward_sequential, global_avg_pool, to_nhwc,
};

use crate::model::{ImageModel, Stage, Taken};
use crate::registry::Build;
use crate::{BuildOptions, Published, Variant};

const RELU: Activation = Activation::Relu;
const WEIGHTS: WeightInit = WeightInit::KaimingUniformFanIn;

/// Squeezes by 1x1, then expands by 1x1 and 3x3 side by side (figure 1).
#[derive(Module, Debug)]
pub struct Fire {
    squeeze: Conv2d,
    expand1x1: Conv2d,
    expand3x3: Conv2d,
}

impl Fire {
    /// `from` channels through `squeezed` to `expanded` of each kind.
    pub fn new(from: usize, squeezed: usize, expanded: usize, init: &mut Init) -> Self {
        let conv = |from, to, k| {
            Conv2dConfig::new(from, to, k)
                .with_padding(k / 2)
                .with_init(WEIGHTS)
        };
        Self {
            squeeze: conv(from, squeezed, 1).init(init),
            expand1x1: conv(squeezed, expanded, 1).init(init),
            expand3x3: conv(squeezed, expanded, 3).init(init),
        }
    }

    /// `[N, H, W, from]` to `[N, H, W, 2 * expanded]`.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let x = RELU.forward(tap("squeeze", || self.squeeze.forward(x)));
        let a = RELU.forward(tap("expand1x1", || self.expand1x1.forward(x.clone())));
        let b = RELU.forward(tap("expand3x3", || self.expand3x3.forward(x)));
        concat(vec![a, b])
    }
}

/// One entry of a SqueezeNet's `features`.
#[derive(Module, Debug)]
enum Part {
    Layer(Layer),
    Fire(Fire),
}

/// What a SqueezeNet is built from.
#[derive(Debug, Clone)]
pub struct SqueezeNetConfig {
    stem: (usize, usize),
    /// Positions among the eight fire modules before which it pools.
    pools: [usize; 2],
}

impl SqueezeNetConfig {
    /// The paper's network.
    pub fn v1_0() -> Self {
        Self {
            stem: (96, 7),
            pools: [3, 7],
        }
    }

    /// The same accuracy with 2.4 times less computation.
    pub fn v1_1() -> Self {
        Self {
            stem: (64, 3),
            pools: [2, 4],
        }
    }

    /// Makes the network: convolutions uniform after He et al., the last one normal with a
    /// deviation of 0.01.
    pub fn init(&self, options: &BuildOptions, init: &mut Init) -> SqueezeNet {
        let pool = || Part::Layer(MaxPool2d::new(3, 2).with_ceil_mode(true).into());
        let (mut channels, kernel) = self.stem;
        let conv = Conv2dConfig::new(3, channels, kernel)
            .with_stride(2)
            .with_init(WEIGHTS);
        let mut features = vec![
            Part::Layer(conv.init(init).into()),
            Part::Layer(RELU.into()),
            pool(),
        ];
        let mut stages = Vec::new();
        for i in 0..8 {
            if self.pools.contains(&i) {
                stages.push((features.len() - 1, channels, 4 << stages.len()));
                features.push(pool());
            }
            let (squeezed, expanded) = (16 * (i / 2 + 1), 64 * (i / 2 + 1));
            features.push(Part::Fire(Fire::new(channels, squeezed, expanded, init)));
            channels = 2 * expanded;
        }
        stages.push((features.len() - 1, channels, 4 << stages.len()));
        let last = Conv2dConfig::new(channels, options.num_classes, 1);
        SqueezeNet {
            features,
            classifier: vec![
                Dropout::new(options.dropout.unwrap_or(0.5)).into(),
                last.with_init(WeightInit::Normal(0.01)).init(init).into(),
                RELU.into(),
                AdaptiveAvgPool2d::new(1).into(),
            ],
            stages,
        }
    }
}

/// A stem, eight fire modules, and a 1x1 convolution whose maps are averaged to logits.
#[derive(Module, Debug)]
pub struct SqueezeNet {
    features: Vec<Part>,
    classifier: Sequential,
    #[module(skip)]
    stages: Vec<(usize, usize, usize)>,
}

impl SqueezeNet {
    fn features(&self, x: Tensor<4>, taken: &mut Taken) -> Tensor<4> {
        tap("features", || {
            let mut x = to_nhwc(x);
            for (i, part) in self.features.iter().enumerate() {
                x = tap(i, || match part {
                    Part::Layer(layer) => layer.forward(x),
                    Part::Fire(fire) => fire.forward(x),
                });
                if self.stages.iter().any(|stage| stage.0 == i) {
                    taken.offer(&x);
                }
            }
            x
        })
    }
}

impl ImageModel for SqueezeNet {
    fn forward(&self, x: Tensor<4>) -> Tensor<2> {
        let x = self.features(x, &mut Taken::none());
        flatten(tap("classifier", || {
            forward_sequential(&self.classifier, x)
        }))
    }

    fn stages(&self, x: Tensor<4>) -> Vec<Tensor<4>> {
        Taken::from(|taken| self.features(x, taken))
    }

    fn stage_info(&self) -> Vec<Stage> {
        let stage = |&(last, channels, stride): &(usize, usize, usize)| {
            Stage::new(format!("features.{last}"), channels, stride)
        };
        self.stages.iter().map(stage).collect()
    }

    fn embed(&self, x: Tensor<4>) -> Tensor<2> {
        global_avg_pool(self.features(x, &mut Taken::none()))
    }
}

const fn base(name: &'static str, build: Build) -> Variant {
    Variant {
        family: "SqueezeNet",
        year: 2016,
        paper: "Iandola et al., SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and \
                <0.5MB model size",
        classifier: "classifier.1",
        first_conv: "features.0",
        ..Variant::imagenet(name, build)
    }
}

pub(crate) static VARIANTS: &[Variant] = &[
    Variant {
        published: Published::v1(58.092, 80.42),
        min_size: 21,
        ..base("squeezenet1_0", |o, i| {
            SqueezeNetConfig::v1_0().init(o, i).into()
        })
    },
    Variant {
        published: Published::v1(58.178, 80.624),
        min_size: 17,
        ..base("squeezenet1_1", |o, i| {
            SqueezeNetConfig::v1_1().init(o, i).into()
        })
    },
];
