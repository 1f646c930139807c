//! Weight gradient of depthwise convolutions.

use super::Conv2d;
use crate::buffer::AlignedBuf;
use crate::matrix::Matrix;
use crate::pool::{SharedMut, parallel_for};
use crate::simd::{Kernel, Simd, dispatch_on, isa};
use crate::tile::geometry;

/// Parts of the rows, each with sums of its own, at most.
const PARTS: usize = 16;
/// Floats of input and gradient that are walked at once: a quarter of a second cache level.
const BLOCK_FLOATS: usize = 64 << 10;

/// Writes the gradient to `dw` (`[c, 1, kh, kw]`).
///
/// Output rows of all images are cut into parts (by the problem's size only); each adds up its own sums `[taps][c]`, which are
/// then added in order.
///
/// # Safety
///
/// `x` and `dy` must cover the shape's pixels and channels.
pub(super) unsafe fn weight_gradient(
    shape: &Conv2d,
    output: [usize; 2],
    x: Matrix<'_>,
    dy: Matrix<'_>,
    dw: &mut [f32],
    sums: &mut AlignedBuf,
) {
    let isa = isa();
    let (lanes, _) = geometry(isa);
    let (c, taps) = (shape.c_in, shape.taps());
    let padded = c.next_multiple_of(lanes);
    let rows = shape.n * output[0];
    let macs = rows * output[1] * taps * c;
    let parts = (macs >> 19).clamp(1, PARTS).min(rows);
    let sums = sums.resize(parts * taps * padded);
    let shared = SharedMut::new(sums);
    parallel_for(parts, |part| {
        // SAFETY: a part for each chunk.
        let sums = unsafe { shared.slice(part * taps * padded, taps * padded) };
        sums.fill(0.0);
        let rows = part * rows / parts..(part + 1) * rows / parts;
        dispatch_on(
            isa,
            Part {
                shape,
                output,
                x,
                dy,
                padded,
                rows,
                sums,
            },
        );
    });
    for (c, dw) in dw.chunks_exact_mut(taps).enumerate() {
        for (tap, dw) in dw.iter_mut().enumerate() {
            *dw = sums[tap * padded + c..].iter().step_by(taps * padded).sum();
        }
    }
}

struct Part<'a> {
    shape: &'a Conv2d,
    output: [usize; 2],
    x: Matrix<'a>,
    dy: Matrix<'a>,
    padded: usize,
    /// Output rows, counted through all images.
    rows: std::ops::Range<usize>,
    sums: &'a mut [f32],
}

impl Kernel for Part<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let shape = self.shape;
        let [kh, kw] = shape.kernel;
        let per_row = self.output[1] * shape.c_in + shape.stride[0] * shape.w * shape.c_in;
        let at_once = (BLOCK_FLOATS / per_row).max(1);
        let mut start = self.rows.start;
        while start < self.rows.end {
            let rows = start..(start + at_once).min(self.rows.end);
            for c in (0..shape.c_in).step_by(S::LANES) {
                let n = (shape.c_in - c).min(S::LANES);
                for ky in 0..kh {
                    let mut kx = 0;
                    while kx < kw {
                        let taps = (kw - kx).min(7);
                        let sums = self.sums[(ky * kw + kx) * self.padded + c..].as_mut_ptr();
                        macro_rules! run {
                            ($($k:literal)*) => {
                                match (taps, n < S::LANES) {
                                    // SAFETY: the sums are whole vectors; `Strip` stays inside the image.
                                    $(($k, false) => unsafe {
                                        self.strip::<S, $k, false>(s, rows.clone(), ky, kx, c, n, sums);
                                    },
                                    // SAFETY: as above.
                                    ($k, true) => unsafe {
                                        self.strip::<S, $k, true>(s, rows.clone(), ky, kx, c, n, sums);
                                    },)*
                                    _ => unreachable!("at most seven taps"),
                                }
                            };
                        }
                        run!(1 2 3 4 5 6 7);
                        kx += taps;
                    }
                }
            }
            start = rows.end;
        }
    }
}

impl Part<'_> {
    /// Adds the products of `K` taps of kernel row `ky`, from column `kx`, over some rows to `sums[tap * padded]`.
    ///
    /// # Safety
    ///
    /// The slices must cover the shape and the sums whole vectors.
    #[inline(always)]
    #[allow(clippy::too_many_arguments)]
    unsafe fn strip<S: Simd, const K: usize, const PARTIAL: bool>(
        &self,
        s: S,
        rows: std::ops::Range<usize>,
        ky: usize,
        kx: usize,
        c: usize,
        n: usize,
        sums: *mut f32,
    ) {
        let shape = self.shape;
        let [oh, ow] = self.output;
        let (valid_rows, y0) = shape.reach(0, ky, oh);
        let tap_step = shape.dilation[1] * self.x.ld;
        let step = shape.stride[1] * self.x.ld;
        // Columns for which every tap lies in the image.
        let (first, x0) = shape.reach(1, kx, ow);
        let (last, _) = shape.reach(1, kx + K - 1, ow);
        let start = first.start.max(last.start).min(ow);
        let end = first.end.min(last.end).max(start);
        let mut acc = [s.zero(); K];
        // SAFETY: the columns in `start..end` have all taps in the image, the others are tested one by one; rows are tested.
        unsafe {
            for k in 0..K {
                acc[k] = s.load(sums.add(k * self.padded));
            }
            for row in rows {
                let (image, row) = (row / oh, row % oh);
                if !valid_rows.contains(&row) {
                    continue;
                }
                let y = ((row * shape.stride[0]) as isize + y0) as usize;
                let x_row = self
                    .x
                    .data
                    .as_ptr()
                    .add((image * shape.h + y) * shape.w * self.x.ld + c);
                let dy_row = self
                    .dy
                    .data
                    .as_ptr()
                    .add((image * oh + row) * ow * self.dy.ld + c);
                for col in (0..start).chain(end..ow) {
                    let g = dy_row.add(col * self.dy.ld);
                    let g = if PARTIAL { s.load_n(g, n) } else { s.load(g) };
                    let at = (col * shape.stride[1]) as isize + x0;
                    for k in 0..K {
                        let at = at + (k * shape.dilation[1]) as isize;
                        if (0..shape.w as isize).contains(&at) {
                            let x = x_row.add(at as usize * self.x.ld);
                            let x = if PARTIAL { s.load_n(x, n) } else { s.load(x) };
                            acc[k] = s.mul_add(x, g, acc[k]);
                        }
                    }
                }
                let mut g = dy_row.wrapping_add(start * self.dy.ld);
                let at = (start * shape.stride[1]) as isize + x0;
                let mut x = x_row.wrapping_offset(at * self.x.ld as isize);
                for _ in start..end {
                    let gradient = if PARTIAL { s.load_n(g, n) } else { s.load(g) };
                    for k in 0..K {
                        let x = x.wrapping_add(k * tap_step);
                        let x = if PARTIAL { s.load_n(x, n) } else { s.load(x) };
                        acc[k] = s.mul_add(x, gradient, acc[k]);
                    }
                    g = g.wrapping_add(self.dy.ld);
                    x = x.wrapping_add(step);
                }
            }
            for k in 0..K {
                s.store(sums.add(k * self.padded), acc[k]);
            }
        }
    }
}
