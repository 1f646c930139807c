use lenslet_kernels::simd::{Kernel, Simd, dispatch, isa};
use lenslet_kernels::*;
use std::time::Instant;

struct Peak(usize);
impl Kernel for Peak {
    type Output = (f32, usize);
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> (f32, usize) {
        let x = s.splat(std::hint::black_box(0.999));
        let y = s.splat(std::hint::black_box(1e-3));
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
        (sum, self.0 * 12 * S::LANES * 2)
    }
}

fn time(mut f: impl FnMut()) -> f64 {
    f();
    let mut ts = vec![];
    let t0 = Instant::now();
    while ts.len() < 5 || (t0.elapsed().as_millis() < 100 && ts.len() < 200) {
        let t = Instant::now();
        f();
        ts.push(t.elapsed().as_secs_f64());
    }
    ts.sort_by(f64::total_cmp);
    ts[ts.len() / 2]
}
fn peak(threads: usize) -> f64 {
    pool::set_num_threads(threads);
    let n = 1_000_000;
    let mut flops = 0;
    let t = time(|| {
        pool::parallel_for(threads, |_| {
            std::hint::black_box(dispatch(Peak(n)));
        });
        flops = dispatch(Peak(0)).1
            + n * 12
                * 2
                * match isa().name() {
                    "avx512" => 16,
                    "avx2" => 8,
                    _ => 4,
                }
                * threads;
    });
    flops as f64 / t / 1e9
}
fn main() {
    for threads in [1, 2] {
        let p = peak(threads);
        println!("{} threads {threads} peak {p:.1}", isa());
        let shapes = [
            (3136, 64, 64),
            (3136, 64, 256),
            (3136, 256, 64),
            (784, 128, 512),
            (784, 512, 128),
            (196, 256, 1024),
            (196, 1024, 256),
            (49, 512, 2048),
            (49, 2048, 512),
            (197, 768, 2304),
            (197, 768, 768),
            (197, 768, 3072),
            (197, 3072, 768),
            (12544, 32, 16),
            (12544, 16, 96),
            (3136, 24, 144),
            (3136, 144, 24),
            (784, 32, 192),
            (784, 192, 32),
            (196, 96, 576),
            (196, 576, 96),
            (49, 160, 960),
            (49, 960, 160),
            (1, 2048, 1000),
            (1, 4096, 4096),
            (8, 4096, 4096),
        ];
        for (m, k, n) in shapes {
            let a = AlignedBuf::copy_of(&vec![0.5; m * k]);
            let w = AlignedBuf::copy_of(&vec![0.25; n * k]);
            let mut c = AlignedBuf::zeroed(m * n);
            let mut b = PackedMatrix::new(Matrix::new(&w, k), Order::Transposed, k, n).unwrap();
            let t = time(|| {
                b.multiply(
                    m,
                    Matrix::new(&a, k),
                    MatrixMut::new(&mut c, n),
                    &Epilogue::NONE,
                )
                .unwrap()
            });
            let tp = time(|| b.pack(Matrix::new(&w, k), Order::Transposed, k, n).unwrap());
            let mut d = AlignedBuf::zeroed(n * k);
            let td = time(|| {
                transposed_product(m, Matrix::new(&c, n), n, Matrix::new(&a, k), k, &mut d).unwrap()
            });
            let f = 2.0 * (m * n * k) as f64 / 1e9;
            println!(
                "{m:6} {k:5} {n:5}  fwd {:7.3} ms {:4.0}%   pack {:7.3} ms   dw {:7.3} ms {:4.0}%",
                t * 1e3,
                f / t / p * 100.,
                tp * 1e3,
                td * 1e3,
                f / td / p * 100.
            );
        }
    }
}
