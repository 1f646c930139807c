//! Convolution as a matrix product whose rows are pointers to pixels.

use super::Conv2d;
use crate::buffer::AlignedBuf;
use crate::epilogue::Post;
use crate::matrix::Matrix;
use crate::panels::{Packed, Source};
use crate::pool::parallel_chunks_mut;
use crate::product::{MatrixRows, Output, Product, Rows};
use crate::simd::{Isa, isa};
use crate::tile::geometry;

/// Output pixels of a regular grid, and the input pixels that each one sees.
struct PixelRows<'a> {
    data: *const f32,
    ld: usize,
    /// Input height and width.
    input: [isize; 2],
    images: usize,
    grid: [usize; 2],
    in_step: [usize; 2],
    /// Input position of each tap, relative to the grid point's.
    taps: &'a [[isize; 2]],
    /// Output height and width, and where in it the grid lies.
    output: [usize; 2],
    out_step: [usize; 2],
    out_offset: [usize; 2],
    /// A row of zeros for taps in the padding.
    zero: *const f32,
    /// Smallest and largest tap position.
    reach: [[isize; 2]; 2],
}

// SAFETY: the pointers come from shared slices that outlive the job, and are only read.
unsafe impl Sync for PixelRows<'_> {}

impl Rows for PixelRows<'_> {
    fn count(&self) -> usize {
        self.images * self.grid[0] * self.grid[1]
    }

    fn fill(&self, first: usize, a: &mut [*const f32], outputs: &mut [usize]) {
        let rows = outputs.len();
        let [h, w] = self.input;
        let (mut col, row) = (first % self.grid[1], first / self.grid[1]);
        let (mut row, mut image) = (row % self.grid[0], row / self.grid[0]);
        for r in 0..rows {
            let y = (row * self.in_step[0]) as isize;
            let x = (col * self.in_step[1]) as isize;
            let start = image as isize * h;
            let inside = y + self.reach[0][0] >= 0
                && y + self.reach[1][0] < h
                && x + self.reach[0][1] >= 0
                && x + self.reach[1][1] < w;
            let at = |y: isize, x: isize| {
                self.data
                    .wrapping_offset(((start + y) * w + x) * self.ld as isize)
            };
            if inside {
                for (tap, &[dy, dx]) in self.taps.iter().enumerate() {
                    a[tap * rows + r] = at(y + dy, x + dx);
                }
            } else {
                for (tap, &[dy, dx]) in self.taps.iter().enumerate() {
                    let (y, x) = (y + dy, x + dx);
                    let inside = (0..h).contains(&y) && (0..w).contains(&x);
                    a[tap * rows + r] = if inside { at(y, x) } else { self.zero };
                }
            }
            let [sy, sx] = self.out_step;
            let [oy, ox] = self.out_offset;
            outputs[r] = (image * self.output[0] + row * sy + oy) * self.output[1] + col * sx + ox;
            col += 1;
            if col == self.grid[1] {
                col = 0;
                row += 1;
                if row == self.grid[0] {
                    row = 0;
                    image += 1;
                }
            }
        }
    }
}

/// A grid of output pixels that share their taps: all of them in a forward pass, one residue class of rows and columns
/// in the gradient of a strided convolution.
#[derive(Debug)]
struct Phase {
    packed: Packed,
    taps: Vec<[isize; 2]>,
    grid: [usize; 2],
    in_step: [usize; 2],
    out_step: [usize; 2],
    out_offset: [usize; 2],
}

/// Weights for [`super::Algorithm::Indirect`] and [`super::Algorithm::KernelRows`].
#[derive(Debug, Default)]
pub(super) struct Indirect {
    phases: Vec<Phase>,
    zero: AlignedBuf,
    dense: AlignedBuf,
    kernel_rows: bool,
}

/// How many neighbouring groups are computed as one dense group, so that narrow groups fill a vector.
pub(super) fn merged_groups(shape: &Conv2d, isa: Isa) -> usize {
    let (lanes, _) = geometry(isa);
    let narrow = (shape.c_out / shape.groups).min(shape.c_in / shape.groups);
    (1..=shape.groups)
        .find(|&m| shape.groups.is_multiple_of(m) && m * narrow >= lanes)
        .unwrap_or(shape.groups)
}

/// The weight of the merged groups, zero between channels of different groups.
fn merge(shape: &Conv2d, merged: usize, weight: &[f32], dense: &mut AlignedBuf) {
    let (per_in, per_out) = (shape.c_in / shape.groups, shape.c_out / shape.groups);
    let row = per_in * shape.taps();
    parallel_chunks_mut(
        dense.resize(merged * weight.len()),
        merged * row,
        |o, out| {
            let place = o / per_out % merged;
            out.fill(0.0);
            out[place * row..(place + 1) * row].copy_from_slice(&weight[o * row..(o + 1) * row]);
        },
    );
}

impl Indirect {
    /// Packs the weight for a forward pass.
    pub fn pack_forward(
        &mut self,
        shape: &Conv2d,
        output: [usize; 2],
        weight: &[f32],
        kernel_rows: bool,
    ) {
        let taps: Vec<usize> = (0..shape.taps()).collect();
        let [pt, pl, ..] = shape.padding;
        let positions: Vec<[isize; 2]> = match kernel_rows {
            true => (0..shape.kernel[0])
                .map(|y| [(y * shape.dilation[0]) as isize, 0])
                .collect(),
            false => taps
                .iter()
                .map(|tap| {
                    let (y, x) = (tap / shape.kernel[1], tap % shape.kernel[1]);
                    [
                        (y * shape.dilation[0]) as isize - pt as isize,
                        (x * shape.dilation[1]) as isize - pl as isize,
                    ]
                })
                .collect(),
        };
        self.kernel_rows = kernel_rows;
        self.zero.resize(shape.c_in).fill(0.0);
        self.set_phase(0, shape, weight, &taps, true);
        let phase = &mut self.phases[0];
        phase.taps = positions;
        (phase.grid, phase.in_step) = (output, shape.stride);
        (phase.out_step, phase.out_offset) = ([1, 1], [0, 0]);
        self.phases.truncate(1);
    }

    /// Packs the weight for the input gradient: a phase per residue of the input position by the stride.
    pub fn pack_gradient(&mut self, shape: &Conv2d, weight: &[f32]) {
        self.kernel_rows = false;
        self.zero.resize(shape.c_out).fill(0.0);
        let [sy, sx] = shape.stride;
        let mut count = 0;
        for ry in 0..sy.min(shape.h) {
            for rx in 0..sx.min(shape.w) {
                let position = |axis: usize, residue: usize, k: usize| {
                    let at = (residue + shape.padding[axis]) as isize
                        - (k * shape.dilation[axis]) as isize;
                    let stride = shape.stride[axis] as isize;
                    (at.rem_euclid(stride) == 0).then_some(at.div_euclid(stride))
                };
                let mut taps = Vec::new();
                let mut positions = Vec::new();
                for ky in 0..shape.kernel[0] {
                    for kx in 0..shape.kernel[1] {
                        if let (Some(y), Some(x)) = (position(0, ry, ky), position(1, rx, kx)) {
                            taps.push(ky * shape.kernel[1] + kx);
                            positions.push([y, x]);
                        }
                    }
                }
                if positions.is_empty() {
                    // No tap reaches these pixels; a product of length 0 writes their zeros.
                    positions.push([0, 0]);
                }
                self.set_phase(count, shape, weight, &taps, false);
                let phase = &mut self.phases[count];
                phase.taps = positions;
                phase.grid = [(shape.h - ry).div_ceil(sy), (shape.w - rx).div_ceil(sx)];
                phase.in_step = [1, 1];
                phase.out_step = [sy, sx];
                phase.out_offset = [ry, rx];
                count += 1;
            }
        }
        self.phases.truncate(count);
    }

    /// Packs the weights of some taps into phase `index`.
    fn set_phase(
        &mut self,
        index: usize,
        shape: &Conv2d,
        weight: &[f32],
        taps: &[usize],
        forward: bool,
    ) {
        if self.phases.len() <= index {
            self.phases.push(Phase {
                packed: Packed::empty(),
                taps: Vec::new(),
                grid: [0; 2],
                in_step: [1; 2],
                out_step: [1; 2],
                out_offset: [0; 2],
            });
        }
        let merged = merged_groups(shape, isa());
        let weight = if merged > 1 {
            if index == 0 {
                merge(shape, merged, weight, &mut self.dense);
            }
            &self.dense[..]
        } else {
            weight
        };
        let groups = shape.groups / merged;
        let (c_in, c_out, t) = (shape.c_in / groups, shape.c_out / groups, shape.taps());
        let source = |group: usize| {
            let data = &weight[group * c_out * c_in * t..(group + 1) * c_out * c_in * t];
            if forward {
                Source {
                    data,
                    taps,
                    tap_stride: 1,
                    channels: c_in,
                    channel_stride: t,
                    col_stride: c_in * t,
                }
            } else {
                Source {
                    data,
                    taps,
                    tap_stride: 1,
                    channels: c_out,
                    channel_stride: c_in * t,
                    col_stride: t,
                }
            }
        };
        self.phases[index]
            .packed
            .repack(if forward { c_out } else { c_in }, groups, source);
    }

    pub fn isa(&self) -> Isa {
        self.phases[0].packed.panels.isa
    }

    /// Runs all phases over `n` images.
    ///
    /// # Safety
    ///
    /// Input, output and post must cover `n` images of these sizes.
    #[allow(clippy::too_many_arguments)]
    pub unsafe fn run(
        &self,
        shape: &Conv2d,
        n: usize,
        x: Matrix<'_>,
        input: [usize; 2],
        output: [usize; 2],
        y: Output,
        post: Post,
        padded: &mut AlignedBuf,
    ) {
        if shape.is_pointwise() {
            // SAFETY: the caller's promise.
            unsafe { self.run_rows(n * input[0] * input[1], x, y, post) };
            return;
        }
        let (data, ld, input) = if self.kernel_rows {
            let (data, size) = padded_input(shape, n, x, output, padded);
            (data, shape.c_in, size)
        } else {
            (x.data.as_ptr(), x.ld, input)
        };
        for phase in &self.phases {
            let axis = |f: fn(isize, isize) -> isize, axis: usize| {
                phase
                    .taps
                    .iter()
                    .map(|tap| tap[axis])
                    .reduce(f)
                    .unwrap_or(0)
            };
            let rows = PixelRows {
                data,
                ld,
                input: input.map(|n| n as isize),
                images: n,
                grid: phase.grid,
                in_step: phase.in_step,
                taps: &phase.taps,
                output,
                out_step: phase.out_step,
                out_offset: phase.out_offset,
                zero: self.zero.as_ptr(),
                reach: [
                    [axis(isize::min, 0), axis(isize::min, 1)],
                    [axis(isize::max, 0), axis(isize::max, 1)],
                ],
            };
            let product = Product {
                rows: &rows,
                taps: phase.taps.len(),
                weights: &phase.packed,
                output: y,
                post: Some(post),
                accumulate: false,
                group_steps: [phase.packed.k / phase.taps.len(), phase.packed.panels.n],
            };
            // SAFETY: taps outside the input point to the zeros, which are as long as all channels; the rest is the caller's
            // promise.
            unsafe { product.run() };
        }
    }
}

impl Indirect {
    /// The packed weights of a forward pass.
    pub fn packed(&self) -> &Packed {
        &self.phases[0].packed
    }

    /// Runs a pointwise convolution over `count` pixels.
    ///
    /// # Safety
    ///
    /// Input, output and post must cover so many.
    pub unsafe fn run_rows(&self, count: usize, x: Matrix<'_>, y: Output, post: Post) {
        let rows = MatrixRows {
            data: x.data.as_ptr(),
            ld: x.ld,
            count,
        };
        // SAFETY: the caller's promise.
        unsafe { self.product(&rows, y, post).run() };
    }

    /// Computes a panel of the output channels of a pointwise convolution, on the calling thread; `y` begins with the first of them.
    ///
    /// # Safety
    ///
    /// As for [`Indirect::run_rows`].
    pub unsafe fn run_panel(
        &self,
        index: usize,
        count: usize,
        x: Matrix<'_>,
        y: Output,
        post: Post,
    ) {
        let rows = MatrixRows {
            data: x.data.as_ptr(),
            ld: x.ld,
            count,
        };
        let y = Output {
            data: y.data.wrapping_sub(self.packed().panels.get(index).col),
            ..y
        };
        // SAFETY: the caller's promise.
        unsafe {
            self.product(&rows, y, post)
                .run_panels_here(index..index + 1)
        };
    }

    /// A pointwise convolution over some pixels.
    fn product<'a>(
        &'a self,
        rows: &'a MatrixRows,
        y: Output,
        post: Post,
    ) -> Product<'a, MatrixRows> {
        let weights = self.packed();
        Product {
            rows,
            taps: 1,
            weights,
            output: y,
            post: Some(post),
            accumulate: false,
            group_steps: [weights.k, weights.panels.n],
        }
    }
}

/// Copies the input with its padding, as far as kernels reach, and returns the copy with its height and width; the input itself where
/// there is no padding.
pub(super) fn padded_input(
    shape: &Conv2d,
    n: usize,
    x: Matrix<'_>,
    output: [usize; 2],
    padded: &mut AlignedBuf,
) -> (*const f32, [usize; 2]) {
    if shape.padding == [0; 4] && x.ld == shape.c_in {
        return (x.data.as_ptr(), [shape.h, shape.w]);
    }
    let size = [0, 1].map(|axis| {
        (output[axis] - 1) * shape.stride[axis]
            + (shape.kernel[axis] - 1) * shape.dilation[axis]
            + 1
    });
    let c = shape.c_in;
    let [pt, pl, ..] = shape.padding;
    let row = size[1] * c;
    let copied = shape.w.min(size[1].saturating_sub(pl));
    parallel_chunks_mut(
        padded.resize(n * size[0] * row),
        size[0].div_ceil(8).max(1) * row,
        |i, out| {
            for (j, out) in out.chunks_exact_mut(row).enumerate() {
                let at = i * size[0].div_ceil(8).max(1) + j;
                let (image, y) = (at / size[0], at % size[0]);
                if y < pt || y - pt >= shape.h || copied == 0 {
                    out.fill(0.0);
                    continue;
                }
                let from = &x.data[(image * shape.h + y - pt) * shape.w * x.ld..];
                out[..pl * c].fill(0.0);
                out[(pl + copied) * c..].fill(0.0);
                let inner = &mut out[pl * c..(pl + copied) * c];
                if x.ld == c {
                    inner.copy_from_slice(&from[..copied * c]);
                } else {
                    for (to, from) in inner.chunks_exact_mut(c).zip(from.chunks(x.ld)) {
                        to.copy_from_slice(&from[..c]);
                    }
                }
            }
        },
    );
    (padded.as_ptr(), size)
}
