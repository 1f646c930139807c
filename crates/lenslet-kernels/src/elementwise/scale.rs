//! Scaling by a factor per channel, per sample, or per sample and channel.

use crate::columns::{ColumnMap, ColumnTerms, Layout, channel_sums, map_columns};
use crate::error::{KernelError, elements, expect_len};
use crate::inout::{In, InOut, Out};
use crate::pool::{SharedMut, parallel_for};
use crate::simd::Simd;

/// Factors for a `[samples, pixels, channels]` buffer.
#[derive(Clone, Copy, Debug)]
pub enum Factor<'a> {
    /// `[channels]`: layer scale.
    Channels(&'a [f32]),
    /// `[samples]`: stochastic depth, whose factors are 0 or 1 / (1 - p).
    Samples(&'a [f32]),
    /// `[samples, channels]`: squeeze and excitation.
    SampleChannels(&'a [f32]),
}

/// The shape of a buffer to scale.
#[derive(Clone, Copy, Debug)]
pub struct Scaling {
    /// Images of a batch.
    pub samples: usize,
    /// Pixels of an image.
    pub pixels: usize,
    /// Channels of a pixel.
    pub channels: usize,
}

/// A scaling cut into parts that have one row of factors each.
struct Parts {
    count: usize,
    /// Floats of a part.
    len: usize,
    layout: Layout,
    /// Factors of a part.
    factors: usize,
}

impl Scaling {
    fn parts(&self, factor: Factor<'_>) -> Result<Parts, KernelError> {
        let Scaling {
            samples,
            pixels,
            channels,
        } = *self;
        let len = elements([pixels, channels]);
        let (factors, parts) = match factor {
            Factor::Channels(factors) => {
                let layout = Layout::new(elements([samples, pixels]), channels);
                let parts = Parts {
                    count: 1,
                    len: elements([samples, len]),
                    layout,
                    factors: channels,
                };
                (factors, parts)
            }
            Factor::Samples(factors) => {
                let parts = Parts {
                    count: samples,
                    len,
                    layout: Layout::flat(len),
                    factors: 1,
                };
                (factors, parts)
            }
            Factor::SampleChannels(factors) => {
                let parts = Parts {
                    count: samples,
                    len,
                    layout: Layout::new(pixels, channels),
                    factors: channels,
                };
                (factors, parts)
            }
        };
        expect_len(
            "factors",
            factors.len(),
            elements([parts.count, parts.factors]),
        )?;
        Ok(parts)
    }

    fn len(&self) -> usize {
        elements([self.samples, self.pixels, self.channels])
    }

    /// y = x * factor + residual.
    ///
    /// # Errors
    ///
    /// If a slice has the wrong length.
    pub fn forward(
        &self,
        mut x_y: InOut<'_>,
        factor: Factor<'_>,
        residual: Option<&[f32]>,
    ) -> Result<(), KernelError> {
        let parts = self.parts(factor)?;
        let (x, y) = x_y.check("scaling input and output", self.len())?;
        expect_len(
            "residual",
            residual.map_or(self.len(), <[f32]>::len),
            self.len(),
        )?;
        parts.for_each(factor, |i, factors| {
            let map = Forward {
                x,
                y,
                residual: In::optional(residual),
                factors: In::new(factors),
                start: i * parts.len,
            };
            // SAFETY: the lengths were checked; the factors have the layout's width.
            unsafe { map_columns(&parts.layout, &map) };
        });
        Ok(())
    }

    /// dx = dy * factor and, in the same pass, the factor's gradient: dy * x summed over what shares it. (The
    /// residual's gradient is dy.)
    ///
    /// # Errors
    ///
    /// If a slice has the wrong length.
    pub fn backward(
        &self,
        x: &[f32],
        factor: Factor<'_>,
        mut dy_dx: InOut<'_>,
        d_factor: &mut [f32],
    ) -> Result<(), KernelError> {
        let parts = self.parts(factor)?;
        expect_len("scaling input", x.len(), self.len())?;
        let (dy, dx) = dy_dx.check("gradients of output and input", self.len())?;
        expect_len(
            "gradient of the factors",
            d_factor.len(),
            parts.count * parts.factors,
        )?;
        let d_factor = SharedMut::new(d_factor);
        parts.for_each(factor, |i, factors| {
            let terms = Backward {
                x: In::new(x),
                dy,
                dx,
                factors: In::new(factors),
                start: i * parts.len,
            };
            // With one factor a sample, every column is added to the same sum.
            let channels = parts.factors;
            // SAFETY: the lengths were checked; the factors have the layout's width.
            let sums = unsafe { channel_sums(&parts.layout, channels, &terms) };
            // SAFETY: each part has its own factors.
            let out = unsafe { d_factor.slice(i * channels, channels) };
            for (d, sum) in out.iter_mut().zip(sums) {
                *d = sum[0] as f32;
            }
        });
        Ok(())
    }
}

impl Parts {
    /// Runs `body` with the index and the factors, repeated to the layout's width, of each part.
    fn for_each(&self, factor: Factor<'_>, body: impl Fn(usize, &[f32]) + Sync) {
        let (Factor::Channels(factors)
        | Factor::Samples(factors)
        | Factor::SampleChannels(factors)) = factor;
        parallel_for(self.count, |i| {
            let own = &factors[i * self.factors..(i + 1) * self.factors];
            let repeat = self.layout.width / self.factors.max(1);
            body(i, &own.repeat(repeat));
        });
    }
}

struct Forward {
    x: In,
    y: Out,
    residual: In,
    factors: In,
    /// First element of the part.
    start: usize,
}

impl ColumnMap for Forward {
    type Params<S: Simd> = S::V;

    #[inline(always)]
    unsafe fn params<S: Simd, const PARTIAL: bool>(&self, s: S, col: usize, n: usize) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { self.factors.get::<S, PARTIAL>(s, col, n) }
    }

    #[inline(always)]
    unsafe fn apply<S: Simd, const PARTIAL: bool>(&self, s: S, factor: S::V, at: usize, n: usize) {
        let at = self.start + at;
        // SAFETY: the caller's promise, for the part from `start` on.
        unsafe {
            let mut y = s.mul(self.x.get::<S, PARTIAL>(s, at, n), factor);
            if self.residual.is_some() {
                y = s.add(y, self.residual.get::<S, PARTIAL>(s, at, n));
            }
            self.y.put::<S, PARTIAL>(s, at, n, y);
        }
    }
}

struct Backward {
    x: In,
    dy: In,
    dx: Out,
    factors: In,
    /// First element of the part.
    start: usize,
}

impl ColumnTerms for Backward {
    type Params<S: Simd> = S::V;

    #[inline(always)]
    unsafe fn params<S: Simd, const PARTIAL: bool>(
        &self,
        s: S,
        _start: usize,
        col: usize,
        n: usize,
    ) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { self.factors.get::<S, PARTIAL>(s, col, n) }
    }

    /// Also writes dx: every element is visited once.
    #[inline(always)]
    unsafe fn terms<S: Simd, const PARTIAL: bool>(
        &self,
        s: S,
        factor: S::V,
        at: usize,
        n: usize,
    ) -> [S::V; 2] {
        let at = self.start + at;
        // SAFETY: the caller's promise, for the part from `start` on.
        unsafe {
            let dy = self.dy.get::<S, PARTIAL>(s, at, n);
            let x = self.x.get::<S, PARTIAL>(s, at, n);
            self.dx.put::<S, PARTIAL>(s, at, n, s.mul(dy, factor));
            [s.mul(dy, x), s.zero()]
        }
    }
}
