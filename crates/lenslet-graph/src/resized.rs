//! The graph of a model for an input of another size.
//!
//! A captured graph says how large a map is, but not why: an interpolation to 28 x 28 pixels may be twice the map that it reads, as large
//! as another map, or always 28 x 28. What a size follows from is taken from the operation alone where it says that, and from sizes that
//! agree in every reading where it does not; the rest is refused. What [`Graph::resized`] says about sizes is assumed: a model that cuts its
//! input to 224 pixels and was captured with 224 has nothing in its graph that says so.

use std::collections::{HashMap, HashSet};

use crate::{Binary, Graph, GraphError, Node, Op, Span};

/// Numbers of an input at most: sizes that follow from it can be counted.
const MOST_NUMBERS: usize = u32::MAX as usize;

impl Graph {
    /// The graph for inputs of another shape, `[N, C, H, W]`, with the same weights, which are shared.
    ///
    /// Sizes that an operation names are the model's own (the output of an adaptive pooling, a number of heads) unless some map that
    /// grows or shrinks is as large: an interpolation follows the map that is as large as its output. A part that is the whole stays the
    /// whole.
    ///
    /// # Errors
    /// When the graph has several inputs or the shape another rank, when the model takes no other size (a linear layer over positions,
    /// position embeddings), and where an operation's size may depend on the input's in a way that the graph does not show: cut out or
    /// padded parts, windows of attention, paddings that keep a size divisible. Capture the model again then.
    pub fn resized(&self, input: &[usize]) -> Result<Graph, GraphError> {
        let from = self.inputs().iter().map(|&id| &self.value(id).shape);
        let (Some(old), 1) = (from.clone().next(), from.len()) else {
            return Err(GraphError::Input {
                expected: format!("{} inputs", self.inputs.len()),
                found: "one shape".to_string(),
            });
        };
        let numbers = (input.iter()).try_fold(1usize, |numbers, &size| numbers.checked_mul(size));
        let fits = numbers.is_some_and(|numbers| (1..=MOST_NUMBERS).contains(&numbers));
        if old.len() != input.len() || !fits {
            return Err(GraphError::Input {
                expected: format!(
                    "an input of {} dimensions with 1 to {MOST_NUMBERS} numbers",
                    old.len()
                ),
                found: format!("{input:?}"),
            });
        }
        let mut resizing = Resizing {
            old: self,
            new: self.clone(),
            changed: HashSet::new(),
            maps: Default::default(),
            merged: HashMap::new(),
        };
        resizing.set(self.inputs()[0].index(), input.to_vec());
        // The second time all sizes are known that a number may follow from.
        for _ in 0..2 {
            for (i, node) in self.nodes().iter().enumerate() {
                let shape = resizing.output(i, node).map_err(|why| GraphError::Resize {
                    node: node.name.clone(),
                    why,
                })?;
                resizing.set(node.output.index(), shape);
            }
        }
        let mut graph = resizing.new;
        if graph.value(graph.inputs()[0]).shape != *old {
            graph.tokens.clear();
        }
        Ok(graph)
    }
}

/// Positions of a window; `None` where it does not fit.
fn positions(
    size: usize,
    (before, after): (usize, usize),
    kernel: usize,
    stride: usize,
    dilation: usize,
    ceil_mode: bool,
) -> Option<usize> {
    let span = kernel.saturating_sub(1) * dilation + 1;
    let free = (size + before + after).checked_sub(span)?;
    if !ceil_mode {
        return Some(free / stride + 1);
    }
    // The last window starts inside of the input or of the border before it.
    let count = free.div_ceil(stride) + 1;
    Some(if (count - 1) * stride >= size + before {
        count - 1
    } else {
        count
    })
}

/// The padding with which `ceil(size / stride)` positions come out (TensorFlow's "same").
fn same_padding(size: usize, kernel: usize, stride: usize, dilation: usize) -> (usize, usize) {
    let span = (kernel.saturating_sub(1)) * dilation + 1;
    let total = ((size.div_ceil(stride) - 1) * stride + span).saturating_sub(size);
    (total / 2, total - total / 2)
}

type Refusal = String;

/// A graph on the way to another size.
struct Resizing<'a> {
    old: &'a Graph,
    /// Its values' shapes are the new ones as far as nodes have been visited.
    new: Graph,
    /// Lengths of dimensions that changed, and areas of the dimensions of a value that did.
    changed: HashSet<usize>,
    /// What the heights and the widths of maps became.
    maps: [HashMap<usize, HashSet<usize>>; 2],
    /// Dimensions that are several in one: their old lengths and new ones.
    merged: HashMap<Vec<usize>, Vec<usize>>,
}

impl Resizing<'_> {
    fn set(&mut self, value: usize, shape: Vec<usize>) {
        let old = &self.old.values[value].shape;
        let changed = old.iter().zip(&shape).filter(|(old, new)| old != new);
        let changed: Vec<usize> = changed.map(|(&old, _)| old).collect();
        self.changed.insert(changed.iter().product());
        self.changed.extend(changed);
        if let ([_, _, old @ ..], [_, _, new @ ..]) = (&old[..], &shape[..])
            && old.len() == 2
        {
            for (sizes, (&old, &new)) in self.maps.iter_mut().zip(old.iter().zip(new)) {
                sizes.entry(old).or_default().insert(new);
            }
        }
        self.new.values[value].shape = shape;
    }

    /// Whether a number may be one that follows from the size of the input.
    fn may_follow(&self, number: usize) -> bool {
        number > 1 && self.changed.contains(&number)
    }

    /// Whether something is multiplied or divided by a number that a mean over positions has. Small numbers are taken for the model's own.
    fn may_be_size(&self, by: Binary, number: f64) -> bool {
        let number = match by {
            Binary::Mul => 1.0 / number.abs(),
            Binary::Div => number.abs(),
            _ => return false,
        };
        let whole = number.round();
        // In 32 bits, 1 over a number has some error.
        (number - whole).abs() <= whole * 1e-6 && whole > 8.0 && self.may_follow(whole as usize)
    }

    /// The new shape of what a node gives.
    fn output(&mut self, at: usize, node: &Node) -> Result<Vec<usize>, Refusal> {
        let (graph, new) = (self.old, &self.new);
        let old_out = &graph.value(node.output).shape;
        let old = |i: usize| graph.value(node.inputs[i]).shape.as_slice();
        let shape = |i: usize| new.value(node.inputs[i]).shape.as_slice();
        let names_sizes = matches!(
            node.op,
            Op::Expand | Op::Repeat { .. } | Op::Slice(_) | Op::Interpolate { .. }
        );
        if !names_sizes && (0..node.inputs.len()).all(|i| old(i) == shape(i)) {
            return Ok(old_out.clone());
        }
        let x = shape(0);
        match &node.op {
            Op::Conv2d {
                stride,
                padding,
                dilation,
                groups,
            } => {
                let weight = shape(1);
                if x[1] != weight[1] * groups {
                    return Err(format!("it takes {} channels", weight[1] * groups));
                }
                let mut out = vec![x[0], weight[0]];
                for axis in 0..2 {
                    let (kernel, size) = (weight[axis + 2], x[axis + 2]);
                    let [before, now] = [old(0)[axis + 2], size]
                        .map(|size| same_padding(size, kernel, stride[axis], dilation[axis]));
                    if stride[axis] > 1 && padding[axis] == before && before != now {
                        return Err("its padding may keep a size divisible".to_string());
                    }
                    let positions = positions(
                        size,
                        padding[axis],
                        kernel,
                        stride[axis],
                        dilation[axis],
                        false,
                    );
                    out.push(positions.ok_or("its window does not fit")?);
                }
                Ok(out)
            }
            Op::ConvTranspose2d {
                stride,
                padding,
                output_padding,
                dilation,
                groups,
            } => {
                let weight = shape(1);
                if x[1] != weight[0] {
                    return Err(format!("it takes {} channels", weight[0]));
                }
                let mut out = vec![x[0], weight[1] * groups];
                for axis in 0..2 {
                    let span = (weight[axis + 2] - 1) * dilation[axis] + 1;
                    let whole = (x[axis + 2] - 1) * stride[axis] + span + output_padding[axis];
                    let size = whole
                        .checked_sub(2 * padding[axis])
                        .filter(|&size| size > 0);
                    out.push(size.ok_or("nothing is left of its output")?);
                }
                Ok(out)
            }
            Op::MaxPool2d {
                kernel,
                stride,
                padding,
                dilation,
                ceil_mode,
            } => pooled(x, *kernel, *stride, *padding, *dilation, *ceil_mode),
            Op::AvgPool2d {
                kernel,
                stride,
                padding,
                ceil_mode,
                ..
            } => pooled(x, *kernel, *stride, *padding, [1, 1], *ceil_mode),
            Op::AdaptiveAvgPool2d => Ok([&x[..2], &old_out[2..]].concat()),
            Op::BatchNorm { .. } if old(0)[1] != x[1] => {
                Err(format!("it takes {} channels", old(0)[1]))
            }
            Op::LayerNorm { .. } if old(0).last() != x.last() => {
                Err("it normalises over a fixed number of features".to_string())
            }
            Op::BatchNorm { .. }
            | Op::LayerNorm { .. }
            | Op::Softmax { .. }
            | Op::LogSoftmax { .. }
            | Op::Cast
            | Op::Unary(_)
            | Op::CompareScalar(..)
            | Op::Flip(_) => Ok(x.to_vec()),
            Op::Scalar(by, number) => {
                if self.may_be_size(*by, *number) {
                    return Err(format!("the number {number} may follow from a size"));
                }
                Ok(x.to_vec())
            }
            Op::Binary(_) | Op::Compare(_) | Op::MaskFill(_) | Op::MaskWhere => {
                let shapes = (0..node.inputs.len()).map(shape);
                broadcast(shapes).ok_or_else(|| "its inputs do not fit together".to_string())
            }
            Op::Matmul => {
                let (a, b) = (x, shape(1));
                let rank = a.len();
                let batch = broadcast([&a[..rank - 2], &b[..b.len() - 2]].into_iter());
                let (Some(mut out), true) = (batch, a[rank - 1] == b[b.len() - 2]) else {
                    return Err(format!(
                        "it takes {} features, but there would be {}",
                        b[b.len() - 2],
                        a[rank - 1]
                    ));
                };
                out.extend([a[rank - 2], b[b.len() - 1]]);
                Ok(out)
            }
            Op::Attention { .. } => {
                let (q, k, v) = (x, shape(1), shape(2));
                let scores = [q[0], q[1], q[2], k[2]];
                let fits = q[..2] == k[..2] && q[3] == k[3] && k[..3] == v[..3];
                let extra = (3..node.inputs.len()).all(|i| {
                    broadcast([&scores[..], shape(i)].into_iter()).as_deref() == Some(&scores)
                });
                if !fits || !extra {
                    return Err("its inputs do not fit together".to_string());
                }
                Ok(vec![q[0], q[1], q[2], v[3]])
            }
            Op::Reduce { dims, .. } => {
                let mut out = x.to_vec();
                dims.iter().for_each(|&dim| out[dim] = 1);
                Ok(out)
            }
            Op::Concat { dim } => {
                let mut out = x.to_vec();
                for i in 1..node.inputs.len() {
                    let mut part = shape(i).to_vec();
                    let len = std::mem::replace(&mut part[*dim], out[*dim]);
                    if part != out {
                        return Err("its inputs do not fit together".to_string());
                    }
                    out[*dim] += len;
                }
                Ok(out)
            }
            Op::Permute(axes) => Ok(axes.iter().map(|&axis| x[axis]).collect()),
            Op::Reshape => {
                let (old, x) = (old(0).to_vec(), x.to_vec());
                self.reshape(&old, &x, old_out)
            }
            Op::Expand => {
                let mut out = old_out.clone();
                let new_dims = out.len() - x.len();
                for (dim, size) in out.iter_mut().enumerate() {
                    let from = dim
                        .checked_sub(new_dims)
                        .map_or((1, 1), |i| (old(0)[i], x[i]));
                    if from.0 != 1 || *size == 1 {
                        *size = from.1;
                    } else if from.1 != 1 || self.may_follow(*size) {
                        return Err("how often it repeats may follow from a size".to_string());
                    }
                }
                Ok(out)
            }
            Op::Repeat { dim, times } => {
                if self.may_follow(*times) {
                    return Err("how often it repeats may follow from a size".to_string());
                }
                let mut out = x.to_vec();
                out[*dim] *= times;
                Ok(out)
            }
            Op::Slice(spans) => {
                let mut spans = spans.clone();
                for (dim, span) in spans.iter_mut().enumerate() {
                    let (old, now) = (old(0)[dim], x[dim]);
                    let all = Span {
                        start: 0,
                        len: old,
                        step: 1,
                    };
                    if *span == all {
                        span.len = now;
                    } else if old != now || self.may_follow(span.len) {
                        return Err("the part that it cuts out may follow from a size".to_string());
                    }
                }
                let out = spans.iter().map(|span| span.len).collect();
                self.new.nodes[at].op = Op::Slice(spans);
                Ok(out)
            }
            Op::Pad { padding, .. } => {
                let mut out = old_out.clone();
                for (dim, size) in out.iter_mut().enumerate() {
                    let changed = old(0)[dim] != x[dim];
                    if changed && padding[dim] != (0, 0) {
                        return Err("its padding may keep a size divisible".to_string());
                    }
                    if changed {
                        *size = x[dim];
                    }
                }
                Ok(out)
            }
            Op::Select { dim } if old(0)[*dim] == x[*dim] && old(1) == shape(1) => {
                let mut out = x.to_vec();
                out[*dim] = old_out[*dim];
                Ok(out)
            }
            Op::Select { .. } | Op::Gather { .. } => {
                Err("its indices may follow from a size".to_string())
            }
            Op::Interpolate { .. } => {
                let mut out = x[..2].to_vec();
                for axis in 0..2 {
                    let dim = axis + 2;
                    out.push(self.interpolated(axis, old(0)[dim], old_out[dim], x[dim])?);
                }
                Ok(out)
            }
        }
    }

    /// To what a height or width is interpolated that was `from`, is `now`, and became `to`.
    fn interpolated(
        &self,
        axis: usize,
        from: usize,
        to: usize,
        now: usize,
    ) -> Result<usize, Refusal> {
        if from == now && !self.may_follow(to) {
            return Ok(to);
        }
        let like: Vec<usize> = self.maps[axis]
            .get(&to)
            .into_iter()
            .flatten()
            .copied()
            .collect();
        let times = to.is_multiple_of(from).then(|| now * (to / from));
        match like[..] {
            [like] if times.is_none_or(|times| times == like) => Ok(like),
            _ => Err("what the size that it makes follows from is not clear".to_string()),
        }
    }

    /// The new shape of a reshape from `old` to `out`, whose input is `now`.
    fn reshape(
        &mut self,
        old: &[usize],
        now: &[usize],
        out: &[usize],
    ) -> Result<Vec<usize>, Refusal> {
        let mut shape = Vec::new();
        let (mut i, mut o) = (0, 0);
        while i < old.len() || o < out.len() {
            // The fewest dimensions on both sides that hold the same numbers.
            let (first_in, first_out) = (i, o);
            let (mut left, mut right) = (1, 1);
            while i == first_in || o == first_out || left != right {
                if i < old.len() && (i == first_in || left < right || o == out.len()) {
                    left *= old[i];
                    i += 1;
                } else if o < out.len() {
                    right *= out[o];
                    o += 1;
                } else {
                    break;
                }
            }
            let (from, into, to) = (&old[first_in..i], &now[first_in..i], &out[first_out..o]);
            let long = |sizes: &[usize]| {
                sizes
                    .iter()
                    .copied()
                    .filter(|&n| n != 1)
                    .collect::<Vec<_>>()
            };
            if from == into {
                shape.extend_from_slice(to);
            } else if from == to {
                shape.extend_from_slice(into);
            } else if let [_] = long(to)[..] {
                let len: usize = into.iter().product();
                shape.extend(to.iter().map(|&n| if n == 1 { 1 } else { len }));
                self.merged.insert(from.to_vec(), into.to_vec());
            } else if long(from).len() == 1
                && let Some(sizes) = self.merged.get(to)
                && sizes.iter().product::<usize>() == into.iter().product::<usize>()
            {
                shape.extend_from_slice(sizes);
            } else {
                return Err(format!("how it cuts {into:?} is not clear"));
            }
        }
        Ok(shape)
    }
}

fn pooled(
    x: &[usize],
    kernel: [usize; 2],
    stride: [usize; 2],
    padding: [usize; 2],
    dilation: [usize; 2],
    ceil_mode: bool,
) -> Result<Vec<usize>, Refusal> {
    let mut out = x[..2].to_vec();
    for axis in 0..2 {
        let around = (padding[axis], padding[axis]);
        let positions = positions(
            x[axis + 2],
            around,
            kernel[axis],
            stride[axis],
            dilation[axis],
            ceil_mode,
        );
        out.push(positions.ok_or("its window does not fit")?);
    }
    Ok(out)
}

/// The shape that shapes of one rank have together.
fn broadcast<'a>(mut shapes: impl Iterator<Item = &'a [usize]>) -> Option<Vec<usize>> {
    let mut out = shapes.next()?.to_vec();
    for shape in shapes {
        if shape.len() != out.len() {
            return None;
        }
        for (out, &size) in out.iter_mut().zip(shape) {
            match (*out, size) {
                (a, b) if a == b => {}
                (1, b) => *out = b,
                (_, 1) => {}
                _ => return None,
            }
        }
    }
    Some(out)
}
