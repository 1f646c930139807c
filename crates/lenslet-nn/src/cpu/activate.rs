//! Element-wise activations.

use burn::tensor::Tensor;
use lenslet_kernels::{Activation, InOut, Saved, activation_backward, activation_forward};

use super::op::{CpuOp, Values, input, label, run};
use super::{CHECKED, kernel_activation};
use crate::timing::Label;

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
        let y = Values::written(&self.shape, |y| {
            let x_y = InOut::Separate(x.data(), y);
            activation_forward(self.activation, x_y).expect(CHECKED);
        });
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
        let dx = dy.overwritten(&self.shape, |dy_dx| {
            activation_backward(self.activation, saved, dy_dx).expect(CHECKED);
        });
        [Some(dx)]
    }
}
