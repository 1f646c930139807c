use super::*;
use crate::epilogue::{Activation, Residual, ResidualPosition};
use crate::testing::{activate, assert_close, poisoned, random, sum_tolerance, with_each_isa};
use proptest::prelude::*;

/// a [m, k] times b(k, n), in f64.
fn reference(m: usize, k: usize, n: usize, a: Matrix, b: impl Fn(usize, usize) -> f32) -> Vec<f64> {
    let mut c = vec![0.0; m * n];
    for i in 0..m {
        for j in 0..n {
            c[i * n + j] = (0..k)
                .map(|l| f64::from(a.data[i * a.ld + l]) * f64::from(b(l, j)))
                .sum();
        }
    }
    c
}

/// The compact columns of a strided matrix, after checking that nothing was written between its rows.
fn compact(data: &[f32], rows: usize, cols: usize, ld: usize) -> Vec<f32> {
    let mut out = Vec::new();
    for (i, row) in data.chunks(ld).take(rows).enumerate() {
        out.extend_from_slice(&row[..cols]);
        assert!(
            row[cols..].iter().all(|x| x.is_nan()),
            "row {i} was written beyond its columns"
        );
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn products_match_the_reference(
        m in 1usize..40, k in 0usize..90, n in 1usize..140,
        pads in [0usize..5, 0usize..5, 0usize..5], transposed: bool, seed: u64,
    ) {
        with_each_isa(|isa| {
            let (lda, ldc) = (k + pads[0], n + pads[1]);
            let a = random(m * lda, seed);
            let (order, ldb) = if transposed { (Order::Transposed, k + pads[2]) } else { (Order::RowMajor, n + pads[2]) };
            let b = random(k.max(n) * ldb.max(1), seed ^ 1);
            let at = |l: usize, j: usize| if transposed { b[j * ldb + l] } else { b[l * ldb + j] };
            let a = Matrix::new(&a, lda);
            let want = reference(m, k, n, a, at);
            let packed = PackedMatrix::new(Matrix::new(&b, ldb), order, k, n).unwrap();
            assert_eq!(packed.isa(), isa);
            let mut c = poisoned(m * ldc);
            packed.multiply(m, a, MatrixMut::new(&mut c, ldc), &Epilogue::NONE).unwrap();
            assert_close("product", &compact(&c, m, n, ldc), &want, sum_tolerance(k));
            let mut once = poisoned(m * ldc);
            let b = Matrix::new(&b, ldb);
            product(m, a, b, order, [k, n], MatrixMut::new(&mut once, ldc), &Epilogue::NONE).unwrap();
            assert_eq!(compact(&once, m, n, ldc), compact(&c, m, n, ldc));
            packed.multiply_add(m, a, MatrixMut::new(&mut c, ldc)).unwrap();
            let twice: Vec<f64> = want.iter().map(|x| 2.0 * x).collect();
            assert_close("added product", &compact(&c, m, n, ldc), &twice, 2.0 * sum_tolerance(k));
        });
    }

    #[test]
    fn transposed_products_match_the_reference(
        rows in 1usize..600, m in prop_oneof![3 => 1usize..50, 1 => 130usize..180],
        n in prop_oneof![3 => 1usize..90, 1 => 130usize..180], pads in [0usize..5, 0usize..5], seed: u64,
    ) {
        with_each_isa(|_| {
            let (lda, ldb) = (m + pads[0], n + pads[1]);
            let (a, b) = (random(rows * lda, seed), random(rows * ldb, seed ^ 1));
            let mut want = vec![0.0f64; m * n];
            for p in 0..rows {
                for i in 0..m {
                    for j in 0..n {
                        want[i * n + j] += f64::from(a[p * lda + i]) * f64::from(b[p * ldb + j]);
                    }
                }
            }
            let mut c = poisoned(m * n);
            transposed_product(rows, Matrix::new(&a, lda), m, Matrix::new(&b, ldb), n, &mut c).unwrap();
            assert_close("transposed product", &c, &want, sum_tolerance(rows));
        });
    }

    #[test]
    fn batches_match_the_reference(
        batch in 1usize..5, m in 1usize..20, k in 1usize..40, n in 1usize..40, transposed: bool, seed: u64,
    ) {
        with_each_isa(|_| {
            // Operands side by side within rows, as the heads of an attention layer are.
            let a = random(m * batch * k, seed);
            let a_layout = Batch { step: k, ld: batch * k };
            let (order, rows, cols) = if transposed { (Order::Transposed, n, k) } else { (Order::RowMajor, k, n) };
            let b = random(batch * rows * cols, seed ^ 1);
            let b_layout = Batch { step: rows * cols, ld: cols };
            let mut c = poisoned(m * batch * n);
            let c_layout = Batch { step: n, ld: batch * n };
            let shape = BatchedShape { batch, m, k, n };
            batched_product(shape, 0.5, &a, a_layout, &b, order, b_layout, &mut c, c_layout).unwrap();
            for i in 0..batch {
                let b = &b[i * rows * cols..];
                let at = |l: usize, j: usize| 0.5 * if transposed { b[j * cols + l] } else { b[l * cols + j] };
                let want = reference(m, k, n, Matrix::new(&a[i * k..], batch * k), at);
                let got: Vec<f32> = c.chunks(batch * n).flat_map(|row| &row[i * n..][..n]).copied().collect();
                assert_close("batched product", &got, &want, sum_tolerance(k));
            }
        });
    }
}

/// Weight gradients of wide layers, whose right side is packed once for all chunks.
#[test]
fn wide_transposed_products_match_the_reference() {
    for (rows, m, n) in [(70, 300, 515), (1100, 131, 1030), (700, 1029, 130)] {
        let (lda, ldb) = (m + 3, n + 1);
        let (a, b) = (random(rows * lda, 1), random(rows * ldb, 2));
        let mut want = vec![0.0f64; m * n];
        for (a, b) in a.chunks_exact(lda).zip(b.chunks_exact(ldb)) {
            for (want, x) in want.chunks_exact_mut(n).zip(a) {
                for (want, y) in want.iter_mut().zip(b) {
                    *want += f64::from(*x) * f64::from(*y);
                }
            }
        }
        with_each_isa(|_| {
            let mut c = poisoned(m * n);
            let (a, b) = (Matrix::new(&a, lda), Matrix::new(&b, ldb));
            transposed_product(rows, a, m, b, n, &mut c).unwrap();
            assert_close("transposed product", &c, &want, sum_tolerance(rows));
        });
    }
}

#[test]
fn a_long_reduction_is_packed_in_slices() {
    let (m, k, n) = (5, 2 * SLICE_K + 7, 150);
    let (a, b) = (random(m * k, 1), random(k * n, 2));
    let (scale, bias, other) = (random(n, 3), random(n, 4), random(m * n, 5));
    with_each_isa(|_| {
        for position in [
            ResidualPosition::BeforeActivation,
            ResidualPosition::AfterActivation,
        ] {
            let epilogue = Epilogue {
                scale: Some(&scale),
                bias: Some(&bias),
                residual: Some(Residual {
                    data: &other,
                    ld: n,
                    position,
                }),
                activation: Activation::Silu,
                moments: None,
            };
            let a = Matrix::new(&a, k);
            let mut want = reference(m, k, n, a, |l, j| b[l * n + j]);
            for (i, x) in want.iter_mut().enumerate() {
                let (scale, bias) = (f64::from(scale[i % n]), f64::from(bias[i % n]));
                let (before, after) = match position {
                    ResidualPosition::BeforeActivation => (f64::from(other[i]), 0.0),
                    ResidualPosition::AfterActivation => (0.0, f64::from(other[i])),
                };
                *x = activate(Activation::Silu, *x * scale + bias + before) + after;
            }
            let mut c = poisoned(m * n);
            let (b, to) = (Matrix::new(&b, n), MatrixMut::new(&mut c, n));
            product(m, a, b, Order::RowMajor, [k, n], to, &epilogue).unwrap();
            assert_close("product", &c, &want, 2.0 * sum_tolerance(k));
        }
    });
}

#[test]
fn every_epilogue() {
    let (m, k, n, ldr) = (17, 30, 75, 80);
    let a = random(m * k, 1);
    let b = random(k * n, 2);
    let (scale, bias, residual) = (random(n, 3), random(n, 4), random(m * ldr, 5));
    let product = reference(m, k, n, Matrix::new(&a, k), |l, j| b[l * n + j]);
    let activations = [
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
    with_each_isa(|_| {
        let packed = PackedMatrix::new(Matrix::new(&b, n), Order::RowMajor, k, n).unwrap();
        for activation in activations {
            for choice in 0..12 {
                let position = match choice % 3 {
                    0 => None,
                    1 => Some(ResidualPosition::BeforeActivation),
                    _ => Some(ResidualPosition::AfterActivation),
                };
                let epilogue = Epilogue {
                    scale: (choice / 3 % 2 == 1).then_some(&scale[..]),
                    bias: (choice / 6 == 1).then_some(&bias[..]),
                    residual: position.map(|position| Residual {
                        data: &residual,
                        ld: ldr,
                        position,
                    }),
                    activation,
                    moments: None,
                };
                let want: Vec<f64> = (0..m * n)
                    .map(|i| {
                        let (row, col) = (i / n, i % n);
                        let mut x = product[i];
                        x *= epilogue.scale.map_or(1.0, |s| f64::from(s[col]));
                        x += epilogue.bias.map_or(0.0, |b| f64::from(b[col]));
                        let r = f64::from(residual[row * ldr + col]);
                        match position {
                            None => activate(activation, x),
                            Some(ResidualPosition::BeforeActivation) => activate(activation, x + r),
                            Some(ResidualPosition::AfterActivation) => activate(activation, x) + r,
                        }
                    })
                    .collect();
                let mut c = poisoned(m * n);
                packed
                    .multiply(m, Matrix::new(&a, k), MatrixMut::new(&mut c, n), &epilogue)
                    .unwrap();
                // The two forms of GELU differ by up to 5e-4.
                let extra = if activation == Activation::Gelu {
                    6e-4
                } else {
                    1e-6
                };
                assert_close(
                    &format!("{activation:?}, choice {choice}"),
                    &c,
                    &want,
                    sum_tolerance(k) + extra,
                );
            }
        }
    });
}

#[test]
fn results_do_not_depend_on_threads() {
    let run = |[m, k, n]: [usize; 3]| {
        let (a, b) = (random(m * k, 1), random(k * n, 2));
        let packed = PackedMatrix::new(Matrix::new(&b, n), Order::RowMajor, k, n).unwrap();
        let mut c = poisoned(m * n);
        packed
            .multiply(
                m,
                Matrix::new(&a, k),
                MatrixMut::new(&mut c, n),
                &Epilogue::NONE,
            )
            .unwrap();
        let mut d = poisoned(k * n);
        transposed_product(m, Matrix::new(&a, k), k, Matrix::new(&c, n), n, &mut d).unwrap();
        (c, d)
    };
    with_each_isa(|_| {
        // Many rows; weight gradients of packed pixels; and a reduction in several blocks, with several panels in a chunk.
        for size in [
            [300, 64, 130],
            [300, 140, 150],
            [50, 2100, 520],
            [500, 300, 520],
        ] {
            crate::pool::set_num_threads(1);
            let one = run(size);
            for threads in [2, 3, 5] {
                crate::pool::set_num_threads(threads);
                assert!(run(size) == one, "{size:?}, {threads} threads");
            }
        }
        crate::pool::set_num_threads(0);
    });
}

#[test]
fn wrong_arguments_are_refused() {
    let b = random(12, 1);
    assert!(PackedMatrix::new(Matrix::new(&b, 4), Order::RowMajor, 4, 4).is_err());
    assert!(PackedMatrix::new(Matrix::new(&b, 3), Order::RowMajor, 3, 4).is_err());
    let packed = PackedMatrix::new(Matrix::new(&b, 4), Order::RowMajor, 3, 4).unwrap();
    assert_eq!(packed.shape(), [3, 4]);
    let mut c = vec![0.0; 8];
    let a = random(5, 2);
    let none = &Epilogue::NONE;
    let error = packed
        .multiply(2, Matrix::new(&a, 3), MatrixMut::new(&mut c, 4), none)
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "left-hand matrix: expected 6 elements, found 5"
    );
    let a = random(6, 2);
    assert!(
        packed
            .multiply(2, Matrix::new(&a, 3), MatrixMut::new(&mut c[..7], 4), none)
            .is_err()
    );
    let short = Epilogue::bias_activation(Some(&b[..3]), Activation::None);
    assert!(
        packed
            .multiply(2, Matrix::new(&a, 3), MatrixMut::new(&mut c, 4), &short)
            .is_err()
    );
    packed
        .multiply(2, Matrix::new(&a, 3), MatrixMut::new(&mut c, 4), none)
        .unwrap();
    packed
        .multiply(0, Matrix::new(&[], 3), MatrixMut::new(&mut [], 4), none)
        .unwrap();
}
