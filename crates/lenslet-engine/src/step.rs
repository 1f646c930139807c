//! What a session does, one kernel call after the other.

use lenslet_graph::{Field, Graph, GraphError, Reduction, reference};
use lenslet_kernels::{
    Activation, AdaptiveAveragePool2d, AlignedBuf, Attention, AveragePool2d, Conv2d, ElementMap,
    Epilogue, Factor, InOut, InvertedResidual, KernelError, LayerNorm, LocalResponseNorm, Matrix,
    MatrixMut, MaxPool2d, PackedConv, PackedMatrix, Part, PartConv, PlanesConv, Reduce, Residual,
    ResidualPosition, Resize2d, Scaling, ScoreBias, Scratch, activation_forward, add_forward,
    affine, channels_last, log_softmax, softmax,
};

use crate::pointwise::{Function, reduce};
use crate::view::{Place, Rows, View, copy};

/// A kernel call: what it reads, what it writes, and under which name.
#[derive(Debug)]
pub(crate) struct Step {
    /// The node that it starts with.
    pub name: String,
    /// The call.
    pub call: Call,
    /// Where the output lies.
    pub to: Rows,
    /// What a position of the layer's output depends on.
    pub field: Field,
}

/// A convolution's packed weights.
#[derive(Debug)]
pub(crate) enum Packing {
    /// Over rows of channels.
    Pixels(Box<PackedConv>),
    /// Over planes.
    Planes(Box<PlanesConv>),
}

impl Packing {
    fn shape(&self) -> &Conv2d {
        match self {
            Packing::Pixels(conv) => conv.shape(),
            Packing::Planes(conv) => conv.shape(),
        }
    }
}

/// A convolution and what happens to its output.
#[derive(Debug)]
pub(crate) struct Stage {
    pub packed: Packing,
    pub bias: Option<Vec<f32>>,
    pub activation: Activation,
}

#[derive(Debug)]
pub(crate) enum Call {
    Conv {
        stage: Stage,
        n: usize,
        x: Rows,
        /// Factors of the input's channels, a row an image.
        gate: Option<Rows>,
        residual: Option<Rows>,
        /// How many means of the output's rows of pixels go behind it.
        means: usize,
    },
    /// A depthwise convolution with the convolutions beside it.
    Strips {
        block: Box<Block>,
        n: usize,
        x: Rows,
        residual: Option<Rows>,
        /// How many means of the output's rows of pixels go behind it.
        means: usize,
    },
    Linear {
        packed: PackedMatrix,
        x: Rows,
        bias: Option<Vec<f32>>,
        residual: Option<Rows>,
        activation: Activation,
    },
    Affine {
        x: Rows,
        scale: Vec<f32>,
        shift: Vec<f32>,
        activation: Activation,
    },
    Activate {
        x: Rows,
        activation: Activation,
    },
    Add {
        a: Rows,
        b: Rows,
        activation: Activation,
    },
    Scale {
        x: Rows,
        factor: Rows,
        scaling: Scaling,
    },
    MaxPool {
        x: Rows,
        pool: MaxPool2d,
    },
    AvgPool {
        x: Rows,
        pool: AveragePool2d,
    },
    AdaptivePool {
        x: Rows,
        pool: AdaptiveAveragePool2d,
    },
    LayerNorm {
        x: Rows,
        weight: Vec<f32>,
        bias: Option<Vec<f32>>,
        eps: f32,
    },
    ResponseNorm {
        x: Rows,
        norm: LocalResponseNorm,
    },
    Softmax {
        x: Rows,
        log: bool,
    },
    Attention {
        shape: Attention,
        qkv: [Rows; 3],
        /// What is added to the scores, a row a query; after so many rows the images repeat.
        bias: Option<Rows>,
    },
    Resize {
        x: Rows,
        resize: Resize2d,
    },
    /// `[images, channels, pixels]` to `[images, pixels, channels]`.
    ChannelsLast {
        x: Rows,
        shape: [usize; 3],
    },
    /// A function of every element.
    Map {
        by: Function,
        loops: ElementMap,
        a: Rows,
        b: Rows,
    },
    /// A number of all elements along some dimensions.
    Reduce {
        by: Reduction,
        loops: Reduce,
        x: Rows,
    },
    /// Any view to any other of the same shape.
    Copy {
        from: View,
        to: View,
    },
    /// A node that has no kernel, computed plainly. Allocates.
    Reference {
        node: usize,
        inputs: Vec<Rows>,
    },
}

/// Convolutions that are computed together.
#[derive(Debug)]
pub(crate) struct Block {
    pub expand: Option<Stage>,
    pub depthwise: Stage,
    pub project: Option<Stage>,
}

impl Block {
    fn stages(&self) -> impl Iterator<Item = &Stage> {
        (self.expand.iter())
            .chain([&self.depthwise])
            .chain(&self.project)
    }
}

impl Stage {
    /// How many numbers it holds.
    fn weights(&self) -> usize {
        self.packed.shape().weight_len() + self.bias.as_ref().map_or(0, Vec::len)
    }

    /// Multiply-accumulates over `n` images.
    fn macs(&self, n: usize) -> usize {
        let shape = self.packed.shape();
        shape.macs() / shape.n.max(1) * n
    }

    fn part(&self) -> Part<'_> {
        Part {
            conv: match &self.packed {
                Packing::Pixels(conv) => PartConv::Pixels(conv),
                Packing::Planes(conv) => PartConv::Planes(conv),
            },
            epilogue: Epilogue {
                bias: self.bias.as_deref(),
                activation: self.activation,
                ..Epilogue::NONE
            },
        }
    }
}

impl Call {
    /// The kernel's name.
    pub fn kernel(&self) -> &'static str {
        match self {
            Call::Conv { stage, .. } => match &stage.packed {
                Packing::Pixels(conv) => conv.algorithm().name(),
                Packing::Planes(_) => "planes",
            },
            Call::Strips { .. } => "strips",
            Call::Linear { .. } => "product",
            Call::Affine { .. } => "affine",
            Call::Activate { .. } => "activation",
            Call::Add { .. } => "add",
            Call::Scale { .. } => "scale",
            Call::MaxPool { .. } => "max-pool",
            Call::AvgPool { .. } | Call::AdaptivePool { .. } => "avg-pool",
            Call::LayerNorm { .. } => "layer-norm",
            Call::ResponseNorm { .. } => "local-response-norm",
            Call::Softmax { .. } => "softmax",
            Call::Attention { .. } => "attention",
            Call::Resize { .. } => "resize",
            Call::ChannelsLast { .. } => "channels-last",
            Call::Map { .. } => "element-map",
            Call::Reduce { .. } => "reduce",
            Call::Copy { .. } => "copy",
            Call::Reference { .. } => "reference",
        }
    }

    /// The rows that the call reads.
    fn rows(&self) -> Vec<Rows> {
        match self {
            Call::Conv {
                x, gate, residual, ..
            } => [Some(*x), *gate, *residual].into_iter().flatten().collect(),
            Call::Linear { x, residual, .. } | Call::Strips { x, residual, .. } => {
                [Some(*x), *residual].into_iter().flatten().collect()
            }
            Call::Add { a, b, .. } | Call::Map { a, b, .. } => vec![*a, *b],
            Call::Scale { x, factor, .. } => vec![*x, *factor],
            Call::Attention { qkv, bias, .. } => qkv.iter().chain(bias).copied().collect(),
            Call::Copy { from, .. } => vec![Rows {
                place: from.place,
                offset: from.offset,
                rows: 1,
                cols: from.len(),
                ld: from.len(),
            }],
            Call::Reference { inputs, .. } => inputs.clone(),
            Call::Affine { x, .. }
            | Call::Activate { x, .. }
            | Call::MaxPool { x, .. }
            | Call::AvgPool { x, .. }
            | Call::AdaptivePool { x, .. }
            | Call::LayerNorm { x, .. }
            | Call::ResponseNorm { x, .. }
            | Call::Softmax { x, .. }
            | Call::Resize { x, .. }
            | Call::Reduce { x, .. }
            | Call::ChannelsLast { x, .. } => vec![*x],
        }
    }

    /// Every place that the call reads.
    pub fn reads(&self) -> impl Iterator<Item = Place> {
        self.rows().into_iter().map(|rows| rows.place)
    }

    /// How many numbers the call reads, weights included.
    pub fn numbers_read(&self) -> usize {
        self.weights()
            + self
                .rows()
                .iter()
                .map(|rows| rows.rows * rows.cols)
                .sum::<usize>()
    }

    /// How many numbers the call holds: weights, summands, factors.
    pub fn weights(&self) -> usize {
        let len = |numbers: &Option<Vec<f32>>| numbers.as_ref().map_or(0, Vec::len);
        match self {
            Call::Conv { stage, .. } => stage.weights(),
            Call::Strips { block, .. } => block.stages().map(Stage::weights).sum(),
            Call::Linear { packed, bias, .. } => {
                packed.shape().into_iter().product::<usize>() + len(bias)
            }
            Call::Affine { scale, shift, .. } => scale.len() + shift.len(),
            Call::LayerNorm { weight, bias, .. } => weight.len() + len(bias),
            _ => 0,
        }
    }

    /// Multiply-accumulates of the definition.
    pub fn macs(&self) -> usize {
        match self {
            Call::Conv { stage, n, .. } => stage.macs(*n),
            Call::Strips { block, n, .. } => block.stages().map(|stage| stage.macs(*n)).sum(),
            Call::Linear { packed, x, .. } => {
                x.rows * packed.shape().into_iter().product::<usize>()
            }
            Call::Attention { shape, .. } => {
                2 * shape.batch * shape.heads * shape.queries * shape.keys * shape.dim
            }
            _ => 0,
        }
    }

    /// Lets every place that the call names go through `place`.
    pub fn relocate(&mut self, place: &dyn Fn(Place) -> Place) {
        let mut all: Vec<&mut Place> = match self {
            Call::Conv {
                x, gate, residual, ..
            } => [Some(x), gate.as_mut(), residual.as_mut()]
                .into_iter()
                .flatten()
                .map(|rows| &mut rows.place)
                .collect(),
            Call::Linear { x, residual, .. } | Call::Strips { x, residual, .. } => {
                [Some(x), residual.as_mut()]
                    .into_iter()
                    .flatten()
                    .map(|rows| &mut rows.place)
                    .collect()
            }
            Call::Add { a, b, .. } | Call::Map { a, b, .. } => vec![&mut a.place, &mut b.place],
            Call::Scale { x, factor, .. } => vec![&mut x.place, &mut factor.place],
            Call::Attention { qkv, bias, .. } => {
                let rows = qkv.iter_mut().chain(bias);
                rows.map(|rows| &mut rows.place).collect()
            }
            Call::Copy { from, to } => vec![&mut from.place, &mut to.place],
            Call::Reference { inputs, .. } => inputs.iter_mut().map(|r| &mut r.place).collect(),
            Call::Affine { x, .. }
            | Call::Activate { x, .. }
            | Call::MaxPool { x, .. }
            | Call::AvgPool { x, .. }
            | Call::AdaptivePool { x, .. }
            | Call::LayerNorm { x, .. }
            | Call::ResponseNorm { x, .. }
            | Call::Softmax { x, .. }
            | Call::Resize { x, .. }
            | Call::Reduce { x, .. }
            | Call::ChannelsLast { x, .. } => vec![&mut x.place],
        };
        for at in &mut all {
            **at = place(**at);
        }
    }
}

/// The memory of one run.
#[derive(Debug, Default)]
pub(crate) struct Workspace {
    pub slots: Vec<AlignedBuf>,
    scratch: Scratch,
}

/// What steps read beside the workspace.
#[derive(Clone, Copy)]
pub(crate) struct Fixed<'a> {
    pub input: &'a [f32],
    pub constants: &'a [Vec<f32>],
    /// For nodes that have no kernel.
    pub graph: Option<&'a Graph>,
}

/// Why a step could not be run.
pub(crate) enum Failure {
    Kernel(KernelError),
    Graph(GraphError),
}

impl From<KernelError> for Failure {
    fn from(e: KernelError) -> Self {
        Failure::Kernel(e)
    }
}

struct Memory<'a> {
    fixed: Fixed<'a>,
    slots: &'a [AlignedBuf],
}

impl<'a> Memory<'a> {
    fn all(&self, place: Place) -> &'a [f32] {
        match place {
            Place::Input(_) => self.fixed.input,
            Place::Constant(i) => &self.fixed.constants[i],
            Place::Buffer(i) => &self.slots[i],
        }
    }

    fn from(&self, rows: Rows) -> &'a [f32] {
        &self.all(rows.place)[rows.offset..]
    }

    fn matrix(&self, rows: Rows) -> Matrix<'a> {
        Matrix::new(self.from(rows), rows.ld)
    }

    /// Rows without gaps.
    fn dense(&self, rows: Rows) -> &'a [f32] {
        debug_assert!(rows.ld == rows.cols || rows.rows <= 1);
        &self.all(rows.place)[rows.offset..][..rows.rows * rows.cols]
    }

    fn residual(&self, rows: Option<Rows>) -> Option<Residual<'a>> {
        rows.map(|rows| Residual {
            data: &self.all(rows.place)[rows.offset..],
            ld: rows.ld,
            position: ResidualPosition::BeforeActivation,
        })
    }
}

impl Step {
    /// Runs the step. What it writes is in no buffer that it reads.
    pub fn run(&self, fixed: Fixed<'_>, workspace: &mut Workspace) -> Result<(), Failure> {
        let Place::Buffer(target) = self.to.place else {
            unreachable!("steps write to buffers")
        };
        let mut out = std::mem::take(&mut workspace.slots[target]);
        let memory = Memory {
            fixed,
            slots: &workspace.slots,
        };
        let result = self.call(&memory, &mut out, &mut workspace.scratch);
        workspace.slots[target] = out;
        result
    }

    fn call(
        &self,
        memory: &Memory<'_>,
        out: &mut [f32],
        scratch: &mut Scratch,
    ) -> Result<(), Failure> {
        let to = self.to;
        let y = &mut out[to.offset..];
        let dense = to.rows * to.cols;
        match &self.call {
            Call::Conv {
                stage,
                n,
                x,
                gate,
                residual,
                means,
            } => {
                let mut part = stage.part();
                part.epilogue.residual = memory.residual(*residual);
                let epilogue = &part.epilogue;
                if let (Packing::Pixels(conv), 1..) = (&stage.packed, *means) {
                    let (y, behind) = y.split_at_mut(dense);
                    let (x, y) = (memory.matrix(*x), MatrixMut::new(y, to.ld));
                    conv.run_with_means(*n, x, y, &mut behind[..*means], epilogue)?;
                    return Ok(());
                }
                let y = MatrixMut::new(y, to.ld);
                match (&stage.packed, gate) {
                    (Packing::Planes(conv), _) => conv.run(*n, memory.dense(*x), y, epilogue)?,
                    (Packing::Pixels(conv), None) => {
                        conv.run(*n, memory.matrix(*x), y, scratch, epilogue)?;
                    }
                    (Packing::Pixels(conv), Some(gate)) => {
                        let (x, gate) = (memory.matrix(*x), memory.dense(*gate));
                        conv.run_gated(*n, x, gate, y, epilogue)?;
                    }
                }
            }
            Call::Strips {
                block,
                n,
                x,
                residual,
                means,
            } => {
                let mut parts = InvertedResidual {
                    expand: block.expand.as_ref().map(Stage::part),
                    depthwise: block.depthwise.part(),
                    project: block.project.as_ref().map(Stage::part),
                };
                let last = parts.project.as_mut().unwrap_or(&mut parts.depthwise);
                last.epilogue.residual = memory.residual(*residual);
                let (y, means) = match means {
                    0 => (y, None),
                    means => {
                        let (y, behind) = y.split_at_mut(dense);
                        (y, Some(&mut behind[..*means]))
                    }
                };
                parts.run(*n, memory.matrix(*x), MatrixMut::new(y, to.ld), means)?;
            }
            Call::Linear {
                packed,
                x,
                bias,
                residual,
                activation,
            } => {
                let epilogue = Epilogue {
                    bias: bias.as_deref(),
                    residual: memory.residual(*residual),
                    activation: *activation,
                    ..Epilogue::NONE
                };
                let y = MatrixMut::new(y, to.ld);
                packed.multiply(x.rows, memory.matrix(*x), y, &epilogue)?;
            }
            Call::Affine {
                x,
                scale,
                shift,
                activation,
            } => {
                let y = MatrixMut::new(y, to.ld);
                affine(x.rows, memory.matrix(*x), scale, shift, *activation, y)?;
            }
            Call::Activate { x, activation } => {
                let x_y = InOut::Separate(memory.dense(*x), &mut y[..dense]);
                activation_forward(*activation, x_y)?;
            }
            Call::Add { a, b, activation } => {
                let a_y = InOut::Separate(memory.dense(*a), &mut y[..dense]);
                add_forward(*activation, a_y, memory.dense(*b))?;
            }
            Call::Scale { x, factor, scaling } => {
                let x_y = InOut::Separate(memory.dense(*x), &mut y[..dense]);
                let factor = Factor::SampleChannels(memory.dense(*factor));
                scaling.forward(x_y, factor, None)?;
            }
            Call::MaxPool { x, pool } => pool.forward(memory.dense(*x), &mut y[..dense], None)?,
            Call::AvgPool { x, pool } => pool.forward(memory.dense(*x), &mut y[..dense])?,
            Call::AdaptivePool { x, pool } => pool.forward(memory.dense(*x), &mut y[..dense])?,
            Call::LayerNorm {
                x,
                weight,
                bias,
                eps,
            } => {
                let norm = LayerNorm {
                    channels: x.cols,
                    gamma: Some(weight),
                    beta: bias.as_deref(),
                    epsilon: *eps,
                };
                let x_y = InOut::Separate(memory.dense(*x), &mut y[..dense]);
                norm.forward(x.rows, x_y, None)?;
            }
            Call::ResponseNorm { x, norm } => {
                let x_y = InOut::Separate(memory.dense(*x), &mut y[..dense]);
                norm.forward(x.rows, x_y)?;
            }
            Call::Softmax { x, log } => {
                let x_y = InOut::Separate(memory.dense(*x), &mut y[..dense]);
                match log {
                    true => log_softmax(x.cols, x_y)?,
                    false => softmax(x.cols, x_y)?,
                }
            }
            Call::Attention { shape, qkv, bias } => {
                let qkv = qkv.map(|rows| memory.matrix(rows));
                let y = MatrixMut::new(y, to.ld);
                match bias {
                    Some(rows) => {
                        let bias = ScoreBias {
                            data: memory.dense(*rows),
                            images: rows.rows / (shape.heads * shape.queries),
                        };
                        shape.forward_biased(qkv, bias, y)?;
                    }
                    None => {
                        let [q, k, v] = qkv;
                        shape.forward(q, k, v, y, None)?;
                    }
                }
            }
            Call::Resize { x, resize } => resize.forward(memory.dense(*x), &mut y[..dense])?,
            Call::ChannelsLast { x, shape } => {
                channels_last(*shape, memory.dense(*x), &mut y[..dense])?;
            }
            Call::Map { by, loops, a, b } => {
                by.run(loops, memory.from(*a), memory.from(*b), y)?;
            }
            Call::Reduce { by, loops, x } => reduce(*by, loops, memory.from(*x), y)?,
            Call::Copy { from, to } => copy(from, memory.all(from.place), to, out),
            Call::Reference { node, inputs } => {
                let graph = memory.fixed.graph.expect("kept for such nodes");
                let inputs: Vec<&[f32]> = inputs.iter().map(|rows| memory.dense(*rows)).collect();
                let node = &graph.nodes()[*node];
                let numbers = reference::node(graph, node, &inputs).map_err(Failure::Graph)?;
                y[..dense].copy_from_slice(&numbers);
            }
        }
        Ok(())
    }
}
