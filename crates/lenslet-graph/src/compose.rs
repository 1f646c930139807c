//! Making graphs in which changes of layout cancel.
//!
//! Models keep feature maps as `[N, H, W, C]` and turn them to `[N, C, H, W]` and back around
//! every convolution. A [`Composer`] does not write such a change down where it happens; it is
//! remembered, carried past operations that do not care about the order of the dimensions, and
//! written only where an operation does care. Shapes that change back and forth go the same way.

use std::collections::HashMap;

use crate::builder::GraphBuilder;
use crate::{Data, Graph, Kind, Op, ValueId};

/// A tensor as the model sees it: dimension `i` is dimension `order[i]` of `value`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct View {
    value: ValueId,
    order: Vec<usize>,
}

/// A [`GraphBuilder`] that carries changes of layout along.
#[derive(Debug, Default)]
pub(crate) struct Composer {
    graph: GraphBuilder,
    /// Values in another order that are already there.
    permuted: HashMap<(ValueId, Vec<usize>), ValueId>,
    /// Values that do not depend on the input.
    fixed: Vec<bool>,
}

/// The operation of a node with what is known about its output.
#[derive(Debug)]
pub(crate) struct Step<'a> {
    pub module: &'a str,
    pub op: Op,
    pub shape: Vec<usize>,
    pub kind: Kind,
}

impl Composer {
    pub fn input(&mut self, shape: Vec<usize>) -> View {
        let value = self.graph.input(shape);
        self.note(value, false)
    }

    pub fn constant(
        &mut self,
        name: Option<String>,
        shape: Vec<usize>,
        kind: Kind,
        data: Data,
    ) -> View {
        let value = self.graph.constant(name, shape, kind, data);
        self.note(value, true)
    }

    pub fn node(&mut self, step: Step<'_>, inputs: &[View]) -> View {
        match &step.op {
            Op::Permute(axes) => {
                let order = axes.iter().map(|&axis| inputs[0].order[axis]).collect();
                let value = inputs[0].value;
                View { value, order }
            }
            Op::Reshape => self.reshape(step, &inputs[0]),
            op if self.changes_nothing(op, &inputs[0], &step) => inputs[0].clone(),
            op if op.is_elementwise() => self.elementwise(step, inputs),
            op if along(op, &[]).is_some() => self.along_dims(step, inputs),
            _ => {
                let inputs = self.all(step.module, inputs);
                self.emit(step, inputs)
            }
        }
    }

    /// A feature map `[N, H, W, C]` as `[N, C, H, W]`; other tensors as they are.
    pub fn channels_first(&self, view: &View) -> View {
        let order = match view.order[..] {
            [n, h, w, c] => vec![n, c, h, w],
            _ => view.order.clone(),
        };
        let value = view.value;
        View { value, order }
    }

    pub fn finish(mut self, outputs: &[View]) -> Graph {
        let outputs = self.all("", outputs);
        self.graph.finish(&outputs)
    }

    fn note(&mut self, value: ValueId, fixed: bool) -> View {
        debug_assert_eq!(self.fixed.len(), value.index());
        self.fixed.push(fixed);
        let order = (0..self.graph.value(value).shape.len()).collect();
        View { value, order }
    }

    fn emit(&mut self, step: Step<'_>, inputs: Vec<ValueId>) -> View {
        let fixed = inputs.iter().all(|input| self.fixed[input.index()]);
        let Step {
            module,
            op,
            shape,
            kind,
        } = step;
        let value = self.graph.node(module, op, inputs, shape, kind);
        self.note(value, fixed)
    }

    fn shape(&self, value: ValueId) -> &[usize] {
        &self.graph.value(value).shape
    }

    /// The view as a value of its own.
    fn written(&mut self, module: &str, view: &View) -> ValueId {
        if view.order.is_sorted() {
            return view.value;
        }
        let key = (view.value, view.order.clone());
        if let Some(&value) = self.permuted.get(&key) {
            return value;
        }
        let (from, kind) = (self.shape(view.value), self.graph.value(view.value).kind);
        let step = Step {
            module,
            op: Op::Permute(view.order.clone()),
            shape: view.order.iter().map(|&d| from[d]).collect(),
            kind,
        };
        let value = self.emit(step, vec![view.value]).value;
        self.permuted.insert(key, value);
        value
    }

    fn all(&mut self, module: &str, views: &[View]) -> Vec<ValueId> {
        views
            .iter()
            .map(|view| self.written(module, view))
            .collect()
    }

    /// Inputs in the order that those which depend on the graph's input share; fixed ones are
    /// brought to it. `None` if there is no such order.
    fn aligned(&mut self, step: &Step<'_>, inputs: &[View]) -> Option<(Vec<usize>, Vec<ValueId>)> {
        let mut moving = inputs.iter().filter(|v| !self.fixed[v.value.index()]);
        let order = moving.next().unwrap_or(&inputs[0]).order.clone();
        let same = moving.all(|view| view.order == order);
        if !same || inputs.iter().any(|view| view.order.len() != order.len()) {
            return None;
        }
        let back = inverse(&order);
        let values = inputs.iter().map(|view| {
            let order = back.iter().map(|&d| view.order[d]).collect();
            let value = view.value;
            self.written(step.module, &View { value, order })
        });
        let values = values.collect();
        Some((order, values))
    }

    fn elementwise(&mut self, mut step: Step<'_>, inputs: &[View]) -> View {
        let Some((order, mut values)) = self.aligned(&step, inputs) else {
            let inputs = self.all(step.module, inputs);
            return self.emit(step, inputs);
        };
        step.shape = inverse(&order).iter().map(|&d| step.shape[d]).collect();
        // The reshape of every input, if it is the same, happens to the output instead.
        let sources: Option<Vec<ValueId>> = values.iter().map(|&v| self.reshaped(v)).collect();
        if let Some(sources) = sources
            && values.iter().all(|&v| self.shape(v) == step.shape)
            && sources
                .iter()
                .all(|&s| self.shape(s) == self.shape(sources[0]) && !self.fixed[s.index()])
        {
            let (module, kind, outside) = (step.module, step.kind, step.shape);
            step.shape = self.shape(sources[0]).to_vec();
            let inside = self.emit(
                Step {
                    kind,
                    module,
                    op: step.op,
                    shape: step.shape,
                },
                sources,
            );
            let reshape = Step {
                module,
                op: Op::Reshape,
                shape: outside,
                kind,
            };
            values = vec![inside.value];
            let value = self.emit(reshape, values).value;
            return View { value, order };
        }
        let value = self.emit(step, values).value;
        View { value, order }
    }

    /// Operations that name dimensions, which are called otherwise in another order.
    fn along_dims(&mut self, mut step: Step<'_>, inputs: &[View]) -> View {
        let aligned = self.aligned(&step, inputs);
        let (Some((order, values)), true) = (aligned, step.shape.len() == inputs[0].order.len())
        else {
            let inputs = self.all(step.module, inputs);
            return self.emit(step, inputs);
        };
        step.shape = inverse(&order).iter().map(|&d| step.shape[d]).collect();
        if let Some(op) = along(&step.op, &order) {
            step.op = op;
        }
        let value = self.emit(step, values).value;
        View { value, order }
    }

    fn reshape(&mut self, step: Step<'_>, input: &View) -> View {
        // Moving dimensions of length 1 does not move numbers.
        let from = self.shape(input.value);
        let longer = input.order.iter().filter(|&&d| from[d] != 1);
        let mut value = if longer.is_sorted() {
            input.value
        } else {
            self.written(step.module, input)
        };
        if let Some(source) = self.reshaped(value) {
            value = source;
        }
        if self.shape(value) == step.shape {
            let order = (0..step.shape.len()).collect();
            return View { value, order };
        }
        self.emit(step, vec![value])
    }

    /// Whether an operation gives its first input as it is.
    fn changes_nothing(&self, op: &Op, input: &View, step: &Step<'_>) -> bool {
        let value = self.graph.value(input.value);
        let from: Vec<usize> = input.order.iter().map(|&d| value.shape[d]).collect();
        let only_resizes = match op {
            Op::Expand | Op::Cast => true,
            Op::Slice(spans) => spans.iter().all(|span| span.step == 1),
            _ => false,
        };
        only_resizes && from == step.shape && value.kind == step.kind
    }

    /// What a value is a reshape of.
    fn reshaped(&self, value: ValueId) -> Option<ValueId> {
        let producer = self.graph.producer(value)?;
        (producer.op == Op::Reshape).then(|| producer.inputs[0])
    }
}

/// An operation on dimensions that are in another order: dimension `d` is called `order[d]`.
/// `None` where the operation's dimensions have fixed meanings. With no order, the operation as
/// it is.
fn along(op: &Op, order: &[usize]) -> Option<Op> {
    let at = |dim: usize| order.get(dim).copied().unwrap_or(dim);
    fn moved<T: Clone>(entries: &[T], order: &[usize]) -> Vec<T> {
        if order.is_empty() {
            return entries.to_vec();
        }
        let places = inverse(order);
        places.iter().map(|&d| entries[d].clone()).collect()
    }
    Some(match op {
        Op::Softmax { dim } => Op::Softmax { dim: at(*dim) },
        Op::LogSoftmax { dim } => Op::LogSoftmax { dim: at(*dim) },
        Op::Concat { dim } => Op::Concat { dim: at(*dim) },
        Op::Repeat { dim, times } => Op::Repeat {
            dim: at(*dim),
            times: *times,
        },
        Op::Reduce { by, dims } => Op::Reduce {
            by: *by,
            dims: dims.iter().map(|&dim| at(dim)).collect(),
        },
        Op::Flip(dims) => Op::Flip(dims.iter().map(|&dim| at(dim)).collect()),
        Op::Slice(spans) => Op::Slice(moved(spans, order)),
        Op::Pad { padding, mode } => Op::Pad {
            padding: moved(padding, order),
            mode: *mode,
        },
        Op::Expand => Op::Expand,
        _ => return None,
    })
}

/// The order that undoes `order`.
fn inverse(order: &[usize]) -> Vec<usize> {
    let mut inverse = vec![0; order.len()];
    for (i, &d) in order.iter().enumerate() {
        inverse[d] = i;
    }
    inverse
}
