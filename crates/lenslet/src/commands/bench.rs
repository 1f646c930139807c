//! `lenslet bench`

use std::time::Instant;

use anyhow::Result;
use burn::module::Module;
use burn::tensor::{Device, Distribution, Tensor};
use lenslet_models::{ImageModel, Model, Variant};
use lenslet_nn::Init;
use lenslet_train::{Criterion, Input, Optimizer, Recipe, Rule, Target, find_variant, train_step};
use serde_json::json;

use super::device;
use crate::Ended;
use crate::cli::{BenchArgs, Common};
use crate::report::{self, grouped};

/// Calls before the measurement: buffers are made and the clock comes up.
const WARM_UP: usize = 2;
/// Calls at least, however long they take.
const CALLS: usize = 5;

pub fn run(args: &BenchArgs, common: &Common, threads: usize) -> Result<Ended> {
    let variant = find_variant(&args.model)?;
    let times = if args.train {
        training(variant, args)
    } else {
        inference(variant, args)
    };
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
        return Ok(Ended::Done);
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
    report::print(table)?;
    Ok(Ended::Done)
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

fn inference(variant: &Variant, args: &BenchArgs) -> Vec<f64> {
    let device = device();
    let model = build(variant, &device).valid();
    let x = random_images(variant, args.batch, &device);
    measure(args.seconds, || {
        // Reading the result makes sure that it was computed.
        let _ = model.forward(x.clone()).into_data();
    })
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
