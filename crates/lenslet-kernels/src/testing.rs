//! What the tests of all kernels share: random data, every instruction set, tolerances.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::epilogue::Activation;
use crate::simd::{Isa, set_isa_limit};

/// The instruction set and the number of threads are settings of the process, so tests that change them take turns.
static SETTING: Mutex<()> = Mutex::new(());

/// Waits for this test's turn, which ends with the guard.
pub fn turn() -> MutexGuard<'static, ()> {
    SETTING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `test` with each instruction set of this machine.
pub fn with_each_isa(mut test: impl FnMut(Isa)) {
    let _turn = turn();
    for isa in Isa::available() {
        assert_eq!(set_isa_limit(isa), isa);
        test(isa);
    }
}

/// Reproducible numbers in [-1, 1).
pub fn random(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x1234_5678_9abc_def1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect()
}

/// An output buffer that shows what was not written.
pub fn poisoned(len: usize) -> Vec<f32> {
    vec![f32::NAN; len]
}

/// Bound on the error of a sum of `k` products of numbers within [-1, 1]: each of the `k` additions and products rounds
/// once, relative to a partial sum that is at most `k`, but typically near sqrt(k). One more unit covers the epilogue.
pub fn sum_tolerance(k: usize) -> f64 {
    const UNITS: f64 = 2.0;
    UNITS * f64::from(f32::EPSILON) * (k as f64 + 4.0)
}

/// Fails where any element is further from its reference than `tolerance`, or is NaN.
#[track_caller]
pub fn assert_close(what: &str, got: &[f32], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}: length");
    for (i, (&got, &want)) in got.iter().zip(want).enumerate() {
        let error = (f64::from(got) - want).abs();
        assert!(
            error <= tolerance,
            "{what}: element {i} is {got}, reference {want}, error {error:e} > {tolerance:e}",
        );
    }
}

/// One of each activation.
pub const ALL_ACTIVATIONS: [Activation; 11] = [
    Activation::None,
    Activation::Relu,
    Activation::Relu6,
    Activation::LeakyRelu(0.1),
    Activation::Silu,
    Activation::HardSwish,
    Activation::HardSigmoid,
    Activation::Sigmoid,
    Activation::Tanh,
    Activation::Gelu,
    Activation::GeluTanh,
];

/// The error function in f64, by its Taylor series or by the continued fraction of its complement.
pub fn erf64(x: f64) -> f64 {
    if x.abs() < 3.0 {
        let (mut term, mut sum) = (x, x);
        for k in 1..100 {
            term *= -x * x / f64::from(k);
            sum += term / f64::from(2 * k + 1);
        }
        sum * std::f64::consts::FRAC_2_SQRT_PI
    } else {
        let z = x.abs();
        let fraction = (1..60)
            .rev()
            .fold(z, |tail, k| z + f64::from(k) / 2.0 / tail);
        x.signum() * (1.0 - (-z * z).exp() / (fraction * std::f64::consts::PI.sqrt()))
    }
}

const GELU_TANH: [f64; 2] = [0.797_884_560_802_865_4, 0.044_715];

/// An activation in f64.
pub fn activate(activation: Activation, x: f64) -> f64 {
    let sigmoid = 1.0 / (1.0 + (-x).exp());
    match activation {
        Activation::None => x,
        Activation::Relu => x.max(0.0),
        Activation::Relu6 => x.clamp(0.0, 6.0),
        Activation::LeakyRelu(slope) if x < 0.0 => x * f64::from(slope),
        Activation::LeakyRelu(_) => x,
        Activation::Silu => x * sigmoid,
        Activation::HardSwish => x * (x + 3.0).clamp(0.0, 6.0) / 6.0,
        Activation::HardSigmoid => (x + 3.0).clamp(0.0, 6.0) / 6.0,
        Activation::Sigmoid => sigmoid,
        Activation::Tanh => x.tanh(),
        Activation::Gelu => 0.5 * x * (1.0 + erf64(x / 2f64.sqrt())),
        Activation::GeluTanh => {
            let [a, b] = GELU_TANH;
            0.5 * x * (1.0 + (a * (x + b * x * x * x)).tanh())
        }
    }
}

/// An activation's derivative in f64.
pub fn activate_derivative(activation: Activation, x: f64) -> f64 {
    let sigmoid = 1.0 / (1.0 + (-x).exp());
    let within = |lo: f64, hi: f64| if x > lo && x < hi { 1.0 } else { 0.0 };
    match activation {
        Activation::None => 1.0,
        Activation::Relu => within(0.0, f64::INFINITY),
        Activation::Relu6 => within(0.0, 6.0),
        Activation::LeakyRelu(slope) if x < 0.0 => f64::from(slope),
        Activation::LeakyRelu(_) => 1.0,
        Activation::Silu => sigmoid * (1.0 + x * (1.0 - sigmoid)),
        Activation::HardSwish if x.abs() > 3.0 => within(3.0, f64::INFINITY),
        Activation::HardSwish => x / 3.0 + 0.5,
        Activation::HardSigmoid => within(-3.0, 3.0) / 6.0,
        Activation::Sigmoid => sigmoid * (1.0 - sigmoid),
        Activation::Tanh => 1.0 - x.tanh() * x.tanh(),
        Activation::Gelu => {
            let density = (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
            0.5 * (1.0 + erf64(x / 2f64.sqrt())) + x * density
        }
        Activation::GeluTanh => {
            let [a, b] = GELU_TANH;
            let t = (a * (x + b * x * x * x)).tanh();
            0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * a * (1.0 + 3.0 * b * x * x)
        }
    }
}

/// f64 copies.
pub fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}
