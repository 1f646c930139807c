//! What a model costs: multiply-accumulates and memory.

use std::collections::HashMap;
use std::ops::{Add, AddAssign};

use lenslet_nn::is_buffer;
use serde::Serialize;

use crate::{Binary, Graph, Kind, Node, Op, Unary, ValueId};

/// Multiply-accumulates by kind, counted as torchvision's tables do: those of convolutions, linear
/// layers and attention's two products. Biases, norms, activations, pooling and element-wise
/// operations are not counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Macs {
    /// Of convolutions: `output * (in / groups) * kernel`; of transposed ones
    /// `input * (out / groups) * kernel`.
    pub conv: u64,
    /// Of products with a weight.
    pub linear: u64,
    /// Of products of two tensors that both depend on the input.
    pub attention: u64,
}

impl Macs {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.conv + self.linear + self.attention
    }
}

impl Add for Macs {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            conv: self.conv + other.conv,
            linear: self.linear + other.linear,
            attention: self.attention + other.attention,
        }
    }
}

impl AddAssign for Macs {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

/// Bytes that a model holds while it runs, layer by layer and nothing fused, all numbers having 32
/// bits. Compiled inference needs less.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// Parameters and buffers.
    pub weights: u64,
    /// Feature maps at the moment when there are most of them; every one goes after its last use.
    pub inference: u64,
    /// Feature maps that gradients are computed from, kept until the backward pass, as PyTorch
    /// keeps them: inputs of convolutions, products, norms and maximum pools, outputs of
    /// activations.
    pub kept: u64,
    /// Gradients of trained parameters.
    pub gradients: u64,
    /// Two moving averages for each of them, which AdamW has.
    pub optimizer: u64,
}

impl Memory {
    /// While it answers.
    pub fn of_inference(&self) -> u64 {
        self.weights + self.inference
    }

    /// While it trains with AdamW.
    pub fn of_training(&self) -> u64 {
        self.weights + self.kept.max(self.inference) + self.gradients + self.optimizer
    }
}

/// Bytes of a number.
const WORD: u64 = 4;

impl Graph {
    /// The multiply-accumulates of every node, parallel to [`Graph::nodes`]. What is the same for
    /// every input costs nothing: it is computed once.
    pub fn macs(&self) -> Vec<Macs> {
        let fixed = self.fixed();
        let of = |node: &Node| match fixed[node.output.index()] {
            true => Macs::default(),
            false => self.node_macs(node, &fixed),
        };
        self.nodes().iter().map(of).collect()
    }

    fn node_macs(&self, node: &Node, fixed: &[bool]) -> Macs {
        let shape = |i: usize| self.value(node.inputs[i]).shape.as_slice();
        let product = |sides: &[usize]| sides.iter().map(|&n| n as u64).product::<u64>();
        let output = product(&self.value(node.output).shape);
        let mut macs = Macs::default();
        match &node.op {
            Op::Conv2d { .. } => macs.conv = output * product(&shape(1)[1..]),
            Op::ConvTranspose2d { .. } => macs.conv = product(shape(0)) * product(&shape(1)[1..]),
            Op::Matmul => {
                let count = output * shape(0)[shape(0).len() - 1] as u64;
                let weighted = node.inputs.iter().any(|id| fixed[id.index()]);
                match weighted {
                    true => macs.linear = count,
                    false => macs.attention = count,
                }
            }
            Op::Attention { .. } => {
                let [length, width] = [shape(1).len() - 2, shape(1).len() - 1];
                let keys = shape(1)[length] as u64;
                macs.attention = product(shape(0)) * keys + output * keys;
                debug_assert_eq!(shape(0)[width], shape(1)[width]);
            }
            _ => {}
        }
        macs
    }

    /// The memory that the model takes for a batch of the graph's size. `trains` says which
    /// parameters do, `weights` how many numbers the model holds, the graph's and others.
    pub fn memory(&self, weights: u64, trained: u64, trains: &dyn Fn(&str) -> bool) -> Memory {
        Memory {
            weights: WORD * weights,
            inference: self.peak(),
            kept: self.kept(trains),
            gradients: WORD * trained,
            optimizer: 2 * WORD * trained,
        }
    }

    /// Bytes of a value's numbers.
    pub fn bytes(&self, id: ValueId) -> u64 {
        let value = self.value(id);
        match value.kind {
            Kind::Float => WORD * value.len() as u64,
            Kind::Integer => 8 * value.len() as u64,
            Kind::Boolean => value.len() as u64,
        }
    }

    /// The value whose memory a value has: its own, or that of what it is another view of.
    fn root(&self, mut id: ValueId) -> ValueId {
        while let Some(node) = self.producer(id)
            && matches!(
                node.op,
                Op::Reshape | Op::Permute(_) | Op::Slice(_) | Op::Expand
            )
        {
            id = node.inputs[0];
        }
        id
    }

    fn peak(&self) -> u64 {
        let fixed = self.fixed();
        let mut last: HashMap<ValueId, usize> = HashMap::new();
        for (i, node) in self.nodes().iter().enumerate() {
            for input in &node.inputs {
                last.insert(self.root(*input), i);
            }
        }
        for output in self.outputs() {
            last.insert(self.root(*output), usize::MAX);
        }
        let held = self.inputs().iter().map(|&id| self.bytes(id));
        let mut held: u64 = held.sum();
        let mut peak = held;
        for (i, node) in self.nodes().iter().enumerate() {
            let is_view = self.root(node.output) != node.output;
            let mut roots: Vec<ValueId> = node.inputs.iter().map(|&id| self.root(id)).collect();
            roots.sort();
            roots.dedup();
            let ends = |id: &ValueId| last[id] == i && !fixed[id.index()];
            let freed = || roots.iter().filter(|id| ends(id));
            if !is_view && !fixed[node.output.index()] {
                let own = self.bytes(node.output);
                let in_place = node.op.is_elementwise() && freed().any(|&id| self.bytes(id) == own);
                peak = peak.max(held + if in_place { 0 } else { own });
                held += own;
            }
            held -= freed().map(|&id| self.bytes(id)).sum::<u64>();
        }
        peak
    }

    fn kept(&self, trains: &dyn Fn(&str) -> bool) -> u64 {
        let fixed = self.fixed();
        let mut flows: Vec<bool> = self
            .values()
            .iter()
            .map(|value| {
                let name = value.constant().and_then(|c| c.name.as_deref());
                name.is_some_and(|name| !is_buffer(name) && trains(name))
            })
            .collect();
        let mut kept: Vec<ValueId> = Vec::new();
        for node in self.nodes() {
            let flowing = |i: usize| node.inputs.get(i).is_some_and(|id| flows[id.index()]);
            let (x, y) = (node.inputs[0], node.output);
            let rest = || node.inputs[1..].iter().copied();
            let any = (0..node.inputs.len()).any(flowing);
            match &node.op {
                _ if !any => {}
                Op::Conv2d { .. } | Op::ConvTranspose2d { .. } if flowing(1) => kept.push(x),
                Op::Conv2d { .. } | Op::ConvTranspose2d { .. } => {}
                Op::BatchNorm { .. } | Op::LayerNorm { .. } | Op::MaxPool2d { .. } => kept.push(x),
                Op::Matmul | Op::Binary(Binary::Mul) => {
                    kept.extend(flowing(1).then_some(x));
                    kept.extend(rest().filter(|_| flowing(0)));
                }
                Op::Attention { .. } => {
                    kept.extend([x, y]);
                    kept.extend(rest());
                }
                Op::Binary(Binary::Div | Binary::Pow | Binary::PRelu) => {
                    kept.push(x);
                    kept.extend(rest());
                }
                Op::Unary(by) if keeps_output(*by) => kept.push(y),
                Op::Unary(Unary::Neg) => {}
                Op::Unary(_) | Op::Scalar(Binary::Pow, _) => kept.push(x),
                Op::Softmax { .. } | Op::LogSoftmax { .. } => kept.push(y),
                Op::MaskFill(_) | Op::MaskWhere => kept.extend(rest().take(1)),
                _ => {}
            }
            flows[y.index()] = any;
        }
        let mut roots: Vec<ValueId> = kept.iter().map(|&id| self.root(id)).collect();
        roots.retain(|id| !fixed[id.index()]);
        roots.sort();
        roots.dedup();
        roots.iter().map(|&id| self.bytes(id)).sum()
    }
}

/// Whether the gradient of an activation is computed from what it gave.
fn keeps_output(by: Unary) -> bool {
    matches!(
        by,
        Unary::Relu
            | Unary::LeakyRelu { .. }
            | Unary::Sigmoid
            | Unary::Tanh
            | Unary::Exp
            | Unary::Sqrt
            | Unary::Recip
    )
}
