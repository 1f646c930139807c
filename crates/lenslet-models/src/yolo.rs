//! YOLO: the detection head of YOLOv3, and a detector after YOLOv1.
//!
//! J. Redmon, S. Divvala, R. Girshick, A. Farhadi, *You Only Look Once: Unified, Real-Time Object
//! Detection*, CVPR 2016, section 2.1. J. Redmon, A. Farhadi, *YOLOv3: An Incremental
//! Improvement*, 2018, section 2.3. As the guide defines them.

use burn::module::Module;
use burn::tensor::Tensor;
use lenslet_data::Interpolation::Bilinear;
use lenslet_data::Preprocess;
use lenslet_nn::tap::tap;
use lenslet_nn::{
    Activation, AdaptiveAvgPool2d, BatchNorm2dConfig, Conv2dConfig, Dropout, Identity, Init, Layer,
    LinearConfig, Sequential, flatten, forward_head, forward_range, forward_sequential, to_nhwc,
};

use crate::model::{ImageModel, Output, Stage, Taken};
use crate::registry::Task;
use crate::vgg::VggConfig;
use crate::{BuildOptions, Variant};

/// Predicts boxes at every position of a feature map.
#[derive(Module, Debug)]
pub struct YoloHead {
    head: Sequential,
    #[module(skip)]
    anchors: usize,
}

impl YoloHead {
    /// `anchors` boxes a position, each of four coordinates, an objectness and a score a class.
    pub fn new(channels: usize, anchors: usize, num_classes: usize, init: &mut Init) -> Self {
        let conv = Conv2dConfig::new(channels, 2 * channels, 3).with_padding(1);
        let last = Conv2dConfig::new(2 * channels, anchors * (5 + num_classes), 1);
        Self {
            head: vec![
                conv.init(init).into(),
                BatchNorm2dConfig::new(2 * channels).init(init).into(),
                Activation::LeakyRelu { slope: 0.1 }.into(),
                last.init(init).into(),
            ],
            anchors,
        }
    }

    /// With objectness that starts `logit` higher, whatever the input.
    pub fn with_objectness(mut self, logit: f32) -> Self {
        if let Some(Layer::Conv2d(last)) = self.head.last_mut() {
            let anchors = self.anchors;
            last.bias = last.bias.take().map(|bias| {
                bias.map(|bias| {
                    let count = bias.dims()[0] / anchors;
                    let data = bias.to_data();
                    let values = data.iter::<f32>().enumerate();
                    let raise = |i: usize| if i % count == 4 { logit } else { 0.0 };
                    let raised: Vec<f32> = values.map(|(i, v)| v + raise(i)).collect();
                    // A parameter of its own, not what came out of a sum.
                    let tracked = bias.is_require_grad();
                    let raised = Tensor::<1>::from_floats(raised.as_slice(), &bias.device());
                    if tracked {
                        raised.require_grad()
                    } else {
                        raised
                    }
                })
            });
        }
        self
    }

    /// A map `[N, H, W, channels]` to `[N, anchors, H, W, 5 + num_classes]`.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<5> {
        let x = tap("head", || forward_sequential(&self.head, x));
        let [n, h, w, c] = x.dims();
        x.reshape([n, h, w, self.anchors, c / self.anchors])
            .permute([0, 3, 1, 2, 4])
    }
}

/// Rows and columns of the grid.
pub(crate) const GRID: usize = 7;

/// A backbone, and two linear layers that see its whole map and predict for every cell of a 7x7
/// grid a few boxes (four coordinates and a confidence each) and one score a class.
#[derive(Module, Debug)]
pub struct SimpleYolo {
    backbone: Sequential,
    head: Sequential,
    #[module(skip)]
    stages: Vec<(usize, usize, usize)>,
}

impl SimpleYolo {
    /// Makes the detector on the features of `backbone`, with `boxes` boxes a cell.
    pub fn new(
        backbone: &VggConfig,
        boxes: usize,
        options: &BuildOptions,
        init: &mut Init,
    ) -> Self {
        let (backbone, stages) = backbone.features(init);
        let channels = stages.last().map_or(0, |stage| stage.1);
        let values = 5 * boxes + options.num_classes;
        let head = vec![
            AdaptiveAvgPool2d::new(GRID).into(),
            Identity {}.into(), // PyTorch flattens here.
            LinearConfig::new(channels * GRID * GRID, 4096)
                .init(init)
                .into(),
            Activation::Relu.into(),
            Dropout::new(options.dropout.unwrap_or(0.5)).into(),
            LinearConfig::new(4096, GRID * GRID * values)
                .init(init)
                .into(),
        ];
        Self {
            backbone,
            head,
            stages,
        }
    }

    fn features(&self, x: Tensor<4>, taken: &mut Taken) -> Tensor<4> {
        tap("backbone", || {
            let mut start = 0;
            self.stages.iter().fold(to_nhwc(x), |x, &(last, _, _)| {
                let x = forward_range(&self.backbone, start..last + 1, x);
                taken.offer(&x);
                start = last + 1;
                x
            })
        })
    }
}

impl ImageModel for SimpleYolo {
    fn forward(&self, x: Tensor<4>) -> Tensor<2> {
        let x = self.embed(x);
        tap("head", || forward_head(&self.head, 5..6, x))
    }

    fn output(&self, x: Tensor<4>) -> Output {
        let x = self.forward(x);
        let [n, values] = x.dims();
        Output::Grid(x.reshape([n, GRID, GRID, values / (GRID * GRID)]))
    }

    fn stages(&self, x: Tensor<4>) -> Vec<Tensor<4>> {
        Taken::from(|taken| self.features(x, taken))
    }

    fn stage_info(&self) -> Vec<Stage> {
        let stage = |&(last, channels, stride): &(usize, usize, usize)| {
            Stage::new(format!("backbone.{last}"), channels, stride)
        };
        self.stages.iter().map(stage).collect()
    }

    fn embed(&self, x: Tensor<4>) -> Tensor<2> {
        let x = self.features(x, &mut Taken::none());
        let x = tap("head", || forward_range(&self.head, 0..2, x));
        tap("head", || forward_head(&self.head, 2..5, flatten(x)))
    }
}

pub(crate) static VARIANTS: &[Variant] = &[Variant {
    family: "YOLO",
    task: Task::Detection,
    year: 2015,
    paper: "Redmon et al., You Only Look Once: Unified, Real-Time Object Detection",
    licence: "MIT OR Apache-2.0",
    input: [3, 448, 448],
    num_classes: 80,
    preprocess: Preprocess::imagenet(448, 448, Bilinear),
    classifier: "head.5",
    first_conv: "backbone.0",
    ..Variant::imagenet("guide_simple_yolo", |o: &BuildOptions, i| {
        SimpleYolo::new(&VggConfig::vgg11(true), 2, o, i).into()
    })
}];
