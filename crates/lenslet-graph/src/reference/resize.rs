//! Feature maps at another size.

use super::tensor::Tensor;
use crate::InterpolateMode;

pub(super) fn interpolate(
    x: &Tensor,
    mode: InterpolateMode,
    align_corners: bool,
    shape: &[usize],
) -> Tensor {
    // The places along an axis that an output position is made of, with their weights.
    let taps = |at: usize, axis: usize| -> Vec<(usize, f64)> {
        let (from, to) = (x.shape[axis], shape[axis]);
        if mode == InterpolateMode::Nearest {
            return vec![((at * from / to).min(from - 1), 1.0)];
        }
        let place = match align_corners {
            true if to == 1 => 0.0,
            true => at as f64 * (from - 1) as f64 / (to - 1) as f64,
            false => (at as f64 + 0.5) * from as f64 / to as f64 - 0.5,
        };
        let inside = |i: f64| i.clamp(0.0, (from - 1) as f64) as usize;
        if mode == InterpolateMode::Bilinear {
            let place = place.max(0.0);
            let (below, part) = (place.floor(), place.fract());
            return vec![(inside(below), 1.0 - part), (inside(below + 1.0), part)];
        }
        let (below, part) = (place.floor(), place - place.floor());
        let taps = (-1..=2).map(|i| {
            let i = f64::from(i);
            (inside(below + i), cubic((part - i).abs()))
        });
        taps.collect()
    };
    Tensor::from_fn(shape, |at| {
        let columns = taps(at[3], 3);
        let rows = taps(at[2], 2);
        let products = rows.iter().flat_map(|&(row, a)| {
            let columns = columns.iter();
            columns.map(move |&(column, b)| a * b * x.at(&[at[0], at[1], row, column]))
        });
        products.sum()
    })
}

/// The kernel of cubic convolution with `a = -0.75` (Keys, 1981).
fn cubic(distance: f64) -> f64 {
    const A: f64 = -0.75;
    let d = distance;
    if d <= 1.0 {
        ((A + 2.0) * d - (A + 3.0)) * d * d + 1.0
    } else if d < 2.0 {
        ((A * d - 5.0 * A) * d + 8.0 * A) * d - 4.0 * A
    } else {
        0.0
    }
}
