//! What convolutions and linear layers share: an input, a weight, perhaps a bias, and which of
//! their gradients are wanted.

use std::fmt::Debug;

use burn::tensor::Tensor;
use lenslet_kernels::{Epilogue, Residual, ResidualPosition};

use super::op::{CpuOp, Input, Values, run};
use crate::timing::{Label, Way, timed};

/// A linear operation with a weight and perhaps a bias.
pub(super) trait Weighted: Clone + Debug + Send + 'static {
    /// What the forward pass gives beside its output.
    type Extra;

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

impl<T: Weighted> Recorded<T> {
    fn gradients(
        &self,
        [x, weight]: &[Values; 2],
        dy: &Values,
        [for_x, for_weight]: [bool; 2],
        other: Option<Values>,
    ) -> [Option<Values>; 2] {
        [
            for_x.then(|| {
                self.timed(Way::Input, || {
                    self.0.input_gradient(weight, dy, other.as_ref())
                })
            }),
            for_weight.then(|| self.timed(Way::Weight, || self.0.weight_gradient(x, dy))),
        ]
    }

    fn timed(&self, way: Way, run: impl FnOnce() -> Values) -> Values {
        timed(|| self.0.label(), way, run)
    }
}

impl<T: Weighted> CpuOp<2> for Recorded<T> {
    type Saved = [Values; 2];
    type Extra = T::Extra;

    const TIMES_PARTS: bool = true;

    fn label(&self) -> Label {
        self.0.label()
    }

    fn forward(&self, [x, weight]: [Values; 2]) -> (Values, Self::Saved, T::Extra) {
        let (y, extra) = self.0.forward(&x, &weight, None);
        (y, [x, weight], extra)
    }

    fn backward(&self, saved: [Values; 2], dy: Values, wanted: [bool; 2]) -> [Option<Values>; 2] {
        self.gradients(&saved, &dy, wanted, None)
    }

    fn backward_onto(
        &self,
        saved: [Values; 2],
        dy: Values,
        wanted: [bool; 2],
        others: &mut [Option<Values>; 2],
    ) -> [Option<Values>; 2] {
        self.gradients(&saved, &dy, wanted, others[0].take())
    }
}

impl<T: Weighted> CpuOp<3> for Recorded<T> {
    type Saved = [Values; 2];
    type Extra = T::Extra;

    const TIMES_PARTS: bool = true;

    fn label(&self) -> Label {
        self.0.label()
    }

    fn forward(&self, [x, weight, bias]: [Values; 3]) -> (Values, Self::Saved, T::Extra) {
        let (y, extra) = self.0.forward(&x, &weight, Some(&bias));
        (y, [x, weight], extra)
    }

    fn backward(&self, saved: [Values; 2], dy: Values, wanted: [bool; 3]) -> [Option<Values>; 3] {
        self.backward_onto(saved, dy, wanted, &mut [None, None, None])
    }

    fn backward_onto(
        &self,
        saved: [Values; 2],
        dy: Values,
        [for_x, for_weight, for_bias]: [bool; 3],
        others: &mut [Option<Values>; 3],
    ) -> [Option<Values>; 3] {
        let [dx, dw] = self.gradients(&saved, &dy, [for_x, for_weight], others[0].take());
        [
            dx,
            dw,
            for_bias.then(|| self.timed(Way::Bias, || self.0.bias_gradient(&dy))),
        ]
    }
}
