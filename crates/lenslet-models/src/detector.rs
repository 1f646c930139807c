//! Detectors over any backbone.
//!
//! [`GridDetector`]: J. Redmon, S. Divvala, R. Girshick, A. Farhadi, *You Only Look Once: Unified,
//! Real-Time Object Detection*, CVPR 2016, section 2: two linear layers that see the whole map and
//! predict for every cell of a 7x7 grid.
//!
//! [`AnchorDetector`]: J. Redmon, A. Farhadi, *YOLOv3: An Incremental Improvement*, 2018, sections
//! 2.1 and 2.3: boxes relative to anchors at every position of one to three maps, the finer of which
//! also see the coarser.

use burn::module::Module;
use burn::tensor::Tensor;
use lenslet_nn::{
    AdaptiveAvgPool2d, BatchNorm2dConfig, Conv2dConfig, Dropout, Identity, Init, Interpolation,
    LinearConfig, Sequential, concat, flatten, forward_head, forward_range, forward_sequential,
    global_avg_pool, resize,
};

use crate::backbone::Backbone;
use crate::darknet::LEAKY;
use crate::model::{ImageModel, Output, Stage};
use crate::yolo::{GRID, YoloHead};
use crate::{BuildOptions, Variant};

/// Boxes that the grid detector predicts a cell (YOLOv1, section 2).
pub const GRID_BOXES: usize = 2;
/// Channels that the grid detector's linear layers see: what the paper's detector has at its end would
/// be 1024; a small backbone's map is not widened.
const ADAPTED: usize = 512;
/// Hidden units of the grid detector.
const HIDDEN: usize = 1024;
/// Channels of the anchor head, at most.
const WIDEST: usize = 256;

/// First logit of every objectness: hardly a position holds a box (T.-Y. Lin et al., *Focal Loss for
/// Dense Object Detection*, ICCV 2017, section 4.1).
const UNLIKELY: f32 = -4.0;

fn conv_bn(from: usize, to: usize, kernel: usize, init: &mut Init) -> Sequential {
    let conv = Conv2dConfig::new(from, to, kernel).with_padding(kernel / 2);
    vec![
        conv.with_bias(false).init(init).into(),
        BatchNorm2dConfig::new(to).init(init).into(),
        LEAKY.into(),
    ]
}

/// A backbone, an adapter to at most 512 channels, and the two linear layers of YOLOv1.
#[derive(Module, Debug)]
pub struct GridDetector {
    backbone: Backbone,
    /// `0..3` adapts the map, `3` pools it, `4` is where PyTorch flattens, `5..9` are the layers.
    head: Sequential,
}

impl GridDetector {
    /// Makes the detector over `backbone` for `options.num_classes` classes.
    pub fn new(backbone: &'static Variant, options: &BuildOptions, init: &mut Init) -> Self {
        let backbone = Backbone::new(backbone, options, init);
        let channels = backbone.level_info().last().map_or(0, |l| l.channels);
        let adapted = channels.min(ADAPTED);
        let values = 5 * GRID_BOXES + options.num_classes;
        let mut head = conv_bn(channels, adapted, 1, init);
        head.extend([
            AdaptiveAvgPool2d::new(GRID).into(),
            Identity {}.into(),
            LinearConfig::new(adapted * GRID * GRID, HIDDEN)
                .init(init)
                .into(),
            LEAKY.into(),
            Dropout::new(options.dropout.unwrap_or(0.5)).into(),
            LinearConfig::new(HIDDEN, GRID * GRID * values)
                .init(init)
                .into(),
        ]);
        Self { backbone, head }
    }
}

impl ImageModel for GridDetector {
    fn forward(&self, x: Tensor<4>) -> Tensor<2> {
        forward_head(&self.head, 8..9, self.embed(x))
    }

    fn output(&self, x: Tensor<4>) -> Output {
        let x = self.forward(x);
        let [n, values] = x.dims();
        Output::Grid(x.reshape([n, GRID, GRID, values / (GRID * GRID)]))
    }

    fn stages(&self, x: Tensor<4>) -> Vec<Tensor<4>> {
        self.backbone.model().stages(x)
    }

    fn stage_info(&self) -> Vec<Stage> {
        self.backbone.stage_info("backbone")
    }

    fn embed(&self, x: Tensor<4>) -> Tensor<2> {
        let Some(x) = self.backbone.levels(x).pop() else {
            unreachable!("every backbone has a stage");
        };
        let x = forward_range(&self.head, 0..4, x);
        forward_head(&self.head, 5..8, flatten(x))
    }
}

/// The head at one scale.
#[derive(Module, Debug)]
pub struct ScaleHead {
    neck: Sequential,
    predict: YoloHead,
}

/// A backbone, and the head of YOLOv3 on its coarsest stages, as many as there are lists of anchors.
#[derive(Module, Debug)]
pub struct AnchorDetector {
    backbone: Backbone,
    /// From the coarsest scale to the finest.
    head: Vec<ScaleHead>,
}

impl AnchorDetector {
    /// Makes the detector over `backbone` for `options.num_classes` classes and the anchors
    /// `options.anchors`, a list a scale from the finest to the coarsest; without such, three anchors
    /// at two scales.
    pub fn new(backbone: &'static Variant, options: &BuildOptions, init: &mut Init) -> Self {
        let backbone = Backbone::new(backbone, options, init);
        let levels = backbone.level_info();
        let anchors: Vec<usize> = match options.anchors.as_slice() {
            [] => vec![3; 2],
            lists => lists.iter().map(Vec::len).collect(),
        };
        let scales = anchors.len().min(levels.len());
        let mut above = 0;
        let mut head = Vec::new();
        for (level, &anchors) in levels.iter().rev().zip(anchors.iter().rev()).take(scales) {
            let width = level.channels.min(WIDEST);
            let neck = conv_bn(level.channels + above, width, 1, init);
            let predict =
                YoloHead::new(width, anchors, options.num_classes, init).with_objectness(UNLIKELY);
            head.push(ScaleHead { neck, predict });
            above = width;
        }
        Self { backbone, head }
    }

    /// Pixels of the image a step in the maps, from the finest scale to the coarsest.
    pub fn strides(&self) -> Vec<usize> {
        let levels = self.backbone.level_info();
        let first = levels.len() - self.head.len();
        levels[first..].iter().map(|l| l.stride).collect()
    }

    /// `[N, anchors, H, W, 5 + classes]` a scale, from the finest to the coarsest.
    fn scales(&self, x: Tensor<4>) -> Vec<Tensor<5>> {
        let mut levels = self.backbone.levels(x);
        let mut above: Option<Tensor<4>> = None;
        let mut found = Vec::new();
        for scale in &self.head {
            let Some(mut x) = levels.pop() else { break };
            if let Some(coarse) = above {
                let [_, h, w, _] = x.dims();
                x = concat(vec![x, resize(coarse, [h, w], Interpolation::Nearest)]);
            }
            let x = forward_sequential(&scale.neck, x);
            found.push(scale.predict.forward(x.clone()));
            above = Some(x);
        }
        found.reverse();
        found
    }
}

impl ImageModel for AnchorDetector {
    fn forward(&self, x: Tensor<4>) -> Tensor<2> {
        let rows = self.scales(x).into_iter().map(|scale| {
            let [n, a, h, w, v] = scale.dims();
            scale.reshape([n, a * h * w * v])
        });
        Tensor::cat(rows.collect(), 1)
    }

    fn output(&self, x: Tensor<4>) -> Output {
        Output::Anchors(self.scales(x))
    }

    fn stages(&self, x: Tensor<4>) -> Vec<Tensor<4>> {
        self.backbone.model().stages(x)
    }

    fn stage_info(&self) -> Vec<Stage> {
        self.backbone.stage_info("backbone")
    }

    fn embed(&self, x: Tensor<4>) -> Tensor<2> {
        match self.backbone.levels(x).pop() {
            Some(map) => global_avg_pool(map),
            None => unreachable!("every backbone has a stage"),
        }
    }
}

/// The variants are made for every backbone: see [`crate::composed`].
pub(crate) static VARIANTS: &[Variant] = &[];
