//! MobileNetV3.
//!
//! A. Howard et al., *Searching for MobileNetV3*, ICCV 2019, tables 1 and 2.

use lenslet_data::Interpolation::Bilinear;
use lenslet_data::Preprocess;
use lenslet_nn::{
    Activation, BatchNorm2dConfig, Conv2dConfig, Dropout, Init, LinearConfig, Residual, Sequential,
    SqueezeExcitation, WeightInit, conv_norm_act,
};

use crate::plain::{SequentialNet, make_divisible};
use crate::registry::Build;
use crate::{BuildOptions, Published, Variant};

const WEIGHTS: WeightInit = WeightInit::KaimingNormalFanOut;
const RE: Activation = Activation::Relu;
const HS: Activation = Activation::HardSwish;

/// A row of the paper's tables.
#[derive(Debug, Clone, Copy)]
struct Row {
    kernel: usize,
    expanded: usize,
    out: usize,
    squeeze: bool,
    activation: Activation,
    stride: usize,
}

const fn row(
    (kernel, expanded, out): (usize, usize, usize),
    squeeze: bool,
    activation: Activation,
    stride: usize,
) -> Row {
    Row {
        kernel,
        expanded,
        out,
        squeeze,
        activation,
        stride,
    }
}

const LARGE: &[Row] = &[
    row((3, 16, 16), false, RE, 1),
    row((3, 64, 24), false, RE, 2),
    row((3, 72, 24), false, RE, 1),
    row((5, 72, 40), true, RE, 2),
    row((5, 120, 40), true, RE, 1),
    row((5, 120, 40), true, RE, 1),
    row((3, 240, 80), false, HS, 2),
    row((3, 200, 80), false, HS, 1),
    row((3, 184, 80), false, HS, 1),
    row((3, 184, 80), false, HS, 1),
    row((3, 480, 112), true, HS, 1),
    row((3, 672, 112), true, HS, 1),
    row((5, 672, 160), true, HS, 2),
    row((5, 960, 160), true, HS, 1),
    row((5, 960, 160), true, HS, 1),
];

const SMALL: &[Row] = &[
    row((3, 16, 16), true, RE, 2),
    row((3, 72, 24), false, RE, 2),
    row((3, 88, 24), false, RE, 1),
    row((5, 96, 40), true, HS, 2),
    row((5, 240, 40), true, HS, 1),
    row((5, 240, 40), true, HS, 1),
    row((5, 120, 48), true, HS, 1),
    row((5, 144, 48), true, HS, 1),
    row((5, 288, 96), true, HS, 2),
    row((5, 576, 96), true, HS, 1),
    row((5, 576, 96), true, HS, 1),
];

/// A convolution with batch norm for `(from, to, kernel, stride, groups)`.
fn unit(
    (from, to, kernel, stride, groups): (usize, usize, usize, usize, usize),
    activation: Option<Activation>,
    init: &mut Init,
) -> Sequential {
    let conv = Conv2dConfig::new(from, to, kernel)
        .with_stride(stride)
        .with_padding(kernel / 2)
        .with_groups(groups)
        .with_init(WEIGHTS);
    let norm = |c| BatchNorm2dConfig::new(c).with_eps(1e-3).with_momentum(0.01);
    conv_norm_act(conv, norm, activation, init)
}

/// What a MobileNetV3 is built from.
#[derive(Debug, Clone)]
pub struct MobileNetV3Config {
    rows: &'static [Row],
    hidden: usize,
}

impl MobileNetV3Config {
    /// Table 1.
    pub fn large() -> Self {
        Self {
            rows: LARGE,
            hidden: 1280,
        }
    }

    /// Table 2.
    pub fn small() -> Self {
        Self {
            rows: SMALL,
            hidden: 1024,
        }
    }

    /// Makes the network: convolutions after He et al. by the outputs, linear layers normal with
    /// a deviation of 0.01.
    pub fn init(&self, options: &BuildOptions, init: &mut Init) -> SequentialNet {
        let mut channels = 16;
        let mut features: Sequential = vec![unit((3, channels, 3, 2, 1), Some(HS), init).into()];
        let mut stages = Vec::new();
        let mut reduction = 2;
        for (i, row) in self.rows.iter().enumerate() {
            features.push(block(channels, row, init).into());
            channels = row.out;
            reduction *= row.stride;
            if self.rows.get(i + 1).is_none_or(|next| next.stride == 2) {
                stages.push((features.len() - 1, channels, reduction));
            }
        }
        let last = 6 * channels;
        features.push(unit((channels, last, 1, 1, 1), Some(HS), init).into());
        let linear = |from, to| LinearConfig::new(from, to).with_init(WeightInit::Normal(0.01));
        let classifier = vec![
            linear(last, self.hidden).init(init).into(),
            HS.into(),
            Dropout::new(options.dropout.unwrap_or(0.2)).into(),
            options
                .head(linear(self.hidden, options.num_classes), init)
                .into(),
        ];
        SequentialNet::new(features, Some(1), classifier, stages)
    }
}

/// An inverted residual, where told with squeeze and excitation (section 5.3).
fn block(channels: usize, row: &Row, init: &mut Init) -> Residual {
    let Row {
        kernel,
        expanded,
        out,
        activation,
        stride,
        ..
    } = *row;
    let mut layers = Sequential::new();
    if expanded != channels {
        let shape = (channels, expanded, 1, 1, 1);
        layers.push(unit(shape, Some(activation), init).into());
    }
    let shape = (expanded, expanded, kernel, stride, expanded);
    layers.push(unit(shape, Some(activation), init).into());
    if row.squeeze {
        let squeezed = make_divisible((expanded / 4) as f64, 8);
        let gate = [RE, Activation::HardSigmoid];
        layers.push(SqueezeExcitation::new(expanded, squeezed, gate, WEIGHTS, init).into());
    }
    layers.push(unit((expanded, out, 1, 1, 1), None, init).into());
    Residual::new("block", layers, stride == 1 && channels == out)
}

const fn base(name: &'static str, build: Build) -> Variant {
    Variant {
        family: "MobileNet",
        year: 2019,
        paper: "Howard et al., Searching for MobileNetV3",
        classifier: "classifier.3",
        first_conv: "features.0.0",
        ..Variant::imagenet(name, build)
    }
}

pub(crate) static VARIANTS: &[Variant] = &[
    Variant {
        published: Published::v1(67.668, 87.402),
        ..base("mobilenet_v3_small", |o, i| {
            MobileNetV3Config::small().init(o, i).into()
        })
    },
    Variant {
        published: Published::v2(75.274, 92.566),
        preprocess: Preprocess::imagenet(232, 224, Bilinear),
        ..base("mobilenet_v3_large", |o, i| {
            MobileNetV3Config::large().init(o, i).into()
        })
    },
];
