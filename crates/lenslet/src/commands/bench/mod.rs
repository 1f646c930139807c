//! `lenslet bench`

mod layers;

use std::time::Instant;

use anyhow::Result;
use burn::module::Module;
use burn::tensor::{Device, Distribution, Tensor};
use lenslet_engine::Options;
use lenslet_kernels::{kernel_choices, peak_bandwidth, peak_operations};
use lenslet_models::{ImageModel, Model, Task};
use lenslet_nn::Init;
use lenslet_train::segment::PixelLoss;
use lenslet_train::{
    Criterion, EngineKind, Input, Optimizer, Recipe, Rule, Target, TrainError, compile, train_step,
};
use serde_json::json;

use super::device;
use super::structure::Blueprint;
use crate::Ended;
use crate::cli::{BenchArgs, Common, StructureArgs};
use crate::report::{self, grouped};

/// Calls before the measurement: buffers are made and the clock comes up.
const WARM_UP: usize = 2;
/// Calls at least, however long they take.
const CALLS: usize = 5;

pub fn run(args: &BenchArgs, common: &Common, threads: usize) -> Result<Ended> {
    let Some(model) = &args.model else {
        return kernels(args, common, threads);
    };
    let measured = Blueprint::of(&StructureArgs {
        model: model.clone(),
        input: args.input,
        classes: None,
    })?;
    let times = match (args.train, args.engine) {
        (true, _) if args.layers => {
            layers::of_training(training(&measured, args)?, args.seconds)?;
            return Ok(Ended::Done);
        }
        (true, _) => {
            let mut step = training(&measured, args)?;
            measure(args.seconds, &mut step)
        }
        (false, EngineKind::Eager) => eager(&measured, args),
        (false, EngineKind::Compiled) => return compiled(&measured, args, common, threads),
    };
    show(&measured, args, common, threads, &times)?;
    Ok(Ended::Done)
}

/// The kernels in use, and the limits that times are compared with.
fn kernels(args: &BenchArgs, common: &Common, threads: usize) -> Result<Ended> {
    let choices = kernel_choices(args.batch);
    let isa = lenslet_kernels::simd::isa();
    let (operations, bandwidth) = (peak_operations(), peak_bandwidth());
    if common.json {
        let choices: Vec<_> = choices
            .iter()
            .map(|choice| json!({ "work": choice.work, "kernel": choice.kernel }))
            .collect();
        report::print_json(&json!({
            "instruction_set": isa.name(), "threads": threads, "batch": args.batch,
            "gflop_per_s": operations / 1e9, "gb_per_s": bandwidth / 1e9, "kernels": choices,
        }))?;
        return Ok(Ended::Done);
    }
    let mut table = report::table(&["work", "kernel"]);
    for choice in &choices {
        table.add_row([&choice.work, &choice.kernel]);
    }
    report::print(table)?;
    report::print(format!(
        "Convolutions: forward / input gradient / weight gradient, {} images, weights packed anew for every step. \
         {isa}, {threads} threads, {:.0} GFLOP/s, {:.1} GB/s.",
        args.batch,
        operations / 1e9,
        bandwidth / 1e9
    ))?;
    Ok(Ended::Done)
}

fn show(
    measured: &Blueprint,
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
            "model": measured.variant.name, "mode": mode, "batch": args.batch, "threads": threads,
            "precision": args.precision.name(), "input": measured.input, "calls": times.len(), "median_ms": median, "p10_ms": p10, "p90_ms": p90,
            "images_per_s": images_per_s, "peak_rss_bytes": memory,
        }))?;
        return Ok(());
    }
    let mut table = report::table(&[measured.variant.name, mode]);
    table.add_row(["batch", &args.batch.to_string()]);
    let [c, h, w] = measured.input;
    table.add_row(["input", &format!("{c}x{h}x{w}")]);
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

fn build(measured: &Blueprint, device: &Device) -> Model {
    let mut init = Init::seeded(device, 0);
    measured.variant.build_with(&measured.build, &mut init)
}

fn random_images(measured: &Blueprint, batch: usize, device: &Device) -> Tensor<4> {
    let [c, h, w] = measured.input;
    Tensor::random([batch, c, h, w], Distribution::Normal(0.0, 1.0), device)
}

fn eager(measured: &Blueprint, args: &BenchArgs) -> Vec<f64> {
    let device = device();
    let model = build(measured, &device).valid();
    let x = random_images(measured, args.batch, &device);
    measure(args.seconds, || {
        // Reading the result makes sure that it was computed.
        let _ = model.forward(x.clone()).into_data();
    })
}

fn compiled(
    measured: &Blueprint,
    args: &BenchArgs,
    common: &Common,
    threads: usize,
) -> Result<Ended> {
    let device = device();
    let [c, h, w] = measured.input;
    let mut options = Options {
        exact: args.exact,
        ..Options::default()
    };
    for pass in &args.without {
        if !options.leave_out(pass) {
            return Err(TrainError::Setting {
                setting: "--without",
                found: pass.clone(),
                expected: "fold-norms, fuse-activations, fuse-residuals, fuse-gates, concat-in-place, row-means and strips can be left out",
            }
            .into());
        }
    }
    let shape = [args.batch, c, h, w];
    let session = compile(build(measured, &device).valid(), shape, &options)?;
    let x = random_images(measured, args.batch, &device).into_data();
    let x: Vec<f32> = x.iter::<f32>().collect();
    let mut output = Vec::new();
    let mut failed = None;
    let mut call = || {
        if let Err(e) = session.run_into(&x, &mut output) {
            failed = Some(e);
        }
    };
    let times = measure(args.seconds, &mut call);
    if let Some(e) = failed {
        return Err(e.into());
    }
    if args.layers {
        layers::of_session(&session, &x, args.seconds, args.sort)?;
    } else {
        show(measured, args, common, threads, &times)?;
    }
    Ok(Ended::Done)
}

/// A training step to call again and again.
fn training(measured: &Blueprint, args: &BenchArgs) -> Result<impl FnMut() + use<>> {
    let device = device().autodiff();
    let mut model = Some(build(measured, &device));
    let x = random_images(measured, args.batch, &device);
    let shape = x.dims();
    let x: Vec<f32> = x.into_data().iter::<f32>().collect();
    let classes = measured.build.num_classes;
    let target = match measured.variant.task {
        Task::Classification => {
            Target::Classes((0..args.batch).map(|i| (i * 7 % classes) as u32).collect())
        }
        Task::Segmentation => {
            let labels = (0..args.batch * shape[2] * shape[3]).map(|i| (i * 7 % classes) as u8);
            Target::Masks(labels.collect(), PixelLoss::CrossEntropy)
        }
        Task::Detection => {
            return Err(TrainError::Setting {
                setting: "--train",
                found: measured.variant.name.into(),
                expected: "a detector's loss depends on its boxes; measure its backbone",
            }
            .into());
        }
    };
    let mut optimizer = Optimizer::new(Rule::ADAMW, 1e-4);
    let criterion = Criterion::default();
    Ok(move || {
        let recipe = Recipe {
            criterion: &criterion,
            max_norm: Some(1.0),
            lr: &|_| 1e-3,
        };
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
