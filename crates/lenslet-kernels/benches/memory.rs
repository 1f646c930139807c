//! Times the passes that memory limits: normalisation, activations, pooling, losses, optimiser steps, layout changes;
//! and attention.
//!
//!     cargo bench -p lenslet-kernels --bench memory -- [--threads N] [--batch N] [--seconds S] [FILTER]...
//!
//! GB/s count every buffer that a pass must read or write once (attention: its operands). The last column relates them
//! to a copy between buffers of the same total size, measured right before; a copy with plain stores also reads what
//! it overwrites, which is not counted.

use std::time::Instant;

use lenslet_kernels::simd::isa;
use lenslet_kernels::*;

struct Options {
    threads: usize,
    batch: usize,
    seconds: f64,
    filters: Vec<String>,
}

fn options() -> Result<Options, String> {
    let mut options = Options {
        threads: pool::num_threads(),
        batch: 8,
        seconds: 0.1,
        filters: Vec::new(),
    };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or(format!("{arg} needs a value"));
        let bad = |e: &dyn std::fmt::Display| format!("{arg}: {e}");
        match arg.as_str() {
            "--threads" => options.threads = value()?.parse().map_err(|e| bad(&e))?,
            "--batch" => options.batch = value()?.parse().map_err(|e| bad(&e))?,
            "--seconds" => options.seconds = value()?.parse().map_err(|e| bad(&e))?,
            // Cargo's own.
            "--bench" => {}
            filter => options.filters.push(filter.to_string()),
        }
    }
    Ok(options)
}

/// Median seconds of a call.
fn time(
    seconds: f64,
    mut call: impl FnMut() -> Result<(), KernelError>,
) -> Result<f64, KernelError> {
    call()?;
    let start = Instant::now();
    let mut times = Vec::new();
    while times.len() < 5 || start.elapsed().as_secs_f64() < seconds {
        let start = Instant::now();
        call()?;
        times.push(start.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}

fn random(len: usize) -> AlignedBuf {
    let mut buf = AlignedBuf::zeroed(len);
    let mut state = 0x2545_f491_4f6c_dd1du64;
    for x in buf.iter_mut() {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        *x = (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0;
    }
    buf
}

/// Runs and prints cases.
struct Bench {
    options: Options,
    /// What the cases' names begin with.
    group: String,
}

impl Bench {
    fn group(&mut self, name: &str) {
        self.group = name.to_string();
    }

    /// Times a pass over `floats` floats, all buffers counted once.
    fn run(
        &self,
        name: &str,
        floats: usize,
        call: impl FnMut() -> Result<(), KernelError>,
    ) -> Result<(), KernelError> {
        let name = format!("{} {name}", self.group);
        let filters = &self.options.filters;
        if !filters.is_empty() && !filters.iter().any(|f| name.contains(f.as_str())) {
            return Ok(());
        }
        let seconds = time(self.options.seconds, call)?;
        let copy = self.copy_rate(floats)?;
        let rate = floats as f64 * 4.0 / seconds / 1e9;
        println!(
            "{name:<52} {:8.1} MB {:9.3} ms {rate:7.1} GB/s {:5.0}%",
            floats as f64 * 4e-6,
            seconds * 1e3,
            100.0 * rate / copy,
        );
        Ok(())
    }

    /// GB/s of a copy that reads and writes `floats` floats in all.
    fn copy_rate(&self, floats: usize) -> Result<f64, KernelError> {
        let half = (floats / 2).max(1);
        let from = random(half);
        let mut to = AlignedBuf::zeroed(half);
        let seconds = time(self.options.seconds / 4.0, || {
            pool::parallel_chunks_mut(&mut to, 32 << 10, |i, to| {
                let start = i * (32 << 10);
                to.copy_from_slice(&from[start..start + to.len()]);
            });
            Ok(())
        })?;
        Ok(2.0 * half as f64 * 4.0 / seconds / 1e9)
    }
}

/// Batch norm of [batch, size, size, channels] with an activation.
fn batch_norms(bench: &mut Bench) -> Result<(), KernelError> {
    let shapes = [
        (112, 64, Activation::Relu),
        (56, 256, Activation::Relu),
        (14, 1024, Activation::Relu),
        (112, 32, Activation::Relu6),
        (56, 144, Activation::Silu),
        (28, 40, Activation::None),
        (7, 1280, Activation::Silu),
    ];
    for (size, channels, activation) in shapes {
        bench.group(&format!(
            "batch norm {size}x{size}x{channels} {activation:?}"
        ));
        let rows = bench.options.batch * size * size;
        let len = rows * channels;
        let (x, residual, mut y) = (random(len), random(len), random(len));
        let (mut dx, mut d_residual) = (AlignedBuf::zeroed(len), AlignedBuf::zeroed(len));
        let (mut mean, mut variance) = (vec![0.0; channels], vec![0.0; channels]);
        bench.run("statistics", len, || {
            batch_statistics(rows, &x, &mut mean, &mut variance)
        })?;
        let inv_std = vec![1.1; channels];
        let (gamma, beta) = (vec![0.9; channels], vec![0.1; channels]);
        let norm = BatchNorm {
            mean: &mean,
            inv_std: &inv_std,
            gamma: Some(&gamma),
            beta: Some(&beta),
            activation,
        };
        bench.run("forward", 2 * len, || {
            norm.forward(rows, InOut::Separate(&x, &mut y), None)
        })?;
        bench.run("forward with residual", 3 * len, || {
            norm.forward(rows, InOut::Separate(&x, &mut y), Some(&residual))
        })?;
        let dy = random(len);
        let (mut d_gamma, mut d_beta) = (vec![0.0; channels], vec![0.0; channels]);
        // The two passes read x and dy twice and write dx.
        bench.run("backward", 5 * len, || {
            let dy_dx = InOut::Separate(&dy, &mut dx);
            let affine = [Some(&mut d_gamma[..]), Some(&mut d_beta[..])];
            let z = Preactivation::FromInput;
            norm.backward(rows, Statistics::Batch, &x, z, dy_dx, None, affine)
        })?;
        if activation.derivative_from_output_exists() && activation != Activation::None {
            bench.run("backward with residual", 8 * len, || {
                let dy_dx = InOut::Separate(&dy, &mut dx);
                let z = Preactivation::FromOutput(&y);
                let d = Some(&mut d_residual[..]);
                norm.backward(rows, Statistics::Batch, &x, z, dy_dx, d, [None, None])
            })?;
        }
    }
    Ok(())
}

fn layer_norms(bench: &mut Bench) -> Result<(), KernelError> {
    for (rows, channels) in [(3136, 96), (196, 384), (197, 768)] {
        bench.group(&format!("layer norm {rows}x{channels}"));
        let rows = rows * bench.options.batch;
        let len = rows * channels;
        let (x, dy) = (random(len), random(len));
        let (mut y, mut dx) = (AlignedBuf::zeroed(len), AlignedBuf::zeroed(len));
        let (mut mean, mut inv_std) = (vec![0.0; rows], vec![0.0; rows]);
        let (gamma, beta) = (vec![0.9; channels], vec![0.1; channels]);
        let norm = LayerNorm {
            channels,
            gamma: Some(&gamma),
            beta: Some(&beta),
            epsilon: 1e-6,
        };
        bench.run("forward", 2 * len, || {
            norm.forward(
                rows,
                InOut::Separate(&x, &mut y),
                Some([&mut mean, &mut inv_std]),
            )
        })?;
        let (mut d_gamma, mut d_beta) = (vec![0.0; channels], vec![0.0; channels]);
        bench.run("backward", 3 * len, || {
            let affine = [Some(&mut d_gamma[..]), Some(&mut d_beta[..])];
            norm.backward(
                rows,
                &x,
                [&mean, &inv_std],
                InOut::Separate(&dy, &mut dx),
                None,
                affine,
            )
        })?;
    }
    Ok(())
}

fn element_wise(bench: &mut Bench) -> Result<(), KernelError> {
    let (pixels, channels) = (28 * 28, 384);
    let samples = bench.options.batch;
    let len = samples * pixels * channels;
    let (x, b, dy) = (random(len), random(len), random(len));
    let mut y = AlignedBuf::zeroed(len);
    bench.group("28x28x384");
    for activation in [
        Activation::Relu,
        Activation::Silu,
        Activation::HardSwish,
        Activation::Gelu,
        Activation::GeluTanh,
    ] {
        bench.run(&format!("{activation:?} forward"), 2 * len, || {
            activation_forward(activation, InOut::Separate(&x, &mut y))
        })?;
        bench.run(&format!("{activation:?} backward"), 3 * len, || {
            activation_backward(activation, Saved::Input(&x), InOut::Separate(&dy, &mut y))
        })?;
        bench.run(
            &format!("{activation:?} backward in place"),
            3 * len,
            || activation_backward(activation, Saved::Input(&x), InOut::InPlace(&mut y)),
        )?;
    }
    bench.run("sum with ReLU", 3 * len, || {
        add_forward(Activation::Relu, InOut::Separate(&x, &mut y), &b)
    })?;
    let shape = Scaling {
        samples,
        pixels,
        channels,
    };
    let gates = random(samples * channels);
    let mut d_gates = vec![0.0; samples * channels];
    let factor = Factor::SampleChannels(&gates);
    bench.run("scale per sample and channel, forward", 2 * len, || {
        shape.forward(InOut::Separate(&x, &mut y), factor, None)
    })?;
    bench.run("scale per sample and channel, backward", 3 * len, || {
        shape.backward(&x, factor, InOut::Separate(&dy, &mut y), &mut d_gates)
    })?;
    let factor = Factor::Channels(&gates[..channels]);
    bench.run("scale per channel with residual, forward", 3 * len, || {
        shape.forward(InOut::Separate(&x, &mut y), factor, Some(&b))
    })?;
    bench.run("scale per channel, backward", 3 * len, || {
        shape.backward(
            &x,
            factor,
            InOut::Separate(&dy, &mut y),
            &mut d_gates[..channels],
        )
    })?;
    bench.run("dropout", 2 * len, || {
        dropout(7, 0.2, InOut::Separate(&x, &mut y))
    })?;
    bench.group("25.6 M parameters");
    let len = 25_600_000;
    let (grad, mut param) = (random(len), random(len));
    let (mut m, mut v) = (AlignedBuf::zeroed(len), AlignedBuf::zeroed(len));
    let adam = AdamW {
        lr: 1e-3,
        betas: [0.9, 0.999],
        eps: 1e-8,
        weight_decay: 0.01,
    };
    bench.run("sum of squares", len, || {
        std::hint::black_box(sum_of_squares(&grad));
        Ok(())
    })?;
    // Parameters and moments are read and written.
    bench.run("AdamW", 7 * len, || {
        adam.step(1, 1.0, &mut param, &grad, &mut m, &mut v)
    })?;
    let sgd = Sgd {
        lr: 1e-6,
        momentum: 0.9,
        ..Sgd::default()
    };
    bench.run("SGD with momentum", 5 * len, || {
        sgd.step(2, 1.0, &mut param, &grad, Some(&mut m))
    })
}

fn pools(bench: &mut Bench) -> Result<(), KernelError> {
    let n = bench.options.batch;
    for (size, channels, kernel, stride, padding) in
        [(112, 64, 3, 2, 1), (224, 64, 2, 2, 0), (13, 256, 3, 2, 0)]
    {
        bench.group(&format!("pool {kernel}x{kernel} {size}x{size}x{channels}"));
        let windows = Pool2d::new([n, size, size, channels], kernel, stride).padding(padding);
        let max = MaxPool2d::new(windows);
        let average = AveragePool2d {
            windows,
            count_include_pad: true,
        };
        let [oh, ow] = max.output_size()?;
        let (len, out) = (n * size * size * channels, n * oh * ow * channels);
        let (x, dy) = (random(len), random(out));
        let (mut y, mut dx) = (AlignedBuf::zeroed(out), AlignedBuf::zeroed(len));
        let mut taps = vec![0u16; out];
        // A winning tap is half a float.
        let both = len + out + out / 2;
        bench.run("maximum, forward", both, || {
            max.forward(&x, &mut y, Some(&mut taps))
        })?;
        bench.run("maximum, backward", both, || {
            max.backward(&dy, &taps, &mut dx)
        })?;
        bench.run("average, forward", len + out, || {
            average.forward(&x, &mut y)
        })?;
        bench.run("average, backward", len + out, || {
            average.backward(&dy, &mut dx)
        })?;
    }
    for (size, channels) in [(7, 1280), (112, 32)] {
        bench.group(&format!("global average {size}x{size}x{channels}"));
        let pool = AdaptiveAveragePool2d::global([n, size, size, channels]);
        let (x, mut dx) = (
            random(n * size * size * channels),
            random(n * size * size * channels),
        );
        let mut y = random(n * channels);
        bench.run("forward", x.len() + y.len(), || pool.forward(&x, &mut y))?;
        bench.run("backward", x.len() + y.len(), || pool.backward(&y, &mut dx))?;
    }
    Ok(())
}

fn losses(bench: &mut Bench) -> Result<(), KernelError> {
    let (rows, classes) = (64 * bench.options.batch, 1000);
    bench.group(&format!("{rows}x{classes}"));
    let (x, mut y) = (random(rows * classes), random(rows * classes));
    let targets: Vec<u32> = (0..rows as u32).map(|i| i * 37 % classes as u32).collect();
    bench.run("softmax", 2 * x.len(), || {
        softmax(classes, InOut::Separate(&x, &mut y))
    })?;
    let loss = CrossEntropy {
        classes,
        smoothing: 0.1,
    };
    bench.run("cross entropy with gradient", 2 * x.len(), || {
        loss.forward(&x, &targets, 1.0, Some(&mut y)).map(drop)
    })
}

fn attentions(bench: &mut Bench) -> Result<(), KernelError> {
    for (length, heads, dim) in [(197, 12, 64), (49, 3, 32), (1024, 8, 64)] {
        bench.group(&format!("attention {length}x{heads}x{dim}"));
        let shape = Attention::new(bench.options.batch, length, heads, dim);
        let (rows, width) = (bench.options.batch * length, heads * dim);
        let qkv = random(rows * 3 * width);
        let (mut out, d_out) = (random(rows * width), random(rows * width));
        let mut log_sums = vec![0.0; bench.options.batch * heads * length];
        let mut d_qkv = AlignedBuf::zeroed(qkv.len());
        let [q, k, v] = [0, 1, 2].map(|i| Matrix::new(&qkv[i * width..], 3 * width));
        bench.run("forward", 4 * out.len(), || {
            let out = MatrixMut::new(&mut out, width);
            shape.forward(q, k, v, out, Some(&mut log_sums))
        })?;
        bench.run("backward", 8 * d_out.len(), || {
            let saved = AttentionSaved {
                q,
                k,
                v,
                out: Matrix::new(&out, width),
                log_sums: &log_sums,
                d_out: Matrix::new(&d_out, width),
            };
            shape.backward(saved, AttentionGradients::Joined(&mut d_qkv))
        })?;
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let options = options()?;
    pool::set_num_threads(options.threads);
    println!(
        "batch {}, {} threads, {}",
        options.batch,
        options.threads,
        isa()
    );
    let mut bench = Bench {
        options,
        group: String::new(),
    };
    println!(
        "{:<52} {:>11} {:>12} {:>12} {:>6}",
        "", "moved", "time", "rate", "copy"
    );
    batch_norms(&mut bench)?;
    layer_norms(&mut bench)?;
    element_wise(&mut bench)?;
    pools(&mut bench)?;
    losses(&mut bench)?;
    attentions(&mut bench)?;
    Ok(())
}
