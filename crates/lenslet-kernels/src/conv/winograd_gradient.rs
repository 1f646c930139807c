//! Winograd's algorithm for the weight gradient of 3 x 3 kernels of stride 1.
//!
//! The forward pass is `A^T [(G g G^T) * (B^T d B)] A` for a tile d of the input. It is linear in the filter g, so its transpose gives
//! the filter's gradient: `G^T [sum over tiles of (A dy A^T) * (B^T d B)] G`. For each of a tile's 36 (16) numbers that is one product
//! of matrices which reduces over the tiles, with 4 (2.25) times fewer multiplications than the direct form.

use super::Conv2d;
use super::transform::{F2, F4, Transform, spread_transform, weight_transform};
use super::winograd::{In, Part, Pass, Planes, Raw, SKEW, Size, serves};
use crate::buffer::{AlignedBuf, Scratch};
use crate::epilogue::Epilogue;
use crate::matrix::Matrix;
use crate::outer::{Outer, Side, Span};
use crate::pool::{parallel_chunks_mut, parallel_for};
use crate::product::Output;
use crate::simd::{Kernel, Simd, dispatch_on, isa};

/// Bytes of transformed input and gradient that are made before they are multiplied: a part of a third cache level.
const BLOCK_BYTES: usize = 6 << 20;
/// Bytes of sums that are made before they are transformed to filters, where one block has all tiles.
const SUMS_BYTES: usize = 12 << 20;
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

/// How many output channels' sums are made at a time. Those of several blocks of tiles are added up, so that all are kept.
fn outputs_at_once(size: Size, blocks: usize, [c_in, c_out]: [usize; 2]) -> usize {
    let of_one = size.planes() * c_in * size_of::<f32>();
    match (SUMS_BYTES / of_one).max(1).next_multiple_of(16) {
        some if blocks == 1 && some < c_out => {
            c_out.div_ceil(c_out.div_ceil(some)).next_multiple_of(16)
        }
        _ => c_out,
    }
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
    let at_once = outputs_at_once(size, tiles.div_ceil(block), [c_in, c_out]);
    let sums = b.resize(numbers * c_in * at_once);
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
        let last = start + count == tiles;
        for outputs in (0..c_out).step_by(at_once) {
            let outputs = outputs..(outputs + at_once).min(c_out);
            let outer = Outer {
                a: Side {
                    data: m.pointer().wrapping_add(outputs.start),
                    channels: outputs.len(),
                    strides: [0, 0, planes.m_row],
                    group_stride: planes.m_plane,
                },
                b: Side {
                    data: v.pointer(),
                    channels: c_in,
                    strides: [0, 0, planes.v_row],
                    group_stride: planes.v_plane,
                },
                groups: numbers,
                images: 1,
                rows: 1,
                cols: count,
                taps: &[Span::full(count)],
            };
            let sums = &mut sums[..numbers * c_in * outputs.len()];
            // SAFETY: both planes hold `count` rows of their channels.
            unsafe { outer.add_to(sums, start > 0) };
            if !last {
                continue;
            }
            let (sums, channels) = (&sums[..], [c_in, outputs.len()]);
            let dw = &mut dw[outputs.start * c_in * 9..outputs.end * c_in * 9];
            const ROWS: usize = 4;
            parallel_chunks_mut(dw, ROWS * c_in * 9, |i, dw| {
                let kernel = Weights::<T> {
                    sums,
                    first: i * ROWS,
                    channels,
                    dw,
                    size: T::default(),
                };
                dispatch_on(isa, kernel);
            });
        }
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

/// Transforms sums `[36 or 16][outputs][c_in]` to filters, from output `first` on.
struct Weights<'a, T> {
    sums: &'a [f32],
    first: usize,
    channels: [usize; 2],
    dw: &'a mut [f32],
    size: T,
}

impl<T: Transform> Kernel for Weights<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let _ = self.size;
        let [c_in, c_out] = self.channels;
        let plane = c_in * c_out;
        assert!(self.sums.len() >= T::IN * T::IN * plane);
        for (o, dw) in self.dw.chunks_exact_mut(9 * c_in).enumerate() {
            let row = (self.first + o) * c_in;
            assert!(row + c_in <= plane);
            for (c, dw) in (0..c_in).step_by(S::LANES).zip(dw.chunks_mut(9 * S::LANES)) {
                let n = (c_in - c).min(S::LANES);
                let mut taps = [0.0f32; 9 * 16];
                // SAFETY: `n` floats of every plane by the assertions; nine vectors of at most 16 floats.
                unsafe {
                    let from = self.sums.as_ptr().add(row + c);
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
