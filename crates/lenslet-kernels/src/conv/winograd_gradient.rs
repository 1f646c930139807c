//! Winograd's algorithm for the weight gradient of 3 x 3 kernels of stride 1.
//!
//! The forward pass is `A^T [(G g G^T) * (B^T d B)] A` for a tile d of the input. It is linear in the filter g, so its transpose gives
//! the filter's gradient: `G^T [sum over tiles of (A dy A^T) * (B^T d B)] G`. For each of a tile's 36 (16) numbers that is one product
//! of matrices which reduces over the tiles, with 4 (2.25) times fewer multiplications than the direct form.

use std::ops::Range;

use super::Conv2d;
use super::transform::{F2, F4, Transform, spread_transform, weight_transform};
use super::winograd::{In, Part, Pass, Planes, Raw, SKEW, Size, serves};
use crate::buffer::{AlignedBuf, Scratch, with_local};
use crate::epilogue::Epilogue;
use crate::matrix::Matrix;
use crate::outer::{Outer, Side, Span};
use crate::pool::{SharedMut, parallel_for};
use crate::product::Output;
use crate::simd::{Kernel, Simd, dispatch_on, isa};

/// Bytes of transformed input and gradient that are made before they are multiplied: a part of a third cache level.
const BLOCK_BYTES: usize = 6 << 20;
/// Filters, of so many output and input channels, whose sums a thread makes before it transforms them, where one block has all tiles: 900 KB
/// at most. Fewer would read the tiles more often.
const FILTERS: [usize; 2] = [96, 64];
/// Pieces of filters at least, where there are channels enough.
const PIECES: usize = 8;
/// Tiles that a thread transforms at a time.
const PIECE: usize = 4;

/// Writes the gradient to `dw` (`[c_out, c_in, 3, 3]`).
///
/// # Safety
///
/// `x` and `dy` must cover the shape's pixels and channels.
pub(super) unsafe fn weight_gradient(
    size: Size,
    shape: &Conv2d,
    x: Matrix<'_>,
    dy: Matrix<'_>,
    dw: &mut [f32],
    scratch: &mut Scratch,
) {
    // SAFETY: the caller's promise.
    unsafe {
        match size {
            Size::F2 => run::<F2>(size, shape, x, dy, dw, scratch),
            Size::F4 => run::<F4>(size, shape, x, dy, dw, scratch),
        }
    }
}

/// How many tiles are transformed before they are multiplied: as many as stay in the cache, and so many that the sums,
/// which are read and written for every block, do not cost more than the tiles.
fn block(size: Size, tiles: usize, [c_in, c_out]: [usize; 2]) -> usize {
    let per_tile = size.planes() * (c_in + c_out + 2 * SKEW) * size_of::<f32>();
    let least = c_in * c_out / (c_in + c_out);
    let block = (BLOCK_BYTES / per_tile).max(least).max(1);
    // Blocks of equal size.
    tiles.div_ceil(tiles.div_ceil(block).max(1)).max(1)
}

/// How many output and input channels' filters a thread makes at a time.
fn filters_at_once([c_in, c_out]: [usize; 2]) -> [usize; 2] {
    let even = |channels: usize, most: usize, unit: usize| {
        channels
            .div_ceil(channels.div_ceil(most))
            .next_multiple_of(unit)
    };
    let inputs = even(c_in, FILTERS[1], 16);
    let pieces = PIECES.div_ceil(c_in.div_ceil(inputs));
    let outputs = even(c_out, FILTERS[0].min(c_out.div_ceil(pieces)).max(6), 6);
    [outputs, inputs]
}

unsafe fn run<T: Transform>(
    size: Size,
    shape: &Conv2d,
    x: Matrix<'_>,
    dy: Matrix<'_>,
    dw: &mut [f32],
    Scratch { a, b }: &mut Scratch,
) {
    let isa = isa();
    let Conv2d { c_in, c_out, .. } = *shape;
    let output = shape.output_size().expect("checked by the caller");
    let grid = output.map(|n| n.div_ceil(T::OUT));
    let tiles = shape.n * grid[0] * grid[1];
    if tiles == 0 {
        return dw.fill(0.0);
    }
    let numbers = T::IN * T::IN;
    let block = block(size, tiles, [c_in, c_out]);
    let zero = AlignedBuf::zeroed(c_in.max(c_out));
    let dw = SharedMut::new(dw);
    let rows = [c_in, c_out].map(|c| c.next_multiple_of(16) + SKEW);
    let planes = Planes {
        tiles: block,
        v_row: rows[0],
        v_plane: block * rows[0] + SKEW,
        m_row: rows[1],
        m_plane: block * rows[1] + SKEW,
    };
    let (v, m) = a
        .resize(numbers * (planes.v_plane + planes.m_plane))
        .split_at_mut(numbers * planes.v_plane);
    let (v, m) = (Raw(v.as_mut_ptr()), Raw(m.as_mut_ptr()));
    let pass = Pass {
        n: shape.n,
        x,
        input: [shape.h, shape.w],
        output,
        padding: [shape.padding[0], shape.padding[1]],
        c_in,
        c_out,
        // Nothing is written by the input's transform.
        y: Output {
            data: std::ptr::null_mut(),
            ld: 0,
        },
        post: Epilogue::NONE.raw(),
    };
    for start in (0..tiles).step_by(block) {
        let count = block.min(tiles - start);
        let pieces = count.div_ceil(PIECE);
        parallel_for(pieces, |i| {
            let part = Part {
                pass: &pass,
                grid,
                tiles: start + i * count / pieces..start + (i + 1) * count / pieces,
                first: start,
                planes,
                zero: &zero,
            };
            dispatch_on(
                isa,
                In::<T> {
                    part: part.clone(),
                    v: v.pointer(),
                    size: T::default(),
                },
            );
            dispatch_on(
                isa,
                Spread::<T> {
                    part,
                    dy,
                    m: m.pointer(),
                    size: T::default(),
                },
            );
        });
        let taps = [Span::full(count)];
        // Some channels of both sides.
        let outer = |outputs: &Range<usize>, inputs: &Range<usize>| Outer {
            a: Side {
                data: m.pointer().wrapping_add(outputs.start),
                channels: outputs.len(),
                strides: [0, 0, planes.m_row],
                group_stride: planes.m_plane,
            },
            b: Side {
                data: v.pointer().wrapping_add(inputs.start),
                channels: inputs.len(),
                strides: [0, 0, planes.v_row],
                group_stride: planes.v_plane,
            },
            groups: numbers,
            images: 1,
            rows: 1,
            cols: count,
            taps: &taps,
        };
        if block < tiles {
            let sums = b.resize(numbers * c_in * c_out);
            // SAFETY: both planes hold `count` rows of their channels.
            unsafe { outer(&(0..c_out), &(0..c_in)).add_to(sums, start > 0) };
            if start + count < tiles {
                continue;
            }
            let sums = &*sums;
            const ROWS: usize = 4;
            parallel_for(c_out.div_ceil(ROWS), |i| {
                let outputs = i * ROWS..((i + 1) * ROWS).min(c_out);
                let kernel = Weights::<T> {
                    sums: &sums[outputs.start * c_in..],
                    plane: c_in * c_out,
                    outputs,
                    inputs: 0..c_in,
                    dw: &dw,
                    c_in,
                    size: T::default(),
                };
                dispatch_on(isa, kernel);
            });
            continue;
        }
        let [some_outputs, some_inputs] = filters_at_once([c_in, c_out]);
        let pieces = [c_out.div_ceil(some_outputs), c_in.div_ceil(some_inputs)];
        parallel_for(pieces[0] * pieces[1], |i| {
            let part = |i: usize, some: usize, all: usize| i * some..((i + 1) * some).min(all);
            let outputs = part(i / pieces[1], some_outputs, c_out);
            let inputs = part(i % pieces[1], some_inputs, c_in);
            with_local(|local| {
                let plane = outputs.len() * inputs.len();
                let sums = local.b.resize(numbers * plane);
                // SAFETY: as above.
                unsafe { outer(&outputs, &inputs).run_here(sums) };
                let kernel = Weights::<T> {
                    sums,
                    plane,
                    outputs,
                    inputs,
                    dw: &dw,
                    c_in,
                    size: T::default(),
                };
                dispatch_on(isa, kernel);
            });
        });
    }
}

/// Transforms tiles of the output's gradient.
struct Spread<'a, T> {
    part: Part<'a>,
    dy: Matrix<'a>,
    m: *mut f32,
    size: T,
}

impl<T: Transform> Kernel for Spread<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let _ = self.size;
        let Part {
            pass, ref planes, ..
        } = self.part;
        let [h, w] = pass.output;
        let data = self.dy.data.as_ptr();
        for tile in self.part.tiles.clone() {
            let [image, y, x] = self.part.place(tile, T::OUT);
            let mut pixels = [[self.part.zero.as_ptr(); 4]; 4];
            for (i, row) in pixels.iter_mut().enumerate().take((h - y).min(T::OUT)) {
                for (j, pixel) in row.iter_mut().enumerate().take((w - x).min(T::OUT)) {
                    *pixel = data.wrapping_add(((image * h + y + i) * w + x + j) * self.dy.ld);
                }
            }
            let m = self.m.wrapping_add((tile - self.part.first) * planes.m_row);
            let mut c = 0;
            // SAFETY: pixels inside the image are readable for `c_out` floats (the caller of `weight_gradient` promised), the zeros
            // too; rows of `m` hold whole vectors of them.
            unsafe {
                while c + S::LANES <= pass.c_out {
                    spread_transform::<S, T, false>(s, &pixels, c, S::LANES, m, planes.m_plane);
                    c += S::LANES;
                }
                if c < pass.c_out {
                    let n = pass.c_out - c;
                    spread_transform::<S, T, true>(s, &pixels, c, n, m, planes.m_plane);
                }
            }
        }
    }
}

/// Transforms sums, `plane` floats from one number of a tile to the next and `[outputs][inputs]` within, to filters.
struct Weights<'a, T> {
    sums: &'a [f32],
    plane: usize,
    outputs: Range<usize>,
    inputs: Range<usize>,
    /// All filters; these are nobody else's.
    dw: &'a SharedMut<'a, f32>,
    c_in: usize,
    size: T,
}

impl<T: Transform> Kernel for Weights<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let _ = self.size;
        let (inputs, plane) = (self.inputs.len(), self.plane);
        let last = (T::IN * T::IN - 1) * plane;
        assert!(self.sums.len() >= last + self.outputs.len() * inputs);
        for (o, output) in self.outputs.clone().enumerate() {
            let first = (output * self.c_in + self.inputs.start) * 9;
            // SAFETY: these filters are this thread's own.
            let dw = unsafe { self.dw.slice(first, 9 * inputs) };
            for (c, dw) in (0..inputs)
                .step_by(S::LANES)
                .zip(dw.chunks_mut(9 * S::LANES))
            {
                let n = (inputs - c).min(S::LANES);
                let mut taps = [0.0f32; 9 * 16];
                // SAFETY: `n` floats of every plane by the assertion; nine vectors of at most 16 floats.
                unsafe {
                    let from = self.sums.as_ptr().add(o * inputs + c);
                    weight_transform::<S, T>(s, from, plane, n, taps.as_mut_ptr());
                }
                for (lane, filter) in dw.chunks_exact_mut(9).enumerate() {
                    for (tap, weight) in filter.iter_mut().enumerate() {
                        *weight = taps[tap * S::LANES + lane];
                    }
                }
            }
        }
    }
}

/// The better transform, if one beats the direct form: rough times as functions of the shape, in multiply-accumulates.
pub(super) fn choose(shape: &Conv2d, output: [usize; 2]) -> Option<Size> {
    let Conv2d { c_in, c_out, .. } = *shape;
    if !serves(shape) || c_in < 16 || c_out < 16 {
        return None;
    }
    let cost = |size: Size| {
        let tiles = shape.n * output[0].div_ceil(size.out()) * output[1].div_ceil(size.out());
        // Sums are written, read and transformed; where they leave the caches, memory limits that.
        let numbers = size.planes() * c_in * c_out;
        let sum = if numbers * size_of::<f32>() > 12 << 20 {
            40
        } else {
            16
        };
        tiles * size.planes() * (c_in * c_out + 24 * (c_in + c_out)) + numbers * sum
    };
    let direct = shape.n * output[0] * output[1] * 9 * c_in * c_out + 9 * c_in * c_out * 16;
    let best = if cost(Size::F4) <= cost(Size::F2) {
        Size::F4
    } else {
        Size::F2
    };
    (cost(best) < direct).then_some(best)
}
