//! U-Net.
//!
//! O. Ronneberger, P. Fischer, T. Brox, *U-Net: Convolutional Networks for Biomedical Image
//! Segmentation*, MICCAI 2015, figure 1, as the guide defines it: padded convolutions with batch
//! normalisation, so that the output has the input's size.

use burn::module::Module;
use burn::tensor::Tensor;
use lenslet_data::Interpolation::Bilinear;
use lenslet_data::Preprocess;
use lenslet_nn::tap::tap;
use lenslet_nn::{
    Activation, BatchNorm2dConfig, Conv2d, Conv2dConfig, ConvTranspose2d, ConvTranspose2dConfig,
    Init, Interpolation, MaxPool2d, Sequential, concat, forward_sequential, global_avg_pool,
    resize, to_nchw, to_nhwc,
};

use crate::model::{ImageModel, Output, Stage, Taken};
use crate::registry::Task;
use crate::{BuildOptions, Variant};

/// Twice: 3x3 convolution, batch norm, ReLU.
#[derive(Module, Debug)]
pub struct DoubleConv {
    double_conv: Sequential,
}

impl DoubleConv {
    /// `from` to `to` channels.
    pub fn new(from: usize, to: usize, init: &mut Init) -> Self {
        let mut double_conv = Sequential::new();
        for from in [from, to] {
            let conv = Conv2dConfig::new(from, to, 3).with_padding(1);
            double_conv.push(conv.init(init).into());
            double_conv.push(BatchNorm2dConfig::new(to).init(init).into());
            double_conv.push(Activation::Relu.into());
        }
        Self { double_conv }
    }

    /// `[N, H, W, from]` to `[N, H, W, to]`.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        tap("double_conv", || forward_sequential(&self.double_conv, x))
    }
}

/// An entry of the expanding path.
#[derive(Module, Debug)]
enum Decoder {
    Up(ConvTranspose2d),
    Convs(DoubleConv),
}

/// What a U-Net is built from.
#[derive(Debug, Clone)]
pub struct UNetConfig {
    in_channels: usize,
    widths: Vec<usize>,
}

impl UNetConfig {
    /// Channels of the images and of every level of the contracting path.
    pub fn new(in_channels: usize, widths: impl Into<Vec<usize>>) -> Self {
        Self {
            in_channels,
            widths: widths.into(),
        }
    }

    /// Makes the network with PyTorch's default values.
    ///
    /// # Panics
    /// Without a level.
    pub fn init(&self, options: &BuildOptions, init: &mut Init) -> UNet {
        let (first, last) = match self.widths[..] {
            [first, .., last] => (first, last),
            [only] => (only, only),
            [] => panic!("a U-Net needs at least one level"),
        };
        let mut from = self.in_channels;
        let mut encoders = Vec::new();
        for &width in &self.widths {
            encoders.push(DoubleConv::new(from, width, init));
            from = width;
        }
        // Values are drawn in the order of the names.
        let mut decoders = Vec::new();
        let mut below = 2 * last;
        for &width in self.widths.iter().rev() {
            let up = ConvTranspose2dConfig::new(below, width, 2, 2);
            decoders.push(Decoder::Up(up.init(init)));
            decoders.push(Decoder::Convs(DoubleConv::new(2 * width, width, init)));
            below = width;
        }
        UNet {
            encoders,
            decoders,
            bottleneck: DoubleConv::new(last, 2 * last, init),
            final_conv: Conv2dConfig::new(first, options.num_classes, 1).init(init),
            widths: self.widths.clone(),
        }
    }
}

/// A contracting path, a bottleneck, and an expanding path that also sees the maps of the same
/// size from the way down.
#[derive(Module, Debug)]
pub struct UNet {
    encoders: Vec<DoubleConv>,
    decoders: Vec<Decoder>,
    bottleneck: DoubleConv,
    final_conv: Conv2d,
    #[module(skip)]
    widths: Vec<usize>,
}

impl UNet {
    /// The contracting path: maps of every level, and the bottleneck's.
    fn encode(&self, x: Tensor<4>, taken: &mut Taken) -> (Vec<Tensor<4>>, Tensor<4>) {
        let mut x = to_nhwc(x);
        let mut skips = Vec::new();
        for (i, encoder) in self.encoders.iter().enumerate() {
            x = tap("encoders", || tap(i, || encoder.forward(x)));
            taken.offer(&x);
            skips.push(x.clone());
            x = MaxPool2d::new(2, 2).forward(x);
        }
        let x = tap("bottleneck", || self.bottleneck.forward(x));
        taken.offer(&x);
        (skips, x)
    }

    /// The map in front of the last convolution: `[N, H, W, C]`.
    fn decode(&self, x: Tensor<4>) -> Tensor<4> {
        let (mut skips, mut x) = self.encode(x, &mut Taken::none());
        for (i, decoder) in self.decoders.iter().enumerate() {
            x = tap("decoders", || {
                tap(i, || match decoder {
                    Decoder::Up(up) => up.forward(x),
                    Decoder::Convs(convs) => convs.forward(x),
                })
            });
            let Decoder::Up(_) = decoder else { continue };
            if let Some(skip) = skips.pop() {
                let [_, h, w, _] = skip.dims();
                // An odd size was rounded down on the way.
                if x.dims()[1..3] != [h, w] {
                    x = resize(x, [h, w], Interpolation::Nearest);
                }
                x = concat(vec![skip, x]);
            }
        }
        x
    }

    fn map(&self, x: Tensor<4>) -> Tensor<4> {
        let x = self.decode(x);
        tap("final_conv", || self.final_conv.forward(x))
    }
}

impl ImageModel for UNet {
    fn forward(&self, x: Tensor<4>) -> Tensor<2> {
        global_avg_pool(self.map(x))
    }

    fn output(&self, x: Tensor<4>) -> Output {
        Output::Map(to_nchw(self.map(x)))
    }

    fn stages(&self, x: Tensor<4>) -> Vec<Tensor<4>> {
        Taken::from(|taken| self.encode(x, taken))
    }

    fn stage_info(&self) -> Vec<Stage> {
        let mut stages: Vec<Stage> = (self.widths.iter().enumerate())
            .map(|(i, &width)| Stage::new(format!("encoders.{i}"), width, 1 << i))
            .collect();
        let last = self.widths.last().map_or(0, |width| 2 * width);
        stages.push(Stage::new("bottleneck", last, 1 << self.widths.len()));
        stages
    }

    fn embed(&self, x: Tensor<4>) -> Tensor<2> {
        global_avg_pool(self.decode(x))
    }
}

pub(crate) static VARIANTS: &[Variant] = &[Variant {
    family: "U-Net",
    task: Task::Segmentation,
    year: 2015,
    paper: "Ronneberger et al., U-Net: Convolutional Networks for Biomedical Image Segmentation",
    licence: "MIT OR Apache-2.0",
    input: [1, 572, 572],
    num_classes: 2,
    preprocess: Preprocess::imagenet(572, 572, Bilinear),
    classifier: "final_conv",
    first_conv: "encoders.0.double_conv.0",
    ..Variant::imagenet("guide_unet", |o: &BuildOptions, i| {
        UNetConfig::new(1, [64, 128, 256, 512]).init(o, i).into()
    })
}];
