//! From nodes to layers: what one kernel can do in one pass is joined.
//!
//! A convolution or linear layer takes with it the batch norm, factors and summands for each
//! channel that follow (they go into its weights), a residual, and an activation. Activations that
//! arrive in pieces (`x * sigmoid(x)`) are recognised on the way, and so is attention.

use std::collections::HashMap;

use lenslet_graph::{Binary, Graph, GraphError, Node, Op, Unary, ValueId, reference};
use lenslet_kernels::{Activation, LocalResponseNorm, Order};

use crate::passes::{Pass, Tally};
use crate::weight::{Weight, WeightChannels};

mod recognise;

/// What is computed at once.
#[derive(Debug)]
pub(crate) struct Layer {
    /// The name of the node that it starts with.
    pub name: String,
    /// What it does.
    pub kind: Kind,
    /// What it gives.
    pub output: ValueId,
    /// The place of its last node: all it reads is known there.
    position: usize,
}

/// The kinds of layers.
#[derive(Debug)]
pub(crate) enum Kind {
    /// A convolution or a transposed one; the node says its geometry.
    Conv {
        node: usize,
        weight: Weight,
        gate: Option<Gate>,
        tail: Tail,
    },
    /// Rows times a fixed matrix of `k` by `n`.
    Linear {
        x: ValueId,
        weight: Weight,
        order: Order,
        k: usize,
        n: usize,
        tail: Tail,
    },
    /// A factor and a summand for every channel.
    Affine {
        x: ValueId,
        scale: Vec<f32>,
        shift: Vec<f32>,
        activation: Activation,
    },
    /// An activation by itself.
    Activate { x: ValueId, activation: Activation },
    /// `softmax(q k^T * scale + bias) v`.
    Attention(Attention),
    /// Local response norm over the last of four dimensions.
    ResponseNorm { x: ValueId, norm: LocalResponseNorm },
    /// A sum of two tensors of one shape, and an activation.
    Add {
        a: ValueId,
        b: ValueId,
        activation: Activation,
    },
    /// A node as it is.
    Node(usize),
}

/// An attention: queries `[N, heads, L, d]`, keys and values `[N, heads, S, d]`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attention {
    pub qkv: [ValueId; 3],
    /// Whether the keys are `[N, heads, d, S]`.
    pub keys_turned: bool,
    /// Added to the scaled scores: `[images, heads, L, S]`, `images` of which `N` is a multiple.
    pub bias: Option<ValueId>,
    pub scale: f64,
}

/// Factors of a feature map's channels, which a 1 x 1 convolution takes into its weights (squeeze-and-excitation).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Gate {
    /// The feature map.
    pub x: ValueId,
    /// `[N, C, 1, 1]`.
    pub by: ValueId,
}

/// What happens to a product before it is written.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    pub bias: Option<Vec<f32>>,
    pub residual: Option<ValueId>,
    pub activation: Activation,
}

/// Which fusions are made; for finding out what each is worth.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fusions {
    pub norms: bool,
    pub activations: bool,
    pub residuals: bool,
    pub gates: bool,
}

/// The layers of a graph, in an order in which they can be run.
pub(crate) fn fuse(
    graph: &Graph,
    fusions: Fusions,
    tally: &mut Tally,
) -> Result<Vec<Layer>, GraphError> {
    let mut fuser = Fuser {
        graph,
        fusions,
        users: graph.users(),
        fixed: graph.fixed(),
        taken: vec![false; graph.nodes().len()],
        gates: HashMap::new(),
        recognised: HashMap::new(),
        tally,
    };
    fuser.find_pieces();
    if fusions.gates {
        fuser.find_gates();
    }
    let mut layers = Vec::new();
    for (i, node) in graph.nodes().iter().enumerate() {
        if fuser.fixed[node.output.index()] {
            fuser.tally.add(Pass::FoldConstants);
        } else if !fuser.taken[i] {
            layers.push(fuser.layer(i, node)?);
        }
    }
    layers.sort_by_key(|layer| layer.position);
    Ok(layers)
}

struct Fuser<'a> {
    graph: &'a Graph,
    fusions: Fusions,
    users: Vec<Vec<usize>>,
    fixed: Vec<bool>,
    /// Nodes that are part of a layer already.
    taken: Vec<bool>,
    /// Products with a gate that the convolution behind them takes.
    gates: HashMap<ValueId, Gate>,
    /// Attention and norms that arrive in pieces, by their last node.
    recognised: HashMap<usize, Kind>,
    tally: &'a mut Tally,
}

/// Nodes that follow one another and become one layer.
struct Chain {
    value: ValueId,
    position: usize,
    /// Factor and summand of every channel.
    affine: Option<[Vec<f32>; 2]>,
    residual: Option<ValueId>,
    activation: Activation,
}

#[derive(Clone, Copy, PartialEq)]
enum Channels {
    Second,
    Last,
}

impl<'a> Fuser<'a> {
    fn layer(&mut self, i: usize, node: &Node) -> Result<Layer, GraphError> {
        let graph = self.graph;
        let name = node.name.clone();
        let fixed = |k: usize| {
            let id = *node.inputs.get(k)?;
            self.fixed[id.index()].then_some(id)
        };
        if let Some(kind) = self.recognised.remove(&i) {
            return Ok(Layer {
                name,
                kind,
                output: node.output,
                position: i,
            });
        }
        match &node.op {
            Op::Conv2d { .. } | Op::ConvTranspose2d { .. }
                if (1..node.inputs.len()).all(|k| fixed(k).is_some()) =>
            {
                let bias = match node.inputs.get(2) {
                    Some(&bias) => Some(reference::constant(graph, bias)?),
                    None => None,
                };
                let out = graph.value(node.output).shape[1];
                let chain = self.follow(i, node, Channels::Second, out, true)?;
                let weight = &graph.value(node.inputs[1]).shape;
                let (per_group, taps) = (weight[1], weight[2] * weight[3]);
                let channels = match node.op {
                    Op::Conv2d { .. } => WeightChannels::Outer(per_group * taps),
                    // Its weight has the output channels inside, by groups.
                    _ => {
                        let inputs = weight[0] / (out / per_group).max(1);
                        WeightChannels::Transposed([taps, per_group, inputs.max(1)])
                    }
                };
                let weight = chain.weight(node.inputs[1], channels);
                let bias = fold(&chain.affine, bias);
                let gate = self.gates.get(&node.inputs[0]).copied();
                Ok(chain.layer(name, |chain| Kind::Conv {
                    node: i,
                    weight,
                    gate,
                    tail: chain.tail(bias),
                }))
            }
            Op::Matmul if fixed(1).is_some() && self.is_matrix(node) => {
                self.tally.add(Pass::RecogniseLinear);
                let id = node.inputs[1];
                let [.., k, n] = graph.value(id).shape[..] else {
                    unreachable!("a matrix has two dimensions")
                };
                // PyTorch's `[out, in]` is read as it is.
                let transposed = match graph.producer(id) {
                    Some(producer) if producer.op == Op::Permute(vec![1, 0]) => {
                        Some(producer.inputs[0])
                    }
                    _ => None,
                };
                let (id, order, channels) = match transposed {
                    Some(id) => (id, Order::Transposed, WeightChannels::Outer(k)),
                    None => (id, Order::RowMajor, WeightChannels::Inner(n)),
                };
                let chain = self.follow(i, node, Channels::Last, n, true)?;
                let weight = chain.weight(id, channels);
                let bias = fold(&chain.affine, None);
                let x = node.inputs[0];
                Ok(chain.layer(name, |chain| Kind::Linear {
                    x,
                    weight,
                    order,
                    k,
                    n,
                    tail: chain.tail(bias),
                }))
            }
            Op::BatchNorm { .. } if graph.value(node.output).shape.len() == 4 => {
                let channels = graph.value(node.output).shape[1];
                let mut chain = self.follow(i, node, Channels::Second, channels, false)?;
                let own = self.norm(node)?;
                let [scale, shift] = match chain.affine.take() {
                    Some(after) => compose(own, &after),
                    None => own,
                };
                let x = node.inputs[0];
                Ok(chain.layer(name, |chain| Kind::Affine {
                    x,
                    scale,
                    shift,
                    activation: chain.activation,
                }))
            }
            Op::Unary(unary) if activation(*unary).is_some() => {
                let x = node.inputs[0];
                let activation = activation(*unary).unwrap_or_default();
                if let Some((last, joined)) = self.gated(x, i) {
                    self.taken[last] = true;
                    self.tally.add(Pass::RecogniseActivations);
                    let output = graph.nodes()[last].output;
                    return Ok(Layer {
                        name,
                        kind: Kind::Activate {
                            x,
                            activation: joined,
                        },
                        output,
                        position: last,
                    });
                }
                Ok(Layer {
                    name,
                    kind: Kind::Activate { x, activation },
                    output: node.output,
                    position: i,
                })
            }
            Op::Scalar(Binary::Pow, _) if let Some(pieces) = self.gelu_tanh(node.inputs[0]) => {
                let last = self.take(&pieces);
                Ok(Layer {
                    name,
                    kind: Kind::Activate {
                        x: node.inputs[0],
                        activation: Activation::GeluTanh,
                    },
                    output: graph.nodes()[last].output,
                    position: last,
                })
            }
            Op::Binary(Binary::Add)
                if node.inputs.iter().all(|id| !self.fixed[id.index()])
                    && graph.value(node.inputs[0]).shape == graph.value(node.inputs[1]).shape =>
            {
                let mut chain = Chain::new(i, node);
                self.take_activation(&mut chain);
                let [a, b] = [node.inputs[0], node.inputs[1]];
                Ok(chain.layer(name, |chain| Kind::Add {
                    a,
                    b,
                    activation: chain.activation,
                }))
            }
            _ => Ok(Layer {
                name,
                kind: Kind::Node(i),
                output: node.output,
                position: i,
            }),
        }
    }

    /// Whether a product's second factor is one matrix, and the first has as many dimensions.
    fn is_matrix(&self, product: &Node) -> bool {
        let [a, b] = [0, 1].map(|k| &self.graph.value(product.inputs[k]).shape);
        let outer = b.len().saturating_sub(2);
        b.len() >= 2 && a.len() >= b.len() && b[..outer].iter().all(|&size| size == 1)
    }

    /// Joins what follows a node whose output has `n` channels.
    fn follow(
        &mut self,
        i: usize,
        node: &Node,
        channels: Channels,
        n: usize,
        residuals: bool,
    ) -> Result<Chain, GraphError> {
        let mut chain = Chain::new(i, node);
        while let Some((next, user)) = self.only_user(chain.value) {
            let affine = match &user.op {
                Op::BatchNorm { .. } if channels == Channels::Second && self.fusions.norms => {
                    Some(self.norm(user)?)
                }
                Op::Scalar(by, number) => scalar(*by, *number as f32, n),
                Op::Binary(by) => self.per_channel(*by, user, chain.value, channels, n)?,
                _ => None,
            };
            match (affine, &user.op) {
                (Some(affine), _) if chain.residual.is_none() => {
                    self.tally.add(Pass::FoldNorms);
                    chain.affine = Some(match chain.affine.take() {
                        Some(before) => compose(before, &affine),
                        None => affine,
                    });
                }
                (None, Op::Binary(Binary::Add))
                    if residuals && self.fusions.residuals && chain.residual.is_none() =>
                {
                    let other = user.inputs.iter().find(|id| **id != chain.value);
                    let Some(&other) = other.filter(|id| !self.fixed[id.index()]) else {
                        break;
                    };
                    if self.graph.value(other).shape != self.graph.value(chain.value).shape {
                        break;
                    }
                    self.tally.add(Pass::FuseResiduals);
                    chain.residual = Some(other);
                }
                (None, Op::Reshape)
                    if channels == Channels::Last
                        && self.graph.value(user.output).shape.last() == Some(&n) => {}
                _ => break,
            }
            self.taken[next] = true;
            chain.value = user.output;
            chain.position = next;
        }
        self.take_activation(&mut chain);
        Ok(chain)
    }

    fn take_activation(&mut self, chain: &mut Chain) {
        if !self.fusions.activations {
            return;
        }
        if let Some((next, user)) = self.only_user(chain.value)
            && let Op::Unary(unary) = &user.op
            && let Some(activation) = activation(*unary)
        {
            self.taken[next] = true;
            self.tally.add(Pass::FuseActivations);
            (chain.value, chain.position, chain.activation) = (user.output, next, activation);
            return;
        }
        if self.graph.outputs().contains(&chain.value) {
            return;
        }
        if let Some(pieces) = self.gelu_tanh(chain.value) {
            let last = self.take(&pieces);
            self.tally.add(Pass::FuseActivations);
            let value = self.graph.nodes()[last].output;
            (chain.value, chain.position, chain.activation) = (value, last, Activation::GeluTanh);
            return;
        }
        let gate = self.users[chain.value.index()].clone();
        let found = gate
            .into_iter()
            .find_map(|gate| Some((gate, self.gated(chain.value, gate)?)));
        if let Some((gate, (last, activation))) = found {
            self.taken[gate] = true;
            self.taken[last] = true;
            self.tally.add(Pass::RecogniseActivations);
            self.tally.add(Pass::FuseActivations);
            let value = self.graph.nodes()[last].output;
            (chain.value, chain.position, chain.activation) = (value, last, activation);
        }
    }

    /// Takes the nodes of an activation; the last of them.
    fn take(&mut self, pieces: &[usize]) -> usize {
        for &i in pieces {
            self.taken[i] = true;
        }
        self.tally.add(Pass::RecogniseActivations);
        pieces[pieces.len() - 1]
    }

    /// The node that alone reads a value.
    fn only_user(&self, value: ValueId) -> Option<(usize, &'a Node)> {
        match self.users[value.index()][..] {
            [user] if !self.graph.outputs().contains(&value) && !self.taken[user] => {
                Some((user, &self.graph.nodes()[user]))
            }
            _ => None,
        }
    }

    /// A batch norm in evaluation as factor and summand.
    fn norm(&self, node: &Node) -> Result<[Vec<f32>; 2], GraphError> {
        let Op::BatchNorm { eps } = node.op else {
            unreachable!("called for batch norms")
        };
        let part = |k: usize| reference::constant(self.graph, node.inputs[k]);
        let (weight, bias, mean, variance) = (part(1)?, part(2)?, part(3)?, part(4)?);
        let scale: Vec<f64> = (weight.iter().zip(&variance))
            .map(|(w, v)| f64::from(*w) / (f64::from(*v) + eps).sqrt())
            .collect();
        let shift = (bias.iter().zip(&mean).zip(&scale))
            .map(|((b, m), s)| (f64::from(*b) - f64::from(*m) * s) as f32)
            .collect();
        Ok([scale.iter().map(|s| *s as f32).collect(), shift])
    }

    /// A sum or product with fixed numbers for each channel.
    fn per_channel(
        &self,
        by: Binary,
        user: &Node,
        value: ValueId,
        channels: Channels,
        n: usize,
    ) -> Result<Option<[Vec<f32>; 2]>, GraphError> {
        let first = user.inputs[0] == value;
        let other = if first {
            user.inputs[1]
        } else {
            user.inputs[0]
        };
        let shape = &self.graph.value(value).shape;
        if !self.fixed[other.index()] || self.graph.value(user.output).shape != *shape {
            return Ok(None);
        }
        let theirs = &self.graph.value(other).shape;
        let dim = match channels {
            Channels::Second => 1,
            Channels::Last => shape.len() - 1,
        };
        // Missing dimensions of the other are in front.
        let Some(front) = shape.len().checked_sub(theirs.len()) else {
            return Ok(None);
        };
        let only_channels =
            (theirs.iter().enumerate()).all(|(d, &size)| size == 1 || d + front == dim);
        if !only_channels || shape[dim] != n {
            return Ok(None);
        }
        let mut numbers = reference::constant(self.graph, other)?;
        if numbers.len() == 1 {
            numbers = vec![numbers[0]; n];
        }
        let ones = || vec![1.0; n];
        Ok(match by {
            Binary::Add => Some([ones(), numbers]),
            Binary::Mul => Some([numbers, vec![0.0; n]]),
            Binary::Sub if first => Some([ones(), numbers.iter().map(|v| -v).collect()]),
            Binary::Div if first => Some([numbers.iter().map(|v| 1.0 / v).collect(), vec![0.0; n]]),
            _ => None,
        })
    }
}

impl Chain {
    fn new(position: usize, node: &Node) -> Self {
        Self {
            value: node.output,
            position,
            affine: None,
            residual: None,
            activation: Activation::None,
        }
    }

    /// A weight with the factors that follow it.
    fn weight(&self, id: ValueId, channels: WeightChannels) -> Weight {
        let scale = self.affine.as_ref().map(|[scale, _]| scale);
        let scale = scale.filter(|scale| scale.iter().any(|&s| s != 1.0));
        Weight {
            id,
            scale: scale.cloned(),
            channels,
        }
    }

    fn tail(&self, bias: Option<Vec<f32>>) -> Tail {
        Tail {
            bias,
            residual: self.residual,
            activation: self.activation,
        }
    }

    fn layer(self, name: String, kind: impl FnOnce(&Self) -> Kind) -> Layer {
        Layer {
            name,
            kind: kind(&self),
            output: self.value,
            position: self.position,
        }
    }
}

fn scalar(by: Binary, number: f32, n: usize) -> Option<[Vec<f32>; 2]> {
    let [scale, shift] = match by {
        Binary::Add => [1.0, number],
        Binary::Sub => [1.0, -number],
        Binary::Mul => [number, 0.0],
        Binary::Div => [1.0 / number, 0.0],
        _ => return None,
    };
    Some([vec![scale; n], vec![shift; n]])
}

/// The second after the first.
fn compose([scale, shift]: [Vec<f32>; 2], [factor, summand]: &[Vec<f32>; 2]) -> [Vec<f32>; 2] {
    let shift = (shift.iter().zip(factor).zip(summand))
        .map(|((b, f), s)| b * f + s)
        .collect();
    [
        scale.iter().zip(factor).map(|(a, f)| a * f).collect(),
        shift,
    ]
}

/// The bias with what follows it.
fn fold(affine: &Option<[Vec<f32>; 2]>, bias: Option<Vec<f32>>) -> Option<Vec<f32>> {
    let Some([scale, shift]) = affine else {
        return bias;
    };
    Some(match bias {
        Some(bias) => (bias.iter().zip(scale).zip(shift))
            .map(|((b, s), t)| b * s + t)
            .collect(),
        None => shift.clone(),
    })
}

fn activation_of(op: &Op) -> Option<Activation> {
    match op {
        Op::Unary(unary) => activation(*unary),
        _ => None,
    }
}

fn activation(unary: Unary) -> Option<Activation> {
    let near = |a: f64, b: f64| (a - b).abs() < 1e-6;
    Some(match unary {
        Unary::Relu => Activation::Relu,
        Unary::LeakyRelu { slope } => Activation::LeakyRelu(slope as f32),
        Unary::Gelu => Activation::Gelu,
        Unary::Sigmoid => Activation::Sigmoid,
        Unary::Tanh => Activation::Tanh,
        Unary::HardSigmoid { alpha, beta } if near(alpha, 1.0 / 6.0) && near(beta, 0.5) => {
            Activation::HardSigmoid
        }
        Unary::Clamp { min, max } if min == 0.0 && max == 6.0 => Activation::Relu6,
        Unary::Clamp { min, max } if min == 0.0 && max == f64::INFINITY => Activation::Relu,
        _ => return None,
    })
}
