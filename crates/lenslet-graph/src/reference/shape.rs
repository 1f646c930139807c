//! Moving, joining and reducing.

use super::tensor::Tensor;
use crate::{PadMode, Reduction, Span};

/// An index that points outside of a dimension.
#[derive(Debug)]
pub(super) struct Outside {
    pub index: i64,
    pub len: usize,
}

pub(super) fn permute(x: &Tensor, axes: &[usize], shape: &[usize]) -> Tensor {
    let mut place = vec![0; axes.len()];
    Tensor::from_fn(shape, |at| {
        for (&axis, &i) in axes.iter().zip(at) {
            place[axis] = i;
        }
        x.at(&place)
    })
}

pub(super) fn concat(parts: &[Tensor], dim: usize, shape: &[usize]) -> Tensor {
    Tensor::from_fn(shape, |at| {
        let mut place = at.to_vec();
        let mut parts = parts.iter();
        loop {
            let part = parts.next().expect("the parts are as long as the whole");
            let len = part.shape[dim];
            if place[dim] < len {
                return part.at(&place);
            }
            place[dim] -= len;
        }
    })
}

pub(super) fn slice(x: &Tensor, spans: &[Span], shape: &[usize]) -> Tensor {
    Tensor::from_fn(shape, |at| {
        let places = spans.iter().zip(at);
        let places =
            places.map(|(span, &i)| span.start.wrapping_add_signed(i as isize * span.step));
        x.at(&places.collect::<Vec<_>>())
    })
}

pub(super) fn pad(
    x: &Tensor,
    padding: &[(usize, usize)],
    mode: PadMode,
    shape: &[usize],
) -> Tensor {
    // The place inside that a place of the padded dimension shows.
    let inside = |i: usize, dim: usize| {
        let size = x.shape[dim];
        match (i.checked_sub(padding[dim].0), mode) {
            (Some(i), _) if i < size => Some(i),
            (_, PadMode::Constant(_)) => None,
            (None, PadMode::Edge) => Some(0),
            (Some(_), PadMode::Edge) => Some(size - 1),
            (None, PadMode::Reflect) => Some(padding[dim].0 - i),
            (Some(i), PadMode::Reflect) => Some(2 * (size - 1) - i),
        }
    };
    Tensor::from_fn(shape, |at| {
        let places = at.iter().enumerate().map(|(dim, &i)| inside(i, dim));
        match (places.collect::<Option<Vec<_>>>(), mode) {
            (None, PadMode::Constant(number)) => number,
            (place, _) => place.map_or(0.0, |place| x.at(&place)),
        }
    })
}

pub(super) fn flip(x: &Tensor, dims: &[usize], shape: &[usize]) -> Tensor {
    Tensor::from_fn(shape, |at| {
        let mut place = at.to_vec();
        for &dim in dims {
            place[dim] = shape[dim] - 1 - at[dim];
        }
        x.at(&place)
    })
}

pub(super) fn repeat(x: &Tensor, dim: usize, shape: &[usize]) -> Tensor {
    Tensor::from_fn(shape, |at| {
        let mut place = at.to_vec();
        place[dim] %= x.shape[dim];
        x.at(&place)
    })
}

pub(super) fn reduce(x: &Tensor, by: Reduction, dims: &[usize], shape: &[usize]) -> Tensor {
    let sizes: Vec<usize> = dims.iter().map(|&dim| x.shape[dim]).collect();
    let count: usize = sizes.iter().product();
    Tensor::from_fn(shape, |at| {
        let mut place = at.to_vec();
        let values = (0..count).map(|i| {
            let mut rest = i;
            for (&dim, &size) in dims.iter().zip(&sizes) {
                place[dim] = rest % size;
                rest /= size;
            }
            x.at(&place)
        });
        match by {
            Reduction::Sum => values.sum(),
            Reduction::Mean => values.sum::<f64>() / count as f64,
            Reduction::Max => values.fold(f64::NEG_INFINITY, f64::max),
            Reduction::Min => values.fold(f64::INFINITY, f64::min),
            Reduction::Prod => values.product(),
        }
    })
}

pub(super) fn select(
    x: &Tensor,
    indices: &Tensor,
    dim: usize,
    shape: &[usize],
) -> Result<Tensor, Outside> {
    check(indices, x.shape[dim])?;
    Ok(Tensor::from_fn(shape, |at| {
        let mut place = at.to_vec();
        place[dim] = indices.at(&at[dim..=dim]) as usize;
        x.at(&place)
    }))
}

pub(super) fn gather(
    x: &Tensor,
    indices: &Tensor,
    dim: usize,
    shape: &[usize],
) -> Result<Tensor, Outside> {
    check(indices, x.shape[dim])?;
    Ok(Tensor::from_fn(shape, |at| {
        let mut place = at.to_vec();
        place[dim] = indices.at(at) as usize;
        x.at(&place)
    }))
}

fn check(indices: &Tensor, len: usize) -> Result<(), Outside> {
    let range = 0.0..len as f32;
    match indices
        .numbers()
        .iter()
        .find(|index| !range.contains(index))
    {
        Some(&index) => Err(Outside {
            index: index as i64,
            len,
        }),
        None => Ok(()),
    }
}
