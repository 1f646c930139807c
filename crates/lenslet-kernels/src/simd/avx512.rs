//! AVX-512F and DQ: sixteen lanes, thirty-two registers, masked tails.

use super::{Isa, Kernel, Simd};
use crate::vmath::horner;
use std::arch::x86_64::*;
use std::sync::OnceLock;

/// Proof that AVX-512F and DQ (with AVX2 and FMA, which every such processor has) are there.
#[derive(Clone, Copy, Debug)]
pub struct Avx512 {
    /// Whether a division hides behind multiplications better than what replaces it.
    divides: bool,
}

impl Avx512 {
    /// The token, where the processor and the operating system support the instructions.
    #[inline]
    pub fn new() -> Option<Self> {
        let there = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma");
        there.then(|| Avx512 {
            divides: *DIVIDES.get_or_init(is_amd),
        })
    }
}

/// See [`Avx512::divides`]. On Zen 4 SiLU takes 10.8 cycles a vector with a division, which has a unit of its own, and 13.3 without.
static DIVIDES: OnceLock<bool> = OnceLock::new();

/// Whether AMD made this processor.
fn is_amd() -> bool {
    let id = __cpuid(0);
    [id.ebx, id.edx, id.ecx].map(u32::to_le_bytes).concat() == b"AuthenticAMD"
}

#[target_feature(enable = "avx512f,avx512dq,avx2,fma")]
#[inline(never)]
fn enter<K: Kernel>(s: Avx512, kernel: K) -> K::Output {
    kernel.run(s)
}

/// `vreduceps` takes away the next integer below.
const DOWN: i32 = _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC;

#[inline(always)]
fn first(n: usize) -> __mmask16 {
    debug_assert!(n <= 16);
    ((1u32 << n) - 1) as __mmask16
}

// Every unsafe block below calls an intrinsic of AVX-512F or DQ; the token proves that the instructions exist. Those that touch
// memory pass the caller's promise on.
impl Simd for Avx512 {
    type V = __m512;
    type M = __mmask16;

    const LANES: usize = 16;
    const ISA: Isa = Isa::Avx512;
    const REGISTERS: usize = 32;

    #[inline(always)]
    fn vectorize<K: Kernel>(self, kernel: K) -> K::Output {
        // SAFETY: the token proves that the instructions exist.
        unsafe { enter(self, kernel) }
    }
    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        // SAFETY: token.
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> __m512 {
        // SAFETY: token; `p` by the caller's promise.
        unsafe { _mm512_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: __m512) {
        // SAFETY: token; `p` by the caller's promise.
        unsafe { _mm512_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn load_n(self, p: *const f32, n: usize) -> __m512 {
        // SAFETY: token; masked lanes are not read.
        unsafe { _mm512_maskz_loadu_ps(first(n), p) }
    }
    #[inline(always)]
    unsafe fn store_n(self, p: *mut f32, n: usize, v: __m512) {
        // SAFETY: token; masked lanes are not written.
        unsafe { _mm512_mask_storeu_ps(p, first(n), v) }
    }
    #[inline(always)]
    unsafe fn store_stream(self, p: *mut f32, v: __m512) {
        if (p as usize).is_multiple_of(64) {
            // SAFETY: token; aligned; `p` by the caller's promise; readers are ordered by `fence`.
            unsafe { _mm512_stream_ps(p, v) }
        } else {
            // SAFETY: token; `p` by the caller's promise.
            unsafe { _mm512_storeu_ps(p, v) }
        }
    }
    #[inline(always)]
    fn fence(self) {
        // SAFETY: SSE, part of x86-64.
        unsafe { _mm_sfence() }
    }
    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: token.
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: token.
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: token.
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: token.
        unsafe { _mm512_div_ps(a, b) }
    }
    #[inline(always)]
    fn quotients<const N: usize>(self, a: [__m512; N], b: [__m512; N]) -> [__m512; N] {
        let mut y = a;
        let mut rest = b;
        if self.divides {
            for i in 0..N {
                y[i] = self.div(a[i], b[i]);
            }
            return y;
        }
        // An estimate of 14 bits, and one of Newton's steps.
        // SAFETY: token.
        unsafe {
            for i in 0..N {
                y[i] = _mm512_rcp14_ps(b[i]);
            }
            for i in 0..N {
                rest[i] = _mm512_fnmadd_ps(b[i], y[i], _mm512_set1_ps(2.0));
            }
            for i in 0..N {
                y[i] = _mm512_mul_ps(a[i], y[i]);
            }
            for i in 0..N {
                y[i] = _mm512_mul_ps(y[i], rest[i]);
            }
        }
        y
    }
    #[inline(always)]
    fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: token.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn neg_mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: token.
        unsafe { _mm512_fnmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: token.
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: token.
        unsafe { _mm512_min_ps(a, b) }
    }
    #[inline(always)]
    fn sqrt(self, a: __m512) -> __m512 {
        // SAFETY: token.
        unsafe { _mm512_sqrt_ps(a) }
    }
    #[inline(always)]
    fn abs(self, a: __m512) -> __m512 {
        // SAFETY: token.
        unsafe { _mm512_abs_ps(a) }
    }
    #[inline(always)]
    fn neg(self, a: __m512) -> __m512 {
        // SAFETY: token.
        unsafe {
            let sign = _mm512_set1_epi32(i32::MIN);
            _mm512_castsi512_ps(_mm512_xor_si512(_mm512_castps_si512(a), sign))
        }
    }
    #[inline(always)]
    fn scale_by_pow2(self, a: __m512, n: __m512) -> __m512 {
        // SAFETY: token.
        unsafe { _mm512_scalef_ps(a, n) }
    }
    #[inline(always)]
    fn pow2s<const N: usize>(self, x: [__m512; N]) -> [__m512; N] {
        // What x has above an integer, whose power of two within 8e-8 is multiplied by two to that integer.
        let mut rest = x;
        for i in 0..N {
            // SAFETY: token.
            rest[i] = unsafe { _mm512_reduce_ps::<DOWN>(x[i]) };
        }
        let mut y = horner(
            self,
            rest,
            [
                0.001_877_576,
                0.008_989_342,
                0.055_826_318,
                0.240_153_61,
                0.693_153_1,
                0.999_999_94,
            ],
        );
        for i in 0..N {
            // SAFETY: token.
            y[i] = unsafe { _mm512_scalef_ps(y[i], x[i]) };
        }
        y
    }
    #[inline(always)]
    fn lt(self, a: __m512, b: __m512) -> __mmask16 {
        // SAFETY: token.
        unsafe { _mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b) }
    }
    #[inline(always)]
    fn eq(self, a: __m512, b: __m512) -> __mmask16 {
        // SAFETY: token.
        unsafe { _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(a, b) }
    }
    #[inline(always)]
    fn select(self, m: __mmask16, a: __m512, b: __m512) -> __m512 {
        // SAFETY: token.
        unsafe { _mm512_mask_blend_ps(m, b, a) }
    }
    #[inline(always)]
    fn reduce_add(self, a: __m512) -> f32 {
        // SAFETY: token.
        unsafe { _mm512_reduce_add_ps(a) }
    }
    #[inline(always)]
    fn reduce_max(self, a: __m512) -> f32 {
        // SAFETY: token.
        unsafe { _mm512_reduce_max_ps(a) }
    }
    #[inline(always)]
    fn reduce_min(self, a: __m512) -> f32 {
        // SAFETY: token.
        unsafe { _mm512_reduce_min_ps(a) }
    }
    #[inline(always)]
    unsafe fn transpose(self, src: *const f32, src_ld: usize, dst: *mut f32, dst_ld: usize) {
        // SAFETY: token; the blocks by the caller's promise.
        unsafe {
            let mut a = [_mm512_setzero_ps(); 16];
            for i in 0..16 {
                a[i] = _mm512_loadu_ps(src.add(i * src_ld));
            }
            // Pairs of rows, then fours within each quarter, then the quarters.
            let mut b = [_mm512_setzero_ps(); 16];
            for i in 0..8 {
                b[2 * i] = _mm512_unpacklo_ps(a[2 * i], a[2 * i + 1]);
                b[2 * i + 1] = _mm512_unpackhi_ps(a[2 * i], a[2 * i + 1]);
            }
            for i in 0..4 {
                for j in 0..2 {
                    let lo = _mm512_castps_pd(b[4 * i + j]);
                    let hi = _mm512_castps_pd(b[4 * i + j + 2]);
                    a[4 * i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(lo, hi));
                    a[4 * i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(lo, hi));
                }
            }
            // a[4 i + j] holds column 4 q + j of rows 4 i .. 4 i + 4 in quarter q.
            for j in 0..4 {
                let lo0 = _mm512_shuffle_f32x4::<0x88>(a[j], a[4 + j]);
                let lo1 = _mm512_shuffle_f32x4::<0x88>(a[8 + j], a[12 + j]);
                let hi0 = _mm512_shuffle_f32x4::<0xdd>(a[j], a[4 + j]);
                let hi1 = _mm512_shuffle_f32x4::<0xdd>(a[8 + j], a[12 + j]);
                b[j] = _mm512_shuffle_f32x4::<0x88>(lo0, lo1);
                b[8 + j] = _mm512_shuffle_f32x4::<0xdd>(lo0, lo1);
                b[4 + j] = _mm512_shuffle_f32x4::<0x88>(hi0, hi1);
                b[12 + j] = _mm512_shuffle_f32x4::<0xdd>(hi0, hi1);
            }
            for i in 0..16 {
                _mm512_storeu_ps(dst.add(i * dst_ld), b[i]);
            }
        }
    }
    #[inline(always)]
    fn prefetch(self, p: *const f32) {
        // SAFETY: a prefetch never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }
    #[inline(always)]
    fn prefetch_far(self, p: *const f32) {
        // SAFETY: a prefetch never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
    }
}
