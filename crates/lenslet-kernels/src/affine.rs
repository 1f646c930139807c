//! A factor and a summand for every channel, and an activation.

use crate::epilogue::Activation;
use crate::error::{KernelError, expect_len};
use crate::matrix::{Matrix, MatrixMut};
use crate::pool::{SharedMut, parallel_for};
use crate::simd::{Kernel, Simd, dispatch_on, isa};

/// Floats of a chunk, about.
const CHUNK: usize = 16 << 10;

/// y = activation(x * scale + shift) on `rows` rows: a batch norm in evaluation that no convolution comes before.
///
/// # Errors
///
/// If a slice is too short, a row stride too small, or `scale` and `shift` differ in length.
pub fn affine(
    rows: usize,
    x: Matrix<'_>,
    scale: &[f32],
    shift: &[f32],
    activation: Activation,
    y: MatrixMut<'_>,
) -> Result<(), KernelError> {
    let cols = scale.len();
    expect_len("summands", shift.len(), cols)?;
    x.check("input", rows, cols)?;
    y.check("output", rows, cols)?;
    let step = (CHUNK / cols.max(1)).max(1);
    let (isa, ld) = (isa(), y.ld);
    let out = SharedMut::new(y.data);
    parallel_for(rows.div_ceil(step), |chunk| {
        let first = chunk * step;
        let count = step.min(rows - first);
        let rows = Rows {
            x: &x.data[first * x.ld..],
            ld_x: x.ld,
            scale,
            shift,
            activation,
            // SAFETY: chunks are rows of their own, and what follows the last one's columns is not part of it.
            y: unsafe { out.slice(first * ld, (count - 1) * ld + cols) },
            ld_y: ld,
            count,
        };
        dispatch_on(isa, rows);
    });
    Ok(())
}

struct Rows<'a> {
    x: &'a [f32],
    ld_x: usize,
    scale: &'a [f32],
    shift: &'a [f32],
    activation: Activation,
    y: &'a mut [f32],
    ld_y: usize,
    count: usize,
}

impl Kernel for Rows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let cols = self.scale.len();
        for row in 0..self.count {
            let x = &self.x[row * self.ld_x..][..cols];
            let y = &mut self.y[row * self.ld_y..][..cols];
            let factors = self.scale.chunks(S::LANES).zip(self.shift.chunks(S::LANES));
            let numbers = x.chunks(S::LANES).zip(y.chunks_mut(S::LANES));
            for ((x, y), (scale, shift)) in numbers.zip(factors) {
                let z = s.mul_add(s.load_slice(x), s.load_slice(scale), s.load_slice(shift));
                s.store_slice(y, self.activation.apply(s, z));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::random;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn equals_its_definition(rows in 1usize..700, cols in 1usize..70, more_x in 0usize..9, more_y in 0usize..9) {
            let (ld_x, ld_y) = (cols + more_x, cols + more_y);
            let x = random(rows * ld_x, 1);
            let (scale, shift) = (random(cols, 2), random(cols, 3));
            let mut y = vec![7.0; rows * ld_y];
            let to = MatrixMut::new(&mut y, ld_y);
            affine(rows, Matrix::new(&x, ld_x), &scale, &shift, Activation::Relu, to).unwrap();
            for (row, y) in y.chunks_exact(ld_y).enumerate() {
                for (col, &found) in y.iter().enumerate() {
                    let want = if col < cols {
                        x[row * ld_x + col].mul_add(scale[col], shift[col]).max(0.0)
                    } else {
                        7.0
                    };
                    // One rounding at most, where a machine has no fused multiplication.
                    prop_assert!((found - want).abs() <= 1e-6, "{found} {want}");
                }
            }
        }
    }
}
