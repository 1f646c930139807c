//! Losses.

use burn::tensor::activation::log_softmax;
use burn::tensor::{Tensor, TensorData};

use crate::cpu;

/// The mean cross entropy of `logits` `[N, classes]` against the class of each row, as
/// `torch.nn.CrossEntropyLoss(label_smoothing=…)`: a share `smoothing` of the target is spread over
/// all classes.
pub fn cross_entropy(logits: Tensor<2>, labels: &[u32], smoothing: f64) -> Tensor<1> {
    if let Some(loss) = cpu::cross_entropy(&logits, labels, smoothing) {
        return loss;
    }
    let labels: Vec<i64> = labels.iter().map(|&label| i64::from(label)).collect();
    let labels = TensorData::new(labels, [logits.dims()[0], 1]);
    let labels = Tensor::from_data(labels, &logits.device());
    let log_p = log_softmax(logits, 1);
    let truth = -log_p.clone().gather(1, labels).mean();
    if smoothing == 0.0 {
        return truth;
    }
    truth * (1.0 - smoothing) - log_p.mean() * smoothing
}

/// A loss whose value and gradient by `x` were computed elsewhere: the scalar `[1]`, through which the
/// gradient, numbers in the order of `x`, flows on.
///
/// # Panics
/// If there is not one number for each of `x`.
pub fn known_loss<const D: usize>(x: Tensor<D>, value: f32, gradient: Vec<f32>) -> Tensor<1> {
    assert_eq!(gradient.len(), x.dims().iter().product::<usize>());
    if let Some(input) = cpu::input(&x) {
        return cpu::known_loss(input, &x.dims(), value, gradient);
    }
    let gradient = Tensor::<D>::from_data(TensorData::new(gradient, x.dims()), &x.device());
    let slope = (x * gradient).sum();
    // The sum has the loss's derivatives, but not its value.
    slope.clone() - slope.detach() + value
}
