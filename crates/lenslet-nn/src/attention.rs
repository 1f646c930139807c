//! Attention.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use burn::tensor::module::attention;

use crate::linear::linear;
use crate::tap::tap;
use crate::{BiasInit, Init, Linear, LinearConfig, WeightInit, cpu};

/// Scaled dot-product attention of tokens among themselves (Vaswani et al., 2017, section 3.2):
/// `[N, L, 3 * C]`, the queries, keys and values side by side, to `[N, L, C]`.
///
/// `bias`, where given, is added to the scores: `[N or 1, heads, L, L]`.
pub fn self_attention(qkv: Tensor<3>, heads: usize, bias: Option<Tensor<4>>) -> Tensor<3> {
    let fused = match bias {
        None => cpu::self_attention(&qkv, heads),
        Some(_) => None,
    };
    if let Some(y) = fused {
        return y;
    }
    let [n, length, width] = qkv.dims();
    let channels = width / 3;
    let head = |i: usize| {
        qkv.clone()
            .narrow(2, i * channels, channels)
            .reshape([n, length, heads, channels / heads])
            .swap_dims(1, 2)
    };
    let bias = bias.map(|bias| bias.expand([n, heads, length, length]));
    attention(head(0), head(1), head(2), None, bias, Default::default())
        .swap_dims(1, 2)
        .reshape([n, length, channels])
}

/// The same for the first token alone: tokens `[N, L, C]`, and the layer whose outputs are queries, keys and values side by side
/// (`weight` `[3 * C, C]`, `bias` `[3 * C]`), to `[N, 1, C]`. Queries of the other tokens are not computed.
pub fn first_attention(
    x: Tensor<3>,
    weight: &Param<Tensor<2>>,
    bias: Option<&Param<Tensor<1>>>,
    heads: usize,
) -> Tensor<3> {
    let [n, length, channels] = x.dims();
    let (weight, bias) = (weight.val(), bias.map(Param::val));
    // Outputs of the layer from one on.
    let part = |x, from, count| {
        let weight = weight.clone().narrow(0, from, count);
        let bias = bias.clone().map(|bias| bias.narrow(0, from, count));
        linear(x, weight, bias, [None, None])
    };
    let q = part(x.clone().narrow(1, 0, 1), 0, channels);
    let kv = part(x, channels, 2 * channels);
    if let Some(y) = cpu::attention_to(&q, &kv, heads) {
        return y;
    }
    let head = |x: Tensor<3>, length: usize| {
        x.reshape([n, length, heads, channels / heads])
            .swap_dims(1, 2)
    };
    let [k, v] = [0, channels].map(|from| head(kv.clone().narrow(2, from, channels), length));
    attention(head(q, 1), k, v, None, None, Default::default())
        .swap_dims(1, 2)
        .reshape([n, 1, channels])
}

/// What `torch.nn.MultiheadAttention` takes when queries, keys and values are the same tokens.
#[derive(Debug, Clone)]
pub struct MultiHeadAttentionConfig {
    embed_dim: usize,
    heads: usize,
}

impl MultiHeadAttentionConfig {
    /// Attention over `embed_dim` channels in `heads` parts.
    pub fn new(embed_dim: usize, heads: usize) -> Self {
        Self { embed_dim, heads }
    }

    /// Makes the layer with PyTorch's default values: `in_proj_weight` Xavier-uniform,
    /// `out_proj.weight` like a linear layer's, biases zero.
    pub fn init(&self, init: &mut Init) -> MultiHeadAttention {
        let dim = self.embed_dim;
        MultiHeadAttention {
            in_proj_weight: WeightInit::XavierUniform.weight(init, [3 * dim, dim]),
            in_proj_bias: BiasInit::Zeros.bias(init, 3 * dim, dim),
            out_proj: LinearConfig::new(dim, dim)
                .with_bias_init(BiasInit::Zeros)
                .init(init),
            heads: self.heads,
        }
    }
}

/// `torch.nn.MultiheadAttention` of tokens among themselves, without dropout.
#[derive(Module, Debug)]
pub struct MultiHeadAttention {
    /// `[3 * embed_dim, embed_dim]`: queries, keys, values
    pub in_proj_weight: Param<Tensor<2>>,
    /// `[3 * embed_dim]`
    pub in_proj_bias: Param<Tensor<1>>,
    /// `embed_dim` to `embed_dim`
    pub out_proj: Linear,
    #[module(skip)]
    heads: usize,
}

impl MultiHeadAttention {
    /// `[N, L, C]` to the same shape.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let (weight, bias) = (self.in_proj_weight.val(), self.in_proj_bias.val());
        let qkv = linear(x, weight, Some(bias), [None, None]);
        let x = self_attention(qkv, self.heads, None);
        tap("out_proj", || self.out_proj.forward(x))
    }

    /// `[N, L, C]` to what [`forward`](Self::forward) gives for the first token, `[N, 1, C]`.
    pub fn forward_first(&self, x: Tensor<3>) -> Tensor<3> {
        let (weight, bias) = (&self.in_proj_weight, &self.in_proj_bias);
        let x = first_attention(x, weight, Some(bias), self.heads);
        tap("out_proj", || self.out_proj.forward(x))
    }
}
