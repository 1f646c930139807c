//! Cross entropy.

use burn::tensor::{Int, Tensor, activation::log_softmax};

/// Mean cross entropy of `logits` `[N, classes]` against `labels` `[N]`, as
/// `torch.nn.CrossEntropyLoss(label_smoothing=…)`: a share `smoothing` of the target is spread
/// over all classes.
pub fn cross_entropy(logits: Tensor<2>, labels: Tensor<1, Int>, smoothing: f64) -> Tensor<1> {
    let log_p = log_softmax(logits, 1);
    let truth = -log_p.clone().gather(1, labels.unsqueeze_dim(1)).mean();
    if smoothing == 0.0 {
        return truth;
    }
    truth * (1.0 - smoothing) - log_p.mean() * smoothing
}
