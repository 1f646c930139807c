//! The register tile: a few rows times a panel of columns, reduced over taps and channels.
//!
//! One kernel serves linear layers, every convolution, Winograd's products and attention. Its rows are pointers (one per
//! tap and row), so that a convolution reads its input in place; its columns are one panel of packed weights, or of a
//! row-major matrix. On AVX-512 the tile is 6 rows by 4 vectors or 8 by 3: more than 8 rows collide in the first cache level where
//! the row stride is a power of two.

use crate::epilogue::{Post, load};
use crate::late::Late;
use crate::simd::{Isa, Kernel, Simd};

/// Vectors of columns in the widest panel.
pub(crate) const fn max_vectors(registers: usize) -> usize {
    if registers >= 32 { 4 } else { 2 }
}

/// Rows of the tallest tile for a panel of so many vectors.
pub(crate) const fn max_rows(registers: usize, vectors: usize) -> usize {
    match (registers >= 32, vectors) {
        (true, 4) => 6,
        (true, _) => 8,
        (false, 2) => 6,
        (false, _) => 8,
    }
}

/// Floats in a vector and vector registers of an instruction set.
pub(crate) const fn geometry(isa: Isa) -> (usize, usize) {
    match isa {
        Isa::Portable => (4, 16),
        Isa::Neon => (4, 32),
        Isa::Avx2 => (8, 16),
        Isa::Avx512 => (16, 32),
    }
}

/// One call of the kernel: tiles of equal height, one below the other.
pub(crate) struct Tile<'a> {
    /// How many.
    pub count: usize,
    /// Row pointers of the first tile, `[taps][rows of the tile]`.
    pub rows: *const *const f32,
    /// Pointers from one tile's to the next one's.
    pub rows_step: usize,
    pub taps: usize,
    /// Floats to reduce over, per tap.
    pub k: usize,
    /// Added to every row pointer.
    pub offset: usize,
    /// Columns: `[taps * k]` rows of the panel's vectors, `ldb` floats apart.
    pub b: *const f32,
    pub ldb: usize,
    /// Start of the output's rows, at the panel's first column.
    pub c: *mut f32,
    pub ldc: usize,
    /// Row number in the output of each row of the tiles.
    pub outputs: *const usize,
    /// Columns to write; the last vector may be partial.
    pub cols: usize,
    /// Add to the output instead of overwriting it.
    pub accumulate: bool,
    /// Scale, bias, residual and clamp, with pointers moved to the panel's first column; not applied where `None`.
    pub post: Option<&'a Post>,
    /// The panel's first column, for `post`.
    pub first_col: usize,
    /// What is read next, to be asked for meanwhile.
    pub ahead: Ahead,
}

/// Floats to ask for ahead of their use.
#[derive(Clone, Copy)]
pub(crate) struct Ahead {
    at: *const f32,
    left: usize,
    /// Floats from one request to the next, up to a line.
    pace: usize,
}

/// Tiles after which the second pass of an epilogue runs over all of them: its start costs as much as some vectors; many tiles would
/// leave the first cache level.
const LATE_TILES: usize = 2;

/// Floats of a cache line.
pub(crate) const LINE: usize = 16;

impl Ahead {
    /// Nothing to ask for.
    pub const NONE: Ahead = Ahead {
        at: std::ptr::null(),
        left: 0,
        pace: 0,
    };

    /// `floats` from `at`, while `steps` steps of reductions are taken. Requests come evenly: as early as possible, they hold up the panel
    /// at hand (presumably in the fill buffers through which it comes from the second cache level).
    pub fn new(at: *const f32, floats: usize, steps: usize) -> Self {
        Ahead {
            at,
            left: floats,
            pace: (2 * floats).div_ceil(steps.max(1)).clamp(1, LINE),
        }
    }

    /// Goes on by some floats.
    pub fn advance(&mut self, floats: usize) {
        self.at = self.at.wrapping_add(floats);
        self.left = self.left.saturating_sub(floats);
    }
}

impl Tile<'_> {
    /// Floats that one tile asks for: one request every two steps.
    pub fn asks(&self) -> usize {
        self.taps * (self.k / 2) * self.ahead.pace
    }
}

/// Runs `$kernel::<rows, vectors>` for a tile of `$mr` rows and `$nv` vectors; there is one for every size that the registers hold.
macro_rules! select_tile {
    ($s:expr, $mr:expr, $nv:expr, $kernel:ident($tile:expr)) => {
        $crate::tile::select_tile!(@ $s, $mr, $nv, $kernel($tile);
            1: 1 2 3 4 5 6 7 8; 2: 1 2 3 4 5 6 7 8; 3: 1 2 3 4 5 6 7 8; 4: 1 2 3 4 5 6;)
    };
    (@ $s:expr, $mr:expr, $nv:expr, $kernel:ident($tile:expr); $($n:literal: $($m:literal)*;)*) => {
        match ($mr, $nv) {
            $($(($m, $n) if const {
                $n <= $crate::tile::max_vectors(S::REGISTERS) && $m <= $crate::tile::max_rows(S::REGISTERS, $n)
            } => $s.vectorize($kernel::<$m, $n>($tile)),)*)*
            (mr, nv) => unreachable!("no tile of {mr} rows by {nv} vectors"),
        }
    };
}
pub(crate) use select_tile;

/// Runs the kernel for tiles of `mr` rows and `nv` vectors.
///
/// # Safety
///
/// All pointers of the tile must be valid for what its fields describe: rows for `offset + k` floats, `b` for
/// `(taps * k - 1) * ldb + nv * LANES`, outputs (and residual rows) for `cols` floats, with no other thread writing there.
#[inline(never)]
pub(crate) unsafe fn run_tile<S: Simd>(s: S, mr: usize, nv: usize, tile: &Tile<'_>) {
    select_tile!(s, mr, nv, TileKernel(tile));
}

struct TileKernel<'a, const MR: usize, const NV: usize>(&'a Tile<'a>);

impl<const MR: usize, const NV: usize> Kernel for TileKernel<'_, MR, NV> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let t = self.0;
        let late = t.post.is_some_and(Post::has_late_pass);
        // SAFETY: `run_tile`'s caller promises that all pointers are valid for what is read and written here.
        unsafe {
            for row in 0..MR {
                ask_for_row::<S, NV>(s, t, *t.outputs.add(row));
            }
            // The next tile's rows are asked for one after the other, since so many lines at once would hold up the panel.
            let piece = (t.taps * (t.k / 2)).div_ceil(MR).max(1);
            let mut ahead = t.ahead;
            for tile in 0..t.count {
                let rows = t.rows.add(tile * t.rows_step);
                let outputs = t.outputs.add(tile * MR);
                let asks = Asks {
                    next: if tile + 1 < t.count {
                        outputs.add(MR)
                    } else {
                        std::ptr::null()
                    },
                    piece,
                    // With nothing left, a line is asked for that is there.
                    ahead: if ahead.left > 0 { ahead.at } else { t.b },
                    pace: if ahead.left > 0 { ahead.pace } else { 0 },
                };
                ahead.advance(t.asks());
                one_tile::<S, MR, NV>(s, t, rows, outputs, &asks);
                let done = tile + 1;
                if late && (done.is_multiple_of(LATE_TILES) || done == t.count) {
                    let first = tile / LATE_TILES * LATE_TILES;
                    let rows = (done - first) * MR;
                    run_late(s, rows, t, t.outputs.add(first * MR));
                }
            }
        }
    }
}

/// What a tile asks for meanwhile.
struct Asks {
    /// Row numbers of the next tile, or null.
    next: *const usize,
    /// Pairs of steps from one of its rows to the next.
    piece: usize,
    /// Where the next request goes, and how far the ones after it lie apart.
    ahead: *const f32,
    pace: usize,
}

/// Asks for the cache lines of a row that a tile will write, and those of the residual.
#[inline(always)]
fn ask_for_row<S: Simd, const NV: usize>(s: S, t: &Tile<'_>, output: usize) {
    for v in 0..NV {
        s.prefetch(t.c.wrapping_add(output * t.ldc + v * S::LANES));
    }
    if let Some(post) = t.post.filter(|post| post.reads_residual()) {
        let row = post
            .residual
            .wrapping_add(t.first_col + output * post.ld_residual);
        for v in 0..NV {
            s.prefetch(row.wrapping_add(v * S::LANES));
        }
    }
}

/// Computes and writes one tile.
#[inline(always)]
unsafe fn one_tile<S: Simd, const MR: usize, const NV: usize>(
    s: S,
    t: &Tile<'_>,
    rows: *const *const f32,
    outputs: *const usize,
    asks: &Asks,
) {
    // SAFETY: as for `run_tile`.
    unsafe {
        let mut acc = reduce::<S, MR, NV>(s, t, rows, asks);
        let mut c = [std::ptr::null_mut::<f32>(); MR];
        for r in 0..MR {
            c[r] = t.c.add(*outputs.add(r) * t.ldc);
        }
        let residual = match t.post {
            Some(post) if post.reads_residual() => post.residual.add(t.first_col),
            _ => std::ptr::null(),
        };
        let c = (&c, outputs);
        // Written out vector by vector: an index that is not a constant would move the accumulators to memory.
        if NV > 1 {
            finish::<S, MR, NV, 0, false>(s, t, &mut acc, c, residual);
        }
        if NV > 2 {
            finish::<S, MR, NV, 1, false>(s, t, &mut acc, c, residual);
        }
        if NV > 3 {
            finish::<S, MR, NV, 2, false>(s, t, &mut acc, c, residual);
        }
        if t.cols < NV * S::LANES {
            finish_last::<S, MR, NV, true>(s, t, &mut acc, c, residual);
        } else {
            finish_last::<S, MR, NV, false>(s, t, &mut acc, c, residual);
        }
    }
}

/// Finishes the last vector of a panel, of which some lanes may not count.
#[inline(always)]
unsafe fn finish_last<S: Simd, const MR: usize, const NV: usize, const PARTIAL: bool>(
    s: S,
    t: &Tile<'_>,
    acc: &mut [[S::V; NV]; MR],
    (c, outputs): (&[*mut f32; MR], *const usize),
    residual: *const f32,
) {
    // SAFETY: as for `finish`.
    unsafe {
        match NV {
            1 => finish::<S, MR, NV, 0, PARTIAL>(s, t, acc, (c, outputs), residual),
            2 => finish::<S, MR, NV, 1, PARTIAL>(s, t, acc, (c, outputs), residual),
            3 => finish::<S, MR, NV, 2, PARTIAL>(s, t, acc, (c, outputs), residual),
            _ => finish::<S, MR, NV, 3, PARTIAL>(s, t, acc, (c, outputs), residual),
        }
    }
}

/// Epilogue and store of vector `V` of every row.
///
/// # Safety
///
/// As for [`run_tile`].
#[inline(always)]
unsafe fn finish<S: Simd, const MR: usize, const NV: usize, const V: usize, const PARTIAL: bool>(
    s: S,
    t: &Tile<'_>,
    acc: &mut [[S::V; NV]; MR],
    (c, outputs): (&[*mut f32; MR], *const usize),
    residual: *const f32,
) {
    // Only vectors that exist are finished; the others are never reached.
    let v = if V < NV { V } else { 0 };
    let col = v * S::LANES;
    let n = if PARTIAL { t.cols - col } else { S::LANES };
    // SAFETY: `run_tile`'s caller promises `cols` floats of every row and of the epilogue's slices.
    unsafe {
        if t.accumulate {
            for r in 0..MR {
                acc[r][v] = s.add(acc[r][v], load::<S, PARTIAL>(s, c[r].add(col), n));
            }
        }
        if let Some(post) = t.post {
            if !post.scale.is_null() {
                let x = load::<S, PARTIAL>(s, post.scale.add(t.first_col + col), n);
                for r in 0..MR {
                    acc[r][v] = s.mul(acc[r][v], x);
                }
            }
            if !post.bias.is_null() {
                let x = load::<S, PARTIAL>(s, post.bias.add(t.first_col + col), n);
                for r in 0..MR {
                    acc[r][v] = s.add(acc[r][v], x);
                }
            }
            if !residual.is_null() {
                for r in 0..MR {
                    let row = residual.add(*outputs.add(r) * post.ld_residual + col);
                    acc[r][v] = s.add(acc[r][v], load::<S, PARTIAL>(s, row, n));
                }
            }
            let (lo, hi) = (s.splat(post.lo), s.splat(post.hi));
            for r in 0..MR {
                acc[r][v] = s.min(hi, s.max(lo, acc[r][v]));
            }
        }
        for r in 0..MR {
            store::<S, PARTIAL>(s, c[r].add(col), n, acc[r][v]);
        }
    }
}

/// The sum over taps and channels. A function of its own, because the accumulators stay in registers only as long as nothing
/// indexes them by a variable.
#[inline(always)]
unsafe fn reduce<S: Simd, const MR: usize, const NV: usize>(
    s: S,
    t: &Tile<'_>,
    rows: *const *const f32,
    asks: &Asks,
) -> [[S::V; NV]; MR] {
    // SAFETY: `run_tile`'s caller promises the row pointers and the panel.
    unsafe {
        let mut acc = [[s.zero(); NV]; MR];
        let mut b = t.b;
        let (mut ahead, pace) = (asks.ahead, asks.pace);
        let (mut row, mut left) = (0, 0);
        for tap in 0..t.taps {
            let mut a = [std::ptr::null::<f32>(); MR];
            for r in 0..MR {
                a[r] = (*rows.add(tap * MR + r)).add(t.offset);
            }
            let mut k = 0;
            while k + 2 <= t.k {
                if left == 0 {
                    left = asks.piece;
                    if !asks.next.is_null() && row < MR {
                        ask_for_row::<S, NV>(s, t, *asks.next.add(row));
                        row += 1;
                    }
                }
                let end = (k + 2 * left).min(t.k & !1);
                left -= (end - k) / 2;
                while k < end {
                    step::<S, MR, NV>(s, &a, k, b, &mut acc);
                    step::<S, MR, NV>(s, &a, k + 1, b.wrapping_add(t.ldb), &mut acc);
                    s.prefetch_far(ahead);
                    ahead = ahead.wrapping_add(pace);
                    b = b.wrapping_add(2 * t.ldb);
                    k += 2;
                }
            }
            if k < t.k {
                step::<S, MR, NV>(s, &a, k, b, &mut acc);
                b = b.wrapping_add(t.ldb);
            }
        }
        acc
    }
}

/// One step of the reduction.
#[inline(always)]
unsafe fn step<S: Simd, const MR: usize, const NV: usize>(
    s: S,
    a: &[*const f32; MR],
    k: usize,
    b: *const f32,
    acc: &mut [[S::V; NV]; MR],
) {
    // SAFETY: `run_tile`'s caller promises the rows and the panel.
    unsafe {
        let mut bv = [s.zero(); NV];
        for v in 0..NV {
            bv[v] = s.load(b.add(v * S::LANES));
        }
        for r in 0..MR {
            let x = s.splat(*a[r].add(k));
            for v in 0..NV {
                acc[r][v] = s.mul_add(x, bv[v], acc[r][v]);
            }
        }
    }
}

/// Stores a vector, of which the first `n` lanes count if `PARTIAL`.
#[inline(always)]
unsafe fn store<S: Simd, const PARTIAL: bool>(s: S, p: *mut f32, n: usize, x: S::V) {
    // SAFETY: the caller promises `n` writable floats, or LANES where not partial.
    unsafe {
        if PARTIAL {
            s.store_n(p, n, x)
        } else {
            s.store(p, x)
        }
    }
}

/// Applies the second pass of an epilogue to rows just written.
///
/// # Safety
///
/// As for [`run_tile`].
#[inline(always)]
unsafe fn run_late<S: Simd>(s: S, rows: usize, tile: &Tile<'_>, outputs: *const usize) {
    let Some(post) = tile.post else { return };
    // SAFETY: the caller's promise.
    let rows = unsafe { std::slice::from_raw_parts(outputs, rows) };
    s.vectorize(Late {
        post,
        y: tile.c,
        ld: tile.ldc,
        first_col: tile.first_col,
        cols: tile.cols,
        rows,
    });
}
