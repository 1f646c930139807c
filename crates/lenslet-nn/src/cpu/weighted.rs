//! What convolutions and linear layers share: an input, a weight, perhaps a bias, and which of
//! their gradients are wanted.

use std::fmt::Debug;

use burn::tensor::Tensor;
use lenslet_kernels::{Activation, Epilogue, Residual, ResidualPosition};

use super::activate::{gradient_by_output, gradient_by_slopes};
use super::op::{CpuOp, Input, Values, run};
use crate::timing::{Label, Way, timed};

/// A linear operation with a weight and perhaps a bias.
pub(super) trait Weighted: Clone + Debug + Send + 'static {
    /// What the forward pass gives beside its output.
    type Extra;

    /// What `forward` applies to its output: a function whose derivative can be had from that, or `forward` gives the slopes.
    fn activation(&self) -> Activation {
        Activation::None
    }
    fn forward(&self, x: &Values, weight: &Values, bias: Option<&Values>)
    -> Forwarded<Self::Extra>;
    /// The input's gradient, on top of `other`, which came another way.
    fn input_gradient(&self, weight: &Values, dy: &Values, other: Option<&Values>) -> Values;
    fn weight_gradient(&self, x: &Values, dy: &Values) -> Values;
    fn bias_gradient(&self, dy: &Values) -> Values;
    /// The name in a table of times.
    fn label(&self) -> Label;
}

/// What a forward pass gives.
pub(super) struct Forwarded<E> {
    pub y: Values,
    /// The activation's derivative at every output, where the output does not tell it.
    pub slopes: Option<Values>,
    pub extra: E,
}

impl<E> Forwarded<E> {
    /// An output without slopes.
    pub fn plain(y: Values, extra: E) -> Self {
        Forwarded {
            y,
            slopes: None,
            extra,
        }
    }
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
pub(super) struct Recorded<T>(pub T);

/// What the gradients are computed of.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    x: Values,
    weight: Values,
    applied: Applied,
}

impl Kept {
    /// Without an activation.
    pub fn plain(x: Values, weight: Values) -> Self {
        let applied = Applied::Nothing;
        Kept { x, weight, applied }
    }
}

/// What tells the derivative of the activation.
#[derive(Debug, Clone)]
enum Applied {
    /// There is none.
    Nothing,
    Output(Values),
    Slopes(Values),
}

impl<T: Weighted> Recorded<T> {
    fn forward(
        &self,
        x: Values,
        weight: Values,
        bias: Option<&Values>,
    ) -> (Values, Kept, T::Extra) {
        let Forwarded { y, slopes, extra } = self.0.forward(&x, &weight, bias);
        let applied = match slopes {
            Some(slopes) => Applied::Slopes(slopes),
            None if self.0.activation() == Activation::None => Applied::Nothing,
            None => Applied::Output(y.clone()),
        };
        (y, Kept { x, weight, applied }, extra)
    }

    /// The gradient of what came before the activation, and where that is to be had with it, the bias's.
    fn before_activation(&self, applied: &Applied, dy: Values) -> (Values, Option<Values>) {
        match applied {
            Applied::Nothing => (dy, None),
            Applied::Output(y) => (gradient_by_output(self.0.activation(), y, dy), None),
            Applied::Slopes(slopes) => {
                let (dy, d_bias) = gradient_by_slopes(slopes, dy);
                (dy, Some(d_bias))
            }
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
        self.forward(x, weight, None)
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
        let (dy, _) = self.before_activation(&kept.applied, dy);
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
        self.forward(x, weight, Some(&bias))
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
        let (dy, d_bias) = self.before_activation(&kept.applied, dy);
        let [dx, dw] = self.gradients(&kept, &dy, [for_x, for_weight], others[0].take());
        let bias_gradient = || self.timed(Way::Bias, || self.0.bias_gradient(&dy));
        [
            dx,
            dw,
            for_bias.then(|| d_bias.unwrap_or_else(bias_gradient)),
        ]
    }
}
