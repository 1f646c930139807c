//! MobileNetV1 and MobileNetV2.
//!
//! A. G. Howard et al., *MobileNets: Efficient Convolutional Neural Networks for Mobile Vision
//! Applications*, 2017, table 1. M. Sandler et al., *MobileNetV2: Inverted Residuals and Linear
//! Bottlenecks*, CVPR 2018, table 2.

use burn::module::Module;
use burn::tensor::Tensor;
use lenslet_data::Interpolation::Bilinear;
use lenslet_data::Preprocess;
use lenslet_nn::{
    Activation, BatchNorm2dConfig, Conv2dConfig, Dropout, Init, Layer, LinearConfig, Residual,
    Sequential, WeightInit, conv_norm_act, forward_branch,
};

use crate::plain::{SequentialNet, make_divisible};
use crate::registry::Build;
use crate::{BuildOptions, Published, Variant};

const RELU6: Option<Activation> = Some(Activation::Relu6);

/// A convolution of size `kernel`, batch norm and ReLU6, for `(from, to, kernel, stride, groups)`.
fn unit(
    (from, to, kernel, stride, groups): (usize, usize, usize, usize, usize),
    weights: WeightInit,
    init: &mut Init,
) -> Sequential {
    let conv = Conv2dConfig::new(from, to, kernel)
        .with_stride(stride)
        .with_padding(kernel / 2)
        .with_groups(groups)
        .with_init(weights);
    conv_norm_act(conv, BatchNorm2dConfig::new, RELU6, init)
}

/// A depthwise separable convolution (MobileNets, section 3.1): 3x3 on every channel apart, then
/// 1x1 across the channels, each with batch norm and ReLU6.
#[derive(Module, Debug)]
pub struct DepthwiseSeparableConv {
    depthwise: Sequential,
    pointwise: Sequential,
}

impl DepthwiseSeparableConv {
    /// `from` to `to` channels.
    pub fn new(from: usize, to: usize, stride: usize, init: &mut Init) -> Self {
        Self {
            depthwise: unit((from, from, 3, stride, from), WeightInit::Default, init),
            pointwise: unit((from, to, 1, 1, 1), WeightInit::Default, init),
        }
    }

    /// `[N, H, W, from]` to `[N, H / stride, W / stride, to]`.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let x = forward_branch("depthwise", &self.depthwise, x, None);
        forward_branch("pointwise", &self.pointwise, x, None)
    }
}

/// An inverted residual (MobileNetV2, figure 4): expand by 1x1, 3x3 on every channel apart,
/// project by 1x1 without an activation. `flat` puts all layers into one sequence, as the guide
/// does; torchvision groups each convolution with its batch norm and activation.
pub fn inverted_residual(
    (from, to, stride, expand): (usize, usize, usize, usize),
    flat: bool,
    weights: WeightInit,
    init: &mut Init,
) -> Residual {
    let hidden = from * expand;
    let mut units = Vec::new();
    if expand != 1 {
        units.push(unit((from, hidden, 1, 1, 1), weights, init));
    }
    units.push(unit((hidden, hidden, 3, stride, hidden), weights, init));
    let project = Conv2dConfig::new(hidden, to, 1).with_init(weights);
    let project = conv_norm_act(project, BatchNorm2dConfig::new, None, init);
    let mut layers: Sequential = if flat {
        units.into_iter().flatten().collect()
    } else {
        units.into_iter().map(Layer::Sequential).collect()
    };
    layers.extend(project);
    Residual::new("conv", layers, stride == 1 && from == to)
}

/// Expansion, channels, blocks and stride of the first block (MobileNetV2, table 2).
const V2_STAGES: [(usize, usize, usize, usize); 7] = [
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
];

/// What a MobileNetV2 is built from.
#[derive(Debug, Clone)]
pub struct MobileNetV2Config {
    width: f64,
    guide: bool,
}

impl MobileNetV2Config {
    /// Channels times `width`, as multiples of 8; torchvision's names.
    pub fn new(width: f64) -> Self {
        Self {
            width,
            guide: false,
        }
    }

    /// The guide's definition, with its names and PyTorch's default values.
    pub fn guide() -> Self {
        Self {
            width: 1.0,
            guide: true,
        }
    }

    /// Makes the network: convolutions after He et al. by the outputs, the classifier normal with
    /// a deviation of 0.01.
    pub fn init(&self, options: &BuildOptions, init: &mut Init) -> SequentialNet {
        let (weights, classifier_weights) = if self.guide {
            (WeightInit::Default, None)
        } else {
            (
                WeightInit::KaimingNormalFanOut,
                Some(WeightInit::Normal(0.01)),
            )
        };
        let scale = |channels: usize| make_divisible(channels as f64 * self.width, 8);
        let mut channels = scale(32);
        let mut features: Sequential = vec![unit((3, channels, 3, 2, 1), weights, init).into()];
        let mut stages = Vec::new();
        let mut reduction = 2;
        for (i, (expand, to, blocks, stride)) in V2_STAGES.into_iter().enumerate() {
            let to = scale(to);
            for block in 0..blocks {
                let stride = if block == 0 { stride } else { 1 };
                let shape = (channels, to, stride, expand);
                features.push(inverted_residual(shape, self.guide, weights, init).into());
                channels = to;
            }
            reduction *= stride;
            // The last map of every resolution.
            if V2_STAGES.get(i + 1).is_none_or(|next| next.3 == 2) {
                stages.push((features.len() - 1, channels, reduction));
            }
        }
        let last = make_divisible(1280.0 * self.width.max(1.0), 8);
        features.push(unit((channels, last, 1, 1, 1), weights, init).into());
        let mut linear = LinearConfig::new(last, options.num_classes);
        if let Some(weights) = classifier_weights {
            linear = linear.with_init(weights);
        }
        let classifier = vec![
            Dropout::new(options.dropout.unwrap_or(0.2)).into(),
            options.head(linear, init).into(),
        ];
        SequentialNet::new(features, Some(1), classifier, stages)
    }
}

/// Channels and stride of MobileNetV1's separable convolutions (MobileNets, table 1).
const V1_BLOCKS: [(usize, usize); 13] = [
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    (512, 1),
    (512, 1),
    (512, 1),
    (512, 1),
    (512, 1),
    (1024, 2),
    (1024, 1),
];

/// What a MobileNetV1 is built from.
#[derive(Debug, Clone)]
pub struct MobileNetV1Config {
    width: f64,
}

impl MobileNetV1Config {
    /// Channels times `width`, as multiples of 8.
    pub fn new(width: f64) -> Self {
        Self { width }
    }

    /// Makes the network of depthwise separable convolutions, with PyTorch's default values.
    pub fn init(&self, options: &BuildOptions, init: &mut Init) -> SequentialNet {
        let scale = |channels: usize| make_divisible(channels as f64 * self.width, 8);
        let mut channels = scale(32);
        let weights = WeightInit::Default;
        let mut features: Sequential = vec![unit((3, channels, 3, 2, 1), weights, init).into()];
        let mut stages = Vec::new();
        let mut reduction = 2;
        for (i, (to, stride)) in V1_BLOCKS.into_iter().enumerate() {
            let to = scale(to);
            let block = DepthwiseSeparableConv::new(channels, to, stride, init);
            features.push(vec![block.depthwise.into(), block.pointwise.into()].into());
            channels = to;
            reduction *= stride;
            if V1_BLOCKS.get(i + 1).is_none_or(|next| next.1 == 2) {
                stages.push((features.len() - 1, channels, reduction));
            }
        }
        let classifier = vec![
            Dropout::new(options.dropout.unwrap_or(0.001)).into(),
            options
                .head(LinearConfig::new(channels, options.num_classes), init)
                .into(),
        ];
        SequentialNet::new(features, Some(1), classifier, stages)
    }
}

const fn base(name: &'static str, build: Build) -> Variant {
    Variant {
        family: "MobileNet",
        year: 2018,
        paper: "Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks",
        classifier: "classifier.1",
        first_conv: "features.0.0",
        ..Variant::imagenet(name, build)
    }
}

pub(crate) static VARIANTS: &[Variant] = &[
    Variant {
        year: 2017,
        paper: "Howard et al., MobileNets: Efficient Convolutional Neural Networks for Mobile \
                Vision Applications",
        licence: "MIT OR Apache-2.0",
        ..base("mobilenet_v1", |o, i| {
            MobileNetV1Config::new(1.0).init(o, i).into()
        })
    },
    Variant {
        published: Published::v2(72.154, 90.822),
        preprocess: Preprocess::imagenet(232, 224, Bilinear),
        ..base("mobilenet_v2", |o, i| {
            MobileNetV2Config::new(1.0).init(o, i).into()
        })
    },
    Variant {
        licence: "MIT OR Apache-2.0",
        ..base("guide_mobilenet_v2", |o, i| {
            MobileNetV2Config::guide().init(o, i).into()
        })
    },
];
