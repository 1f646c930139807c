//! What the tests of all kernels share: random data, every instruction set, tolerances.

use std::sync::{Mutex, PoisonError};

use crate::simd::{Isa, set_isa_limit};

/// The instruction set is a setting of the process, so tests that change it take turns.
static SETTING: Mutex<()> = Mutex::new(());

/// Runs `test` with each instruction set of this machine.
pub fn with_each_isa(mut test: impl FnMut(Isa)) {
    let _turn = SETTING.lock().unwrap_or_else(PoisonError::into_inner);
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
