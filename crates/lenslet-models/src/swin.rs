//! Swin Transformer.
//!
//! Z. Liu et al., *Swin Transformer: Hierarchical Vision Transformer using Shifted Windows*, ICCV
//! 2021, section 3.

use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor, TensorData};
use lenslet_data::Interpolation::Bicubic;
use lenslet_data::Preprocess;
use lenslet_nn::tap::tap;
use lenslet_nn::{
    Activation, AdaptiveAvgPool2d, Conv2dConfig, Dropout, Head, Identity, Init, LayerNorm,
    LayerNormConfig, Linear, LinearConfig, Sequential, StochasticDepth, WeightInit, flatten,
    forward_sequential, self_attention, to_nhwc,
};

use crate::model::{ImageModel, Stage, Taken};
use crate::registry::Build;
use crate::{BuildOptions, Published, Variant};

/// Rows and columns of a window.
const WINDOW: usize = 7;
/// Positions in a window.
const AREA: usize = WINDOW * WINDOW;
const WEIGHTS: WeightInit = WeightInit::TruncNormal(0.02);

fn linear(from: usize, to: usize) -> LinearConfig {
    LinearConfig::new(from, to).with_init(WEIGHTS)
}

/// Attention inside windows, with a learned bias for every relative position (section 3.2).
#[derive(Module, Debug)]
struct WindowAttention {
    /// `[(2 * WINDOW - 1)^2, heads]`
    relative_position_bias_table: Param<Tensor<2>>,
    /// Row of the table for every pair of positions, `[AREA * AREA]`.
    relative_position_index: Param<Tensor<1, Int>>,
    qkv: Linear,
    proj: Linear,
    #[module(skip)]
    heads: usize,
    /// How far windows are shifted against the grid.
    #[module(skip)]
    shift: usize,
}

impl WindowAttention {
    fn new(channels: usize, heads: usize, shift: usize, init: &mut Init) -> Self {
        let span = 2 * WINDOW - 1;
        let distance = |a: usize, b: usize| (a + WINDOW - 1 - b) as i64;
        let pairs = (0..AREA).flat_map(|a| (0..AREA).map(move |b| (a, b)));
        let index: Vec<i64> = pairs
            .map(|(a, b)| {
                let rows = distance(a / WINDOW, b / WINDOW);
                rows * span as i64 + distance(a % WINDOW, b % WINDOW)
            })
            .collect();
        let index = Tensor::from_data(TensorData::new(index, [AREA * AREA]), init.device());
        Self {
            relative_position_bias_table: init.trunc_normal([span * span, heads], 0.02, 2.0),
            relative_position_index: Param::initialized(Default::default(), index),
            qkv: linear(channels, 3 * channels).init(init),
            proj: linear(channels, channels).init(init),
            heads,
            shift,
        }
    }

    /// `[N, H, W, C]` to the same shape. Sizes that windows do not divide are padded with zeros.
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [n, h, w, c] = x.dims();
        let x = pad_to_multiple(x, WINDOW);
        let [_, ph, pw, _] = x.dims();
        // A window as large as the map is not shifted.
        let shift = [ph, pw].map(|size| if size <= WINDOW { 0 } else { self.shift });
        let [rows, columns] = [ph / WINDOW, pw / WINDOW];
        let x = roll(x, shift.map(|s| -(s as i64)));
        let windows = x
            .reshape([n, rows, WINDOW, columns, WINDOW, c])
            .swap_dims(2, 3)
            .reshape([n * rows * columns, AREA, c]);
        let mut bias = self.position_bias();
        if shift != [0, 0] {
            let count = rows * columns;
            let mask = shift_mask([ph, pw], shift, &windows);
            let masked = (bias + mask.reshape([count, 1, AREA, AREA])).unsqueeze::<5>();
            bias = masked.expand([n, count, self.heads, AREA, AREA]).reshape([
                n * count,
                self.heads,
                AREA,
                AREA,
            ]);
        }
        let qkv = tap("qkv", || self.qkv.forward(windows));
        let y = self_attention(qkv, self.heads, Some(bias));
        let y = self.proj.forward(y);
        let y = y
            .reshape([n, rows, columns, WINDOW, WINDOW, c])
            .swap_dims(2, 3)
            .reshape([n, ph, pw, c]);
        roll(y, shift.map(|s| s as i64)).slice([0..n, 0..h, 0..w, 0..c])
    }

    /// `[1, heads, AREA, AREA]`
    fn position_bias(&self) -> Tensor<4> {
        let table = self.relative_position_bias_table.val();
        let index = self
            .relative_position_index
            .val()
            .to_device(&table.device());
        table
            .select(0, index)
            .reshape([AREA, AREA, self.heads])
            .permute([2, 0, 1])
            .unsqueeze()
    }
}

/// Adds zeros below and to the right.
fn pad_to_multiple(x: Tensor<4>, multiple: usize) -> Tensor<4> {
    let [n, h, w, c] = x.dims();
    let missing = |size: usize| size.next_multiple_of(multiple) - size;
    let device = x.device();
    let mut x = x;
    if missing(h) > 0 {
        x = Tensor::cat(vec![x, Tensor::zeros([n, missing(h), w, c], &device)], 1);
    }
    if missing(w) > 0 {
        let h = x.dims()[1];
        x = Tensor::cat(vec![x, Tensor::zeros([n, h, missing(w), c], &device)], 2);
    }
    x
}

/// Moves rows and columns on, around the edges.
fn roll(x: Tensor<4>, shift: [i64; 2]) -> Tensor<4> {
    if shift == [0, 0] {
        x
    } else {
        x.roll(&shift, &[1, 2])
    }
}

/// After a shift, windows at the edge hold parts of the map that are no neighbours: -100 where two
/// positions belong to different parts, else 0 (figure 4). `[windows, AREA, AREA]`.
fn shift_mask(size: [usize; 2], shift: [usize; 2], like: &Tensor<3>) -> Tensor<3> {
    // The part that a row (or column) belongs to.
    let part = |axis: usize, at: usize| {
        if at + WINDOW < size[axis] {
            0
        } else if at + shift[axis] < size[axis] {
            1
        } else {
            2
        }
    };
    let [rows, columns] = size.map(|s| s / WINDOW);
    let mut mask = Vec::with_capacity(rows * columns * AREA * AREA);
    for window in 0..rows * columns {
        let (top, left) = (window / columns * WINDOW, window % columns * WINDOW);
        let parts: Vec<_> = (0..AREA)
            .map(|i| (part(0, top + i / WINDOW), part(1, left + i % WINDOW)))
            .collect();
        for a in &parts {
            mask.extend(parts.iter().map(|b| if a == b { 0.0f32 } else { -100.0 }));
        }
    }
    let data = TensorData::new(mask, [rows * columns, AREA, AREA]);
    Tensor::from_data(data, &like.device())
}

/// Attention and a perceptron, each after a norm and around a shortcut (figure 3b).
#[derive(Module, Debug)]
pub struct SwinBlock {
    norm1: LayerNorm,
    attn: WindowAttention,
    stochastic_depth: StochasticDepth,
    norm2: LayerNorm,
    mlp: Sequential,
}

impl SwinBlock {
    fn new(channels: usize, heads: usize, shift: usize, drop: f64, init: &mut Init) -> Self {
        Self {
            norm1: LayerNormConfig::new(channels).init(init),
            attn: WindowAttention::new(channels, heads, shift, init),
            stochastic_depth: StochasticDepth::new(drop),
            norm2: LayerNormConfig::new(channels).init(init),
            mlp: vec![
                linear(channels, 4 * channels).init(init).into(),
                Activation::Gelu.into(),
                Dropout::new(0.0).into(),
                linear(4 * channels, channels).init(init).into(),
                Dropout::new(0.0).into(),
            ],
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let y = tap("norm1", || self.norm1.forward(x.clone()));
        let y = tap("attn", || self.attn.forward(y));
        let x = self.stochastic_depth.add(y, x);
        let y = tap("norm2", || self.norm2.forward(x.clone()));
        let y = tap("mlp", || forward_sequential(&self.mlp, y));
        self.stochastic_depth.add(y, x)
    }
}

/// Four neighbours become one position with twice the channels.
#[derive(Module, Debug)]
struct PatchMerging {
    reduction: Linear,
    norm: LayerNorm,
}

impl PatchMerging {
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let x = pad_to_multiple(x, 2);
        let [n, h, w, c] = x.dims();
        // Columns vary slowest among the four: (0, 0), (1, 0), (0, 1), (1, 1).
        let x = x
            .reshape([n, h / 2, 2, w / 2, 2, c])
            .permute([0, 1, 3, 4, 2, 5])
            .reshape([n, h / 2, w / 2, 4 * c]);
        let x = tap("norm", || self.norm.forward(x));
        tap("reduction", || self.reduction.forward(x))
    }
}

/// One entry of a Swin Transformer's `features`.
#[derive(Module, Debug)]
enum Part {
    Layers(Sequential),
    Blocks(Vec<SwinBlock>),
    Merging(PatchMerging),
}

/// What a Swin Transformer is built from.
#[derive(Debug, Clone)]
pub struct SwinConfig {
    width: usize,
    depths: [usize; 4],
    heads: usize,
    drop: f64,
}

impl SwinConfig {
    /// Channels and heads of the first stage, blocks of the four stages, and the last block's
    /// stochastic depth.
    pub fn new(width: usize, heads: usize, depths: [usize; 4], drop: f64) -> Self {
        Self {
            width,
            depths,
            heads,
            drop,
        }
    }

    /// Makes the network: linear layers normal with a deviation of 0.02, biases zero.
    pub fn init(&self, options: &BuildOptions, init: &mut Init) -> SwinTransformer {
        let drop = options.stochastic_depth.unwrap_or(self.drop);
        let last_block = (self.depths.iter().sum::<usize>() - 1) as f64;
        let stem = Conv2dConfig::new(3, self.width, 4).with_stride(4);
        let mut features = vec![Part::Layers(vec![
            stem.init(init).into(),
            Identity {}.into(), // PyTorch changes to channels last here.
            LayerNormConfig::new(self.width).init(init).into(),
        ])];
        let mut done = 0;
        for (i, &depth) in self.depths.iter().enumerate() {
            let width = self.width << i;
            let blocks = (0..depth).map(|block| {
                let p = drop * done as f64 / last_block;
                done += 1;
                let shift = if block % 2 == 0 { 0 } else { WINDOW / 2 };
                SwinBlock::new(width, self.heads << i, shift, p, init)
            });
            features.push(Part::Blocks(blocks.collect()));
            if i + 1 < self.depths.len() {
                features.push(Part::Merging(PatchMerging {
                    reduction: linear(4 * width, 2 * width).with_bias(false).init(init),
                    norm: LayerNormConfig::new(4 * width).init(init),
                }));
            }
        }
        let last = self.width << 3;
        SwinTransformer {
            features,
            norm: LayerNormConfig::new(last).init(init),
            head: options.head(linear(last, options.num_classes), init),
            width: self.width,
        }
    }
}

/// A patch stem, four stages with merging between them, a norm, a mean and a linear layer.
#[derive(Module, Debug)]
pub struct SwinTransformer {
    features: Vec<Part>,
    norm: LayerNorm,
    head: Head,
    #[module(skip)]
    width: usize,
}

impl SwinTransformer {
    fn features(&self, x: Tensor<4>, taken: &mut Taken) -> Tensor<4> {
        tap("features", || {
            let parts = self.features.iter().enumerate();
            parts.fold(to_nhwc(x), |x, (i, part)| {
                let x = tap(i, || match part {
                    Part::Layers(layers) => forward_sequential(layers, x),
                    Part::Merging(merging) => merging.forward(x),
                    Part::Blocks(blocks) => {
                        let blocks = blocks.iter().enumerate();
                        blocks.fold(x, |x, (i, block)| tap(i, || block.forward(x)))
                    }
                });
                if let Part::Blocks(_) = part {
                    taken.offer(&x);
                }
                x
            })
        })
    }
}

impl ImageModel for SwinTransformer {
    fn forward(&self, x: Tensor<4>) -> Tensor<2> {
        let x = self.embed(x);
        tap("head", || self.head.forward(x))
    }

    fn stages(&self, x: Tensor<4>) -> Vec<Tensor<4>> {
        Taken::from(|taken| self.features(x, taken))
    }

    fn stage_info(&self) -> Vec<Stage> {
        let stage =
            |i: usize| Stage::new(format!("features.{}", 2 * i + 1), self.width << i, 4 << i);
        (0..4).map(stage).collect()
    }

    fn embed(&self, x: Tensor<4>) -> Tensor<2> {
        let x = self.features(x, &mut Taken::none());
        let x = tap("norm", || self.norm.forward(x));
        flatten(tap("avgpool", || AdaptiveAvgPool2d::new(1).forward(x)))
    }

    fn classify(&self, features: Tensor<2>) -> Option<Tensor<2>> {
        Some(tap("head", || self.head.forward(features)))
    }
}

const fn base(name: &'static str, resize: usize, build: Build) -> Variant {
    Variant {
        family: "Swin",
        year: 2021,
        paper: "Liu et al., Swin Transformer: Hierarchical Vision Transformer using Shifted \
                Windows",
        preprocess: Preprocess::imagenet(resize, 224, Bicubic),
        classifier: "head",
        first_conv: "features.0.0",
        ..Variant::imagenet(name, build)
    }
}

pub(crate) static VARIANTS: &[Variant] = &[
    Variant {
        published: Published::v1(81.474, 95.776),
        ..base("swin_t", 232, |o, i| {
            SwinConfig::new(96, 3, [2, 2, 6, 2], 0.2).init(o, i).into()
        })
    },
    Variant {
        published: Published::v1(83.196, 96.36),
        ..base("swin_s", 246, |o, i| {
            SwinConfig::new(96, 3, [2, 2, 18, 2], 0.3).init(o, i).into()
        })
    },
    Variant {
        published: Published::v1(83.582, 96.64),
        ..base("swin_b", 238, |o, i| {
            SwinConfig::new(128, 4, [2, 2, 18, 2], 0.5)
                .init(o, i)
                .into()
        })
    },
];
