//! From layers to steps: where every value lies, which kernel computes it, which memory is shared.

use std::collections::HashMap;

use lenslet_graph::{Binary, Graph, InterpolateMode, Node, Op, Reduction, ValueId, reference};
use lenslet_kernels::{
    Activation, AdaptiveAveragePool2d, Algorithm, Attention, AveragePool2d, Conv2d,
    ConvTranspose2d, Interpolation, Matrix, MaxPool2d, PackedConv, PackedMatrix, Pass, Pool2d,
    Resize2d, Scaling,
};

use crate::fuse::{Gate, Kind, Layer, Tail, Weight};
use crate::passes::{Pass as Change, Tally};
use crate::step::{Call, Step};
use crate::view::{Place, Rows, View};
use crate::{EngineError, Options};

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
    let (fixed, users) = (graph.fixed(), graph.users());
    let mut planner = Planner {
        graph,
        options,
        fixed,
        users: users.iter().map(Vec::len).collect(),
        views: HashMap::new(),
        homes: HashMap::new(),
        buffers: Vec::new(),
        constants: Vec::new(),
        steps: Vec::new(),
        name: String::new(),
        tally,
    };
    for (i, id) in planner.graph.inputs().to_vec().into_iter().enumerate() {
        let view = View::dense(Place::Input(i), planner.shape(id));
        planner.views.insert(id, view);
    }
    if options.concat_in_place {
        planner.find_homes(&layers);
    }
    for layer in layers {
        planner.name.clone_from(&layer.name);
        let view = planner.layer(&layer)?;
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
    /// Floats of every buffer.
    buffers: Vec<usize>,
    constants: Vec<Vec<f32>>,
    steps: Vec<Step>,
    /// The layer being planned.
    name: String,
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

    fn kernel(&self, source: lenslet_kernels::KernelError) -> EngineError {
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
        });
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

    /// A value's view; constants are computed when they are first read.
    fn view(&mut self, id: ValueId) -> Result<View, EngineError> {
        if let Some(view) = self.views.get(&id) {
            return Ok(view.clone());
        }
        debug_assert!(self.fixed[id.index()], "read before it is computed");
        self.constants.push(reference::constant(self.graph, id)?);
        let place = Place::Constant(self.constants.len() - 1);
        let view = View::dense(place, self.shape(id));
        self.views.insert(id, view.clone());
        Ok(view)
    }

    fn constant(&self, id: ValueId) -> Result<Vec<f32>, EngineError> {
        Ok(reference::constant(self.graph, id)?)
    }

    /// A copy of a view with the memory order of `like`, whose place does not matter.
    fn copied(&mut self, from: View, mut like: View) -> View {
        like.place = self.buffer(like.len());
        like.offset = 0;
        let to = Rows {
            place: like.place,
            offset: 0,
            rows: 1,
            cols: like.len(),
            ld: like.len(),
        };
        let call = Call::Copy {
            from,
            to: like.clone(),
        };
        self.push(call, to);
        like
    }

    /// A feature map as rows of channels.
    fn pixels(&mut self, id: ValueId) -> Result<Rows, EngineError> {
        let view = self.view(id)?;
        if let Some(rows) = view.as_pixels() {
            return Ok(rows);
        }
        let shape = view.shape.clone();
        let [n, c, h, w] = shape[..] else {
            unreachable!("feature maps have four dimensions")
        };
        let place = self.buffer(view.len());
        let map = View::pixels(place, 0, &shape, c);
        let to = Rows {
            place,
            offset: 0,
            rows: n * h * w,
            cols: c,
            ld: c,
        };
        let call = match view.is_row_major() {
            true => Call::ChannelsLast {
                x: whole(&view),
                shape: [n, c, h * w],
            },
            false => Call::Copy {
                from: view,
                to: map.clone(),
            },
        };
        self.push(call, to);
        // Whoever reads the value next finds it in this order.
        self.views.insert(id, map);
        Ok(to)
    }

    /// The same without gaps between the pixels.
    fn dense_pixels(&mut self, id: ValueId) -> Result<Rows, EngineError> {
        let rows = self.pixels(id)?;
        if rows.ld == rows.cols {
            return Ok(rows);
        }
        let view = self.view(id)?;
        let like = View::pixels(view.place, 0, &view.shape, rows.cols);
        let copy = self.copied(view, like);
        Ok(Rows {
            place: copy.place,
            offset: 0,
            ld: rows.cols,
            ..rows
        })
    }

    /// All but the last dimension as rows.
    fn rows(&mut self, id: ValueId) -> Result<Rows, EngineError> {
        let view = self.view(id)?;
        Ok(match view.as_rows() {
            Some(rows) => rows,
            None => self.row_major(id)?,
        })
    }

    /// A value in row-major order without gaps.
    fn row_major(&mut self, id: ValueId) -> Result<Rows, EngineError> {
        let mut view = self.view(id)?;
        if !view.is_row_major() {
            let like = View::dense(view.place, &view.shape);
            view = self.copied(view, like);
        }
        let cols = view.shape.last().copied().unwrap_or(1);
        Ok(Rows {
            rows: view.len() / cols.max(1),
            cols,
            ld: cols,
            ..whole(&view)
        })
    }

    /// Where a layer that writes rows of channels puts a feature map.
    fn map(&mut self, id: ValueId, reads: &[Place]) -> (View, Rows) {
        let shape = self.shape(id).to_vec();
        let view = match self.homes.get(&id) {
            Some(home) if !reads.contains(&home.place) => home.clone(),
            _ => {
                let place = self.buffer(shape.iter().product());
                View::pixels(place, 0, &shape, shape[1])
            }
        };
        let ld = view.strides[3];
        let rows = Rows {
            place: view.place,
            offset: view.offset,
            rows: shape[0] * shape[2] * shape[3],
            cols: shape[1],
            ld,
        };
        (view, rows)
    }

    /// Where a layer that writes rows puts a value.
    fn fresh(&mut self, id: ValueId) -> (View, Rows) {
        let shape = self.shape(id).to_vec();
        let place = self.buffer(shape.iter().product());
        let view = View::dense(place, &shape);
        let cols = shape.last().copied().unwrap_or(1);
        let rows = Rows {
            rows: view.len() / cols.max(1),
            cols,
            ld: cols,
            ..whole(&view)
        };
        (view, rows)
    }

    /// A value whose elements lie in the order of `like`, without gaps.
    fn dense_like(&mut self, id: ValueId, like: &View) -> Result<Rows, EngineError> {
        let view = self.view(id)?;
        if view.lies_like(like) && view.is_dense() {
            return Ok(whole(&view));
        }
        let copy = self.copied(view, like.clone());
        Ok(whole(&copy))
    }

    fn layer(&mut self, layer: &Layer) -> Result<View, EngineError> {
        match &layer.kind {
            Kind::Conv {
                node,
                weight,
                gate,
                tail,
            } => self.conv(*node, weight, *gate, tail, layer.output),
            Kind::Linear {
                x,
                weight,
                order,
                k,
                n,
                tail,
            } => {
                let x = self.rows(*x)?;
                let ld = match order {
                    lenslet_kernels::Order::Transposed => *k,
                    lenslet_kernels::Order::RowMajor => *n,
                };
                let numbers = weight.numbers(self.graph)?;
                let packed = PackedMatrix::new(Matrix::new(&numbers, ld), *order, *k, *n)
                    .map_err(|e| self.kernel(e))?;
                drop(numbers);
                self.forget(weight.id);
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

    fn conv(
        &mut self,
        node: usize,
        weight: &Weight,
        gate: Option<Gate>,
        tail: &Tail,
        output: ValueId,
    ) -> Result<View, EngineError> {
        let node = self.graph.nodes()[node].clone();
        let numbers = weight.numbers(self.graph)?;
        let [n, c, h, w] = self.shape(node.inputs[0])[..] else {
            unreachable!("a convolution reads a feature map")
        };
        let out = self.shape(node.output)[1];
        let kernel = [2, 3].map(|d| self.shape(node.inputs[1])[d]);
        let packed = match node.op {
            Op::Conv2d {
                stride,
                padding: [(top, bottom), (left, right)],
                dilation,
                groups,
            } => {
                let shape = Conv2d {
                    n,
                    h,
                    w,
                    c_in: c,
                    c_out: out,
                    kernel,
                    stride,
                    padding: [top, left, bottom, right],
                    dilation,
                    groups,
                };
                let algorithm = self.options.algorithm(&shape, Pass::Forward);
                PackedConv::with_algorithm(&shape, Pass::Forward, algorithm, &numbers)
            }
            Op::ConvTranspose2d {
                stride,
                padding: [rows, cols],
                output_padding,
                dilation,
                groups,
            } => {
                let transposed = ConvTranspose2d {
                    input: [n, h, w, c],
                    c_out: out,
                    kernel,
                    stride,
                    padding: [rows, cols, rows, cols],
                    output_padding,
                    dilation,
                    groups,
                };
                transposed.convolution().and_then(|shape| {
                    let algorithm = self.options.algorithm(&shape, Pass::InputGradient);
                    PackedConv::with_algorithm(&shape, Pass::InputGradient, algorithm, &numbers)
                })
            }
            _ => unreachable!("called for convolutions"),
        };
        drop(numbers);
        let packed = packed.map_err(|e| self.kernel(e))?;
        self.forget(weight.id);
        let x = self.pixels(gate.map_or(node.inputs[0], |gate| gate.x))?;
        let gate = match gate {
            Some(gate) => Some(self.dense_pixels(gate.by)?),
            None => None,
        };
        let residual = match tail.residual {
            Some(id) => Some(self.pixels(id)?),
            None => None,
        };
        let reads: Vec<Place> = (residual.iter().chain(&gate).map(|r| r.place))
            .chain([x.place])
            .collect();
        let (view, to) = self.map(output, &reads);
        let call = Call::Conv {
            packed: Box::new(packed),
            n,
            x,
            gate,
            bias: tail.bias.clone(),
            residual,
            activation: tail.activation,
        };
        self.push(call, to);
        Ok(view)
    }

    /// A node by itself.
    fn node(&mut self, i: usize, node: &Node) -> Result<View, EngineError> {
        let x = node.inputs[0];
        let shape = self.shape(node.output).to_vec();
        match &node.op {
            Op::Permute(axes) => {
                self.tally.add(Change::PermuteAsView);
                Ok(self.view(x)?.permuted(axes))
            }
            Op::Reshape => {
                if let Some(view) = self.view(x)?.reshaped(&shape) {
                    return Ok(view);
                }
                let rows = self.row_major(x)?;
                let mut view = View::dense(rows.place, &shape);
                view.offset = rows.offset;
                Ok(view)
            }
            Op::Slice(spans) if spans.iter().all(|span| span.step == 1) => {
                let mut view = self.view(x)?;
                for (d, span) in spans.iter().enumerate() {
                    view.offset += span.start * view.strides[d];
                }
                view.shape = shape;
                Ok(view)
            }
            Op::Concat { dim } => self.concat(node, *dim),
            Op::MaxPool2d {
                kernel,
                stride,
                padding: [rows, cols],
                dilation,
                ceil_mode,
            } => {
                let pool = MaxPool2d {
                    windows: self.windows(x, *kernel, *stride, [*rows, *cols], *ceil_mode),
                    dilation: *dilation,
                };
                let x = self.dense_pixels(x)?;
                Ok(self.pooled(node.output, Call::MaxPool { x, pool }))
            }
            Op::AvgPool2d {
                kernel,
                stride,
                padding,
                count_include_pad,
                ceil_mode,
            } => {
                let pool = AveragePool2d {
                    windows: self.windows(x, *kernel, *stride, *padding, *ceil_mode),
                    count_include_pad: *count_include_pad,
                };
                let x = self.dense_pixels(x)?;
                Ok(self.pooled(node.output, Call::AvgPool { x, pool }))
            }
            Op::AdaptiveAvgPool2d => self.adaptive(x, node.output),
            Op::Reduce { by, dims }
                if *by == Reduction::Mean && *dims == [2, 3] && shape.len() == 4 =>
            {
                self.adaptive(x, node.output)
            }
            Op::LayerNorm { eps } if node.inputs[1..].iter().all(|id| self.fixed[id.index()]) => {
                let weight = self.constant(node.inputs[1])?;
                let bias = match node.inputs.get(2) {
                    Some(&bias) => Some(self.constant(bias)?),
                    None => None,
                };
                let x = self.dense_rows(x)?;
                let (view, to) = self.fresh(node.output);
                let call = Call::LayerNorm {
                    x,
                    weight,
                    bias,
                    eps: *eps as f32,
                };
                self.push(call, to);
                Ok(view)
            }
            Op::Softmax { dim } | Op::LogSoftmax { dim } if *dim + 1 == shape.len() => {
                let log = matches!(node.op, Op::LogSoftmax { .. });
                let x = self.dense_rows(x)?;
                let (view, to) = self.fresh(node.output);
                self.push(Call::Softmax { x, log }, to);
                Ok(view)
            }
            Op::Attention {
                scale,
                softcap: None,
                causal: false,
                mask: false,
                bias: false,
            } if self.shape(node.inputs[2]) == self.shape(node.inputs[1]) => {
                self.attention(node, *scale)
            }
            Op::Interpolate {
                mode,
                align_corners: false,
            } if *mode != InterpolateMode::Bicubic => {
                let [n, c, h, w] = self.shape(x)[..] else {
                    return self.plainly(i, node);
                };
                let resize = Resize2d {
                    input: [n, h, w, c],
                    output: [shape[2], shape[3]],
                    interpolation: match mode {
                        InterpolateMode::Nearest => Interpolation::Nearest,
                        _ => Interpolation::Bilinear,
                    },
                };
                let x = self.dense_pixels(x)?;
                Ok(self.pooled(node.output, Call::Resize { x, resize }))
            }
            Op::Binary(by) => match self.broadcast(*by, node)? {
                Some(view) => Ok(view),
                None => self.plainly(i, node),
            },
            _ => self.plainly(i, node),
        }
    }

    /// Rows without gaps.
    fn dense_rows(&mut self, id: ValueId) -> Result<Rows, EngineError> {
        let rows = self.rows(id)?;
        if rows.ld == rows.cols {
            return Ok(rows);
        }
        self.row_major(id)
    }

    fn windows(
        &self,
        x: ValueId,
        kernel: [usize; 2],
        stride: [usize; 2],
        [rows, cols]: [usize; 2],
        ceil_mode: bool,
    ) -> Pool2d {
        let shape = self.shape(x);
        Pool2d {
            input: [shape[0], shape[2], shape[3], shape[1]],
            kernel,
            stride,
            padding: [rows, cols, rows, cols],
            ceil_mode,
        }
    }

    /// A call that writes a feature map without gaps.
    fn pooled(&mut self, output: ValueId, call: Call) -> View {
        let shape = self.shape(output).to_vec();
        let view = View::pixels(self.buffer(shape.iter().product()), 0, &shape, shape[1]);
        self.push(call, whole(&view));
        view
    }

    fn adaptive(&mut self, x: ValueId, output: ValueId) -> Result<View, EngineError> {
        let (from, to) = (self.shape(x).to_vec(), self.shape(output).to_vec());
        let pool = AdaptiveAveragePool2d {
            input: [from[0], from[2], from[3], from[1]],
            output: [to[2], to[3]],
        };
        let x = self.dense_pixels(x)?;
        Ok(self.pooled(output, Call::AdaptivePool { x, pool }))
    }

    fn concat(&mut self, node: &Node, dim: usize) -> Result<View, EngineError> {
        let shape = self.shape(node.output).to_vec();
        let whole = match self.homes.get(&node.output) {
            Some(home) => home.clone(),
            None if shape.len() == 4 && dim == 1 => {
                View::pixels(self.buffer(shape.iter().product()), 0, &shape, shape[1])
            }
            None => View::dense(self.buffer(shape.iter().product()), &shape),
        };
        let mut offset = whole.offset;
        for id in &node.inputs {
            let from = self.view(*id)?;
            let to = View {
                offset,
                shape: from.shape.clone(),
                ..whole.clone()
            };
            offset += from.shape[dim] * whole.strides[dim];
            if from.place == to.place && from.offset == to.offset {
                continue;
            }
            let from = if from.place == to.place {
                let like = View::dense(from.place, &from.shape);
                self.copied(from, like)
            } else {
                from
            };
            let rows = Rows {
                place: to.place,
                offset: 0,
                rows: 1,
                cols: 1,
                ld: 1,
            };
            self.push(Call::Copy { from, to }, rows);
        }
        Ok(whole)
    }

    fn attention(&mut self, node: &Node, scale: Option<f64>) -> Result<View, EngineError> {
        let [n, heads, queries, dim] = self.shape(node.inputs[0])[..] else {
            unreachable!("attention reads four dimensions")
        };
        let keys = self.shape(node.inputs[1])[2];
        let mut qkv = Vec::new();
        for &id in &node.inputs[..3] {
            // A head's channels follow one another, and the heads those of a token.
            let order = [0, 2, 1, 3];
            let view = self.view(id)?.permuted(&order);
            let length = view.shape[1];
            let joined = view.reshaped(&[n, length, heads * dim]);
            let rows = joined.as_ref().and_then(View::as_rows);
            qkv.push(match rows {
                Some(rows) => rows,
                None => {
                    let like = View::dense(view.place, &view.shape);
                    let copy = self.copied(view, like);
                    Rows {
                        rows: n * length,
                        cols: heads * dim,
                        ld: heads * dim,
                        ..whole(&copy)
                    }
                }
            });
        }
        let shape = Attention {
            batch: n,
            queries,
            keys,
            heads,
            dim,
            scale: scale.map_or(1.0 / (dim as f32).sqrt(), |s| s as f32),
        };
        let view = View::dense(
            self.buffer(n * queries * heads * dim),
            &[n, queries, heads, dim],
        );
        let to = Rows {
            rows: n * queries,
            cols: heads * dim,
            ld: heads * dim,
            ..whole(&view)
        };
        let call = Call::Attention {
            shape,
            qkv: [qkv[0], qkv[1], qkv[2]],
        };
        self.push(call, to);
        Ok(view.permuted(&[0, 2, 1, 3]))
    }

    /// Sums and products of tensors of different shapes that have a kernel.
    fn broadcast(&mut self, by: Binary, node: &Node) -> Result<Option<View>, EngineError> {
        let shape = self.shape(node.output).to_vec();
        let [a, b] = [node.inputs[0], node.inputs[1]];
        let (x, other) = match (self.shape(a) == shape, self.shape(b) == shape) {
            (true, _) => (a, b),
            (_, true) => (b, a),
            _ => return Ok(None),
        };
        let theirs = self.shape(other).to_vec();
        if by == Binary::Mul && shape.len() == 4 && theirs == [shape[0], shape[1], 1, 1] {
            let x = self.dense_pixels(x)?;
            let factor = self.dense_pixels(other)?;
            let scaling = Scaling {
                samples: shape[0],
                pixels: shape[2] * shape[3],
                channels: shape[1],
            };
            return Ok(Some(
                self.pooled(node.output, Call::Scale { x, factor, scaling }),
            ));
        }
        // The same summand for every image: position embeddings.
        let len: usize = theirs.iter().product();
        let front = shape.len() - theirs.len().min(shape.len());
        let ends_alike = theirs.len() <= shape.len()
            && (0..theirs.len())
                .all(|d| theirs[d] == shape[front + d] || (d == 0 && theirs[d] == 1));
        if by == Binary::Add && ends_alike && len > 0 {
            let x = self.row_major(x)?;
            let summand = self.row_major(other)?;
            let (view, to) = self.fresh(node.output);
            for image in 0..view.len() / len {
                let part = |rows: Rows| Rows {
                    offset: rows.offset + image * len,
                    rows: 1,
                    cols: len,
                    ld: len,
                    ..rows
                };
                let call = Call::Add {
                    a: part(x),
                    b: Rows {
                        rows: 1,
                        cols: len,
                        ld: len,
                        ..summand
                    },
                    activation: Activation::None,
                };
                self.push(call, part(to));
            }
            return Ok(Some(view));
        }
        Ok(None)
    }

    /// A node that has no kernel.
    fn plainly(&mut self, i: usize, node: &Node) -> Result<View, EngineError> {
        let inputs = node.inputs.iter().map(|id| self.row_major(*id));
        let inputs = inputs.collect::<Result<Vec<_>, _>>()?;
        let (view, to) = self.fresh(node.output);
        self.push(Call::Reference { node: i, inputs }, to);
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
