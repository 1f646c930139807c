//! What an optimiser does to parameters.

use burn::backend::Flex;
use burn::tensor::Tensor;

use super::op::{Input, Values, input};

fn values<const D: usize>(tensor: &Tensor<D>) -> Option<Values> {
    match input(tensor)? {
        Input::Plain(tensor) => Some(Values::contiguous(tensor)),
        Input::Tracked(_) => None,
    }
}

// The tensors go back to the caller as they came: not an error that travels.
#[allow(clippy::result_large_err)]
pub(crate) fn change_in_place<const N: usize>(
    tensors: [Tensor<1>; N],
    read: Tensor<1>,
    change: impl FnOnce([&mut [f32]; N], &[f32]),
) -> Result<[Tensor<1>; N], ([Tensor<1>; N], Tensor<1>)> {
    let own: Vec<Values> = tensors.iter().map_while(values).collect();
    let (Ok(mut own), Some(numbers)) = (<[Values; N]>::try_from(own), values(&read)) else {
        return Err((tensors, read));
    };
    // From here on the values have no other owner than those who had a share before.
    drop((tensors, read));
    change(own.each_mut().map(Values::data_mut), numbers.data());
    Ok(own.map(|values| Tensor::from_primitive::<Flex>(values.into_tensor())))
}

pub(crate) fn sum_of_squares<const D: usize>(x: &Tensor<D>) -> Option<f64> {
    Some(lenslet_kernels::sum_of_squares(values(x)?.data()))
}
