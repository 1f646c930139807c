//! A pointwise convolution over a feature map times a factor per image and channel (squeeze-and-excitation): the product of both is
//! never written out.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use super::indirect::Indirect;
use crate::buffer::AlignedBuf;
use crate::epilogue::Post;
use crate::matrix::Matrix;
use crate::panels::Packed;
use crate::pool::parallel_for;
use crate::product::{CHUNK, MatrixRows, Output, Product, Rows};
use crate::simd::{Isa, Kernel, Simd, dispatch_on};
use crate::tile::LINE;

/// Up to so many pixels an output channel, rows are multiplied by the gate instead of weights: every thread multiplies the rows, or all the
/// weights, that it reads itself, since lines that another thread has read take several times as long to be written again. The number
/// is that of two threads; one that followed the threads would make results depend on them.
const PIXELS_PER_CHANNEL: usize = 2;

/// Floats of rows times gates that a product has at most, except where one image has more: every thread keeps room for all of them.
const HELD: usize = 1 << 20;

/// The next gated product's number.
static PRODUCTS: AtomicU64 = AtomicU64::new(1);

thread_local! {
    static ROWS: RefCell<RowsTimesGate> = const { RefCell::new(RowsTimesGate {
        product: 0,
        done: Vec::new(),
        data: AlignedBuf::new(),
    }) };
    static WEIGHTS: RefCell<WeightsTimesGate> = RefCell::new(WeightsTimesGate {
        product: 0,
        packed: Packed::empty(),
    });
}

/// The weights of one product, times its gate.
struct WeightsTimesGate {
    product: u64,
    packed: Packed,
}

impl WeightsTimesGate {
    fn multiply(&mut self, weights: &Packed, gate: &[f32]) {
        let panels = weights.panels;
        self.packed.panels = panels;
        (self.packed.k, self.packed.groups) = (weights.k, 1);
        let to = self.packed.data.resize(weights.data.len());
        for panel in (0..panels.count).map(|i| panels.get(i)) {
            let from = weights.panel(0, &panel);
            let to = &mut to[panel.col * weights.k..][..from.len()];
            let width = panel.width;
            dispatch_on(
                panels.isa,
                Gated {
                    from,
                    gate,
                    width,
                    to,
                },
            );
        }
    }
}

/// The rows of one product that this thread has multiplied by their gates.
struct RowsTimesGate {
    product: u64,
    done: Vec<bool>,
    data: AlignedBuf,
}

/// Some rows of pixels, each times its image's gate.
struct GatedRows<'a> {
    x: Matrix<'a>,
    /// Which of the rows of `x`.
    range: Range<usize>,
    k: usize,
    /// `k` factors an image.
    gate: &'a [f32],
    /// Rows of an image.
    pixels: usize,
    isa: Isa,
    product: u64,
}

impl Rows for GatedRows<'_> {
    fn count(&self) -> usize {
        self.range.len()
    }

    fn fill(&self, first: usize, a: &mut [*const f32], outputs: &mut [usize]) {
        let stride = row_stride(self.k);
        ROWS.with_borrow_mut(|rows| {
            if rows.product != self.product {
                rows.product = self.product;
                rows.done.clear();
                rows.done.resize(self.count(), false);
                rows.data.resize(self.count() * stride);
            }
            for (i, (a, output)) in a.iter_mut().zip(outputs).enumerate() {
                let place = first + i;
                let row = self.range.start + place;
                let to = &mut rows.data[place * stride..][..self.k];
                *a = to.as_ptr();
                *output = row;
                if !std::mem::replace(&mut rows.done[place], true) {
                    let times = Times {
                        from: &self.x.data[row * self.x.ld..][..self.k],
                        gate: &self.gate[row / self.pixels * self.k..][..self.k],
                        to,
                    };
                    dispatch_on(self.isa, times);
                }
            }
        });
    }
}

/// Floats from one multiplied row to the next: an odd number of lines, so that rows do not collide in the first cache level.
fn row_stride(k: usize) -> usize {
    (k.div_ceil(LINE) | 1) * LINE
}

/// `to = from * gate`.
struct Times<'a> {
    from: &'a [f32],
    gate: &'a [f32],
    to: &'a mut [f32],
}

impl Kernel for Times<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let pairs = self.from.chunks(S::LANES).zip(self.gate.chunks(S::LANES));
        for (to, (from, gate)) in self.to.chunks_mut(S::LANES).zip(pairs) {
            s.store_slice(to, s.mul(s.load_slice(from), s.load_slice(gate)));
        }
    }
}

impl Indirect {
    /// Runs a pointwise convolution over `n` images of `pixels` rows, each times its own factors for the input channels.
    ///
    /// # Safety
    ///
    /// Input, gate, output and post must cover `n` images of this size.
    #[allow(clippy::too_many_arguments)]
    pub unsafe fn run_gated(
        &self,
        n: usize,
        pixels: usize,
        x: Matrix<'_>,
        gate: &[f32],
        y: Output,
        post: Post,
    ) {
        let packed = self.packed();
        let (k, panels) = (packed.k, packed.panels);
        if pixels <= PIXELS_PER_CHANNEL * panels.n && k > 0 {
            // SAFETY: the caller's promise.
            return unsafe { self.run_gated_rows(n, pixels, x, gate, y, post) };
        }
        let most = pixels.div_ceil(2 * panels.tile_rows()).max(1);
        let wanted = pixels.saturating_mul(k * panels.n) / CHUNK;
        let per_image = wanted.next_multiple_of(2).clamp(1, most);
        let product = PRODUCTS.fetch_add(n as u64, Ordering::Relaxed);
        parallel_for(n * per_image, |i| {
            // Whole, as they may be shared.
            let (y, post) = (y, post);
            let (image, chunk) = (i / per_image, i % per_image);
            let start = |chunk: usize| image * pixels + chunk * pixels / per_image;
            let rows = start(chunk)..start(chunk + 1);
            WEIGHTS.with_borrow_mut(|weights| {
                let product = product + image as u64;
                if std::mem::replace(&mut weights.product, product) != product {
                    weights.multiply(packed, &gate[image * k..(image + 1) * k]);
                }
                let residual = match post.residual.is_null() {
                    true => post.residual,
                    false => post.residual.wrapping_add(rows.start * post.ld_residual),
                };
                let product = Product {
                    rows: &MatrixRows {
                        data: x.data.as_ptr().wrapping_add(rows.start * x.ld),
                        ld: x.ld,
                        count: rows.len(),
                    },
                    taps: 1,
                    weights: &weights.packed,
                    output: Output {
                        data: y.data.wrapping_add(rows.start * y.ld),
                        ld: y.ld,
                    },
                    post: Some(Post { residual, ..post }),
                    accumulate: false,
                    group_steps: [0, 0],
                };
                // SAFETY: the caller's promise; chunks write different rows.
                unsafe { product.run_here() };
            });
        });
    }

    /// The same by multiplying rows, each thread those that it reads.
    ///
    /// # Safety
    ///
    /// As for [`Indirect::run_gated`].
    unsafe fn run_gated_rows(
        &self,
        n: usize,
        pixels: usize,
        x: Matrix<'_>,
        gate: &[f32],
        y: Output,
        post: Post,
    ) {
        let weights = self.packed();
        let together = (HELD / (pixels * row_stride(weights.k)).max(1)).max(1);
        for first in (0..n).step_by(together) {
            let images = first..(first + together).min(n);
            let product = Product {
                rows: &GatedRows {
                    x,
                    range: images.start * pixels..images.end * pixels,
                    k: weights.k,
                    gate,
                    pixels,
                    isa: weights.panels.isa,
                    product: PRODUCTS.fetch_add(1, Ordering::Relaxed),
                },
                taps: 1,
                weights,
                output: y,
                post: Some(post),
                accumulate: false,
                group_steps: [0, 0],
            };
            // SAFETY: a thread's copy stays where it is until the thread begins another gated product; the rest is the caller's promise.
            unsafe { product.run() };
        }
    }
}

/// A panel times a factor for each of its rows.
struct Gated<'a> {
    from: &'a [f32],
    gate: &'a [f32],
    width: usize,
    to: &'a mut [f32],
}

impl Kernel for Gated<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let rows = self.from.chunks_exact(self.width);
        for ((from, to), &gate) in rows
            .zip(self.to.chunks_exact_mut(self.width))
            .zip(self.gate)
        {
            let gate = s.splat(gate);
            for (from, to) in from
                .chunks_exact(S::LANES)
                .zip(to.chunks_exact_mut(S::LANES))
            {
                let y = s.mul(gate, s.load_slice(from));
                s.store_slice(to, y);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::conv::{Algorithm, Conv2d, PackedConv, Pass};
    use crate::epilogue::{Activation, Epilogue, Residual, ResidualPosition};
    use crate::matrix::{Matrix, MatrixMut};
    use crate::testing::{assert_close, poisoned, random, sum_tolerance, with_each_isa};
    use proptest::prelude::*;

    fn check_gates([n, h, w]: [usize; 3], [c_in, c_out]: [usize; 2], pads: [usize; 2], seed: u64) {
        let shape = Conv2d::new([n, h, w, c_in], c_out, [1, 1]);
        let pixels = h * w;
        let (ldx, ldy) = (c_in + pads[0], c_out + pads[1]);
        let (x, w) = (
            random(n * pixels * ldx, seed),
            random(c_out * c_in, seed ^ 1),
        );
        let (gate, bias) = (random(n * c_in, seed ^ 2), random(c_out, seed ^ 3));
        let residual = random(n * pixels * c_out, seed ^ 4);
        let epilogue = Epilogue {
            bias: Some(&bias),
            residual: Some(Residual {
                data: &residual,
                ld: c_out,
                position: ResidualPosition::BeforeActivation,
            }),
            activation: Activation::Relu,
            ..Epilogue::NONE
        };
        let mut want = Vec::new();
        for row in 0..n * pixels {
            let gate = &gate[row / pixels * c_in..];
            for o in 0..c_out {
                let product: f64 = (0..c_in)
                    .map(|i| {
                        f64::from(x[row * ldx + i])
                            * f64::from(gate[i])
                            * f64::from(w[o * c_in + i])
                    })
                    .sum();
                let y = product + f64::from(bias[o]) + f64::from(residual[row * c_out + o]);
                want.push(y.max(0.0));
            }
        }
        with_each_isa(|isa| {
            let packed = PackedConv::new(&shape, Pass::Forward, &w).unwrap();
            assert!(packed.takes_gate() || packed.algorithm() != Algorithm::Indirect);
            if !packed.takes_gate() {
                return;
            }
            let mut y = poisoned(n * pixels * ldy);
            let (x, to) = (Matrix::new(&x, ldx), MatrixMut::new(&mut y, ldy));
            packed.run_gated(n, x, &gate, to, &epilogue).unwrap();
            let got: Vec<f32> = y
                .chunks(ldy)
                .flat_map(|row| row[..c_out].to_vec())
                .collect();
            // One more rounding a product than without a gate.
            assert_close(
                &format!("gated, {isa}"),
                &got,
                &want,
                2.0 * sum_tolerance(c_in),
            );
        });
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn gates_multiply_the_input(
            size in [1usize..4, 1usize..9, 1usize..9],
            channels in [1usize..70, 1usize..70],
            pads in [0usize..3, 0usize..3],
            seed in any::<u64>(),
        ) {
            check_gates(size, channels, pads, seed);
        }
    }

    /// More images than are multiplied together, and several chunks for each of them.
    #[test]
    fn gates_multiply_many_images() {
        check_gates([11, 14, 14], [480, 64], [0, 0], 1);
        check_gates([2, 7, 7], [1152, 192], [3, 5], 2);
    }

    #[test]
    fn only_pointwise_convolutions_take_a_gate() {
        let shape = Conv2d::new([1, 4, 4, 8], 8, [3, 3]).padding(1);
        let packed =
            PackedConv::with_algorithm(&shape, Pass::Forward, Algorithm::Indirect, &[0.0; 576])
                .unwrap();
        assert!(!packed.takes_gate());
        let mut y = [0.0; 128];
        let (x, y) = (Matrix::new(&[0.0; 128], 8), MatrixMut::new(&mut y, 8));
        let refused = packed.run_gated(1, x, &[1.0; 8], y, &Epilogue::NONE);
        assert!(refused.is_err());
    }
}
