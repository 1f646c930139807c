//! A graph as a list of layers, as people speak of them.

use std::collections::{HashMap, HashSet};

use lenslet_nn::is_buffer;

use crate::{Binary, Field, Graph, Macs, Node, Op, Reduction, Unary, ValueId};

/// A layer: a module without children, or one operation of a module that has some.
#[derive(Debug, Clone)]
pub struct Layer {
    /// The module's path, or that of the operation ([`Node::name`]).
    pub name: String,
    /// The path of the module; empty for the model itself.
    pub module: String,
    /// What it is, in PyTorch's words where there is one: `Conv2d`, `Linear`, `ReLU`; `add`.
    pub kind: String,
    /// What it gives.
    pub output: ValueId,
    /// The shape of that, with the pictures first.
    pub shape: Vec<usize>,
    /// The parameters that it is the first to read, by their paths, with their sizes.
    pub params: Vec<(String, u64)>,
    /// Its multiply-accumulates.
    pub macs: Macs,
    /// What a position of its output depends on.
    pub field: Field,
    /// Bytes of its output.
    pub bytes: u64,
}

impl Layer {
    /// How many parameters it has.
    pub fn num_params(&self) -> u64 {
        self.params.iter().map(|(_, size)| size).sum()
    }
}

impl Graph {
    /// The layers in the order in which they run. Changes of shape and order, and what is computed
    /// from weights alone, are none.
    pub fn layers(&self) -> Vec<Layer> {
        let fixed = self.fixed();
        let (macs, fields) = (self.macs(), self.fields());
        let parents = self.parents();
        let mut owned = self.owned(&fixed);
        let mut layers: Vec<(Layer, Vec<&Node>)> = Vec::new();
        for (i, node) in self.nodes().iter().enumerate() {
            if fixed[node.output.index()] {
                continue;
            }
            let is_leaf = !node.module.is_empty() && !parents.contains(node.module.as_str());
            let params = owned.remove(&i).unwrap_or_default();
            let output = node.output;
            if let Some((layer, nodes)) = layers.last_mut()
                && is_leaf
                && layer.module == node.module
            {
                layer.output = output;
                layer.params.extend(params);
                layer.macs += macs[i];
                layer.field = fields[output.index()].clone();
                layer.bytes = self.bytes(output);
                nodes.push(node);
                continue;
            }
            let is_view = matches!(node.op, Op::Reshape | Op::Permute(_) | Op::Expand);
            if is_view && !is_leaf {
                continue;
            }
            let layer = Layer {
                name: match is_leaf {
                    true => node.module.clone(),
                    false => node.name.clone(),
                },
                module: node.module.clone(),
                kind: String::new(),
                output,
                params,
                macs: macs[i],
                field: fields[output.index()].clone(),
                bytes: self.bytes(output),
                shape: Vec::new(),
            };
            layers.push((layer, vec![node]));
        }
        let named = layers.into_iter().filter_map(|(mut layer, nodes)| {
            let views = |node: &&Node| matches!(node.op, Op::Reshape | Op::Permute(_) | Op::Expand);
            if nodes.iter().all(views) {
                return None;
            }
            layer.kind = kind(&nodes, &fixed);
            layer.shape = self.layer_shape(&layer);
            Some(layer)
        });
        named.collect()
    }

    /// The shape of what a layer gives: a module's tokens as it returns them.
    fn layer_shape(&self, layer: &Layer) -> Vec<usize> {
        let shape = &self.value(layer.output).shape;
        match self.tokens.get(&layer.name) {
            Some(tokens)
                if shape.len() < 4
                    && tokens.iter().product::<usize>() == self.value(layer.output).len() =>
            {
                tokens.to_vec()
            }
            _ => shape.clone(),
        }
    }

    /// The modules that have children.
    fn parents(&self) -> HashSet<&str> {
        let mut parents = HashSet::new();
        for node in self.nodes() {
            let mut path = node.module.as_str();
            while let Some((parent, _)) = path.rsplit_once('.') {
                if !parents.insert(parent) {
                    break;
                }
                path = parent;
            }
        }
        parents
    }

    /// For nodes that depend on the input the parameters that they are the first to read, directly
    /// or through operations on nothing but weights.
    fn owned(&self, fixed: &[bool]) -> HashMap<usize, Vec<(String, u64)>> {
        let mut behind: HashMap<ValueId, Vec<ValueId>> = HashMap::new();
        let mut taken: HashSet<ValueId> = HashSet::new();
        let mut owned = HashMap::new();
        for (i, node) in self.nodes().iter().enumerate() {
            let mut sources = Vec::new();
            for input in &node.inputs {
                match self.value(*input).constant() {
                    Some(_) => sources.push(*input),
                    None => sources.extend(behind.get(input).into_iter().flatten().copied()),
                }
            }
            if fixed[node.output.index()] {
                behind.insert(node.output, sources);
                continue;
            }
            sources.retain(|&id| taken.insert(id));
            let params = sources.into_iter().filter_map(|id| {
                let name = self.value(id).constant()?.name.clone()?;
                let size = self.value(id).len() as u64;
                (!is_buffer(&name)).then_some((name, size))
            });
            owned.insert(i, params.collect());
        }
        owned
    }
}

/// What nodes that make up a layer are together.
fn kind(nodes: &[&Node], fixed: &[bool]) -> String {
    let has = |wanted: &dyn Fn(&Op) -> bool| nodes.iter().any(|node| wanted(&node.op));
    let weighted = |node: &&&Node| node.inputs.iter().any(|id| fixed[id.index()]);
    if let Some(layer) = nodes
        .iter()
        .filter(weighted)
        .find(|node| node.op.is_layer())
    {
        return single(&layer.op, true).to_string();
    }
    let mul = |op: &Op| *op == Op::Binary(Binary::Mul);
    let reduces = |op: &Op| matches!(op, Op::Reduce { .. });
    let divides = |op: &Op| matches!(op, Op::Binary(Binary::Div));
    match nodes {
        [one] => single(&one.op, false).to_string(),
        _ if has(&|op| matches!(op, Op::Unary(Unary::Sigmoid))) && has(&mul) => "SiLU".into(),
        _ if has(&|op| matches!(op, Op::Unary(Unary::HardSigmoid { .. }))) && has(&mul) => {
            "Hardswish".into()
        }
        _ if has(&|op| matches!(op, Op::Scalar(Binary::Pow, p) if *p == 0.75)) && has(&divides) => {
            "LocalResponseNorm".into()
        }
        _ if has(&reduces) && has(&|op| matches!(op, Op::Unary(Unary::Sqrt))) => "GroupNorm".into(),
        _ => {
            let views = |op: &Op| matches!(op, Op::Reshape | Op::Permute(_) | Op::Expand);
            let mut names: Vec<&str> = (nodes.iter().filter(|node| !views(&node.op)))
                .map(|node| single(&node.op, false))
                .collect();
            names.dedup();
            names.join(" ")
        }
    }
}

/// PyTorch's name of an operation. `weighted` tells a layer from a product of two feature maps.
fn single(op: &Op, weighted: bool) -> &'static str {
    match op {
        Op::Conv2d { .. } => "Conv2d",
        Op::ConvTranspose2d { .. } => "ConvTranspose2d",
        Op::BatchNorm { .. } => "BatchNorm2d",
        Op::LayerNorm { .. } => "LayerNorm",
        Op::Matmul if weighted => "Linear",
        Op::MaxPool2d { .. } => "MaxPool2d",
        Op::AvgPool2d { .. } => "AvgPool2d",
        Op::AdaptiveAvgPool2d => "AdaptiveAvgPool2d",
        Op::Softmax { .. } => "Softmax",
        Op::Reduce {
            by: Reduction::Mean,
            ..
        } => "mean",
        Op::Unary(by) => match by {
            Unary::Relu => "ReLU",
            Unary::LeakyRelu { .. } => "LeakyReLU",
            Unary::Gelu => "GELU",
            Unary::Sigmoid => "Sigmoid",
            Unary::HardSigmoid { .. } => "Hardsigmoid",
            Unary::Tanh => "Tanh",
            Unary::Clamp { min, max } if (*min, *max) == (0.0, 6.0) => "ReLU6",
            _ => op.name(),
        },
        _ => op.name(),
    }
}
