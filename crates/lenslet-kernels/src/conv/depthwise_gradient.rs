//! Weight gradient of depthwise convolutions.

use std::ops::Range;

use super::Conv2d;
use crate::buffer::{AlignedBuf, with_local};
use crate::matrix::Matrix;
use crate::pool::{SharedMut, parallel_for};
use crate::simd::{Kernel, Simd, dispatch_on, isa};
use crate::tile::geometry;

/// Chunks that are wanted where there is enough work.
const CHUNKS: usize = 16;
/// Vectors of channels of a chunk: four were as fast, all channels slower.
const VECTORS: usize = 2;
/// Floats of copied input and gradient, unless four rows take more: a quarter of a second cache level.
const BLOCK_FLOATS: usize = 64 << 10;
/// Pixels that are asked for ahead of the copy.
const AHEAD: usize = 16;

/// Writes the gradient to `dw` (`[c, 1, kh, kw]`).
///
/// Channels are cut into a few vectors, output rows of all images into parts (by the problem's size only); each part adds up its own sums
/// `[taps][c]`, which are then added in order.
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
    let groups = c.div_ceil(VECTORS * lanes);
    let wanted = (macs >> 19).clamp(1, CHUNKS);
    let parts = wanted.div_ceil(groups).min(rows).max(1);
    let sums = sums.resize(parts * taps * padded);
    sums.fill(0.0);
    let shared = SharedMut::new(sums);
    parallel_for(parts * groups, |i| {
        let (part, first) = (i / groups, i % groups * VECTORS * lanes);
        let chunk = Chunk {
            shape,
            output,
            x,
            dy,
            channels: first..(first + VECTORS * lanes).min(c),
            rows: part * rows / parts..(part + 1) * rows / parts,
            // Each chunk adds to its own channels of its own part.
            sums: shared.as_mut_ptr().wrapping_add(part * taps * padded),
            padded,
        };
        dispatch_on(isa, chunk);
    });
    for (c, dw) in dw.chunks_exact_mut(taps).enumerate() {
        for (tap, dw) in dw.iter_mut().enumerate() {
            *dw = sums[tap * padded + c..].iter().step_by(taps * padded).sum();
        }
    }
}

struct Chunk<'a> {
    shape: &'a Conv2d,
    output: [usize; 2],
    x: Matrix<'a>,
    dy: Matrix<'a>,
    channels: Range<usize>,
    /// Output rows, counted through all images.
    rows: Range<usize>,
    /// This part's sums, `[taps][padded]`.
    sums: *mut f32,
    padded: usize,
}

impl Kernel for Chunk<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        with_local(|local| self.run_with(s, &mut local.a, &mut local.b));
    }
}

impl Chunk<'_> {
    fn run_with<S: Simd>(&self, s: S, x_copy: &mut AlignedBuf, dy_copy: &mut AlignedBuf) {
        let shape = self.shape;
        let [oh, ow] = self.output;
        let [kh, kw] = shape.kernel;
        let reach = |axis: usize, outputs: usize, kernel: usize| {
            (outputs - 1) * shape.stride[axis] + (kernel - 1) * shape.dilation[axis] + 1
        };
        let width = reach(1, ow, kw);
        // Rows at once, such that both copies fit.
        let per_row = (shape.stride[0] * width + ow) * S::LANES;
        let overlap = reach(0, 1, kh) * width * S::LANES;
        let at_once = (BLOCK_FLOATS.saturating_sub(overlap) / per_row).max(4);
        let mut start = self.rows.start;
        while start < self.rows.end {
            let (image, row) = (start / oh, start % oh);
            let rows = (self.rows.end - start).min(oh - row).min(at_once);
            start += rows;
            let height = reach(0, rows, kh);
            let x_copy = x_copy.resize(height * width * S::LANES).as_mut_ptr();
            let dy_copy = dy_copy.resize(rows * ow * S::LANES).as_mut_ptr();
            for c in self.channels.clone().step_by(S::LANES) {
                let channels = (self.channels.end - c).min(S::LANES);
                s.vectorize(CopyRows {
                    from: self
                        .x
                        .data
                        .as_ptr()
                        .wrapping_add(image * shape.h * shape.w * self.x.ld + c),
                    ld: self.x.ld,
                    size: [shape.h, shape.w],
                    first: [
                        (row * shape.stride[0]) as isize - shape.padding[0] as isize,
                        -(shape.padding[1] as isize),
                    ],
                    extent: [height, width],
                    channels,
                    to: x_copy,
                });
                s.vectorize(CopyRows {
                    from: self
                        .dy
                        .data
                        .as_ptr()
                        .wrapping_add(image * oh * ow * self.dy.ld + c),
                    ld: self.dy.ld,
                    size: [oh, ow],
                    first: [row as isize, 0],
                    extent: [rows, ow],
                    channels,
                    to: dy_copy,
                });
                let at_once = if shape.dilation[1] == 1 { MAX_TAPS } else { 1 };
                let mut kx = 0;
                while kx < kw {
                    let across = (kw - kx).min(at_once);
                    let mut ky = 0;
                    while ky < kh {
                        let down = (kh - ky).min(kernel_rows(S::REGISTERS, across));
                        let taps = Taps {
                            x: x_copy.wrapping_add(
                                (ky * shape.dilation[0] * width + kx * shape.dilation[1])
                                    * S::LANES,
                            ),
                            dy: dy_copy,
                            extent: [rows, ow],
                            x_row: shape.stride[0] * width * S::LANES,
                            x_col: shape.stride[1] * S::LANES,
                            down_step: shape.dilation[0] * width * S::LANES,
                            sums: self.sums.wrapping_add((ky * kw + kx) * self.padded + c),
                            sums_row: kw * self.padded,
                            sums_col: self.padded,
                        };
                        // SAFETY: the copies hold all pixels that the taps reach; the sums are this chunk's own, in whole vectors.
                        unsafe { run_taps(s, down, across, &taps) };
                        ky += down;
                    }
                    kx += across;
                }
            }
        }
    }
}

/// Copies a vector of channels of a rectangle of pixels, zeros where it lies outside the image or the channels end.
struct CopyRows {
    /// The image's first pixel, at the first channel.
    from: *const f32,
    ld: usize,
    /// Rows and columns of the image.
    size: [usize; 2],
    /// The rectangle's first row and column, and how many.
    first: [isize; 2],
    extent: [usize; 2],
    channels: usize,
    to: *mut f32,
}

impl Kernel for CopyRows {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let [rows, cols] = self.extent;
        let before = (-self.first[1]).clamp(0, cols as isize).unsigned_abs();
        let end = (self.size[1] as isize - self.first[1])
            .clamp(before as isize, cols as isize)
            .unsigned_abs();
        for row in 0..rows {
            let y = self.first[0] + row as isize;
            let inside = (0..self.size[0] as isize).contains(&y);
            let (before, end) = if inside { (before, end) } else { (cols, cols) };
            let to = self.to.wrapping_add(row * cols * S::LANES);
            let at = (y * self.size[1] as isize + self.first[1]) * self.ld as isize;
            let mut from = self.from.wrapping_offset(at + (before * self.ld) as isize);
            // SAFETY: the copy has room for the rectangle; only pixels and channels of the image are read.
            unsafe {
                for col in 0..before {
                    s.store(to.add(col * S::LANES), s.zero());
                }
                for col in before..end {
                    s.prefetch(from.wrapping_add(AHEAD * self.ld));
                    let x = if self.channels == S::LANES {
                        s.load(from)
                    } else {
                        s.load_n(from, self.channels)
                    };
                    s.store(to.add(col * S::LANES), x);
                    from = from.wrapping_add(self.ld);
                }
                for col in end..cols {
                    s.store(to.add(col * S::LANES), s.zero());
                }
            }
        }
    }
}

/// Columns of a kernel at once.
const MAX_TAPS: usize = 7;

/// Rows of a kernel whose sums stay in registers, beside the gradient and a factor, for so many columns.
const fn kernel_rows(registers: usize, across: usize) -> usize {
    let rows = (registers - 3) / across;
    if rows > 5 { 5 } else { rows }
}

/// Some taps of a block of copied pixels.
struct Taps {
    /// What the first tap of the first output reads.
    x: *const f32,
    dy: *const f32,
    /// Rows and columns of outputs.
    extent: [usize; 2],
    /// Floats of `x` from one output row, output column, kernel row to the next.
    x_row: usize,
    x_col: usize,
    down_step: usize,
    /// The first tap's sums, and floats to the next kernel row's and column's.
    sums: *mut f32,
    sums_row: usize,
    sums_col: usize,
}

/// Adds the products of `down` x `across` taps.
///
/// # Safety
///
/// The copies must hold all pixels that the taps reach, the sums a vector for each tap.
#[inline(never)]
unsafe fn run_taps<S: Simd>(s: S, down: usize, across: usize, taps: &Taps) {
    macro_rules! select {
        ($($d:literal: $($a:literal)*;)*) => {
            match (down, across) {
                $($(($d, $a) if const { $d <= kernel_rows(S::REGISTERS, $a) } => s.vectorize(TapsKernel::<$d, $a>(taps)),)*)*
                _ => unreachable!("no kernel for {down} x {across} taps"),
            }
        };
    }
    select!(1: 1 2 3 4 5 6 7; 2: 1 2 3 4 5 6 7; 3: 1 2 3 4 5 6 7; 4: 1 2 3 4 5 6 7; 5: 1 2 3 4 5;);
}

struct TapsKernel<'a, const DOWN: usize, const ACROSS: usize>(&'a Taps);

impl<const DOWN: usize, const ACROSS: usize> Kernel for TapsKernel<'_, DOWN, ACROSS> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let t = self.0;
        let mut acc = [[s.zero(); ACROSS]; DOWN];
        // SAFETY: `run_taps`'s caller promises the pixels and the sums.
        unsafe {
            let mut dy = t.dy;
            for row in 0..t.extent[0] {
                let mut x = t.x.wrapping_add(row * t.x_row);
                for _ in 0..t.extent[1] {
                    let gradient = s.load(dy);
                    for d in 0..DOWN {
                        let x = x.wrapping_add(d * t.down_step);
                        for a in 0..ACROSS {
                            acc[d][a] = s.mul_add(
                                s.load(x.wrapping_add(a * S::LANES)),
                                gradient,
                                acc[d][a],
                            );
                        }
                    }
                    dy = dy.wrapping_add(S::LANES);
                    x = x.wrapping_add(t.x_col);
                }
            }
            for d in 0..DOWN {
                for a in 0..ACROSS {
                    let sum = t.sums.add(d * t.sums_row + a * t.sums_col);
                    s.store(sum, s.add(s.load(sum), acc[d][a]));
                }
            }
        }
    }
}
