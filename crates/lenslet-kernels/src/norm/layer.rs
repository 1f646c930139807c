//! Layer norm over the last axis of `[rows, channels]`.

use crate::buffer::with_local;
use crate::columns::add_repeated;
use crate::error::{KernelError, elements, expect_len};
use crate::inout::{In, InOut, Out};
use crate::pool::{SharedMut, parallel_for};
use crate::simd::{Kernel, Simd, dispatch_on, isa};

/// Floats of a chunk of the forward pass.
const CHUNK: usize = 32 << 10;
/// Floats of a block of the backward pass, whose sums for gamma and beta are kept apart: at least and at most.
const BLOCK: [usize; 2] = [32 << 10, 256 << 10];
/// More lanes than any vector has.
const MOST_LANES: usize = 16;

/// y = (x - mean) / sqrt(variance + epsilon) * gamma + beta with the statistics of each row, forward and backward.
#[derive(Clone, Copy, Debug)]
pub struct LayerNorm<'a> {
    /// Length of a row.
    pub channels: usize,
    /// Factor per channel; 1 if absent.
    pub gamma: Option<&'a [f32]>,
    /// Summand per channel; 0 if absent.
    pub beta: Option<&'a [f32]>,
    /// Added to the variance.
    pub epsilon: f32,
}

impl LayerNorm<'_> {
    fn check(&self) -> Result<(), KernelError> {
        let channels = self.channels;
        if channels == 0 {
            return Err(KernelError::Shape {
                what: "layer norm",
                why: "rows of 0 channels".to_string(),
            });
        }
        expect_len("gamma", self.gamma.map_or(channels, <[f32]>::len), channels)?;
        expect_len("beta", self.beta.map_or(channels, <[f32]>::len), channels)
    }

    /// Normalises the rows of `x` (`[rows, channels]`). The mean and the inverse standard deviation of each row, which the
    /// backward pass needs, go to `statistics` (two slices of `rows`) if given.
    ///
    /// # Errors
    ///
    /// If a slice has the wrong length or rows have no channels.
    pub fn forward(
        &self,
        rows: usize,
        mut x_y: InOut<'_>,
        statistics: Option<[&mut [f32]; 2]>,
    ) -> Result<(), KernelError> {
        self.check()?;
        let (x, y) = x_y.check(
            "layer norm input and output",
            elements([rows, self.channels]),
        )?;
        for saved in statistics.iter().flatten() {
            expect_len("row statistics", saved.len(), rows)?;
        }
        let [mean, inv_std] = match statistics {
            Some([mean, inv_std]) => [Out::optional(Some(mean)), Out::optional(Some(inv_std))],
            None => [Out::optional(None); 2],
        };
        let per_chunk = (CHUNK / self.channels).max(1);
        let isa = isa();
        parallel_for(rows.div_ceil(per_chunk), |i| {
            let chunk = ForwardRows {
                norm: self,
                first: i * per_chunk,
                end: ((i + 1) * per_chunk).min(rows),
                x,
                y,
                mean,
                inv_std,
            };
            dispatch_on(isa, chunk);
        });
        Ok(())
    }

    /// The gradients, given `x`, the statistics that the forward pass saved, and the output's gradient, which becomes
    /// the input's: `dy_dx` holds the one and receives the other, on top of `onto` where the input has a gradient already. `d_gamma` and
    /// `d_beta` are optional.
    ///
    /// # Errors
    ///
    /// If a slice has the wrong length or rows have no channels.
    pub fn backward(
        &self,
        rows: usize,
        x: &[f32],
        [mean, inv_std]: [&[f32]; 2],
        mut dy_dx: InOut<'_>,
        onto: Option<&[f32]>,
        [d_gamma, d_beta]: [Option<&mut [f32]>; 2],
    ) -> Result<(), KernelError> {
        self.check()?;
        let channels = self.channels;
        let len = elements([rows, channels]);
        expect_len("layer norm input", x.len(), len)?;
        let (dy, dx) = dy_dx.check("gradients of output and input", len)?;
        expect_len("row means", mean.len(), rows)?;
        expect_len("row deviations", inv_std.len(), rows)?;
        expect_len(
            "the input's other gradient",
            onto.map_or(len, <[f32]>::len),
            len,
        )?;
        for d in [&d_gamma, &d_beta].into_iter().flatten() {
            expect_len("gradient of gamma or beta", d.len(), channels)?;
        }
        let [least, most] = BLOCK;
        let per_block = ((len / 32).clamp(least, most) / channels).max(1);
        let blocks = rows.div_ceil(per_block);
        let mut totals = [vec![0.0f64; channels], vec![0.0f64; channels]];
        let isa = isa();
        with_local(|local| {
            let sums = local.a.resize(blocks * 2 * channels);
            let shared = SharedMut::new(sums);
            parallel_for(blocks, |i| {
                let block = BackwardRows {
                    norm: self,
                    first: i * per_block,
                    end: ((i + 1) * per_block).min(rows),
                    x: In::new(x),
                    dy,
                    dx,
                    onto: In::optional(onto),
                    mean,
                    inv_std,
                    // SAFETY: each block has its own sums.
                    sums: unsafe { shared.slice(i * 2 * channels, 2 * channels) },
                };
                dispatch_on(isa, block);
            });
            for sums in local.a.chunks(2 * channels) {
                add_repeated(&mut totals[0], &sums[..channels]);
                add_repeated(&mut totals[1], &sums[channels..]);
            }
        });
        for (d, total) in [d_gamma, d_beta].into_iter().zip(&totals) {
            for (d, &total) in d.into_iter().flatten().zip(total) {
                *d = total as f32;
            }
        }
        Ok(())
    }
}

/// 1 in the first `n` lanes, 0 in the others.
#[inline(always)]
fn first_lanes<S: Simd>(s: S, n: usize) -> S::V {
    let mut ones = [0.0f32; MOST_LANES];
    ones[..n].fill(1.0);
    // SAFETY: no vector has more lanes than the array.
    unsafe { s.load(ones.as_ptr()) }
}

struct ForwardRows<'a> {
    norm: &'a LayerNorm<'a>,
    first: usize,
    end: usize,
    x: In,
    y: Out,
    mean: Out,
    inv_std: Out,
}

impl Kernel for ForwardRows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let channels = self.norm.channels;
        let whole = channels - channels % S::LANES;
        let rest = channels - whole;
        let ones = first_lanes(s, rest);
        let (gamma, beta) = (In::optional(self.norm.gamma), In::optional(self.norm.beta));
        let per_channel = 1.0 / channels as f32;
        for row in self.first..self.end {
            let at = row * channels;
            // SAFETY: `forward` checked the lengths; rows belong to one chunk each.
            unsafe {
                // Two accumulators hide the latency of an addition.
                let mut sums = [s.zero(); 2];
                let mut col = 0;
                while col + 2 * S::LANES <= channels {
                    let a = self.x.get::<S, false>(s, at + col, S::LANES);
                    let b = self.x.get::<S, false>(s, at + col + S::LANES, S::LANES);
                    sums = [s.add(sums[0], a), s.add(sums[1], b)];
                    col += 2 * S::LANES;
                }
                if col < whole {
                    let a = self.x.get::<S, false>(s, at + col, S::LANES);
                    sums[0] = s.add(sums[0], a);
                }
                if rest > 0 {
                    let a = self.x.get::<S, true>(s, at + whole, rest);
                    sums[1] = s.add(sums[1], a);
                }
                let mean = s.reduce_add(s.add(sums[0], sums[1])) * per_channel;
                let mean_v = s.splat(mean);
                let mut squares = [s.zero(); 2];
                let mut col = 0;
                while col + 2 * S::LANES <= channels {
                    let a = self.x.get::<S, false>(s, at + col, S::LANES);
                    let b = self.x.get::<S, false>(s, at + col + S::LANES, S::LANES);
                    let (a, b) = (s.sub(a, mean_v), s.sub(b, mean_v));
                    squares = [s.mul_add(a, a, squares[0]), s.mul_add(b, b, squares[1])];
                    col += 2 * S::LANES;
                }
                if col < whole {
                    let a = s.sub(self.x.get::<S, false>(s, at + col, S::LANES), mean_v);
                    squares[0] = s.mul_add(a, a, squares[0]);
                }
                if rest > 0 {
                    let a = s.sub(self.x.get::<S, true>(s, at + whole, rest), mean_v);
                    let a = s.mul(a, ones);
                    squares[1] = s.mul_add(a, a, squares[1]);
                }
                let variance = s.reduce_add(s.add(squares[0], squares[1])) * per_channel;
                let inv_std = 1.0 / (variance + self.norm.epsilon).sqrt();
                if self.mean.is_some() {
                    self.mean.put::<S, true>(s, row, 1, mean_v);
                    self.inv_std.put::<S, true>(s, row, 1, s.splat(inv_std));
                }
                let inv_std = s.splat(inv_std);
                let mut col = 0;
                while col < whole {
                    let x = self.x.get::<S, false>(s, at + col, S::LANES);
                    let mut y = s.mul(s.sub(x, mean_v), inv_std);
                    if gamma.is_some() {
                        y = s.mul(y, gamma.get::<S, false>(s, col, S::LANES));
                    }
                    if beta.is_some() {
                        y = s.add(y, beta.get::<S, false>(s, col, S::LANES));
                    }
                    self.y.put::<S, false>(s, at + col, S::LANES, y);
                    col += S::LANES;
                }
                if rest > 0 {
                    let x = self.x.get::<S, true>(s, at + col, rest);
                    let mut y = s.mul(s.sub(x, mean_v), inv_std);
                    if gamma.is_some() {
                        y = s.mul(y, gamma.get::<S, true>(s, col, rest));
                    }
                    if beta.is_some() {
                        y = s.add(y, beta.get::<S, true>(s, col, rest));
                    }
                    self.y.put::<S, true>(s, at + col, rest, y);
                }
            }
        }
        s.fence();
    }
}

struct BackwardRows<'a> {
    norm: &'a LayerNorm<'a>,
    first: usize,
    end: usize,
    x: In,
    dy: In,
    dx: Out,
    onto: In,
    mean: &'a [f32],
    inv_std: &'a [f32],
    /// For gamma, then for beta.
    sums: &'a mut [f32],
}

impl Kernel for BackwardRows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        self.sums.fill(0.0);
        let mut row = self.first;
        let sums = self.sums.as_mut_ptr();
        while row + 4 <= self.end {
            // SAFETY: `backward` checked the lengths; rows and sums belong to one block each.
            unsafe { self.rows::<S, 4>(s, row, sums) };
            row += 4;
        }
        while row < self.end {
            // SAFETY: as above.
            unsafe { self.rows::<S, 1>(s, row, sums) };
            row += 1;
        }
        s.fence();
    }
}

impl BackwardRows<'_> {
    /// Handles `R` rows from `row` on; the sums for gamma and beta are loaded once for all of them.
    #[inline(always)]
    unsafe fn rows<S: Simd, const R: usize>(&self, s: S, row: usize, sums: *mut f32) {
        let channels = self.norm.channels;
        let whole = channels - channels % S::LANES;
        let rest = channels - whole;
        let mut mean = [s.zero(); R];
        let mut inv_std = [s.zero(); R];
        let mut plain = [s.zero(); R];
        let mut weighted = [s.zero(); R];
        for r in 0..R {
            mean[r] = s.splat(self.mean[row + r]);
            inv_std[r] = s.splat(self.inv_std[row + r]);
        }
        // SAFETY: the caller's promise.
        unsafe {
            let mut col = 0;
            while col < whole {
                self.reduce::<S, R, false>(
                    s,
                    row,
                    col,
                    S::LANES,
                    &mean,
                    &inv_std,
                    &mut plain,
                    &mut weighted,
                    sums,
                );
                col += S::LANES;
            }
            if rest > 0 {
                self.reduce::<S, R, true>(
                    s,
                    row,
                    col,
                    rest,
                    &mean,
                    &inv_std,
                    &mut plain,
                    &mut weighted,
                    sums,
                );
            }
            // dx = inv_std * (g - mean(g) - xhat * mean(g * xhat)) with g = dy * gamma
            let per_channel = 1.0 / channels as f32;
            for r in 0..R {
                let g = s.splat(s.reduce_add(plain[r]) * per_channel);
                let gx = s.splat(s.reduce_add(weighted[r]) * per_channel);
                let at = (row + r) * channels;
                let mut col = 0;
                while col < whole {
                    self.write::<S, false>(s, at, col, S::LANES, [mean[r], inv_std[r], g, gx]);
                    col += S::LANES;
                }
                if rest > 0 {
                    self.write::<S, true>(s, at, col, rest, [mean[r], inv_std[r], g, gx]);
                }
            }
        }
    }

    #[inline(always)]
    #[allow(clippy::too_many_arguments)]
    unsafe fn reduce<S: Simd, const R: usize, const PARTIAL: bool>(
        &self,
        s: S,
        row: usize,
        col: usize,
        n: usize,
        mean: &[S::V; R],
        inv_std: &[S::V; R],
        plain: &mut [S::V; R],
        weighted: &mut [S::V; R],
        sums: *mut f32,
    ) {
        let channels = self.norm.channels;
        // SAFETY: the caller's promise.
        unsafe {
            let gamma = self.gamma::<S, PARTIAL>(s, col, n);
            let (mut d_gamma, mut d_beta) = (s.zero(), s.zero());
            for r in 0..R {
                let at = (row + r) * channels + col;
                // Lanes that do not count hold dy = 0, so they add nothing.
                let dy = self.dy.get::<S, PARTIAL>(s, at, n);
                let x = self.x.get::<S, PARTIAL>(s, at, n);
                let normal = s.mul(s.sub(x, mean[r]), inv_std[r]);
                let g = s.mul(dy, gamma);
                plain[r] = s.add(plain[r], g);
                weighted[r] = s.mul_add(g, normal, weighted[r]);
                d_gamma = s.mul_add(dy, normal, d_gamma);
                d_beta = s.add(d_beta, dy);
            }
            let first = Out::at(sums);
            let (a, b) = (sums.add(col), sums.add(channels + col));
            let old_a = In::at(a).get::<S, PARTIAL>(s, 0, n);
            let old_b = In::at(b).get::<S, PARTIAL>(s, 0, n);
            first.put::<S, PARTIAL>(s, col, n, s.add(old_a, d_gamma));
            first.put::<S, PARTIAL>(s, channels + col, n, s.add(old_b, d_beta));
        }
    }

    #[inline(always)]
    unsafe fn gamma<S: Simd, const PARTIAL: bool>(&self, s: S, col: usize, n: usize) -> S::V {
        match self.norm.gamma {
            // SAFETY: the caller's promise.
            Some(gamma) => unsafe { In::new(gamma).get::<S, PARTIAL>(s, col, n) },
            None => s.splat(1.0),
        }
    }

    #[inline(always)]
    unsafe fn write<S: Simd, const PARTIAL: bool>(
        &self,
        s: S,
        at: usize,
        col: usize,
        n: usize,
        [mean, inv_std, g, gx]: [S::V; 4],
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            let gamma = self.gamma::<S, PARTIAL>(s, col, n);
            let dy = self.dy.get::<S, PARTIAL>(s, at + col, n);
            let x = self.x.get::<S, PARTIAL>(s, at + col, n);
            let normal = s.mul(s.sub(x, mean), inv_std);
            let d = s.sub(s.mul(dy, gamma), s.mul_add(normal, gx, g));
            let mut dx = s.mul(inv_std, d);
            if self.onto.is_some() {
                dx = s.add(dx, self.onto.get::<S, PARTIAL>(s, at + col, n));
            }
            self.dx.put::<S, PARTIAL>(s, at + col, n, dx);
        }
    }
}
