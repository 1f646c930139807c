//! EfficientNet and EfficientNetV2.
//!
//! M. Tan, Q. V. Le, *EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks*,
//! ICML 2019, table 1 and section 3.3 (compound scaling). M. Tan, Q. V. Le, *EfficientNetV2:
//! Smaller Models and Faster Training*, ICML 2021, table 4.

use burn::module::Module;
use burn::tensor::Tensor;
use lenslet_data::Interpolation::{Bicubic, Bilinear};
use lenslet_data::Preprocess;
use lenslet_nn::tap::tap;
use lenslet_nn::{
    Activation, BatchNorm2dConfig, Conv2d, Conv2dConfig, Dropout, Init, LinearConfig, Padding,
    Residual, Sequential, SqueezeExcitation, WeightInit, conv_norm_act, forward_branch,
    forward_sequential,
};

use crate::plain::{SequentialNet, make_divisible};
use crate::registry::Build;
use crate::{BuildOptions, Published, Variant, naming};

const SILU: Activation = Activation::Silu;
const WEIGHTS: WeightInit = WeightInit::KaimingNormalFanOut;

/// The two kinds of block.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    /// Expand, convolve every channel apart, squeeze and excite, project.
    MbConv,
    /// Expand by a full convolution, project (EfficientNetV2, figure 2).
    Fused,
}
use Kind::{Fused, MbConv};

/// Blocks that share a resolution: kind, expansion, kernel, stride, channels, blocks.
type Row = (Kind, usize, usize, usize, usize, usize);

const B0: &[Row] = &[
    (MbConv, 1, 3, 1, 16, 1),
    (MbConv, 6, 3, 2, 24, 2),
    (MbConv, 6, 5, 2, 40, 2),
    (MbConv, 6, 3, 2, 80, 3),
    (MbConv, 6, 5, 1, 112, 3),
    (MbConv, 6, 5, 2, 192, 4),
    (MbConv, 6, 3, 1, 320, 1),
];

const V2_S: &[Row] = &[
    (Fused, 1, 3, 1, 24, 2),
    (Fused, 4, 3, 2, 48, 4),
    (Fused, 4, 3, 2, 64, 4),
    (MbConv, 4, 3, 2, 128, 6),
    (MbConv, 6, 3, 1, 160, 9),
    (MbConv, 6, 3, 2, 256, 15),
];

const V2_M: &[Row] = &[
    (Fused, 1, 3, 1, 24, 3),
    (Fused, 4, 3, 2, 48, 5),
    (Fused, 4, 3, 2, 80, 5),
    (MbConv, 4, 3, 2, 160, 7),
    (MbConv, 6, 3, 1, 176, 14),
    (MbConv, 6, 3, 2, 304, 18),
    (MbConv, 6, 3, 1, 512, 5),
];

const V2_L: &[Row] = &[
    (Fused, 1, 3, 1, 32, 4),
    (Fused, 4, 3, 2, 64, 7),
    (Fused, 4, 3, 2, 96, 7),
    (MbConv, 4, 3, 2, 192, 10),
    (MbConv, 6, 3, 1, 224, 19),
    (MbConv, 6, 3, 2, 384, 25),
    (MbConv, 6, 3, 1, 640, 7),
];

/// What an EfficientNet is built from.
#[derive(Debug, Clone)]
pub struct EfficientNetConfig {
    rows: &'static [Row],
    stem: usize,
    head: Option<usize>,
    width: f64,
    depth: f64,
    dropout: f64,
    norm: fn(usize) -> BatchNorm2dConfig,
    tensorflow_padding: bool,
}

impl EfficientNetConfig {
    /// Compound scaling of B0: channels times `width` as multiples of 8, blocks times `depth`
    /// rounded up.
    pub fn scaled(width: f64, depth: f64, dropout: f64) -> Self {
        Self {
            rows: B0,
            stem: 32,
            head: None,
            width,
            depth,
            dropout,
            norm: BatchNorm2dConfig::new,
            tensorflow_padding: false,
        }
    }

    fn v2(rows: &'static [Row], stem: usize, dropout: f64) -> Self {
        Self {
            rows,
            stem,
            head: Some(1280),
            norm: |c| BatchNorm2dConfig::new(c).with_eps(1e-3),
            ..Self::scaled(1.0, 1.0, dropout)
        }
    }

    /// Batch norms with TensorFlow's `eps` 1e-3 and momentum 0.01, as B5 to B7 have them.
    fn with_tensorflow_norm(mut self) -> Self {
        self.norm = |c| BatchNorm2dConfig::new(c).with_eps(1e-3).with_momentum(0.01);
        self
    }

    fn unit(
        &self,
        (from, to, kernel, stride, groups): (usize, usize, usize, usize, usize),
        activation: Option<Activation>,
        init: &mut Init,
    ) -> Sequential {
        let mut conv = Conv2dConfig::new(from, to, kernel)
            .with_stride(stride)
            .with_padding(kernel / 2)
            .with_groups(groups)
            .with_init(WEIGHTS);
        if self.tensorflow_padding {
            conv = conv.with_padding_mode(Padding::Same);
        }
        conv_norm_act(conv, self.norm, activation, init)
    }

    fn block(
        &self,
        (kind, expand, kernel): (Kind, usize, usize),
        (from, to, stride): (usize, usize, usize),
        init: &mut Init,
    ) -> Residual {
        let hidden = make_divisible((from * expand) as f64, 8);
        let mut layers = Sequential::new();
        match kind {
            MbConv => {
                if hidden != from {
                    layers.push(self.unit((from, hidden, 1, 1, 1), Some(SILU), init).into());
                }
                let depthwise = (hidden, hidden, kernel, stride, hidden);
                layers.push(self.unit(depthwise, Some(SILU), init).into());
                let gate = [SILU, Activation::Sigmoid];
                let squeezed = (from / 4).max(1);
                layers.push(SqueezeExcitation::new(hidden, squeezed, gate, WEIGHTS, init).into());
                layers.push(self.unit((hidden, to, 1, 1, 1), None, init).into());
            }
            Fused if hidden != from => {
                let full = (from, hidden, kernel, stride, 1);
                layers.push(self.unit(full, Some(SILU), init).into());
                layers.push(self.unit((hidden, to, 1, 1, 1), None, init).into());
            }
            Fused => {
                let full = (from, to, kernel, stride, 1);
                layers.push(self.unit(full, Some(SILU), init).into());
            }
        }
        Residual::new("block", layers, stride == 1 && from == to)
    }

    /// Makes the network: convolutions after He et al. by the outputs, the classifier uniform in
    /// `±1 / sqrt(num_classes)`.
    pub fn init(&self, options: &BuildOptions, init: &mut Init) -> SequentialNet {
        if options.tensorflow {
            let mut config = self.clone().with_tensorflow_norm();
            config.tensorflow_padding = true;
            return config.network(options, init);
        }
        self.network(options, init)
    }

    fn network(&self, options: &BuildOptions, init: &mut Init) -> SequentialNet {
        let scale = |channels: usize| make_divisible(channels as f64 * self.width, 8);
        let repeats = |blocks: usize| (blocks as f64 * self.depth).ceil() as usize;
        let mut channels = scale(self.stem);
        let stem = self.unit((3, channels, 3, 2, 1), Some(SILU), init);
        let mut features: Sequential = vec![stem.into()];
        let total: usize = self.rows.iter().map(|row| repeats(row.5)).sum();
        let drop = options.stochastic_depth.unwrap_or(0.2);
        let mut stages = Vec::new();
        let (mut reduction, mut done) = (2, 0);
        for (i, &(kind, expand, kernel, stride, to, blocks)) in self.rows.iter().enumerate() {
            let to = scale(to);
            let mut stage = Sequential::new();
            for block in 0..repeats(blocks) {
                let stride = if block == 0 { stride } else { 1 };
                let shape = (channels, to, stride);
                let block = self.block((kind, expand, kernel), shape, init);
                let p = drop * done as f64 / total as f64;
                stage.push(block.with_stochastic_depth(p).into());
                channels = to;
                done += 1;
            }
            features.push(stage.into());
            reduction *= stride;
            if self.rows.get(i + 1).is_none_or(|next| next.3 == 2) {
                stages.push((features.len() - 1, channels, reduction));
            }
        }
        let last = self.head.unwrap_or(4 * channels);
        features.push(
            self.unit((channels, last, 1, 1, 1), Some(SILU), init)
                .into(),
        );
        let bound = 1.0 / (options.num_classes as f64).sqrt();
        let linear = LinearConfig::new(last, options.num_classes);
        let classifier = vec![
            Dropout::new(options.dropout.unwrap_or(self.dropout)).into(),
            options
                .head(linear.with_init(WeightInit::Uniform(bound)), init)
                .into(),
        ];
        SequentialNet::new(features, Some(1), classifier, stages)
    }
}

/// The guide's MBConv: like [`EfficientNetConfig`]'s, with the squeeze and excitation's layers
/// and the projection as fields of their own.
#[derive(Module, Debug)]
pub struct GuideMbConv {
    se_reduce: Conv2d,
    se_expand: Conv2d,
    project: Sequential,
    conv: Sequential,
    #[module(skip)]
    skip: bool,
}

impl GuideMbConv {
    /// `from` to `to` channels with an expansion of `expand`.
    pub fn new(
        (from, to): (usize, usize),
        (kernel, stride, expand): (usize, usize, usize),
        init: &mut Init,
    ) -> Self {
        let hidden = from * expand;
        let squeezed = (from / 4).max(1);
        let norm = |c| BatchNorm2dConfig::new(c).with_eps(1e-3).with_momentum(0.01);
        let mut conv = Sequential::new();
        if expand != 1 {
            let expansion = Conv2dConfig::new(from, hidden, 1);
            conv.extend(conv_norm_act(expansion, norm, Some(SILU), init));
        }
        let depthwise = Conv2dConfig::new(hidden, hidden, kernel)
            .with_stride(stride)
            .with_padding(kernel / 2)
            .with_groups(hidden);
        conv.extend(conv_norm_act(depthwise, norm, Some(SILU), init));
        Self {
            se_reduce: Conv2dConfig::new(hidden, squeezed, 1).init(init),
            se_expand: Conv2dConfig::new(squeezed, hidden, 1).init(init),
            project: conv_norm_act(Conv2dConfig::new(hidden, to, 1), norm, None, init),
            conv,
            skip: stride == 1 && from == to,
        }
    }

    /// `[N, H, W, from]` to `[N, H / stride, W / stride, to]`.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let y = tap("conv", || forward_sequential(&self.conv, x.clone()));
        let gate = y.clone().mean_dim(1).mean_dim(2);
        let gate = SILU.forward(tap("se_reduce", || self.se_reduce.forward(gate)));
        let gate = tap("se_expand", || self.se_expand.forward(gate));
        let y = y * Activation::Sigmoid.forward(gate);
        forward_branch("project", &self.project, y, self.skip.then_some(x))
    }
}

const fn base(name: &'static str, build: Build) -> Variant {
    Variant {
        family: "EfficientNet",
        year: 2019,
        paper: "Tan and Le, EfficientNet: Rethinking Model Scaling for Convolutional Neural \
                Networks",
        classifier: "classifier.1",
        first_conv: "features.0.0",
        naming: naming::EFFICIENTNET,
        ..Variant::imagenet(name, build)
    }
}

macro_rules! scaled {
    ($name:literal, $size:literal, $top1:literal, $top5:literal, $resize:literal, $config:expr) => {
        Variant {
            input: [3, $size, $size],
            published: Published::v1($top1, $top5),
            preprocess: Preprocess::imagenet($resize, $size, Bicubic),
            ..base($name, |o, i| $config.init(o, i).into())
        }
    };
}

const fn v2(name: &'static str, size: usize, build: Build) -> Variant {
    Variant {
        year: 2021,
        paper: "Tan and Le, EfficientNetV2: Smaller Models and Faster Training",
        input: [3, size, size],
        min_size: 33,
        preprocess: Preprocess::imagenet(size, size, Bilinear),
        ..base(name, build)
    }
}

pub(crate) static VARIANTS: &[Variant] = &[
    scaled!(
        "efficientnet_b0",
        224,
        77.692,
        93.532,
        256,
        EfficientNetConfig::scaled(1.0, 1.0, 0.2)
    ),
    Variant {
        published: Published::v2(79.838, 94.934),
        preprocess: Preprocess::imagenet(255, 240, Bilinear),
        input: [3, 240, 240],
        ..base("efficientnet_b1", |o, i| {
            EfficientNetConfig::scaled(1.0, 1.1, 0.2).init(o, i).into()
        })
    },
    scaled!(
        "efficientnet_b2",
        288,
        80.608,
        95.31,
        288,
        EfficientNetConfig::scaled(1.1, 1.2, 0.3)
    ),
    scaled!(
        "efficientnet_b3",
        300,
        82.008,
        96.054,
        320,
        EfficientNetConfig::scaled(1.2, 1.4, 0.3)
    ),
    scaled!(
        "efficientnet_b4",
        380,
        83.384,
        96.594,
        384,
        EfficientNetConfig::scaled(1.4, 1.8, 0.4)
    ),
    scaled!(
        "efficientnet_b5",
        456,
        83.444,
        96.628,
        456,
        EfficientNetConfig::scaled(1.6, 2.2, 0.4).with_tensorflow_norm()
    ),
    scaled!(
        "efficientnet_b6",
        528,
        84.008,
        96.916,
        528,
        EfficientNetConfig::scaled(1.8, 2.6, 0.5).with_tensorflow_norm()
    ),
    scaled!(
        "efficientnet_b7",
        600,
        84.122,
        96.908,
        600,
        EfficientNetConfig::scaled(2.0, 3.1, 0.5).with_tensorflow_norm()
    ),
    Variant {
        published: Published::v1(84.228, 96.878),
        ..v2("efficientnet_v2_s", 384, |o, i| {
            EfficientNetConfig::v2(V2_S, 24, 0.2).init(o, i).into()
        })
    },
    Variant {
        published: Published::v1(85.112, 97.156),
        ..v2("efficientnet_v2_m", 480, |o, i| {
            EfficientNetConfig::v2(V2_M, 24, 0.3).init(o, i).into()
        })
    },
    Variant {
        published: Published::v1(85.808, 97.788),
        preprocess: Preprocess::imagenet(480, 480, Bicubic).with_normalisation([0.5; 3], [0.5; 3]),
        ..v2("efficientnet_v2_l", 480, |o, i| {
            EfficientNetConfig::v2(V2_L, 32, 0.4).init(o, i).into()
        })
    },
];
