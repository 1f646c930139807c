//! The second pass of an epilogue, over rows just written: activations that take more than a clamp, and residuals behind them.

use crate::epilogue::{Activation, Post, load};
use crate::simd::{Kernel, Simd};

/// Some rows of an output, those of `y` with the numbers `rows`, from column `first_col` of the epilogue on.
///
/// Whoever runs it promises that these rows are its own, and that they and the residual's are valid for `cols` floats.
pub(crate) struct Late<'a> {
    pub post: &'a Post,
    /// The output's first row, at the first column.
    pub y: *mut f32,
    pub ld: usize,
    pub first_col: usize,
    pub cols: usize,
    pub rows: &'a [usize],
}

impl Kernel for Late<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // One loop per function, so that the choice is made once. Eight vectors at a time keep both units busy where they fit the registers.
        match self.post.late {
            Activation::Silu if S::REGISTERS >= 32 => self.run_with::<S, 8>(s, Activation::Silu),
            Activation::Silu => self.run_with::<S, 2>(s, Activation::Silu),
            Activation::Sigmoid => self.run_with::<S, 2>(s, Activation::Sigmoid),
            Activation::Gelu => self.run_with::<S, 2>(s, Activation::Gelu),
            Activation::HardSwish => self.run_with::<S, 2>(s, Activation::HardSwish),
            other => self.run_with::<S, 2>(s, other),
        }
    }
}

impl Late<'_> {
    #[inline(always)]
    fn run_with<S: Simd, const N: usize>(&self, s: S, activation: Activation) {
        let mut r = 0;
        // A depthwise convolution's tile has seven columns.
        while N == 8 && self.rows.len().is_multiple_of(7) && r < self.rows.len() {
            self.some_rows::<S, 7>(s, activation, r);
            r += 7;
        }
        while r + N <= self.rows.len() {
            self.some_rows::<S, N>(s, activation, r);
            r += N;
        }
        if N == 8 && r + 4 <= self.rows.len() {
            self.some_rows::<S, 4>(s, activation, r);
            r += 4;
        }
        while r + 2 <= self.rows.len() {
            self.some_rows::<S, 2>(s, activation, r);
            r += 2;
        }
        if r < self.rows.len() {
            self.some_rows::<S, 1>(s, activation, r);
        }
    }

    /// `N` rows, vector by vector.
    #[inline(always)]
    fn some_rows<S: Simd, const N: usize>(&self, s: S, activation: Activation, first: usize) {
        let mut rows = [(std::ptr::null_mut(), std::ptr::null()); N];
        for i in 0..N {
            rows[i] = self.row(first + i);
        }
        let whole = self.cols / S::LANES * S::LANES;
        let mut col = 0;
        // SAFETY: see the type's description.
        unsafe {
            while col < whole {
                self.step::<S, N, false>(s, activation, rows, col, S::LANES);
                col += S::LANES;
            }
            if whole < self.cols {
                self.step::<S, N, true>(s, activation, rows, col, self.cols - whole);
            }
        }
    }

    /// A row of the output and of the residual.
    #[inline(always)]
    fn row(&self, r: usize) -> (*mut f32, *const f32) {
        let row = self.rows[r];
        let residual = self.post.residual;
        (
            self.y.wrapping_add(row * self.ld),
            residual.wrapping_add(self.first_col + row * self.post.ld_residual),
        )
    }

    /// One vector of `N` rows.
    #[inline(always)]
    unsafe fn step<S: Simd, const N: usize, const PARTIAL: bool>(
        &self,
        s: S,
        activation: Activation,
        rows: [(*mut f32, *const f32); N],
        col: usize,
        n: usize,
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            let mut x = [s.zero(); N];
            for i in 0..N {
                x[i] = load::<S, PARTIAL>(s, rows[i].0.add(col), n);
            }
            let mut y = activation.apply_all(s, x);
            if self.post.residual_late {
                for i in 0..N {
                    y[i] = s.add(y[i], load::<S, PARTIAL>(s, rows[i].1.add(col), n));
                }
            }
            for i in 0..N {
                if PARTIAL {
                    s.store_n(rows[i].0.add(col), n, y[i]);
                } else {
                    s.store(rows[i].0.add(col), y[i]);
                }
            }
        }
    }
}
