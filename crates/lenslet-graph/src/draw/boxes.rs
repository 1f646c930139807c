//! From nodes to boxes.

use std::collections::HashMap;

use super::{Block, Drawing, Look, Unit, blocks};
use crate::{Binary, Graph, Node, Op, Reduction, Unary, ValueId};

/// Above so many boxes, modules become boxes.
const MANY: usize = 110;

/// The boxes of a graph. Modules `depth` deep are one each; without, as fine as can be looked at.
pub(super) fn drawing(graph: &Graph, depth: Option<usize>) -> Drawing {
    let fine = blocks::grouped(units(graph));
    if let Some(depth) = depth {
        return blocks::grouped(blocks::collapsed(fine.units, |unit| {
            prefix(&unit.module, depth)
        }));
    }
    let folded = blocks::folded(fine);
    if folded.units.len() <= MANY {
        return folded;
    }
    // Every block a box, and equal ones in a row drawn once.
    let Drawing { units, blocks } = blocks::grouped(self::units(graph));
    let name = |unit: &Unit| match unit.block {
        Some(block) => blocks[block].name.clone(),
        None => unit.module.clone(),
    };
    let coarse = blocks::collapsed(units, |unit| unit.block.map(|_| name(unit)));
    let coarse = blocks::merged_runs(coarse);
    if coarse.units.len() <= MANY {
        return coarse;
    }
    let deepest = (1..6).rev().find_map(|depth| {
        let drawing = blocks::collapsed(coarse.units.clone(), |unit| prefix(&unit.module, depth));
        (drawing.units.len() <= MANY).then_some(drawing)
    });
    deepest.unwrap_or(coarse)
}

/// The first parts of a path; nothing for a path that is not longer.
fn prefix(module: &str, depth: usize) -> Option<String> {
    let parts: Vec<&str> = module.split('.').collect();
    (parts.len() >= depth && !module.is_empty()).then(|| parts[..depth].join("."))
}

/// One box for every node that people would draw, with what follows it alone.
fn units(graph: &Graph) -> Drawing {
    let fixed = graph.fixed();
    let users = graph.users();
    let mut units: Vec<Unit> = Vec::new();
    // The box whose output a value is.
    let mut of: HashMap<ValueId, usize> = HashMap::new();
    let height = graph
        .inputs()
        .first()
        .and_then(|&id| graph.value(id).shape.get(2));
    let jump = |id: ValueId| match graph.value(id).shape[..] {
        [_, _, h, _] => height.map(|&height| height as f64 / h as f64),
        _ => None,
    };
    for &input in graph.inputs() {
        of.insert(input, units.len());
        units.push(Unit {
            look: Look::Input,
            label: "input".into(),
            detail: String::new(),
            shape: shape(graph, input),
            inputs: Vec::new(),
            module: String::new(),
            block: None,
            jump: jump(input),
            signature: String::new(),
        });
    }
    for node in graph.nodes() {
        if fixed[node.output.index()] {
            continue;
        }
        // `x * sigmoid(x)` is an activation in two nodes, part of the box that `x` is.
        if let Some(name) = swish(node, graph, &users)
            && let Some(&before) = of.get(&node.inputs[0])
        {
            append(&mut units[before], name);
            of.insert(node.output, before);
            continue;
        }
        let mut inputs: Vec<usize> = (node.inputs.iter())
            .filter_map(|id| of.get(id).copied())
            .collect();
        inputs.dedup();
        let alone = |id: &ValueId| users[id.index()].len() <= 1 && !graph.outputs().contains(id);
        let moving: Vec<&ValueId> = node
            .inputs
            .iter()
            .filter(|id| of.contains_key(id))
            .collect();
        // What only changes the shape is no box; what follows a layer alone belongs to its box.
        let joins = inputs.len() > 1 || gate(node, &moving, graph);
        if !joins && let [before] = inputs[..] {
            let follows = match follow(node, graph, &fixed) {
                Follow::View => {
                    of.insert(node.output, before);
                    continue;
                }
                Follow::Named(name) if moving.iter().all(|id| alone(id)) => Some(name),
                Follow::Named(_) | Follow::No => None,
            };
            if let Some(name) = follows
                && !matches!(
                    units[before].look,
                    Look::Input | Look::Pool | Look::Attention
                )
            {
                append(&mut units[before], name);
                units[before].shape = shape(graph, node.output);
                of.insert(node.output, before);
                continue;
            }
        }
        let (look, label) = describe(node, graph, &fixed);
        of.insert(node.output, units.len());
        units.push(Unit {
            look,
            label,
            detail: String::new(),
            shape: shape(graph, node.output),
            inputs,
            module: node.module.clone(),
            block: None,
            jump: jump(node.output),
            signature: String::new(),
        });
    }
    let blocks: Vec<Block> = Vec::new();
    Drawing { units, blocks }
}

/// Whether a product or sum joins branches of one box (a gate made of what it is applied to).
fn gate(node: &Node, moving: &[&ValueId], graph: &Graph) -> bool {
    matches!(node.op, Op::Binary(_))
        && moving.len() > 1
        && graph.value(*moving[0]).shape != graph.value(*moving[1]).shape
}

/// Adds to what follows in a box.
fn append(unit: &mut Unit, name: &str) {
    let known = unit.detail.split(", ").any(|word| word == name);
    if !name.is_empty() && !known {
        if !unit.detail.is_empty() {
            unit.detail += ", ";
        }
        unit.detail += name;
    }
}

/// The name of the activation `x * sigmoid(x)`, if the node is one half of it.
fn swish(node: &Node, graph: &Graph, users: &[Vec<usize>]) -> Option<&'static str> {
    let gate = |node: &Node| match node.op {
        Op::Unary(Unary::Sigmoid) => Some("SiLU"),
        Op::Unary(Unary::HardSigmoid { .. }) => Some("Hardswish"),
        _ => None,
    };
    match (&node.op, &node.inputs[..]) {
        (Op::Unary(_), &[x]) => {
            let name = gate(node)?;
            let &[user] = &users[node.output.index()][..] else {
                return None;
            };
            let user = &graph.nodes()[user];
            let multiplies = user.op == Op::Binary(Binary::Mul) && user.inputs.contains(&x);
            multiplies.then_some(name)
        }
        (Op::Binary(Binary::Mul), &[a, b]) => {
            let of = |x: ValueId, gate_of_x: ValueId| {
                let producer = graph.producer(gate_of_x)?;
                (producer.inputs[0] == x).then(|| gate(producer))?
            };
            of(a, b).or_else(|| of(b, a))
        }
        _ => None,
    }
}

/// What a node is to the box before it.
enum Follow {
    /// A change of shape.
    View,
    /// Part of it, by this name, or without one.
    Named(&'static str),
    No,
}

fn follow(node: &Node, graph: &Graph, fixed: &[bool]) -> Follow {
    let weighted = node.inputs.iter().any(|id| fixed[id.index()]);
    match &node.op {
        Op::Reshape | Op::Permute(_) | Op::Expand | Op::Cast => Follow::View,
        Op::Slice(_) if graph.value(node.output).shape.len() != 4 => Follow::View,
        Op::BatchNorm { .. } => Follow::Named("BN"),
        Op::LayerNorm { .. } => Follow::No,
        Op::Unary(by) => Follow::Named(match by {
            Unary::Relu => "ReLU",
            Unary::Clamp { min, max } if (*min, *max) == (0.0, 6.0) => "ReLU6",
            Unary::Gelu => "GELU",
            Unary::Sigmoid => "Sigmoid",
            Unary::HardSigmoid { .. } => "Hardsigmoid",
            Unary::Tanh => "Tanh",
            Unary::LeakyRelu { .. } => "LeakyReLU",
            _ => "",
        }),
        // Biases, layer scales and the like.
        Op::Binary(_) if weighted => Follow::Named(""),
        Op::Scalar(..) => Follow::Named(""),
        _ => Follow::No,
    }
}

fn describe(node: &Node, graph: &Graph, fixed: &[bool]) -> (Look, String) {
    let weighted = node.inputs.iter().any(|id| fixed[id.index()]);
    let sides = |id: usize| graph.value(node.inputs[id]).shape.as_slice();
    let output = &graph.value(node.output).shape;
    let across = |[h, w]: [usize; 2]| format!("{h}×{w}");
    let over = |stride: [usize; 2]| match stride {
        [1, 1] => String::new(),
        [h, w] if h == w => format!(", /{h}"),
        [h, w] => format!(", /{h}×{w}"),
    };
    match &node.op {
        Op::Conv2d { stride, groups, .. } => {
            let [out, _, kh, kw] = *sides(1) else {
                return (Look::Conv, "Conv".into());
            };
            let name = match *groups {
                1 => "Conv",
                g if g == out => "Depthwise",
                _ => "Grouped conv",
            };
            let label = format!("{name} {}, {out}{}", across([kh, kw]), over(*stride));
            (Look::Conv, label)
        }
        Op::ConvTranspose2d { stride, .. } => {
            let kernel = across([sides(1)[2], sides(1)[3]]);
            let up = stride[0];
            (
                Look::Resize,
                format!("Up-conv {kernel}, {}, ×{up}", output[1]),
            )
        }
        Op::Matmul if weighted => {
            let label = format!("Linear, {}", output[output.len() - 1]);
            (Look::Linear, label)
        }
        Op::Matmul => (Look::Attention, "Product".into()),
        Op::Attention { .. } => {
            let heads = sides(0)[1];
            (Look::Attention, format!("Attention, {heads} heads"))
        }
        Op::MaxPool2d { kernel, stride, .. } => (
            Look::Pool,
            format!("Max pool {}{}", across(*kernel), over(*stride)),
        ),
        Op::AvgPool2d { kernel, stride, .. } => (
            Look::Pool,
            format!("Mean pool {}{}", across(*kernel), over(*stride)),
        ),
        Op::AdaptiveAvgPool2d => match &output[2..] {
            [1, 1] => (Look::Pool, "Global mean".into()),
            [h, w] => (Look::Pool, format!("Mean pool to {}", across([*h, *w]))),
            _ => (Look::Pool, "Mean pool".into()),
        },
        Op::Reduce {
            by: Reduction::Mean,
            ..
        } => (Look::Pool, "Mean".into()),
        Op::LayerNorm { .. } => (Look::Norm, "Layer norm".into()),
        Op::BatchNorm { .. } => (Look::Norm, "Batch norm".into()),
        Op::Concat { .. } => (Look::Join, "concat".into()),
        Op::Binary(Binary::Add) => (Look::Join, "+".into()),
        Op::Binary(Binary::Mul) => (Look::Join, "×".into()),
        Op::Interpolate { .. } => (Look::Resize, "Resize".into()),
        Op::Unary(_) => {
            let name = match follow(node, graph, fixed) {
                Follow::Named(name) if !name.is_empty() => name,
                _ => node.op.name(),
            };
            (Look::Activation, name.into())
        }
        op => (Look::Other, op.name().replace('_', " ")),
    }
}

/// The shape of one picture's value.
fn shape(graph: &Graph, id: ValueId) -> String {
    let sides = graph.value(id).shape.iter().skip(1);
    sides.map(usize::to_string).collect::<Vec<_>>().join("×")
}
