//! The fast tile of depthwise convolutions: kernel width, stride and vectors known to the compiler.

use crate::epilogue::Post;
use crate::late::Late;
use crate::product::Output;
use crate::simd::{Isa, Kernel, Simd};
use crate::tile::geometry;

/// Columns of a tile. Seven divides the widths 7, 14, 28, 56 and 112.
pub(super) const COLUMNS: usize = 7;
/// Widest kernel of the fast tile.
pub(super) const WIDEST: usize = 7;

/// All columns of one output row, for one or two vectors of channels.
pub(super) struct Strip<'a> {
    /// The input's pixel 0, at the first channel.
    pub x: *const f32,
    pub ld: usize,
    /// Width of the input.
    pub w: usize,
    /// First row of the input under each row of taps that lies in the image, and that row's weights.
    pub tap_rows: &'a [(usize, usize)],
    /// Column of the first tap under output column 0; the others follow one by one.
    pub first_tap: isize,
    /// Where the weights of each tap of a row lie, after the row's.
    pub tap_weights: [usize; WIDEST],
    pub weights: *const f32,
    pub out: Output,
    pub post: &'a Post,
    /// Output pixel of column 0, and pixels from one column to the next.
    pub pixel: usize,
    pub pixel_step: usize,
    pub columns: usize,
    /// First channel.
    pub c: usize,
    /// How many times a tile's vectors of channels are taken before the next columns: neighbouring channels share cache lines.
    pub repeats: usize,
}

/// Runs the strip for `taps` taps a row, a stride and a number of vectors; false where there is no tile for these.
///
/// # Safety
///
/// The strip's rows and channels (all lanes) must lie in the input, the weights and the output.
pub(super) unsafe fn run_strip<S: Simd>(
    s: S,
    taps: usize,
    stride: usize,
    vectors: usize,
    strip: &Strip<'_>,
) -> bool {
    macro_rules! select {
        ($($k:literal / $st:literal),*) => {
            match (taps, stride, vectors) {
                $(($k, $st, 1) if const { has_tile(S::ISA, 1) } => {
                    s.vectorize(StripKernel::<$k, $st, 1>(strip));
                }
                ($k, $st, 2) if const { has_tile(S::ISA, 2) } => {
                    s.vectorize(StripKernel::<$k, $st, 2>(strip));
                })*
                _ => return false,
            }
        };
    }
    select!(
        1 / 1,
        2 / 1,
        3 / 1,
        4 / 1,
        5 / 1,
        7 / 1,
        3 / 2,
        5 / 2,
        7 / 2
    );
    true
}

/// Tiles that would not fit into the registers are not even compiled, nor any for [`Isa::Portable`], whose arrays of scalars take
/// the compiler minutes when they are unrolled this far.
const fn has_tile(isa: Isa, vectors: usize) -> bool {
    let (_, registers) = geometry(isa);
    !matches!(isa, Isa::Portable) && (vectors == 1 || registers >= 32)
}

/// How many vectors of channels a strip takes.
pub(super) const fn strip_vectors(isa: Isa) -> usize {
    if has_tile(isa, 2) { 2 } else { 1 }
}

struct StripKernel<'a, const K: usize, const ST: usize, const CV: usize>(&'a Strip<'a>);

impl<const K: usize, const ST: usize, const CV: usize> Kernel for StripKernel<'_, K, ST, CV> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let strip = self.0;
        let mut col = 0;
        while col < strip.columns {
            // The last tile is moved to the left, so that it is whole; some outputs are computed twice.
            let start = col.min(strip.columns.saturating_sub(COLUMNS));
            let first = (start * ST) as isize + strip.first_tap;
            let last = first + ((COLUMNS - 1) * ST + K - 1) as isize;
            for repeat in 0..strip.repeats {
                let lane = repeat * CV * S::LANES;
                // SAFETY: the caller of `run_strip` promised rows and channels; columns outside the image are left out.
                unsafe {
                    if first < 0 || last >= strip.w as isize {
                        tile::<S, K, ST, CV, true>(s, strip, lane, start, first);
                    } else {
                        tile::<S, K, ST, CV, false>(s, strip, lane, start, first);
                    }
                }
            }
            if strip.post.has_late_pass() {
                s.vectorize(Late {
                    post: strip.post,
                    y: strip.out.data.wrapping_add(strip.c),
                    ld: strip.out.ld,
                    first_col: strip.c,
                    cols: strip.repeats * CV * S::LANES,
                    rows: COLUMNS.min(strip.columns - start),
                    number: |i: usize| strip.pixel + (start + i) * strip.pixel_step,
                });
            }
            col = start + COLUMNS;
        }
    }
}

#[inline(always)]
unsafe fn tile<S: Simd, const K: usize, const ST: usize, const CV: usize, const EDGE: bool>(
    s: S,
    strip: &Strip<'_>,
    lane: usize,
    start: usize,
    first: isize,
) {
    let mut acc = [[s.zero(); CV]; COLUMNS];
    for &(row, weights) in strip.tap_rows {
        let x = strip
            .x
            .wrapping_add(lane)
            .wrapping_offset((row as isize + first) * strip.ld as isize);
        let mut k = [[s.zero(); CV]; K];
        for j in 0..K {
            for v in 0..CV {
                let at = weights + strip.tap_weights[j] + lane + v * S::LANES;
                // SAFETY: weights are whole vectors.
                k[j][v] = unsafe { s.load(strip.weights.add(at)) };
            }
        }
        // Written out column by column: a loop this large would not be unrolled, and the accumulators would go to memory.
        macro_rules! columns {
            ($($i:literal)*) => {
                $(if $i < (COLUMNS - 1) * ST + K {
                    // SAFETY: the caller's promise.
                    unsafe { column::<S, K, ST, CV, EDGE, $i>(s, strip, x, first, &k, &mut acc) };
                })*
            };
        }
        columns!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18);
    }
    // SAFETY: the caller's promise.
    unsafe { finish(s, strip, lane, start, &mut acc) };
}

/// Adds input column `I` to the outputs that see it.
#[inline(always)]
unsafe fn column<
    S: Simd,
    const K: usize,
    const ST: usize,
    const CV: usize,
    const EDGE: bool,
    const I: usize,
>(
    s: S,
    strip: &Strip<'_>,
    x: *const f32,
    first: isize,
    k: &[[S::V; CV]; K],
    acc: &mut [[S::V; CV]; COLUMNS],
) {
    if EDGE && (first + I as isize) as usize >= strip.w {
        return;
    }
    let x = x.wrapping_add(I * strip.ld);
    let mut xv = [s.zero(); CV];
    for v in 0..CV {
        // SAFETY: this column lies in the image.
        xv[v] = unsafe { s.load(x.add(v * S::LANES)) };
    }
    for j in 0..K {
        if I >= j && (I - j).is_multiple_of(ST) && (I - j) / ST < COLUMNS {
            let o = (I - j) / ST;
            for v in 0..CV {
                acc[o][v] = s.mul_add(xv[v], k[j][v], acc[o][v]);
            }
        }
    }
}

/// Epilogue and store.
#[inline(always)]
unsafe fn finish<S: Simd, const CV: usize>(
    s: S,
    strip: &Strip<'_>,
    lane: usize,
    start: usize,
    acc: &mut [[S::V; CV]; COLUMNS],
) {
    let (post, c) = (strip.post, strip.c + lane);
    let columns = COLUMNS.min(strip.columns - start);
    let pixel = strip.pixel + start * strip.pixel_step;
    // SAFETY: the caller's promise.
    unsafe {
        let y = strip.out.data.add(pixel * strip.out.ld + c);
        let y_step = strip.pixel_step * strip.out.ld;
        let residual = post.residual.wrapping_add(pixel * post.ld_residual + c);
        let residual_step = strip.pixel_step * post.ld_residual;
        let (lo, hi) = (s.splat(post.lo), s.splat(post.hi));
        for v in 0..CV {
            let lane = v * S::LANES;
            if !post.scale.is_null() {
                let scale = s.load(post.scale.add(c + lane));
                for i in 0..COLUMNS {
                    acc[i][v] = s.mul(acc[i][v], scale);
                }
            }
            if !post.bias.is_null() {
                let bias = s.load(post.bias.add(c + lane));
                for i in 0..COLUMNS {
                    acc[i][v] = s.add(acc[i][v], bias);
                }
            }
            if !post.residual.is_null() && !post.residual_late {
                for i in 0..COLUMNS {
                    if i < columns {
                        let r = s.load(residual.add(i * residual_step + lane));
                        acc[i][v] = s.add(acc[i][v], r);
                    }
                }
            }
            for i in 0..COLUMNS {
                if i < columns {
                    let x = s.min(hi, s.max(lo, acc[i][v]));
                    s.store(y.add(i * y_step + lane), x);
                }
            }
        }
    }
}
