//! A model as a graph.

use std::collections::HashMap;
use std::fmt;

use crate::{Data, Kind, Op};

/// A model's forward pass for one shape of input: values, and the nodes that compute them.
///
/// Feature maps are `[N, C, H, W]` where the model's convolutions are; changes of layout between
/// layers that cancel are gone (see [`Graph::capture`](crate::Graph::capture)). Nodes stand in an
/// order in which they can be run, every node is used, and every node has one output.
#[derive(Debug, Clone)]
pub struct Graph {
    pub(crate) values: Vec<Value>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) inputs: Vec<ValueId>,
    pub(crate) outputs: Vec<ValueId>,
    /// The shapes of the tokens `[N, L, C]` that modules return, by their paths: between layers the
    /// first two dimensions can be one.
    pub(crate) tokens: HashMap<String, [usize; 3]>,
}

/// A value of a graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(pub(crate) u32);

impl ValueId {
    /// The place of the value among [`Graph::values`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A tensor that a graph takes, holds or computes.
#[derive(Debug, Clone)]
pub struct Value {
    /// Its dimensions.
    pub shape: Vec<usize>,
    /// What its elements are.
    pub kind: Kind,
    /// Where it comes from.
    pub source: Source,
}

impl Value {
    /// The number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The constant that the value is, if it is one.
    pub fn constant(&self) -> Option<&Constant> {
        match &self.source {
            Source::Constant(constant) => Some(constant),
            Source::Input | Source::Node(_) => None,
        }
    }
}

/// Where a value comes from.
#[derive(Debug, Clone)]
pub enum Source {
    /// Given by whoever runs the graph.
    Input,
    /// Held by the graph.
    Constant(Constant),
    /// Computed by the node at this place among [`Graph::nodes`].
    Node(usize),
}

/// A weight, a running statistic or another fixed tensor.
#[derive(Debug, Clone)]
pub struct Constant {
    /// The path of the parameter or buffer in its model, `layer1.0.conv1.weight`; none for a
    /// tensor that the forward pass makes.
    pub name: Option<String>,
    /// Its numbers.
    pub data: Data,
}

/// An operation, what it reads and what it gives.
#[derive(Debug, Clone)]
pub struct Node {
    /// A name that no other node has: the module's for the layer that holds its weights
    /// (`layer1.0.conv1`), else the module's and the operation's (`layer1.0.relu`).
    pub name: String,
    /// The path of the module that the operation belongs to, `layer1.0.conv1`; empty for the
    /// model itself.
    pub module: String,
    /// The operation.
    pub op: Op,
    /// What it reads, in the order that [`Op`] says.
    pub inputs: Vec<ValueId>,
    /// What it gives.
    pub output: ValueId,
}

impl Graph {
    /// All values.
    pub fn values(&self) -> &[Value] {
        &self.values
    }

    /// All nodes, in an order in which they can be run.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// What whoever runs the graph gives.
    pub fn inputs(&self) -> &[ValueId] {
        &self.inputs
    }

    /// What the graph gives.
    pub fn outputs(&self) -> &[ValueId] {
        &self.outputs
    }

    /// A value.
    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id.index()]
    }

    /// Gives back the memory of a constant whose numbers nobody will ask for again (they are not numbers from then on).
    pub fn forget(&mut self, id: ValueId) {
        if let Source::Constant(constant) = &mut self.values[id.index()].source {
            constant.data = Data::Splat(f64::NAN);
        }
    }

    /// The node that computes a value; none for inputs and constants.
    pub fn producer(&self, id: ValueId) -> Option<&Node> {
        match self.value(id).source {
            Source::Node(node) => Some(&self.nodes[node]),
            Source::Input | Source::Constant(_) => None,
        }
    }

    /// For every value the places of the nodes that read it, once for each time they do.
    pub fn users(&self) -> Vec<Vec<usize>> {
        let mut users = vec![Vec::new(); self.values.len()];
        for (i, node) in self.nodes.iter().enumerate() {
            for input in &node.inputs {
                users[input.index()].push(i);
            }
        }
        users
    }

    /// For every value whether it is the same for any input: constants and what is computed of
    /// nothing else. ([`reference::constant`](crate::reference::constant) computes it.)
    pub fn fixed(&self) -> Vec<bool> {
        let mut fixed: Vec<bool> = self
            .values
            .iter()
            .map(|value| value.constant().is_some())
            .collect();
        for node in &self.nodes {
            fixed[node.output.index()] = node.inputs.iter().all(|input| fixed[input.index()]);
        }
        fixed
    }

    /// The model's parameters and buffers that the forward pass reads, with their paths, in the
    /// order of the model's fields.
    pub fn weights(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.values.iter().filter_map(|value| {
            let name = value.constant()?.name.as_deref()?;
            Some((name, value))
        })
    }
}

impl fmt::Display for Graph {
    /// One line a node: name, operation, shapes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for node in &self.nodes {
            let shape = |id: &ValueId| format!("{:?}", self.value(*id).shape);
            let inputs: Vec<_> = node.inputs.iter().map(shape).collect();
            let inputs = inputs.join(" ");
            let (name, op, output) = (&node.name, &node.op, shape(&node.output));
            writeln!(f, "{name}: {op:?} {inputs} -> {output}")?;
        }
        Ok(())
    }
}
