//! `lenslet run`

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use lenslet_data::npy::{self, Array, ElementKind};
use lenslet_engine::{Engine, Options, Session};
use lenslet_graph::Graph;
use lenslet_models::{ImageModel, Model, Output};
use lenslet_nn::{tap, to_nchw};
use lenslet_train::TrainError;
use serde_json::json;

use super::{device, model};
use crate::Ended;
use crate::cli::{Common, EngineKind, RunArgs};
use crate::report;

pub fn run(args: &RunArgs, common: &Common) -> Result<Ended> {
    let targets = targets(args)?;
    let input = npy::read(&args.input)?;
    let device = device();
    let (opened, info) = model::open_named(&args.named, args.build.options(), &device, common)?;
    let model = opened.valid();
    drop(opened);
    let shape = fitting(&args.input, &input, &info.architecture)?;
    if input.kind == ElementKind::U8 && !common.quiet {
        eprintln!("the bytes are taken as the numbers 0 to 255; nothing scales or normalises them");
    }
    let [n, c, h, w] = shape;
    let batch = n.min(args.batch_size);
    // The graph of the model says whether it can take such pictures at all.
    let graph =
        Graph::capture_with_taps(&model, [batch, c, h, w], lenslet_train::outputs, &args.taps)
            .with_context(|| format!("{}, {}", info.architecture, args.input.display()))?;
    let outputs = graph.outputs().iter();
    let shapes: Vec<Vec<usize>> = outputs.map(|&id| graph.value(id).shape.clone()).collect();
    let mut runner = match args.engine {
        EngineKind::Compiled => {
            // The memory of a weight goes back when it is packed.
            drop(model);
            let options = Options {
                exact: args.exact,
                ..Options::default()
            };
            Runner::Compiled(Box::new(Engine::compile_graph(graph, &options)?))
        }
        EngineKind::Eager => Runner::Eager(Box::new(model), device),
    };
    let mut found = vec![Vec::new(); shapes.len()];
    for images in input.data.chunks(batch * c * h * w) {
        let given = images.len() / (c * h * w);
        let parts = runner.batch(images, [given, c, h, w], &args.taps, &shapes)?;
        for (whole, part) in found.iter_mut().zip(parts) {
            whole.extend(part);
        }
    }
    let mut written = Vec::new();
    for ((path, numbers), mut shape) in targets.iter().zip(&found).zip(shapes) {
        shape[0] = shape[0] / batch * n;
        lenslet_weights::write_atomic(path, &npy::to_bytes(&shape, numbers))
            .with_context(|| format!("{}: cannot be written", path.display()))?;
        written.push((path, shape));
    }
    show(args, common, &written)?;
    Ok(Ended::Done)
}

fn show(args: &RunArgs, common: &Common, written: &[(&PathBuf, Vec<usize>)]) -> Result<()> {
    if common.json {
        let file = |(path, shape): &(&PathBuf, Vec<usize>)| json!({ "path": path, "shape": shape });
        let taps = args.taps.iter().zip(&written[1..]);
        let taps: Vec<_> = taps
            .map(|(name, (path, shape))| json!({ "name": name, "path": path, "shape": shape }))
            .collect();
        return report::print_json(&json!({ "output": file(&written[0]), "taps": taps }));
    }
    for (path, shape) in written {
        report::print(format!("{} {shape:?}", path.display()))?;
    }
    Ok(())
}

/// Where the output and every tap go.
fn targets(args: &RunArgs) -> Result<Vec<PathBuf>> {
    let mut targets = vec![args.output.clone()];
    let stem = args.output.file_stem();
    let Some(stem) = stem.and_then(|stem| stem.to_str()) else {
        return Err(TrainError::Setting {
            setting: "--output",
            found: args.output.display().to_string(),
            expected: "it must be a file to write",
        }
        .into());
    };
    for tap in &args.taps {
        let is_name = |c: char| c.is_alphanumeric() || c == '_' || c == '.';
        if tap.is_empty() || !tap.chars().all(is_name) {
            return Err(TrainError::Setting {
                setting: "--taps",
                found: format!("'{tap}'"),
                expected: "it must be names of modules such as layer1.0.conv1, with commas between",
            }
            .into());
        }
        targets.push(args.output.with_file_name(format!("{stem}.{tap}.npy")));
    }
    let same = |target: &PathBuf| is_same_file(target, &args.input);
    if let Some(target) = targets.iter().find(|target| same(target)) {
        return Err(TrainError::Setting {
            setting: "--output",
            found: target.display().to_string(),
            expected: "it must not be the input, which would be lost",
        }
        .into());
    }
    Ok(targets)
}

fn is_same_file(a: &Path, b: &Path) -> bool {
    a == b || matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

/// The input's shape `[N, C, H, W]`, if the model can take it.
fn fitting(path: &Path, input: &Array, name: &str) -> Result<[usize; 4]> {
    let path = path.display();
    let &[n, c, h, w] = input.shape.as_slice() else {
        let hint = match input.shape.len() {
            3 => "; give a single picture as x[None]",
            _ => "",
        };
        bail!(
            "{path}: has shape {:?}, but a model takes [N, C, H, W]{hint}",
            input.shape
        );
    };
    if input.data.is_empty() {
        bail!("{path}: has shape {:?} and holds no numbers", input.shape);
    }
    let expected = lenslet_models::variant(name).map_or(c, |variant| variant.input[0]);
    if c != expected {
        let hint = match w == expected {
            true => "; it looks like [N, H, W, C], for which x.transpose(0, 3, 1, 2) is right",
            false => "",
        };
        bail!("{path}: has {c} channels, but {name} takes {expected}{hint}");
    }
    Ok([n, c, h, w])
}

/// What computes.
enum Runner {
    Compiled(Box<Session>),
    Eager(Box<Model>, Device),
}

impl Runner {
    /// The output and the taps of `given` pictures. `shapes` are those of a whole batch.
    fn batch(
        &mut self,
        images: &[f32],
        shape: [usize; 4],
        taps: &[String],
        shapes: &[Vec<usize>],
    ) -> Result<Vec<Vec<f32>>> {
        match self {
            Runner::Compiled(session) => {
                let mut rest = session.run(images)?;
                let batch = session.input()[0];
                let mut parts = Vec::new();
                for whole in shapes {
                    let len = whole.iter().product::<usize>() / batch * shape[0];
                    let tail = rest.split_off(len);
                    parts.push(std::mem::replace(&mut rest, tail));
                }
                Ok(parts)
            }
            Runner::Eager(model, device) => {
                let x = TensorData::new(images.to_vec(), shape);
                let x = Tensor::from_data(x, &*device);
                let run = || match model.output(x.clone()) {
                    Output::Logits(y) => y.into_data(),
                    Output::Map(y) | Output::Grid(y) => y.into_data(),
                    // One row an image, scale after scale.
                    Output::Anchors(_) => model.forward(x).into_data(),
                };
                let (output, mut found) = tap::record(taps, run);
                let taps = taps.iter().map(|name| {
                    let data = found.remove(name);
                    data.with_context(|| format!("no module called {name} ran"))
                });
                let mut parts = vec![output];
                parts.extend(taps.collect::<Result<Vec<_>>>()?);
                Ok(parts.into_iter().enumerate().map(numbers).collect())
            }
        }
    }
}

/// The numbers of an output (the first) or of a tap, whose maps are `[N, H, W, C]`.
fn numbers((position, data): (usize, TensorData)) -> Vec<f32> {
    let data = match data.shape().num_dims() {
        4 if position > 0 => to_nchw(Tensor::from_data(data, &device())).into_data(),
        _ => data,
    };
    data.iter::<f32>().collect()
}
