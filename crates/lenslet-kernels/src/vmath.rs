//! Vector mathematics: `exp`, `tanh`, `sigmoid`, `erf` and the activations made of them, for any [`Simd`].
//!
//! Polynomials were fitted (Chebyshev, 40 digits) to the ranges stated at each function; errors are measured in the tests
//! against f64. NaN stays NaN.

use crate::simd::Simd;

/// Does the same to every vector of an array, one step after the other. A function's operations wait for each other; those of a
/// second vector fill the time, but only if they stand next to them: a processor looks some sixty operations ahead. (A macro, since
/// vector code must not stand in closures.)
macro_rules! each {
    ($x:expr, $v:ident => $step:expr) => {{
        let mut y = $x;
        for v in &mut y {
            let $v = *v;
            *v = $step;
        }
        y
    }};
}

/// Evaluates a polynomial, highest coefficient first.
#[inline(always)]
pub(crate) fn horner<S: Simd, const N: usize, const K: usize>(
    s: S,
    x: [S::V; N],
    coefficients: [f32; K],
) -> [S::V; N] {
    let mut y = [s.splat(coefficients[0]); N];
    let mut k = 1;
    while k < K {
        let c = s.splat(coefficients[k]);
        for i in 0..N {
            y[i] = s.mul_add(y[i], x[i], c);
        }
        k += 1;
    }
    y
}

/// What is added to a number below 2^22 and taken away again to leave the nearest integer: a number of this size has no room for more.
const ROOM: f32 = 1.5 * (1u32 << 23) as f32;

/// [`Simd::pow2s`] for instruction sets without instructions for it.
#[inline(always)]
pub(crate) fn pow2s<S: Simd, const N: usize>(s: S, x: [S::V; N]) -> [S::V; N] {
    let x = each!(x, x => s.max(s.splat(-126.0), x));
    let n = each!(x, x => s.sub(s.add(x, s.splat(ROOM)), s.splat(ROOM)));
    let mut rest = x;
    for i in 0..N {
        rest[i] = s.sub(x[i], n[i]);
    }
    // For |rest| <= 1/2, within 2.0e-9.
    let mut y = horner(
        s,
        rest,
        [
            1.535_334_4e-4,
            0.001_339_887_4,
            0.009_618_438,
            0.055_503_324,
            0.240_226_48,
            std::f32::consts::LN_2,
            1.0,
        ],
    );
    for i in 0..N {
        y[i] = s.scale_by_near_pow2(y[i], n[i]);
    }
    y
}

/// The integer n and e^x / 2^n.
#[inline(always)]
fn exp_parts<S: Simd, const N: usize>(s: S, x: [S::V; N]) -> ([S::V; N], [S::V; N]) {
    // x = n ln 2 + r with |r| <= ln 2 / 2; ln 2 in two parts, the first with enough trailing zeros for an exact product.
    const LN2_HI: f32 = 355.0 / 512.0;
    const LN2_LO: f32 = -2.121_944_4e-4;
    let mut n = x;
    let mut r = x;
    let mut square = x;
    for i in 0..N {
        let n_and_room = s.mul_add(x[i], s.splat(std::f32::consts::LOG2_E), s.splat(ROOM));
        n[i] = s.sub(n_and_room, s.splat(ROOM));
    }
    for i in 0..N {
        r[i] = s.neg_mul_add(n[i], s.splat(LN2_HI), x[i]);
    }
    for i in 0..N {
        r[i] = s.neg_mul_add(n[i], s.splat(LN2_LO), r[i]);
        square[i] = s.mul(r[i], r[i]);
    }
    // e^r = 1 + r + r^2 q(r)
    let mut p = horner(
        s,
        r,
        [
            0.001_392_692_7,
            0.008_363_774,
            0.041_666_55,
            0.166_665_73,
            0.5,
        ],
    );
    for i in 0..N {
        p[i] = s.add(s.mul_add(square[i], p[i], r[i]), s.splat(1.0));
    }
    (n, p)
}

/// e^x, within 2 units in the last place; 0 below -104, infinity above 88.73.
#[inline(always)]
pub fn exp<S: Simd>(s: S, x: S::V) -> S::V {
    let x = s.min(s.splat(90.0), s.max(s.splat(-105.0), x));
    let ([n], [p]) = exp_parts(s, [x]);
    s.scale_by_pow2(p, n)
}

/// e^x of numbers that are not above 0, within 2 units in the last place down to -87, where it stays at 1.6e-38.
#[inline(always)]
pub(crate) fn exps_below_zero<S: Simd, const N: usize>(s: S, x: [S::V; N]) -> [S::V; N] {
    let (n, mut y) = exp_parts(s, each!(x, x => s.max(s.splat(-87.0), x)));
    for i in 0..N {
        y[i] = s.scale_by_near_pow2(y[i], n[i]);
    }
    y
}

/// 1 + e^-x for x from `lowest` on, which is at least -89; the relative error of e^-x is 3e-7 near 0, 1e-6 at 20 and 4e-6 at -87. It ends
/// at 1 as far as the sum can tell, and from -89 at infinity.
#[inline(always)]
fn one_plus_exp_neg<S: Simd, const N: usize>(s: S, x: [S::V; N], lowest: f32) -> [S::V; N] {
    let x = each!(x, x => s.max(s.splat(lowest), x));
    let y = s.pow2s(each!(x, x => s.mul(x, s.splat(-std::f32::consts::LOG2_E))));
    each!(y, y => s.add(s.splat(1.0), y))
}

/// 1 / (1 + e^-x).
#[inline(always)]
pub fn sigmoid<S: Simd>(s: S, x: S::V) -> S::V {
    sigmoids(s, [x])[0]
}

/// [`sigmoid`] of every vector of an array.
#[inline(always)]
pub fn sigmoids<S: Simd, const N: usize>(s: S, x: [S::V; N]) -> [S::V; N] {
    let one = s.splat(1.0);
    each!(one_plus_exp_neg(s, x, -89.0), y => s.div(one, y))
}

/// x / (1 + e^-x), also called swish; x times 1.6e-38 below -87.
#[inline(always)]
pub fn silu<S: Simd>(s: S, x: S::V) -> S::V {
    silus(s, [x])[0]
}

/// [`silu`] of every vector of an array.
#[inline(always)]
pub fn silus<S: Simd, const N: usize>(s: S, x: [S::V; N]) -> [S::V; N] {
    s.quotients(x, one_plus_exp_neg(s, x, -87.0))
}

/// Hyperbolic tangent, with a small relative error around zero too.
#[inline(always)]
pub fn tanh<S: Simd>(s: S, x: S::V) -> S::V {
    let one = s.splat(1.0);
    let square = s.mul(x, x);
    // tanh x = x + x^3 p(x^2) up to 0.625.
    let [p] = horner(
        s,
        [square],
        [
            -0.006_096_714,
            0.020_997_18,
            -0.053_850_91,
            0.133_327_7,
            -0.333_333_3,
        ],
    );
    let near = s.mul_add(s.mul(x, square), p, x);
    // 1 - 2 / (e^2|x| + 1) beyond, with the sign put back.
    let magnitude = s.abs(x);
    let e = exp(s, s.add(magnitude, magnitude));
    let far = s.sub(one, s.div(s.splat(2.0), s.add(e, one)));
    let far = s.select(s.lt(x, s.zero()), s.neg(far), far);
    s.select(s.lt(magnitude, s.splat(0.625)), near, far)
}

/// The error function, within 3e-7.
#[inline(always)]
pub fn erf<S: Simd>(s: S, x: S::V) -> S::V {
    erfs(s, [x])[0]
}

/// [`erf`] of every vector of an array.
#[inline(always)]
pub fn erfs<S: Simd, const N: usize>(s: S, x: [S::V; N]) -> [S::V; N] {
    // erf x = x P(x^2) / Q(x^2) on |x| <= 4; erf 4 rounds to 1.
    let x = each!(x, x => s.min(s.splat(4.0), s.max(s.splat(-4.0), x)));
    let t = each!(x, x => s.mul(x, x));
    let mut p = horner(
        s,
        t,
        [
            1.986_626e-6,
            2.845_432e-4,
            0.003_883_107_3,
            0.053_101_31,
            0.193_541_5,
            std::f32::consts::FRAC_2_SQRT_PI,
        ],
    );
    let q = horner(
        s,
        t,
        [
            3.741_728_4e-5,
            0.001_185_474_2,
            0.015_206_923,
            0.115_348_51,
            0.504_854_25,
            1.0,
        ],
    );
    for i in 0..N {
        p[i] = s.div(s.mul(x[i], p[i]), q[i]);
    }
    each!(p, y => s.min(s.splat(1.0), s.max(s.splat(-1.0), y)))
}

/// x Phi(x) with the error function (PyTorch's default GELU), within 1.2e-6 times the result or 1, whichever is larger.
#[inline(always)]
pub fn gelu<S: Simd>(s: S, x: S::V) -> S::V {
    gelus(s, [x])[0]
}

/// [`gelu`] of every vector of an array.
#[inline(always)]
pub fn gelus<S: Simd, const N: usize>(s: S, x: [S::V; N]) -> [S::V; N] {
    // Phi x = 1/2 + x g(x^2) on |x| <= 5.2, with g in powers of 2 x^2 / 5.2^2 - 1, fitted so that Phi -5.2 comes to 0 but
    // for rounding.
    const END: f32 = 5.2;
    let near = each!(x, x => s.min(s.splat(END), s.max(s.splat(-END), x)));
    let mut t = each!(near, x => s.mul(x, s.splat(2.0 / (END * END))));
    for i in 0..N {
        t[i] = s.mul_add(near[i], t[i], s.splat(-1.0));
    }
    // Even and odd powers by themselves: half as many operations wait for each other.
    let square = each!(t, t => s.mul(t, t));
    let odd = horner(
        s,
        square,
        [
            -1.212_002_9e-4,
            -0.002_212_816,
            -0.003_759_822,
            -0.013_005_854,
            -0.024_608_713,
            -0.039_940_692,
            -0.067_743_39,
        ],
    );
    let mut y = horner(
        s,
        square,
        [
            0.000_991_73,
            0.002_525_341_2,
            0.007_857_28,
            0.018_263_465,
            0.031_929_873,
            0.050_028_697,
            0.135_949_95,
        ],
    );
    for i in 0..N {
        y[i] = s.mul_add(odd[i], t[i], y[i]);
    }
    for i in 0..N {
        y[i] = s.mul_add(near[i], y[i], s.splat(0.5));
    }
    for i in 0..N {
        y[i] = s.mul(x[i], y[i]);
    }
    y
}

/// The tanh approximation of GELU (PyTorch's `approximate="tanh"`).
#[inline(always)]
pub fn gelu_tanh<S: Simd>(s: S, x: S::V) -> S::V {
    const SQRT_2_OVER_PI: f32 = 0.797_884_6;
    let cube = s.mul(s.mul(x, x), x);
    let inner = s.mul(
        s.splat(SQRT_2_OVER_PI),
        s.mul_add(cube, s.splat(0.044_715), x),
    );
    let half = s.mul(x, s.splat(0.5));
    s.mul_add(half, tanh(s, inner), half)
}

/// relu6(x + 3) / 6.
#[inline(always)]
pub fn hard_sigmoid<S: Simd>(s: S, x: S::V) -> S::V {
    let y = s.mul_add(x, s.splat(1.0 / 6.0), s.splat(0.5));
    s.min(s.splat(1.0), s.max(s.zero(), y))
}

/// x relu6(x + 3) / 6.
#[inline(always)]
pub fn hard_swish<S: Simd>(s: S, x: S::V) -> S::V {
    s.mul(x, hard_sigmoid(s, x))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::{Isa, Kernel, dispatch_on};

    #[derive(Clone, Copy)]
    enum Op {
        Exp,
        Pow2,
        Sigmoid,
        Silu,
        Tanh,
        Erf,
        Gelu,
        GeluTanh,
        HardSwish,
    }

    struct Apply<'a>(Op, &'a mut [f32]);

    impl Kernel for Apply<'_> {
        type Output = ();

        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            for part in self.1.chunks_mut(S::LANES) {
                let x = s.load_slice(part);
                let y = match self.0 {
                    Op::Exp => exp(s, x),
                    Op::Pow2 => s.pow2s([x])[0],
                    Op::Sigmoid => sigmoid(s, x),
                    Op::Silu => silu(s, x),
                    Op::Tanh => tanh(s, x),
                    Op::Erf => erf(s, x),
                    Op::Gelu => gelu(s, x),
                    Op::GeluTanh => gelu_tanh(s, x),
                    Op::HardSwish => hard_swish(s, x),
                };
                s.store_slice(part, y);
            }
        }
    }

    /// The error function in f64, by its Taylor series or by the continued fraction of its complement.
    fn erf64(x: f64) -> f64 {
        if x.abs() < 3.0 {
            let (mut term, mut sum) = (x, x);
            for k in 1..100 {
                term *= -x * x / k as f64;
                sum += term / (2 * k + 1) as f64;
            }
            sum * std::f64::consts::FRAC_2_SQRT_PI
        } else {
            let z = x.abs();
            let fraction = (1..60).rev().fold(z, |tail, k| z + k as f64 / 2.0 / tail);
            x.signum() * (1.0 - (-z * z).exp() / (fraction * std::f64::consts::PI.sqrt()))
        }
    }

    fn sigmoid64(x: f64) -> f64 {
        1.0 / (1.0 + (-x).exp())
    }

    /// Largest |got - want| / max(floor, |want|) over `range`.
    fn worst(op: Op, range: (f32, f32), floor: f64, want: impl Fn(f64) -> f64) -> f64 {
        let n = 200_001;
        let x: Vec<f32> = (0..n)
            .map(|i| range.0 + (range.1 - range.0) * (i as f32 / (n - 1) as f32))
            .collect();
        let mut worst = 0.0f64;
        for isa in Isa::available() {
            let mut y = x.clone();
            dispatch_on(isa, Apply(op, &mut y));
            for (&x, &y) in x.iter().zip(&y) {
                let want = want(x as f64);
                let error = (y as f64 - want).abs() / want.abs().max(floor).max(f64::MIN_POSITIVE);
                assert!(error.is_finite(), "{isa}: f({x}) = {y}, wanted {want}");
                // Without fused multiplication a product's own rounding comes on top.
                let error = if isa == Isa::Portable {
                    error / 3.0
                } else {
                    error
                };
                worst = worst.max(error);
            }
        }
        worst
    }

    #[test]
    fn errors_are_as_documented() {
        let limits: [(&str, f64, f64); 11] = [
            ("exp", worst(Op::Exp, (-87.0, 88.7), 0.0, f64::exp), 2.0e-7),
            (
                "power of 2",
                worst(Op::Pow2, (-126.0, 127.0), 0.0, f64::exp2),
                2e-7,
            ),
            (
                "sigmoid",
                worst(Op::Sigmoid, (-20.0, 20.0), 0.0, sigmoid64),
                1.2e-6,
            ),
            (
                "sigmoid below",
                worst(Op::Sigmoid, (-80.0, -20.0), 0.0, sigmoid64),
                5e-6,
            ),
            (
                "silu",
                worst(Op::Silu, (-20.0, 20.0), 0.0, |x| x * sigmoid64(x)),
                1.2e-6,
            ),
            (
                "silu below",
                worst(Op::Silu, (-80.0, -20.0), 0.0, |x| x * sigmoid64(x)),
                5e-6,
            ),
            ("tanh", worst(Op::Tanh, (-12.0, 12.0), 0.0, f64::tanh), 4e-7),
            ("erf", worst(Op::Erf, (-6.0, 6.0), 0.0, erf64), 5e-7),
            (
                "gelu",
                worst(Op::Gelu, (-8.0, 8.0), 1.0, |x| {
                    0.5 * x * (1.0 + erf64(x / 2f64.sqrt()))
                }),
                1.2e-6,
            ),
            (
                "gelu tanh",
                worst(Op::GeluTanh, (-8.0, 8.0), 1.0, |x| {
                    let c = (2.0 / std::f64::consts::PI).sqrt();
                    0.5 * x * (1.0 + (c * (x + 0.044715 * x * x * x)).tanh())
                }),
                1e-6,
            ),
            (
                "hard swish",
                worst(Op::HardSwish, (-5.0, 5.0), 1.0, |x| {
                    x * (x + 3.0).clamp(0.0, 6.0) / 6.0
                }),
                3e-7,
            ),
        ];
        for (name, error, limit) in limits {
            assert!(error <= limit, "{name}: error {error:e} above {limit:e}");
        }
    }

    #[test]
    fn special_values() {
        for isa in Isa::available() {
            let mut x = [
                f32::NEG_INFINITY,
                -200.0,
                -104.5,
                89.0,
                200.0,
                f32::INFINITY,
                f32::NAN,
            ];
            dispatch_on(isa, Apply(Op::Exp, &mut x));
            assert_eq!(x[..3], [0.0; 3], "{isa}");
            assert_eq!(x[3..6], [f32::INFINITY; 3], "{isa}");
            assert!(x[6].is_nan(), "{isa}");
            for op in [
                Op::Sigmoid,
                Op::Tanh,
                Op::Erf,
                Op::Silu,
                Op::Gelu,
                Op::HardSwish,
            ] {
                let mut x = [f32::NAN, 0.0];
                dispatch_on(isa, Apply(op, &mut x));
                assert!(x[0].is_nan(), "{isa}");
            }
            for (op, ends) in [
                (Op::Sigmoid, [0.0, 1.0]),
                (Op::Tanh, [-1.0, 1.0]),
                (Op::Erf, [-1.0, 1.0]),
            ] {
                let mut x = [f32::NEG_INFINITY, f32::INFINITY];
                dispatch_on(isa, Apply(op, &mut x));
                assert_eq!(x, ends, "{isa}");
            }
        }
    }
}
