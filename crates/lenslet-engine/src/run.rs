//! How steps are run.

use lenslet_graph::{Graph, GraphError, reference};
use lenslet_kernels::{
    AlignedBuf, Epilogue, Factor, InOut, InvertedResidual, KernelError, LayerNorm, Matrix,
    MatrixMut, Residual, ResidualPosition, ScoreBias, Scratch, activation_forward, add_forward,
    affine, channels_last, log_softmax, softmax,
};

use crate::pointwise::reduce;
use crate::step::{Call, Packing, Stage, Step};
use crate::view::{Place, Rows, copy};

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

/// A map of so many numbers, and so many behind it, if any.
fn and_behind(y: &mut [f32], map: usize, behind: usize) -> (&mut [f32], Option<&mut [f32]>) {
    match behind {
        0 => (y, None),
        behind => {
            let (y, rest) = y.split_at_mut(map);
            (y, Some(&mut rest[..behind]))
        }
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
                let (y, means) = and_behind(y, dense, *means);
                let y = MatrixMut::new(y, to.ld);
                match (&stage.packed, gate, means) {
                    (Packing::Planes(conv), ..) => conv.run(*n, memory.dense(*x), y, epilogue)?,
                    (Packing::Pixels(conv), Some(gate), _) => {
                        let (x, gate) = (memory.matrix(*x), memory.dense(*gate));
                        conv.run_gated(*n, x, gate, y, epilogue)?;
                    }
                    (Packing::Pixels(conv), None, Some(means)) => {
                        conv.run_with_means(*n, memory.matrix(*x), y, means, epilogue)?;
                    }
                    (Packing::Pixels(conv), None, None) => {
                        conv.run(*n, memory.matrix(*x), y, scratch, epilogue)?;
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
                let (y, means) = and_behind(y, dense, *means);
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
