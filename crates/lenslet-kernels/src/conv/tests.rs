use std::cell::RefCell;

use super::*;
use crate::buffer::Scratch;
use crate::epilogue::{Activation, Epilogue};
use crate::matrix::{Matrix, MatrixMut};
use crate::moments::Moments;
use crate::testing::{assert_close, poisoned, random, sum_tolerance, with_each_isa};
use proptest::prelude::*;

/// Calls `f(output element, input element, weight element)` for every product of a convolution, elements of dense tensors.
fn for_each_product(shape: &Conv2d, mut f: impl FnMut(usize, usize, usize)) {
    let [oh, ow] = shape.output_size().unwrap();
    let (per_in, per_out) = (shape.c_in / shape.groups, shape.c_out / shape.groups);
    let [kh, kw] = shape.kernel;
    for n in 0..shape.n {
        for (oy, ox) in (0..oh).flat_map(|y| (0..ow).map(move |x| (y, x))) {
            for (ky, kx) in (0..kh).flat_map(|y| (0..kw).map(move |x| (y, x))) {
                let y = oy * shape.stride[0] + ky * shape.dilation[0];
                let x = ox * shape.stride[1] + kx * shape.dilation[1];
                let (Some(y), Some(x)) = (
                    y.checked_sub(shape.padding[0]),
                    x.checked_sub(shape.padding[1]),
                ) else {
                    continue;
                };
                if y >= shape.h || x >= shape.w {
                    continue;
                }
                for o in 0..shape.c_out {
                    for i in 0..per_in {
                        f(
                            ((n * oh + oy) * ow + ox) * shape.c_out + o,
                            ((n * shape.h + y) * shape.w + x) * shape.c_in
                                + o / per_out * per_in
                                + i,
                            ((o * per_in + i) * kh + ky) * kw + kx,
                        );
                    }
                }
            }
        }
    }
}

/// Dense random tensors of a problem and its results in f64.
struct Problem {
    shape: Conv2d,
    x: Vec<f32>,
    w: Vec<f32>,
    dy: Vec<f32>,
    y64: Vec<f64>,
    dx64: Vec<f64>,
    dw64: Vec<f64>,
}

impl Problem {
    fn new(shape: Conv2d, seed: u64) -> Self {
        let [oh, ow] = shape.output_size().unwrap();
        let x = random(shape.n * shape.h * shape.w * shape.c_in, seed);
        let w = random(shape.weight_len(), seed ^ 1);
        let dy = random(shape.n * oh * ow * shape.c_out, seed ^ 2);
        let (mut y64, mut dx64, mut dw64) =
            (vec![0.0; dy.len()], vec![0.0; x.len()], vec![0.0; w.len()]);
        for_each_product(&shape, |o, i, k| {
            y64[o] += f64::from(x[i]) * f64::from(w[k]);
            dx64[i] += f64::from(dy[o]) * f64::from(w[k]);
            dw64[k] += f64::from(dy[o]) * f64::from(x[i]);
        });
        Problem {
            shape,
            x,
            w,
            dy,
            y64,
            dx64,
            dw64,
        }
    }

    fn reduction(&self, pass: Pass) -> usize {
        let channels = match pass {
            Pass::Forward => self.shape.c_in,
            Pass::InputGradient => self.shape.c_out,
        };
        channels / self.shape.groups * self.shape.taps()
    }

    /// Runs one pass between rows that lie `pads` floats further apart than dense ones.
    ///
    /// Weights are packed for it, or serve this run only, in memory that other passes have used.
    fn check_pass(
        &self,
        (pass, algorithm): (Pass, Algorithm),
        once: Option<&RefCell<ConvWorkspace>>,
        pads: [usize; 2],
        tolerance: f64,
    ) {
        let shape = &self.shape;
        let (x, want, c_in, c_out) = match pass {
            Pass::Forward => (&self.x, &self.y64, shape.c_in, shape.c_out),
            Pass::InputGradient => (&self.dy, &self.dx64, shape.c_out, shape.c_in),
        };
        let (ldx, ldy) = (c_in + pads[0], c_out + pads[1]);
        let mut wide = poisoned(x.len() / c_in * ldx);
        for (to, from) in wide.chunks_mut(ldx).zip(x.chunks(c_in)) {
            to[..c_in].copy_from_slice(from);
        }
        let bias = random(c_out, 9);
        let rows = want.len() / c_out;
        let residual = random(rows * c_out, 10);
        let moments = Moments::new();
        let packed = PackedConv::with_algorithm(shape, pass, algorithm, &self.w).unwrap();
        let mut scratch = Scratch::new();
        let mut y = poisoned(rows * ldy);
        let epilogue = Epilogue {
            bias: Some(&bias),
            residual: Some(crate::epilogue::Residual {
                data: &residual,
                ld: c_out,
                position: crate::epilogue::ResidualPosition::BeforeActivation,
            }),
            scale: None,
            activation: Activation::LeakyRelu(0.5),
            moments: Some(&moments),
        };
        let run = |y: &mut [f32], epilogue: &Epilogue, scratch: &mut Scratch| {
            let (x, y) = (Matrix::new(&wide, ldx), MatrixMut::new(y, ldy));
            let done = match once {
                Some(workspace) => {
                    let mut workspace = workspace.borrow_mut();
                    workspace.run_by(algorithm, (shape, pass), &self.w, x, y, epilogue)
                }
                None => packed.run(shape.n, x, y, scratch, epilogue),
            };
            done.unwrap();
        };
        run(&mut y, &epilogue, &mut scratch);
        let what = format!("{pass:?}, {}, {}", algorithm.name(), packed.isa());
        // Without what knows channels apart, some kernels work on several pixels at once.
        let simple = Epilogue {
            residual: None,
            moments: None,
            ..epilogue
        };
        let mut plain = poisoned(rows * ldy);
        run(&mut plain, &simple, &mut scratch);
        let (mut got, mut expected) = (Vec::new(), Vec::new());
        for (row, want) in plain.chunks(ldy).zip(want.chunks(c_out)) {
            got.extend_from_slice(&row[..c_out]);
            let biased = want.iter().zip(&bias).map(|(y, b)| y + f64::from(*b));
            expected.extend(biased.map(|y| if y < 0.0 { 0.5 * y } else { y }));
        }
        assert_close(&what, &got, &expected, tolerance);
        let want: Vec<f64> = want
            .iter()
            .enumerate()
            .map(|(i, y)| {
                let y = y + f64::from(bias[i % c_out]) + f64::from(residual[i]);
                if y < 0.0 { 0.5 * y } else { y }
            })
            .collect();
        let mut got = Vec::new();
        for row in y.chunks(ldy) {
            got.extend_from_slice(&row[..c_out]);
            assert!(
                row[c_out..].iter().all(|x| x.is_nan()),
                "written between the rows"
            );
        }
        assert_close(&what, &got, &want, tolerance);
        let [mean, variance] = moments.finish(c_out).unwrap();
        let column = |c: usize| got[c..].iter().step_by(c_out).map(|&x| f64::from(x));
        for c in 0..c_out {
            let average = column(c).sum::<f64>() / rows as f64;
            let spread = column(c).map(|x| (x - average).powi(2)).sum::<f64>() / rows as f64;
            let largest = column(c).fold(1.0, |m: f64, x| m.max(x.abs()));
            assert!(
                (f64::from(mean[c]) - average).abs() < 1e-5 * largest
                    && (f64::from(variance[c]) - spread).abs() < 1e-5 * largest * largest,
                "{what}: moments of channel {c} are {} and {}, not {average} and {spread}",
                mean[c],
                variance[c]
            );
        }
    }

    fn check_all(&self, pads: [usize; 2]) {
        let workspace = RefCell::default();
        for pass in [Pass::Forward, Pass::InputGradient] {
            for algorithm in Algorithm::ALL {
                if algorithm.serves(&self.shape, pass) {
                    let tolerance = sum_tolerance(self.reduction(pass)) * algorithm.error_factor();
                    for once in [None, Some(&workspace)] {
                        self.check_pass((pass, algorithm), once, pads, tolerance);
                    }
                }
            }
        }
        let shape = &self.shape;
        let (x, dy) = (
            Matrix::new(&self.x, shape.c_in),
            Matrix::new(&self.dy, shape.c_out),
        );
        let pixels = self.dy.len() / shape.c_out;
        for algorithm in Algorithm::ALL {
            let mut dw = poisoned(self.w.len());
            let workspace = &mut workspace.borrow_mut();
            let done = workspace.weight_gradient_by(algorithm, shape, x, dy, &mut dw);
            assert_eq!(done.is_ok(), algorithm.serves_weight_gradient(shape));
            if done.is_ok() {
                let what = format!("weight gradient, {}", algorithm.name());
                let tolerance = sum_tolerance(pixels) * algorithm.error_factor();
                assert_close(&what, &dw, &self.dw64, tolerance);
            }
        }
        assert!(Algorithm::choose_weight_gradient(shape).serves_weight_gradient(shape));
        let mut db = poisoned(shape.c_out);
        column_sums(pixels, dy, &mut db).unwrap();
        let want: Vec<f64> = (0..shape.c_out)
            .map(|c| {
                self.dy
                    .iter()
                    .skip(c)
                    .step_by(shape.c_out)
                    .map(|&x| f64::from(x))
                    .sum()
            })
            .collect();
        assert_close("bias gradient", &db, &want, sum_tolerance(pixels));
    }
}

fn shapes() -> impl Strategy<Value = Conv2d> {
    let sizes = (1usize..4, 1usize..14, 1usize..14);
    let channels = (
        prop_oneof![Just(1usize), 1usize..5, 5usize..40],
        1usize..40,
        1usize..6,
    );
    let kernel = (
        [1usize..5, 1usize..5],
        [1usize..4, 1usize..4],
        [1usize..3, 1usize..3],
    );
    let padding = [0usize..3, 0usize..3, 0usize..3, 0usize..3];
    (sizes, channels, kernel, padding, 0usize..4)
        .prop_map(
            |((n, h, w), (a, b, g), (kernel, stride, dilation), padding, kind)| {
                let (c_in, c_out, groups) = match kind {
                    0 | 1 => (a, b, 1),
                    2 => (a.div_ceil(3) * g, b.div_ceil(3) * g, g),
                    _ => (a, a, a),
                };
                Conv2d {
                    n,
                    h,
                    w,
                    c_in,
                    c_out,
                    kernel,
                    stride,
                    padding,
                    dilation,
                    groups,
                }
            },
        )
        .prop_filter("possible", |shape| shape.output_size().is_ok())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn convolutions_match_the_reference(shape in shapes(), pads in [0usize..4, 0usize..4], seed: u64) {
        let problem = Problem::new(shape, seed);
        with_each_isa(|_| problem.check_all(pads));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn winograd_matches_the_reference(
        n in 1usize..4, h in 1usize..20, w in 1usize..20, c_in in 1usize..40, c_out in 1usize..40,
        padding in [0usize..3, 0usize..3, 0usize..3, 0usize..3], pads in [0usize..4, 0usize..4], seed: u64,
    ) {
        let shape = Conv2d { padding, ..Conv2d::new([n, h, w, c_in], c_out, [3, 3]) };
        prop_assume!(shape.output_size().is_ok());
        let problem = Problem::new(shape, seed);
        with_each_isa(|_| problem.check_all(pads));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn convolutions_to_few_channels_match_the_reference(
        n in 1usize..3, h in 1usize..9, w in 1usize..40, c_in in prop_oneof![1usize..9, 15usize..18], c_out in 1usize..9,
        kernel in [1usize..6, 1usize..6], stride in 1usize..3, padding in [0usize..4, 0usize..4, 0usize..4, 0usize..4],
        dilation in [1usize..3, 1usize..3], pads in [0usize..4, 0usize..4], seed: u64,
    ) {
        let shape = Conv2d {
            padding,
            dilation,
            stride: [stride, 1],
            ..Conv2d::new([n, h, w, c_in], c_out, kernel)
        };
        prop_assume!(shape.output_size().is_ok());
        prop_assert!(Algorithm::Narrow.serves(&shape, Pass::Forward));
        let problem = Problem::new(shape, seed);
        with_each_isa(|_| problem.check_all(pads));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn square_depthwise_convolutions_match_the_reference(
        n in 1usize..3, h in 1usize..12, w in 1usize..40, c in 1usize..70, kernel in 1usize..8, stride in 1usize..3,
        padding in [0usize..5, 0usize..5, 0usize..5, 0usize..5], pads in [0usize..4, 0usize..4], seed: u64,
    ) {
        let shape = Conv2d { padding, ..Conv2d::new([n, h, w, c], c, [kernel, kernel]) };
        let shape = shape.stride(stride).groups(c);
        prop_assume!(shape.output_size().is_ok());
        let problem = Problem::new(shape, seed);
        with_each_isa(|_| problem.check_all(pads));
    }
}

#[test]
fn no_images_have_no_output_and_no_gradient() {
    let shape = Conv2d::new([0, 6, 6, 16], 256, [3, 3]).padding(1);
    let (x, dy) = (Matrix::new(&[], 16), Matrix::new(&[], 256));
    let weight = random(shape.weight_len(), 1);
    with_each_isa(|_| {
        let mut workspace = ConvWorkspace::new();
        for algorithm in Algorithm::ALL {
            if algorithm.serves(&shape, Pass::Forward) {
                let (moments, y) = (Moments::new(), MatrixMut::new(&mut [], 256));
                let epilogue = Epilogue {
                    moments: Some(&moments),
                    ..Epilogue::NONE
                };
                let call = (&shape, Pass::Forward);
                let done = workspace.run_by(algorithm, call, &weight, x, y, &epilogue);
                done.unwrap();
                assert!(moments.finish(256).is_err(), "moments of nothing");
            }
            let mut dw = poisoned(shape.weight_len());
            if algorithm.serves_weight_gradient(&shape) {
                let done = workspace.weight_gradient_by(algorithm, &shape, x, dy, &mut dw);
                done.unwrap();
                assert!(dw.iter().all(|&x| x == 0.0), "{}", algorithm.name());
            }
        }
    });
}

/// Shapes that take the branches which random small ones seldom reach.
#[test]
fn particular_shapes() {
    let shapes = [
        // Stems.
        Conv2d::new([1, 30, 34, 3], 64, [7, 7]).stride(2).padding(3),
        Conv2d::new([2, 28, 28, 1], 6, [5, 5]).padding(2),
        // LeNet-5's, and one of several chunks of rows.
        Conv2d::new([3, 14, 14, 6], 16, [5, 5]),
        Conv2d::new([1, 75, 200, 7], 5, [5, 5]),
        // Pointwise, and pointwise with stride.
        Conv2d::new([2, 9, 9, 70], 80, [1, 1]),
        Conv2d::new([2, 9, 9, 40], 72, [1, 1]).stride(2),
        // Long reductions that are walked in blocks.
        Conv2d::new([1, 5, 5, 300], 20, [3, 3]).padding(1),
        Conv2d::new([1, 3, 3, 2500], 17, [1, 1]),
        // Winograd's weight gradient in pieces of both sides' channels.
        Conv2d::new([1, 4, 4, 520], 200, [3, 3]).padding(1),
        // Weights that every thread transforms for itself, some rows at a time.
        Conv2d::new([1, 4, 5, 700], 257, [3, 3]).padding(1),
        Conv2d::new([1, 7, 7, 20], 256, [3, 3]),
        // Enough Winograd tiles for blocks of their own for each thread.
        Conv2d::new([2, 50, 50, 5], 3, [3, 3]).padding(1),
        // ResNeXt's groups.
        Conv2d::new([1, 8, 8, 128], 128, [3, 3])
            .padding(1)
            .groups(32),
        Conv2d::new([1, 8, 8, 64], 64, [3, 3])
            .padding(1)
            .stride(2)
            .groups(2),
        // Weight gradients of packed pixels.
        Conv2d::new([2, 9, 7, 140], 136, [3, 3])
            .padding(1)
            .stride(2),
        Conv2d::new([3, 8, 6, 280], 300, [2, 2]).stride(2).groups(2),
        // Depthwise.
        Conv2d::new([1, 15, 15, 96], 96, [7, 7])
            .padding(3)
            .groups(96),
        Conv2d::new([1, 16, 16, 40], 40, [5, 5])
            .padding(2)
            .stride(2)
            .groups(40),
        Conv2d::new([2, 14, 14, 33], 33, [3, 3])
            .padding(1)
            .groups(33),
        // Stride above the kernel's size, and a kernel in the padding only.
        Conv2d::new([1, 11, 11, 5], 7, [2, 2]).stride(3),
        Conv2d {
            padding: [3, 0, 0, 3],
            ..Conv2d::new([1, 2, 4, 20], 18, [3, 3])
        },
    ];
    for shape in shapes {
        let problem = Problem::new(shape, 5);
        with_each_isa(|_| problem.check_all([0, 0]));
    }
}

#[test]
fn results_do_not_depend_on_threads() {
    let shape = Conv2d::new([2, 14, 14, 24], 40, [3, 3]).padding(1);
    let problem = Problem::new(shape, 3);
    let run = || {
        let mut scratch = Scratch::new();
        let mut y = poisoned(problem.y64.len());
        let packed = PackedConv::new(&shape, Pass::Forward, &problem.w).unwrap();
        let x = Matrix::new(&problem.x, shape.c_in);
        packed
            .run(
                2,
                x,
                MatrixMut::new(&mut y, shape.c_out),
                &mut scratch,
                &Epilogue::NONE,
            )
            .unwrap();
        let mut dw = poisoned(problem.w.len());
        let dy = Matrix::new(&problem.dy, shape.c_out);
        shape.weight_gradient(x, dy, &mut dw, &mut scratch).unwrap();
        (y, dw)
    };
    with_each_isa(|_| {
        crate::pool::set_num_threads(1);
        let one = run();
        for threads in [2, 5] {
            crate::pool::set_num_threads(threads);
            assert_eq!(run(), one);
        }
        crate::pool::set_num_threads(0);
    });
}

#[test]
fn wrong_arguments_are_refused() {
    let shape = Conv2d::new([1, 4, 4, 3], 5, [3, 3]);
    for bad in [
        Conv2d {
            kernel: [5, 3],
            ..shape
        },
        Conv2d {
            stride: [0, 1],
            ..shape
        },
        Conv2d { groups: 2, ..shape },
        Conv2d { groups: 0, ..shape },
        Conv2d { c_out: 0, ..shape },
        Conv2d {
            h: 0,
            padding: [3; 4],
            ..shape
        },
    ] {
        assert!(
            PackedConv::new(&bad, Pass::Forward, &[]).is_err(),
            "{bad:?}"
        );
    }
    let w = random(shape.weight_len(), 1);
    assert!(PackedConv::new(&shape, Pass::Forward, &w[1..]).is_err());
    let packed = PackedConv::new(&shape, Pass::Forward, &w).unwrap();
    let x = random(48, 2);
    let mut y = [0.0; 20];
    let mut run = |x: &[f32], len: usize, ldy: usize| {
        let y = MatrixMut::new(&mut y[..len], ldy);
        packed.run(
            1,
            Matrix::new(x, 3),
            y,
            &mut Scratch::new(),
            &Epilogue::NONE,
        )
    };
    assert!(run(&x[1..], 20, 5).is_err());
    assert!(run(&x, 19, 5).is_err());
    assert!(run(&x, 20, 4).is_err());
    assert!(run(&x, 20, 5).is_ok());
}
