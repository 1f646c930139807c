//! The fast tiles of depthwise convolutions: kernel width, stride and vectors known to the compiler.
//!
//! What limits them is lines on their way from the second cache level to the first: a row of outputs needs every line of the input
//! as often as there are rows of taps. Two rows of outputs at a time, where registers hold them, need them half as often.

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

/// All columns of one output row or two.
pub(super) struct Strip<'a> {
    /// The input's pixel 0, at the first channel.
    pub x: *const f32,
    pub ld: usize,
    /// Width of the input.
    pub w: usize,
    /// First pixel of the input's row under each row of taps, from the first row of outputs' first to the last one's last; none where it
    /// lies outside the image.
    pub rows: &'a [Option<usize>],
    /// Where the weights of each row of taps lie.
    pub row_weights: &'a [usize],
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
    if const { has_tile(S::ISA, 2) } {
        match taps {
            3 => s.vectorize(StripKernel::<3, 1, 1, 2>(strip)),
            5 => s.vectorize(StripKernel::<5, 1, 1, 2>(strip)),
            7 => s.vectorize(StripKernel::<7, 1, 1, 2>(strip)),
            _ => unreachable!("no pairs of rows for {taps} taps"),
        }
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
                    if first < 0 || last >= strip.w as isize {
                        tile::<S, K, ST, CV, R, true>(s, strip, lane, start, first);
                    } else {
                        tile::<S, K, ST, CV, R, false>(s, strip, lane, start, first);
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

#[inline(always)]
unsafe fn tile<
    S: Simd,
    const K: usize,
    const ST: usize,
    const CV: usize,
    const R: usize,
    const EDGE: bool,
>(
    s: S,
    strip: &Strip<'_>,
    lane: usize,
    start: usize,
    first: isize,
) {
    let mut acc = [[[s.zero(); CV]; COLUMNS]; R];
    let (rows, weights) = (strip.rows, strip.row_weights);
    // The first and the last row of the input belong to one row of outputs of two. Rows in between have a loop of their own, since the
    // accumulators would go to memory where ways meet in it.
    if R == 2
        && let Some(row) = rows[0]
    {
        let at = (lane, row, first);
        // SAFETY: the caller's promise.
        unsafe {
            input_row::<S, K, ST, CV, R, EDGE, 0, 1>(s, strip, at, [weights[0]; R], &mut acc);
        }
    }
    let between = rows[R - 1..]
        .iter()
        .zip(weights[R - 1..].iter().zip(weights));
    for (row, (&own, &other)) in between {
        if let Some(row) = *row {
            let mut both = [own; R];
            both[R - 1] = other;
            let at = (lane, row, first);
            // SAFETY: the caller's promise.
            unsafe { input_row::<S, K, ST, CV, R, EDGE, 0, R>(s, strip, at, both, &mut acc) };
        }
    }
    if R == 2
        && let Some(row) = rows[weights.len()]
    {
        let at = (lane, row, first);
        let last = [weights[weights.len() - 1]; R];
        // SAFETY: the caller's promise.
        unsafe { input_row::<S, K, ST, CV, R, EDGE, 1, R>(s, strip, at, last, &mut acc) };
    }
    // SAFETY: the caller's promise.
    unsafe {
        finish(s, strip, lane, 0, start, &mut acc[0]);
        if R == 2 {
            finish(s, strip, lane, 1, start, &mut acc[R - 1]);
        }
    }
}

/// Adds a row of the input to the rows of outputs from `FROM` to `TO` that see it, each with its own row of taps. `at` is the lane, the row's
/// first pixel and the column of the first tap.
#[inline(always)]
unsafe fn input_row<
    S: Simd,
    const K: usize,
    const ST: usize,
    const CV: usize,
    const R: usize,
    const EDGE: bool,
    const FROM: usize,
    const TO: usize,
>(
    s: S,
    strip: &Strip<'_>,
    at: (usize, usize, isize),
    weights: [usize; R],
    acc: &mut [[[S::V; CV]; COLUMNS]; R],
) {
    let (lane, row, first) = at;
    let x = strip
        .x
        .wrapping_add(lane)
        .wrapping_offset((row as isize + first) * strip.ld as isize);
    let mut k = [[[s.zero(); CV]; K]; R];
    for r in FROM..TO {
        for j in 0..K {
            for v in 0..CV {
                let at = weights[r] + strip.tap_weights[j] + lane + v * S::LANES;
                // SAFETY: weights are whole vectors.
                k[r][j][v] = unsafe { s.load(strip.weights.add(at)) };
            }
        }
    }
    // Written out column by column: a loop this large would not be unrolled, and the accumulators would go to memory.
    macro_rules! columns {
        ($($i:literal)*) => {
            $(if $i < (COLUMNS - 1) * ST + K {
                // SAFETY: the caller's promise.
                unsafe {
                    column::<S, K, ST, CV, R, EDGE, FROM, TO, $i>(s, strip, x, first, &k, acc);
                };
            })*
        };
    }
    columns!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18);
}

/// Adds input column `I` to the outputs that see it.
#[inline(always)]
unsafe fn column<
    S: Simd,
    const K: usize,
    const ST: usize,
    const CV: usize,
    const R: usize,
    const EDGE: bool,
    const FROM: usize,
    const TO: usize,
    const I: usize,
>(
    s: S,
    strip: &Strip<'_>,
    x: *const f32,
    first: isize,
    k: &[[[S::V; CV]; K]; R],
    acc: &mut [[[S::V; CV]; COLUMNS]; R],
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
            for r in FROM..TO {
                for v in 0..CV {
                    acc[r][o][v] = s.mul_add(xv[v], k[r][j][v], acc[r][o][v]);
                }
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
