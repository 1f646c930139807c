//! Convolutions.

use super::tensor::Tensor;
use crate::Op;

pub(super) fn conv2d(op: &Op, inputs: &[Tensor], shape: &[usize]) -> Tensor {
    let Op::Conv2d {
        stride,
        padding,
        dilation,
        groups,
    } = op
    else {
        unreachable!("called for convolutions only")
    };
    let (x, weight) = (&inputs[0], &inputs[1]);
    let [_, channels, rows, columns] = x.dims4();
    let [out_channels, in_group, kh, kw] = weight.dims4();
    Tensor::from_fn(shape, |at| {
        let [n, out, row, column] = [at[0], at[1], at[2], at[3]];
        let first = out / (out_channels / groups) * in_group;
        let mut sum = inputs.get(2).map_or(0.0, |bias| bias.at(&[out]));
        for c in 0..in_group {
            let plane = (n * channels + first + c) * rows * columns;
            let taps = (out * in_group + c) * kh * kw;
            for i in 0..kh {
                let y = row * stride[0] + i * dilation[0];
                let Some(y) = y.checked_sub(padding[0].0).filter(|&y| y < rows) else {
                    continue;
                };
                for j in 0..kw {
                    let z = column * stride[1] + j * dilation[1];
                    let Some(z) = z.checked_sub(padding[1].0).filter(|&z| z < columns) else {
                        continue;
                    };
                    let value = x.numbers()[plane + y * columns + z];
                    let tap = weight.numbers()[taps + i * kw + j];
                    sum += f64::from(value) * f64::from(tap);
                }
            }
        }
        sum
    })
}

/// Every input position spreads the kernel; an output position collects what reaches it.
pub(super) fn conv_transpose2d(op: &Op, inputs: &[Tensor], shape: &[usize]) -> Tensor {
    let Op::ConvTranspose2d {
        stride,
        padding,
        dilation,
        groups,
        ..
    } = op
    else {
        unreachable!("called for transposed convolutions only")
    };
    let (x, weight) = (&inputs[0], &inputs[1]);
    let [_, channels, rows, columns] = x.dims4();
    let [_, out_group, kh, kw] = weight.dims4();
    let in_group = channels / groups;
    // The input position whose tap `i` lands on output position `at`.
    let source = |at: usize, i: usize, axis: usize, size: usize| {
        let spread = (at + padding[axis]).checked_sub(i * dilation[axis])?;
        let on_grid = spread.is_multiple_of(stride[axis]);
        (on_grid && spread / stride[axis] < size).then_some(spread / stride[axis])
    };
    Tensor::from_fn(shape, |at| {
        let [n, out, row, column] = [at[0], at[1], at[2], at[3]];
        let (group, out_in_group) = (out / out_group, out % out_group);
        let mut sum = inputs.get(2).map_or(0.0, |bias| bias.at(&[out]));
        for i in 0..kh {
            let Some(y) = source(row, i, 0, rows) else {
                continue;
            };
            for j in 0..kw {
                let Some(z) = source(column, j, 1, columns) else {
                    continue;
                };
                for c in group * in_group..(group + 1) * in_group {
                    sum += x.at(&[n, c, y, z]) * weight.at(&[c, out_in_group, i, j]);
                }
            }
        }
        sum
    })
}
