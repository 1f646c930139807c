//! Cross entropy.

use burn::tensor::Tensor;
use lenslet_kernels::{CrossEntropy, scale_in_place};

use super::CHECKED;
use super::op::{CpuOp, Input, Values, input, label, run};
use crate::timing::Label;

/// The mean cross entropy of `[N, classes]` against a class for each row.
pub(crate) fn cross_entropy(
    logits: &Tensor<2>,
    labels: &[u32],
    smoothing: f64,
) -> Option<Tensor<1>> {
    let [rows, classes] = logits.dims();
    let known = labels.iter().all(|&label| (label as usize) < classes);
    if rows == 0 || rows != labels.len() || !known || !(0.0..=1.0).contains(&smoothing) {
        return None;
    }
    let op = Loss {
        labels: labels.to_vec(),
        kernel: CrossEntropy {
            classes,
            smoothing: smoothing as f32,
        },
    };
    let (loss, ()) = run(op, [input(logits)?]);
    Some(loss)
}

#[derive(Debug, Clone)]
struct Loss {
    labels: Vec<u32>,
    kernel: CrossEntropy,
}

impl CpuOp<1> for Loss {
    /// The gradient of the logits: it costs no pass of its own.
    type Saved = Values;
    type Extra = ();

    fn label(&self) -> Label {
        label("cross entropy", &[self.labels.len(), self.kernel.classes])
    }

    fn forward(&self, [logits]: [Values; 1]) -> (Values, Values, ()) {
        let mut loss = 0.0;
        let gradient = Values::written(&[self.labels.len(), self.kernel.classes], |gradient| {
            loss = (self.kernel)
                .forward(logits.data(), &self.labels, 1.0, Some(gradient))
                .expect(CHECKED);
        });
        (Values::new(vec![loss as f32], &[1]), gradient, ())
    }

    fn backward(&self, saved: Values, d_loss: Values, _: [bool; 1]) -> [Option<Values>; 1] {
        [Some(scaled(saved, &d_loss))]
    }
}

/// The gradient of the logits, given the loss's.
fn scaled(mut gradient: Values, d_loss: &Values) -> Values {
    let factor = d_loss.data()[0];
    if factor != 1.0 {
        scale_in_place(factor, gradient.data_mut());
    }
    gradient
}

/// A loss that is known with its gradient by an input of `shape`.
pub(crate) fn known_loss(
    input: Input,
    shape: &[usize],
    value: f32,
    gradient: Vec<f32>,
) -> Tensor<1> {
    let gradient = Values::new(gradient, shape);
    run(Known { value, gradient }, [input]).0
}

#[derive(Debug, Clone)]
struct Known {
    value: f32,
    gradient: Values,
}

impl CpuOp<1> for Known {
    type Saved = ();
    type Extra = ();

    fn label(&self) -> Label {
        label("loss", &[self.gradient.data().len()])
    }

    fn forward(&self, _: [Values; 1]) -> (Values, (), ()) {
        (Values::new(vec![self.value], &[1]), (), ())
    }

    fn backward(&self, (): (), d_loss: Values, _: [bool; 1]) -> [Option<Values>; 1] {
        [Some(scaled(self.gradient.clone(), &d_loss))]
    }
}
