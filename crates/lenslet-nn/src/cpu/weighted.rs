//! What convolutions and linear layers share: an input, a weight, perhaps a bias, and which of
//! their gradients are wanted.

use std::fmt::Debug;

use burn::tensor::Tensor;
use lenslet_kernels::{Activation, Epilogue, Residual, ResidualPosition};

use super::activate::{activated, gradient_by_input, gradient_by_output};
use super::op::{CpuOp, Input, Values, label, run};
use crate::timing::{Label, Way, timed};

/// A linear operation with a weight and perhaps a bias.
pub(super) trait Weighted: Clone + Debug + Send + 'static {
    /// What the forward pass gives beside its output.
    type Extra;

    /// What `forward` applies to its output: a function whose derivative can be had from that.
    fn activation(&self) -> Activation {
        Activation::None
    }
    /// What the input goes through first: a function whose derivative can be had from that input. Its value is not kept for the
    /// backward pass but computed again, and is what `forward` and `weight_gradient` get.
    fn input_activation(&self) -> Activation {
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

    /// The output, after what the input goes through first.
    fn forward(&self, x: &Values, weight: &Values, bias: Option<&Values>) -> (Values, T::Extra) {
        match self.0.input_activation() {
            Activation::None => self.0.forward(x, weight, bias),
            before => self.0.forward(&activated(before, x), weight, bias),
        }
    }

    /// The input's gradient on top of `other`, which is taken where the sum costs nothing, and the weight's.
    fn gradients(
        &self,
        kept: &Kept,
        dy: &Values,
        [for_x, for_weight]: [bool; 2],
        other: &mut Option<Values>,
    ) -> [Option<Values>; 2] {
        let before = self.0.input_activation();
        // First, so that the activation's value is gone before the input's gradient is made.
        let dw = for_weight.then(|| match before {
            Activation::None => self.weight_gradient(&kept.x, dy),
            before => {
                let again = || label("activation", kept.x.shape());
                let x = timed(again, Way::Backward, || activated(before, &kept.x));
                self.weight_gradient(&x, dy)
            }
        });
        let dx = for_x.then(|| match before {
            Activation::None => self.input_gradient(&kept.weight, dy, other.take().as_ref()),
            before => {
                let dx = self.input_gradient(&kept.weight, dy, None);
                gradient_by_input(before, &kept.x, dx)
            }
        });
        [dx, dw]
    }

    fn weight_gradient(&self, x: &Values, dy: &Values) -> Values {
        self.timed(Way::Weight, || self.0.weight_gradient(x, dy))
    }

    fn input_gradient(&self, weight: &Values, dy: &Values, other: Option<&Values>) -> Values {
        self.timed(Way::Input, || self.0.input_gradient(weight, dy, other))
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
        let (y, extra) = self.forward(&x, &weight, None);
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
        self.gradients(&kept, &dy, wanted, &mut others[0])
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
        let (y, extra) = self.forward(&x, &weight, Some(&bias));
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
        let [dx, dw] = self.gradients(&kept, &dy, [for_x, for_weight], &mut others[0]);
        [
            dx,
            dw,
            for_bias.then(|| self.timed(Way::Bias, || self.0.bias_gradient(&dy))),
        ]
    }
}
