//! EfficientNet-Lite.
//!
//! R. Liu, *Higher accuracy on vision models with EfficientNet-Lite*, TensorFlow blog, 2020:
//! EfficientNet without squeeze and excitation, with ReLU6, and with the stem, the head and the
//! number of blocks in the first and last stage left alone when the network is scaled. Convolutions
//! are padded as TensorFlow's `SAME`.
//!
//! Names are EfficientNet-PyTorch's without the leading underscores (`_blocks.1._expand_conv` is
//! `blocks.1.expand_conv`).

use burn::module::Module;
use burn::tensor::Tensor;
use lenslet_data::Interpolation::Bicubic;
use lenslet_data::Preprocess;
use lenslet_nn::tap::tap;
use lenslet_nn::{
    Activation, AdaptiveAvgPool2d, BatchNorm2d, BatchNorm2dConfig, Conv2d, Conv2dConfig, Dropout,
    Head, Init, LinearConfig, Padding, StochasticDepth, WeightInit, conv_bn_act, flatten, to_nhwc,
};

use crate::model::{ImageModel, Stage, Taken};
use crate::plain::make_divisible;
use crate::registry::Build;
use crate::{BuildOptions, Published, Variant, naming};

const RELU6: Option<Activation> = Some(Activation::Relu6);

/// Expansion, kernel, stride, channels, blocks (EfficientNet, table 1).
const STAGES: [(usize, usize, usize, usize, usize); 7] = [
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
];

/// A convolution for `(from, to, kernel, stride, groups)` and its batch norm.
fn unit(
    (from, to, kernel, stride, groups): (usize, usize, usize, usize, usize),
    init: &mut Init,
) -> (Conv2d, BatchNorm2d) {
    let conv = Conv2dConfig::new(from, to, kernel)
        .with_stride(stride)
        .with_padding_mode(Padding::Same)
        .with_groups(groups)
        .with_bias(false)
        .with_init(WeightInit::KaimingNormalFanOut);
    let norm = BatchNorm2dConfig::new(to)
        .with_eps(1e-3)
        .with_momentum(0.01);
    (conv.init(init), norm.init(init))
}

/// Expand by 1x1, convolve every channel apart, project by 1x1.
#[derive(Module, Debug)]
pub struct LiteBlock {
    expand_conv: Option<Conv2d>,
    bn0: Option<BatchNorm2d>,
    depthwise_conv: Conv2d,
    bn1: BatchNorm2d,
    project_conv: Conv2d,
    bn2: BatchNorm2d,
    stochastic_depth: StochasticDepth,
    #[module(skip)]
    skip: bool,
}

impl LiteBlock {
    fn new(
        (from, to, kernel, stride, expand): (usize, usize, usize, usize, usize),
        drop: f64,
        init: &mut Init,
    ) -> Self {
        let hidden = from * expand;
        let expansion = (expand != 1).then(|| unit((from, hidden, 1, 1, 1), init));
        let (depthwise_conv, bn1) = unit((hidden, hidden, kernel, stride, hidden), init);
        let (project_conv, bn2) = unit((hidden, to, 1, 1, 1), init);
        let (expand_conv, bn0) = expansion.unzip();
        Self {
            expand_conv,
            bn0,
            depthwise_conv,
            bn1,
            project_conv,
            bn2,
            stochastic_depth: StochasticDepth::new(drop),
            skip: stride == 1 && from == to,
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let mut y = x.clone();
        if let (Some(conv), Some(bn)) = (&self.expand_conv, &self.bn0) {
            y = conv_bn_act(("expand_conv", conv), ("bn0", bn), RELU6, None, y);
        }
        let depthwise = ("depthwise_conv", &self.depthwise_conv);
        y = conv_bn_act(depthwise, ("bn1", &self.bn1), RELU6, None, y);
        let project = ("project_conv", &self.project_conv);
        let plain = self.skip && self.stochastic_depth.is_identity(&y);
        let residual = plain.then(|| x.clone());
        y = conv_bn_act(project, ("bn2", &self.bn2), None, residual, y);
        if self.skip && !plain {
            y = self.stochastic_depth.add(y, x);
        }
        y
    }
}

/// What an EfficientNet-Lite is built from.
#[derive(Debug, Clone)]
pub struct EfficientNetLiteConfig {
    width: f64,
    depth: f64,
    dropout: f64,
}

impl EfficientNetLiteConfig {
    /// Channels times `width` as multiples of 8, blocks times `depth` rounded up, except at both
    /// ends.
    pub fn new(width: f64, depth: f64, dropout: f64) -> Self {
        Self {
            width,
            depth,
            dropout,
        }
    }

    /// Makes the network: convolutions after He et al. by the outputs, the classifier uniform in
    /// `±1 / sqrt(num_classes)`.
    pub fn init(&self, options: &BuildOptions, init: &mut Init) -> EfficientNetLite {
        let repeats = |stage: usize, blocks: usize| match stage {
            0 | 6 => blocks,
            _ => (blocks as f64 * self.depth).ceil() as usize,
        };
        let depths = STAGES.iter().enumerate().map(|(i, row)| repeats(i, row.4));
        let total: usize = depths.sum();
        let drop = options.stochastic_depth.unwrap_or(0.2);
        let mut channels = 32;
        let (conv_stem, bn0) = unit((3, channels, 3, 2, 1), init);
        let mut blocks = Vec::new();
        let mut stages = Vec::new();
        let mut reduction = 2;
        for (i, (expand, kernel, stride, to, depth)) in STAGES.into_iter().enumerate() {
            let to = make_divisible(to as f64 * self.width, 8);
            for block in 0..repeats(i, depth) {
                let stride = if block == 0 { stride } else { 1 };
                let p = drop * blocks.len() as f64 / total as f64;
                blocks.push(LiteBlock::new(
                    (channels, to, kernel, stride, expand),
                    p,
                    init,
                ));
                channels = to;
            }
            reduction *= stride;
            if STAGES.get(i + 1).is_none_or(|next| next.2 == 2) {
                let last = blocks.len() - 1;
                stages.push((
                    last,
                    Stage::new(format!("blocks.{last}"), channels, reduction),
                ));
            }
        }
        let (conv_head, bn1) = unit((channels, 1280, 1, 1, 1), init);
        let bound = 1.0 / (options.num_classes as f64).sqrt();
        let fc = LinearConfig::new(1280, options.num_classes);
        EfficientNetLite {
            conv_stem,
            bn0,
            blocks,
            conv_head,
            bn1,
            dropout: Dropout::new(options.dropout.unwrap_or(self.dropout)),
            fc: options.head(fc.with_init(WeightInit::Uniform(bound)), init),
            stages,
        }
    }
}

/// A stem, inverted residuals, a 1x1 head, a mean and a linear layer.
#[derive(Module, Debug)]
pub struct EfficientNetLite {
    conv_stem: Conv2d,
    bn0: BatchNorm2d,
    blocks: Vec<LiteBlock>,
    conv_head: Conv2d,
    bn1: BatchNorm2d,
    dropout: Dropout,
    fc: Head,
    #[module(skip)]
    stages: Vec<(usize, Stage)>,
}

impl EfficientNetLite {
    fn blocks(&self, x: Tensor<4>, taken: &mut Taken) -> Tensor<4> {
        let stem = ("conv_stem", &self.conv_stem);
        let mut x = conv_bn_act(stem, ("bn0", &self.bn0), RELU6, None, to_nhwc(x));
        for (i, block) in self.blocks.iter().enumerate() {
            // Names nest by hand: a list has no forward pass of its own.
            x = tap("blocks", || tap(i, || block.forward(x)));
            if self.stages.iter().any(|(last, _)| *last == i) {
                taken.offer(&x);
            }
        }
        x
    }
}

impl ImageModel for EfficientNetLite {
    fn forward(&self, x: Tensor<4>) -> Tensor<2> {
        let x = self.embed(x);
        tap("fc", || self.fc.forward(x))
    }

    fn stages(&self, x: Tensor<4>) -> Vec<Tensor<4>> {
        Taken::from(|taken| self.blocks(x, taken))
    }

    fn stage_info(&self) -> Vec<Stage> {
        self.stages.iter().map(|(_, stage)| stage.clone()).collect()
    }

    fn embed(&self, x: Tensor<4>) -> Tensor<2> {
        let x = self.blocks(x, &mut Taken::none());
        let x = conv_bn_act(
            ("conv_head", &self.conv_head),
            ("bn1", &self.bn1),
            RELU6,
            None,
            x,
        );
        self.dropout
            .forward(flatten(AdaptiveAvgPool2d::new(1).forward(x)))
    }

    fn classify(&self, features: Tensor<2>) -> Option<Tensor<2>> {
        Some(tap("fc", || self.fc.forward(features)))
    }
}

const fn base(name: &'static str, size: usize, top1: f32, build: Build) -> Variant {
    Variant {
        family: "EfficientNet",
        year: 2020,
        paper: "Liu, Higher accuracy on vision models with EfficientNet-Lite",
        licence: "Apache-2.0",
        input: [3, size, size],
        preprocess: Preprocess::imagenet(size + 32, size, Bicubic)
            .with_normalisation([127.0 / 255.0; 3], [128.0 / 255.0; 3]),
        published: Some(Published {
            weights: "TensorFlow",
            top1,
            top5: None,
        }),
        classifier: "fc",
        first_conv: "conv_stem",
        naming: naming::EFFICIENTNET_LITE,
        ..Variant::imagenet(name, build)
    }
}

pub(crate) static VARIANTS: &[Variant] = &[
    base("efficientnet_lite0", 224, 75.1, |o, i| {
        EfficientNetLiteConfig::new(1.0, 1.0, 0.2).init(o, i).into()
    }),
    base("efficientnet_lite1", 240, 76.7, |o, i| {
        EfficientNetLiteConfig::new(1.0, 1.1, 0.2).init(o, i).into()
    }),
    base("efficientnet_lite2", 260, 77.6, |o, i| {
        EfficientNetLiteConfig::new(1.1, 1.2, 0.3).init(o, i).into()
    }),
    base("efficientnet_lite3", 280, 79.8, |o, i| {
        EfficientNetLiteConfig::new(1.2, 1.4, 0.3).init(o, i).into()
    }),
    base("efficientnet_lite4", 300, 81.5, |o, i| {
        EfficientNetLiteConfig::new(1.4, 1.8, 0.3).init(o, i).into()
    }),
];
