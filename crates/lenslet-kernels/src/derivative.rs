//! Derivatives of the activations, and activations known to the compiler.

use crate::epilogue::Activation;
use crate::simd::Simd;
use crate::vmath;

impl Activation {
    /// Whether the derivative can be had from the activation's output alone, so that its input need not be kept.
    ///
    /// A leaky ReLU's can where its slope is positive.
    pub fn derivative_from_output_exists(self) -> bool {
        match self {
            Activation::None
            | Activation::Relu
            | Activation::Relu6
            | Activation::HardSigmoid
            | Activation::Sigmoid
            | Activation::Tanh => true,
            Activation::LeakyRelu(slope) => slope > 0.0,
            Activation::Silu | Activation::HardSwish | Activation::Gelu | Activation::GeluTanh => {
                false
            }
        }
    }

    /// The derivative at `x`; where there is none (the corner of a ReLU), the one that PyTorch takes.
    #[inline(always)]
    pub fn derivative<S: Simd>(self, s: S, x: S::V) -> S::V {
        let one = s.splat(1.0);
        match self {
            Activation::None => one,
            Activation::Relu => s.select(s.lt(s.zero(), x), one, s.zero()),
            Activation::Relu6 => between(s, x, 0.0, 6.0, 1.0),
            Activation::LeakyRelu(slope) => s.select(s.lt(s.zero(), x), one, s.splat(slope)),
            Activation::Silu => {
                let y = vmath::sigmoid(s, x);
                // s (1 + x (1 - s))
                s.mul(y, s.mul_add(x, s.sub(one, y), one))
            }
            Activation::HardSwish => {
                let inside = s.mul_add(x, s.splat(1.0 / 3.0), s.splat(0.5));
                let low = s.select(s.lt(x, s.splat(-3.0)), s.zero(), inside);
                s.select(s.lt(s.splat(3.0), x), one, low)
            }
            Activation::HardSigmoid => between(s, x, -3.0, 3.0, 1.0 / 6.0),
            Activation::Sigmoid => {
                let y = vmath::sigmoid(s, x);
                s.neg_mul_add(y, y, y)
            }
            Activation::Tanh => {
                let y = vmath::tanh(s, x);
                s.neg_mul_add(y, y, one)
            }
            Activation::Gelu => {
                // Phi(x) + x phi(x)
                const INV_SQRT_2PI: f32 = 0.398_942_3;
                let half = s.splat(0.5);
                let e = vmath::erf(s, s.mul(x, s.splat(std::f32::consts::FRAC_1_SQRT_2)));
                let cdf = s.mul_add(half, e, half);
                // Beyond 14 the density is 0 anyway; the bound keeps the square finite.
                let bounded = s.min(s.splat(14.0), s.max(s.splat(-14.0), x));
                let density = vmath::exp(s, s.mul(s.mul(bounded, bounded), s.splat(-0.5)));
                s.mul_add(s.mul(bounded, s.splat(INV_SQRT_2PI)), density, cdf)
            }
            Activation::GeluTanh => {
                // With t = tanh(a (x + b x^3)): (1 + t) / 2 + x / 2 (1 - t^2) a (1 + 3 b x^2); beyond 14, t is 1 or -1.
                const A: f32 = 0.797_884_6;
                const B: f32 = 0.044_715;
                let half = s.splat(0.5);
                let x = s.min(s.splat(14.0), s.max(s.splat(-14.0), x));
                let square = s.mul(x, x);
                let inner = s.mul(s.mul(x, s.splat(A)), s.mul_add(square, s.splat(B), one));
                let t = vmath::tanh(s, inner);
                let slope = s.mul(s.splat(A), s.mul_add(square, s.splat(3.0 * B), one));
                let bend = s.mul(s.neg_mul_add(t, t, one), slope);
                s.mul(half, s.add(s.add(one, t), s.mul(x, bend)))
            }
        }
    }

    /// The derivative where the function's value is `y`; meaningful where
    /// [`Activation::derivative_from_output_exists`].
    #[inline(always)]
    pub fn derivative_from_output<S: Simd>(self, s: S, y: S::V) -> S::V {
        match self {
            Activation::HardSigmoid => between(s, y, 0.0, 1.0, 1.0 / 6.0),
            Activation::Sigmoid => s.neg_mul_add(y, y, y),
            Activation::Tanh => s.neg_mul_add(y, y, s.splat(1.0)),
            // Output and input lie in the same piece of the function.
            other => other.derivative(s, y),
        }
    }
}

/// `value` where lo < x < hi, else 0; NaN gives 0 as in PyTorch's clamps.
#[inline(always)]
fn between<S: Simd>(s: S, x: S::V, lo: f32, hi: f32, value: f32) -> S::V {
    let above = s.select(s.lt(s.splat(lo), x), s.splat(value), s.zero());
    s.select(s.lt(x, s.splat(hi)), above, s.zero())
}

/// An activation whose kind is part of the type, so that a loop over it contains no choice.
#[derive(Clone, Copy)]
pub(crate) struct Known<const KIND: u8>(pub f32);

impl<const KIND: u8> Known<KIND> {
    #[inline(always)]
    pub fn get(self) -> Activation {
        match KIND {
            0 => Activation::None,
            1 => Activation::Relu,
            2 => Activation::Relu6,
            3 => Activation::LeakyRelu(self.0),
            4 => Activation::Silu,
            5 => Activation::HardSwish,
            6 => Activation::HardSigmoid,
            7 => Activation::Sigmoid,
            8 => Activation::Tanh,
            9 => Activation::Gelu,
            _ => Activation::GeluTanh,
        }
    }
}

/// Evaluates `$body` with `$name` bound to the [`Known`] form of an activation.
macro_rules! with_known {
    ($activation:expr, $name:ident => $body:expr) => {{
        use $crate::derivative::Known;
        use $crate::epilogue::Activation;
        macro_rules! arm {
            ($kind:literal, $slope:expr) => {{
                let $name = Known::<$kind>($slope);
                $body
            }};
        }
        match $activation {
            Activation::None => arm!(0, 0.0),
            Activation::Relu => arm!(1, 0.0),
            Activation::Relu6 => arm!(2, 0.0),
            Activation::LeakyRelu(slope) => arm!(3, slope),
            Activation::Silu => arm!(4, 0.0),
            Activation::HardSwish => arm!(5, 0.0),
            Activation::HardSigmoid => arm!(6, 0.0),
            Activation::Sigmoid => arm!(7, 0.0),
            Activation::Tanh => arm!(8, 0.0),
            Activation::Gelu => arm!(9, 0.0),
            Activation::GeluTanh => arm!(10, 0.0),
        }
    }};
}
pub(crate) use with_known;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::{Isa, Kernel, dispatch_on};
    use crate::testing::{ALL_ACTIVATIONS, activate, activate_derivative};

    struct Derive<'a>(Activation, bool, &'a mut [f32]);

    impl Kernel for Derive<'_> {
        type Output = ();

        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            for part in self.2.chunks_mut(S::LANES) {
                let x = s.load_slice(part);
                let d = if self.1 {
                    self.0.derivative_from_output(s, self.0.apply(s, x))
                } else {
                    self.0.derivative(s, x)
                };
                s.store_slice(part, d);
            }
        }
    }

    #[test]
    fn derivatives_match_the_reference() {
        // Chosen so that no point is a corner.
        let x: Vec<f32> = (0..4001).map(|i| (i as f32 - 2000.3) / 180.0).collect();
        for isa in Isa::available() {
            for activation in ALL_ACTIVATIONS {
                let known = with_known!(activation, known => known.get());
                assert_eq!(known, activation);
                for from_output in [false, true] {
                    if from_output && !activation.derivative_from_output_exists() {
                        continue;
                    }
                    let mut d = x.clone();
                    dispatch_on(isa, Derive(activation, from_output, &mut d));
                    for (&x, &d) in x.iter().zip(&d) {
                        let want = activate_derivative(activation, f64::from(x));
                        let error = (f64::from(d) - want).abs();
                        assert!(
                            error < 2e-6,
                            "{isa} {activation:?} at {x}: {d}, wanted {want}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn reference_derivatives_match_differences() {
        for activation in ALL_ACTIVATIONS {
            for i in 0..200 {
                let x = (f64::from(i) - 100.3) / 13.0;
                let h = 1e-5;
                let slope = (activate(activation, x + h) - activate(activation, x - h)) / (2.0 * h);
                let error = (slope - activate_derivative(activation, x)).abs();
                assert!(error < 1e-6, "{activation:?} at {x}: error {error}");
            }
        }
    }
}
