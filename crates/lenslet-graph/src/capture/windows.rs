//! Windows that are larger than what they slide over: Burn does not refuse them while it records,
//! and the sizes it then finds wrap around zero.

use burn_ir::TensorIr;

use crate::Op;

/// The length of the window and of the padded input, where the window does not fit.
pub(super) fn check(op: &Op, inputs: &[&TensorIr]) -> Result<(), (usize, usize)> {
    let (kernel, padding, dilation) = match op {
        Op::Conv2d {
            padding, dilation, ..
        } => {
            let weight = &inputs[1].shape;
            ([weight[2], weight[3]], *padding, *dilation)
        }
        Op::MaxPool2d {
            kernel,
            padding,
            dilation,
            ..
        } => (*kernel, padding.map(|p| (p, p)), *dilation),
        Op::AvgPool2d {
            kernel, padding, ..
        } => (*kernel, padding.map(|p| (p, p)), [1, 1]),
        _ => return Ok(()),
    };
    for axis in 0..2 {
        let span = (kernel[axis].saturating_sub(1)) * dilation[axis] + 1;
        let padded = inputs[0].shape[axis + 2] + padding[axis].0 + padding[axis].1;
        if span > padded {
            return Err((span, padded));
        }
    }
    Ok(())
}
