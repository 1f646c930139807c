//! Pooling.

use std::ops::Range;

use super::tensor::Tensor;
use crate::Op;

pub(super) fn max_pool2d(op: &Op, x: &Tensor, shape: &[usize]) -> Tensor {
    let Op::MaxPool2d {
        kernel,
        stride,
        padding,
        dilation,
        ..
    } = op
    else {
        unreachable!("called for maximum pooling only")
    };
    let inside = |at: usize, axis: usize| {
        let size = x.shape[axis + 2];
        let places = (0..kernel[axis]).map(move |i| at * stride[axis] + i * dilation[axis]);
        let places = places.filter_map(move |place| place.checked_sub(padding[axis]));
        places.filter(move |&place| place < size)
    };
    Tensor::from_fn(shape, |at| {
        let rows = inside(at[2], 0);
        let places = rows.flat_map(|row| inside(at[3], 1).map(move |column| (row, column)));
        let values = places.map(|(row, column)| x.at(&[at[0], at[1], row, column]));
        values.fold(f64::NEG_INFINITY, f64::max)
    })
}

pub(super) fn avg_pool2d(op: &Op, x: &Tensor, shape: &[usize]) -> Tensor {
    let &Op::AvgPool2d {
        kernel,
        stride,
        padding,
        count_include_pad,
        ..
    } = op
    else {
        unreachable!("called for average pooling only")
    };
    // The part of a window inside the input, and how many places of it are in the padded input.
    let window = |at: usize, axis: usize| {
        let size = x.shape[axis + 2];
        let start = at * stride[axis];
        let end = (start + kernel[axis]).min(size + 2 * padding[axis]);
        let inside = |place: usize| place.saturating_sub(padding[axis]).min(size);
        (inside(start)..inside(end), end - start)
    };
    Tensor::from_fn(shape, |at| {
        let ((rows, height), (columns, width)) = (window(at[2], 0), window(at[3], 1));
        let count = if count_include_pad {
            height * width
        } else {
            rows.len() * columns.len()
        };
        sum(x, at, rows, columns) / count as f64
    })
}

pub(super) fn adaptive_avg_pool2d(x: &Tensor, shape: &[usize]) -> Tensor {
    let window = |at: usize, axis: usize| {
        let (size, count) = (x.shape[axis], shape[axis]);
        at * size / count..((at + 1) * size).div_ceil(count)
    };
    Tensor::from_fn(shape, |at| {
        let (rows, columns) = (window(at[2], 2), window(at[3], 3));
        let count = rows.len() * columns.len();
        sum(x, at, rows, columns) / count as f64
    })
}

fn sum(x: &Tensor, at: &[usize], rows: Range<usize>, columns: Range<usize>) -> f64 {
    let places = rows.flat_map(|row| columns.clone().map(move |column| (row, column)));
    let values = places.map(|(row, column)| x.at(&[at[0], at[1], row, column]));
    values.sum()
}
