//! Attention.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use burn::tensor::module::attention;

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
        let qkv = crate::linear::linear(x, &self.in_proj_weight, Some(&self.in_proj_bias), None);
        let x = self_attention(qkv, self.heads, None);
        tap("out_proj", || self.out_proj.forward(x))
    }
}
