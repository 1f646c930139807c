//! Gradients of weight and bias.

use super::depthwise_gradient::weight_gradient;
use super::indirect::{merged_groups, padded_input};
use super::winograd::Size;
use super::{Algorithm, Conv2d, winograd_gradient};
use crate::buffer::{Scratch, with_local};
use crate::columns::{ColumnTerms, Layout, channel_sums};
use crate::error::{KernelError, elements, expect_len};
use crate::inout::In;
use crate::matrix::Matrix;
use crate::outer::{Outer, Side, Span};
use crate::pool::{SharedMut, parallel_chunks_mut, parallel_for};
use crate::simd::{Isa, Kernel, Simd, dispatch, isa};
use crate::tile::geometry;

/// How many neighbouring columns of the output are computed as one pixel with the channels of all of them: a kernel that reads its
/// rows whole only gets that much wider, while more of a vector is filled.
fn joined_columns(shape: &Conv2d, columns: usize, isa: Isa) -> usize {
    let (lanes, _) = geometry(isa);
    // A column more makes the rows longer by a stride, which must be less than a kernel of its own.
    let most = match shape.stride[1] < shape.kernel[1] {
        true => lanes / shape.c_out,
        false => 1,
    };
    (2..=most)
        .rev()
        .find(|&m| columns.is_multiple_of(m))
        .unwrap_or(1)
}

/// The convolution that computes so many joined columns as one: a column's kernel lies a stride further right than the last.
fn joined_shape(shape: &Conv2d, joined: usize) -> Conv2d {
    let ([kh, kw], [sy, sx]) = (shape.kernel, shape.stride);
    Conv2d {
        c_out: joined * shape.c_out,
        kernel: [kh, kw + (joined - 1) * sx],
        stride: [sy, joined * sx],
        ..*shape
    }
}

impl Conv2d {
    /// Writes the weight's gradient to `dw` (`[c_out, c_in / groups, kh, kw]`), given the input `x` and the output's
    /// gradient `dy`.
    ///
    /// # Errors
    ///
    /// If the shape is impossible, a slice is too short or a row stride too small.
    pub fn weight_gradient(
        &self,
        x: Matrix<'_>,
        dy: Matrix<'_>,
        dw: &mut [f32],
        scratch: &mut Scratch,
    ) -> Result<(), KernelError> {
        self.weight_gradient_by(Algorithm::choose_weight_gradient(self), x, dy, dw, scratch)
    }

    /// As [`Conv2d::weight_gradient`], with a given algorithm.
    ///
    /// # Errors
    ///
    /// Also if the algorithm does not serve the shape.
    pub fn weight_gradient_by(
        &self,
        algorithm: Algorithm,
        x: Matrix<'_>,
        dy: Matrix<'_>,
        dw: &mut [f32],
        scratch: &mut Scratch,
    ) -> Result<(), KernelError> {
        let output = self.output_size()?;
        x.check(
            "convolution input",
            elements([self.n, self.h, self.w]),
            self.c_in,
        )?;
        dy.check(
            "output gradient",
            elements([self.n, output[0], output[1]]),
            self.c_out,
        )?;
        expect_len("weight gradient", dw.len(), self.weight_len())?;
        if !algorithm.serves_weight_gradient(self) {
            return Err(KernelError::Shape {
                what: "convolution",
                why: format!(
                    "{} does not serve the weight gradient of {self:?}",
                    algorithm.name()
                ),
            });
        }
        let size = match algorithm {
            Algorithm::Depthwise => {
                // SAFETY: the checks above cover all pixels and channels.
                unsafe { weight_gradient(self, output, x, dy, dw, &mut scratch.a) };
                return Ok(());
            }
            Algorithm::WinogradF2 => Some(Size::F2),
            Algorithm::WinogradF4 => Some(Size::F4),
            Algorithm::Indirect | Algorithm::KernelRows | Algorithm::Narrow => None,
        };
        if let Some(size) = size {
            // SAFETY: as above.
            unsafe { winograd_gradient::weight_gradient(size, self, x, dy, dw, scratch) };
            return Ok(());
        }
        let joined = match self.reads_kernel_rows() && dy.ld == self.c_out {
            true => joined_columns(self, output[1], isa()),
            false => 1,
        };
        if joined > 1 {
            return self.joined_weight_gradient(joined, x, dy, dw, scratch);
        }
        let Scratch { a, b } = scratch;
        let merged = merged_groups(self, isa());
        let groups = self.groups / merged;
        let (c_in, c_out) = (self.c_in / groups, self.c_out / groups);
        let [oh, ow] = output;
        let mut dy_side = Side {
            data: dy.data.as_ptr(),
            channels: c_out,
            strides: [oh * ow * dy.ld, ow * dy.ld, dy.ld],
            group_stride: c_out,
        };
        let mut grid = [self.n, oh, ow];
        let (mut x_side, shifts) = if self.reads_kernel_rows() {
            let (data, [h, w]) = padded_input(self, self.n, x, output, a);
            let row = w * self.c_in;
            let side = Side {
                data,
                channels: self.kernel[1] * self.c_in,
                strides: [h * row, self.stride[0] * row, self.stride[1] * self.c_in],
                group_stride: 0,
            };
            let shift = |y: usize| (y * self.dilation[0] * row) as isize;
            (
                side,
                (0..self.kernel[0])
                    .map(|y| (0..oh, 0..ow, shift(y)))
                    .collect::<Vec<_>>(),
            )
        } else {
            let row = self.w * x.ld;
            let side = Side {
                data: x.data.as_ptr(),
                channels: c_in,
                strides: [self.h * row, self.stride[0] * row, self.stride[1] * x.ld],
                group_stride: c_in,
            };
            let shifts = (0..self.taps()).map(|tap| {
                let (ky, kx) = (tap / self.kernel[1], tap % self.kernel[1]);
                let (rows, y) = self.reach(0, ky, oh);
                let (cols, x_at) = self.reach(1, kx, ow);
                (rows, cols, y * row as isize + x_at * x.ld as isize)
            });
            (side, shifts.collect())
        };
        if self.is_pointwise() {
            // All images are one row of pixels.
            let pixels = grid.iter().product();
            grid = [1, 1, pixels];
            dy_side.strides = [0, 0, dy.ld];
            x_side.strides = [0, 0, x.ld];
        }
        // The side whose channels fill vectors better is the one that is loaded as vectors.
        let (lanes, _) = geometry(isa());
        let padded = |n: usize| n.next_multiple_of(lanes) as f64 / n as f64;
        let x_as_rows = padded(dy_side.channels) * 1.02 < padded(x_side.channels);
        let spans: Vec<Span> = shifts
            .into_iter()
            .map(|(rows, cols, shift)| {
                let (rows, cols) = if self.is_pointwise() {
                    (0..1, 0..grid[2])
                } else {
                    (rows, cols)
                };
                let (a_shift, b_shift) = if x_as_rows { (shift, 0) } else { (0, shift) };
                Span {
                    rows,
                    cols,
                    a_shift,
                    b_shift,
                }
            })
            .collect();
        let (side_a, side_b) = if x_as_rows {
            (x_side, dy_side)
        } else {
            (dy_side, x_side)
        };
        let outer = Outer {
            a: side_a,
            b: side_b,
            groups,
            images: grid[0],
            rows: grid[1],
            cols: grid[2],
            taps: &spans,
        };
        if self.taps() == 1 && merged == 1 && !x_as_rows {
            // SAFETY: the checks above cover all pixels; the spans keep taps inside the input.
            unsafe { outer.run(dw) };
            return Ok(());
        }
        let blocks = b.resize(groups * self.taps() * c_in * c_out);
        // SAFETY: as above.
        unsafe { outer.run(blocks) };
        let kernel_rows = self.reads_kernel_rows();
        // Where the element of tap, input and output channel of a merged group lies.
        let at = |group: usize, tap: usize, i: usize, o: usize| match (x_as_rows, kernel_rows) {
            (true, _) => ((group * self.taps() + tap) * c_in + i) * c_out + o,
            (false, false) => ((group * self.taps() + tap) * c_out + o) * c_in + i,
            (false, true) => {
                let (ky, kx) = (tap / self.kernel[1], tap % self.kernel[1]);
                (ky * c_out + o) * self.kernel[1] * c_in + kx * c_in + i
            }
        };
        let blocks = &blocks[..];
        let (per_in, per_out, taps) = (
            self.c_in / self.groups,
            self.c_out / self.groups,
            self.taps(),
        );
        let filter = per_in * taps;
        if !x_as_rows && !kernel_rows && merged == 1 {
            // The common layout, `[group][tap][c_out][c_in]`: every filter interleaves as many rows as it has taps.
            parallel_chunks_mut(dw, 4 * filter, |chunk, dw| {
                for (f, filter) in dw.chunks_exact_mut(filter).enumerate() {
                    let (group, o) = ((chunk * 4 + f) / c_out, (chunk * 4 + f) % c_out);
                    for tap in 0..taps {
                        let from = &blocks[at(group, tap, 0, o)..][..c_in];
                        let to = filter[tap..].iter_mut().step_by(taps);
                        to.zip(from).for_each(|(to, from)| *to = *from);
                    }
                }
            });
            return Ok(());
        }
        parallel_chunks_mut(dw, 16 * filter, |chunk, dw| {
            // Sixteen filters side by side, since their elements lie side by side in one of the layouts.
            for i in 0..per_in {
                for tap in 0..taps {
                    for (f, filter) in dw.chunks_exact_mut(filter).enumerate() {
                        let o = chunk * 16 + f;
                        let (group, o_in_group) = (o / c_out, o % c_out);
                        let i_in_group = o / per_out % merged * per_in + i;
                        filter[i * taps + tap] = blocks[at(group, tap, i_in_group, o_in_group)];
                    }
                }
            }
        });
        Ok(())
    }

    /// The weight's gradient by way of joined columns: every column's filter has its own, and they are added.
    fn joined_weight_gradient(
        &self,
        joined: usize,
        x: Matrix<'_>,
        dy: Matrix<'_>,
        dw: &mut [f32],
        scratch: &mut Scratch,
    ) -> Result<(), KernelError> {
        let wide = joined_shape(self, joined);
        with_local(|local| {
            let columns = local.a.resize(wide.weight_len());
            let dy = Matrix::new(dy.data, wide.c_out);
            wide.weight_gradient_by(Algorithm::KernelRows, x, dy, columns, scratch)?;
            let [kh, kw] = self.kernel;
            let rows = self.c_out * self.c_in * kh;
            for (row, dw) in dw.chunks_exact_mut(kw).enumerate() {
                dw.fill(0.0);
                for column in 0..joined {
                    let from = &columns[(column * rows + row) * wide.kernel[1]..];
                    let from = &from[column * self.stride[1]..][..kw];
                    dw.iter_mut().zip(from).for_each(|(dw, from)| *dw += from);
                }
            }
            Ok(())
        })
    }

    /// Output positions along an axis for which tap `k` lies inside the input, and the input position of output 0.
    pub(super) fn reach(
        &self,
        axis: usize,
        k: usize,
        output: usize,
    ) -> (std::ops::Range<usize>, isize) {
        let stride = self.stride[axis] as isize;
        let at = (k * self.dilation[axis]) as isize - self.padding[axis] as isize;
        let last = [self.h, self.w][axis] as isize - 1 - at;
        let first = (-at).max(0).unsigned_abs().div_ceil(self.stride[axis]);
        let end = if last < 0 {
            0
        } else {
            (last / stride) as usize + 1
        };
        (first.min(output)..end.min(output), at)
    }
}

/// Sums every column of `x` into `out`: the gradient of a bias. Rows are added in blocks of a fixed size, and the blocks in order.
///
/// # Errors
///
/// If a slice is too short or the row stride too small.
pub fn column_sums(rows: usize, x: Matrix<'_>, out: &mut [f32]) -> Result<(), KernelError> {
    const BLOCK: usize = 512;
    let cols = out.len();
    x.check("matrix to sum", rows, cols)?;
    if x.ld == cols && rows > 0 {
        // Rows side by side: narrow ones are taken together.
        let terms = Plain(In::new(x.data));
        // SAFETY: the check above covers the layout's elements; there are no parameters.
        let sums = unsafe { channel_sums(&Layout::new(rows, cols), cols, &terms) };
        for (out, [sum, _]) in out.iter_mut().zip(sums) {
            *out = sum as f32;
        }
        return Ok(());
    }
    let blocks = rows.div_ceil(BLOCK);
    let mut sums = vec![0.0f32; blocks * cols];
    let shared = SharedMut::new(&mut sums);
    parallel_for(blocks, |block| {
        let rows = block * BLOCK..((block + 1) * BLOCK).min(rows);
        // SAFETY: a part for each block.
        let out = unsafe { shared.slice(block * cols, cols) };
        dispatch(SumRows { x, rows, out });
    });
    out.fill(0.0);
    let mut totals = vec![0.0f64; cols];
    for block in sums.chunks_exact(cols.max(1)) {
        totals
            .iter_mut()
            .zip(block)
            .for_each(|(total, &sum)| *total += f64::from(sum));
    }
    out.iter_mut()
        .zip(totals)
        .for_each(|(out, total)| *out = total as f32);
    Ok(())
}

/// The elements themselves.
struct Plain(In);

impl ColumnTerms for Plain {
    type Params<S: Simd> = ();

    #[inline(always)]
    unsafe fn params<S: Simd, const PARTIAL: bool>(&self, _: S, _: usize, _: usize, _: usize) {}

    #[inline(always)]
    unsafe fn terms<S: Simd, const PARTIAL: bool>(
        &self,
        s: S,
        (): (),
        at: usize,
        n: usize,
    ) -> [S::V; 2] {
        // SAFETY: the caller's promise.
        [unsafe { self.0.get::<S, PARTIAL>(s, at, n) }, s.zero()]
    }
}

struct SumRows<'a> {
    x: Matrix<'a>,
    rows: std::ops::Range<usize>,
    out: &'a mut [f32],
}

impl Kernel for SumRows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let cols = self.out.len();
        for row in self.rows {
            let x = &self.x.data[row * self.x.ld..][..cols];
            for (out, x) in self.out.chunks_mut(S::LANES).zip(x.chunks(S::LANES)) {
                let sum = s.add(s.load_slice(out), s.load_slice(x));
                s.store_slice(out, sum);
            }
        }
    }
}
