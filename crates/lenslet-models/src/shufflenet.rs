//! ShuffleNetV2.
//!
//! N. Ma, X. Zhang, H.-T. Zheng, J. Sun, *ShuffleNet V2: Practical Guidelines for Efficient CNN
//! Architecture Design*, ECCV 2018, table 5.

use burn::module::Module;
use burn::tensor::Tensor;
use lenslet_nn::tap::tap;
use lenslet_nn::{
    Activation, BatchNorm2dConfig, Conv2dConfig, Head, Init, LinearConfig, MaxPool2d, Sequential,
    channel_shuffle, concat, conv_norm_act, forward_sequential, global_avg_pool, to_nhwc,
};

use crate::model::{ImageModel, Stage, Taken};
use crate::{BuildOptions, Published, Variant};

const RELU: Option<Activation> = Some(Activation::Relu);
/// Units in the three stages.
const DEPTHS: [usize; 3] = [4, 8, 4];

/// A convolution with batch norm for `(from, to, kernel, stride, groups)`.
fn unit(
    (from, to, kernel, stride, groups): (usize, usize, usize, usize, usize),
    activation: Option<Activation>,
    init: &mut Init,
) -> Sequential {
    let conv = Conv2dConfig::new(from, to, kernel)
        .with_stride(stride)
        .with_padding(kernel / 2)
        .with_groups(groups);
    conv_norm_act(conv, BatchNorm2dConfig::new, activation, init)
}

/// Splits the channels and works on one half, or works on all of them in two branches when it
/// halves the resolution; then shuffles the halves together (figure 3).
#[derive(Module, Debug)]
pub struct ShuffleUnit {
    branch1: Option<Sequential>,
    branch2: Sequential,
}

impl ShuffleUnit {
    fn new(from: usize, to: usize, stride: usize, init: &mut Init) -> Self {
        let half = to / 2;
        let branch1 = (stride > 1).then(|| {
            let mut layers = unit((from, from, 3, stride, from), None, init);
            layers.extend(unit((from, half, 1, 1, 1), RELU, init));
            layers
        });
        let input = if stride > 1 { from } else { half };
        let mut branch2 = unit((input, half, 1, 1, 1), RELU, init);
        branch2.extend(unit((half, half, 3, stride, half), None, init));
        branch2.extend(unit((half, half, 1, 1, 1), RELU, init));
        Self { branch1, branch2 }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let branch2 = |x| tap("branch2", || forward_sequential(&self.branch2, x));
        let halves = match &self.branch1 {
            Some(layers) => {
                let left = tap("branch1", || forward_sequential(layers, x.clone()));
                vec![left, branch2(x)]
            }
            None => {
                let half = x.dims()[3] / 2;
                vec![
                    x.clone().narrow(3, 0, half),
                    branch2(x.narrow(3, half, half)),
                ]
            }
        };
        channel_shuffle(concat(halves), 2)
    }
}

/// What a ShuffleNetV2 is built from.
#[derive(Debug, Clone)]
pub struct ShuffleNetV2Config {
    widths: [usize; 3],
    last: usize,
}

impl ShuffleNetV2Config {
    /// Channels of the three stages and of the last convolution.
    pub fn new(widths: [usize; 3], last: usize) -> Self {
        Self { widths, last }
    }

    /// Makes the network with PyTorch's default values.
    pub fn init(&self, options: &BuildOptions, init: &mut Init) -> ShuffleNetV2 {
        let conv1 = unit((3, 24, 3, 2, 1), RELU, init);
        let mut from = 24;
        let mut stage = |i: usize| -> Vec<ShuffleUnit> {
            let to = self.widths[i];
            let units = (0..DEPTHS[i]).map(|unit| {
                let stride = if unit == 0 { 2 } else { 1 };
                let unit = ShuffleUnit::new(from, to, stride, init);
                from = to;
                unit
            });
            units.collect()
        };
        let [stage2, stage3, stage4] = [stage(0), stage(1), stage(2)];
        ShuffleNetV2 {
            conv1,
            stage2,
            stage3,
            stage4,
            conv5: unit((from, self.last, 1, 1, 1), RELU, init),
            fc: options.head(LinearConfig::new(self.last, options.num_classes), init),
            widths: self.widths,
        }
    }
}

/// A stem, three stages of shuffle units, a 1x1 convolution, a mean and a linear layer.
#[derive(Module, Debug)]
pub struct ShuffleNetV2 {
    conv1: Sequential,
    stage2: Vec<ShuffleUnit>,
    stage3: Vec<ShuffleUnit>,
    stage4: Vec<ShuffleUnit>,
    conv5: Sequential,
    fc: Head,
    #[module(skip)]
    widths: [usize; 3],
}

const STAGES: [&str; 3] = ["stage2", "stage3", "stage4"];

impl ShuffleNetV2 {
    fn features(&self, x: Tensor<4>, taken: &mut Taken) -> Tensor<4> {
        let x = tap("conv1", || forward_sequential(&self.conv1, to_nhwc(x)));
        let pool = MaxPool2d::new(3, 2).with_padding(1);
        let mut x = tap("maxpool", || pool.forward(x));
        let stages = [&self.stage2, &self.stage3, &self.stage4];
        for (name, units) in STAGES.into_iter().zip(stages) {
            x = tap(name, || {
                units
                    .iter()
                    .enumerate()
                    .fold(x, |x, (i, unit)| tap(i, || unit.forward(x)))
            });
            taken.offer(&x);
        }
        x
    }
}

impl ImageModel for ShuffleNetV2 {
    fn forward(&self, x: Tensor<4>) -> Tensor<2> {
        let x = self.embed(x);
        tap("fc", || self.fc.forward(x))
    }

    fn stages(&self, x: Tensor<4>) -> Vec<Tensor<4>> {
        Taken::from(|taken| self.features(x, taken))
    }

    fn stage_info(&self) -> Vec<Stage> {
        let stage = |i: usize| Stage::new(STAGES[i], self.widths[i], 8 << i);
        (0..3).map(stage).collect()
    }

    fn embed(&self, x: Tensor<4>) -> Tensor<2> {
        let x = self.features(x, &mut Taken::none());
        global_avg_pool(tap("conv5", || forward_sequential(&self.conv5, x)))
    }

    fn classify(&self, features: Tensor<2>) -> Option<Tensor<2>> {
        Some(tap("fc", || self.fc.forward(features)))
    }
}

pub(crate) static VARIANTS: &[Variant] = &[Variant {
    family: "ShuffleNet",
    year: 2018,
    paper: "Ma et al., ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design",
    published: Published::v1(69.362, 88.316),
    first_conv: "conv1.0",
    ..Variant::imagenet("shufflenet_v2_x1_0", |o: &BuildOptions, i| {
        ShuffleNetV2Config::new([116, 232, 464], 1024)
            .init(o, i)
            .into()
    })
}];
