//! Times the layers of well-known networks: forward pass, input gradient, weight gradient.
//!
//!     cargo bench -p lenslet-kernels -- [--threads N] [--batch N] [--seconds S] [--algorithm NAME] [FILTER]...
//!
//! A filter is a part of "network layer", as "resnet50 3x3"; without one, everything runs. GF/s count two operations per
//! multiply-accumulate of the direct form, so Winograd can exceed 100 percent of the peak, which is measured before each
//! network. GB/s count operands and results once. Layers are timed warm, one after the other, with weights packed for every run, as in
//! training.

mod networks;

use std::time::Instant;

use lenslet_kernels::simd::isa;
use lenslet_kernels::{
    Algorithm, AlignedBuf, Conv2d, ConvWorkspace, Epilogue, KernelError, Matrix, MatrixMut, Order,
    PackedMatrix, Pass, peak_operations, pool, transposed_product,
};
use networks::{Kind, Layer, layers};

struct Options {
    threads: usize,
    batch: usize,
    seconds: f64,
    algorithm: Option<Algorithm>,
    filters: Vec<String>,
}

fn options() -> Result<Options, String> {
    let mut options = Options {
        threads: pool::num_threads(),
        batch: 1,
        seconds: 0.1,
        algorithm: None,
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
            "--algorithm" => {
                let name = value()?;
                let known = Algorithm::ALL.into_iter().find(|a| a.name() == name);
                options.algorithm = Some(known.ok_or(format!("no algorithm {name}"))?);
            }
            // Cargo's own.
            "--bench" => {}
            filter => options.filters.push(filter.to_string()),
        }
    }
    Ok(options)
}

/// Median seconds of a call.
fn time(seconds: f64, mut call: impl FnMut()) -> f64 {
    call();
    let start = Instant::now();
    let mut times = Vec::new();
    while times.len() < 5 || start.elapsed().as_secs_f64() < seconds {
        let start = Instant::now();
        call();
        times.push(start.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
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

/// Seconds of forward, input gradient and weight gradient.
struct Times {
    forward: f64,
    input: Option<f64>,
    weight: f64,
    algorithms: String,
    macs: usize,
    /// Floats of input, weight and output.
    floats: usize,
}

fn time_conv(shape: &Conv2d, options: &Options) -> Result<Times, KernelError> {
    let [oh, ow] = shape.output_size()?;
    let x = random(shape.n * shape.h * shape.w * shape.c_in);
    let w = random(shape.weight_len());
    let mut y = random(shape.n * oh * ow * shape.c_out);
    let mut dx = AlignedBuf::zeroed(x.len());
    let mut dw = AlignedBuf::zeroed(w.len());
    let mut workspace = ConvWorkspace::new();
    let mut names = Vec::new();
    let mut run = |pass, x: &[f32], c_in, y: &mut [f32], c_out| {
        let algorithm = match options.algorithm {
            Some(algorithm) if algorithm.serves(shape, pass) => algorithm,
            _ => Algorithm::choose_repacked(shape, pass),
        };
        names.push(algorithm.name());
        let mut result = Ok(());
        let seconds = time(options.seconds, || {
            let (x, y) = (Matrix::new(x, c_in), MatrixMut::new(y, c_out));
            let call = (shape, pass);
            result = workspace.run_by(algorithm, call, &w, x, y, &Epilogue::NONE);
        });
        result.map(|()| seconds)
    };
    let forward = run(Pass::Forward, &x, shape.c_in, &mut y, shape.c_out)?;
    // Images need no gradient.
    let input = (shape.c_in > 3)
        .then(|| run(Pass::InputGradient, &y, shape.c_out, &mut dx, shape.c_in))
        .transpose()?;
    let mut result = Ok(());
    let by = match options.algorithm {
        Some(algorithm) if algorithm.serves_weight_gradient(shape) => algorithm,
        _ => Algorithm::choose_weight_gradient(shape),
    };
    names.push(by.name());
    let weight = time(options.seconds, || {
        let (x, dy) = (Matrix::new(&x, shape.c_in), Matrix::new(&y, shape.c_out));
        result = workspace.weight_gradient_by(by, shape, x, dy, &mut dw);
    });
    result?;
    names.dedup();
    Ok(Times {
        forward,
        input,
        weight,
        algorithms: names.join(", "),
        macs: shape.macs(),
        floats: x.len() + w.len() + y.len(),
    })
}

fn time_linear(rows: usize, k: usize, n: usize, options: &Options) -> Result<Times, KernelError> {
    let (x, w) = (random(rows * k), random(k * n));
    let (mut y, mut dx, mut dw) = (random(rows * n), random(rows * k), random(k * n));
    let seconds = options.seconds;
    let mut packed = PackedMatrix::new(Matrix::new(&w, k), Order::Transposed, k, n)?;
    let mut result = Ok(());
    let forward = time(seconds, || {
        let (x, y) = (Matrix::new(&x, k), MatrixMut::new(&mut y, n));
        result = (packed.pack(Matrix::new(&w, k), Order::Transposed, k, n))
            .and_then(|()| packed.multiply(rows, x, y, &Epilogue::NONE));
    });
    result.clone()?;
    let input = time(seconds, || {
        let (dy, dx) = (Matrix::new(&y, n), MatrixMut::new(&mut dx, k));
        result = (packed.pack(Matrix::new(&w, k), Order::RowMajor, n, k))
            .and_then(|()| packed.multiply(rows, dy, dx, &Epilogue::NONE));
    });
    result.clone()?;
    let weight = time(seconds, || {
        result = transposed_product(rows, Matrix::new(&y, n), n, Matrix::new(&x, k), k, &mut dw);
    });
    result?;
    Ok(Times {
        forward,
        input: Some(input),
        weight,
        algorithms: "product".to_string(),
        macs: rows * k * n,
        floats: rows * k + k * n + rows * n,
    })
}

/// "ms GF/s percent" of one pass.
fn cell(seconds: Option<f64>, macs: usize, peak: f64) -> String {
    match seconds {
        Some(seconds) => {
            let rate = 2.0 * macs as f64 / seconds / 1e9;
            format!(
                "{:9.3} {rate:6.0} {:4.0}%",
                seconds * 1e3,
                100.0 * rate / peak
            )
        }
        None => format!("{:>9} {:>6} {:>5}", "-", "-", "-"),
    }
}

fn run_layer(layer: &Layer, options: &Options, peak: f64) -> Result<[f64; 4], KernelError> {
    let times = match layer.kind {
        Kind::Conv(shape) => time_conv(
            &Conv2d {
                n: options.batch,
                ..shape
            },
            options,
        )?,
        Kind::Linear([rows, k, n]) => time_linear(rows * options.batch, k, n, options)?,
    };
    println!(
        "{:<26} x{:<2} {} {:5.0} {} {}  {}",
        layer.name,
        layer.count,
        cell(Some(times.forward), times.macs, peak),
        times.floats as f64 * 4.0 / times.forward / 1e9,
        cell(times.input, times.macs, peak),
        cell(Some(times.weight), times.macs, peak),
        times.algorithms,
    );
    let count = layer.count as f64;
    let input = times.input.unwrap_or(0.0);
    let macs = times.macs as f64;
    Ok([times.forward, input, times.weight, macs].map(|x| x * count))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let options = options()?;
    pool::set_num_threads(options.threads);
    let wanted = |layer: &Layer| {
        let name = format!("{} {}", layer.net, layer.name);
        options.filters.is_empty() || options.filters.iter().any(|f| name.contains(f.as_str()))
    };
    let layers: Vec<Layer> = layers().into_iter().filter(wanted).collect();
    for net in layers.chunk_by(|a, b| a.net == b.net) {
        let peak = peak_operations() / 1e9;
        println!(
            "\n{}: batch {}, {} threads, {}, peak {peak:.0} GF/s",
            net[0].net,
            options.batch,
            options.threads,
            isa(),
        );
        println!(
            "{:<30} {:^22} {:>5} {:^22} {:^22}",
            "", "forward ms GF/s peak", "GB/s", "input gradient", "weight gradient",
        );
        let mut total = [0.0; 4];
        for layer in net {
            let times = run_layer(layer, &options, peak)?;
            total
                .iter_mut()
                .zip(times)
                .for_each(|(total, time)| *total += time);
        }
        let [forward, input, weight, macs] = total;
        println!(
            "{:<30} {} {:5} {} {}",
            "all, with their counts",
            cell(Some(forward), macs as usize, peak),
            "",
            cell(Some(input), macs as usize, peak),
            cell(Some(weight), macs as usize, peak),
        );
    }
    Ok(())
}
