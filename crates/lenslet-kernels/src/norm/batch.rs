//! Batch norm over `[rows, channels]` (rows are pixels of all images): statistics, the fused forward pass, its gradients.

use crate::columns::{
    BlockSums, ColumnMap, ColumnTerms, Layout, Merge, channel_sums, map_columns, sum_columns,
};
use crate::derivative::{Known, with_known};
use crate::epilogue::Activation;
use crate::error::{KernelError, elements, expect_len};
use crate::inout::{In, InOut, Out};
use crate::simd::Simd;

/// Writes each channel's mean and biased variance over the `rows` of `x` (`[rows, channels]`).
///
/// One pass: blocks are summed in f32 relative to their first row, then merged in f64 (Chan, Golub, LeVeque 1979), so that
/// neither many rows nor a large mean cost precision.
///
/// # Errors
///
/// If a slice has the wrong length or there are no rows.
pub fn batch_statistics(
    rows: usize,
    x: &[f32],
    mean: &mut [f32],
    variance: &mut [f32],
) -> Result<(), KernelError> {
    let channels = mean.len();
    expect_len("variance", variance.len(), channels)?;
    check_rows(rows, channels)?;
    expect_len("batch norm input", x.len(), elements([rows, channels]))?;
    let layout = Layout::new(rows, channels);
    let mut totals = vec![[0.0f64; 2]; channels];
    let merge = MergeMoments { x, channels };
    // SAFETY: `x` has the layout's elements.
    unsafe { sum_columns(&layout, &Moments(In::new(x)), &merge, &mut totals) };
    for (c, [average, squares]) in totals.into_iter().enumerate() {
        mean[c] = average as f32;
        variance[c] = (squares / rows as f64) as f32;
    }
    Ok(())
}

/// Mean and sum of squared differences from it.
struct MergeMoments<'a> {
    x: &'a [f32],
    channels: usize,
}

impl Merge for MergeMoments<'_> {
    type Total = [f64; 2];

    #[inline(always)]
    fn merge(&self, blocks: &[BlockSums<'_>], first: usize, totals: &mut [[f64; 2]]) {
        totals.fill([0.0; 2]);
        let mut seen = 0.0;
        for block in blocks {
            let n = block.rows as f64;
            let (a, b) = block.sums.split_at(block.width);
            for at in (first..block.width).step_by(self.channels) {
                let (share, weight) = (1.0 / n, n / (seen + n));
                let both = seen * weight;
                let sums = a[at..].iter().zip(&b[at..]);
                let shifts = &self.x[block.start + at..];
                for ((total, (&s1, &s2)), &shift) in totals.iter_mut().zip(sums).zip(shifts) {
                    let (s1, s2) = (f64::from(s1), f64::from(s2));
                    let average = s1 * share;
                    let delta = f64::from(shift) + average - total[0];
                    total[1] += (s2 - s1 * average).max(0.0) + delta * delta * both;
                    total[0] += delta * weight;
                }
                seen += n;
            }
        }
    }
}

/// 1 / sqrt(variance + epsilon).
///
/// # Errors
///
/// If the slices have different lengths.
pub fn inverse_std(variance: &[f32], epsilon: f32, out: &mut [f32]) -> Result<(), KernelError> {
    expect_len("inverse standard deviation", out.len(), variance.len())?;
    for (out, &variance) in out.iter_mut().zip(variance) {
        *out = (1.0 / (f64::from(variance) + f64::from(epsilon)).sqrt()) as f32;
    }
    Ok(())
}

fn check_rows(rows: usize, channels: usize) -> Result<(), KernelError> {
    if rows == 0 || channels == 0 {
        return Err(KernelError::Shape {
            what: "batch norm",
            why: format!("{rows} rows of {channels} channels"),
        });
    }
    Ok(())
}

/// Sums of (x - first row of the block) and of its square.
struct Moments(In);

impl ColumnTerms for Moments {
    type Params<S: Simd> = S::V;

    #[inline(always)]
    unsafe fn params<S: Simd, const PARTIAL: bool>(
        &self,
        s: S,
        start: usize,
        col: usize,
        n: usize,
    ) -> S::V {
        // SAFETY: the first row of the block exists.
        unsafe { self.0.get::<S, PARTIAL>(s, start + col, n) }
    }

    #[inline(always)]
    unsafe fn terms<S: Simd, const PARTIAL: bool>(
        &self,
        s: S,
        shift: S::V,
        at: usize,
        n: usize,
    ) -> [S::V; 2] {
        // SAFETY: the caller's promise.
        let d = s.sub(unsafe { self.0.get::<S, PARTIAL>(s, at, n) }, shift);
        [d, s.mul(d, d)]
    }
}

/// What the backward pass knows about the value z that the activation was applied to.
#[derive(Clone, Copy, Debug)]
pub enum Preactivation<'a> {
    /// There was no residual: z is recomputed from the input.
    FromInput,
    /// z is recomputed from the input and this residual.
    FromResidual(&'a [f32]),
    /// The activation's derivative is taken from this, the saved output; see
    /// [`Activation::derivative_from_output_exists`].
    FromOutput(&'a [f32]),
}

/// Where mean and deviation came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Statistics {
    /// From this batch, so that they depend on the input.
    Batch,
    /// Running statistics: constants.
    Frozen,
}

/// y = act((x - mean) * inv_std * gamma + beta + residual) per channel, forward and backward.
#[derive(Clone, Copy, Debug)]
pub struct BatchNorm<'a> {
    /// Mean of each channel.
    pub mean: &'a [f32],
    /// 1 / sqrt(variance + epsilon) of each channel.
    pub inv_std: &'a [f32],
    /// Factor of each channel; 1 if absent.
    pub gamma: Option<&'a [f32]>,
    /// Summand of each channel; 0 if absent.
    pub beta: Option<&'a [f32]>,
    /// What follows.
    pub activation: Activation,
}

impl BatchNorm<'_> {
    fn check(&self, rows: usize) -> Result<usize, KernelError> {
        let channels = self.mean.len();
        check_rows(rows, channels)?;
        expect_len("inverse standard deviation", self.inv_std.len(), channels)?;
        expect_len("gamma", self.gamma.map_or(channels, <[f32]>::len), channels)?;
        expect_len("beta", self.beta.map_or(channels, <[f32]>::len), channels)?;
        Ok(channels)
    }

    /// The two numbers per channel that make up the normalisation: z = x * scale + shift.
    pub fn scale_shift(&self) -> (Vec<f32>, Vec<f32>) {
        let scale: Vec<f32> = match self.gamma {
            Some(gamma) => self.inv_std.iter().zip(gamma).map(|(a, b)| a * b).collect(),
            None => self.inv_std.to_vec(),
        };
        let shift = scale.iter().zip(self.mean).enumerate();
        let shift = shift
            .map(|(c, (&scale, &mean))| {
                let beta = self.beta.map_or(0.0, |beta| f64::from(beta[c]));
                (beta - f64::from(scale) * f64::from(mean)) as f32
            })
            .collect();
        (scale, shift)
    }

    /// Writes y for `x`, both `[rows, channels]`, in one pass.
    ///
    /// # Errors
    ///
    /// If a slice has the wrong length or there are no rows.
    pub fn forward(
        &self,
        rows: usize,
        mut x_y: InOut<'_>,
        residual: Option<&[f32]>,
    ) -> Result<(), KernelError> {
        let channels = self.check(rows)?;
        let (x, y) = x_y.check("batch norm input and output", elements([rows, channels]))?;
        if let Some(residual) = residual {
            expect_len("residual", residual.len(), elements([rows, channels]))?;
        }
        let layout = Layout::new(rows, channels);
        let (scale, shift) = self.scale_shift();
        let (scale, shift) = (layout.expand(&scale), layout.expand(&shift));
        with_known!(self.activation, activation => {
            let map = Forward {
                x,
                y,
                residual: In::optional(residual),
                scale: In::new(&scale),
                shift: In::new(&shift),
                activation,
            };
            run(&layout, &map);
        });
        Ok(())
    }

    /// The gradients, given the output's gradient `dy`, which becomes the input's: `dy_dx` holds the one and receives
    /// the other. `d_residual` receives the residual's gradient, dy * act'(z).
    ///
    /// `d_gamma` and `d_beta` are for this call's rows only. With [`Statistics::Frozen`], both may be left out, which
    /// saves a pass over the data; with [`Statistics::Batch`] they are computed in any case.
    ///
    /// # Errors
    ///
    /// If a slice has the wrong length, there are no rows, or the derivative cannot be had from the output.
    #[allow(clippy::too_many_arguments)]
    pub fn backward(
        &self,
        rows: usize,
        statistics: Statistics,
        x: &[f32],
        z: Preactivation<'_>,
        mut dy_dx: InOut<'_>,
        d_residual: Option<&mut [f32]>,
        [d_gamma, d_beta]: [Option<&mut [f32]>; 2],
    ) -> Result<(), KernelError> {
        let channels = self.check(rows)?;
        let len = elements([rows, channels]);
        expect_len("batch norm input", x.len(), len)?;
        let (dy, dx) = dy_dx.check("gradients of output and input", len)?;
        let (residual, output) = match z {
            Preactivation::FromInput => (None, None),
            Preactivation::FromResidual(residual) => (Some(residual), None),
            Preactivation::FromOutput(output) => (None, Some(output)),
        };
        expect_len("residual", residual.map_or(len, <[f32]>::len), len)?;
        expect_len("saved output", output.map_or(len, <[f32]>::len), len)?;
        if output.is_some() && !self.activation.derivative_from_output_exists() {
            return Err(KernelError::Shape {
                what: "batch norm",
                why: format!(
                    "the derivative of {:?} needs its input, not the saved output",
                    self.activation
                ),
            });
        }
        if let Some(d) = &d_residual {
            expect_len("gradient of the residual", d.len(), len)?;
        }
        for d in [&d_gamma, &d_beta].into_iter().flatten() {
            expect_len("gradient of gamma or beta", d.len(), channels)?;
        }
        let layout = Layout::new(rows, channels);
        let (scale, shift) = self.scale_shift();
        let (wide_scale, wide_shift) = (layout.expand(&scale), layout.expand(&shift));
        let wide_mean = layout.expand(self.mean);
        let needs_sums = statistics == Statistics::Batch || d_gamma.is_some() || d_beta.is_some();
        let d_residual = Out::optional(d_residual);
        with_known!(self.activation, activation => {
            let source = Source {
                x: In::new(x),
                dy,
                residual: In::optional(residual),
                output: In::optional(output),
                scale: In::new(&wide_scale),
                shift: In::new(&wide_shift),
                activation,
            };
            let mut sums = Vec::new();
            if needs_sums {
                let terms = Reduce { source: &source, mean: In::new(&wide_mean) };
                sums = sum(&layout, channels, &terms);
            }
            let (mut linear, mut constant) = (vec![0.0f32; channels], vec![0.0f32; channels]);
            if statistics == Statistics::Batch {
                // dx = scale * (dz - mean(dz) - xhat * mean(dz * xhat))
                for c in 0..channels {
                    let inv_std = f64::from(self.inv_std[c]);
                    let per_row = f64::from(scale[c]) / rows as f64;
                    let slope = -per_row * sums[c][1] * inv_std * inv_std;
                    linear[c] = slope as f32;
                    constant[c] = (-per_row * sums[c][0] - slope * f64::from(self.mean[c])) as f32;
                }
            }
            let (linear, constant) = (layout.expand(&linear), layout.expand(&constant));
            let map = Backward {
                source: &source,
                linear: In::new(&linear),
                constant: In::new(&constant),
                batch: statistics == Statistics::Batch,
                dx,
                d_residual,
            };
            run(&layout, &map);
            if let Some(d_beta) = d_beta {
                for (d, sum) in d_beta.iter_mut().zip(&sums) {
                    *d = sum[0] as f32;
                }
            }
            if let Some(d_gamma) = d_gamma {
                for ((d, sum), &inv_std) in d_gamma.iter_mut().zip(&sums).zip(self.inv_std) {
                    *d = (sum[1] * f64::from(inv_std)) as f32;
                }
            }
        });
        Ok(())
    }
}

/// Runs a map whose buffers have the layout's elements and whose parameters have its width.
fn run<M: ColumnMap>(layout: &Layout, map: &M) {
    // SAFETY: the callers in this module have checked the lengths.
    unsafe { map_columns(layout, map) };
}

/// Sums terms whose buffers have the layout's elements and whose parameters have its width.
fn sum<T: ColumnTerms>(layout: &Layout, channels: usize, terms: &T) -> Vec<[f64; 2]> {
    // SAFETY: the callers in this module have checked the lengths.
    unsafe { channel_sums(layout, channels, terms) }
}

struct Forward<const KIND: u8> {
    x: In,
    y: Out,
    residual: In,
    scale: In,
    shift: In,
    activation: Known<KIND>,
}

impl<const KIND: u8> ColumnMap for Forward<KIND> {
    type Params<S: Simd> = [S::V; 2];

    #[inline(always)]
    unsafe fn params<S: Simd, const PARTIAL: bool>(&self, s: S, col: usize, n: usize) -> [S::V; 2] {
        // SAFETY: the caller's promise.
        unsafe {
            [
                self.scale.get::<S, PARTIAL>(s, col, n),
                self.shift.get::<S, PARTIAL>(s, col, n),
            ]
        }
    }

    #[inline(always)]
    unsafe fn apply<S: Simd, const PARTIAL: bool>(
        &self,
        s: S,
        [scale, shift]: [S::V; 2],
        at: usize,
        n: usize,
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            let mut z = s.mul_add(self.x.get::<S, PARTIAL>(s, at, n), scale, shift);
            if self.residual.is_some() {
                z = s.add(z, self.residual.get::<S, PARTIAL>(s, at, n));
            }
            let y = self.activation.get().apply(s, z);
            self.y.put::<S, PARTIAL>(s, at, n, y);
        }
    }
}

/// What both backward passes read.
struct Source<const KIND: u8> {
    x: In,
    dy: In,
    residual: In,
    output: In,
    scale: In,
    shift: In,
    activation: Known<KIND>,
}

impl<const KIND: u8> Source<KIND> {
    /// Scale and shift of some columns.
    #[inline(always)]
    unsafe fn params<S: Simd, const PARTIAL: bool>(&self, s: S, col: usize, n: usize) -> [S::V; 2] {
        // SAFETY: the caller's promise.
        unsafe {
            [
                self.scale.get::<S, PARTIAL>(s, col, n),
                self.shift.get::<S, PARTIAL>(s, col, n),
            ]
        }
    }

    /// x and dy * act'(z).
    #[inline(always)]
    unsafe fn get<S: Simd, const PARTIAL: bool>(
        &self,
        s: S,
        [scale, shift]: [S::V; 2],
        at: usize,
        n: usize,
    ) -> [S::V; 2] {
        // SAFETY: the caller's promise.
        unsafe {
            let x = self.x.get::<S, PARTIAL>(s, at, n);
            let dy = self.dy.get::<S, PARTIAL>(s, at, n);
            let activation = self.activation.get();
            if activation == Activation::None {
                return [x, dy];
            }
            let slope = if self.output.is_some() {
                activation.derivative_from_output(s, self.output.get::<S, PARTIAL>(s, at, n))
            } else {
                let mut z = s.mul_add(x, scale, shift);
                if self.residual.is_some() {
                    z = s.add(z, self.residual.get::<S, PARTIAL>(s, at, n));
                }
                activation.derivative(s, z)
            };
            [x, s.mul(dy, slope)]
        }
    }
}

/// Sums of dz and of dz * (x - mean).
struct Reduce<'a, const KIND: u8> {
    source: &'a Source<KIND>,
    mean: In,
}

impl<const KIND: u8> ColumnTerms for Reduce<'_, KIND> {
    type Params<S: Simd> = ([S::V; 2], S::V);

    #[inline(always)]
    unsafe fn params<S: Simd, const PARTIAL: bool>(
        &self,
        s: S,
        _start: usize,
        col: usize,
        n: usize,
    ) -> ([S::V; 2], S::V) {
        // SAFETY: the caller's promise.
        unsafe {
            (
                self.source.params::<S, PARTIAL>(s, col, n),
                self.mean.get::<S, PARTIAL>(s, col, n),
            )
        }
    }

    #[inline(always)]
    unsafe fn terms<S: Simd, const PARTIAL: bool>(
        &self,
        s: S,
        (affine, mean): ([S::V; 2], S::V),
        at: usize,
        n: usize,
    ) -> [S::V; 2] {
        // SAFETY: the caller's promise.
        let [x, dz] = unsafe { self.source.get::<S, PARTIAL>(s, affine, at, n) };
        [dz, s.mul(dz, s.sub(x, mean))]
    }
}

/// dx = dz * scale + x * linear + constant.
struct Backward<'a, const KIND: u8> {
    source: &'a Source<KIND>,
    linear: In,
    constant: In,
    /// Whether the last two terms are there.
    batch: bool,
    dx: Out,
    d_residual: Out,
}

impl<const KIND: u8> ColumnMap for Backward<'_, KIND> {
    type Params<S: Simd> = ([S::V; 2], [S::V; 2]);

    #[inline(always)]
    unsafe fn params<S: Simd, const PARTIAL: bool>(
        &self,
        s: S,
        col: usize,
        n: usize,
    ) -> ([S::V; 2], [S::V; 2]) {
        // SAFETY: the caller's promise.
        unsafe {
            (
                self.source.params::<S, PARTIAL>(s, col, n),
                [
                    self.linear.get::<S, PARTIAL>(s, col, n),
                    self.constant.get::<S, PARTIAL>(s, col, n),
                ],
            )
        }
    }

    #[inline(always)]
    unsafe fn apply<S: Simd, const PARTIAL: bool>(
        &self,
        s: S,
        (affine, [linear, constant]): ([S::V; 2], [S::V; 2]),
        at: usize,
        n: usize,
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            let [x, dz] = self.source.get::<S, PARTIAL>(s, affine, at, n);
            let mut dx = s.mul(dz, affine[0]);
            if self.batch {
                dx = s.add(dx, s.mul_add(x, linear, constant));
            }
            if self.d_residual.is_some() {
                self.d_residual.put::<S, PARTIAL>(s, at, n, dz);
            }
            self.dx.put::<S, PARTIAL>(s, at, n, dx);
        }
    }
}
