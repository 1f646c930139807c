//! The second pass of an epilogue, over rows just written: activations that take more than a clamp, and residuals behind them.

use crate::epilogue::{Activation, Post, load};
use crate::simd::{Kernel, Simd};

/// Some rows of an output: row `number(r)` of `y` for each `r`, from column `first_col` of the epilogue on.
///
/// Whoever runs it promises that these rows are its own, and that they and the residual's are valid for `cols` floats.
pub(crate) struct Late<'a, R> {
    pub post: &'a Post,
    /// The output's first row, at the first column.
    pub y: *mut f32,
    pub ld: usize,
    pub first_col: usize,
    pub cols: usize,
    pub rows: usize,
    pub number: R,
}

impl<R: Fn(usize) -> usize> Kernel for Late<'_, R> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // One loop per function, so that the choice is made once.
        match self.post.late {
            Activation::Silu => self.run_with(s, Activation::Silu),
            Activation::Gelu => self.run_with(s, Activation::Gelu),
            Activation::HardSwish => self.run_with(s, Activation::HardSwish),
            Activation::Sigmoid => self.run_with(s, Activation::Sigmoid),
            other => self.run_with(s, other),
        }
    }
}

impl<R: Fn(usize) -> usize> Late<'_, R> {
    #[inline(always)]
    fn run_with<S: Simd>(&self, s: S, activation: Activation) {
        let whole = self.cols / S::LANES * S::LANES;
        let rest = self.cols - whole;
        let mut r = 0;
        while r < self.rows {
            let two = r + 1 < self.rows;
            let rows = [self.row(r), self.row(if two { r + 1 } else { r })];
            let mut col = 0;
            // SAFETY: see the type's description.
            unsafe {
                if two {
                    while col < whole {
                        self.step::<S, 2, false>(s, activation, rows, col, S::LANES);
                        col += S::LANES;
                    }
                    if rest > 0 {
                        self.step::<S, 2, true>(s, activation, rows, col, rest);
                    }
                } else {
                    while col < whole {
                        self.step::<S, 1, false>(s, activation, [rows[0]], col, S::LANES);
                        col += S::LANES;
                    }
                    if rest > 0 {
                        self.step::<S, 1, true>(s, activation, [rows[0]], col, rest);
                    }
                }
            }
            r += 2;
        }
    }

    /// A row of the output and of the residual.
    #[inline(always)]
    fn row(&self, r: usize) -> (*mut f32, *const f32) {
        let row = (self.number)(r);
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
