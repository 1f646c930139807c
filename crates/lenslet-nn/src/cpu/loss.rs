//! Cross entropy.

use burn::tensor::Tensor;
use lenslet_kernels::{CrossEntropy, scale_in_place};

use super::CHECKED;
use super::op::{CpuOp, Values, input, label, run};
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

    fn backward(&self, mut saved: Values, d_loss: Values, _: [bool; 1]) -> [Option<Values>; 1] {
        let factor = d_loss.data()[0];
        if factor != 1.0 {
            scale_in_place(factor, saved.data_mut());
        }
        [Some(saved)]
    }
}
