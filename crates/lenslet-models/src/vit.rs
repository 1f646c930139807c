//! Vision Transformer.
//!
//! A. Dosovitskiy et al., *An Image is Worth 16x16 Words: Transformers for Image Recognition at
//! Scale*, ICLR 2021, section 3.1 and table 1.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use lenslet_data::Interpolation::{Bicubic, Bilinear};
use lenslet_data::Preprocess;
use lenslet_nn::tap::{self, tap};
use lenslet_nn::{
    Activation, BiasInit, Conv2d, Conv2dConfig, Dropout, Head, Init, Interpolation, LayerNorm,
    LayerNormConfig, Linear, LinearConfig, MultiHeadAttention, MultiHeadAttentionConfig, Named,
    Sequential, WeightInit, add, forward_tokens, resize, to_nhwc,
};

use crate::model::{ImageModel, Stage, Taken};
use crate::registry::Build;
use crate::{BuildOptions, Published, Variant, naming};

/// Sizes that both definitions share.
#[derive(Debug, Clone)]
pub struct VitConfig {
    image: usize,
    pub(crate) patch: usize,
    pub(crate) depth: usize,
    pub(crate) heads: usize,
    pub(crate) width: usize,
    pub(crate) hidden: usize,
}

impl VitConfig {
    /// Patches of `patch` pixels a side on images of 224, and an encoder of `depth` layers with
    /// `heads` heads over `width` channels; a layer's perceptron has four times as many.
    pub fn new(patch: usize, depth: usize, heads: usize, width: usize) -> Self {
        Self {
            image: 224,
            patch,
            depth,
            heads,
            width,
            hidden: 4 * width,
        }
    }

    /// Position embeddings for another image size.
    pub fn with_image_size(mut self, image: usize) -> Self {
        self.image = image;
        self
    }

    /// Channels inside a layer's perceptron.
    pub fn with_hidden(mut self, hidden: usize) -> Self {
        self.hidden = hidden;
        self
    }

    /// One class token and one token a patch.
    pub(crate) fn tokens(&self, options: &BuildOptions) -> usize {
        (options.image_size.unwrap_or(self.image) / self.patch).pow(2) + 1
    }

    pub(crate) fn projection(&self) -> Conv2dConfig {
        Conv2dConfig::new(3, self.width, self.patch).with_stride(self.patch)
    }

    /// The maps of four equally deep parts: all have the patches' resolution.
    pub(crate) fn stages(&self, layer: impl Fn(usize) -> String) -> Vec<(usize, Stage)> {
        let last = |part: usize| (self.depth * part / 4).max(1) - 1;
        let stage = |part| {
            (
                last(part),
                Stage::new(layer(last(part)), self.width, self.patch),
            )
        };
        let mut stages: Vec<_> = (1..=4).map(stage).collect();
        stages.dedup_by_key(|stage| stage.0);
        stages
    }

    /// Makes torchvision's network: the patch projection and the perceptrons scaled by their
    /// inputs, the classifier zero.
    pub fn init(&self, options: &BuildOptions, init: &mut Init) -> VisionTransformer {
        let drop = options.dropout.unwrap_or(0.0);
        let fan_in = (3 * self.patch * self.patch) as f64;
        let projection = WeightInit::TruncNormal((1.0 / fan_in).sqrt());
        let class_token = init.constant([1, 1, self.width], 0.0);
        let conv_proj = self.projection().with_init(projection).init(init);
        let pos_embedding = init.normal([1, self.tokens(options), self.width], 0.02);
        let layers = (0..self.depth).map(|i| (layer_name(i), EncoderLayer::new(self, drop, init)));
        let encoder = Encoder {
            pos_embedding,
            dropout: Dropout::new(drop),
            layers: layers.collect(),
            ln: norm(self.width, 1e-6).init(init),
        };
        let head = LinearConfig::new(self.width, options.num_classes);
        VisionTransformer {
            class_token,
            conv_proj,
            encoder,
            heads: Heads {
                head: options.head(head.with_init(WeightInit::Zeros), init),
            },
            stages: self.stages(|i| format!("encoder.layers.{}", layer_name(i))),
        }
    }
}

fn layer_name(i: usize) -> String {
    format!("encoder_layer_{i}")
}

pub(crate) fn norm(width: usize, eps: f64) -> LayerNormConfig {
    LayerNormConfig::new(width).with_eps(eps)
}

/// Puts the class token in front of the patches `[N, H, W, C]` and adds the embeddings of their
/// positions, resized where the image has another size than they were laid out for (appendix D.1;
/// bicubic with aligned corners, as torchvision does when it loads weights).
pub(crate) fn embed_patches(
    patches: Tensor<4>,
    class: Tensor<3>,
    positions: Tensor<3>,
) -> Tensor<3> {
    let [n, h, w, c] = patches.dims();
    let laid_out = positions.dims()[1] - 1;
    let positions = if laid_out == h * w {
        positions
    } else {
        let side = laid_out.isqrt();
        let grid = positions
            .clone()
            .narrow(1, 1, laid_out)
            .reshape([1, side, side, c]);
        let filter = Interpolation::Bicubic {
            align_corners: true,
        };
        let grid = resize(grid, [h, w], filter).reshape([1, h * w, c]);
        Tensor::cat(vec![positions.narrow(1, 0, 1), grid], 1)
    };
    let class = class.expand([n, 1, c]);
    Tensor::cat(vec![class, patches.reshape([n, h * w, c])], 1) + positions
}

/// The patches' tokens as a map `[N, H, W, C]`.
pub(crate) fn as_map(tokens: &Tensor<3>, [h, w]: [usize; 2]) -> Tensor<4> {
    let [n, _, c] = tokens.dims();
    tokens.clone().narrow(1, 1, h * w).reshape([n, h, w, c])
}

/// The class token: `[N, C]`.
pub(crate) fn class_token(tokens: Tensor<3>) -> Tensor<2> {
    let [n, _, c] = tokens.dims();
    tokens.narrow(1, 0, 1).reshape([n, c])
}

/// Attention and a perceptron, each after a norm and around a shortcut (equations 2 and 3).
#[derive(Module, Debug)]
pub struct EncoderLayer {
    ln_1: LayerNorm,
    self_attention: MultiHeadAttention,
    dropout: Dropout,
    ln_2: LayerNorm,
    mlp: Sequential,
}

/// Linear, GELU, dropout, linear, dropout.
pub(crate) fn perceptron(
    from: usize,
    hidden: usize,
    drop: f64,
    mut linear: impl FnMut(LinearConfig) -> Linear,
) -> Sequential {
    vec![
        linear(LinearConfig::new(from, hidden)).into(),
        Activation::Gelu.into(),
        Dropout::new(drop).into(),
        linear(LinearConfig::new(hidden, from)).into(),
        Dropout::new(drop).into(),
    ]
}

impl EncoderLayer {
    fn new(config: &VitConfig, drop: f64, init: &mut Init) -> Self {
        let width = config.width;
        Self {
            ln_1: norm(width, 1e-6).init(init),
            self_attention: MultiHeadAttentionConfig::new(width, config.heads).init(init),
            dropout: Dropout::new(drop),
            ln_2: norm(width, 1e-6).init(init),
            mlp: perceptron(width, config.hidden, drop, |linear| {
                let linear = linear.with_init(WeightInit::XavierUniform);
                linear.with_bias_init(BiasInit::Normal(1e-6)).init(init)
            }),
        }
    }

    /// Tokens `[N, L, C]` to as many, or to the first one, `[N, 1, C]`.
    fn forward(&self, x: Tensor<3>, only_first: bool) -> Tensor<3> {
        let y = tap("ln_1", || self.ln_1.forward(x.clone()));
        let y = tap("self_attention", || match only_first {
            true => self.self_attention.forward_first(y),
            false => self.self_attention.forward(y),
        });
        let x = if only_first { x.narrow(1, 0, 1) } else { x };
        let x = add(self.dropout.forward(y), x);
        let y = tap("ln_2", || self.ln_2.forward(x.clone()));
        add(tap("mlp", || forward_tokens(&self.mlp, y)), x)
    }
}

#[derive(Module, Debug)]
struct Encoder {
    pos_embedding: Param<Tensor<3>>,
    dropout: Dropout,
    layers: Named<EncoderLayer>,
    ln: LayerNorm,
}

#[derive(Module, Debug)]
struct Heads {
    head: Head,
}

/// torchvision's Vision Transformer.
#[derive(Module, Debug)]
pub struct VisionTransformer {
    class_token: Param<Tensor<3>>,
    conv_proj: Conv2d,
    encoder: Encoder,
    heads: Heads,
    #[module(skip)]
    stages: Vec<(usize, Stage)>,
}

impl VisionTransformer {
    /// All tokens `[N, L, C]`, or the class token `[N, 1, C]` where nobody looks at the others.
    fn tokens(&self, x: Tensor<4>, taken: &mut Taken) -> Tensor<3> {
        let patches = tap("conv_proj", || self.conv_proj.forward(to_nhwc(x)));
        let [_, h, w, _] = patches.dims();
        let positions = self.encoder.pos_embedding.val();
        let tokens = embed_patches(patches, self.class_token.val(), positions);
        let only_class = taken.is_none() && !tap::whole();
        let depth = self.encoder.layers.iter().count();
        tap("encoder", || {
            let mut tokens = self.encoder.dropout.forward(tokens);
            for (i, (name, layer)) in self.encoder.layers.iter().enumerate() {
                let only_first = only_class && i + 1 == depth;
                tokens = tap("layers", || tap(name, || layer.forward(tokens, only_first)));
                if !only_class && self.stages.iter().any(|(last, _)| *last == i) {
                    taken.offer(&as_map(&tokens, [h, w]));
                }
            }
            tap("ln", || self.encoder.ln.forward(tokens))
        })
    }
}

impl ImageModel for VisionTransformer {
    fn forward(&self, x: Tensor<4>) -> Tensor<2> {
        let x = self.embed(x);
        tap("heads", || tap("head", || self.heads.head.forward(x)))
    }

    fn stages(&self, x: Tensor<4>) -> Vec<Tensor<4>> {
        Taken::from(|taken| self.tokens(x, taken))
    }

    fn stage_info(&self) -> Vec<Stage> {
        self.stages.iter().map(|(_, stage)| stage.clone()).collect()
    }

    fn embed(&self, x: Tensor<4>) -> Tensor<2> {
        class_token(self.tokens(x, &mut Taken::none()))
    }

    fn classify(&self, features: Tensor<2>) -> Option<Tensor<2>> {
        Some(tap("heads", || {
            tap("head", || self.heads.head.forward(features))
        }))
    }
}

const fn base(name: &'static str, build: Build) -> Variant {
    Variant {
        family: "ViT",
        year: 2020,
        paper: "Dosovitskiy et al., An Image is Worth 16x16 Words",
        classifier: "heads.head",
        first_conv: "conv_proj",
        naming: naming::VIT,
        ..Variant::imagenet(name, build)
    }
}

pub(crate) static VARIANTS: &[Variant] = &[
    Variant {
        published: Published::v1(81.072, 95.318),
        ..base("vit_b_16", |o, i| {
            VitConfig::new(16, 12, 12, 768).init(o, i).into()
        })
    },
    Variant {
        published: Published::v1(75.912, 92.466),
        ..base("vit_b_32", |o, i| {
            VitConfig::new(32, 12, 12, 768).init(o, i).into()
        })
    },
    Variant {
        published: Published::v1(79.662, 94.638),
        preprocess: Preprocess::imagenet(242, 224, Bilinear),
        ..base("vit_l_16", |o, i| {
            VitConfig::new(16, 24, 16, 1024).init(o, i).into()
        })
    },
    Variant {
        published: Published::v1(76.972, 93.07),
        ..base("vit_l_32", |o, i| {
            VitConfig::new(32, 24, 16, 1024).init(o, i).into()
        })
    },
    // The definition is for 224 pixels, its published weights for 518: build with that image size
    // to load them.
    Variant {
        licence: "CC-BY-NC-4.0",
        published: Published::named("IMAGENET1K_SWAG_E2E_V1", 88.552, 98.694),
        preprocess: Preprocess::imagenet(518, 518, Bicubic),
        ..base("vit_h_14", |o, i| {
            VitConfig::new(14, 32, 16, 1280).init(o, i).into()
        })
    },
];
