//! RegNet.
//!
//! I. Radosavovic, R. P. Kosaraju, R. Girshick, K. He, P. Dollár, *Designing Network Design
//! Spaces*, CVPR 2020, section 3.3 (quantised linear widths) and section 5 (RegNetY: squeeze and
//! excitation).

use burn::module::Module;
use burn::tensor::Tensor;
use lenslet_data::Interpolation::Bilinear;
use lenslet_data::Preprocess;
use lenslet_nn::tap::tap;
use lenslet_nn::{
    Activation, AdaptiveAvgPool2d, BatchNorm2dConfig, Conv2dConfig, Head, Init, LinearConfig,
    Named, Sequential, SqueezeExcitation, WeightInit, conv_norm_act, flatten, forward_sequential,
    to_nhwc,
};

use crate::model::{ImageModel, Stage, Taken};
use crate::{BuildOptions, Published, Variant};

const RELU: Activation = Activation::Relu;
const WEIGHTS: WeightInit = WeightInit::KaimingNormalFanOut;
/// Channels of the stem.
const STEM: usize = 32;

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
    conv_norm_act(conv, BatchNorm2dConfig::new, activation, init)
}

/// The branch of a block: 1x1, grouped 3x3, squeeze and excitation, 1x1.
#[derive(Module, Debug)]
struct Transform {
    a: Sequential,
    b: Sequential,
    se: Option<SqueezeExcitation>,
    c: Sequential,
}

impl Transform {
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let x = tap("a", || forward_sequential(&self.a, x));
        let x = tap("b", || forward_sequential(&self.b, x));
        let x = match &self.se {
            Some(se) => tap("se", || se.forward(x)),
            None => x,
        };
        tap("c", || forward_sequential(&self.c, x))
    }
}

/// A residual bottleneck block without a bottleneck (ratio 1).
#[derive(Module, Debug)]
pub struct RegNetBlock {
    proj: Option<Sequential>,
    f: Transform,
}

impl RegNetBlock {
    fn new(
        (from, to, stride): (usize, usize, usize),
        group_width: usize,
        squeeze: Option<f64>,
        init: &mut Init,
    ) -> Self {
        let act = Some(RELU);
        Self {
            proj: (from != to || stride != 1).then(|| unit((from, to, 1, stride, 1), None, init)),
            f: Transform {
                a: unit((from, to, 1, 1, 1), act, init),
                b: unit((to, to, 3, stride, to / group_width), act, init),
                se: squeeze.map(|ratio| {
                    let squeezed = (ratio * from as f64).round_ties_even() as usize;
                    let gate = [RELU, Activation::Sigmoid];
                    SqueezeExcitation::new(to, squeezed, gate, WEIGHTS, init)
                }),
                c: unit((to, to, 1, 1, 1), None, init),
            },
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let shortcut = match &self.proj {
            Some(proj) => tap("proj", || forward_sequential(proj, x.clone())),
            None => x.clone(),
        };
        RELU.forward(shortcut + tap("f", || self.f.forward(x)))
    }
}

/// What a RegNet is built from: the parameters of its width function.
#[derive(Debug, Clone)]
pub struct RegNetConfig {
    depth: usize,
    w_0: f64,
    w_a: f64,
    w_m: f64,
    group_width: usize,
    squeeze: Option<f64>,
}

impl RegNetConfig {
    /// RegNetY-400MF.
    pub fn y_400mf() -> Self {
        Self {
            depth: 16,
            w_0: 48.0,
            w_a: 27.89,
            w_m: 2.09,
            group_width: 8,
            squeeze: Some(0.25),
        }
    }

    /// Width and depth of every stage: `w_0 + w_a * i`, rounded to the nearest `w_0 * w_m^k`, then
    /// to a multiple of 8 (equations 2 to 4) and of the group width.
    fn stages(&self) -> Vec<(usize, usize)> {
        let mut stages: Vec<(usize, usize)> = Vec::new();
        for i in 0..self.depth {
            let continuous = self.w_0 + self.w_a * i as f64;
            let k = ((continuous / self.w_0).ln() / self.w_m.ln()).round_ties_even();
            let width = (self.w_0 * self.w_m.powf(k) / 8.0).round_ties_even() as usize * 8;
            match stages.last_mut() {
                Some((last, depth)) if *last == width => *depth += 1,
                _ => stages.push((width, 1)),
            }
        }
        for (width, _) in &mut stages {
            *width = crate::plain::make_divisible(*width as f64, self.group_width.min(*width));
        }
        stages
    }

    /// Makes the network: convolutions after He et al. by the outputs, the classifier normal with
    /// a deviation of 0.01. (torchvision scales a grouped convolution by all its outputs, too.)
    pub fn init(&self, options: &BuildOptions, init: &mut Init) -> RegNet {
        let stem = unit((3, STEM, 3, 2, 1), Some(RELU), init);
        let mut from = STEM;
        let mut stages = Vec::new();
        let mut trunk = Vec::new();
        for (i, (width, depth)) in self.stages().into_iter().enumerate() {
            let blocks = (0..depth).map(|block| {
                let shape = (from, width, if block == 0 { 2 } else { 1 });
                from = width;
                let group_width = self.group_width.min(width);
                let made = RegNetBlock::new(shape, group_width, self.squeeze, init);
                (format!("block{}-{block}", i + 1), made)
            });
            let blocks: Named<RegNetBlock> = blocks.collect();
            let name = format!("block{}", i + 1);
            stages.push(Stage::new(format!("trunk_output.{name}"), width, 4 << i));
            trunk.push((name, blocks));
        }
        let fc = LinearConfig::new(from, options.num_classes);
        RegNet {
            stem,
            trunk_output: trunk.into_iter().collect(),
            fc: options.head(fc.with_init(WeightInit::Normal(0.01)), init),
            stages,
        }
    }
}

/// A stem, four stages of residual blocks, a mean and a linear layer.
#[derive(Module, Debug)]
pub struct RegNet {
    stem: Sequential,
    trunk_output: Named<Named<RegNetBlock>>,
    fc: Head,
    #[module(skip)]
    stages: Vec<Stage>,
}

impl RegNet {
    fn features(&self, x: Tensor<4>, taken: &mut Taken) -> Tensor<4> {
        let x = tap("stem", || forward_sequential(&self.stem, to_nhwc(x)));
        tap("trunk_output", || {
            self.trunk_output.iter().fold(x, |x, (name, blocks)| {
                let x = tap(name, || {
                    blocks
                        .iter()
                        .fold(x, |x, (name, block)| tap(name, || block.forward(x)))
                });
                taken.offer(&x);
                x
            })
        })
    }
}

impl ImageModel for RegNet {
    fn forward(&self, x: Tensor<4>) -> Tensor<2> {
        let x = self.embed(x);
        tap("fc", || self.fc.forward(x))
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
        Some(tap("fc", || self.fc.forward(features)))
    }
}

pub(crate) static VARIANTS: &[Variant] = &[Variant {
    family: "RegNet",
    year: 2020,
    paper: "Radosavovic et al., Designing Network Design Spaces",
    published: Published::v2(75.804, 92.742),
    preprocess: Preprocess::imagenet(232, 224, Bilinear),
    first_conv: "stem.0",
    ..Variant::imagenet("regnet_y_400mf", |o: &BuildOptions, i| {
        RegNetConfig::y_400mf().init(o, i).into()
    })
}];
