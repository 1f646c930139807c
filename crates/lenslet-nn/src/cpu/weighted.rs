//! What convolutions and linear layers share: an input, a weight, perhaps a bias, and which of
//! their gradients are wanted.

use std::fmt::Debug;

use burn::tensor::Tensor;
use lenslet_kernels::{Activation, Epilogue, Residual, ResidualPosition};

use super::activate::gradient_by_output;
use super::op::{CpuOp, Input, Values, run};
use crate::timing::{Label, Way, timed};

/// A linear operation with a weight and perhaps a bias.
pub(super) trait Weighted: Clone + Debug + Send + 'static {
    /// What the forward pass gives beside its output.
    type Extra;

    /// What `forward` applies to its output: a function whose derivative can be had from that.
    fn activation(&self) -> Activation {
        Activation::None
    }
    fn forward(&self, x: &Values, weight: &Values, bias: Option<&Values>) -> (Values, Self::Extra);
    /// The input's gradient, on top of `other`, which came another way.
    fn input_gradient(&self, weight: &Values, dy: &Values, other: Option<&Values>) -> Values;
    fn weight_gradient(&self, x: &Values, dy: &Values) -> Values;
    fn bias_gradient(&self, dy: &Values) -> Values;
    /// The name in a table of times.
    fn label(&self) -> Label;
}

/// An epilogue that adds a tensor of so many channels.
pub(super) fn added(other: Option<&Values>, channels: usize) -> Epilogue<'_> {
    Epilogue {
        residual: other.map(|other| Residual {
            data: other.data(),
            ld: channels,
            position: ResidualPosition::BeforeActivation,
        }),
        ..Epilogue::NONE
    }
}

/// Runs the operation; a gradient that nobody asks for is not computed.
pub(super) fn run_weighted<T: Weighted, const D: usize>(
    op: T,
    [x, weight]: [Input; 2],
    bias: Option<Input>,
) -> (Tensor<D>, T::Extra) {
    match bias {
        Some(bias) => run(Recorded(op), [x, weight, bias]),
        None => run(Recorded(op), [x, weight]),
    }
}

#[derive(Debug, Clone)]
struct Recorded<T>(T);

/// What the gradients are computed of.
#[derive(Debug, Clone)]
struct Kept {
    x: Values,
    weight: Values,
    /// The output, where an activation was applied to it.
    y: Option<Values>,
}

impl<T: Weighted> Recorded<T> {
    fn keep(&self, x: Values, weight: Values, y: &Values) -> Kept {
        let y = (self.0.activation() != Activation::None).then(|| y.clone());
        Kept { x, weight, y }
    }

    /// The gradient of what came before the activation.
    fn before_activation(&self, kept: &Kept, dy: Values) -> Values {
        match &kept.y {
            Some(y) => gradient_by_output(self.0.activation(), y, dy),
            None => dy,
        }
    }

    fn gradients(
        &self,
        kept: &Kept,
        dy: &Values,
        [for_x, for_weight]: [bool; 2],
        other: Option<Values>,
    ) -> [Option<Values>; 2] {
        [
            for_x.then(|| {
                self.timed(Way::Input, || {
                    self.0.input_gradient(&kept.weight, dy, other.as_ref())
                })
            }),
            for_weight.then(|| self.timed(Way::Weight, || self.0.weight_gradient(&kept.x, dy))),
        ]
    }

    fn timed(&self, way: Way, run: impl FnOnce() -> Values) -> Values {
        timed(|| self.0.label(), way, run)
    }
}

impl<T: Weighted> CpuOp<2> for Recorded<T> {
    type Saved = Kept;
    type Extra = T::Extra;

    const TIMES_PARTS: bool = true;

    fn label(&self) -> Label {
        self.0.label()
    }

    fn forward(&self, [x, weight]: [Values; 2]) -> (Values, Kept, T::Extra) {
        let (y, extra) = self.0.forward(&x, &weight, None);
        let kept = self.keep(x, weight, &y);
        (y, kept, extra)
    }

    fn backward(&self, kept: Kept, dy: Values, wanted: [bool; 2]) -> [Option<Values>; 2] {
        self.backward_onto(kept, dy, wanted, &mut [None, None])
    }

    fn backward_onto(
        &self,
        kept: Kept,
        dy: Values,
        wanted: [bool; 2],
        others: &mut [Option<Values>; 2],
    ) -> [Option<Values>; 2] {
        let dy = self.before_activation(&kept, dy);
        self.gradients(&kept, &dy, wanted, others[0].take())
    }
}

impl<T: Weighted> CpuOp<3> for Recorded<T> {
    type Saved = Kept;
    type Extra = T::Extra;

    const TIMES_PARTS: bool = true;

    fn label(&self) -> Label {
        self.0.label()
    }

    fn forward(&self, [x, weight, bias]: [Values; 3]) -> (Values, Kept, T::Extra) {
        let (y, extra) = self.0.forward(&x, &weight, Some(&bias));
        let kept = self.keep(x, weight, &y);
        (y, kept, extra)
    }

    fn backward(&self, kept: Kept, dy: Values, wanted: [bool; 3]) -> [Option<Values>; 3] {
        self.backward_onto(kept, dy, wanted, &mut [None, None, None])
    }

    fn backward_onto(
        &self,
        kept: Kept,
        dy: Values,
        [for_x, for_weight, for_bias]: [bool; 3],
        others: &mut [Option<Values>; 3],
    ) -> [Option<Values>; 3] {
        let dy = self.before_activation(&kept, dy);
        let [dx, dw] = self.gradients(&kept, &dy, [for_x, for_weight], others[0].take());
        [
            dx,
            dw,
            for_bias.then(|| self.timed(Way::Bias, || self.0.bias_gradient(&dy))),
        ]
    }
}
