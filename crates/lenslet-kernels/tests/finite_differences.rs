//! Gradients of the kernels against central differences of plain definitions in f64.
//!
//! Each operation is written down here once, slowly, in f64, and followed by a sum of its outputs with random weights; the
//! difference quotient of that sum is what the kernel's gradient must be.

use lenslet_kernels::simd::{Isa, set_isa_limit};
use lenslet_kernels::{
    Activation, AdaptiveAveragePool2d, Attention, AttentionGradients, AttentionSaved,
    AveragePool2d, BatchNorm, Conv2d, ConvTranspose2d, CrossEntropy, Epilogue, Factor, InOut,
    LayerNorm, Matrix, MatrixMut, MaxPool2d, PackedConv, Pass, Pool2d, Preactivation, Scaling,
    Scratch, Statistics, batch_statistics, inverse_std, softmax, softmax_backward,
    transposed_product,
};

/// Repeatable values in [-1, 1), different for each seed.
fn random(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x1234_5678_9abc_def1;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..len).map(next).collect()
}

/// Step of a difference quotient: its error is near 1e-8 times the third derivative.
const STEP: f64 = 1e-4;

/// Compares one gradient for each input with the difference quotients of `weights * f(inputs)`.
#[track_caller]
fn check(
    what: &str,
    inputs: &[&[f32]],
    weights: &[f32],
    f: impl Fn(&[Vec<f64>]) -> Vec<f64>,
    gradients: &[Vec<f32>],
) {
    let mut wide: Vec<Vec<f64>> = inputs
        .iter()
        .map(|x| x.iter().map(|&x| f64::from(x)).collect())
        .collect();
    let loss = |inputs: &[Vec<f64>]| -> f64 {
        let y = f(inputs);
        assert_eq!(y.len(), weights.len(), "{what}: outputs");
        y.iter().zip(weights).map(|(y, &w)| y * f64::from(w)).sum()
    };
    assert_eq!(inputs.len(), gradients.len(), "{what}: gradients");
    for (i, gradient) in gradients.iter().enumerate() {
        assert_eq!(gradient.len(), inputs[i].len(), "{what}: gradient {i}");
        let largest = gradient.iter().fold(0f32, |m, x| m.max(x.abs()));
        for (at, &got) in gradient.iter().enumerate() {
            let x = wide[i][at];
            wide[i][at] = x + STEP;
            let above = loss(&wide);
            wide[i][at] = x - STEP;
            let below = loss(&wide);
            wide[i][at] = x;
            let want = (above - below) / (2.0 * STEP);
            let error = (f64::from(got) - want).abs();
            assert!(
                error <= 1e-5 * f64::from(largest) + 1e-6,
                "{what}: gradient {i}[{at}] is {got}, by differences {want}"
            );
        }
    }
}

/// Runs a test with every instruction set of this machine; the setting belongs to the process, so there is one test.
#[test]
fn gradients_are_slopes() {
    for isa in Isa::available() {
        assert_eq!(set_isa_limit(isa), isa);
        convolutions();
        transposed_convolution();
        linear();
        batch_norms();
        layer_norm();
        softmax_rows();
        cross_entropy();
        attention();
        pools();
        scaling();
    }
}

fn convolve(shape: &Conv2d, x: &[f64], w: &[f64]) -> Vec<f64> {
    let [oh, ow] = shape.output_size().unwrap();
    let (per_in, per_out) = (shape.c_in / shape.groups, shape.c_out / shape.groups);
    let [kh, kw] = shape.kernel;
    let mut y = vec![0.0; shape.n * oh * ow * shape.c_out];
    for (at, y) in y.iter_mut().enumerate() {
        let (o, pixel) = (at % shape.c_out, at / shape.c_out);
        let (ox, oy, n) = (pixel % ow, pixel / ow % oh, pixel / ow / oh);
        for (ky, kx) in (0..kh).flat_map(|y| (0..kw).map(move |x| (y, x))) {
            let iy = (oy * shape.stride[0] + ky * shape.dilation[0]).wrapping_sub(shape.padding[0]);
            let ix = (ox * shape.stride[1] + kx * shape.dilation[1]).wrapping_sub(shape.padding[1]);
            if iy < shape.h && ix < shape.w {
                for i in 0..per_in {
                    let c = o / per_out * per_in + i;
                    *y += x[((n * shape.h + iy) * shape.w + ix) * shape.c_in + c]
                        * w[((o * per_in + i) * kh + ky) * kw + kx];
                }
            }
        }
    }
    y
}

fn convolutions() {
    for shape in [
        Conv2d::new([2, 4, 5, 6], 9, [1, 1]),
        Conv2d::new([1, 9, 8, 17], 18, [3, 3]).padding(1),
        Conv2d::new([2, 5, 6, 4], 5, [3, 3]).stride(2).padding(1),
        Conv2d::new([1, 7, 6, 8], 12, [3, 3]).padding(1).groups(4),
        Conv2d::new([1, 6, 7, 9], 9, [3, 3]).padding(1).groups(9),
        Conv2d::new([1, 8, 7, 10], 10, [5, 5])
            .stride(2)
            .padding(2)
            .groups(10),
        Conv2d::new([1, 9, 9, 3], 8, [5, 5]).stride(2).padding(2),
        Conv2d::new([1, 7, 7, 5], 6, [3, 3]).dilation(2).padding(1),
    ] {
        let [oh, ow] = shape.output_size().unwrap();
        let x = random(shape.n * shape.h * shape.w * shape.c_in, 1);
        let w = random(shape.weight_len(), 2);
        let dy = random(shape.n * oh * ow * shape.c_out, 3);
        let (mut dx, mut dw) = (vec![0.0; x.len()], vec![0.0; w.len()]);
        let mut scratch = Scratch::new();
        let packed = PackedConv::new(&shape, Pass::InputGradient, &w).unwrap();
        let to = MatrixMut::new(&mut dx, shape.c_in);
        let from = Matrix::new(&dy, shape.c_out);
        packed
            .run(shape.n, from, to, &mut scratch, &Epilogue::NONE)
            .unwrap();
        shape
            .weight_gradient(Matrix::new(&x, shape.c_in), from, &mut dw, &mut scratch)
            .unwrap();
        check(
            &format!("{shape:?}"),
            &[&x, &w],
            &dy,
            |inputs| convolve(&shape, &inputs[0], &inputs[1]),
            &[dx, dw],
        );
    }
}

fn transposed_convolution() {
    let shape = ConvTranspose2d {
        input: [2, 3, 4, 5],
        c_out: 6,
        kernel: [2, 2],
        stride: [2, 2],
        padding: [0; 4],
        output_padding: [0; 2],
        dilation: [1, 1],
        groups: 1,
    };
    let [oh, ow] = shape.output_size().unwrap();
    let (x, w) = (random(2 * 3 * 4 * 5, 1), random(5 * 6 * 4, 2));
    let dy = random(2 * oh * ow * 6, 3);
    let (mut dx, mut dw) = (vec![0.0; x.len()], vec![0.0; w.len()]);
    let mut scratch = Scratch::new();
    let packed = shape.pack_input_gradient(&w).unwrap();
    let from = Matrix::new(&dy, 6);
    let to = MatrixMut::new(&mut dx, 5);
    packed
        .run(2, from, to, &mut scratch, &Epilogue::NONE)
        .unwrap();
    shape
        .weight_gradient(Matrix::new(&x, 5), from, &mut dw, &mut scratch)
        .unwrap();
    let plain = |inputs: &[Vec<f64>]| {
        let mut y = vec![0.0; dy.len()];
        for (at, x) in inputs[0].iter().enumerate() {
            let (i, pixel) = (at % 5, at / 5);
            let (ix, iy, n) = (pixel % 4, pixel / 4 % 3, pixel / 12);
            for o in 0..6 {
                for tap in 0..4 {
                    let (oy, ox) = (iy * 2 + tap / 2, ix * 2 + tap % 2);
                    y[((n * oh + oy) * ow + ox) * 6 + o] += x * inputs[1][(i * 6 + o) * 4 + tap];
                }
            }
        }
        y
    };
    check("transposed convolution", &[&x, &w], &dy, plain, &[dx, dw]);
}

fn linear() {
    let (rows, inputs, outputs) = (5, 11, 13);
    let (x, dy) = (random(rows * inputs, 1), random(rows * outputs, 3));
    let w = random(outputs * inputs, 2);
    let mut dw = vec![0.0; w.len()];
    let (left, right) = (Matrix::new(&dy, outputs), Matrix::new(&x, inputs));
    transposed_product(rows, left, outputs, right, inputs, &mut dw).unwrap();
    let plain = |given: &[Vec<f64>]| {
        let mut y = Vec::new();
        for x in x.chunks(inputs) {
            for w in given[0].chunks(inputs) {
                y.push(x.iter().zip(w).map(|(&x, w)| f64::from(x) * w).sum());
            }
        }
        y
    };
    check("linear layer's weight", &[&w], &dy, plain, &[dw]);
}

fn apply(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::None => x,
        Activation::Relu => x.max(0.0),
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::Tanh => x.tanh(),
        other => panic!("{other:?} is not written down here"),
    }
}

fn batch_norms() {
    let (rows, channels, eps) = (14, 9, 1e-5f32);
    for activation in [
        Activation::None,
        Activation::Relu,
        Activation::Silu,
        Activation::Tanh,
    ] {
        for frozen in [false, true] {
            let x = random(rows * channels, 1);
            let (gamma, beta) = (random(channels, 2), random(channels, 4));
            let residual = random(rows * channels, 5);
            let dy = random(rows * channels, 3);
            let (mut mean, mut variance) = (vec![0.1; channels], vec![0.7; channels]);
            if !frozen {
                batch_statistics(rows, &x, &mut mean, &mut variance).unwrap();
            }
            let mut inv_std = vec![0.0; channels];
            inverse_std(&variance, eps, &mut inv_std).unwrap();
            let norm = BatchNorm {
                mean: &mean,
                inv_std: &inv_std,
                gamma: Some(&gamma),
                beta: Some(&beta),
                activation,
            };
            let (mut dx, mut d_residual) = (vec![0.0; x.len()], vec![0.0; x.len()]);
            let (mut d_gamma, mut d_beta) = (vec![0.0; channels], vec![0.0; channels]);
            let statistics = if frozen {
                Statistics::Frozen
            } else {
                Statistics::Batch
            };
            norm.backward(
                rows,
                statistics,
                &x,
                Preactivation::FromResidual(&residual),
                InOut::Separate(&dy, &mut dx),
                Some(&mut d_residual),
                [Some(&mut d_gamma), Some(&mut d_beta)],
            )
            .unwrap();
            let plain = |inputs: &[Vec<f64>]| {
                let [x, gamma, beta, residual] = inputs else {
                    unreachable!("four inputs")
                };
                let mut y = vec![0.0; x.len()];
                for c in 0..channels {
                    let column = || x[c..].iter().step_by(channels);
                    let (mut average, mut spread) = (f64::from(mean[c]), f64::from(variance[c]));
                    if !frozen {
                        average = column().sum::<f64>() / rows as f64;
                        spread = column().map(|x| (x - average).powi(2)).sum::<f64>() / rows as f64;
                    }
                    let scale = gamma[c] / (spread + f64::from(eps)).sqrt();
                    for row in 0..rows {
                        let at = row * channels + c;
                        let z = (x[at] - average) * scale + beta[c] + residual[at];
                        y[at] = apply(activation, z);
                    }
                }
                y
            };
            check(
                &format!("batch norm, {activation:?}, frozen: {frozen}"),
                &[&x, &gamma, &beta, &residual],
                &dy,
                plain,
                &[dx, d_gamma, d_beta, d_residual],
            );
        }
    }
}

fn layer_norm() {
    let (rows, channels, epsilon) = (6, 21, 1e-5f32);
    let x = random(rows * channels, 1);
    let (gamma, beta) = (random(channels, 2), random(channels, 4));
    let dy = random(rows * channels, 3);
    let norm = LayerNorm {
        channels,
        gamma: Some(&gamma),
        beta: Some(&beta),
        epsilon,
    };
    let mut y = vec![0.0; x.len()];
    let (mut mean, mut inv_std) = (vec![0.0; rows], vec![0.0; rows]);
    norm.forward(
        rows,
        InOut::Separate(&x, &mut y),
        Some([&mut mean, &mut inv_std]),
    )
    .unwrap();
    let mut dx = vec![0.0; x.len()];
    let (mut d_gamma, mut d_beta) = (vec![0.0; channels], vec![0.0; channels]);
    norm.backward(
        rows,
        &x,
        [&mean, &inv_std],
        InOut::Separate(&dy, &mut dx),
        None,
        [Some(&mut d_gamma), Some(&mut d_beta)],
    )
    .unwrap();
    let plain = |inputs: &[Vec<f64>]| {
        let mut y = Vec::new();
        for row in inputs[0].chunks(channels) {
            let average = row.iter().sum::<f64>() / channels as f64;
            let spread = row.iter().map(|x| (x - average).powi(2)).sum::<f64>() / channels as f64;
            let scale = 1.0 / (spread + f64::from(epsilon)).sqrt();
            for (c, x) in row.iter().enumerate() {
                y.push((x - average) * scale * inputs[1][c] + inputs[2][c]);
            }
        }
        y
    };
    check(
        "layer norm",
        &[&x, &gamma, &beta],
        &dy,
        plain,
        &[dx, d_gamma, d_beta],
    );
}

fn soft(row: &[f64]) -> Vec<f64> {
    let total: f64 = row.iter().map(|x| x.exp()).sum();
    row.iter().map(|x| x.exp() / total).collect()
}

fn softmax_rows() {
    let (rows, classes) = (4, 19);
    let (x, dy) = (random(rows * classes, 1), random(rows * classes, 3));
    let (mut y, mut dx) = (vec![0.0; x.len()], vec![0.0; x.len()]);
    softmax(classes, InOut::Separate(&x, &mut y)).unwrap();
    softmax_backward(classes, &y, InOut::Separate(&dy, &mut dx)).unwrap();
    let plain = |inputs: &[Vec<f64>]| inputs[0].chunks(classes).flat_map(soft).collect();
    check("softmax", &[&x], &dy, plain, &[dx]);
}

fn cross_entropy() {
    let (rows, classes) = (5, 11);
    let targets = [0, 3, 10, 3, 7];
    for smoothing in [0.0f32, 0.1] {
        let x = random(rows * classes, 1);
        let mut dx = vec![0.0; x.len()];
        let loss = CrossEntropy { classes, smoothing };
        loss.forward(&x, &targets, 1.0, Some(&mut dx)).unwrap();
        let smoothing = f64::from(smoothing);
        let plain = |inputs: &[Vec<f64>]| {
            let rows_of = inputs[0].chunks(classes).zip(targets);
            let losses = rows_of.map(|(row, target)| {
                let logs: Vec<f64> = soft(row).into_iter().map(f64::ln).collect();
                let even = logs.iter().sum::<f64>() / classes as f64;
                -(1.0 - smoothing) * logs[target as usize] - smoothing * even
            });
            vec![losses.sum::<f64>() / rows as f64]
        };
        check("cross entropy", &[&x], &[1.0], plain, &[dx]);
    }
}

fn attention() {
    let shape = Attention::new(2, 5, 2, 9);
    let width = 2 * 9;
    let rows = 2 * 5;
    let [q, k, v] = [1, 2, 4].map(|seed| random(rows * width, seed));
    let d_out = random(rows * width, 3);
    let mut out = vec![0.0; rows * width];
    let mut log_sums = vec![0.0; 2 * 2 * 5];
    let view = |x| Matrix::new(x, width);
    shape
        .forward(
            view(&q),
            view(&k),
            view(&v),
            MatrixMut::new(&mut out, width),
            Some(&mut log_sums),
        )
        .unwrap();
    let [mut dq, mut dk, mut dv] = [(); 3].map(|()| vec![0.0; rows * width]);
    let targets = [&mut dq, &mut dk, &mut dv].map(|d| MatrixMut::new(d, width));
    let saved = AttentionSaved {
        q: view(&q),
        k: view(&k),
        v: view(&v),
        out: view(&out),
        log_sums: &log_sums,
        d_out: view(&d_out),
    };
    shape
        .backward(saved, AttentionGradients::Separate(targets))
        .unwrap();
    let scale = f64::from(shape.scale);
    let plain = |inputs: &[Vec<f64>]| {
        let [q, k, v] = inputs else {
            unreachable!("three inputs")
        };
        let mut y = vec![0.0; rows * width];
        for (image, head) in (0..2).flat_map(|i| (0..2).map(move |h| (i, h))) {
            let at = |token: usize, i: usize| (image * 5 + token) * width + head * 9 + i;
            for query in 0..5 {
                let score = |key: usize| {
                    let dot: f64 = (0..9).map(|i| q[at(query, i)] * k[at(key, i)]).sum();
                    dot * scale
                };
                let shares = soft(&(0..5).map(score).collect::<Vec<_>>());
                for i in 0..9 {
                    y[at(query, i)] = (0..5).map(|key| shares[key] * v[at(key, i)]).sum();
                }
            }
        }
        y
    };
    check("attention", &[&q, &k, &v], &d_out, plain, &[dq, dk, dv]);
}

fn pools() {
    let [n, h, w, c] = [1, 7, 6, 9];
    let x = random(n * h * w * c, 1);
    let windows = Pool2d::new([n, h, w, c], 3, 2);
    let at = |y: usize, x: usize, channel: usize| (y * w + x) * c + channel;
    let pooled = |x: &[f64], [oh, ow]: [usize; 2], f: &dyn Fn(Vec<f64>) -> f64| {
        let mut out = Vec::new();
        for (oy, ox) in (0..oh).flat_map(|y| (0..ow).map(move |x| (y, x))) {
            for channel in 0..c {
                let cells = (0..9).map(|t| x[at(oy * 2 + t / 3, ox * 2 + t % 3, channel)]);
                out.push(f(cells.collect()));
            }
        }
        out
    };
    let pool = MaxPool2d::new(windows);
    let size = pool.output_size().unwrap();
    let len = n * size[0] * size[1] * c;
    let dy = random(len, 3);
    let (mut y, mut taps, mut dx) = (vec![0.0; len], vec![0; len], vec![0.0; x.len()]);
    pool.forward(&x, &mut y, Some(&mut taps)).unwrap();
    pool.backward(&dy, &taps, &mut dx).unwrap();
    let largest = |cells: Vec<f64>| cells.into_iter().fold(f64::MIN, f64::max);
    let plain = |inputs: &[Vec<f64>]| pooled(&inputs[0], size, &largest);
    check("max pool", &[&x], &dy, plain, &[dx]);

    let pool = AveragePool2d {
        windows,
        count_include_pad: true,
    };
    let mut dx = vec![0.0; x.len()];
    pool.backward(&dy, &mut dx).unwrap();
    let mean = |cells: Vec<f64>| cells.iter().sum::<f64>() / 9.0;
    let plain = |inputs: &[Vec<f64>]| pooled(&inputs[0], size, &mean);
    check("average pool", &[&x], &dy, plain, &[dx]);

    let pool = AdaptiveAveragePool2d::global([n, h, w, c]);
    let dy = random(c, 3);
    let mut dx = vec![0.0; x.len()];
    pool.backward(&dy, &mut dx).unwrap();
    let plain = |inputs: &[Vec<f64>]| {
        (0..c)
            .map(|channel| {
                let column = inputs[0][channel..].iter().step_by(c);
                column.sum::<f64>() / (h * w) as f64
            })
            .collect()
    };
    check("global average", &[&x], &dy, plain, &[dx]);
}

fn scaling() {
    let shape = Scaling {
        samples: 2,
        pixels: 5,
        channels: 9,
    };
    let x = random(2 * 5 * 9, 1);
    let dy = random(x.len(), 3);
    let factors = random(2 * 9, 2);
    for (what, len) in [("channels", 9), ("samples", 2), ("both", 18)] {
        let own = &factors[..len];
        let factor = match what {
            "channels" => Factor::Channels(own),
            "samples" => Factor::Samples(own),
            _ => Factor::SampleChannels(own),
        };
        let (mut dx, mut d_factor) = (vec![0.0; x.len()], vec![0.0; len]);
        shape
            .backward(&x, factor, InOut::Separate(&dy, &mut dx), &mut d_factor)
            .unwrap();
        let plain = |inputs: &[Vec<f64>]| {
            let index = |at: usize| match what {
                "channels" => at % 9,
                "samples" => at / 45,
                _ => at / 45 * 9 + at % 9,
            };
            let all = inputs[0].iter().enumerate();
            all.map(|(at, x)| x * inputs[1][index(at)]).collect()
        };
        check(what, &[&x, own], &dy, plain, &[dx, d_factor]);
    }
}
