//! `lenslet summary`

use anyhow::Result;
use lenslet_engine::{Engine, Options};
use lenslet_graph::{Field, Graph, Layer, Macs, Memory};
use lenslet_nn::is_buffer;
use lenslet_train::{Freeze, Parts};
use serde_json::{Value, json};

use super::device;
use super::structure::Blueprint;
use crate::Ended;
use crate::cli::{Common, FreezeArg, SummaryArgs};
use crate::report::{self, grouped};

pub fn run(args: &SummaryArgs, common: &Common) -> Result<Ended> {
    let blueprint = Blueprint::of(&args.structure)?;
    if args.compiled {
        compiled(&blueprint, args, common)?;
        return Ok(Ended::Done);
    }
    let freeze = match (args.freeze, args.unfreeze) {
        (_, Some(stages)) => Freeze::AllBut(stages),
        (Some(FreezeArg::Backbone), _) => Freeze::Backbone,
        (Some(FreezeArg::None), _) => Freeze::None,
        (None, None) => blueprint.freeze,
    };
    let parts = Parts::of(&blueprint.model(&device()), blueprint.variant.classifier);
    parts.check(freeze)?;
    let trains = |name: &str| parts.trains(name, freeze);
    let graph = blueprint.graph(args.batch)?;
    let rows = rows(&graph, args.depth, &trains);
    let totals = Totals::of(&blueprint, &graph, &trains);
    if common.json {
        report::print_json(&object(&blueprint, args, &graph, &rows, &totals))?;
    } else {
        show(&blueprint, args, &graph, &rows, &totals)?;
    }
    Ok(Ended::Done)
}

/// A line of the table: a layer, or all layers of a module.
struct Row {
    name: String,
    kind: String,
    layers: usize,
    output: Vec<usize>,
    params: u64,
    trainable: u64,
    /// Of one picture.
    macs: Macs,
    field: Field,
    /// Of all outputs, for the whole batch.
    bytes: u64,
}

fn rows(graph: &Graph, depth: Option<usize>, trains: &dyn Fn(&str) -> bool) -> Vec<Row> {
    let batch = graph.value(graph.inputs()[0]).shape[0] as u64;
    let mut rows: Vec<(Option<String>, Row)> = Vec::new();
    for layer in graph.layers() {
        let module = depth.and_then(|depth| prefix(&layer.module, depth));
        let row = row(layer, batch, trains);
        match (rows.last_mut(), &module) {
            (Some((Some(open), whole)), Some(module)) if open == module => {
                whole.layers += 1;
                whole.kind = format!("{} layers", whole.layers);
                whole.name = module.clone();
                whole.output = row.output;
                whole.params += row.params;
                whole.trainable += row.trainable;
                whole.macs += row.macs;
                whole.field = row.field;
                whole.bytes += row.bytes;
            }
            _ => rows.push((module, row)),
        }
    }
    rows.into_iter().map(|(_, row)| row).collect()
}

/// The first parts of a path that has at least as many.
fn prefix(path: &str, depth: usize) -> Option<String> {
    let parts: Vec<&str> = path.split('.').collect();
    (!path.is_empty() && parts.len() >= depth).then(|| parts[..depth].join("."))
}

fn row(layer: Layer, batch: u64, trains: &dyn Fn(&str) -> bool) -> Row {
    let trainable = layer.params.iter().filter(|(name, _)| trains(name));
    Row {
        trainable: trainable.map(|(_, size)| size).sum(),
        params: layer.num_params(),
        name: layer.name,
        kind: layer.kind,
        layers: 1,
        output: layer.shape,
        macs: Macs {
            conv: layer.macs.conv / batch,
            linear: layer.macs.linear / batch,
            attention: layer.macs.attention / batch,
        },
        field: layer.field,
        bytes: layer.bytes,
    }
}

struct Totals {
    params: u64,
    trainable: u64,
    buffers: u64,
    /// Of auxiliary classifiers, which only run in training.
    training_only: u64,
    macs: Macs,
    memory: Memory,
}

impl Totals {
    fn of(blueprint: &Blueprint, graph: &Graph, trains: &dyn Fn(&str) -> bool) -> Self {
        let params = blueprint.params();
        let trainable = blueprint.count(|name| !is_buffer(name) && trains(name));
        let buffers = blueprint.count(is_buffer);
        let layers = graph.layers();
        let running: u64 = layers.iter().map(Layer::num_params).sum();
        let batch = graph.value(graph.inputs()[0]).shape[0] as u64;
        let macs = layers.iter().fold(Macs::default(), |sum, l| sum + l.macs);
        Self {
            params,
            trainable,
            buffers,
            training_only: params - running,
            macs: Macs {
                conv: macs.conv / batch,
                linear: macs.linear / batch,
                attention: macs.attention / batch,
            },
            memory: graph.memory(params + buffers, trainable, trains),
        }
    }
}

fn object(
    blueprint: &Blueprint,
    args: &SummaryArgs,
    graph: &Graph,
    rows: &[Row],
    totals: &Totals,
) -> Value {
    let field = |field: &Field| match field {
        Field::Window(_) => json!(field.size()),
        Field::Whole => json!("whole"),
        Field::Fixed | Field::Unknown => Value::Null,
    };
    let macs = |macs: &Macs| {
        json!({
            "total": macs.total(), "conv": macs.conv, "linear": macs.linear,
            "attention": macs.attention,
        })
    };
    let layers = rows.iter().map(|row| {
        json!({
            "name": row.name, "kind": row.kind, "output": row.output, "params": row.params,
            "trainable": row.trainable, "macs": macs(&row.macs), "receptive_field": field(&row.field),
            "jump": row.field.jump(), "activation_bytes": row.bytes,
        })
    });
    let [c, h, w] = blueprint.input;
    let memory = totals.memory;
    json!({
        "model": blueprint.variant.name, "input": [args.batch, c, h, w],
        "output": graph.value(graph.outputs()[0]).shape, "layers": layers.collect::<Vec<_>>(),
        "params": totals.params, "trainable": totals.trainable, "buffers": totals.buffers,
        "training_only_params": totals.training_only, "macs": macs(&totals.macs),
        "memory": {
            "weights": memory.weights, "inference_activations": memory.inference,
            "training_activations": memory.kept, "gradients": memory.gradients,
            "optimizer": memory.optimizer, "inference": memory.of_inference(),
            "training": memory.of_training(),
        },
    })
}

fn show(
    blueprint: &Blueprint,
    args: &SummaryArgs,
    graph: &Graph,
    rows: &[Row],
    totals: &Totals,
) -> Result<()> {
    let partly = totals.trainable < totals.params;
    let mut header = vec![
        "layer",
        "kind",
        "output",
        "parameters",
        "MACs",
        "field",
        "jump",
        "activations",
    ];
    if partly {
        header.insert(4, "trains");
    }
    let mut table = report::table(&header);
    if let Some(column) = table.column_mut(1) {
        column.set_cell_alignment(comfy_table::CellAlignment::Left);
    }
    for row in rows {
        let number = |n: u64| {
            if n == 0 {
                "–".to_string()
            } else {
                grouped(n)
            }
        };
        let mut cells = vec![
            row.name.clone(),
            row.kind.clone(),
            sides(&row.output),
            number(row.params),
            number(row.macs.total()),
            report::field(&row.field),
            jump(&row.field),
            megabytes(row.bytes),
        ];
        if partly {
            let trains = match (row.params, row.trainable) {
                (0, _) => "",
                (all, some) if all == some => "yes",
                (_, 0) => "no",
                _ => "partly",
            };
            cells.insert(4, trains.to_string());
        }
        table.add_row(cells);
    }
    report::print(table)?;
    let [c, h, w] = blueprint.input;
    let name = blueprint.variant.name;
    let mut table = report::table(&[name, &format!("{} x {c}x{h}x{w}", args.batch)]);
    let mut line = |what: &str, value: String| {
        table.add_row([what.to_string(), value]);
    };
    line("output", sides(&graph.value(graph.outputs()[0]).shape));
    line("parameters", grouped(totals.params));
    line("  that train", grouped(totals.trainable));
    line("  frozen", grouped(totals.params - totals.trainable));
    if totals.training_only > 0 {
        line(
            "  of auxiliary classifiers, in training only",
            grouped(totals.training_only),
        );
    }
    line("MACs of a picture", grouped(totals.macs.total()));
    line("  convolutions", grouped(totals.macs.conv));
    line("  linear layers", grouped(totals.macs.linear));
    line("  attention", grouped(totals.macs.attention));
    let memory = totals.memory;
    line("memory, inference", megabytes(memory.of_inference()));
    line("  weights", megabytes(memory.weights));
    line("  activations at most at once", megabytes(memory.inference));
    line(
        "memory, training with AdamW",
        megabytes(memory.of_training()),
    );
    line(
        "  weights, gradients, moments",
        megabytes(memory.weights + memory.gradients + memory.optimizer),
    );
    line("  activations kept for gradients", megabytes(memory.kept));
    report::print("")?;
    report::print(table)
}

/// `1x64x56x56`
fn sides(shape: &[usize]) -> String {
    let sides: Vec<String> = shape.iter().map(usize::to_string).collect();
    sides.join("x")
}

fn megabytes(bytes: u64) -> String {
    format!("{:.2} MB", bytes as f64 / 1e6)
}

fn jump(field: &Field) -> String {
    match field.jump() {
        Some([h, w]) if h == w => short(h),
        Some([h, w]) => format!("{}x{}", short(h), short(w)),
        None => "–".into(),
    }
}

/// At most two places behind the point.
fn short(number: f64) -> String {
    let text = format!("{number:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_string()
}

/// What compiling makes of the model: steps, and how much each pass took away.
fn compiled(blueprint: &Blueprint, args: &SummaryArgs, common: &Common) -> Result<()> {
    let graph = blueprint.graph(args.batch)?;
    let nodes = graph.nodes().len();
    let session = Engine::compile_graph(graph, &Options::default())?;
    let (steps, passes) = (session.steps(), session.passes());
    let total: usize = steps.iter().map(|step| step.macs).sum();
    if common.json {
        let [c, h, w] = blueprint.input;
        let list = steps.iter().map(|step| {
            json!({
                "name": step.name, "kernel": step.kernel, "output": step.output, "macs": step.macs,
                "bytes": step.bytes,
            })
        });
        let passes = passes
            .iter()
            .map(|pass| json!({ "name": pass.name, "what": pass.what, "changes": pass.changes }));
        return report::print_json(&json!({
            "model": blueprint.variant.name, "input": [args.batch, c, h, w], "nodes": nodes,
            "steps": list.collect::<Vec<_>>(), "passes": passes.collect::<Vec<_>>(),
            "workspace_bytes": session.workspace_bytes(),
        }));
    }
    let mut table = report::table(&["step", "kernel", "output", "MACs", "reads and writes"]);
    if let Some(column) = table.column_mut(1) {
        column.set_cell_alignment(comfy_table::CellAlignment::Left);
    }
    for step in &steps {
        table.add_row([
            step.name.clone(),
            step.kernel.to_string(),
            format!("{} x {}", step.output[0], step.output[1]),
            match step.macs {
                0 => "–".to_string(),
                macs => grouped(macs as u64),
            },
            megabytes(step.bytes as u64),
        ]);
    }
    report::print(table)?;
    let mut table = report::table(&["pass", "changes", "what it does"]);
    if let Some(column) = table.column_mut(2) {
        column.set_cell_alignment(comfy_table::CellAlignment::Left);
    }
    for pass in passes {
        let what = pass.what.to_string();
        table.add_row([pass.name.to_string(), pass.changes.to_string(), what]);
    }
    report::print("")?;
    report::print(table)?;
    report::print(format!(
        "\n{} nodes became {} steps with {} multiply-accumulates; a run takes {} beside the weights.",
        nodes,
        steps.len(),
        grouped(total as u64),
        megabytes(session.workspace_bytes() as u64)
    ))
}
