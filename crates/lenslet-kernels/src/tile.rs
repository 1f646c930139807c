//! The register tile: a few rows times a panel of columns, reduced over taps and channels.
//!
//! One kernel serves linear layers, every convolution, Winograd's products and attention. Its rows are pointers (one per
//! tap and row), so that a convolution reads its input in place; its columns are one panel of packed weights, or of a
//! row-major matrix. On AVX-512 the tile is 6 rows by 4 vectors or 8 by 3: more than 8 rows collide in the first cache level where
//! the row stride is a power of two.

use crate::epilogue::Post;
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

/// One call of the kernel.
pub(crate) struct Tile<'a> {
    /// Row pointers, `[taps][rows of the tile]`.
    pub rows: *const *const f32,
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
    /// Row number in the output of each row of the tile.
    pub outputs: *const usize,
    /// Columns to write; the last vector may be partial.
    pub cols: usize,
    /// Add to the output instead of overwriting it.
    pub accumulate: bool,
    /// Scale, bias, residual and clamp, with pointers moved to the panel's first column; not applied where `None`.
    pub post: Option<&'a Post>,
    /// The panel's first column, for `post`.
    pub first_col: usize,
}

/// Runs the kernel for `mr` rows and `nv` vectors.
///
/// # Safety
///
/// All pointers of the tile must be valid for what its fields describe: rows for `offset + k` floats, `b` for
/// `(taps * k - 1) * ldb + nv * LANES`, outputs (and residual rows) for `cols` floats, with no other thread writing there.
#[inline(never)]
pub(crate) unsafe fn run_tile<S: Simd>(s: S, mr: usize, nv: usize, tile: &Tile<'_>) {
    macro_rules! select {
        ($(($m:literal, $n:literal)),*) => {
            match (mr, nv) {
                $(($m, $n) if $n <= max_vectors(S::REGISTERS)
                    && $m <= max_rows(S::REGISTERS, $n) => s.vectorize(TileKernel::<$m, $n>(tile)),)*
                _ => unreachable!("no tile of {mr} rows by {nv} vectors"),
            }
        };
    }
    select!(
        (1, 1),
        (2, 1),
        (3, 1),
        (4, 1),
        (5, 1),
        (6, 1),
        (7, 1),
        (8, 1),
        (1, 2),
        (2, 2),
        (3, 2),
        (4, 2),
        (5, 2),
        (6, 2),
        (7, 2),
        (8, 2),
        (1, 3),
        (2, 3),
        (3, 3),
        (4, 3),
        (5, 3),
        (6, 3),
        (7, 3),
        (8, 3),
        (1, 4),
        (2, 4),
        (3, 4),
        (4, 4),
        (5, 4),
        (6, 4)
    )
}

struct TileKernel<'a, const MR: usize, const NV: usize>(&'a Tile<'a>);

impl<const MR: usize, const NV: usize> Kernel for TileKernel<'_, MR, NV> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let t = self.0;
        // SAFETY: `run_tile`'s caller promises that all pointers are valid for what is read and written here.
        unsafe {
            let mut c = [std::ptr::null_mut::<f32>(); MR];
            for r in 0..MR {
                c[r] = t.c.add(*t.outputs.add(r) * t.ldc);
                for v in 0..NV {
                    s.prefetch(c[r].wrapping_add(v * S::LANES));
                }
            }
            let residual = match t.post {
                Some(post) if !post.residual.is_null() && !post.residual_late => {
                    let start = post.residual.add(t.first_col);
                    for r in 0..MR {
                        let row = start.wrapping_add(*t.outputs.add(r) * post.ld_residual);
                        for v in 0..NV {
                            s.prefetch(row.wrapping_add(v * S::LANES));
                        }
                    }
                    start
                }
                _ => std::ptr::null(),
            };
            let mut acc = [[s.zero(); NV]; MR];
            let mut b = t.b;
            for tap in 0..t.taps {
                let mut a = [std::ptr::null::<f32>(); MR];
                for r in 0..MR {
                    a[r] = (*t.rows.add(tap * MR + r)).add(t.offset);
                }
                for k in 0..t.k {
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
                    b = b.wrapping_add(t.ldb);
                }
            }
            // The last vector's columns, all of them or not.
            let last = t.cols - (NV - 1) * S::LANES;
            for v in 0..NV {
                let col = v * S::LANES;
                let partial = v == NV - 1 && last < S::LANES;
                if t.accumulate {
                    for r in 0..MR {
                        let old = load(s, partial, c[r].add(col), last);
                        acc[r][v] = s.add(acc[r][v], old);
                    }
                }
                if let Some(post) = t.post {
                    if !post.scale.is_null() {
                        let x = load(s, partial, post.scale.add(t.first_col + col), last);
                        for r in 0..MR {
                            acc[r][v] = s.mul(acc[r][v], x);
                        }
                    }
                    if !post.bias.is_null() {
                        let x = load(s, partial, post.bias.add(t.first_col + col), last);
                        for r in 0..MR {
                            acc[r][v] = s.add(acc[r][v], x);
                        }
                    }
                    if !residual.is_null() {
                        for r in 0..MR {
                            let row = residual.add(*t.outputs.add(r) * post.ld_residual + col);
                            acc[r][v] = s.add(acc[r][v], load(s, partial, row, last));
                        }
                    }
                    let (lo, hi) = (s.splat(post.lo), s.splat(post.hi));
                    for r in 0..MR {
                        acc[r][v] = s.min(hi, s.max(lo, acc[r][v]));
                    }
                }
                for r in 0..MR {
                    if partial {
                        s.store_n(c[r].add(col), last, acc[r][v]);
                    } else {
                        s.store(c[r].add(col), acc[r][v]);
                    }
                }
            }
        }
    }
}

/// Loads a vector, of which the first `n` lanes count if `partial`.
#[inline(always)]
unsafe fn load<S: Simd>(s: S, partial: bool, p: *const f32, n: usize) -> S::V {
    // SAFETY: the caller promises `n` readable floats, or LANES where not partial.
    unsafe { if partial { s.load_n(p, n) } else { s.load(p) } }
}

/// Applies the second pass of an epilogue to a tile just written.
///
/// # Safety
///
/// As for [`run_tile`], with the tile's post present.
pub(crate) unsafe fn run_late<S: Simd>(s: S, mr: usize, tile: &Tile<'_>) {
    s.vectorize(Late { mr, tile });
}

struct Late<'a> {
    mr: usize,
    tile: &'a Tile<'a>,
}

impl Kernel for Late<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        use crate::epilogue::Activation;
        let Some(post) = self.tile.post else { return };
        macro_rules! pass {
            ($pattern:pat => $f:expr) => {
                // SAFETY: `run_late`'s caller promises the pointers; this only repeats the tile's own accesses.
                unsafe { late_rows(s, self.mr, self.tile, post, $f) }
            };
        }
        // One loop per function, so that the choice is made once per tile.
        match post.late {
            Activation::Silu => pass!(_ => Activation::Silu),
            Activation::Gelu => pass!(_ => Activation::Gelu),
            Activation::HardSwish => pass!(_ => Activation::HardSwish),
            Activation::Sigmoid => pass!(_ => Activation::Sigmoid),
            other => pass!(_ => other),
        }
    }
}

#[inline(always)]
unsafe fn late_rows<S: Simd>(
    s: S,
    mr: usize,
    t: &Tile<'_>,
    post: &Post,
    activation: crate::epilogue::Activation,
) {
    for r in 0..mr {
        // SAFETY: the caller promises `mr` output rows of `cols` floats, and as many of the residual.
        unsafe {
            let output = *t.outputs.add(r);
            let row = t.c.add(output * t.ldc);
            let residual = post
                .residual
                .wrapping_add(t.first_col + output * post.ld_residual);
            let mut col = 0;
            while col < t.cols {
                let n = (t.cols - col).min(S::LANES);
                let partial = n < S::LANES;
                let x = load(s, partial, row.add(col), n);
                let mut y = activation.apply(s, x);
                if post.residual_late {
                    y = s.add(y, load(s, partial, residual.add(col), n));
                }
                if partial {
                    s.store_n(row.add(col), n, y);
                } else {
                    s.store(row.add(col), y);
                }
                col += n;
            }
        }
    }
}
