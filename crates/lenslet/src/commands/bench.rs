//! `lenslet bench`

use std::time::Instant;

use anyhow::Result;
use burn::module::Module;
use burn::tensor::{Device, Distribution, Tensor};
use lenslet_engine::{Options, Session};
use lenslet_kernels::{peak_bandwidth, peak_operations};
use lenslet_models::{ImageModel, Model, Variant};
use lenslet_nn::Init;
use lenslet_train::{
    Criterion, EngineKind, Input, Optimizer, Recipe, Rule, Target, compile, find_variant,
    train_step,
};
use serde_json::json;

use super::device;
use crate::Ended;
use crate::cli::{BenchArgs, Common};
use crate::report::{self, grouped, percent};

/// Calls before the measurement: buffers are made and the clock comes up.
const WARM_UP: usize = 2;
/// Calls at least, however long they take.
const CALLS: usize = 5;

pub fn run(args: &BenchArgs, common: &Common, threads: usize) -> Result<Ended> {
    let variant = find_variant(&args.model)?;
    let times = match (args.train, args.engine) {
        (true, _) => training(variant, args),
        (false, EngineKind::Eager) => eager(variant, args),
        (false, EngineKind::Compiled) => return compiled(variant, args, common, threads),
    };
    show(variant, args, common, threads, &times)?;
    Ok(Ended::Done)
}

fn show(
    variant: &Variant,
    args: &BenchArgs,
    common: &Common,
    threads: usize,
    times: &[f64],
) -> Result<()> {
    let at = |share: f64| times[(share * (times.len() - 1) as f64).round() as usize];
    let (p10, median, p90) = (at(0.1), at(0.5), at(0.9));
    let images_per_s = args.batch as f64 / median * 1000.0;
    let mode = if args.train { "train" } else { "infer" };
    let memory = peak_memory();
    if common.json {
        report::print_json(&json!({
            "model": variant.name, "mode": mode, "batch": args.batch, "threads": threads,
            "input": variant.input, "calls": times.len(), "median_ms": median, "p10_ms": p10, "p90_ms": p90,
            "images_per_s": images_per_s, "peak_rss_bytes": memory,
        }))?;
        return Ok(());
    }
    let mut table = report::table(&[variant.name, mode]);
    table.add_row(["batch", &args.batch.to_string()]);
    table.add_row(["threads", &threads.to_string()]);
    table.add_row(["median, ms", &format!("{median:.2}")]);
    table.add_row(["p10, ms", &format!("{p10:.2}")]);
    table.add_row(["p90, ms", &format!("{p90:.2}")]);
    table.add_row(["images a second", &format!("{images_per_s:.1}")]);
    if let Some(bytes) = memory {
        table.add_row(["peak memory, MB", &grouped(bytes / 1_000_000)]);
    }
    report::print(table)
}

/// Milliseconds of every call, sorted.
fn measure(seconds: f64, mut call: impl FnMut()) -> Vec<f64> {
    for _ in 0..WARM_UP {
        call();
    }
    let began = Instant::now();
    let mut times = Vec::new();
    while times.len() < CALLS || began.elapsed().as_secs_f64() < seconds {
        let start = Instant::now();
        call();
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    times
}

fn build(variant: &Variant, device: &Device) -> Model {
    variant.build(variant.num_classes, &mut Init::seeded(device, 0))
}

fn random_images(variant: &Variant, batch: usize, device: &Device) -> Tensor<4> {
    let [c, h, w] = variant.input;
    Tensor::random([batch, c, h, w], Distribution::Normal(0.0, 1.0), device)
}

fn eager(variant: &Variant, args: &BenchArgs) -> Vec<f64> {
    let device = device();
    let model = build(variant, &device).valid();
    let x = random_images(variant, args.batch, &device);
    measure(args.seconds, || {
        // Reading the result makes sure that it was computed.
        let _ = model.forward(x.clone()).into_data();
    })
}

fn compiled(variant: &Variant, args: &BenchArgs, common: &Common, threads: usize) -> Result<Ended> {
    let device = device();
    let [c, h, w] = variant.input;
    let options = Options {
        exact: args.exact,
        ..Options::default()
    };
    let shape = [args.batch, c, h, w];
    // The model goes when its weights are packed.
    let session = compile(&build(variant, &device).valid(), shape, &options)?;
    let x = random_images(variant, args.batch, &device).into_data();
    let x: Vec<f32> = x.iter::<f32>().collect();
    let mut output = Vec::new();
    let mut failed = None;
    let mut call = || {
        if let Err(e) = session.run_into(&x, &mut output) {
            failed = Some(e);
        }
    };
    let times = measure(args.seconds, &mut call);
    if args.layers {
        layers(&session, &x, args.seconds)?;
    } else {
        show(variant, args, common, threads, &times)?;
    }
    match failed {
        Some(e) => Err(e.into()),
        None => Ok(Ended::Done),
    }
}

/// A table of the session's steps: what each takes of the whole, and how near it comes to what the
/// machine can do, the larger of its operations and its bytes.
fn layers(session: &Session, x: &[f32], seconds: f64) -> Result<()> {
    let (operations, bandwidth) = (peak_operations(), peak_bandwidth());
    let steps = session.steps();
    let mut times = vec![Vec::new(); steps.len()];
    let mut output = Vec::new();
    let began = Instant::now();
    while times[0].len() < CALLS || began.elapsed().as_secs_f64() < seconds {
        session.run_timed(x, &mut output, &mut |i, time| {
            times[i].push(time.as_secs_f64());
        })?;
    }
    let times = times.into_iter().map(|mut times| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    });
    let times: Vec<f64> = times.collect();
    let total: f64 = times.iter().sum();
    let header = [
        "layer", "kernel", "output", "MMACs", "ms", "share", "GF/s", "GB/s", "of limit",
    ];
    let mut table = report::table(&header);
    for (step, &time) in steps.iter().zip(&times) {
        let (work, bytes) = (2.0 * step.macs as f64, step.bytes as f64);
        let limit = (work / operations).max(bytes / bandwidth);
        table.add_row([
            step.name.clone(),
            step.kernel.to_string(),
            format!("{} x {}", step.output[0], step.output[1]),
            format!("{:.1}", step.macs as f64 / 1e6),
            format!("{:.3}", time * 1e3),
            percent(time / total),
            format!("{:.0}", work / time / 1e9),
            format!("{:.1}", bytes / time / 1e9),
            format!("{:.0} %", 100.0 * limit / time),
        ]);
    }
    report::print(table)?;
    report::print(format!(
        "{:.3} ms in {} steps. This machine: {:.0} GFLOP/s, {:.1} GB/s. Winograd's steps do fewer \
         operations than are counted, and what lies in a cache is faster than memory.",
        total * 1e3,
        steps.len(),
        operations / 1e9,
        bandwidth / 1e9
    ))
}

fn training(variant: &Variant, args: &BenchArgs) -> Vec<f64> {
    let device = device().autodiff();
    let mut model = Some(build(variant, &device));
    let x = random_images(variant, args.batch, &device);
    let shape = x.dims();
    let x: Vec<f32> = x.into_data().iter::<f32>().collect();
    let labels = (0..args.batch).map(|i| (i * 7 % variant.num_classes) as u32);
    let target = Target::Classes(labels.collect());
    let mut optimizer = Optimizer::new(Rule::ADAMW, 1e-4);
    let recipe = Recipe {
        criterion: &Criterion::default(),
        max_norm: Some(1.0),
        lr: &|_| 1e-3,
    };
    measure(args.seconds, || {
        let input = Input::Pictures(x.clone(), shape);
        let before = model.take().expect("every step gives the model back");
        model = Some(train_step(
            before,
            &mut optimizer,
            input,
            &target,
            &recipe,
            &device,
        ));
    })
}

/// The most memory this process has held, in bytes, where the system tells.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kilobytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kilobytes * 1024)
}
