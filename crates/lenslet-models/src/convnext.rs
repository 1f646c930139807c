//! ConvNeXt.
//!
//! Z. Liu, H. Mao, C.-Y. Wu, C. Feichtenhofer, T. Darrell, S. Xie, *A ConvNet for the 2020s*, CVPR
//! 2022, figure 4 and section 3.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use lenslet_data::Interpolation::Bilinear;
use lenslet_data::Preprocess;
use lenslet_nn::tap::tap;
use lenslet_nn::{
    Activation, AdaptiveAvgPool2d, Conv2dConfig, Identity, Init, LayerNormConfig, LinearConfig,
    Sequential, StochasticDepth, WeightInit, flatten, forward_head, forward_sequential, scale,
    to_nhwc,
};

use crate::model::{ImageModel, Stage, Taken};
use crate::registry::Build;
use crate::{BuildOptions, Published, Variant, naming};

const WEIGHTS: WeightInit = WeightInit::TruncNormal(0.02);

/// Depthwise 7x7, normalise, expand four times, GELU, project, scale every channel, add the input.
#[derive(Module, Debug)]
pub struct ConvNeXtBlock {
    /// `[channels, 1, 1]`
    layer_scale: Param<Tensor<3>>,
    block: Sequential,
    stochastic_depth: StochasticDepth,
}

impl ConvNeXtBlock {
    fn new(channels: usize, drop: f64, init: &mut Init) -> Self {
        let depthwise = Conv2dConfig::new(channels, channels, 7)
            .with_padding(3)
            .with_groups(channels)
            .with_init(WEIGHTS);
        Self {
            layer_scale: init.constant([channels, 1, 1], 1e-6),
            block: vec![
                depthwise.init(init).into(),
                Identity {}.into(), // PyTorch changes to channels last here,
                norm(channels).init(init).into(),
                LinearConfig::new(channels, 4 * channels)
                    .with_init(WEIGHTS)
                    .init(init)
                    .into(),
                Activation::Gelu.into(),
                LinearConfig::new(4 * channels, channels)
                    .with_init(WEIGHTS)
                    .init(init)
                    .into(),
                Identity {}.into(), // and back here.
            ],
            stochastic_depth: StochasticDepth::new(drop),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let y = tap("block", || forward_sequential(&self.block, x.clone()));
        let [channels, _, _] = self.layer_scale.lazy_shape().dims();
        let factor = self.layer_scale.val().reshape([1, 1, 1, channels]);
        if self.stochastic_depth.is_identity(&y) {
            return scale(y, factor, Some(x));
        }
        self.stochastic_depth.add(scale(y, factor, None), x)
    }
}

fn norm(channels: usize) -> LayerNormConfig {
    LayerNormConfig::new(channels).with_eps(1e-6)
}

/// One entry of a ConvNeXt's `features`.
#[derive(Module, Debug)]
enum Part {
    Layers(Sequential),
    Blocks(Vec<ConvNeXtBlock>),
}

/// What a ConvNeXt is built from.
#[derive(Debug, Clone)]
pub struct ConvNeXtConfig {
    widths: [usize; 4],
    depths: [usize; 4],
    drop: f64,
}

impl ConvNeXtConfig {
    /// Channels and blocks of the four stages, and the last block's stochastic depth.
    pub fn new(widths: [usize; 4], depths: [usize; 4], drop: f64) -> Self {
        Self {
            widths,
            depths,
            drop,
        }
    }

    /// Makes the network: weights normal with a deviation of 0.02, biases zero.
    pub fn init(&self, options: &BuildOptions, init: &mut Init) -> ConvNeXt {
        let drop = options.stochastic_depth.unwrap_or(self.drop);
        let last_block = (self.depths.iter().sum::<usize>() - 1) as f64;
        let patches = |from, to, size| {
            Conv2dConfig::new(from, to, size)
                .with_stride(size)
                .with_init(WEIGHTS)
        };
        let stem: Sequential = vec![
            patches(3, self.widths[0], 4).init(init).into(),
            norm(self.widths[0]).init(init).into(),
        ];
        let mut features = vec![Part::Layers(stem)];
        let mut done = 0;
        for (i, (&width, &depth)) in self.widths.iter().zip(&self.depths).enumerate() {
            let blocks = (0..depth).map(|_| {
                let p = drop * done as f64 / last_block;
                done += 1;
                ConvNeXtBlock::new(width, p, init)
            });
            features.push(Part::Blocks(blocks.collect()));
            if let Some(&next) = self.widths.get(i + 1) {
                features.push(Part::Layers(vec![
                    norm(width).init(init).into(),
                    patches(width, next, 2).init(init).into(),
                ]));
            }
        }
        let last = self.widths[3];
        let linear = LinearConfig::new(last, options.num_classes).with_init(WEIGHTS);
        ConvNeXt {
            features,
            classifier: vec![
                norm(last).init(init).into(),
                Identity {}.into(), // PyTorch flattens here.
                options.head(linear, init).into(),
            ],
            widths: self.widths,
        }
    }
}

/// A patch stem, four stages with downsampling between them, a mean, a norm and a linear layer.
#[derive(Module, Debug)]
pub struct ConvNeXt {
    features: Vec<Part>,
    classifier: Sequential,
    #[module(skip)]
    widths: [usize; 4],
}

impl ConvNeXt {
    fn features(&self, x: Tensor<4>, taken: &mut Taken) -> Tensor<4> {
        tap("features", || {
            let parts = self.features.iter().enumerate();
            parts.fold(to_nhwc(x), |x, (i, part)| match part {
                Part::Layers(layers) => tap(i, || forward_sequential(layers, x)),
                Part::Blocks(blocks) => {
                    let x = tap(i, || {
                        let blocks = blocks.iter().enumerate();
                        blocks.fold(x, |x, (i, block)| tap(i, || block.forward(x)))
                    });
                    taken.offer(&x);
                    x
                }
            })
        })
    }
}

impl ImageModel for ConvNeXt {
    fn forward(&self, x: Tensor<4>) -> Tensor<2> {
        let x = self.embed(x);
        tap("classifier", || forward_head(&self.classifier, 2..3, x))
    }

    fn stages(&self, x: Tensor<4>) -> Vec<Tensor<4>> {
        Taken::from(|taken| self.features(x, taken))
    }

    fn stage_info(&self) -> Vec<Stage> {
        let stages = self.widths.iter().enumerate();
        stages
            .map(|(i, &width)| Stage::new(format!("features.{}", 2 * i + 1), width, 4 << i))
            .collect()
    }

    fn embed(&self, x: Tensor<4>) -> Tensor<2> {
        let x = self.features(x, &mut Taken::none());
        let x = flatten(tap("avgpool", || AdaptiveAvgPool2d::new(1).forward(x)));
        tap("classifier", || forward_head(&self.classifier, 0..2, x))
    }

    fn classify(&self, features: Tensor<2>) -> Option<Tensor<2>> {
        Some(tap("classifier", || {
            forward_head(&self.classifier, 2..3, features)
        }))
    }
}

const fn base(name: &'static str, resize: usize, build: Build) -> Variant {
    Variant {
        family: "ConvNeXt",
        year: 2022,
        paper: "Liu et al., A ConvNet for the 2020s",
        preprocess: Preprocess::imagenet(resize, 224, Bilinear),
        classifier: "classifier.2",
        first_conv: "features.0.0",
        naming: naming::CONVNEXT,
        ..Variant::imagenet(name, build)
    }
}

pub(crate) static VARIANTS: &[Variant] = &[
    Variant {
        published: Published::v1(82.52, 96.146),
        ..base("convnext_tiny", 236, |o, i| {
            ConvNeXtConfig::new([96, 192, 384, 768], [3, 3, 9, 3], 0.1)
                .init(o, i)
                .into()
        })
    },
    Variant {
        published: Published::v1(83.616, 96.65),
        ..base("convnext_small", 230, |o, i| {
            ConvNeXtConfig::new([96, 192, 384, 768], [3, 3, 27, 3], 0.4)
                .init(o, i)
                .into()
        })
    },
    Variant {
        published: Published::v1(84.062, 96.87),
        ..base("convnext_base", 232, |o, i| {
            ConvNeXtConfig::new([128, 256, 512, 1024], [3, 3, 27, 3], 0.5)
                .init(o, i)
                .into()
        })
    },
    Variant {
        published: Published::v1(84.414, 96.976),
        ..base("convnext_large", 232, |o, i| {
            ConvNeXtConfig::new([192, 384, 768, 1536], [3, 3, 27, 3], 0.5)
                .init(o, i)
                .into()
        })
    },
];
