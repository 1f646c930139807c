//! Convolution to few channels: a vector holds neighbouring columns of one output channel.
//!
//! Where vectors hold channels, as in the other kernels, six channels leave ten of sixteen lanes empty. Here the input is copied to a
//! plane for each channel, zeros around it; a tile multiplies two rows of a plane by every output channel's weight, and is turned
//! into pixels as it is written.

use std::ops::Range;

use super::{Conv2d, Pass};
use crate::buffer::{AlignedBuf, with_local};
use crate::epilogue::{Activation, ApplySlice, Post};
use crate::matrix::Matrix;
use crate::moments::Chunk;
use crate::pool::parallel_for;
use crate::product::Output;
use crate::simd::{Isa, Kernel, Simd, dispatch_on, isa};
use crate::tile::geometry;

/// Output channels at most.
const MOST: usize = 8;
/// Multiply-accumulates of a chunk of rows: about 20 us of a fast core.
const CHUNK: usize = 1 << 20;
/// Rows of a tile.
const ROWS: usize = 2;
/// Vectors of a whole tile, and floats of the widest vector.
const BLOCK: usize = ROWS * MOST;

/// The channels that a pass writes.
fn channels(shape: &Conv2d, pass: Pass) -> usize {
    match pass {
        Pass::Forward => shape.c_out,
        Pass::InputGradient => shape.c_in,
    }
}

/// Whether there is a kernel for this pass.
pub(super) fn serves(shape: &Conv2d, pass: Pass) -> bool {
    let whole = match pass {
        Pass::Forward => shape.stride[1] == 1,
        Pass::InputGradient => shape.stride == [1, 1],
    };
    whole && shape.groups == 1 && channels(shape, pass) <= MOST
}

/// Whether vectors of columns are clearly fuller than vectors of channels.
pub(super) fn choose(shape: &Conv2d, pass: Pass) -> bool {
    if !serves(shape, pass) || shape.is_pointwise() {
        return false;
    }
    let columns = match pass {
        Pass::Forward => shape.output_size().map_or(0, |output| output[1]),
        Pass::InputGradient => shape.w,
    };
    let (lanes, _) = geometry(isa());
    let filled = |n: usize| n as f64 / n.next_multiple_of(lanes).max(1) as f64;
    filled(columns) > 1.5 * filled(channels(shape, pass))
}

/// Weights for [`super::Algorithm::Narrow`].
#[derive(Debug, Default)]
pub(super) struct Narrow {
    /// `[kh][c_in][kw][c_out]`, with channels of zeros up to one that there is a tile for.
    weights: AlignedBuf,
    isa: Option<Isa>,
    c_in: usize,
    c_out: usize,
    /// Channels of the tile.
    tile: usize,
    kernel: [usize; 2],
    dilation: [usize; 2],
    /// Rows of the input from one output row to the next.
    stride: usize,
    /// Zeros above and left of the input; fewer than none where the first pixels are not seen.
    padding: [isize; 2],
}

impl Narrow {
    /// Packs the weight for a pass. The input gradient is the convolution by the turned kernel.
    pub fn pack(&mut self, shape: &Conv2d, pass: Pass, weight: &[f32]) {
        let forward = pass == Pass::Forward;
        let [kh, kw] = shape.kernel;
        let extent = [0, 1].map(|axis| ((shape.kernel[axis] - 1) * shape.dilation[axis]) as isize);
        let padding = [0, 1].map(|axis| shape.padding[axis] as isize);
        (self.isa, self.kernel, self.dilation) = (Some(isa()), shape.kernel, shape.dilation);
        (self.c_in, self.c_out) = match forward {
            true => (shape.c_in, shape.c_out),
            false => (shape.c_out, shape.c_in),
        };
        self.stride = shape.stride[0];
        self.padding = match forward {
            true => padding,
            false => [extent[0] - padding[0], extent[1] - padding[1]],
        };
        self.tile = match self.c_out {
            5 => 6,
            7 => 8,
            c => c,
        };
        let weights = self.weights.resize(kh * self.c_in * kw * self.tile);
        for (at, to) in weights.chunks_exact_mut(self.tile).enumerate() {
            let (kx, i, ky) = (at % kw, at / kw % self.c_in, at / kw / self.c_in);
            to.fill(0.0);
            for (o, to) in to[..self.c_out].iter_mut().enumerate() {
                *to = match forward {
                    true => weight[((o * self.c_in + i) * kh + ky) * kw + kx],
                    false => weight[((i * self.c_out + o) * kh + kh - 1 - ky) * kw + kw - 1 - kx],
                };
            }
        }
    }

    pub fn isa(&self) -> Isa {
        self.isa.unwrap_or(Isa::Portable)
    }

    /// Runs it over `n` images.
    ///
    /// # Safety
    ///
    /// Input, output and post must cover `n` images of these sizes.
    pub unsafe fn run(
        &self,
        n: usize,
        x: Matrix<'_>,
        input: [usize; 2],
        output: [usize; 2],
        y: Output,
        post: Post,
    ) {
        let per_row = output[1] * self.weights.len();
        let rows = (CHUNK / per_row.max(1)).clamp(1, output[0]);
        let per_image = output[0].div_ceil(rows.next_multiple_of(ROWS));
        parallel_for(n * per_image, |i| {
            let (image, chunk) = (i / per_image, i % per_image);
            let tiles = output[0].div_ceil(ROWS);
            let first = |chunk: usize| (chunk * tiles / per_image * ROWS).min(output[0]);
            let rows = RowsKernel {
                conv: self,
                x: Matrix::new(&x.data[image * input[0] * input[1] * x.ld..], x.ld),
                input,
                output,
                y,
                post: &post,
                image,
                rows: first(chunk)..first(chunk + 1),
            };
            dispatch_on(self.isa(), rows);
        });
    }
}

/// Some rows of an image's output.
struct RowsKernel<'a> {
    conv: &'a Narrow,
    /// The image, and those behind it.
    x: Matrix<'a>,
    input: [usize; 2],
    output: [usize; 2],
    y: Output,
    post: &'a Post,
    image: usize,
    rows: Range<usize>,
}

impl Kernel for RowsKernel<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let conv = self.conv;
        let [_, kw] = conv.kernel;
        let width = self.output[1].next_multiple_of(S::LANES) + (kw - 1) * conv.dilation[1];
        let height =
            (self.rows.len() - 1) * conv.stride + (conv.kernel[0] - 1) * conv.dilation[0] + 1;
        with_local(|local| {
            let planes = local.a.resize(conv.c_in * height * width);
            let block = local.b.resize(2 * BLOCK * BLOCK);
            s.vectorize(Planes {
                rows: &self,
                height,
                width,
                to: planes,
                block,
            });
            let tiles = Tiles {
                rows: &self,
                planes,
                height,
                width,
                block,
            };
            match conv.tile {
                1 => s.vectorize(TilesOf::<1>(tiles)),
                2 => s.vectorize(TilesOf::<2>(tiles)),
                3 => s.vectorize(TilesOf::<3>(tiles)),
                4 => s.vectorize(TilesOf::<4>(tiles)),
                6 => s.vectorize(TilesOf::<6>(tiles)),
                _ => s.vectorize(TilesOf::<MOST>(tiles)),
            }
            // SAFETY: the caller of `Narrow::run` promised that the post is valid.
            if let Some(moments) = unsafe { self.post.moments() } {
                let row = self.image * self.output[0] + self.rows.start;
                let first = row * self.output[1];
                local.outputs.clear();
                (local.outputs).extend(first..first + self.rows.len() * self.output[1]);
                let output = (self.y.data.cast_const(), self.y.ld);
                let mut chunk = Chunk::new(moments, output, &local.outputs, 0..conv.c_out);
                // SAFETY: all channels of these pixels were just written, by this thread.
                unsafe { chunk.sum(s, 0, conv.c_out) };
                chunk.finish();
            }
        });
    }
}

/// Copies the rows that are seen to planes `[c_in][height][width]`, with zeros around the image.
struct Planes<'a> {
    rows: &'a RowsKernel<'a>,
    height: usize,
    width: usize,
    to: &'a mut [f32],
    /// Two squares of vectors.
    block: &'a mut [f32],
}

impl Kernel for Planes<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (rows, conv) = (self.rows, self.rows.conv);
        let ([h, w], ld, plane) = (rows.input, rows.x.ld, self.height * self.width);
        let [top, left] = conv.padding;
        // The columns of the planes that lie in the image, and the image's column in the first of them.
        let before = left.max(0).unsigned_abs().min(self.width);
        let skipped = (-left).max(0).unsigned_abs().min(w);
        let copied = (w - skipped).min(self.width - before);
        self.to.fill(0.0);
        for row in 0..self.height {
            let y = (rows.rows.start * conv.stride + row) as isize - top;
            if !(0..h as isize).contains(&y) || copied == 0 {
                continue;
            }
            let from = &rows.x.data[(y.unsigned_abs() * w + skipped) * ld..];
            let to = &mut self.to[row * self.width + before..];
            if ld == 1 {
                to[..copied].copy_from_slice(&from[..copied]);
                continue;
            }
            // Squares of pixels and channels are turned; behind the last pixels come zeros.
            for col in (0..copied).step_by(S::LANES) {
                let pixels = (copied - col).min(S::LANES);
                let room = (self.width - before - col).min(S::LANES);
                for c in (0..conv.c_in).step_by(S::LANES) {
                    let channels = (conv.c_in - c).min(S::LANES);
                    let (square, turned) = self.block.split_at_mut(S::LANES * S::LANES);
                    for (i, to) in square.chunks_exact_mut(S::LANES).enumerate() {
                        let pixel = match i < pixels {
                            true => s.load_slice(&from[(col + i) * ld + c..][..channels]),
                            false => s.zero(),
                        };
                        s.store_slice(to, pixel);
                    }
                    let turned = &mut turned[..S::LANES * S::LANES];
                    // SAFETY: both are squares of vectors.
                    unsafe {
                        s.transpose(square.as_ptr(), S::LANES, turned.as_mut_ptr(), S::LANES)
                    };
                    let turned = turned.chunks_exact(S::LANES).take(channels);
                    for (i, channel) in turned.enumerate() {
                        let to = &mut to[(c + i) * plane + col..][..room];
                        s.store_slice(to, s.load_slice(channel));
                    }
                }
            }
        }
    }
}

/// All tiles of some rows.
struct Tiles<'a> {
    rows: &'a RowsKernel<'a>,
    /// `[c_in][height][width]`
    planes: &'a [f32],
    height: usize,
    width: usize,
    /// A tile by channels, and by pixels.
    block: &'a mut [f32],
}

struct TilesOf<'a, const C: usize>(Tiles<'a>);

impl<const C: usize> Kernel for TilesOf<'_, C> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut tiles = self.0;
        let rows = tiles.rows;
        for row in rows.rows.clone().step_by(ROWS) {
            for col in (0..rows.output[1]).step_by(S::LANES) {
                if row + 1 < rows.rows.end {
                    tile::<S, C, ROWS>(s, &mut tiles, row, col);
                } else {
                    tile::<S, C, 1>(s, &mut tiles, row, col);
                }
            }
        }
    }
}

/// A vector of columns of every channel in `N` rows.
#[inline(always)]
fn tile<S: Simd, const C: usize, const N: usize>(
    s: S,
    tiles: &mut Tiles<'_>,
    row: usize,
    col: usize,
) {
    let (rows, conv) = (tiles.rows, tiles.rows.conv);
    let ([kh, kw], [dy, dx]) = (conv.kernel, conv.dilation);
    let (plane, per_row) = (tiles.height * tiles.width, conv.stride * tiles.width);
    // Kernel rows that see nothing but zeros are left out.
    let seen = |row: usize, ky: usize| (row * conv.stride + ky * dy) as isize - conv.padding[0];
    let first = (0..kh).find(|&ky| seen(row + N - 1, ky) >= 0).unwrap_or(kh);
    let end = (first..kh)
        .find(|&ky| seen(row, ky) >= rows.input[0] as isize)
        .unwrap_or(kh);
    let start = (row - rows.rows.start) * per_row + col;
    let mut acc = [[s.zero(); N]; C];
    for ky in first..end {
        for i in 0..conv.c_in {
            let x = &tiles.planes[i * plane + start + ky * dy * tiles.width..];
            let x = x[..(N - 1) * per_row + (kw - 1) * dx + S::LANES].as_ptr();
            let weights = &conv.weights[(ky * conv.c_in + i) * kw * C..];
            let weights = weights[..kw * C].as_ptr();
            for kx in 0..kw {
                // SAFETY: the slices above end behind the last vector and the last weight.
                unsafe {
                    let mut v = [s.zero(); N];
                    for r in 0..N {
                        v[r] = s.load(x.add(r * per_row + kx * dx));
                    }
                    for c in 0..C {
                        let w = s.splat(*weights.add(kx * C + c));
                        for r in 0..N {
                            acc[c][r] = s.mul_add(w, v[r], acc[c][r]);
                        }
                    }
                }
            }
        }
    }
    let post = rows.post;
    if post.residual.is_null() {
        for c in 0..C {
            let of = |at: *const f32| match c < conv.c_out && !at.is_null() {
                // SAFETY: the caller of `Narrow::run` promises a number for every channel.
                true => Some(unsafe { *at.add(c) }),
                false => None,
            };
            let (scale, bias) = (of(post.scale).unwrap_or(1.0), of(post.bias).unwrap_or(0.0));
            for r in 0..N {
                let x = s.add(s.mul(acc[c][r], s.splat(scale)), s.splat(bias));
                acc[c][r] = s.min(s.splat(post.hi), s.max(s.splat(post.lo), x));
            }
        }
    }
    let block = tiles.block[..N * C * S::LANES].as_mut_ptr();
    for c in 0..C {
        for r in 0..N {
            // SAFETY: the slice has room for all vectors.
            unsafe { s.store(block.add((r * C + c) * S::LANES), acc[c][r]) };
        }
    }
    s.vectorize(Finish {
        rows,
        block: tiles.block,
        vectors: [C, N],
        row,
        col,
    });
}

/// Writes a tile: `vectors` are its channels and rows.
struct Finish<'a> {
    rows: &'a RowsKernel<'a>,
    block: &'a mut [f32],
    vectors: [usize; 2],
    row: usize,
    col: usize,
}

impl Kernel for Finish<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (rows, post) = (self.rows, self.rows.post);
        let [channels, tile_rows] = self.vectors;
        let count = channels * tile_rows;
        let (vectors, pixels) = self.block.split_at_mut(BLOCK * S::LANES);
        // Without a residual, which comes in pixels, the rest of the epilogue is applied to channels.
        let done = post.residual.is_null();
        if done && post.late != Activation::None {
            s.vectorize(ApplySlice(post.late, &mut vectors[..count * S::LANES]));
        }
        for first in (0..count).step_by(S::LANES) {
            let from = &vectors[first * S::LANES..][..S::LANES * S::LANES];
            let to = &mut pixels[first..][..(S::LANES - 1) * BLOCK + S::LANES];
            // SAFETY: both hold a square of vectors this far apart.
            unsafe { s.transpose(from.as_ptr(), S::LANES, to.as_mut_ptr(), BLOCK) };
        }
        let [height, width] = rows.output;
        let columns = (width - self.col).min(S::LANES);
        let (ld, c_out) = (rows.y.ld, rows.conv.c_out);
        for r in 0..tile_rows {
            let first = (rows.image * height + self.row + r) * width + self.col;
            let pixels = &pixels[r * channels..];
            // SAFETY: the caller of `Narrow::run` promises that output and post cover these pixels and their channels.
            unsafe {
                let y = rows.y.data.add(first * ld);
                if done && ld == c_out && c_out <= S::LANES {
                    // Whole vectors, whose ends the next pixels overwrite.
                    for (i, from) in pixels.chunks(BLOCK).enumerate().take(columns) {
                        let (x, n) = (s.load_slice(from), (columns - i) * ld);
                        if n >= S::LANES {
                            s.store(y.add(i * ld), x);
                        } else {
                            s.store_n(y.add(i * ld), n, x);
                        }
                    }
                    continue;
                }
                for (i, from) in pixels.chunks(BLOCK).enumerate().take(columns) {
                    for c in (0..c_out).step_by(S::LANES) {
                        let n = (c_out - c).min(S::LANES);
                        let mut x = s.load_slice(&from[c..][..n]);
                        if !done {
                            x = post.apply::<S, true>(s, x, first + i, c, n);
                        }
                        s.store_n(y.add(i * ld + c), n, x);
                    }
                }
            }
        }
    }
}
