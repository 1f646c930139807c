//! One small vector abstraction over AVX-512, AVX2 + FMA, NEON and plain Rust.
//!
//! A kernel is written once, as an `#[inline(always)]` function that is generic over [`Simd`], and wrapped in a type that
//! implements [`Kernel`]. [`dispatch`] runs it with the best instruction set of this machine:
//!
//! ```
//! use lenslet_kernels::simd::{Kernel, Simd, dispatch};
//!
//! struct Double<'a>(&'a mut [f32]);
//!
//! impl Kernel for Double<'_> {
//!     type Output = ();
//!     #[inline(always)]
//!     fn run<S: Simd>(self, s: S) {
//!         for part in self.0.chunks_mut(S::LANES) {
//!             let v = s.load_slice(part);
//!             s.store_slice(part, s.add(v, v));
//!         }
//!     }
//! }
//!
//! let mut x = [1.0, 2.0, 3.0];
//! dispatch(Double(&mut x));
//! assert_eq!(x, [2.0, 4.0, 6.0]);
//! ```
//!
//! The tokens ([`Portable`] and, per architecture, `Avx512`, `Avx2`, `Neon`) can only be had where their instructions exist, so a
//! function that receives one may use them. [`Simd::vectorize`] enters a function compiled for the instruction set;
//! whatever is inlined into it is compiled the same way, hence `#[inline(always)]` on everything generic. Closures do not
//! inherit the instruction set; do not put vector code in them.

use std::sync::atomic::{AtomicU8, Ordering};

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;

#[cfg(target_arch = "x86_64")]
pub use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub use avx512::Avx512;
#[cfg(target_arch = "aarch64")]
pub use neon::Neon;
pub use portable::Portable;

/// An instruction set that this crate has kernels for, from the least to the most capable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Isa {
    /// Plain Rust on four-lane arrays; runs everywhere.
    Portable = 1,
    /// Armv8 Advanced SIMD, four lanes.
    Neon = 2,
    /// AVX2 with FMA, eight lanes.
    Avx2 = 3,
    /// AVX-512F and DQ, sixteen lanes.
    Avx512 = 4,
}

impl Isa {
    const ALL: [Isa; 4] = [Isa::Portable, Isa::Neon, Isa::Avx2, Isa::Avx512];

    /// The name that `LENSLET_ISA` takes and that benchmarks print.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Portable => "portable",
            Isa::Neon => "neon",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
        }
    }

    /// The instruction set of that name, if there is one.
    pub fn from_name(name: &str) -> Option<Isa> {
        Self::ALL.into_iter().find(|isa| isa.name() == name)
    }

    /// Whether this machine can run it.
    pub fn is_available(self) -> bool {
        match self {
            Isa::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => Avx2::new().is_some(),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => Avx512::new().is_some(),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => Neon::new().is_some(),
            #[allow(unreachable_patterns)]
            _ => false,
        }
    }

    /// Every instruction set that this machine can run, the portable one first.
    pub fn available() -> Vec<Isa> {
        Self::ALL
            .into_iter()
            .filter(|isa| isa.is_available())
            .collect()
    }

    /// The best instruction set of this machine that is not above `limit`.
    fn best_up_to(limit: Isa) -> Isa {
        Self::ALL
            .into_iter()
            .rev()
            .find(|&isa| isa <= limit && isa.is_available())
            .unwrap_or(Isa::Portable)
    }
}

impl std::fmt::Display for Isa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// 0 means "not chosen yet".
static CURRENT: AtomicU8 = AtomicU8::new(0);

/// The instruction set that kernels use now.
///
/// On first use it is the best that the machine has, capped by the environment variable `LENSLET_ISA` (`portable`, `neon`, `avx2`
/// or `avx512`; anything else is ignored).
pub fn isa() -> Isa {
    let raw = CURRENT.load(Ordering::Relaxed);
    match Isa::ALL.into_iter().find(|&isa| isa as u8 == raw) {
        Some(isa) => isa,
        None => {
            let limit = std::env::var("LENSLET_ISA")
                .ok()
                .and_then(|name| Isa::from_name(name.trim()))
                .unwrap_or(Isa::Avx512);
            let best = Isa::best_up_to(limit);
            // Another thread may have chosen meanwhile.
            match CURRENT.compare_exchange(0, best as u8, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => best,
                Err(_) => isa(),
            }
        }
    }
}

/// Caps the instruction set from now on, for the whole process, and returns the one chosen.
///
/// Meant for tests and benchmarks. Weights that are already packed keep the set they were packed for.
pub fn set_isa_limit(limit: Isa) -> Isa {
    let isa = Isa::best_up_to(limit);
    CURRENT.store(isa as u8, Ordering::Relaxed);
    isa
}

/// A computation written once for every instruction set.
pub trait Kernel {
    /// What the computation returns.
    type Output;

    /// Runs it. Implementations carry `#[inline(always)]`.
    fn run<S: Simd>(self, s: S) -> Self::Output;
}

/// Runs `kernel` with the instruction set that [`isa`] names.
pub fn dispatch<K: Kernel>(kernel: K) -> K::Output {
    dispatch_on(isa(), kernel)
}

/// Runs `kernel` with the instruction set `isa`.
///
/// # Panics
///
/// Where this machine does not have `isa`.
pub fn dispatch_on<K: Kernel>(isa: Isa, kernel: K) -> K::Output {
    match isa {
        Isa::Portable => Portable::new().vectorize(kernel),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => Avx2::new()
            .expect("this machine has no AVX2 with FMA")
            .vectorize(kernel),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => Avx512::new()
            .expect("this machine has no AVX-512F")
            .vectorize(kernel),
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => Neon::new()
            .expect("this machine has no NEON")
            .vectorize(kernel),
        #[allow(unreachable_patterns)]
        other => panic!("this machine cannot run {other} kernels"),
    }
}

/// Vectors of `f32` of one instruction set. A value of the implementing type proves that the instructions exist.
///
/// Arithmetic follows IEEE 754 lane by lane, except that [`Simd::mul_add`] rounds twice on [`Portable`] (a fused
/// operation without the instruction is a slow library call).
pub trait Simd: Copy + Send + Sync + 'static {
    /// A vector of [`Simd::LANES`] floats.
    type V: Copy;
    /// One truth value per lane.
    type M: Copy;

    /// Floats per vector.
    const LANES: usize;
    /// Which instruction set this is.
    const ISA: Isa;
    /// Vector registers of the architecture; kernels size their register tiles by it.
    const REGISTERS: usize;

    /// Runs `kernel` in a function compiled for this instruction set (not inlined into the caller).
    fn vectorize<K: Kernel>(self, kernel: K) -> K::Output;

    /// All lanes `x`.
    fn splat(self, x: f32) -> Self::V;

    /// Loads [`Simd::LANES`] floats; no alignment is needed.
    ///
    /// # Safety
    /// `p` must be valid for reading that many floats.
    unsafe fn load(self, p: *const f32) -> Self::V;

    /// Stores [`Simd::LANES`] floats; no alignment is needed.
    ///
    /// # Safety
    /// `p` must be valid for writing that many floats.
    unsafe fn store(self, p: *mut f32, v: Self::V);

    /// Loads the first `n <= LANES` lanes, zero in the others; memory behind them is not touched.
    ///
    /// # Safety
    /// `p` must be valid for reading `n` floats.
    unsafe fn load_n(self, p: *const f32, n: usize) -> Self::V;

    /// Stores the first `n <= LANES` lanes; memory behind them is not touched.
    ///
    /// # Safety
    /// `p` must be valid for writing `n` floats.
    unsafe fn store_n(self, p: *mut f32, n: usize, v: Self::V);

    /// Stores past the caches where the instruction set can and `p` is aligned to the vector; for outputs larger than the
    /// last cache level. Call [`Simd::fence`] before another thread reads.
    ///
    /// # Safety
    /// As for [`Simd::store`].
    #[inline(always)]
    unsafe fn store_stream(self, p: *mut f32, v: Self::V) {
        // SAFETY: the caller's promise is the one that `store` asks for.
        unsafe { self.store(p, v) }
    }

    /// Orders [`Simd::store_stream`] before whatever follows.
    #[inline(always)]
    fn fence(self) {}

    /// `a + b`
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a - b`
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b`
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a / b`
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a / b` lane by lane, within 2 units in the last place, for `b` from 1 to 2^126.
    #[inline(always)]
    fn quotients<const N: usize>(self, a: [Self::V; N], b: [Self::V; N]) -> [Self::V; N] {
        let mut y = a;
        for i in 0..N {
            y[i] = self.div(a[i], b[i]);
        }
        y
    }
    /// `a * b + c`
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `c - a * b`
    fn neg_mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The larger of each lane. A NaN in `b` stays; a NaN in `a` may be dropped, so give the constant first.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// The smaller of each lane, with NaN as in [`Simd::max`].
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// Square root.
    fn sqrt(self, a: Self::V) -> Self::V;
    /// Absolute value.
    fn abs(self, a: Self::V) -> Self::V;
    /// Sign change.
    fn neg(self, a: Self::V) -> Self::V;
    /// `a * 2^n` for integral `n` within [-252, 252].
    fn scale_by_pow2(self, a: Self::V, n: Self::V) -> Self::V;
    /// `a * 2^n` for integral `n` within [-126, 127]; infinite for `n` = 128 and positive `a`.
    #[inline(always)]
    fn scale_by_near_pow2(self, a: Self::V, n: Self::V) -> Self::V {
        self.scale_by_pow2(a, n)
    }
    /// 2^x for x up to 127, within a relative error of 2e-7; 1e-38 or less below -126, infinite from 128 to 129.
    #[inline(always)]
    fn pow2s<const N: usize>(self, x: [Self::V; N]) -> [Self::V; N] {
        crate::vmath::pow2s(self, x)
    }
    /// `a < b`
    fn lt(self, a: Self::V, b: Self::V) -> Self::M;
    /// `a == b`
    fn eq(self, a: Self::V, b: Self::V) -> Self::M;
    /// `m ? a : b`
    fn select(self, m: Self::M, a: Self::V, b: Self::V) -> Self::V;
    /// Sum of the lanes (in a fixed order).
    fn reduce_add(self, a: Self::V) -> f32;
    /// Largest lane.
    fn reduce_max(self, a: Self::V) -> f32;
    /// Smallest lane.
    fn reduce_min(self, a: Self::V) -> f32;

    /// Writes the transpose of the LANES x LANES block at `src` (rows `src_ld` floats apart) to `dst` (rows `dst_ld` apart).
    ///
    /// # Safety
    /// Both blocks must be valid and must not overlap.
    #[inline(always)]
    unsafe fn transpose(self, src: *const f32, src_ld: usize, dst: *mut f32, dst_ld: usize) {
        for i in 0..Self::LANES {
            for j in 0..Self::LANES {
                // SAFETY: inside the blocks that the caller promises.
                unsafe { *dst.add(j * dst_ld + i) = *src.add(i * src_ld + j) };
            }
        }
    }

    /// Asks for the cache line at `p`; any address is allowed.
    #[inline(always)]
    fn prefetch(self, p: *const f32) {
        let _ = p;
    }

    /// Asks for the cache line at `p` in the second cache level; any address is allowed.
    #[inline(always)]
    fn prefetch_far(self, p: *const f32) {
        let _ = p;
    }

    /// All lanes zero.
    #[inline(always)]
    fn zero(self) -> Self::V {
        self.splat(0.0)
    }

    /// Loads the first `min(LANES, x.len())` lanes of a slice, zero in the others.
    #[inline(always)]
    fn load_slice(self, x: &[f32]) -> Self::V {
        if x.len() >= Self::LANES {
            // SAFETY: the slice holds at least LANES floats.
            unsafe { self.load(x.as_ptr()) }
        } else {
            // SAFETY: exactly the slice's floats are read.
            unsafe { self.load_n(x.as_ptr(), x.len()) }
        }
    }

    /// Stores the first `min(LANES, x.len())` lanes to a slice.
    #[inline(always)]
    fn store_slice(self, x: &mut [f32], v: Self::V) {
        if x.len() >= Self::LANES {
            // SAFETY: the slice holds at least LANES floats.
            unsafe { self.store(x.as_mut_ptr(), v) }
        } else {
            // SAFETY: exactly the slice's floats are written.
            unsafe { self.store_n(x.as_mut_ptr(), x.len(), v) }
        }
    }
}

#[cfg(test)]
mod tests;
