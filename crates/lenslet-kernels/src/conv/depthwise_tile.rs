//! The tiles of depthwise convolutions: fast ones, whose kernel width, stride and vectors the compiler knows, and one for any taps.
//!
//! A map that leaves the first cache level comes back from the second one for every row of outputs, a row of the input as often as there
//! are rows of taps. Two rows of outputs at a time, where registers hold them, ask for it a little more than half as often.

use crate::epilogue::Post;
use crate::late::Late;
use crate::product::Output;
use crate::simd::{Isa, Kernel, Simd};
use crate::tile::geometry;

/// Columns of a tile. Seven divides the widths 7, 14, 28, 56 and 112.
pub(super) const COLUMNS: usize = 7;
/// Widest kernel of the fast tile.
pub(super) const WIDEST: usize = 7;

/// Vectors after which the second pass of an epilogue runs over them: its start costs as much as some of them.
const LATE: usize = 96;
/// Most pixels that it takes at once.
const ROWS: usize = 8 * COLUMNS;

/// Rows of the input under the rows of taps of one output row or two, as far as they lie in the image: the first pixel, and where the
/// weights lie of the row of taps above it.
#[derive(Default)]
pub(super) struct Seen {
    /// Of two output rows, what the first one alone sees.
    pub above: Option<(usize, usize)>,
    /// What all see, with the weights of each.
    rows: [(usize, [usize; 2]); WIDEST],
    count: usize,
    /// Of two output rows, what the second one alone sees.
    pub below: Option<(usize, usize)>,
}

impl Seen {
    /// A row that all see.
    pub fn push(&mut self, row: usize, weights: [usize; 2]) {
        self.rows[self.count] = (row, weights);
        self.count += 1;
    }

    /// The rows that all see.
    pub fn rows(&self) -> &[(usize, [usize; 2])] {
        &self.rows[..self.count]
    }
}

/// All columns of one output row or two.
pub(super) struct Strip<'a> {
    /// The input's pixel 0, at the first channel.
    pub x: *const f32,
    pub ld: usize,
    /// Width of the input.
    pub w: usize,
    /// See [`Seen`].
    pub above: Option<(usize, usize)>,
    pub rows: &'a [(usize, [usize; 2])],
    pub below: Option<(usize, usize)>,
    /// Column of the first tap under output column 0; the others follow one by one.
    pub first_tap: isize,
    /// Where the weights of each tap of a row lie, after the row's.
    pub tap_weights: [usize; WIDEST],
    pub weights: *const f32,
    pub out: Output,
    pub post: &'a Post,
    /// Output pixel of column 0, and pixels from one column to the next and from the first row to the second.
    pub pixel: usize,
    pub pixel_step: usize,
    pub row_step: usize,
    pub columns: usize,
    /// First channel.
    pub c: usize,
    /// How many times a tile's vectors of channels are taken before the next columns: neighbouring channels share cache lines.
    pub repeats: usize,
}

/// Runs the strip's row for `taps` taps a row, a stride and a number of vectors; false where there is no tile for these.
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
                    s.vectorize(StripKernel::<$k, $st, 1, 1>(strip));
                }
                ($k, $st, 2) if const { has_tile(S::ISA, 2) } => {
                    s.vectorize(StripKernel::<$k, $st, 2, 1>(strip));
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

/// Whether there are tiles of two rows of outputs for kernels of `taps` x `taps`.
pub(super) const fn has_pairs(isa: Isa, taps: usize) -> bool {
    has_tile(isa, 2) && matches!(taps, 3 | 5 | 7)
}

/// Runs two rows of outputs of stride 1, for a kernel that [`has_pairs`], a vector of channels at a time.
///
/// # Safety
///
/// As for [`run_strip`].
pub(super) unsafe fn run_pair<S: Simd>(s: S, taps: usize, strip: &Strip<'_>) {
    match taps {
        3 if const { has_pairs(S::ISA, 3) } => s.vectorize(StripKernel::<3, 1, 1, 2>(strip)),
        5 if const { has_pairs(S::ISA, 5) } => s.vectorize(StripKernel::<5, 1, 1, 2>(strip)),
        7 if const { has_pairs(S::ISA, 7) } => s.vectorize(StripKernel::<7, 1, 1, 2>(strip)),
        _ => unreachable!("no pairs of rows for {taps} taps"),
    }
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

/// `R` rows of outputs, `CV` vectors of channels at a time.
struct StripKernel<'a, const K: usize, const ST: usize, const CV: usize, const R: usize>(
    &'a Strip<'a>,
);

impl<const K: usize, const ST: usize, const CV: usize, const R: usize> Kernel
    for StripKernel<'_, K, ST, CV, R>
{
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let strip = self.0;
        let late = strip.post.has_late_pass();
        let (mut col, mut from) = (0, 0);
        while col < strip.columns {
            // The last tile is moved to the left, so that it is whole; some outputs are computed twice.
            let start = col.min(strip.columns.saturating_sub(COLUMNS));
            let first = (start * ST) as isize + strip.first_tap;
            let last = first + ((COLUMNS - 1) * ST + K - 1) as isize;
            for repeat in 0..strip.repeats {
                let lane = repeat * CV * S::LANES;
                // SAFETY: the caller of `run_strip` promised rows and channels; columns outside the image are left out.
                unsafe {
                    match (R, first < 0 || last >= strip.w as isize) {
                        (1, true) => tile::<S, K, ST, CV, true>(s, strip, lane, start, first),
                        (1, false) => tile::<S, K, ST, CV, false>(s, strip, lane, start, first),
                        (_, true) => pair::<S, K, true>(s, strip, lane, start, first),
                        (_, false) => pair::<S, K, false>(s, strip, lane, start, first),
                    }
                }
            }
            col = start + COLUMNS;
            // What is computed twice needs the second pass again.
            from = from.min(start);
            let done = col.min(strip.columns);
            let vectors = R * (done - from) * strip.repeats * CV;
            if late
                && (done == strip.columns || vectors >= LATE || R * (done - from + COLUMNS) > ROWS)
            {
                let mut rows = [0; ROWS];
                let columns = done - from;
                for row in 0..R {
                    let first = strip.pixel + row * strip.row_step + from * strip.pixel_step;
                    for i in 0..columns {
                        rows[row * columns + i] = first + i * strip.pixel_step;
                    }
                }
                s.vectorize(Late {
                    post: strip.post,
                    y: strip.out.data.wrapping_add(strip.c),
                    ld: strip.out.ld,
                    first_col: strip.c,
                    cols: strip.repeats * CV * S::LANES,
                    rows: &rows[..R * columns],
                });
                from = done;
            }
        }
    }
}

/// A row of the input at the column of the first tap.
#[inline(always)]
fn row_at(strip: &Strip<'_>, lane: usize, row: usize, first: isize) -> *const f32 {
    (strip.x.wrapping_add(lane)).wrapping_offset((row as isize + first) * strip.ld as isize)
}

/// The weights of a row of taps.
///
/// # Safety
///
/// They must be there.
#[inline(always)]
unsafe fn taps<S: Simd, const K: usize, const CV: usize>(
    s: S,
    strip: &Strip<'_>,
    lane: usize,
    weights: usize,
) -> [[S::V; CV]; K] {
    let mut k = [[s.zero(); CV]; K];
    for j in 0..K {
        for v in 0..CV {
            let at = weights + strip.tap_weights[j] + lane + v * S::LANES;
            // SAFETY: weights are whole vectors.
            k[j][v] = unsafe { s.load(strip.weights.add(at)) };
        }
    }
    k
}

/// Written out column by column: a loop this large would not be unrolled, and the accumulators would go to memory.
macro_rules! columns {
    ($count:expr, $i:ident => $call:expr) => {
        columns!(@ $count, $i => $call; 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18)
    };
    (@ $count:expr, $i:ident => $call:expr; $($at:literal)*) => {
        $(if $at < $count {
            const $i: usize = $at;
            $call
        })*
    };
}

/// One row of outputs.
#[inline(always)]
unsafe fn tile<S: Simd, const K: usize, const ST: usize, const CV: usize, const EDGE: bool>(
    s: S,
    strip: &Strip<'_>,
    lane: usize,
    start: usize,
    first: isize,
) {
    let mut acc = [[s.zero(); CV]; COLUMNS];
    for &(row, [weights, _]) in strip.rows {
        let x = row_at(strip, lane, row, first);
        // SAFETY: the caller's promise.
        unsafe {
            let k = taps::<S, K, CV>(s, strip, lane, weights);
            columns!((COLUMNS - 1) * ST + K, I => {
                column::<S, K, ST, CV, EDGE, I>(s, strip, x, first, &k, &mut acc);
            });
        }
    }
    // SAFETY: the caller's promise.
    unsafe { finish(s, strip, lane, 0, start, &mut acc) };
}

/// Two rows of outputs of stride 1.
#[inline(always)]
unsafe fn pair<S: Simd, const K: usize, const EDGE: bool>(
    s: S,
    strip: &Strip<'_>,
    lane: usize,
    start: usize,
    first: isize,
) {
    let (mut upper, mut lower) = ([[s.zero()]; COLUMNS], [[s.zero()]; COLUMNS]);
    // SAFETY: the caller's promise.
    unsafe {
        if let Some((row, weights)) = strip.above {
            let x = row_at(strip, lane, row, first);
            let k = taps::<S, K, 1>(s, strip, lane, weights);
            columns!(COLUMNS - 1 + K, I => {
                column::<S, K, 1, 1, EDGE, I>(s, strip, x, first, &k, &mut upper);
            });
        }
        for &(row, weights) in strip.rows {
            let x = row_at(strip, lane, row, first);
            let a = taps::<S, K, 1>(s, strip, lane, weights[0]);
            let b = taps::<S, K, 1>(s, strip, lane, weights[1]);
            columns!(COLUMNS - 1 + K, I => {
                column::<S, K, 1, 1, EDGE, I>(s, strip, x, first, &a, &mut upper);
                column::<S, K, 1, 1, EDGE, I>(s, strip, x, first, &b, &mut lower);
            });
        }
        if let Some((row, weights)) = strip.below {
            let x = row_at(strip, lane, row, first);
            let k = taps::<S, K, 1>(s, strip, lane, weights);
            columns!(COLUMNS - 1 + K, I => {
                column::<S, K, 1, 1, EDGE, I>(s, strip, x, first, &k, &mut lower);
            });
        }
        finish(s, strip, lane, 0, start, &mut upper);
        finish(s, strip, lane, 1, start, &mut lower);
    }
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

/// Epilogue and store of one row of outputs.
#[inline(always)]
unsafe fn finish<S: Simd, const CV: usize>(
    s: S,
    strip: &Strip<'_>,
    lane: usize,
    row: usize,
    start: usize,
    acc: &mut [[S::V; CV]; COLUMNS],
) {
    let (post, c) = (strip.post, strip.c + lane);
    let columns = COLUMNS.min(strip.columns - start);
    let pixel = strip.pixel + row * strip.row_step + start * strip.pixel_step;
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

/// Seven output columns of one row, for any taps.
pub(super) struct ColumnTile<'a> {
    /// The input's first pixel, at the tile's first channel.
    pub x: *const f32,
    pub ld: usize,
    pub w: usize,
    /// Input column of the first column's tap 0.
    pub x0: isize,
    pub step: usize,
    pub weights: *const f32,
    pub padded: usize,
    pub kernel_width: usize,
    pub out: Output,
    pub post: &'a Post,
    pub pixel: usize,
    pub pixel_step: usize,
    pub columns: usize,
    pub c: usize,
    /// Lanes that count in a partial vector.
    pub n: usize,
}

impl ColumnTile<'_> {
    /// # Safety
    ///
    /// `rows` are the first pixels of rows of the input, and the kernel's rows above them. Every tap column must lie in the image, unless
    /// `EDGE`; all slices must cover this tile's channels.
    #[inline(always)]
    pub unsafe fn run<S: Simd, const CV: usize, const PARTIAL: bool, const EDGE: bool>(
        &self,
        s: S,
        rows: impl Iterator<Item = (usize, usize)>,
        tap_cols: &[(isize, usize)],
    ) {
        let mut acc = [[s.zero(); CV]; COLUMNS];
        let step = self.step * self.ld;
        // SAFETY: the caller's promise.
        unsafe {
            for (pixel, ky) in rows {
                let row = self.x.add(pixel * self.ld);
                let weights = self.weights.add(ky * self.kernel_width * self.padded);
                for &(dx, kx) in tap_cols {
                    let mut k = [s.zero(); CV];
                    for v in 0..CV {
                        k[v] = s.load(weights.add(kx * self.padded + v * S::LANES));
                    }
                    let first = self.x0 + dx;
                    let from = row.wrapping_offset(first * self.ld as isize);
                    for i in 0..COLUMNS {
                        if EDGE && (first as usize).wrapping_add(i * self.step) >= self.w {
                            continue;
                        }
                        for v in 0..CV {
                            let from = from.wrapping_add(i * step + v * S::LANES);
                            let x = if PARTIAL {
                                s.load_n(from, self.n)
                            } else {
                                s.load(from)
                            };
                            acc[i][v] = s.mul_add(x, k[v], acc[i][v]);
                        }
                    }
                }
            }
            let out = acc;
            for (i, out) in out.iter().enumerate().take(self.columns) {
                let pixel = self.pixel + i * self.pixel_step;
                for (v, &x) in out.iter().enumerate() {
                    let c = self.c + v * S::LANES;
                    let x = self.post.apply::<S, PARTIAL>(s, x, pixel, c, self.n);
                    let to = self.out.data.add(pixel * self.out.ld + c);
                    if PARTIAL {
                        s.store_n(to, self.n, x);
                    } else {
                        s.store(to, x);
                    }
                }
            }
        }
    }
}
