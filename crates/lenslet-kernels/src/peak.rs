//! What the machine could do at most, measured.

use std::time::Instant;

use crate::buffer::AlignedBuf;
use crate::elementwise::sum_of_squares;
use crate::pool::{num_threads, parallel_for};
use crate::simd::{Kernel, Simd, dispatch};

/// Multiply-adds on registers only.
struct MultiplyAdds(usize);

impl Kernel for MultiplyAdds {
    /// A value that depends on all of them, and how many operations there were.
    type Output = (f32, f64);

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> (f32, f64) {
        let (x, y) = (
            s.splat(std::hint::black_box(0.999)),
            s.splat(std::hint::black_box(1e-3)),
        );
        let mut acc = [s.zero(); 12];
        for _ in 0..self.0 {
            for a in &mut acc {
                *a = s.mul_add(*a, x, y);
            }
        }
        let mut sum = 0.0;
        for a in acc {
            sum += s.reduce_add(a);
        }
        (sum, (self.0 * acc.len() * S::LANES * 2) as f64)
    }
}

/// The least seconds of some calls.
fn best(mut call: impl FnMut()) -> f64 {
    let once = |()| {
        let start = Instant::now();
        call();
        start.elapsed().as_secs_f64()
    };
    std::iter::repeat_n((), 7)
        .map(once)
        .fold(f64::INFINITY, f64::min)
}

/// Floating-point operations a second (two a multiply-add) of all threads of the pool, in registers. Takes 50 ms or so.
pub fn peak_operations() -> f64 {
    const ROUNDS: usize = 400_000;
    let threads = num_threads();
    let operations = dispatch(MultiplyAdds(1)).1 * (ROUNDS * threads) as f64;
    let seconds = best(|| {
        parallel_for(threads, |_| {
            std::hint::black_box(dispatch(MultiplyAdds(ROUNDS)));
        });
    });
    operations / seconds
}

/// Bytes a second that all threads of the pool read from memory, from a buffer that no cache holds. Takes 200 ms or so.
pub fn peak_bandwidth() -> f64 {
    let buffer = AlignedBuf::zeroed(64 << 20);
    let seconds = best(|| {
        std::hint::black_box(sum_of_squares(&buffer));
    });
    (buffer.len() * size_of::<f32>()) as f64 / seconds
}
