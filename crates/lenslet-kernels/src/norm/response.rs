//! Local response norm over neighbouring channels of `[rows, channels]`.

use std::ops::Range;

use crate::buffer::with_local;
use crate::columns::{for_columns, rows_per_chunk};
use crate::error::{KernelError, elements, expect_len};
use crate::inout::{In, InOut, Out};
use crate::pool::parallel_for;
use crate::simd::{Kernel, Simd, dispatch_on, isa};

/// More lanes than any vector has.
const MOST_LANES: usize = 16;

/// y = x / (k + alpha * mean of the neighbours' squares)^beta, with the parameters of `torch.nn.LocalResponseNorm`: channel `c`'s
/// neighbours are `c - size / 2 ..= c + (size - 1) / 2`, of which those that do not exist count as 0 in the mean over `size`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LocalResponseNorm {
    /// Channels of a row.
    pub channels: usize,
    /// Channels of a neighbourhood.
    pub size: usize,
    /// Factor of the mean.
    pub alpha: f32,
    /// Exponent.
    pub beta: f32,
    /// Added to the mean.
    pub k: f32,
}

impl LocalResponseNorm {
    fn check(&self) -> Result<(), KernelError> {
        if self.channels > 0 && self.size > 0 {
            return Ok(());
        }
        let (channels, size) = (self.channels, self.size);
        Err(KernelError::Shape {
            what: "local response norm",
            why: format!("{channels} channels, neighbourhoods of {size}"),
        })
    }

    /// Normalises the rows of `x` (`[rows, channels]`).
    ///
    /// # Errors
    ///
    /// If a slice has the wrong length, or there are no channels or no neighbours.
    pub fn forward(&self, rows: usize, mut x_y: InOut<'_>) -> Result<(), KernelError> {
        self.check()?;
        let len = elements([rows, self.channels]);
        let (x, y) = x_y.check("local response norm input and output", len)?;
        self.run(rows, x, In::optional(None), y);
        Ok(())
    }

    /// The input's gradient, given `x` and the output's gradient: `dy_dx` holds the one and receives the other.
    ///
    /// # Errors
    ///
    /// As [`LocalResponseNorm::forward`].
    pub fn backward(
        &self,
        rows: usize,
        x: &[f32],
        mut dy_dx: InOut<'_>,
    ) -> Result<(), KernelError> {
        self.check()?;
        let len = elements([rows, self.channels]);
        expect_len("local response norm input", x.len(), len)?;
        let (dy, dx) = dy_dx.check("gradients of output and input", len)?;
        self.run(rows, In::new(x), dy, dx.cached());
        Ok(())
    }

    /// Runs one of the passes on all threads: the backward one where there is a `dy`.
    fn run(&self, rows: usize, x: In, dy: In, out: Out) {
        let per_chunk = rows_per_chunk(rows, self.channels);
        let isa = isa();
        parallel_for(rows.div_ceil(per_chunk), |i| {
            with_local(|local| {
                let (squares, shares) =
                    (local.a.resize(self.padded()), local.b.resize(self.padded()));
                squares.fill(0.0);
                shares.fill(0.0);
                let first = i * per_chunk;
                let chunk = NormRows {
                    norm: self,
                    rows: first..(first + per_chunk).min(rows),
                    x,
                    dy,
                    out,
                    squares,
                    shares,
                };
                dispatch_on(isa, chunk);
            });
        });
    }

    /// Floats of a row with the neighbours beyond its ends, and a vector more.
    fn padded(&self) -> usize {
        self.channels + self.size - 1 + MOST_LANES
    }

    /// `k + alpha * mean` of a vector of channels from `col` on, given a row's squares behind `size / 2` zeros.
    #[inline(always)]
    fn sum<S: Simd>(&self, s: S, squares: &[f32], col: usize) -> S::V {
        let total = window(s, squares, col, self.size);
        s.mul_add(
            total,
            s.splat(self.alpha / self.size as f32),
            s.splat(self.k),
        )
    }

    /// `x^-beta`.
    #[inline(always)]
    fn inverse_power<S: Simd>(&self, s: S, x: S::V) -> S::V {
        if self.beta == 0.75 {
            let root = s.sqrt(x);
            return s.div(s.splat(1.0), s.mul(root, s.sqrt(root)));
        }
        let mut lanes = [0.0; MOST_LANES];
        s.store_slice(&mut lanes, x);
        for x in &mut lanes[..S::LANES] {
            *x = x.powf(-self.beta);
        }
        s.load_slice(&lanes)
    }
}

/// The sum of `size` numbers from each of a vector's places on.
#[inline(always)]
fn window<S: Simd>(s: S, numbers: &[f32], at: usize, size: usize) -> S::V {
    let mut total = s.zero();
    for offset in 0..size {
        total = s.add(total, s.load_slice(&numbers[at + offset..]));
    }
    total
}

/// Some rows of a pass.
struct NormRows<'a> {
    norm: &'a LocalResponseNorm,
    rows: Range<usize>,
    x: In,
    dy: In,
    /// The output, or the input's gradient.
    out: Out,
    /// A row's squares, behind `size / 2` zeros.
    squares: &'a mut [f32],
    /// What every channel takes of its neighbours' gradients, behind `(size - 1) / 2` zeros.
    shares: &'a mut [f32],
}

impl Kernel for NormRows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let channels = self.norm.channels;
        for row in self.rows.clone() {
            // SAFETY: `forward` and `backward` have checked the lengths; the rows are this chunk's.
            unsafe {
                for_columns!(S, channels, |col, n, P| {
                    let x = self.x.get::<S, P>(s, row * channels + col, n);
                    let to = &mut self.squares[self.norm.size / 2 + col..][..n];
                    s.store_slice(to, s.mul(x, x));
                });
                if self.dy.is_some() {
                    self.backward(s, row * channels);
                } else {
                    self.forward(s, row * channels);
                }
            }
        }
        s.fence();
    }
}

impl NormRows<'_> {
    /// # Safety
    ///
    /// The row from element `row` on must exist and be this chunk's.
    #[inline(always)]
    unsafe fn forward<S: Simd>(&self, s: S, row: usize) {
        let norm = self.norm;
        // SAFETY: the caller's promise.
        unsafe {
            for_columns!(S, norm.channels, |col, n, P| {
                let x = self.x.get::<S, P>(s, row + col, n);
                let power = norm.inverse_power(s, norm.sum(s, self.squares, col));
                self.out.put::<S, P>(s, row + col, n, s.mul(x, power));
            });
        }
    }

    /// dx = dy * sum^-beta - 2 alpha beta / size * x * (the sum over those that a channel is a neighbour of, of
    /// dy * x * sum^(-beta - 1)).
    ///
    /// # Safety
    ///
    /// As for [`NormRows::forward`].
    #[inline(always)]
    unsafe fn backward<S: Simd>(&mut self, s: S, row: usize) {
        let norm = self.norm;
        let factor = -2.0 * norm.alpha * norm.beta / norm.size as f32;
        let first = (norm.size - 1) / 2;
        // SAFETY: the caller's promise.
        unsafe {
            for_columns!(S, norm.channels, |col, n, P| {
                let x = self.x.get::<S, P>(s, row + col, n);
                let dy = self.dy.get::<S, P>(s, row + col, n);
                let sum = norm.sum(s, self.squares, col);
                let direct = s.mul(dy, norm.inverse_power(s, sum));
                let share = s.div(s.mul(direct, x), sum);
                s.store_slice(&mut self.shares[first + col..][..n], share);
                self.out.put::<S, P>(s, row + col, n, direct);
            });
            for_columns!(S, norm.channels, |col, n, P| {
                let x = self.x.get::<S, P>(s, row + col, n);
                let direct = self.out.as_in().get::<S, P>(s, row + col, n);
                let shares = window(s, self.shares, col, norm.size);
                let change = s.mul(x, s.splat(factor));
                let dx = s.mul_add(change, shares, direct);
                self.out.put::<S, P>(s, row + col, n, dx);
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, poisoned, random, wide, with_each_isa};
    use proptest::prelude::*;

    /// The norm of a row, as it is defined.
    fn normalised(norm: &LocalResponseNorm, x: &[f64]) -> Vec<f64> {
        let square = |c: isize| match usize::try_from(c) {
            Ok(c) if c < x.len() => x[c] * x[c],
            _ => 0.0,
        };
        let [alpha, beta, k] = [norm.alpha, norm.beta, norm.k].map(f64::from);
        let [before, size] = [norm.size / 2, norm.size].map(|n| n as isize);
        let at = |(c, x): (usize, &f64)| {
            let neighbours = (0..size).map(|i| square(c as isize - before + i));
            let mean = neighbours.sum::<f64>() / size as f64;
            x / (k + alpha * mean).powf(beta)
        };
        x.iter().enumerate().map(at).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        #[test]
        fn matches_the_definition_and_its_differences(
            rows in 1usize..5, channels in 1usize..40, size in 1usize..8, alpha in 0.0f32..2.0, k in 0.5f32..3.0,
            beta in prop_oneof![Just(0.75f32), 0.1f32..2.0], seed: u64,
        ) {
            let norm = LocalResponseNorm { channels, size, alpha, beta, k };
            let (x, dy) = (random(rows * channels, seed), random(rows * channels, seed ^ 1));
            let (mut want, mut slopes) = (Vec::new(), Vec::new());
            for (x, dy) in x.chunks(channels).zip(dy.chunks(channels)) {
                let mut x = wide(x);
                want.extend(normalised(&norm, &x));
                let loss = |x: &[f64]| {
                    let y = normalised(&norm, x);
                    y.iter().zip(dy).map(|(y, dy)| y * f64::from(*dy)).sum::<f64>()
                };
                const STEP: f64 = 1e-5;
                for c in 0..channels {
                    let old = x[c];
                    let [up, down] = [STEP, -STEP].map(|step| {
                        x[c] = old + step;
                        loss(&x)
                    });
                    x[c] = old;
                    slopes.push((up - down) / (2.0 * STEP));
                }
            }
            // Rounding of some tens of operations, and for the slopes that of a difference of f64 numbers.
            const TOLERANCE: f64 = 5e-6;
            with_each_isa(|_| {
                let mut y = poisoned(x.len());
                norm.forward(rows, InOut::Separate(&x, &mut y)).unwrap();
                assert_close("local response norm", &y, &want, TOLERANCE);
                let mut y = x.clone();
                norm.forward(rows, InOut::InPlace(&mut y)).unwrap();
                assert_close("local response norm in place", &y, &want, TOLERANCE);
                let mut dx = poisoned(x.len());
                norm.backward(rows, &x, InOut::Separate(&dy, &mut dx)).unwrap();
                assert_close("its gradient", &dx, &slopes, TOLERANCE);
                let mut dx = dy.clone();
                norm.backward(rows, &x, InOut::InPlace(&mut dx)).unwrap();
                assert_close("its gradient in place", &dx, &slopes, TOLERANCE);
            });
        }
    }

    #[test]
    fn wrong_arguments_are_refused() {
        let norm = LocalResponseNorm {
            channels: 3,
            size: 5,
            alpha: 1e-4,
            beta: 0.75,
            k: 2.0,
        };
        let x = [1.0; 6];
        let forward = |norm: LocalResponseNorm, len: usize| {
            norm.forward(2, InOut::Separate(&x, &mut vec![0.0; len]))
        };
        assert!(forward(norm, 6).is_ok());
        assert!(forward(norm, 5).is_err());
        assert!(forward(LocalResponseNorm { size: 0, ..norm }, 6).is_err());
        assert!(
            forward(
                LocalResponseNorm {
                    channels: 0,
                    ..norm
                },
                6
            )
            .is_err()
        );
        assert!(
            norm.backward(2, &x[1..], InOut::InPlace(&mut [0.0; 6]))
                .is_err()
        );
    }
}
