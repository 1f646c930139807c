//! Element-wise activations.

use burn::tensor::Tensor;
use lenslet_kernels::{Activation, InOut, Saved, activation_backward, activation_forward};

use super::op::{CpuOp, Values, input, label, run};
use super::{CHECKED, kernel_activation};
use crate::timing::{Label, Way, timed};

/// The activation of every element.
pub(crate) fn activate<const D: usize>(
    x: &Tensor<D>,
    activation: crate::Activation,
) -> Option<Tensor<D>> {
    let op = Activate {
        shape: x.dims().to_vec(),
        activation: kernel_activation(activation),
    };
    let (y, ()) = run(op, [input(x)?]);
    Some(y)
}

#[derive(Debug, Clone)]
struct Activate {
    shape: Vec<usize>,
    activation: Activation,
}

impl CpuOp<1> for Activate {
    /// The output, which the next layer keeps anyway, or where that does not do the input.
    type Saved = Values;
    type Extra = ();

    fn label(&self) -> Label {
        label("activation", &self.shape)
    }

    fn forward(&self, [x]: [Values; 1]) -> (Values, Values, ()) {
        let y = activated(self.activation, &x);
        let from_output = self.activation.derivative_from_output_exists();
        let saved = if from_output { y.clone() } else { x };
        (y, saved, ())
    }

    fn backward(&self, saved: Values, dy: Values, _: [bool; 1]) -> [Option<Values>; 1] {
        let saved = if self.activation.derivative_from_output_exists() {
            Saved::Output(saved.data())
        } else {
            Saved::Input(saved.data())
        };
        [Some(gradient(self.activation, saved, &self.shape, dy))]
    }
}

/// The activation of every element, not recorded.
pub(super) fn activated(activation: Activation, x: &Values) -> Values {
    Values::written(x.shape(), |y| {
        let x_y = InOut::Separate(x.data(), y);
        activation_forward(activation, x_y).expect(CHECKED);
    })
}

/// The gradient of an activation's input.
fn gradient(activation: Activation, saved: Saved<'_>, shape: &[usize], dy: Values) -> Values {
    dy.overwritten(shape, |dy_dx| {
        activation_backward(activation, saved, dy_dx).expect(CHECKED);
    })
}

/// Whether the operation in front can apply the activation, and keep its own output alone.
pub(crate) fn is_known_by_output(activation: crate::Activation) -> bool {
    kernel_activation(activation).derivative_from_output_exists()
}

/// The gradient of what came before an activation that the operation in front has applied, given that operation's output.
pub(super) fn gradient_by_output(activation: Activation, y: &Values, dy: Values) -> Values {
    timed_gradient(activation, Saved::Output(y.data()), y.shape(), dy)
}

/// The gradient of an activation's input, given that.
pub(super) fn gradient_by_input(activation: Activation, x: &Values, dy: Values) -> Values {
    timed_gradient(activation, Saved::Input(x.data()), x.shape(), dy)
}

fn timed_gradient(activation: Activation, saved: Saved<'_>, shape: &[usize], dy: Values) -> Values {
    timed(
        || label("activation", shape),
        Way::Backward,
        || gradient(activation, saved, shape, dy),
    )
}
