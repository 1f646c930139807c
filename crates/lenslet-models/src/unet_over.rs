//! U-Net over any backbone: the stages of a classifier are the contracting path.
//!
//! The expanding path is that of O. Ronneberger, P. Fischer, T. Brox, *U-Net: Convolutional Networks
//! for Biomedical Image Segmentation*, MICCAI 2015, with nearest-neighbour upsampling in the place of
//! transposed convolutions (A. Odena, V. Dumoulin, C. Olah, *Deconvolution and Checkerboard
//! Artifacts*, Distill 2016). Every map on the way up scores the classes, and the scores add up (J.
//! Long, E. Shelhamer, T. Darrell, *Fully Convolutional Networks for Semantic Segmentation*, CVPR
//! 2015, section 4.2): the coarse maps, which tell the classes apart, learn from the loss directly.

use burn::module::Module;
use burn::tensor::Tensor;
use lenslet_nn::tap::tap;
use lenslet_nn::{
    Conv2d, Conv2dConfig, Init, Interpolation, add, concat, global_avg_pool, resize, to_nchw,
    to_nhwc,
};

use crate::backbone::Backbone;
use crate::model::{ImageModel, Output, Stage};
use crate::unet::DoubleConv;
use crate::{BuildOptions, Variant};

/// Channels of the expanding path: so many times the stride, and no more than the second.
const WIDTH: usize = 8;
const WIDEST: usize = 128;
/// Channels of a picture, which is the finest map.
const COLOURS: usize = 3;
/// How scores grow.
const BILINEAR: Interpolation = Interpolation::Bilinear {
    align_corners: false,
};

/// The expanding path.
#[derive(Module, Debug)]
pub struct UNetHead {
    blocks: Vec<DoubleConv>,
    scores: Vec<Conv2d>,
}

/// A backbone, and an expanding path that also sees the maps of its finer stages.
#[derive(Module, Debug)]
pub struct UNetOver {
    encoder: Backbone,
    head: UNetHead,
    #[module(skip)]
    strides: Vec<usize>,
}

/// What the expanding path joins, step by step: every stride down to 1, with the level of that stride if
/// there is one.
fn steps(strides: &[usize]) -> Vec<(usize, Option<usize>)> {
    let mut stride = strides.last().copied().unwrap_or(1);
    let mut steps = Vec::new();
    while stride > 1 {
        stride /= 2;
        steps.push((stride, strides.iter().position(|&s| s == stride)));
    }
    steps
}

impl UNetOver {
    /// Makes the network over `backbone` for `options.num_classes` classes.
    pub fn new(backbone: &'static Variant, options: &BuildOptions, init: &mut Init) -> Self {
        let encoder = Backbone::new(backbone, options, init);
        let mut levels = encoder.level_info();
        if levels.first().is_some_and(|finest| finest.stride > 1) {
            levels.insert(0, Stage::new("picture", COLOURS, 1));
        }
        let strides: Vec<usize> = levels.iter().map(|l| l.stride).collect();
        let mut below = levels.last().map_or(0, |l| l.channels);
        let score =
            |from, init: &mut Init| Conv2dConfig::new(from, options.num_classes, 1).init(init);
        let mut scores = vec![score(below, init)];
        let mut blocks = Vec::new();
        for (stride, level) in steps(&strides) {
            let skip = level.map_or(0, |i| levels[i].channels);
            let width = (WIDTH * stride).min(WIDEST);
            blocks.push(DoubleConv::new(below + skip, width, init));
            scores.push(score(width, init));
            below = width;
        }
        Self {
            encoder,
            head: UNetHead { blocks, scores },
            strides,
        }
    }

    /// The finest map and the classes' scores: `[N, h, w, C]` and `[N, H, W, classes]`.
    fn decode(&self, x: Tensor<4>) -> (Tensor<4>, Tensor<4>) {
        let [_, _, height, width] = x.dims();
        let mut levels = self.encoder.levels(x.clone());
        if levels.len() < self.strides.len() {
            levels.insert(0, to_nhwc(x));
        }
        let Some(mut x) = levels.pop() else {
            unreachable!("every backbone has a stage");
        };
        let score = |at: usize, x: &Tensor<4>| {
            tap("head", || {
                tap("scores", || {
                    tap(at, || self.head.scores[at].forward(x.clone()))
                })
            })
        };
        let mut scores = score(0, &x);
        for (i, (stride, level)) in steps(&self.strides).into_iter().enumerate() {
            let skip = level.and_then(|at| levels.get(at).cloned());
            // Odd sizes were rounded on the way down, each backbone in its own way.
            let size = match &skip {
                Some(skip) => [skip.dims()[1], skip.dims()[2]],
                None => [height.div_ceil(stride), width.div_ceil(stride)],
            };
            x = resize(x, size, Interpolation::Nearest);
            if let Some(skip) = skip {
                x = concat(vec![skip, x]);
            }
            x = tap("head", || {
                tap("blocks", || tap(i, || self.head.blocks[i].forward(x)))
            });
            scores = add(resize(scores, size, BILINEAR), score(i + 1, &x));
        }
        (x, scores)
    }

    fn map(&self, x: Tensor<4>) -> Tensor<4> {
        self.decode(x).1
    }
}

impl ImageModel for UNetOver {
    fn forward(&self, x: Tensor<4>) -> Tensor<2> {
        global_avg_pool(self.map(x))
    }

    fn output(&self, x: Tensor<4>) -> Output {
        Output::Map(to_nchw(self.map(x)))
    }

    fn stages(&self, x: Tensor<4>) -> Vec<Tensor<4>> {
        self.encoder.model().stages(x)
    }

    fn stage_info(&self) -> Vec<Stage> {
        self.encoder.stage_info("encoder")
    }

    fn embed(&self, x: Tensor<4>) -> Tensor<2> {
        global_avg_pool(self.decode(x).0)
    }
}

/// The variants are made for every backbone: see [`crate::composed`].
pub(crate) static VARIANTS: &[Variant] = &[];
