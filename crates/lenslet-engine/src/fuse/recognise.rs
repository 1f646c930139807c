//! Layers that arrive in pieces: activations, attention, local response norm, the gates of squeeze-and-excitation.

use lenslet_graph::{Binary, Node, Op, Source, Unary, ValueId};
use lenslet_kernels::{Activation, LocalResponseNorm};

use super::{Attention, Fuser, Gate, Kind, activation_of};
use crate::passes::Pass;

/// How near numbers must be to those of a formula.
const NEAR: f64 = 1e-6;

impl Fuser<'_> {
    /// Finds products of a feature map and a factor for each of its channels that only a 1 x 1 convolution reads.
    pub(super) fn find_gates(&mut self) {
        for (i, node) in self.graph.nodes().iter().enumerate() {
            let shape = &self.graph.value(node.output).shape;
            let &[n, c, h, w] = &shape[..] else { continue };
            if node.op != Op::Binary(Binary::Mul) || h * w == 1 {
                continue;
            }
            let is = |id: ValueId, shape: [usize; 4]| {
                self.graph.value(id).shape == shape && !self.fixed[id.index()]
            };
            let gate = [[0, 1], [1, 0]]
                .map(|[x, by]| [node.inputs[x], node.inputs[by]])
                .into_iter()
                .find(|&[x, by]| is(x, [n, c, h, w]) && is(by, [n, c, 1, 1]));
            let (Some([x, by]), Some((_, user))) = (gate, self.only_user(node.output)) else {
                continue;
            };
            let pointwise = matches!(
                user.op,
                Op::Conv2d {
                    stride: [1, 1],
                    padding: [(0, 0), (0, 0)],
                    groups: 1,
                    ..
                }
            );
            let weight = user
                .inputs
                .get(1)
                .map(|id| (id, &self.graph.value(*id).shape[..]));
            if let (true, Some((id, &[_, _, 1, 1]))) = (pointwise, weight)
                && self.fixed[id.index()]
            {
                self.taken[i] = true;
                self.tally.add(Pass::FuseGates);
                self.gates.insert(node.output, Gate { x, by });
            }
        }
    }

    /// `x * gate(x)`, where node `gate` computes the gate and nothing else reads either.
    pub(super) fn gated(&self, x: ValueId, gate: usize) -> Option<(usize, Activation)> {
        let node = &self.graph.nodes()[gate];
        let joined = match node.op {
            Op::Unary(Unary::Sigmoid) => Activation::Silu,
            Op::Unary(Unary::HardSigmoid { .. })
                if activation_of(&node.op) == Some(Activation::HardSigmoid) =>
            {
                Activation::HardSwish
            }
            _ => return None,
        };
        let (last, product) = self.only_user(node.output)?;
        let users = &self.users[x.index()];
        let both = product.inputs == [x, node.output] || product.inputs == [node.output, x];
        let fits = product.op == Op::Binary(Binary::Mul)
            && both
            && users.len() == 2
            && users.contains(&gate)
            && !self.taken[gate];
        fits.then_some((last, joined))
    }

    /// The tanh approximation of GELU as Burn computes it, `x * (tanh((x + x^3 * 0.044715) * sqrt(2 / pi)) + 1) * 0.5`: its nodes, the
    /// last one last.
    pub(super) fn gelu_tanh(&self, x: ValueId) -> Option<Vec<usize>> {
        let near = |a: f64, b: f64| (a - b).abs() < NEAR;
        let nodes = self.graph.nodes();
        let users = &self.users[x.index()];
        let cube = |&&i: &&usize| nodes[i].op == Op::Scalar(Binary::Pow, 3.0);
        let mut found = vec![*users.iter().find(cube)?];
        let steps: [&dyn Fn(&Op) -> bool; 7] = [
            &|op| matches!(op, Op::Scalar(Binary::Mul, c) if near(*c, 0.044_715)),
            &|op| *op == Op::Binary(Binary::Add),
            &|op| matches!(op, Op::Scalar(Binary::Mul, c) if near(*c, 0.797_884_560_8)),
            &|op| *op == Op::Unary(Unary::Tanh),
            &|op| *op == Op::Scalar(Binary::Add, 1.0),
            &|op| *op == Op::Binary(Binary::Mul),
            &|op| *op == Op::Scalar(Binary::Mul, 0.5),
        ];
        for fits in steps {
            let value = nodes[found[found.len() - 1]].output;
            let (next, node) = self.only_user(value)?;
            let with_x =
                node.inputs.len() == 1 || node.inputs == [x, value] || node.inputs == [value, x];
            if !fits(&node.op) || !with_x {
                return None;
            }
            found.push(next);
        }
        let inside = users.len() == 3 && users.iter().all(|user| found.contains(user));
        let free = found.iter().all(|&i| !self.taken[i]);
        (inside && free && !self.graph.outputs().contains(&x)).then_some(found)
    }

    /// Finds `softmax(q k^T * scale + bias) v` and local response norms.
    pub(super) fn find_pieces(&mut self) {
        for i in 0..self.graph.nodes().len() {
            let nodes = if let Some((attention, nodes, last)) = self.attention_around(i) {
                self.tally.add(Pass::RecogniseAttention);
                self.recognised.insert(last, Kind::Attention(attention));
                nodes
            } else if let Some((kind, nodes)) = self.response_norm(i) {
                self.tally.add(Pass::RecogniseNorms);
                self.recognised.insert(i, kind);
                nodes
            } else {
                continue;
            };
            for node in nodes {
                self.taken[node] = true;
            }
        }
    }

    /// The attention that a softmax belongs to, its nodes, and the product that gives its result.
    fn attention_around(&self, softmax: usize) -> Option<(Attention, Vec<usize>, usize)> {
        let graph = self.graph;
        let shape = |id: ValueId| &graph.value(id).shape[..];
        let node = &graph.nodes()[softmax];
        if node.op != (Op::Softmax { dim: 3 }) || shape(node.output).len() != 4 {
            return None;
        }
        let (last, product) = self.only_user(node.output)?;
        let (mut scale, mut bias) = (1.0, None);
        let mut nodes = vec![softmax];
        let mut scores = node.inputs[0];
        let [q, k] = loop {
            let [user] = self.users[scores.index()][..] else {
                return None;
            };
            let Source::Node(at) = graph.value(scores).source else {
                return None;
            };
            if user != nodes[nodes.len() - 1] || graph.outputs().contains(&scores) {
                return None;
            }
            nodes.push(at);
            let producer = &graph.nodes()[at];
            match producer.op {
                Op::Scalar(by @ (Binary::Mul | Binary::Div), c) => {
                    scale *= if by == Binary::Mul { c } else { 1.0 / c };
                    scores = producer.inputs[0];
                }
                // A factor behind the sum would be one of the bias too.
                Op::Binary(Binary::Add) if bias.is_none() && scale == 1.0 => {
                    let computed = |id: ValueId| {
                        let op = graph.producer(id).map(|node| &node.op);
                        matches!(op, Some(Op::Matmul | Op::Scalar(..)))
                    };
                    let [a, b] = [producer.inputs[0], producer.inputs[1]];
                    let [inside, added] = if computed(a) { [a, b] } else { [b, a] };
                    scores = inside;
                    bias = Some(added);
                }
                Op::Matmul => break [producer.inputs[0], producer.inputs[1]],
                _ => return None,
            }
        };
        let v = product.inputs[1];
        let (&[n, heads, queries, dim], &[_, _, _, keys]) = (shape(q), shape(k)) else {
            return None;
        };
        let fits = product.op == Op::Matmul
            && product.inputs[0] == node.output
            && shape(k) == [n, heads, dim, keys]
            && shape(v) == [n, heads, keys, dim]
            && bias.is_none_or(|id| {
                let &[images, ..] = shape(id) else {
                    return false;
                };
                images > 0
                    && n.is_multiple_of(images)
                    && shape(id) == [images, heads, queries, keys]
            })
            && scale > 0.0
            && [q, k, v].iter().all(|id| !self.fixed[id.index()]);
        let attention = Attention {
            qkv: [q, k, v],
            keys_turned: true,
            bias,
            scale,
        };
        fits.then_some((attention, nodes, last))
    }

    /// The norm that a quotient is, and the nodes of its divisor: the squares' averages over neighbouring channels, which stand in the
    /// rows of a picture one column wide.
    fn response_norm(&self, quotient: usize) -> Option<(Kind, Vec<usize>)> {
        let graph = self.graph;
        let shape = |id: ValueId| &graph.value(id).shape[..];
        let node = &graph.nodes()[quotient];
        if node.op != Op::Binary(Binary::Div) {
            return None;
        }
        let [x, mut value] = [node.inputs[0], node.inputs[1]];
        let &[n, h, w, channels] = shape(x) else {
            return None;
        };
        if shape(value) != shape(x) {
            return None;
        }
        let mut nodes = Vec::new();
        // The exponent, the summand and the factor.
        let mut numbers = Vec::new();
        let size = loop {
            let node = self.only_for_one(value, &mut nodes)?;
            value = node.inputs[0];
            match (&node.op, numbers.len()) {
                (Op::Reshape, _) => {}
                (Op::Scalar(Binary::Pow, number), 0)
                | (Op::Scalar(Binary::Add, number), 1)
                | (Op::Scalar(Binary::Mul, number), 2) => numbers.push(*number as f32),
                (
                    &Op::AvgPool2d {
                        kernel: [size, 1],
                        stride: [1, 1],
                        padding: [before, 0],
                        count_include_pad: true,
                        ceil_mode: false,
                    },
                    3,
                ) if size == 2 * before + 1 => break size,
                _ => return None,
            }
        };
        if shape(value) != [n * h * w, 1, channels, 1] {
            return None;
        }
        let mut turned = false;
        let of = loop {
            let node = self.only_for_one(value, &mut nodes)?;
            value = node.inputs[0];
            match &node.op {
                Op::Reshape if !turned => {}
                Op::Permute(axes) if !turned && axes[..] == [0, 2, 3, 1] => turned = true,
                Op::Binary(Binary::Mul) if node.inputs[1] == value => break value,
                Op::Scalar(Binary::Pow, 2.0) => break value,
                _ => return None,
            }
        };
        let same = match turned {
            false => of == x,
            true => {
                let turn = graph.producer(x);
                shape(of) == [n, channels, h, w]
                    && turn.is_some_and(|turn| {
                        turn.op == Op::Permute(vec![0, 2, 3, 1]) && turn.inputs == [of]
                    })
            }
        };
        let norm = LocalResponseNorm {
            channels,
            size,
            alpha: numbers[2],
            beta: numbers[0],
            k: numbers[1],
        };
        same.then_some((Kind::ResponseNorm { x, norm }, nodes))
    }

    /// The node that computes a value which one other node alone reads; noted among `nodes`.
    fn only_for_one(&self, value: ValueId, nodes: &mut Vec<usize>) -> Option<&Node> {
        let Source::Node(at) = self.graph.value(value).source else {
            return None;
        };
        let free = self.users[value.index()].len() == 1
            && !self.graph.outputs().contains(&value)
            && !self.taken[at];
        nodes.push(at);
        free.then(|| &self.graph.nodes()[at])
    }
}
