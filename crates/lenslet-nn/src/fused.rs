//! The unit of fusion.

use burn::tensor::Tensor;

use crate::tap::{Name, is_recording, tap};
use crate::{Activation, BatchNorm2d, Conv2d, add, cpu, to_nchw, to_nhwc};

/// `activation(batch_norm(convolution(x)) + residual)` on `[N, H, W, C]`, with the names under
/// which the two layers stand in their module.
///
/// Everything that a CPU can do in one pass over the data is one call; elsewhere, and while a
/// graph is captured, it is this composition.
pub fn conv_bn_act<'a>(
    (conv_name, conv): (impl Into<Name<'a>>, &Conv2d),
    (bn_name, bn): (impl Into<Name<'a>>, &BatchNorm2d),
    activation: Option<Activation>,
    residual: Option<Tensor<4>>,
    x: Tensor<4>,
) -> Tensor<4> {
    if is_recording() {
        let x = tap(conv_name, || conv.forward(x));
        return finish(tap(bn_name, || bn.forward(x)), activation, residual);
    }
    let [_, h, w, _] = x.dims();
    let convolved = cpu::conv2d(
        &x,
        &conv.weight.val(),
        conv.bias.as_ref().map(|b| b.val()).as_ref(),
        &conv.options([h, w]),
        bn.is_training(&x),
        None,
    );
    match convolved {
        Some((y, moments)) => bn
            .forward_fused(&y, moments, activation, residual.as_ref())
            .unwrap_or_else(|| finish(bn.forward(y), activation, residual)),
        None => {
            let y = bn.forward_nchw(conv.forward_nchw(to_nchw(x)));
            to_nhwc(finish(y, activation, residual.map(to_nchw)))
        }
    }
}

fn finish(x: Tensor<4>, activation: Option<Activation>, residual: Option<Tensor<4>>) -> Tensor<4> {
    let x = match residual {
        Some(residual) => add(x, residual),
        None => x,
    };
    Activation::apply(activation, x)
}
