//! Running a graph plainly: what every operation means, in loops that can be read.
//!
//! Numbers are kept in 32 bits and summed in 64, so results are those of the model up to what
//! 32-bit arithmetic loses in sums. It is slow; `lenslet-engine` is there to be fast.

mod convolution;
mod elementwise;
mod matrix;
mod norm;
mod pooling;
mod resize;
mod shape;
mod tensor;

use std::collections::HashMap;

use crate::{Data, Graph, GraphError, Node, Op, Source, Value, ValueId};
use shape::Outside;
use tensor::Tensor;

/// What the graph gives for these inputs: the outputs' numbers in row-major order.
///
/// # Errors
/// When there are too few or too many inputs or numbers, or an index points outside.
pub fn run(graph: &Graph, inputs: &[&[f32]]) -> Result<Vec<Vec<f32>>, GraphError> {
    let shapes: Vec<_> = graph
        .inputs()
        .iter()
        .map(|&id| &graph.value(id).shape)
        .collect();
    let fits =
        |(shape, input): (&&Vec<usize>, &&[f32])| shape.iter().product::<usize>() == input.len();
    if shapes.len() != inputs.len() || !shapes.iter().zip(inputs).all(fits) {
        let lens: Vec<_> = inputs.iter().map(|input| input.len()).collect();
        return Err(GraphError::Input {
            expected: format!("inputs of shapes {shapes:?}"),
            found: format!("inputs of {lens:?} numbers"),
        });
    }
    let mut memory = Memory::new(graph);
    for (&id, input) in graph.inputs().iter().zip(inputs) {
        let shape = graph.value(id).shape.clone();
        memory
            .computed
            .insert(id, Tensor::new(shape, input.to_vec()));
    }
    memory.run(graph.outputs(), |_| true)?;
    let outputs = graph
        .outputs()
        .iter()
        .map(|&id| memory.read(id).numbers().to_vec());
    Ok(outputs.collect())
}

/// The numbers of a constant, or of a value that is computed of nothing but constants
/// ([`Graph::fixed`]), in row-major order.
///
/// # Errors
/// When the value depends on the graph's input, or an index points outside.
pub fn constant(graph: &Graph, id: ValueId) -> Result<Vec<f32>, GraphError> {
    if let Some(constant) = graph.value(id).constant() {
        return Ok(constant.data.floats(graph.value(id).len()).into_owned());
    }
    if !graph.fixed()[id.index()] {
        let name = graph.producer(id).map_or("input", |node| &node.name);
        return Err(GraphError::NotConstant(name.to_string()));
    }
    let mut needed = vec![false; graph.values().len()];
    needed[id.index()] = true;
    for node in graph.nodes().iter().rev() {
        if needed[node.output.index()] {
            for input in &node.inputs {
                needed[input.index()] = true;
            }
        }
    }
    let mut memory = Memory::new(graph);
    memory.run(&[id], |node| needed[node.output.index()])?;
    Ok(memory.read(id).numbers().to_vec())
}

/// What a node gives for the numbers of its inputs, in row-major order.
///
/// # Errors
/// When an index points outside.
pub fn node(graph: &Graph, node: &Node, inputs: &[&[f32]]) -> Result<Vec<f32>, GraphError> {
    let shapes = node.inputs.iter().map(|&id| graph.value(id).shape.clone());
    let inputs: Vec<Tensor> = (shapes.zip(inputs))
        .map(|(shape, numbers)| Tensor::new(shape, numbers.to_vec()))
        .collect();
    let output = graph.value(node.output);
    let output = compute(&node.op, &inputs, output).map_err(|outside| GraphError::Index {
        node: node.name.clone(),
        index: outside.index,
        len: outside.len,
    })?;
    Ok(output.numbers().to_vec())
}

/// The values that are computed and still needed.
struct Memory<'a> {
    graph: &'a Graph,
    computed: HashMap<ValueId, Tensor>,
}

impl<'a> Memory<'a> {
    fn new(graph: &'a Graph) -> Self {
        Self {
            graph,
            computed: HashMap::new(),
        }
    }

    /// Runs the nodes that `wanted` names, and forgets what none of them needs any more.
    fn run(&mut self, kept: &[ValueId], wanted: impl Fn(&Node) -> bool) -> Result<(), GraphError> {
        let nodes: Vec<&Node> = self
            .graph
            .nodes()
            .iter()
            .filter(|node| wanted(node))
            .collect();
        let mut last_use = HashMap::new();
        for (i, node) in nodes.iter().enumerate() {
            last_use.extend(node.inputs.iter().map(|&input| (input, i)));
        }
        for (i, node) in nodes.iter().enumerate() {
            let inputs: Vec<Tensor> = node.inputs.iter().map(|&id| self.read(id)).collect();
            let output = self.graph.value(node.output);
            let output =
                compute(&node.op, &inputs, output).map_err(|outside| GraphError::Index {
                    node: node.name.clone(),
                    index: outside.index,
                    len: outside.len,
                })?;
            self.computed.insert(node.output, output);
            for input in &node.inputs {
                if last_use[input] == i && !kept.contains(input) {
                    self.computed.remove(input);
                }
            }
        }
        Ok(())
    }

    fn read(&self, id: ValueId) -> Tensor {
        let value = self.graph.value(id);
        let shape = value.shape.clone();
        match &value.source {
            Source::Constant(constant) => match &constant.data {
                Data::Floats(floats) => Tensor::shared(shape, floats.clone()),
                data => Tensor::new(shape, data.floats(value.len()).into_owned()),
            },
            Source::Input | Source::Node(_) => self.computed[&id].clone(),
        }
    }
}

/// What an operation gives as the value `output`.
fn compute(op: &Op, inputs: &[Tensor], output: &Value) -> Result<Tensor, Outside> {
    let (x, shape) = (&inputs[0], output.shape.as_slice());
    Ok(match op {
        Op::Conv2d { .. } => convolution::conv2d(op, inputs, shape),
        Op::ConvTranspose2d { .. } => convolution::conv_transpose2d(op, inputs, shape),
        Op::BatchNorm { eps } => norm::batch_norm(inputs, *eps),
        Op::LayerNorm { eps } => norm::layer_norm(inputs, *eps),
        Op::Softmax { dim } => norm::softmax(x, *dim, false),
        Op::LogSoftmax { dim } => norm::softmax(x, *dim, true),
        Op::Matmul => matrix::matmul(x, &inputs[1], shape),
        Op::Attention { .. } => matrix::attention(op, inputs, shape),
        Op::Binary(by) => elementwise::binary(*by, inputs, shape),
        Op::Scalar(by, number) => elementwise::map(x, |v| by.apply(v, *number)),
        Op::Unary(by) => elementwise::map(x, |v| by.apply(v)),
        Op::Compare(by) => elementwise::compare(*by, inputs, shape),
        Op::CompareScalar(by, number) => elementwise::map(x, |v| by.apply(v, *number)),
        Op::MaskFill(number) => elementwise::mask(inputs, shape, Some(*number)),
        Op::MaskWhere => elementwise::mask(inputs, shape, None),
        Op::Cast => elementwise::cast(x, output.kind),
        Op::MaxPool2d { .. } => pooling::max_pool2d(op, x, shape),
        Op::AvgPool2d { .. } => pooling::avg_pool2d(op, x, shape),
        Op::AdaptiveAvgPool2d => pooling::adaptive_avg_pool2d(x, shape),
        Op::Interpolate {
            mode,
            align_corners,
        } => resize::interpolate(x, *mode, *align_corners, shape),
        Op::Reduce { by, dims } => shape::reduce(x, *by, dims, shape),
        Op::Concat { dim } => shape::concat(inputs, *dim, shape),
        Op::Reshape => x.reshaped(shape.to_vec()),
        Op::Permute(axes) => shape::permute(x, axes, shape),
        Op::Expand => Tensor::from_fn(shape, |at| x.broadcast(at)),
        Op::Slice(spans) => shape::slice(x, spans, shape),
        Op::Pad { padding, mode } => shape::pad(x, padding, *mode, shape),
        Op::Flip(dims) => shape::flip(x, dims, shape),
        Op::Repeat { dim, .. } => shape::repeat(x, *dim, shape),
        Op::Select { dim } => shape::select(x, &inputs[1], *dim, shape)?,
        Op::Gather { dim } => shape::gather(x, &inputs[1], *dim, shape)?,
    })
}
