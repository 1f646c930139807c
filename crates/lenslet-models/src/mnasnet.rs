//! MNASNet.
//!
//! M. Tan et al., *MnasNet: Platform-Aware Neural Architecture Search for Mobile*, CVPR 2019,
//! figure 7 (MnasNet-B1, without squeeze and excitation).

use burn::module::Module;
use burn::tensor::Tensor;
use lenslet_nn::tap::tap;
use lenslet_nn::{
    Activation, BatchNorm2dConfig, Conv2dConfig, Dropout, Init, LinearConfig, Residual, Sequential,
    WeightInit, conv_norm_act, forward_head, forward_range, global_avg_pool, to_nhwc,
};

use crate::model::{ImageModel, Stage, Taken};
use crate::plain::make_divisible;
use crate::{BuildOptions, Published, Variant};

const RELU: Option<Activation> = Some(Activation::Relu);

/// Channels, kernel, stride, expansion, blocks.
const STACKS: [(usize, usize, usize, usize, usize); 6] = [
    (24, 3, 2, 3, 3),
    (40, 5, 2, 3, 3),
    (80, 5, 2, 6, 3),
    (96, 3, 1, 6, 2),
    (192, 5, 2, 6, 4),
    (320, 3, 1, 6, 1),
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
        .with_init(WeightInit::KaimingNormalFanOut);
    // TensorFlow's momentum of 0.9997 as PyTorch counts it.
    let norm = |c| BatchNorm2dConfig::new(c).with_momentum(1.0 - 0.9997);
    conv_norm_act(conv, norm, activation, init)
}

/// What a MNASNet is built from.
#[derive(Debug, Clone)]
pub struct MnasNetConfig {
    width: f64,
}

impl MnasNetConfig {
    /// Channels times `width`, as multiples of 8.
    pub fn new(width: f64) -> Self {
        Self { width }
    }

    /// Makes the network: convolutions after He et al. by the outputs, the classifier uniform in
    /// `±sqrt(3 / num_classes)`.
    pub fn init(&self, options: &BuildOptions, init: &mut Init) -> MnasNet {
        let scale = |channels: usize| make_divisible(channels as f64 * self.width, 8);
        let (stem, first) = (scale(32), scale(16));
        let mut layers = Sequential::new();
        layers.extend(unit((3, stem, 3, 2, 1), RELU, init));
        layers.extend(unit((stem, stem, 3, 1, stem), RELU, init));
        layers.extend(unit((stem, first, 1, 1, 1), None, init));
        let mut stages = vec![(layers.len(), first, 2)];
        let mut channels = first;
        for (i, (to, kernel, stride, expand, blocks)) in STACKS.into_iter().enumerate() {
            let to = scale(to);
            let mut stack = Sequential::new();
            for block in 0..blocks {
                let stride = if block == 0 { stride } else { 1 };
                let hidden = channels * expand;
                let mut branch = unit((channels, hidden, 1, 1, 1), RELU, init);
                branch.extend(unit((hidden, hidden, kernel, stride, hidden), RELU, init));
                branch.extend(unit((hidden, to, 1, 1, 1), None, init));
                let skip = stride == 1 && channels == to;
                stack.push(Residual::new("layers", branch, skip).into());
                channels = to;
            }
            layers.push(stack.into());
            let reduction = stages.last().map_or(2, |s: &(usize, usize, usize)| s.2) * stride;
            if stride == 1 {
                stages.pop();
            }
            stages.push((8 + i + 1, channels, reduction));
        }
        layers.extend(unit((channels, 1280, 1, 1, 1), RELU, init));
        let bound = (3.0 / options.num_classes as f64).sqrt();
        let linear = LinearConfig::new(1280, options.num_classes);
        MnasNet {
            layers,
            classifier: vec![
                Dropout::new(options.dropout.unwrap_or(0.2)).into(),
                options
                    .head(linear.with_init(WeightInit::Uniform(bound)), init)
                    .into(),
            ],
            stages,
        }
    }
}

/// One sequence of layers and blocks, a mean, dropout and a linear layer.
#[derive(Module, Debug)]
pub struct MnasNet {
    layers: Sequential,
    classifier: Sequential,
    #[module(skip)]
    stages: Vec<(usize, usize, usize)>,
}

impl MnasNet {
    fn features(&self, x: Tensor<4>, taken: &mut Taken) -> Tensor<4> {
        tap("layers", || {
            let (mut x, mut start) = (to_nhwc(x), 0);
            for &(end, _, _) in &self.stages {
                x = forward_range(&self.layers, start..end, x);
                taken.offer(&x);
                start = end;
            }
            forward_range(&self.layers, start..self.layers.len(), x)
        })
    }
}

impl ImageModel for MnasNet {
    fn forward(&self, x: Tensor<4>) -> Tensor<2> {
        let x = self.embed(x);
        tap("classifier", || forward_head(&self.classifier, 1..2, x))
    }

    fn stages(&self, x: Tensor<4>) -> Vec<Tensor<4>> {
        Taken::from(|taken| self.features(x, taken))
    }

    fn stage_info(&self) -> Vec<Stage> {
        let stage = |&(end, channels, stride): &(usize, usize, usize)| {
            Stage::new(format!("layers.{}", end - 1), channels, stride)
        };
        self.stages.iter().map(stage).collect()
    }

    fn embed(&self, x: Tensor<4>) -> Tensor<2> {
        let x = global_avg_pool(self.features(x, &mut Taken::none()));
        tap("classifier", || forward_head(&self.classifier, 0..1, x))
    }

    fn classify(&self, features: Tensor<2>) -> Option<Tensor<2>> {
        Some(tap("classifier", || {
            forward_head(&self.classifier, 1..2, features)
        }))
    }
}

pub(crate) static VARIANTS: &[Variant] = &[Variant {
    family: "MNASNet",
    year: 2018,
    paper: "Tan et al., MnasNet: Platform-Aware Neural Architecture Search for Mobile",
    published: Published::v1(73.456, 91.51),
    classifier: "classifier.1",
    first_conv: "layers.0",
    ..Variant::imagenet("mnasnet1_0", |o: &BuildOptions, i| {
        MnasNetConfig::new(1.0).init(o, i).into()
    })
}];
