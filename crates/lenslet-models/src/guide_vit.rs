//! Vision Transformer as the guide writes it.
//!
//! The network of [`vit`](crate::vit) with other names, norms with `eps` 1e-5 and a classifier that
//! does not start at zero.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use lenslet_nn::tap::{self, tap};
use lenslet_nn::{
    Conv2d, Dropout, Head, Init, LayerNorm, Linear, LinearConfig, Sequential, WeightInit, add,
    first_attention, forward_tokens, self_attention, to_nhwc,
};

use crate::model::{ImageModel, Stage, Taken};
use crate::registry::Build;
use crate::vit::{VitConfig, as_map, class_token, embed_patches, norm, perceptron};
use crate::{BuildOptions, Variant, naming};

impl VitConfig {
    /// Makes the guide's network: linear layers and embeddings normal with a deviation of 0.02.
    pub fn init_guide(&self, options: &BuildOptions, init: &mut Init) -> GuideVit {
        let drop = options.dropout.unwrap_or(0.0);
        let token = |init: &mut Init, n| init.trunc_normal([1, n, self.width], 0.02, 2.0);
        let cls_token = token(init, 1);
        let pos_embedding = token(init, self.tokens(options));
        let patch_embed = PatchEmbedding {
            projection: self.projection().init(init),
        };
        let head = LinearConfig::new(self.width, options.num_classes).with_init(GUIDE_WEIGHTS);
        GuideVit {
            cls_token,
            pos_embedding,
            patch_embed,
            pos_dropout: Dropout::new(drop),
            blocks: (0..self.depth)
                .map(|_| GuideVitBlock::new(self, drop, init))
                .collect(),
            norm: norm(self.width, 1e-5).init(init),
            head: options.head(head, init),
            stages: self.stages(|i| format!("blocks.{i}")),
        }
    }
}

const GUIDE_WEIGHTS: WeightInit = WeightInit::TruncNormal(0.02);

#[derive(Module, Debug)]
struct PatchEmbedding {
    projection: Conv2d,
}

#[derive(Module, Debug)]
struct GuideAttention {
    qkv: Linear,
    proj: Linear,
}

/// A layer of the guide's encoder.
#[derive(Module, Debug)]
pub struct GuideVitBlock {
    norm1: LayerNorm,
    attn: GuideAttention,
    norm2: LayerNorm,
    mlp: Sequential,
    #[module(skip)]
    heads: usize,
}

impl GuideVitBlock {
    fn new(config: &VitConfig, drop: f64, init: &mut Init) -> Self {
        let width = config.width;
        let linear =
            |config: LinearConfig, init: &mut Init| config.with_init(GUIDE_WEIGHTS).init(init);
        Self {
            norm1: norm(width, 1e-5).init(init),
            attn: GuideAttention {
                qkv: linear(LinearConfig::new(width, 3 * width), init),
                proj: linear(LinearConfig::new(width, width), init),
            },
            norm2: norm(width, 1e-5).init(init),
            mlp: perceptron(width, config.hidden, drop, |config| linear(config, init)),
            heads: config.heads,
        }
    }

    /// Tokens `[N, L, C]` to as many, or to the first one, `[N, 1, C]`.
    fn forward(&self, x: Tensor<3>, only_first: bool) -> Tensor<3> {
        let y = tap("norm1", || self.norm1.forward(x.clone()));
        let y = tap("attn", || {
            let y = if only_first {
                let Linear { weight, bias } = &self.attn.qkv;
                first_attention(y, weight, bias.as_ref(), self.heads)
            } else {
                let qkv = tap("qkv", || self.attn.qkv.forward(y));
                self_attention(qkv, self.heads, None)
            };
            self.attn.proj.forward(y)
        });
        let x = if only_first { x.narrow(1, 0, 1) } else { x };
        let x = add(x, y);
        let y = tap("norm2", || self.norm2.forward(x.clone()));
        add(tap("mlp", || forward_tokens(&self.mlp, y)), x)
    }
}

/// The guide's Vision Transformer: other names, norms with `eps` 1e-5, a trained classifier.
#[derive(Module, Debug)]
pub struct GuideVit {
    cls_token: Param<Tensor<3>>,
    pos_embedding: Param<Tensor<3>>,
    patch_embed: PatchEmbedding,
    pos_dropout: Dropout,
    blocks: Vec<GuideVitBlock>,
    norm: LayerNorm,
    head: Head,
    #[module(skip)]
    stages: Vec<(usize, Stage)>,
}

impl GuideVit {
    /// All tokens `[N, L, C]`, or the class token `[N, 1, C]` where nobody looks at the others.
    fn tokens(&self, x: Tensor<4>, taken: &mut Taken) -> Tensor<3> {
        let patches = tap("patch_embed", || {
            self.patch_embed.projection.forward(to_nhwc(x))
        });
        let [_, h, w, _] = patches.dims();
        let tokens = embed_patches(patches, self.cls_token.val(), self.pos_embedding.val());
        let only_class = taken.is_none() && !tap::whole();
        let mut tokens = self.pos_dropout.forward(tokens);
        for (i, block) in self.blocks.iter().enumerate() {
            let only_first = only_class && i + 1 == self.blocks.len();
            tokens = tap("blocks", || tap(i, || block.forward(tokens, only_first)));
            if !only_class && self.stages.iter().any(|(last, _)| *last == i) {
                taken.offer(&as_map(&tokens, [h, w]));
            }
        }
        tap("norm", || self.norm.forward(tokens))
    }
}

impl ImageModel for GuideVit {
    fn forward(&self, x: Tensor<4>) -> Tensor<2> {
        let x = self.embed(x);
        tap("head", || self.head.forward(x))
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
        Some(tap("head", || self.head.forward(features)))
    }
}

const fn base(name: &'static str, build: Build) -> Variant {
    Variant {
        licence: "MIT OR Apache-2.0",
        classifier: "head",
        first_conv: "patch_embed.projection",
        naming: naming::GUIDE_VIT,
        family: "ViT",
        year: 2020,
        paper: "Dosovitskiy et al., An Image is Worth 16x16 Words",
        ..Variant::imagenet(name, build)
    }
}

pub(crate) static VARIANTS: &[Variant] = &[
    base("guide_vit_small", |o, i| {
        VitConfig::new(16, 12, 6, 384).init_guide(o, i).into()
    }),
    base("guide_vit_base", |o, i| {
        VitConfig::new(16, 12, 12, 768).init_guide(o, i).into()
    }),
    base("guide_vit_large", |o, i| {
        VitConfig::new(16, 24, 16, 1024).init_guide(o, i).into()
    }),
];
