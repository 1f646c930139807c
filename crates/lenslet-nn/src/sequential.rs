//! `torch.nn.Sequential`: layers by position.

use std::ops::Range;

use burn::module::Module;
use burn::tensor::Tensor;

use crate::tap::{is_recording, tap};
use crate::{
    Activation, AdaptiveAvgPool2d, AvgPool2d, BatchNorm2d, BatchNorm2dConfig, Conv2d, Conv2dConfig,
    ConvTranspose2d, Dropout, GroupNorm, Init, LayerNorm, Linear, LocalResponseNorm, MaxPool2d,
    Residual, SqueezeExcitation, add, conv_bn_act,
};

/// `torch.nn.Sequential` on `[N, H, W, C]`; parameters are named by position (`0.weight`).
pub type Sequential = Vec<Layer>;

macro_rules! layers {
    ($($(#[$doc:meta])* $kind:ident),+ $(,)?) => {
        /// One entry of a [`Sequential`].
        #[derive(Module, Debug)]
        pub enum Layer {
            $($(#[$doc])* $kind($kind),)+
            /// An element-wise activation.
            Activation(ActivationLayer),
            /// Layers in a row as one entry.
            Sequential(Sequential),
        }

        $(impl From<$kind> for Layer {
            fn from(layer: $kind) -> Self {
                Layer::$kind(layer)
            }
        })+

        impl Layer {
            /// `[N, H, W, C]` to the layer's output.
            pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
                match self {
                    $(Layer::$kind(layer) => layer.forward(x),)+
                    Layer::Activation(layer) => layer.kind.forward(x),
                    Layer::Sequential(layers) => forward_sequential(layers, x),
                }
            }
        }
    };
}

layers! {
    /// A convolution.
    Conv2d,
    /// A transposed convolution.
    ConvTranspose2d,
    /// A fully connected layer over the channels.
    Linear,
    /// Batch normalisation.
    BatchNorm2d,
    /// Layer normalisation over the channels.
    LayerNorm,
    /// Group normalisation.
    GroupNorm,
    /// Local response normalisation.
    LocalResponseNorm,
    /// Average pooling.
    AvgPool2d,
    /// Maximum pooling.
    MaxPool2d,
    /// Average pooling to a given size.
    AdaptiveAvgPool2d,
    /// Dropout.
    Dropout,
    /// Squeeze and excitation.
    SqueezeExcitation,
    /// A residual branch.
    Residual,
    /// Nothing: the place of a change of layout in PyTorch.
    Identity,
}

/// An [`Activation`] that takes a place of its own in a [`Sequential`], so that the layers after
/// it keep PyTorch's numbers.
#[derive(Module, Debug)]
pub struct ActivationLayer {
    #[module(skip)]
    kind: Activation,
}

/// A layer that does nothing.
#[derive(Module, Debug)]
pub struct Identity {}

impl Identity {
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        x
    }
}

impl From<Activation> for Layer {
    fn from(kind: Activation) -> Self {
        Layer::Activation(ActivationLayer { kind })
    }
}

impl From<Sequential> for Layer {
    fn from(layers: Sequential) -> Self {
        Layer::Sequential(layers)
    }
}

/// Runs the layers one after the other.
///
/// A convolution, a batch norm and perhaps an activation in a row are one fused unit
/// ([`conv_bn_act`]); so is a convolution or a linear layer with an activation behind it, and a linear layer with one before it.
pub fn forward_sequential(layers: &[Layer], x: Tensor<4>) -> Tensor<4> {
    forward_range(layers, 0..layers.len(), x)
}

/// Runs some of the layers one after the other.
pub fn forward_range(layers: &[Layer], range: Range<usize>, x: Tensor<4>) -> Tensor<4> {
    forward_residual(layers, range, x, None)
}

/// Runs the child `name`, layers in a row, and adds `residual` to what they give: inside the
/// fused unit where they end in a convolution and its batch norm.
pub fn forward_branch(
    name: &str,
    layers: &[Layer],
    x: Tensor<4>,
    residual: Option<Tensor<4>>,
) -> Tensor<4> {
    if is_recording() {
        let y = tap(name, || forward_sequential(layers, x));
        return match residual {
            Some(residual) => add(y, residual),
            None => y,
        };
    }
    forward_residual(layers, 0..layers.len(), x, residual)
}

fn forward_residual(
    layers: &[Layer],
    range: Range<usize>,
    mut x: Tensor<4>,
    mut residual: Option<Tensor<4>>,
) -> Tensor<4> {
    let Range { start: mut i, end } = range;
    while i < end {
        i += match &layers[i..end] {
            [Layer::Conv2d(conv), Layer::BatchNorm2d(bn), rest @ ..] => {
                let activation = match rest.first() {
                    Some(Layer::Activation(layer)) if !is_recording() => Some(layer.kind),
                    _ => None,
                };
                let added = if rest.is_empty() {
                    residual.take()
                } else {
                    None
                };
                x = conv_bn_act((i, conv), (i + 1, bn), activation, added, x);
                2 + usize::from(activation.is_some())
            }
            [Layer::Conv2d(conv), Layer::Activation(layer), ..] if !is_recording() => {
                x = conv.forward_activated(x, Some(layer.kind));
                2
            }
            [Layer::Linear(linear), Layer::Activation(layer), ..]
                if !is_recording() && layer.kind.is_known_by_output() =>
            {
                x = linear.forward_activated(x, Some(layer.kind));
                2
            }
            [Layer::Activation(layer), Layer::Linear(linear), ..] if !is_recording() => {
                x = linear.forward_of(layer.kind, x);
                2
            }
            [
                Layer::Activation(layer),
                Layer::Dropout(dropout),
                Layer::Linear(linear),
                ..,
            ] if !is_recording() && dropout.is_identity(&x) => {
                x = linear.forward_of(layer.kind, x);
                3
            }
            [Layer::Sequential(last)] => {
                let added = residual.take();
                x = tap(i, || forward_residual(last, 0..last.len(), x, added));
                1
            }
            _ => {
                x = tap(i, || layers[i].forward(x));
                1
            }
        };
    }
    match residual {
        Some(residual) => add(x, residual),
        None => x,
    }
}

/// Runs some of the layers one after the other on vectors `[N, features]`, as a classifier does.
pub fn forward_head(layers: &[Layer], range: Range<usize>, x: Tensor<2>) -> Tensor<2> {
    let [n, features] = x.dims();
    let y = forward_range(layers, range, x.reshape([n, 1, 1, features]));
    let features = y.dims()[3];
    y.reshape([n, features])
}

/// Runs the layers one after the other on tokens `[N, L, features]`.
pub fn forward_tokens(layers: &[Layer], x: Tensor<3>) -> Tensor<3> {
    let [n, length, features] = x.dims();
    let y = forward_sequential(layers, x.reshape([n, 1, length, features]));
    let features = y.dims()[3];
    y.reshape([n, length, features])
}

/// `torchvision.ops.Conv2dNormActivation`: a convolution without a bias, a batch norm and, where
/// given, an activation.
pub fn conv_norm_act(
    conv: Conv2dConfig,
    norm: impl Fn(usize) -> BatchNorm2dConfig,
    activation: Option<Activation>,
    init: &mut Init,
) -> Sequential {
    let norm = norm(conv.out_channels());
    let mut layers: Sequential = vec![
        conv.with_bias(false).init(init).into(),
        norm.init(init).into(),
    ];
    layers.extend(activation.map(Layer::from));
    layers
}
