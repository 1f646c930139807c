//! Nodes that are steps by themselves.

use lenslet_graph::{Binary, InterpolateMode, Node, Op, Reduction, ValueId};
use lenslet_kernels::{
    Activation, AdaptiveAveragePool2d, Attention, AveragePool2d, ElementMap, Interpolation,
    MaxPool2d, Pool2d, Reduce, Resize2d, Scaling,
};

use super::{Planner, whole};
use crate::EngineError;
use crate::fuse;
use crate::passes::Pass;
use crate::pointwise::Function;
use crate::step::Call;
use crate::view::{Place, Rows, View, row_major};

impl Planner<'_> {
    /// A node by itself.
    pub(super) fn node(&mut self, i: usize, node: &Node) -> Result<View, EngineError> {
        let x = node.inputs[0];
        let shape = self.shape(node.output).to_vec();
        match &node.op {
            Op::Permute(axes) => {
                self.tally.add(Pass::PermuteAsView);
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
                ..
            } if self.shape(node.inputs[2]) == self.shape(node.inputs[1])
                && self.is_score_bias(node) =>
            {
                let dim = self.shape(node.inputs[0])[3];
                let attention = fuse::Attention {
                    qkv: [node.inputs[0], node.inputs[1], node.inputs[2]],
                    keys_turned: false,
                    bias: node.inputs.get(3).copied(),
                    scale: scale.unwrap_or(1.0 / (dim as f64).sqrt()),
                };
                self.attention(&attention, node.output)
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
            Op::Reduce { by, dims } => self.reduce(x, *by, dims, node.output),
            op => {
                if let Op::Binary(by) = op
                    && let Some(view) = self.broadcast(*by, node)?
                {
                    return Ok(view);
                }
                match Function::of(op) {
                    Some((by, number)) => self.map_elements(by, number, node),
                    None => self.plainly(i, node),
                }
            }
        }
    }

    pub(super) fn windows(
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
    pub(super) fn pooled(&mut self, output: ValueId, call: Call) -> View {
        let shape = self.shape(output).to_vec();
        let view = View::pixels(self.buffer(shape.iter().product()), 0, &shape, shape[1]);
        self.push(call, whole(&view));
        view
    }

    pub(super) fn adaptive(&mut self, x: ValueId, output: ValueId) -> Result<View, EngineError> {
        let (from, to) = (self.shape(x).to_vec(), self.shape(output).to_vec());
        let mut pool = AdaptiveAveragePool2d {
            input: [from[0], from[2], from[3], from[1]],
            output: [to[2], to[3]],
        };
        let x = match self.row_means.get(&x) {
            // As many numbers go into each of them.
            Some(means) if pool.output == [1, 1] => {
                pool.input[2] = 1;
                *means
            }
            _ => self.dense_pixels(x)?,
        };
        Ok(self.pooled(output, Call::AdaptivePool { x, pool }))
    }

    pub(super) fn concat(&mut self, node: &Node, dim: usize) -> Result<View, EngineError> {
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

    pub(super) fn attention(
        &mut self,
        attention: &fuse::Attention,
        output: ValueId,
    ) -> Result<View, EngineError> {
        let [n, heads, queries, dim] = self.shape(output)[..] else {
            unreachable!("attention gives four dimensions")
        };
        let keys = self.shape(attention.qkv[2])[2];
        let mut qkv = Vec::new();
        for (i, id) in attention.qkv.into_iter().enumerate() {
            // A head's channels follow one another, and the heads those of a token.
            let order = match i == 1 && attention.keys_turned {
                true => [0, 3, 1, 2],
                false => [0, 2, 1, 3],
            };
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
        let bias = match attention.bias {
            Some(id) => Some(self.score_bias(id)?),
            None => None,
        };
        let shape = Attention {
            batch: n,
            queries,
            keys,
            heads,
            dim,
            scale: attention.scale as f32,
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
            bias,
        };
        self.push(call, to);
        Ok(view.permuted(&[0, 2, 1, 3]))
    }

    /// Whether an attention's bias, if it has one, is of the scores' shape, or of some of their images.
    fn is_score_bias(&self, node: &Node) -> bool {
        let Some(&bias) = node.inputs.get(3) else {
            return true;
        };
        let [n, heads, queries] = [0, 1, 2].map(|d| self.shape(node.inputs[0])[d]);
        let keys = self.shape(node.inputs[1])[2];
        let bias = self.shape(bias);
        bias.len() == 4
            && bias[1..] == [heads, queries, keys]
            && bias[0] > 0
            && n.is_multiple_of(bias[0])
    }

    /// What is added to the scores, `[N, heads, queries, keys]`; a fixed one without images that only repeat others.
    fn score_bias(&mut self, id: ValueId) -> Result<Rows, EngineError> {
        if !self.fixed[id.index()] {
            return self.row_major(id);
        }
        let keys = self.shape(id)[3];
        let images = self.shape(id)[0];
        let mut data = self.constant(id)?;
        let image = data.len() / images.max(1);
        let repeats = |&n: &usize| {
            images.is_multiple_of(n) && data[n * image..] == data[..data.len() - n * image]
        };
        let different = (1..=images).find(repeats).unwrap_or(images);
        data.truncate(different * image);
        data.shrink_to_fit();
        let rows = data.len() / keys.max(1);
        self.constants.push(data);
        Ok(Rows {
            place: Place::Constant(self.constants.len() - 1),
            offset: 0,
            rows,
            cols: keys,
            ld: keys,
        })
    }

    /// Sums and products of tensors of different shapes that have a kernel.
    pub(super) fn broadcast(
        &mut self,
        by: Binary,
        node: &Node,
    ) -> Result<Option<View>, EngineError> {
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

    /// A function of every element, which lies like an operand of the output's shape.
    fn map_elements(
        &mut self,
        by: Function,
        number: Option<f32>,
        node: &Node,
    ) -> Result<View, EngineError> {
        let shape = self.shape(node.output).to_vec();
        let mut operands = Vec::new();
        for &id in &node.inputs {
            operands.push(self.view(id)?);
        }
        let like = operands
            .iter()
            .find(|view| view.shape == shape && view.is_dense());
        let like = like.map_or_else(|| row_major(&shape), |view| view.strides.clone());
        match number {
            Some(number) => {
                self.constants.push(vec![number]);
                let place = Place::Constant(self.constants.len() - 1);
                operands.push(View::dense(place, &[]));
            }
            // A function of one number reads the second operand's first element, whatever it is.
            None if operands.len() == 1 => operands.push(View {
                shape: Vec::new(),
                strides: Vec::new(),
                ..operands[0]
            }),
            None => {}
        }
        let [a, b] = [0, 1].map(|i| operands[i].repeated(shape.len()));
        let loops = ElementMap::new(&shape, [&a, &b, &like]).map_err(|e| self.kernel(e))?;
        let view = View {
            place: self.buffer(shape.iter().product()),
            offset: 0,
            shape,
            strides: like,
        };
        let call = Call::Map {
            by,
            loops,
            a: whole(&operands[0]),
            b: whole(&operands[1]),
        };
        self.push(call, whole(&view));
        Ok(view)
    }

    /// One number of all elements along some dimensions.
    fn reduce(
        &mut self,
        x: ValueId,
        by: Reduction,
        dims: &[usize],
        output: ValueId,
    ) -> Result<View, EngineError> {
        let from = self.view(x)?;
        let (view, to) = self.fresh(output);
        let loops = Reduce::new(&from.shape, dims, [&from.strides, &view.strides]);
        let call = Call::Reduce {
            by,
            loops: loops.map_err(|e| self.kernel(e))?,
            x: whole(&from),
        };
        self.push(call, to);
        Ok(view)
    }

    /// A node that has no kernel.
    pub(super) fn plainly(&mut self, i: usize, node: &Node) -> Result<View, EngineError> {
        let inputs = node.inputs.iter().map(|id| self.row_major(*id));
        let inputs = inputs.collect::<Result<Vec<_>, _>>()?;
        let (view, to) = self.fresh(node.output);
        self.push(Call::Reference { node: i, inputs }, to);
        Ok(view)
    }
}
