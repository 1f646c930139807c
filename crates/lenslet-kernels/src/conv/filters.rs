//! Filters of 3 x 3 as Winograd's products take them: transformed, in panels.

use std::ops::Range;

use super::Conv2d;
use super::transform::{F2, F4, filter_transform};
use super::winograd::Size;
use crate::buffer::with_local;
use crate::panels::{Panels, Source, pack_panel};
use crate::simd::{Kernel, Simd, dispatch_on};

/// Rows (channels of the reduction) that are transformed at a time: with their nine taps, what the first cache level holds.
pub(super) const ROWS: usize = 16;

/// The weight of a forward pass, or of an input gradient: turned by 180 degrees, channels exchanged.
#[derive(Clone, Copy)]
pub(super) struct Filters<'a> {
    /// Channels of the reduction, and those of the result.
    pub k: usize,
    pub cols: usize,
    weight: &'a [f32],
    taps: &'a [usize; 9],
    channel_stride: usize,
    col_stride: usize,
}

impl<'a> Filters<'a> {
    pub fn new(shape: &Conv2d, weight: &'a [f32], forward: bool) -> Self {
        const TURNED: [usize; 9] = [8, 7, 6, 5, 4, 3, 2, 1, 0];
        const STRAIGHT: [usize; 9] = [0, 1, 2, 3, 4, 5, 6, 7, 8];
        let (c_in, c_out) = (shape.c_in, shape.c_out);
        let (k, cols, taps, channel_stride, col_stride) = match forward {
            true => (c_in, c_out, &STRAIGHT, 9, c_in * 9),
            false => (c_out, c_in, &TURNED, c_in * 9, 9),
        };
        Filters {
            k,
            cols,
            weight,
            taps,
            channel_stride,
            col_stride,
        }
    }

    /// Transforms some rows of a panel: number `p` of row `r` goes to `to[p * plane + (r - rows.start) * width]`, on this thread.
    ///
    /// # Safety
    ///
    /// The rows of every plane must be writable by nobody else.
    pub unsafe fn transform(
        &self,
        size: Size,
        panels: &Panels,
        index: usize,
        rows: Range<usize>,
        to: *mut f32,
        plane: usize,
    ) {
        let width = panels.get(index).width;
        with_local(|local| {
            for start in rows.clone().step_by(ROWS) {
                let source = Source {
                    data: &self.weight[start * self.channel_stride..],
                    taps: self.taps,
                    tap_stride: 1,
                    channels: ROWS.min(rows.end - start),
                    channel_stride: self.channel_stride,
                    col_stride: self.col_stride,
                };
                let from = local.a.resize(9 * source.channels * width);
                pack_panel(&source, panels, index, from);
                let rows = Rows {
                    size,
                    from,
                    to: to.wrapping_add((start - rows.start) * width),
                    plane,
                };
                dispatch_on(panels.isa, rows);
            }
        });
    }
}

/// Transforms rows of a panel.
struct Rows<'a> {
    size: Size,
    /// As they are, tap by tap.
    from: &'a [f32],
    to: *mut f32,
    plane: usize,
}

impl Kernel for Rows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let tap = self.from.len() / 9;
        for at in (0..tap).step_by(S::LANES) {
            let from = self.from[at..].as_ptr();
            let to = self.to.wrapping_add(at);
            // SAFETY: a vector of each of nine taps; of every plane by the promise of `Filters::transform`'s caller.
            unsafe {
                match self.size {
                    Size::F2 => filter_transform::<S, F2>(s, from, tap, to, self.plane),
                    Size::F4 => filter_transform::<S, F4>(s, from, tap, to, self.plane),
                }
            }
        }
    }
}
