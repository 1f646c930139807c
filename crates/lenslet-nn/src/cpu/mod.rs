//! The layers' operations on the CPU: hand-written kernels with hand-written gradients.
//!
//! Every function here gives `None` where it does not apply (another device, another type of
//! number, gradient checkpointing, a graph that is being captured); the layer then composes
//! Burn's own operations.

mod activate;
mod attention;
mod combine;
mod conv;
mod in_place;
mod linear;
mod loss;
mod norm;
mod op;
mod pool;
mod recycle;
mod resize;
mod transposed;
mod weighted;

pub(crate) use activate::{activate, is_known_by_output};
pub(crate) use attention::{attention_to, self_attention};
pub(crate) use combine::{add, concat, scale, to_nhwc};
pub(crate) use conv::conv2d;
pub(crate) use in_place::{change_in_place, sum_of_squares};
pub(crate) use linear::linear;
pub(crate) use loss::{cross_entropy, known_loss};
pub(crate) use norm::{BatchMoments, Normalise, batch_norm, layer_norm, local_response_norm};
pub(crate) use op::input;
pub(crate) use pool::{adaptive_avg_pool2d, avg_pool2d, max_pool2d};
pub(crate) use resize::resize;
pub(crate) use transposed::conv_transpose2d;

/// Why a kernel cannot refuse: an operation checks its shapes when it is made.
const CHECKED: &str = "the operation was made for slices of these lengths";

/// The kernels' name for an activation.
fn kernel_activation(activation: crate::Activation) -> lenslet_kernels::Activation {
    use crate::Activation as A;
    use lenslet_kernels::Activation as K;
    match activation {
        A::Relu => K::Relu,
        A::Relu6 => K::Relu6,
        A::LeakyRelu { slope } => K::LeakyRelu(slope),
        A::Silu => K::Silu,
        A::HardSwish => K::HardSwish,
        A::HardSigmoid => K::HardSigmoid,
        A::Gelu => K::Gelu,
        A::GeluTanh => K::GeluTanh,
        A::Sigmoid => K::Sigmoid,
        A::Tanh => K::Tanh,
    }
}
