//! Making graphs.

use std::collections::{HashMap, HashSet};

use crate::{Constant, Data, Graph, Kind, Node, Op, Source, Value, ValueId};

/// A graph that is being made: inputs and constants first, then nodes in the order in which they
/// run.
#[derive(Debug, Default)]
pub(crate) struct GraphBuilder {
    values: Vec<Value>,
    nodes: Vec<Node>,
    inputs: Vec<ValueId>,
}

impl GraphBuilder {
    /// A tensor of 32-bit numbers that whoever runs the graph gives.
    pub fn input(&mut self, shape: Vec<usize>) -> ValueId {
        let id = self.push(Value {
            shape,
            kind: Kind::Float,
            source: Source::Input,
        });
        self.inputs.push(id);
        id
    }

    /// A fixed tensor; `name` is its path in the model where it has one.
    pub fn constant(
        &mut self,
        name: Option<String>,
        shape: Vec<usize>,
        kind: Kind,
        data: Data,
    ) -> ValueId {
        self.push(Value {
            shape,
            kind,
            source: Source::Constant(Constant { name, data }),
        })
    }

    /// An operation that belongs to `module`, whose output has this shape.
    pub fn node(
        &mut self,
        module: &str,
        op: Op,
        inputs: Vec<ValueId>,
        shape: Vec<usize>,
        kind: Kind,
    ) -> ValueId {
        let output = self.push(Value {
            shape,
            kind,
            source: Source::Node(self.nodes.len()),
        });
        self.nodes.push(Node {
            name: String::new(),
            module: module.to_string(),
            op,
            inputs,
            output,
        });
        output
    }

    /// A value so far.
    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id.index()]
    }

    /// The node that computes a value so far.
    pub fn producer(&self, id: ValueId) -> Option<&Node> {
        match self.value(id).source {
            Source::Node(node) => Some(&self.nodes[node]),
            Source::Input | Source::Constant(_) => None,
        }
    }

    /// The graph that gives `outputs`. Whatever they do not need is left out; inputs stay.
    pub fn finish(self, outputs: &[ValueId]) -> Graph {
        let mut used: Vec<bool> = vec![false; self.values.len()];
        for id in outputs.iter().chain(&self.inputs) {
            used[id.index()] = true;
        }
        for node in self.nodes.iter().rev() {
            if used[node.output.index()] {
                for input in &node.inputs {
                    used[input.index()] = true;
                }
            }
        }
        let mut moved = vec![ValueId(u32::MAX); self.values.len()];
        let mut values = Vec::new();
        for (i, value) in self.values.into_iter().enumerate() {
            if used[i] {
                moved[i] = ValueId(values.len() as u32);
                values.push(value);
            }
        }
        let mut nodes: Vec<Node> = self.nodes;
        nodes.retain(|node| used[node.output.index()]);
        for (i, node) in nodes.iter_mut().enumerate() {
            node.output = moved[node.output.index()];
            for input in &mut node.inputs {
                *input = moved[input.index()];
            }
            values[node.output.index()].source = Source::Node(i);
        }
        name(&mut nodes, &values);
        let follow = |ids: &[ValueId]| ids.iter().map(|id| moved[id.index()]).collect();
        Graph {
            values,
            nodes,
            inputs: follow(&self.inputs),
            outputs: follow(outputs),
            tokens: HashMap::new(),
        }
    }

    fn push(&mut self, value: Value) -> ValueId {
        let id = ValueId(self.values.len() as u32);
        self.values.push(value);
        id
    }
}

/// Gives every node a name of its own.
fn name(nodes: &mut [Node], values: &[Value]) {
    let mut taken = HashSet::new();
    let mut counts: HashMap<String, usize> = HashMap::new();
    let mut fixed: Vec<bool> = values.iter().map(|v| v.constant().is_some()).collect();
    // A module's name goes to the layer that holds its weights.
    for node in nodes.iter_mut() {
        let is_fixed = |id: &ValueId| fixed[id.index()];
        let all_fixed = node.inputs.iter().all(is_fixed);
        let weighted = node.op.is_layer() && !all_fixed && node.inputs.iter().any(is_fixed);
        fixed[node.output.index()] = all_fixed;
        if weighted && !node.module.is_empty() && taken.insert(node.module.clone()) {
            node.name = node.module.clone();
        }
    }
    for node in nodes.iter_mut().filter(|node| node.name.is_empty()) {
        let base = match node.module.as_str() {
            "" => node.op.name().to_string(),
            module => format!("{module}.{}", node.op.name()),
        };
        let count = counts.entry(base.clone()).or_default();
        loop {
            *count += 1;
            let name = match *count {
                1 => base.clone(),
                n => format!("{base}_{n}"),
            };
            if taken.insert(name.clone()) {
                node.name = name;
                break;
            }
        }
    }
}
