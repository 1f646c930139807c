//! Softmax, log-softmax and cross entropy over the last axis of `[rows, classes]`.

use crate::columns::for_columns;
use crate::error::{KernelError, elements, expect_len};
use crate::inout::{In, InOut, Out};
use crate::pool::{SharedMut, parallel_for};
use crate::simd::{Kernel, Simd, dispatch_on, isa};
use crate::vmath;

/// Floats of a chunk.
const CHUNK: usize = 16 << 10;

/// Each row becomes e^(x - log(sum(e^x))): non-negative, with the sum 1.
///
/// # Errors
///
/// If the slices have different lengths, the rows do not divide them or are empty.
pub fn softmax(classes: usize, x_y: InOut<'_>) -> Result<(), KernelError> {
    run(classes, x_y, false)
}

/// Each row becomes x - log(sum(e^x)).
///
/// # Errors
///
/// If the slices have different lengths, the rows do not divide them or are empty.
pub fn log_softmax(classes: usize, x_y: InOut<'_>) -> Result<(), KernelError> {
    run(classes, x_y, true)
}

fn row_count(classes: usize, len: usize) -> Result<usize, KernelError> {
    if classes == 0 || !len.is_multiple_of(classes) {
        return Err(KernelError::Shape {
            what: "softmax",
            why: format!("{len} elements in rows of {classes}"),
        });
    }
    Ok(len / classes)
}

fn run(classes: usize, mut x_y: InOut<'_>, log: bool) -> Result<(), KernelError> {
    let len = x_y.len();
    let rows = row_count(classes, len)?;
    let (x, y) = x_y.check("softmax input and output", len)?;
    let step = (CHUNK / classes).max(1);
    let isa = isa();
    parallel_for(rows.div_ceil(step), |i| {
        let chunk = Rows {
            classes,
            rows: i * step..((i + 1) * step).min(rows),
            x,
            y,
            log,
        };
        dispatch_on(isa, chunk);
    });
    Ok(())
}

/// dx = y * (dy - sum(y * dy)) per row, given the softmax `y`.
///
/// # Errors
///
/// If the slices have different lengths, the rows do not divide them or are empty.
pub fn softmax_backward(classes: usize, y: &[f32], dy_dx: InOut<'_>) -> Result<(), KernelError> {
    run_backward(classes, y, dy_dx, false)
}

/// dx = dy - e^y * sum(dy) per row, given the log-softmax `y`.
///
/// # Errors
///
/// If the slices have different lengths, the rows do not divide them or are empty.
pub fn log_softmax_backward(
    classes: usize,
    y: &[f32],
    dy_dx: InOut<'_>,
) -> Result<(), KernelError> {
    run_backward(classes, y, dy_dx, true)
}

fn run_backward(
    classes: usize,
    y: &[f32],
    mut dy_dx: InOut<'_>,
    log: bool,
) -> Result<(), KernelError> {
    let len = y.len();
    let rows = row_count(classes, len)?;
    let (dy, dx) = dy_dx.check("gradients of output and input", len)?;
    let step = (CHUNK / classes).max(1);
    let isa = isa();
    parallel_for(rows.div_ceil(step), |i| {
        let chunk = BackwardRows {
            classes,
            rows: i * step..((i + 1) * step).min(rows),
            y: In::new(y),
            dy,
            dx,
            log,
        };
        dispatch_on(isa, chunk);
    });
    Ok(())
}

/// The mean cross entropy over rows of logits, with its gradient in the same pass.
///
/// The target of a row gives `1 - smoothing` to the row's class and spreads `smoothing` evenly over all classes.
#[derive(Clone, Copy, Debug)]
pub struct CrossEntropy {
    /// Length of a row.
    pub classes: usize,
    /// Label smoothing, from 0 to 1.
    pub smoothing: f32,
}

impl CrossEntropy {
    /// Returns the mean loss over the rows of `logits` (`[targets, classes]`) and writes its gradient, times `scale`, to
    /// `gradient` if given.
    ///
    /// # Errors
    ///
    /// If a slice has the wrong length, there are no rows, or a target is not a class.
    pub fn forward(
        &self,
        logits: &[f32],
        targets: &[u32],
        scale: f32,
        gradient: Option<&mut [f32]>,
    ) -> Result<f64, KernelError> {
        let CrossEntropy { classes, smoothing } = *self;
        let rows = targets.len();
        if rows == 0 || classes == 0 || !(0.0..=1.0).contains(&smoothing) {
            return Err(KernelError::Shape {
                what: "cross entropy",
                why: format!("{rows} rows of {classes} classes, smoothing {smoothing}"),
            });
        }
        expect_len("logits", logits.len(), elements([rows, classes]))?;
        if let Some(gradient) = &gradient {
            expect_len(
                "gradient of the logits",
                gradient.len(),
                elements([rows, classes]),
            )?;
        }
        if let Some(row) = targets.iter().position(|&t| t as usize >= classes) {
            return Err(KernelError::Shape {
                what: "cross entropy",
                why: format!(
                    "target {} of row {row}, but {classes} classes",
                    targets[row]
                ),
            });
        }
        let mut losses = vec![0.0f64; rows];
        let shared = SharedMut::new(&mut losses);
        let (x, gradient) = (In::new(logits), Out::optional(gradient));
        let step = (CHUNK / classes).max(1);
        let isa = isa();
        parallel_for(rows.div_ceil(step), |i| {
            let range = i * step..((i + 1) * step).min(rows);
            let chunk = LossRows {
                classes,
                smoothing,
                first: range.start,
                targets: &targets[range.clone()],
                x,
                gradient,
                scale: scale / rows as f32,
                // SAFETY: each chunk has its own rows.
                losses: unsafe { shared.slice(range.start, range.len()) },
            };
            dispatch_on(isa, chunk);
        });
        Ok(losses.iter().sum::<f64>() / rows as f64)
    }
}

/// The largest element and the sum of a row; both NaN where it contains one.
///
/// # Safety
///
/// The elements must exist.
#[inline(always)]
unsafe fn row_max_sum<S: Simd>(s: S, x: In, at: usize, len: usize) -> (f32, f32) {
    let mut most = s.splat(f32::NEG_INFINITY);
    let mut sum = s.zero();
    let whole = len - len % S::LANES;
    // SAFETY: the caller's promise.
    unsafe {
        for_columns!(S, whole, |col, n, P| {
            let v = x.get::<S, P>(s, at + col, n);
            most = s.max(most, v);
            sum = s.add(sum, v);
        });
        let (mut most, mut sum) = (s.reduce_max(most), s.reduce_add(sum));
        for col in whole..len {
            let v = x.one(at + col);
            most = most.max(v);
            sum += v;
        }
        (most, sum)
    }
}

/// The sum of e^(x - most) over a row; the powers are also written to `out` if that is given.
///
/// # Safety
///
/// The elements must exist and, in `out`, belong to this thread.
#[inline(always)]
pub(crate) unsafe fn row_exp<S: Simd>(
    s: S,
    x: In,
    most: f32,
    at: usize,
    len: usize,
    out: Out,
) -> f32 {
    let shift = s.splat(most);
    let mut sum = s.zero();
    let mut rest = 0.0;
    // SAFETY: the caller's promise.
    unsafe {
        for_columns!(S, len, |col, n, P| {
            let e = vmath::exp(s, s.sub(x.get::<S, P>(s, at + col, n), shift));
            if out.is_some() {
                out.put::<S, P>(s, at + col, n, e);
            }
            if P {
                // Lanes beyond the row do not count.
                let mut lanes = [0.0f32; 16];
                s.store(lanes.as_mut_ptr(), e);
                rest = lanes[..n].iter().sum();
            } else {
                sum = s.add(sum, e);
            }
        });
    }
    s.reduce_add(sum) + rest
}

struct Rows {
    classes: usize,
    rows: std::ops::Range<usize>,
    x: In,
    y: Out,
    log: bool,
}

impl Kernel for Rows {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let len = self.classes;
        let (x, y) = (self.x, self.y);
        for row in self.rows {
            let at = row * len;
            // SAFETY: the caller checked the lengths; rows belong to one chunk each.
            unsafe {
                let (most, _) = row_max_sum(s, x, at, len);
                if self.log {
                    let sum = row_exp(s, x, most, at, len, Out::optional(None));
                    let (most, log) = (s.splat(most), s.splat(sum.ln()));
                    for_columns!(S, len, |col, n, P| {
                        let v = s.sub(x.get::<S, P>(s, at + col, n), most);
                        y.put::<S, P>(s, at + col, n, s.sub(v, log));
                    });
                } else {
                    let y = y.cached();
                    let factor = s.splat(1.0 / row_exp(s, x, most, at, len, y));
                    for_columns!(S, len, |col, n, P| {
                        let e = y.as_in().get::<S, P>(s, at + col, n);
                        y.put::<S, P>(s, at + col, n, s.mul(e, factor));
                    });
                }
            }
        }
        s.fence();
    }
}

struct BackwardRows {
    classes: usize,
    rows: std::ops::Range<usize>,
    y: In,
    dy: In,
    dx: Out,
    log: bool,
}

impl Kernel for BackwardRows {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let len = self.classes;
        let (y, dy, dx) = (self.y, self.dy, self.dx);
        for row in self.rows {
            let at = row * len;
            let mut sum = s.zero();
            // SAFETY: the caller checked the lengths; rows belong to one chunk each.
            unsafe {
                for_columns!(S, len, |col, n, P| {
                    // Lanes beyond the row hold dy = 0.
                    let d = dy.get::<S, P>(s, at + col, n);
                    let weight = if self.log {
                        s.splat(1.0)
                    } else {
                        y.get::<S, P>(s, at + col, n)
                    };
                    sum = s.mul_add(weight, d, sum);
                });
                let sum = s.splat(s.reduce_add(sum));
                for_columns!(S, len, |col, n, P| {
                    let d = dy.get::<S, P>(s, at + col, n);
                    let y = y.get::<S, P>(s, at + col, n);
                    let d = if self.log {
                        s.neg_mul_add(vmath::exp(s, y), sum, d)
                    } else {
                        s.mul(y, s.sub(d, sum))
                    };
                    dx.put::<S, P>(s, at + col, n, d);
                });
            }
        }
        s.fence();
    }
}

struct LossRows<'a> {
    classes: usize,
    smoothing: f32,
    /// Row of the first target.
    first: usize,
    targets: &'a [u32],
    x: In,
    gradient: Out,
    /// Factor of the gradient of one row's loss.
    scale: f32,
    losses: &'a mut [f64],
}

impl Kernel for LossRows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let len = self.classes;
        let (x, gradient) = (self.x, self.gradient.cached());
        let confidence = 1.0 - self.smoothing;
        let per_class = self.smoothing / len as f32;
        for (i, (&target, loss)) in self.targets.iter().zip(self.losses).enumerate() {
            let at = (self.first + i) * len;
            // SAFETY: the caller checked lengths and targets; rows belong to one chunk each.
            unsafe {
                let (most, total) = row_max_sum(s, x, at, len);
                let sum = row_exp(s, x, most, at, len, gradient);
                let log_sum = f64::from(most) + f64::from(sum).ln();
                let own = log_sum - f64::from(x.one(at + target as usize));
                let all = log_sum - f64::from(total) / len as f64;
                *loss = f64::from(confidence) * own + f64::from(self.smoothing) * all;
                if gradient.is_some() {
                    let factor = s.splat(self.scale / sum);
                    let shift = s.splat(-self.scale * per_class);
                    for_columns!(S, len, |col, n, P| {
                        let e = gradient.as_in().get::<S, P>(s, at + col, n);
                        gradient.put::<S, P>(s, at + col, n, s.mul_add(e, factor, shift));
                    });
                    gradient.add_one(at + target as usize, -self.scale * confidence);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, poisoned, random, wide, with_each_isa};
    use proptest::prelude::*;

    fn log_sum(row: &[f64]) -> f64 {
        let most = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        most + row.iter().map(|x| (x - most).exp()).sum::<f64>().ln()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(50))]

        #[test]
        fn softmax_matches_the_reference(rows in 0usize..30, classes in 1usize..150, log: bool, seed: u64) {
            let mut x = random(rows * classes, seed);
            x.iter_mut().for_each(|x| *x *= 20.0);
            let dy = random(x.len(), seed ^ 1);
            let (mut want, mut want_dx) = (Vec::new(), Vec::new());
            for (x, dy) in x.chunks(classes).zip(dy.chunks(classes)) {
                let (x, dy) = (wide(x), wide(dy));
                let log_sum = log_sum(&x);
                let p: Vec<f64> = x.iter().map(|x| (x - log_sum).exp()).collect();
                let sum: f64 = dy.iter().zip(&p).map(|(d, p)| d * if log { 1.0 } else { *p }).sum();
                for c in 0..classes {
                    want.push(if log { x[c] - log_sum } else { p[c] });
                    want_dx.push(if log { dy[c] - p[c] * sum } else { p[c] * (dy[c] - sum) });
                }
            }
            with_each_isa(|_| {
                let (mut y, mut dx) = (poisoned(x.len()), poisoned(x.len()));
                let forward = if log { log_softmax } else { softmax };
                let backward = if log { log_softmax_backward } else { softmax_backward };
                forward(classes, InOut::Separate(&x, &mut y)).unwrap();
                assert_close("softmax", &y, &want, 1e-5);
                let mut in_place = x.clone();
                forward(classes, InOut::InPlace(&mut in_place)).unwrap();
                assert_eq!(in_place, y);
                backward(classes, &y, InOut::Separate(&dy, &mut dx)).unwrap();
                assert_close("its gradient", &dx, &want_dx, 5e-5);
            });
        }

        #[test]
        fn cross_entropy_matches_the_reference(rows in 1usize..40, classes in 1usize..150, smoothing in 0f32..1.0, seed: u64) {
            let mut x = random(rows * classes, seed);
            x.iter_mut().for_each(|x| *x *= 20.0);
            let targets: Vec<u32> = (0..rows).map(|i| ((i as u64 * 7 + seed % 1000) % classes as u64) as u32).collect();
            let scale = 0.5f32;
            let (mut want, mut want_gradient) = (0.0, Vec::new());
            for (row, &target) in x.chunks(classes).zip(&targets) {
                let row = wide(row);
                let log_sum = log_sum(&row);
                for (c, x) in row.iter().enumerate() {
                    let own = if c == target as usize { 1.0 - f64::from(smoothing) } else { 0.0 };
                    let share = own + f64::from(smoothing) / classes as f64;
                    want += share * (log_sum - x) / rows as f64;
                    want_gradient.push(f64::from(scale) * ((x - log_sum).exp() - share) / rows as f64);
                }
            }
            let loss = CrossEntropy { classes, smoothing };
            with_each_isa(|_| {
                let mut gradient = poisoned(x.len());
                let got = loss.forward(&x, &targets, scale, Some(&mut gradient)).unwrap();
                assert!((got - want).abs() < 2e-5, "loss {got}, reference {want}");
                assert_close("gradient", &gradient, &want_gradient, 1e-6);
                assert_eq!(loss.forward(&x, &targets, scale, None).unwrap(), got);
            });
        }
    }

    #[test]
    fn impossible_targets_are_refused() {
        let loss = CrossEntropy {
            classes: 3,
            smoothing: 0.0,
        };
        assert!(loss.forward(&[0.0; 3], &[3], 1.0, None).is_err());
        assert!(loss.forward(&[], &[], 1.0, None).is_err());
        assert!(loss.forward(&[0.0; 4], &[0], 1.0, None).is_err());
        assert!(softmax(3, InOut::InPlace(&mut [0.0; 4])).is_err());
        assert!(softmax(0, InOut::InPlace(&mut [])).is_err());
    }
}
