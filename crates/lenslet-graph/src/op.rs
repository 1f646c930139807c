//! What nodes compute.

/// The operation of a node. Inputs are listed in the order of the node's inputs; dimensions are
/// counted from 0; feature maps are `[N, C, H, W]`.
///
/// What the shape of the output already says (the size of a reshape, an expansion, an
/// interpolation or an adaptive pooling) is not repeated here.
#[derive(Debug, Clone, PartialEq)]
pub enum Op {
    /// `x [N, C, H, W]`, `weight [out, C / groups, kh, kw]` and, where present, `bias [out]`.
    Conv2d {
        /// Rows and columns between output positions.
        stride: [usize; 2],
        /// Zeros `(before, after)` in rows and in columns.
        padding: [(usize, usize); 2],
        /// Distance between kernel taps.
        dilation: [usize; 2],
        /// Channel groups that are convolved apart.
        groups: usize,
    },
    /// `x [N, C, H, W]`, `weight [C, out / groups, kh, kw]` and, where present, `bias [out]`.
    ConvTranspose2d {
        /// Rows and columns between the places that input positions are spread to.
        stride: [usize; 2],
        /// What is cut off every side of the output.
        padding: [usize; 2],
        /// What is added below and to the right of the output.
        output_padding: [usize; 2],
        /// Distance between kernel taps.
        dilation: [usize; 2],
        /// Channel groups that are convolved apart.
        groups: usize,
    },
    /// `x [N, C, …]`, then weight, bias, mean and variance, each `[C]`:
    /// `(x - mean) / sqrt(variance + eps) * weight + bias`.
    BatchNorm {
        /// Added to the variance.
        eps: f64,
    },
    /// `x […, features]`, `weight [features]` and, where present, `bias [features]`: normalised
    /// over the last dimension.
    LayerNorm {
        /// Added to the variance.
        eps: f64,
    },
    /// `[…, m, k]` times `[…, k, n]`; leading dimensions broadcast.
    Matmul,
    /// Queries `[N, heads, L, d]`, keys `[N, heads, S, d]`, values `[N, heads, S, e]`, then a mask
    /// (true hides) and a bias added to the scores, where present.
    Attention {
        /// Factor of the scores; `1 / sqrt(d)` where none.
        scale: Option<f64>,
        /// Scores pass through `cap * tanh(score / cap)`.
        softcap: Option<f64>,
        /// Whether later positions are hidden from earlier ones.
        causal: bool,
        /// Whether there is a mask.
        mask: bool,
        /// Whether there is a bias.
        bias: bool,
    },
    /// Two tensors element by element; dimensions of length 1 broadcast.
    Binary(Binary),
    /// A tensor and a number, which stands on the right.
    Scalar(Binary, f64),
    /// A function of every element.
    Unary(Unary),
    /// Two tensors element by element to a Boolean one; dimensions of length 1 broadcast.
    Compare(Comparison),
    /// A tensor and a number, which stands on the right, to a Boolean tensor.
    CompareScalar(Comparison, f64),
    /// `x` and a mask: the number where the mask is true, else `x`.
    MaskFill(f64),
    /// `x`, a mask and `y`: `y` where the mask is true, else `x`.
    MaskWhere,
    /// The same numbers as another [`Kind`](crate::Kind); from floating point to integers by
    /// cutting off the fraction.
    Cast,
    /// `exp(x)` over the sum of all `exp(x)` along a dimension.
    Softmax {
        /// The dimension.
        dim: usize,
    },
    /// The logarithm of the softmax.
    LogSoftmax {
        /// The dimension.
        dim: usize,
    },
    /// The largest value of every window; padding is below every value.
    MaxPool2d {
        /// Rows and columns of a window.
        kernel: [usize; 2],
        /// Rows and columns between windows.
        stride: [usize; 2],
        /// Border on both sides of rows and of columns.
        padding: [usize; 2],
        /// Distance between the positions of a window.
        dilation: [usize; 2],
        /// Whether a last window that leaves the input is kept.
        ceil_mode: bool,
    },
    /// The mean of every window.
    AvgPool2d {
        /// Rows and columns of a window.
        kernel: [usize; 2],
        /// Rows and columns between windows.
        stride: [usize; 2],
        /// Zeros on both sides of rows and of columns.
        padding: [usize; 2],
        /// Whether those zeros count in the mean.
        count_include_pad: bool,
        /// Whether a last window that leaves the input is kept.
        ceil_mode: bool,
    },
    /// Means over windows from `floor(i * size / n)` to `ceil((i + 1) * size / n)`, `n` the
    /// output's size.
    AdaptiveAvgPool2d,
    /// One number over some dimensions, which stay with length 1.
    Reduce {
        /// Which number.
        by: Reduction,
        /// The dimensions.
        dims: Vec<usize>,
    },
    /// Any number of tensors, one after the other along a dimension.
    Concat {
        /// The dimension.
        dim: usize,
    },
    /// The same numbers in row-major order in another shape.
    Reshape,
    /// Dimension `i` of the output is dimension `axes[i]` of the input.
    Permute(Vec<usize>),
    /// Dimensions of length 1, and new ones in front, are repeated to the output's shape.
    Expand,
    /// A part of every dimension.
    Slice(Vec<Span>),
    /// More elements `(before, after)` in every dimension.
    Pad {
        /// How many.
        padding: Vec<(usize, usize)>,
        /// What they are.
        mode: PadMode,
    },
    /// The reverse order along some dimensions.
    Flip(Vec<usize>),
    /// The whole, several times one after the other along a dimension.
    Repeat {
        /// The dimension.
        dim: usize,
        /// How often.
        times: usize,
    },
    /// `x` and indices `[n]`: the entries at those places along a dimension.
    Select {
        /// The dimension.
        dim: usize,
    },
    /// `x` and indices of the output's shape: at every position the entry at that place along a
    /// dimension.
    Gather {
        /// The dimension.
        dim: usize,
    },
    /// A feature map at another size.
    Interpolate {
        /// How positions between the given ones are filled.
        mode: InterpolateMode,
        /// Whether the corners' centres stay corners.
        align_corners: bool,
    },
}

/// What two numbers become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binary {
    /// `a + b`
    Add,
    /// `a - b`
    Sub,
    /// `a * b`
    Mul,
    /// `a / b`
    Div,
    /// `a` to the power of `b`
    Pow,
    /// `a` where positive, else `a * b`
    PRelu,
    /// Whether both are true
    And,
    /// Whether one is true
    Or,
}

/// What a number becomes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Unary {
    /// `max(x, 0)`
    Relu,
    /// `x` where positive, else `slope * x`
    LeakyRelu {
        /// Factor of negative inputs.
        slope: f64,
    },
    /// `x / 2 * (1 + erf(x / sqrt(2)))`
    Gelu,
    /// `1 / (1 + exp(-x))`
    Sigmoid,
    /// `log(1 / (1 + exp(-x)))`
    LogSigmoid,
    /// `min(max(alpha * x + beta, 0), 1)`
    HardSigmoid {
        /// Factor.
        alpha: f64,
        /// Summand.
        beta: f64,
    },
    /// `min(max(x, min), max)`; a bound that does not exist is infinite.
    Clamp {
        /// Lower bound.
        min: f64,
        /// Upper bound.
        max: f64,
    },
    /// `tanh(x)`
    Tanh,
    /// `exp(x)`
    Exp,
    /// `ln(x)`
    Log,
    /// `ln(1 + x)`
    Log1p,
    /// The square root
    Sqrt,
    /// The error function
    Erf,
    /// `|x|`
    Abs,
    /// `-x`
    Neg,
    /// `1 / x`
    Recip,
    /// -1, 0 or 1
    Sign,
    /// The next integer below
    Floor,
    /// The next integer above
    Ceil,
    /// The nearest integer, the even one of two
    Round,
    /// `sin(x)`
    Sin,
    /// `cos(x)`
    Cos,
    /// The other truth value
    Not,
}

/// A question about two numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// `a == b`
    Equal,
    /// `a != b`
    NotEqual,
    /// `a > b`
    Greater,
    /// `a >= b`
    GreaterEqual,
    /// `a < b`
    Less,
    /// `a <= b`
    LessEqual,
}

/// What many numbers become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reduction {
    /// Their sum
    Sum,
    /// Their mean
    Mean,
    /// The largest
    Max,
    /// The smallest
    Min,
    /// Their product
    Prod,
}

/// Evenly spaced places along a dimension: `start`, `start + step`, …, `len` of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The first place.
    pub start: usize,
    /// How many places.
    pub len: usize,
    /// From one place to the next; negative for the reverse order.
    pub step: isize,
}

/// What stands in a border.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum PadMode {
    /// This number.
    Constant(f64),
    /// The inside, mirrored at the edge, without the edge itself.
    Reflect,
    /// The edge, repeated.
    Edge,
}

/// How positions between the given ones are filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InterpolateMode {
    /// The value at `floor(i * from / to)`.
    Nearest,
    /// Linear between the two neighbours on each axis.
    Bilinear,
    /// Cubic convolution over four neighbours on each axis (`a = -0.75`).
    Bicubic,
}

impl Op {
    /// A short name, as ONNX and PyTorch would write it in lower case.
    pub fn name(&self) -> &'static str {
        match self {
            Op::Conv2d { .. } => "conv2d",
            Op::ConvTranspose2d { .. } => "conv_transpose2d",
            Op::BatchNorm { .. } => "batch_norm",
            Op::LayerNorm { .. } => "layer_norm",
            Op::Matmul => "matmul",
            Op::Attention { .. } => "attention",
            Op::Binary(by) | Op::Scalar(by, _) => by.name(),
            Op::Unary(by) => by.name(),
            Op::Compare(by) | Op::CompareScalar(by, _) => by.name(),
            Op::MaskFill(_) => "mask_fill",
            Op::MaskWhere => "mask_where",
            Op::Cast => "cast",
            Op::Softmax { .. } => "softmax",
            Op::LogSoftmax { .. } => "log_softmax",
            Op::MaxPool2d { .. } => "max_pool2d",
            Op::AvgPool2d { .. } => "avg_pool2d",
            Op::AdaptiveAvgPool2d => "adaptive_avg_pool2d",
            Op::Reduce { by, .. } => by.name(),
            Op::Concat { .. } => "concat",
            Op::Reshape => "reshape",
            Op::Permute(_) => "permute",
            Op::Expand => "expand",
            Op::Slice(_) => "slice",
            Op::Pad { .. } => "pad",
            Op::Flip(_) => "flip",
            Op::Repeat { .. } => "repeat",
            Op::Select { .. } => "select",
            Op::Gather { .. } => "gather",
            Op::Interpolate { .. } => "interpolate",
        }
    }

    /// Whether every element of the output depends on the elements at the same place only, so
    /// that the operation is the same in any order of the dimensions.
    pub fn is_elementwise(&self) -> bool {
        matches!(
            self,
            Op::Binary(_)
                | Op::Scalar(..)
                | Op::Unary(_)
                | Op::Compare(_)
                | Op::CompareScalar(..)
                | Op::MaskFill(_)
                | Op::MaskWhere
                | Op::Cast
        )
    }

    /// Whether this is a layer that holds weights of its own in image models, the one that gives
    /// its module the name.
    pub fn is_layer(&self) -> bool {
        matches!(
            self,
            Op::Conv2d { .. }
                | Op::ConvTranspose2d { .. }
                | Op::BatchNorm { .. }
                | Op::LayerNorm { .. }
                | Op::Matmul
        )
    }
}

impl Binary {
    fn name(self) -> &'static str {
        match self {
            Binary::Add => "add",
            Binary::Sub => "sub",
            Binary::Mul => "mul",
            Binary::Div => "div",
            Binary::Pow => "pow",
            Binary::PRelu => "prelu",
            Binary::And => "and",
            Binary::Or => "or",
        }
    }
}

impl Unary {
    fn name(self) -> &'static str {
        match self {
            Unary::Relu => "relu",
            Unary::LeakyRelu { .. } => "leaky_relu",
            Unary::Gelu => "gelu",
            Unary::Sigmoid => "sigmoid",
            Unary::LogSigmoid => "log_sigmoid",
            Unary::HardSigmoid { .. } => "hard_sigmoid",
            Unary::Clamp { .. } => "clamp",
            Unary::Tanh => "tanh",
            Unary::Exp => "exp",
            Unary::Log => "log",
            Unary::Log1p => "log1p",
            Unary::Sqrt => "sqrt",
            Unary::Erf => "erf",
            Unary::Abs => "abs",
            Unary::Neg => "neg",
            Unary::Recip => "recip",
            Unary::Sign => "sign",
            Unary::Floor => "floor",
            Unary::Ceil => "ceil",
            Unary::Round => "round",
            Unary::Sin => "sin",
            Unary::Cos => "cos",
            Unary::Not => "not",
        }
    }
}

impl Comparison {
    fn name(self) -> &'static str {
        match self {
            Comparison::Equal => "equal",
            Comparison::NotEqual => "not_equal",
            Comparison::Greater => "greater",
            Comparison::GreaterEqual => "greater_equal",
            Comparison::Less => "less",
            Comparison::LessEqual => "less_equal",
        }
    }
}

impl Reduction {
    fn name(self) -> &'static str {
        match self {
            Reduction::Sum => "sum",
            Reduction::Mean => "mean",
            Reduction::Max => "reduce_max",
            Reduction::Min => "reduce_min",
            Reduction::Prod => "prod",
        }
    }
}
