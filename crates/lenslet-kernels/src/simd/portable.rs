//! Plain Rust: arrays of four floats, which every compiler back end turns into whatever vectors it has.

use super::{Isa, Kernel, Simd};

/// The instruction set that is always there.
#[derive(Clone, Copy, Debug, Default)]
pub struct Portable(());

impl Portable {
    /// The token.
    #[inline]
    pub fn new() -> Self {
        Portable(())
    }
}

/// Four floats.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(16))]
pub struct F32x4([f32; 4]);

/// Four truth values.
#[derive(Clone, Copy, Debug)]
pub struct Mask4([bool; 4]);

#[inline(never)]
fn enter<K: Kernel>(s: Portable, kernel: K) -> K::Output {
    kernel.run(s)
}

macro_rules! lanes {
    ($i:ident => $e:expr) => {{
        let mut out = [Default::default(); 4];
        let mut $i = 0;
        while $i < 4 {
            out[$i] = $e;
            $i += 1;
        }
        out
    }};
}

/// 2^n for n within the exponents of normal numbers.
#[inline(always)]
fn pow2(n: i32) -> f32 {
    f32::from_bits(((n + 127) as u32) << 23)
}

impl Simd for Portable {
    type V = F32x4;
    type M = Mask4;

    const LANES: usize = 4;
    const ISA: Isa = Isa::Portable;
    const REGISTERS: usize = 16;

    #[inline(always)]
    fn vectorize<K: Kernel>(self, kernel: K) -> K::Output {
        enter(self, kernel)
    }
    #[inline(always)]
    fn splat(self, x: f32) -> F32x4 {
        F32x4([x; 4])
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> F32x4 {
        // SAFETY: the caller promises four readable floats.
        F32x4(unsafe { p.cast::<[f32; 4]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: F32x4) {
        // SAFETY: the caller promises four writable floats.
        unsafe { p.cast::<[f32; 4]>().write_unaligned(v.0) }
    }
    #[inline(always)]
    unsafe fn load_n(self, p: *const f32, n: usize) -> F32x4 {
        let mut out = [0.0; 4];
        for (i, lane) in out.iter_mut().enumerate().take(n) {
            // SAFETY: `i < n`; `p` by the caller's promise.
            *lane = unsafe { *p.add(i) };
        }
        F32x4(out)
    }
    #[inline(always)]
    unsafe fn store_n(self, p: *mut f32, n: usize, v: F32x4) {
        for (i, lane) in v.0.iter().enumerate().take(n) {
            // SAFETY: `i < n`; `p` by the caller's promise.
            unsafe { *p.add(i) = *lane };
        }
    }
    #[inline(always)]
    fn add(self, a: F32x4, b: F32x4) -> F32x4 {
        F32x4(lanes!(i => a.0[i] + b.0[i]))
    }
    #[inline(always)]
    fn sub(self, a: F32x4, b: F32x4) -> F32x4 {
        F32x4(lanes!(i => a.0[i] - b.0[i]))
    }
    #[inline(always)]
    fn mul(self, a: F32x4, b: F32x4) -> F32x4 {
        F32x4(lanes!(i => a.0[i] * b.0[i]))
    }
    #[inline(always)]
    fn div(self, a: F32x4, b: F32x4) -> F32x4 {
        F32x4(lanes!(i => a.0[i] / b.0[i]))
    }
    #[inline(always)]
    fn mul_add(self, a: F32x4, b: F32x4, c: F32x4) -> F32x4 {
        F32x4(lanes!(i => a.0[i] * b.0[i] + c.0[i]))
    }
    #[inline(always)]
    fn neg_mul_add(self, a: F32x4, b: F32x4, c: F32x4) -> F32x4 {
        F32x4(lanes!(i => c.0[i] - a.0[i] * b.0[i]))
    }
    #[inline(always)]
    fn max(self, a: F32x4, b: F32x4) -> F32x4 {
        F32x4(lanes!(i => if a.0[i] > b.0[i] { a.0[i] } else { b.0[i] }))
    }
    #[inline(always)]
    fn min(self, a: F32x4, b: F32x4) -> F32x4 {
        F32x4(lanes!(i => if a.0[i] < b.0[i] { a.0[i] } else { b.0[i] }))
    }
    #[inline(always)]
    fn sqrt(self, a: F32x4) -> F32x4 {
        F32x4(lanes!(i => a.0[i].sqrt()))
    }
    #[inline(always)]
    fn abs(self, a: F32x4) -> F32x4 {
        F32x4(lanes!(i => a.0[i].abs()))
    }
    #[inline(always)]
    fn neg(self, a: F32x4) -> F32x4 {
        F32x4(lanes!(i => -a.0[i]))
    }
    #[inline(always)]
    fn scale_by_pow2(self, a: F32x4, n: F32x4) -> F32x4 {
        // Two factors, so that neither leaves the range of normal numbers.
        F32x4(lanes!(i => {
            let n = n.0[i] as i32;
            let half = n >> 1;
            a.0[i] * pow2(half) * pow2(n - half)
        }))
    }
    #[inline(always)]
    fn lt(self, a: F32x4, b: F32x4) -> Mask4 {
        Mask4(lanes!(i => a.0[i] < b.0[i]))
    }
    #[inline(always)]
    fn eq(self, a: F32x4, b: F32x4) -> Mask4 {
        Mask4(lanes!(i => a.0[i] == b.0[i]))
    }
    #[inline(always)]
    fn select(self, m: Mask4, a: F32x4, b: F32x4) -> F32x4 {
        F32x4(lanes!(i => if m.0[i] { a.0[i] } else { b.0[i] }))
    }
    #[inline(always)]
    fn reduce_add(self, a: F32x4) -> f32 {
        (a.0[0] + a.0[2]) + (a.0[1] + a.0[3])
    }
    #[inline(always)]
    fn reduce_max(self, a: F32x4) -> f32 {
        a.0.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }
    #[inline(always)]
    fn reduce_min(self, a: F32x4) -> f32 {
        a.0.into_iter().fold(f32::INFINITY, f32::min)
    }
}
