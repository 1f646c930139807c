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
    let [out_channels, in_group, kh, kw] = weight.dims4();
    let out_group = out_channels / groups;
    let positions = shape[2] * shape[3];
    let taps = in_group * kh * kw;
    // The place in the input that a tap reads, if it is inside.
    let place = |axis: usize, at: usize, tap: usize| {
        let place = at * stride[axis] + tap * dilation[axis];
        let place = place.checked_sub(padding[axis].0)?;
        (place < x.shape[axis + 2]).then_some(place)
    };
    // What all output channels of a group see, at every position.
    let patches = |n: usize, group: usize| {
        let patch = [shape[2], shape[3], in_group, kh, kw];
        Tensor::from_fn(&patch, |at| {
            let (row, column) = (place(0, at[0], at[3]), place(1, at[1], at[4]));
            let channel = group * in_group + at[2];
            row.zip(column)
                .map_or(0.0, |(row, column)| x.at(&[n, channel, row, column]))
        })
    };
    let mut numbers = Vec::with_capacity(shape.iter().product());
    for n in 0..shape[0] {
        for group in 0..*groups {
            let patches = patches(n, group);
            for out in group * out_group..(group + 1) * out_group {
                let weight = &weight.numbers()[out * taps..][..taps];
                let bias = inputs.get(2).map_or(0.0, |bias| bias.at(&[out]));
                let sums = (0..positions).map(|position| {
                    let patch = &patches.numbers()[position * taps..][..taps];
                    let products = patch.iter().zip(weight);
                    let products = products.map(|(&a, &b)| f64::from(a) * f64::from(b));
                    (bias + products.sum::<f64>()) as f32
                });
                numbers.extend(sums);
            }
        }
    }
    Tensor::new(shape.to_vec(), numbers)
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
