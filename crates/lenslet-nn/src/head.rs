//! The last layers of a classifier: what a new set of classes replaces.

use burn::module::Module;
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::{Activation, Dropout, Init, Layer, Linear, LinearConfig, Sequential, forward_head};

/// Which layers turn a backbone's features into logits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HeadKind {
    /// The definition's own linear layer, with the first values that its paper gives it.
    #[default]
    Own,
    /// A linear layer with PyTorch's default first values: `nn.Linear` put in the place of the
    /// definition's own, as transfer learning does it.
    Linear,
    /// Dropout of one half, 256 hidden units with ReLU, a linear layer.
    Mlp,
}

/// Hidden units of [`HeadKind::Mlp`].
const HIDDEN: usize = 256;

/// The layers of a [`HeadKind`], under the name of the definition's own (`fc.weight`; `fc.1.weight`
/// and `fc.3.weight` of the larger head).
#[derive(Module, Debug)]
pub enum Head {
    /// One linear layer.
    Linear(Linear),
    /// Several layers.
    Mlp(Sequential),
}

impl Head {
    /// Makes the head; `own` is the layer that the definition has here.
    pub fn new(kind: HeadKind, own: LinearConfig, init: &mut Init) -> Self {
        let (inputs, outputs) = own.features();
        match kind {
            HeadKind::Own => Head::Linear(own.init(init)),
            HeadKind::Linear => Head::Linear(LinearConfig::new(inputs, outputs).init(init)),
            HeadKind::Mlp => Head::Mlp(vec![
                Dropout::new(0.5).into(),
                LinearConfig::new(inputs, HIDDEN).init(init).into(),
                Activation::Relu.into(),
                LinearConfig::new(HIDDEN, outputs).init(init).into(),
            ]),
        }
    }

    /// `[N, features]` to `[N, classes]`.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        match self {
            Head::Linear(linear) => linear.forward(x),
            Head::Mlp(layers) => forward_head(layers, 0..layers.len(), x),
        }
    }
}

impl From<Head> for Layer {
    fn from(head: Head) -> Self {
        match head {
            Head::Linear(linear) => linear.into(),
            Head::Mlp(layers) => layers.into(),
        }
    }
}
