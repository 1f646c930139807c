//! What convolutions and linear layers share: an input, a weight, perhaps a bias, and which of
//! their gradients are wanted.

use std::fmt::Debug;

use burn::tensor::Tensor;

use super::op::{CpuOp, Input, Values, run};

/// A linear operation with a weight and perhaps a bias.
pub(super) trait Weighted: Clone + Debug + Send + 'static {
    fn forward(&self, x: &Values, weight: &Values, bias: Option<&Values>) -> Values;
    fn input_gradient(&self, weight: &Values, dy: &Values) -> Values;
    fn weight_gradient(&self, x: &Values, dy: &Values) -> Values;
    fn bias_gradient(&self, dy: &Values) -> Values;
}

/// Runs the operation; a gradient that nobody asks for is not computed.
pub(super) fn run_weighted<T: Weighted, const D: usize>(
    op: T,
    [x, weight]: [Input; 2],
    bias: Option<Input>,
) -> Tensor<D> {
    let (y, ()) = match bias {
        Some(bias) => run(Recorded(op), [x, weight, bias]),
        None => run(Recorded(op), [x, weight]),
    };
    y
}

#[derive(Debug, Clone)]
struct Recorded<T>(T);

impl<T: Weighted> Recorded<T> {
    fn gradients(
        &self,
        [x, weight]: &[Values; 2],
        dy: &Values,
        [for_x, for_weight]: [bool; 2],
    ) -> [Option<Values>; 2] {
        [
            for_x.then(|| self.0.input_gradient(weight, dy)),
            for_weight.then(|| self.0.weight_gradient(x, dy)),
        ]
    }
}

impl<T: Weighted> CpuOp<2> for Recorded<T> {
    type Saved = [Values; 2];
    type Extra = ();

    fn forward(&self, [x, weight]: [Values; 2]) -> (Values, Self::Saved, ()) {
        (self.0.forward(&x, &weight, None), [x, weight], ())
    }

    fn backward(&self, saved: [Values; 2], dy: Values, wanted: [bool; 2]) -> [Option<Values>; 2] {
        self.gradients(&saved, &dy, wanted)
    }
}

impl<T: Weighted> CpuOp<3> for Recorded<T> {
    type Saved = [Values; 2];
    type Extra = ();

    fn forward(&self, [x, weight, bias]: [Values; 3]) -> (Values, Self::Saved, ()) {
        (self.0.forward(&x, &weight, Some(&bias)), [x, weight], ())
    }

    fn backward(
        &self,
        saved: [Values; 2],
        dy: Values,
        [for_x, for_weight, for_bias]: [bool; 3],
    ) -> [Option<Values>; 3] {
        let [dx, dw] = self.gradients(&saved, &dy, [for_x, for_weight]);
        [dx, dw, for_bias.then(|| self.0.bias_gradient(&dy))]
    }
}
