//! Dropout whose mask is a function of a seed and of the element's position, so that it need not be stored.

use crate::error::KernelError;
use crate::inout::{In, InOut, Out};
use crate::pool::{parallel_chunks_mut, parallel_for};
use crate::simd::{Kernel, Simd, dispatch_on, isa};

/// Elements of a chunk.
const CHUNK: usize = 32 << 10;
/// Mask values made at a time.
const PIECE: usize = 512;

/// A mask: which elements stay, and the factor they get.
#[derive(Clone, Copy)]
struct Mask {
    seed: u64,
    /// Elements whose random 24-bit number is below this are dropped.
    threshold: u32,
    keep: f32,
}

impl Mask {
    fn new(seed: u64, p: f32) -> Result<Self, KernelError> {
        if !(0.0..1.0).contains(&p) {
            return Err(KernelError::Shape {
                what: "dropout",
                why: format!("the probability {p} is not in [0, 1)"),
            });
        }
        Ok(Mask {
            seed,
            threshold: (p * (1 << 24) as f32) as u32,
            keep: 1.0 / (1.0 - p),
        })
    }

    /// The factors of elements `start..start + out.len()`, where `start` is a multiple of [`PIECE`].
    #[inline(always)]
    fn fill(self, start: usize, out: &mut [f32]) {
        // One key per piece, so that the loop works on 32-bit numbers.
        let key = mix64(self.seed ^ mix64((start / PIECE) as u64));
        let (first, second) = (key as u32, (key >> 32) as u32);
        for (i, out) in out.iter_mut().enumerate() {
            let random = mix32(mix32((i as u32).wrapping_mul(0x9e37_79b9) ^ first) ^ second);
            *out = if (random >> 8) < self.threshold {
                0.0
            } else {
                self.keep
            };
        }
    }
}

/// A bijection that makes neighbouring numbers unrelated (the finaliser of MurmurHash3).
#[inline(always)]
fn mix32(mut x: u32) -> u32 {
    x = (x ^ (x >> 16)).wrapping_mul(0x85eb_ca6b);
    x = (x ^ (x >> 13)).wrapping_mul(0xc2b2_ae35);
    x ^ (x >> 16)
}

/// The same for 64 bits (the finaliser of SplitMix64).
#[inline(always)]
fn mix64(x: u64) -> u64 {
    let mut x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// y = x * mask, where each factor is 0 with probability `p` and else 1 / (1 - p).
///
/// The mask depends on the seed and the position only. The backward pass is the same call, with the same seed, on the gradient.
///
/// # Errors
///
/// If the slices have different lengths or `p` is not in [0, 1).
pub fn dropout(seed: u64, p: f32, mut x_y: InOut<'_>) -> Result<(), KernelError> {
    let mask = Mask::new(seed, p)?;
    let len = x_y.len();
    let (x, y) = x_y.check("dropout input and output", len)?;
    let isa = isa();
    parallel_for(len.div_ceil(CHUNK), |i| {
        let chunk = Dropout {
            mask,
            x,
            y,
            start: i * CHUNK,
            end: ((i + 1) * CHUNK).min(len),
        };
        dispatch_on(isa, chunk);
    });
    Ok(())
}

/// Writes the mask that [`dropout`] applies; with one element per sample, the factors of stochastic depth.
///
/// # Errors
///
/// If `p` is not in [0, 1).
pub fn dropout_mask(seed: u64, p: f32, out: &mut [f32]) -> Result<(), KernelError> {
    let mask = Mask::new(seed, p)?;
    parallel_chunks_mut(out, PIECE, |i, out| mask.fill(i * PIECE, out));
    Ok(())
}

struct Dropout {
    mask: Mask,
    x: In,
    y: Out,
    start: usize,
    end: usize,
}

impl Kernel for Dropout {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut factors = [0.0f32; PIECE];
        let mut start = self.start;
        while start < self.end {
            let len = PIECE.min(self.end - start);
            self.mask.fill(start, &mut factors);
            let factors = In::new(&factors);
            let mut i = 0;
            // SAFETY: `dropout` checked the lengths; elements belong to one chunk each.
            unsafe {
                while i + S::LANES <= len {
                    let x = self.x.get::<S, false>(s, start + i, S::LANES);
                    let y = s.mul(x, factors.get::<S, false>(s, i, S::LANES));
                    self.y.put::<S, false>(s, start + i, S::LANES, y);
                    i += S::LANES;
                }
                if i < len {
                    let x = self.x.get::<S, true>(s, start + i, len - i);
                    let y = s.mul(x, factors.get::<S, true>(s, i, len - i));
                    self.y.put::<S, true>(s, start + i, len - i, y);
                }
            }
            start += len;
        }
        s.fence();
    }
}
