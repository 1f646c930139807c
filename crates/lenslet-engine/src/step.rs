//! What a session's steps are: kernel calls, and what they read and hold.

use lenslet_graph::{Field, Reduction};
use lenslet_kernels::{
    Activation, AdaptiveAveragePool2d, Attention, AveragePool2d, Conv2d, ElementMap, Epilogue,
    LocalResponseNorm, MaxPool2d, PackedConv, PackedMatrix, Part, PartConv, PlanesConv, Reduce,
    Resize2d, Scaling,
};

use crate::pointwise::Function;
use crate::view::{Place, Rows, View};

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

    pub fn part(&self) -> Part<'_> {
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

    /// When the kernel is taken.
    pub fn rule(&self) -> &'static str {
        match self {
            Call::Conv { stage, .. } => match &stage.packed {
                Packing::Pixels(conv) => conv.algorithm().rule(),
                Packing::Planes(_) => {
                    "a first convolution of few channels, which reads the image's planes as they come in"
                }
            },
            Call::Strips { .. } => {
                "a depthwise convolution whose map would leave the caches, or is small, with those beside it"
            }
            Call::Linear { .. } => "products with weights, packed in panels",
            Call::Affine { .. } => "a norm that no weight before it takes in",
            Call::Activate { .. } => "an activation whose input is read by others, too",
            Call::Add { .. } => "a sum that no layer before it takes in",
            Call::Scale { .. } => "factors that no weight behind them takes in",
            Call::Attention { .. } => {
                "softmax(q k^T) v, tile by tile: the scores are never all written"
            }
            Call::Copy { .. } | Call::ChannelsLast { .. } => {
                "an order of memory that the next kernel cannot read"
            }
            Call::Map { .. } | Call::Reduce { .. } => {
                "element-wise operations and reductions over any dimensions"
            }
            Call::Reference { .. } => "no kernel serves it: computed plainly",
            Call::MaxPool { .. }
            | Call::AvgPool { .. }
            | Call::AdaptivePool { .. }
            | Call::LayerNorm { .. }
            | Call::ResponseNorm { .. }
            | Call::Softmax { .. }
            | Call::Resize { .. } => "the only kernel for its layer",
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
