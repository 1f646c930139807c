//! From layers to steps: where every value lies, which kernel computes it, which memory is shared.

use std::collections::{HashMap, HashSet};

use lenslet_graph::{Field, Graph, Node, Op, ValueId};
use lenslet_kernels::{
    Activation, Algorithm, Conv2d, ConvTranspose2d, KernelError, Matrix, Order, PackedConv,
    PackedMatrix, Pass, PlanesConv,
};

use crate::fuse::{Gate, Kind, Layer, Tail};
use crate::passes::{Pass as Change, Tally};
use crate::step::{Call, Packing, Stage, Step};
use crate::view::{Place, Rows, View};
use crate::weight::Weight;
use crate::{EngineError, Options};

mod nodes;
mod strips;
mod views;

/// What a session needs to run.
#[derive(Debug)]
pub(crate) struct Plan {
    pub steps: Vec<Step>,
    pub constants: Vec<Vec<f32>>,
    /// Floats of every slot.
    pub slots: Vec<usize>,
    pub outputs: Vec<View>,
    /// Whether a step needs the graph.
    pub needs_graph: bool,
}

/// Plans the layers of a graph.
pub(crate) fn plan(
    graph: &mut Graph,
    layers: Vec<Layer>,
    options: &Options,
    tally: &mut Tally,
) -> Result<Plan, EngineError> {
    let (fixed, users, fields) = (graph.fixed(), graph.users(), graph.fields());
    let mut planner = Planner {
        graph,
        options,
        fixed,
        users: users.iter().map(Vec::len).collect(),
        views: HashMap::new(),
        homes: HashMap::new(),
        averaged: HashSet::new(),
        row_means: HashMap::new(),
        linear: HashMap::new(),
        buffers: Vec::new(),
        constants: Vec::new(),
        steps: Vec::new(),
        name: String::new(),
        field: Field::Unknown,
        tally,
    };
    for (i, id) in planner.graph.inputs().to_vec().into_iter().enumerate() {
        let view = View::dense(Place::Input(i), planner.shape(id));
        planner.views.insert(id, view);
    }
    if options.concat_in_place {
        planner.find_homes(&layers);
    }
    if options.row_means {
        planner.find_averaged(&layers);
    }
    let blocks = planner.find_blocks(&layers);
    planner.pack_linear(&layers)?;
    for (i, layer) in layers.iter().enumerate() {
        planner.name.clone_from(&layer.name);
        planner.field.clone_from(&fields[layer.output.index()]);
        let view = match blocks.get(&i) {
            Some(Some(block)) => planner.block(block, &layers)?,
            Some(None) => continue,
            None => planner.layer(layer)?,
        };
        planner.views.insert(layer.output, view);
    }
    planner.finish()
}

struct Planner<'a> {
    graph: &'a mut Graph,
    options: &'a Options,
    fixed: Vec<bool>,
    /// How often every value is read.
    users: Vec<usize>,
    views: HashMap<ValueId, View>,
    /// Values that are written where the concatenation that reads them wants them.
    homes: HashMap<ValueId, View>,
    /// Maps whose average is taken over all pixels.
    averaged: HashSet<ValueId>,
    /// The means of the rows of pixels of those whose producer writes them.
    row_means: HashMap<ValueId, Rows>,
    /// Packed weights of linear layers, by the layers' outputs.
    linear: HashMap<ValueId, PackedMatrix>,
    /// Floats of every buffer.
    buffers: Vec<usize>,
    constants: Vec<Vec<f32>>,
    steps: Vec<Step>,
    /// The layer being planned, and what its output depends on.
    name: String,
    field: Field,
    tally: &'a mut Tally,
}

impl Planner<'_> {
    /// Gives back the memory of a weight that is packed, unless another node reads it too.
    fn forget(&mut self, id: ValueId) {
        if self.users[id.index()] == 1 {
            self.graph.forget(id);
        }
    }

    fn shape(&self, id: ValueId) -> &[usize] {
        &self.graph.value(id).shape
    }

    fn buffer(&mut self, len: usize) -> Place {
        self.buffers.push(len);
        Place::Buffer(self.buffers.len() - 1)
    }

    fn kernel(&self, source: KernelError) -> EngineError {
        EngineError::Kernel {
            node: self.name.clone(),
            source,
        }
    }

    fn push(&mut self, call: Call, to: Rows) {
        self.steps.push(Step {
            name: self.name.clone(),
            call,
            to,
            field: self.field.clone(),
        });
    }

    /// Packs the weights of linear layers, the largest first, since the one being packed is in memory twice and what is packed grows.
    fn pack_linear(&mut self, layers: &[Layer]) -> Result<(), EngineError> {
        let mut linear: Vec<_> = layers
            .iter()
            .filter_map(|layer| match &layer.kind {
                Kind::Linear {
                    weight,
                    order,
                    k,
                    n,
                    ..
                } => Some((layer, weight, *order, [*k, *n])),
                _ => None,
            })
            .collect();
        linear.sort_by_key(|(.., [k, n])| std::cmp::Reverse(k * n));
        for (layer, weight, order, shape) in linear {
            self.name.clone_from(&layer.name);
            let packed = self.packed_linear(weight, order, shape)?;
            self.linear.insert(layer.output, packed);
        }
        Ok(())
    }

    fn packed_linear(
        &mut self,
        weight: &Weight,
        order: Order,
        [k, n]: [usize; 2],
    ) -> Result<PackedMatrix, EngineError> {
        let ld = match order {
            Order::Transposed => k,
            Order::RowMajor => n,
        };
        self.packed(weight, |_, numbers| {
            PackedMatrix::new(Matrix::new(numbers, ld), order, k, n)
        })
    }

    /// Finds the values that can be written into the output of the concatenation that joins them.
    fn find_homes(&mut self, layers: &[Layer]) {
        let mut writes_rows: HashMap<ValueId, bool> = HashMap::new();
        for layer in layers {
            let rows = match &layer.kind {
                Kind::Conv { .. } | Kind::Affine { .. } => true,
                Kind::Node(i) => self.graph.nodes()[*i].op == Op::Concat { dim: 1 },
                _ => false,
            };
            writes_rows.insert(layer.output, rows);
        }
        for layer in layers.iter().rev() {
            let Kind::Node(i) = layer.kind else { continue };
            let node = self.graph.nodes()[i].clone();
            let shape = self.shape(node.output).to_vec();
            if node.op != (Op::Concat { dim: 1 }) || shape.len() != 4 {
                continue;
            }
            let whole = match self.homes.get(&node.output) {
                Some(home) => home.clone(),
                None => {
                    let place = self.buffer(shape.iter().product());
                    View::pixels(place, 0, &shape, shape[1])
                }
            };
            self.homes.insert(node.output, whole.clone());
            let mut offset = whole.offset;
            for id in &node.inputs {
                let part = View {
                    offset,
                    shape: self.shape(*id).to_vec(),
                    ..whole.clone()
                };
                offset += part.shape[1];
                if writes_rows.get(id) == Some(&true) && !self.homes.contains_key(id) {
                    self.tally.add(Change::ConcatInPlace);
                    self.homes.insert(*id, part);
                }
            }
        }
    }

    /// Finds the maps whose average is taken over all pixels.
    fn find_averaged(&mut self, layers: &[Layer]) {
        let nodes = self.graph.nodes();
        let averaged = layers.iter().filter_map(|layer| match layer.kind {
            Kind::Node(i) if nodes[i].op == Op::AdaptiveAvgPool2d => {
                let pixels = &self.shape(nodes[i].output)[2..];
                (pixels == [1, 1]).then_some(nodes[i].inputs[0])
            }
            _ => None,
        });
        self.averaged = averaged.collect();
    }

    fn layer(&mut self, layer: &Layer) -> Result<View, EngineError> {
        match &layer.kind {
            Kind::Conv {
                node,
                weight,
                gate,
                tail,
            } => self.conv(*node, weight, *gate, tail, layer.output),
            Kind::Linear { x, tail, .. } => {
                let Some(packed) = self.linear.remove(&layer.output) else {
                    unreachable!("`pack_linear` packs every one")
                };
                let x = self.rows(*x)?;
                let residual = match tail.residual {
                    Some(id) => Some(self.rows(id)?),
                    None => None,
                };
                let (view, to) = self.fresh(layer.output);
                let call = Call::Linear {
                    packed,
                    x,
                    bias: tail.bias.clone(),
                    residual,
                    activation: tail.activation,
                };
                self.push(call, to);
                Ok(view)
            }
            Kind::Affine {
                x,
                scale,
                shift,
                activation,
            } => {
                let x = self.pixels(*x)?;
                let (view, to) = self.map(layer.output, &[x.place]);
                let call = Call::Affine {
                    x,
                    scale: scale.clone(),
                    shift: shift.clone(),
                    activation: *activation,
                };
                self.push(call, to);
                Ok(view)
            }
            Kind::Activate { x, activation } => self.activate(*x, *activation),
            Kind::Attention(attention) => self.attention(attention, layer.output),
            Kind::ResponseNorm { x, norm } => {
                let x = self.dense_rows(*x)?;
                let (view, to) = self.fresh(layer.output);
                self.push(Call::ResponseNorm { x, norm: *norm }, to);
                Ok(view)
            }
            Kind::Add { a, b, activation } => {
                let mut like = self.view(*a)?;
                if !like.is_dense() {
                    let order = View::dense(like.place, &like.shape);
                    like = self.copied(like, order);
                }
                let b = self.dense_like(*b, &like)?;
                let a = whole(&like);
                let view = View {
                    place: self.buffer(like.len()),
                    offset: 0,
                    ..like
                };
                let activation = *activation;
                self.push(Call::Add { a, b, activation }, whole(&view));
                Ok(view)
            }
            Kind::Node(i) => {
                let node = self.graph.nodes()[*i].clone();
                self.node(*i, &node)
            }
        }
    }

    fn activate(&mut self, x: ValueId, activation: Activation) -> Result<View, EngineError> {
        let mut like = self.view(x)?;
        if !like.is_dense() {
            let order = View::dense(like.place, &like.shape);
            like = self.copied(like, order);
        }
        let x = whole(&like);
        let view = View {
            place: self.buffer(like.len()),
            offset: 0,
            ..like
        };
        self.push(Call::Activate { x, activation }, whole(&view));
        Ok(view)
    }

    /// A convolution's node with its weights packed.
    fn stage(&mut self, node: usize, weight: &Weight, tail: &Tail) -> Result<Stage, EngineError> {
        let (options, planes) = (self.options, self.over_planes(node));
        let packed = self.packed(weight, |graph, numbers| {
            let node = &graph.nodes()[node];
            let (shape, pass) = match conv_shape(graph, node) {
                Some(shape) if planes => {
                    let conv = PlanesConv::new(&shape, numbers)?;
                    return Ok(Packing::Planes(Box::new(conv)));
                }
                Some(shape) => (shape, Pass::Forward),
                None => (
                    transposed_shape(graph, node).convolution()?,
                    Pass::InputGradient,
                ),
            };
            let algorithm = options.algorithm(&shape, pass);
            let conv = PackedConv::with_algorithm(&shape, pass, algorithm, numbers)?;
            Ok(Packing::Pixels(Box::new(conv)))
        })?;
        Ok(Stage {
            packed,
            bias: tail.bias.clone(),
            activation: tail.activation,
        })
    }

    /// A weight, packed; its own memory is given back.
    fn packed<T>(
        &mut self,
        weight: &Weight,
        pack: impl FnOnce(&Graph, &[f32]) -> Result<T, KernelError>,
    ) -> Result<T, EngineError> {
        let numbers = weight.numbers(self.graph)?;
        let packed = pack(self.graph, &numbers).map_err(|e| self.kernel(e))?;
        drop(numbers);
        self.forget(weight.id);
        Ok(packed)
    }

    /// Whether a convolution is computed over the planes of an image, as it comes in.
    fn over_planes(&self, node: usize) -> bool {
        let node = &self.graph.nodes()[node];
        let planes = (self.views.get(&node.inputs[0])).is_some_and(|view| {
            // One channel's pixels are planes and interleaved at once, and have kernels that know it.
            matches!(view.place, Place::Input(_)) && view.is_row_major() && view.shape[1] > 1
        });
        planes && conv_shape(self.graph, node).is_some_and(|shape| PlanesConv::serves(&shape))
    }

    fn conv(
        &mut self,
        node: usize,
        weight: &Weight,
        gate: Option<Gate>,
        tail: &Tail,
        output: ValueId,
    ) -> Result<View, EngineError> {
        let input = self.graph.nodes()[node].inputs[0];
        let n = self.shape(input)[0];
        let stage = self.stage(node, weight, tail)?;
        let x = match stage.packed {
            Packing::Planes(_) => whole(&self.view(input)?),
            Packing::Pixels(_) => self.pixels(gate.map_or(input, |gate| gate.x))?,
        };
        let gate = gate.map(|gate| self.dense_pixels(gate.by)).transpose()?;
        let residual = tail.residual.map(|id| self.pixels(id)).transpose()?;
        let reads: Vec<Place> = (residual.iter().chain(&gate).map(|r| r.place))
            .chain([x.place])
            .collect();
        let depthwise = matches!(&stage.packed, Packing::Pixels(conv) if conv.is_depthwise());
        let (view, to, means) = self.map_with_means(output, &reads, depthwise);
        let call = Call::Conv {
            stage,
            n,
            x,
            gate,
            residual,
            means,
        };
        self.push(call, to);
        Ok(view)
    }

    /// Gives buffers that are never needed at the same time the same slot.
    fn finish(mut self) -> Result<Plan, EngineError> {
        let outputs = (self.graph.outputs().to_vec().into_iter())
            .map(|id| self.view(id))
            .collect::<Result<Vec<_>, _>>()?;
        let end = self.steps.len();
        let mut lives: Vec<Option<[usize; 2]>> = vec![None; self.buffers.len()];
        let mut touch = |place: Place, step: usize| {
            if let Place::Buffer(i) = place {
                let life = lives[i].get_or_insert([step, step]);
                life[1] = life[1].max(step);
            }
        };
        for (i, step) in self.steps.iter().enumerate() {
            touch(step.to.place, i);
            step.call.reads().for_each(|place| touch(place, i));
        }
        outputs.iter().for_each(|view| touch(view.place, end));
        let (slots, slot_of) = assign(&self.buffers, &lives);
        let place = |place: Place| match place {
            Place::Buffer(i) => Place::Buffer(slot_of[i]),
            other => other,
        };
        for step in &mut self.steps {
            step.to.place = place(step.to.place);
            step.call.relocate(&place);
        }
        let outputs = outputs.into_iter().map(|view| View {
            place: place(view.place),
            ..view
        });
        let needs_graph = (self.steps.iter()).any(|s| matches!(s.call, Call::Reference { .. }));
        Ok(Plan {
            outputs: outputs.collect(),
            steps: self.steps,
            constants: self.constants,
            slots,
            needs_graph,
        })
    }
}

/// The shape of a convolution's node; none of a transposed one's.
fn conv_shape(graph: &Graph, node: &Node) -> Option<Conv2d> {
    let Op::Conv2d {
        stride,
        padding: [(top, bottom), (left, right)],
        dilation,
        groups,
    } = node.op
    else {
        return None;
    };
    let [n, c_in, h, w] = graph.value(node.inputs[0]).shape[..] else {
        return None;
    };
    Some(Conv2d {
        n,
        h,
        w,
        c_in,
        c_out: graph.value(node.output).shape[1],
        kernel: [2, 3].map(|d| graph.value(node.inputs[1]).shape[d]),
        stride,
        padding: [top, left, bottom, right],
        dilation,
        groups,
    })
}

/// The shape of a transposed convolution's node.
fn transposed_shape(graph: &Graph, node: &Node) -> ConvTranspose2d {
    let Op::ConvTranspose2d {
        stride,
        padding: [rows, cols],
        output_padding,
        dilation,
        groups,
    } = node.op
    else {
        unreachable!("called for convolutions")
    };
    let [n, c, h, w] = graph.value(node.inputs[0]).shape[..] else {
        unreachable!("a convolution reads a feature map")
    };
    ConvTranspose2d {
        input: [n, h, w, c],
        c_out: graph.value(node.output).shape[1],
        kernel: [2, 3].map(|d| graph.value(node.inputs[1]).shape[d]),
        stride,
        padding: [rows, cols, rows, cols],
        output_padding,
        dilation,
        groups,
    }
}

/// All floats of a dense view, whatever their order.
fn whole(view: &View) -> Rows {
    Rows {
        place: view.place,
        offset: view.offset,
        rows: 1,
        cols: view.len(),
        ld: view.len(),
    }
}

/// Slots and, for each buffer, which it lies in: in the order in which buffers come to life, each
/// takes the free slot that fits best.
fn assign(buffers: &[usize], lives: &[Option<[usize; 2]>]) -> (Vec<usize>, Vec<usize>) {
    let mut order: Vec<usize> = (0..buffers.len()).filter(|i| lives[*i].is_some()).collect();
    order.sort_by_key(|i| lives[*i]);
    let mut slots: Vec<usize> = Vec::new();
    let mut busy_until: Vec<usize> = Vec::new();
    let mut slot_of = vec![0; buffers.len()];
    for i in order {
        let [first, last] = lives[i].unwrap_or_default();
        let waste = |slot: usize| slots[slot].abs_diff(buffers[i]);
        let free = (0..slots.len())
            .filter(|slot| busy_until[*slot] < first)
            .min_by_key(|slot| waste(*slot));
        let slot = free.unwrap_or_else(|| {
            slots.push(0);
            busy_until.push(0);
            slots.len() - 1
        });
        slots[slot] = slots[slot].max(buffers[i]);
        busy_until[slot] = last;
        slot_of[i] = slot;
    }
    (slots, slot_of)
}

impl Options {
    fn algorithm(&self, shape: &Conv2d, pass: Pass) -> Algorithm {
        match Algorithm::choose(shape, pass) {
            Algorithm::WinogradF2 | Algorithm::WinogradF4 if self.exact => Algorithm::Indirect,
            chosen => chosen,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_that_live_together_lie_apart() {
        let buffers = [10, 20, 10, 5, 20];
        let lives = [Some([0, 1]), Some([1, 2]), Some([2, 3]), None, Some([3, 4])];
        let (slots, slot_of) = assign(&buffers, &lives);
        for (i, a) in lives.iter().enumerate() {
            for (j, b) in lives.iter().enumerate() {
                let (Some(a), Some(b)) = (a, b) else { continue };
                if i != j && a[0] <= b[1] && b[0] <= a[1] {
                    assert_ne!(slot_of[i], slot_of[j], "{i} {j}");
                }
            }
            assert!(a.is_none() || slots[slot_of[i]] >= buffers[i]);
        }
        assert_eq!(slots.iter().sum::<usize>(), 30);
    }
}
