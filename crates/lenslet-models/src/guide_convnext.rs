//! ConvNeXt as the guide writes it.
//!
//! It differs from the paper (see [`convnext`](crate::convnext)): the stem has no norm, and the
//! norms between the stages are group norms with one group, over positions as well as channels.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use lenslet_nn::tap::tap;
use lenslet_nn::{
    Activation, Conv2d, Conv2dConfig, GroupNorm, Head, Init, LayerNorm, LayerNormConfig, Linear,
    LinearConfig, Named, Sequential, forward_sequential, global_avg_pool, scale, to_nhwc,
};

use crate::model::{ImageModel, Stage, Taken};
use crate::{BuildOptions, Variant};

const WIDTHS: [usize; 4] = [96, 192, 384, 768];
const DEPTHS: [usize; 4] = [3, 3, 9, 3];

/// Depthwise 7x7, normalise, expand four times, GELU, project, scale every channel, add the input.
#[derive(Module, Debug)]
pub struct GuideConvNeXtBlock {
    /// `[channels]`
    gamma: Param<Tensor<1>>,
    dwconv: Conv2d,
    norm: LayerNorm,
    pwconv1: Linear,
    pwconv2: Linear,
}

impl GuideConvNeXtBlock {
    fn new(channels: usize, init: &mut Init) -> Self {
        let dwconv = Conv2dConfig::new(channels, channels, 7);
        Self {
            gamma: init.constant([channels], 1e-6),
            dwconv: dwconv.with_padding(3).with_groups(channels).init(init),
            norm: LayerNormConfig::new(channels).with_eps(1e-6).init(init),
            pwconv1: LinearConfig::new(channels, 4 * channels).init(init),
            pwconv2: LinearConfig::new(4 * channels, channels).init(init),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let y = tap("dwconv", || self.dwconv.forward(x.clone()));
        let y = tap("norm", || self.norm.forward(y));
        let y = tap("pwconv1", || self.pwconv1.forward(y));
        let y = tap("pwconv2", || self.pwconv2.forward_of(Activation::Gelu, y));
        scale(y, self.gamma.val().unsqueeze(), Some(x))
    }
}

/// A patch stem, four stages with downsampling between them, a mean, a norm and a linear layer.
#[derive(Module, Debug)]
pub struct GuideConvNeXt {
    stem: Sequential,
    stages: Vec<Vec<GuideConvNeXtBlock>>,
    /// In front of the stages `1`, `2` and `3`.
    downsamples: Named<Sequential>,
    norm: LayerNorm,
    head: Head,
}

impl GuideConvNeXt {
    /// Makes the tiny network with PyTorch's default values.
    pub fn new(options: &BuildOptions, init: &mut Init) -> Self {
        let patches = |from, to, size| Conv2dConfig::new(from, to, size).with_stride(size);
        let stem = vec![patches(3, WIDTHS[0], 4).init(init).into()];
        let mut stages = Vec::new();
        let mut downsamples: Vec<(String, Sequential)> = Vec::new();
        for (i, (&width, &depth)) in WIDTHS.iter().zip(&DEPTHS).enumerate() {
            if i > 0 {
                let from = WIDTHS[i - 1];
                let layers = vec![
                    GroupNorm::new(1, from, init).into(),
                    patches(from, width, 2).init(init).into(),
                ];
                downsamples.push((i.to_string(), layers));
            }
            stages.push(
                (0..depth)
                    .map(|_| GuideConvNeXtBlock::new(width, init))
                    .collect(),
            );
        }
        Self {
            stem,
            stages,
            downsamples: downsamples.into_iter().collect(),
            norm: LayerNormConfig::new(WIDTHS[3]).with_eps(1e-6).init(init),
            head: options.head(LinearConfig::new(WIDTHS[3], options.num_classes), init),
        }
    }

    fn features(&self, x: Tensor<4>, taken: &mut Taken) -> Tensor<4> {
        let mut x = tap("stem", || forward_sequential(&self.stem, to_nhwc(x)));
        let mut downsamples = self.downsamples.iter();
        for (i, blocks) in self.stages.iter().enumerate() {
            if i > 0
                && let Some((name, layers)) = downsamples.next()
            {
                x = tap("downsamples", || {
                    tap(name, || forward_sequential(layers, x))
                });
            }
            x = tap("stages", || {
                tap(i, || {
                    let blocks = blocks.iter().enumerate();
                    blocks.fold(x, |x, (i, block)| tap(i, || block.forward(x)))
                })
            });
            taken.offer(&x);
        }
        x
    }
}

impl ImageModel for GuideConvNeXt {
    fn forward(&self, x: Tensor<4>) -> Tensor<2> {
        let x = self.embed(x);
        tap("head", || self.head.forward(x))
    }

    fn stages(&self, x: Tensor<4>) -> Vec<Tensor<4>> {
        Taken::from(|taken| self.features(x, taken))
    }

    fn stage_info(&self) -> Vec<Stage> {
        let stage = |i: usize| Stage::new(format!("stages.{i}"), WIDTHS[i], 4 << i);
        (0..4).map(stage).collect()
    }

    fn embed(&self, x: Tensor<4>) -> Tensor<2> {
        let x = global_avg_pool(self.features(x, &mut Taken::none()));
        tap("norm", || self.norm.forward(x))
    }

    fn classify(&self, features: Tensor<2>) -> Option<Tensor<2>> {
        Some(tap("head", || self.head.forward(features)))
    }
}

pub(crate) static VARIANTS: &[Variant] = &[Variant {
    family: "ConvNeXt",
    year: 2022,
    paper: "Liu et al., A ConvNet for the 2020s",
    licence: "MIT OR Apache-2.0",
    classifier: "head",
    first_conv: "stem.0",
    ..Variant::imagenet("guide_convnext_tiny", |o: &BuildOptions, i| {
        GuideConvNeXt::new(o, i).into()
    })
}];
