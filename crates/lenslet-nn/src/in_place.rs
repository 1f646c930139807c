//! Tensors as plain slices, for what an optimiser does.

use burn::tensor::Tensor;

use crate::cpu;

/// Lets `change` overwrite tensors in their own memory while it reads another; a tensor that is
/// shared with others is copied first. None of them may be tracked.
///
/// # Errors
///
/// The tensors as they were, where they are not 32-bit numbers in this machine's memory.
// The tensors go back to the caller as they came: not an error that travels.
#[allow(clippy::result_large_err)]
pub fn change_in_place<const N: usize>(
    tensors: [Tensor<1>; N],
    read: Tensor<1>,
    change: impl FnOnce([&mut [f32]; N], &[f32]),
) -> Result<[Tensor<1>; N], ([Tensor<1>; N], Tensor<1>)> {
    cpu::change_in_place(tensors, read, change)
}

/// The sum of the squares, in f64 whatever the length; `None` as for [`change_in_place`].
pub fn sum_of_squares<const D: usize>(x: &Tensor<D>) -> Option<f64> {
    cpu::sum_of_squares(x)
}
