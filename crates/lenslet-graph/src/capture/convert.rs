//! Burn's recorded operations in the graph's terms.

use burn::tensor::Slice;
use burn_ir::{
    ActivationOperationIr as Activation, BaseOperationIr as Base, BinaryOpIr,
    BoolOperationIr as Bool, FloatOperationIr as Float, IntOperationIr as Int, InterpolateModeIr,
    ModuleOperationIr as Layer, NumericOperationIr as Numeric, OperationIr, PadModeIr,
    ReduceDimOpIr, ReduceOpIr, ScalarIr, ScalarOpIr, TensorIr, UnaryOpIr,
};

use crate::{Binary, Comparison, InterpolateMode, Op, PadMode, Reduction, Span, Unary};

/// What an operation is in a graph.
pub(super) enum Converted<'a> {
    /// A tensor that is there from the start: handed in, or filled with one number.
    Tensor { out: &'a TensorIr, fill: f64 },
    /// A node.
    Node {
        op: Op,
        inputs: Vec<&'a TensorIr>,
        out: &'a TensorIr,
    },
}

/// The operation in the graph's terms; `None` for one that graphs do not know.
pub(super) fn convert(operation: &OperationIr) -> Option<Converted<'_>> {
    match operation {
        OperationIr::Init(init) => Some(tensor(&init.out, 0.0)),
        OperationIr::BaseFloat(op) | OperationIr::BaseInt(op) | OperationIr::BaseBool(op) => {
            base(op)
        }
        OperationIr::NumericFloat(_, op) => numeric(op),
        OperationIr::NumericInt(_, op) => integer(op),
        OperationIr::Float(_, op) => float(op),
        OperationIr::Module(op) => layer(op),
        OperationIr::Activation(op) => activation(op),
        OperationIr::Bool(op) => boolean(op),
        OperationIr::Int(Int::IntoFloat(op)) => Some(node(Op::Cast, [&op.input], &op.out)),
        _ => None,
    }
}

/// What Burn calls the operation: `NumericFloat CumSum`.
pub(super) fn name(operation: &OperationIr) -> String {
    let text = format!("{operation:?}");
    let words = text.split(|c: char| !c.is_alphanumeric() && c != '_');
    let is_kind = |word: &&str| word.starts_with(char::is_uppercase) && !word.ends_with("Ir");
    let is_type = |word: &&str| matches!(*word, "F16" | "BF16" | "F32" | "F64" | "I32" | "I64");
    let words = words.filter(|word| is_kind(word) && !is_type(word));
    words.take(2).collect::<Vec<_>>().join(" ")
}

fn tensor(out: &TensorIr, fill: f64) -> Converted<'_> {
    Converted::Tensor { out, fill }
}

fn node<'a>(
    op: Op,
    inputs: impl IntoIterator<Item = &'a TensorIr>,
    out: &'a TensorIr,
) -> Converted<'a> {
    let inputs = inputs.into_iter().collect();
    Converted::Node { op, inputs, out }
}

fn unary(by: Unary, op: &UnaryOpIr) -> Converted<'_> {
    node(Op::Unary(by), [&op.input], &op.out)
}

fn binary(by: Binary, op: &BinaryOpIr) -> Converted<'_> {
    node(Op::Binary(by), [&op.lhs, &op.rhs], &op.out)
}

fn scalar(by: Binary, op: &ScalarOpIr) -> Converted<'_> {
    node(Op::Scalar(by, op.rhs.elem()), [&op.lhs], &op.out)
}

fn compare(by: Comparison, op: &BinaryOpIr) -> Converted<'_> {
    node(Op::Compare(by), [&op.lhs, &op.rhs], &op.out)
}

fn compare_scalar(by: Comparison, op: &ScalarOpIr) -> Converted<'_> {
    node(Op::CompareScalar(by, op.rhs.elem()), [&op.lhs], &op.out)
}

fn clamp<'a>(input: &'a TensorIr, [min, max]: [f64; 2], out: &'a TensorIr) -> Converted<'a> {
    node(Op::Unary(Unary::Clamp { min, max }), [input], out)
}

fn reduce(by: Reduction, op: &ReduceDimOpIr) -> Converted<'_> {
    let dims = vec![op.axis];
    node(Op::Reduce { by, dims }, [&op.input], &op.out)
}

/// A reduction of everything gives a tensor of rank 1, which only a reshape of the kept
/// dimensions could be; it is left to models that need it.
fn reduce_all(by: Reduction, op: &ReduceOpIr) -> Option<Converted<'_>> {
    let is_vector = op.input.shape.num_dims() == op.out.shape.num_dims();
    let dims = (0..op.input.shape.num_dims()).collect();
    is_vector.then(|| node(Op::Reduce { by, dims }, [&op.input], &op.out))
}

fn base(op: &Base) -> Option<Converted<'_>> {
    Some(match op {
        Base::Reshape(op) => node(Op::Reshape, [&op.input], &op.out),
        Base::SwapDims(op) => {
            let mut axes: Vec<usize> = (0..op.input.shape.num_dims()).collect();
            axes.swap(op.dim1, op.dim2);
            node(Op::Permute(axes), [&op.input], &op.out)
        }
        Base::Permute(op) => node(Op::Permute(op.axes.clone()), [&op.input], &op.out),
        Base::Flip(op) => node(Op::Flip(op.axes.clone()), [&op.input], &op.out),
        Base::Expand(op) => node(Op::Expand, [&op.input], &op.out),
        Base::Slice(op) => {
            let sizes = op.tensor.shape.iter();
            let given = op.ranges.iter().map(Some).chain(std::iter::repeat(None));
            let spans = sizes.zip(given).map(|(&size, range)| span(size, range));
            node(Op::Slice(spans.collect()), [&op.tensor], &op.out)
        }
        Base::Select(op) => {
            let select = Op::Select { dim: op.dim };
            node(select, [&op.tensor, &op.indices], &op.out)
        }
        Base::Gather(op) => {
            let gather = Op::Gather { dim: op.dim };
            node(gather, [&op.tensor, &op.indices], &op.out)
        }
        Base::MaskWhere(op) => node(Op::MaskWhere, [&op.tensor, &op.mask, &op.value], &op.out),
        Base::MaskFill(op) => {
            let fill = Op::MaskFill(op.value.elem());
            node(fill, [&op.tensor, &op.mask], &op.out)
        }
        Base::Equal(op) => compare(Comparison::Equal, op),
        Base::EqualElem(op) => compare_scalar(Comparison::Equal, op),
        Base::NotEqual(op) => compare(Comparison::NotEqual, op),
        Base::NotEqualElem(op) => compare_scalar(Comparison::NotEqual, op),
        Base::RepeatDim(op) => {
            let (dim, times) = (op.dim, op.times);
            node(Op::Repeat { dim, times }, [&op.tensor], &op.out)
        }
        Base::Cat(op) => node(Op::Concat { dim: op.dim }, &op.tensors, &op.out),
        Base::Cast(op) => node(Op::Cast, [&op.input], &op.out),
        Base::Empty(op) | Base::Zeros(op) => tensor(&op.out, 0.0),
        Base::Ones(op) => tensor(&op.out, 1.0),
        _ => return None,
    })
}

/// The places that a slice of a dimension reads.
fn span(size: usize, slice: Option<&Slice>) -> Span {
    let Some(slice) = slice else {
        return Span {
            start: 0,
            len: size,
            step: 1,
        };
    };
    let range = slice.to_range(size);
    let len = slice.output_size(size);
    let start = if slice.is_reversed() {
        range.end.saturating_sub(1)
    } else {
        range.start
    };
    Span {
        start,
        len,
        step: slice.step,
    }
}

/// Integers divide and take means otherwise than floating-point numbers do.
fn integer(op: &Numeric) -> Option<Converted<'_>> {
    match op {
        Numeric::Div(_) | Numeric::DivScalar(_) | Numeric::MeanDim(_) | Numeric::Mean(_) => None,
        _ => numeric(op),
    }
}

fn numeric(op: &Numeric) -> Option<Converted<'_>> {
    Some(match op {
        Numeric::Add(op) => binary(Binary::Add, op),
        Numeric::AddScalar(op) => scalar(Binary::Add, op),
        Numeric::Sub(op) => binary(Binary::Sub, op),
        Numeric::SubScalar(op) => scalar(Binary::Sub, op),
        Numeric::Mul(op) => binary(Binary::Mul, op),
        Numeric::MulScalar(op) => scalar(Binary::Mul, op),
        Numeric::Div(op) => binary(Binary::Div, op),
        Numeric::DivScalar(op) => scalar(Binary::Div, op),
        Numeric::Powi(op) => binary(Binary::Pow, op),
        Numeric::PowiScalar(op) => scalar(Binary::Pow, op),
        Numeric::Abs(op) => unary(Unary::Abs, op),
        Numeric::Neg(op) => unary(Unary::Neg, op),
        Numeric::Sign(op) => unary(Unary::Sign, op),
        Numeric::Full(op) => tensor(&op.out, op.value.elem()),
        Numeric::MeanDim(op) => reduce(Reduction::Mean, op),
        Numeric::SumDim(op) => reduce(Reduction::Sum, op),
        Numeric::ProdDim(op) => reduce(Reduction::Prod, op),
        Numeric::MaxDim(op) => reduce(Reduction::Max, op),
        Numeric::MinDim(op) => reduce(Reduction::Min, op),
        Numeric::SumDims(op) => {
            let (by, dims) = (Reduction::Sum, op.axes.clone());
            node(Op::Reduce { by, dims }, [&op.input], &op.out)
        }
        Numeric::MaxDimWithIndices(op) => {
            let (by, dims) = (Reduction::Max, vec![op.dim]);
            node(Op::Reduce { by, dims }, [&op.tensor], &op.out)
        }
        Numeric::MinDimWithIndices(op) => {
            let (by, dims) = (Reduction::Min, vec![op.dim]);
            node(Op::Reduce { by, dims }, [&op.tensor], &op.out)
        }
        Numeric::Mean(op) => return reduce_all(Reduction::Mean, op),
        Numeric::Sum(op) => return reduce_all(Reduction::Sum, op),
        Numeric::Prod(op) => return reduce_all(Reduction::Prod, op),
        Numeric::Max(op) => return reduce_all(Reduction::Max, op),
        Numeric::Min(op) => return reduce_all(Reduction::Min, op),
        Numeric::Greater(op) => compare(Comparison::Greater, op),
        Numeric::GreaterElem(op) => compare_scalar(Comparison::Greater, op),
        Numeric::GreaterEqual(op) => compare(Comparison::GreaterEqual, op),
        Numeric::GreaterEqualElem(op) => compare_scalar(Comparison::GreaterEqual, op),
        Numeric::Lower(op) => compare(Comparison::Less, op),
        Numeric::LowerElem(op) => compare_scalar(Comparison::Less, op),
        Numeric::LowerEqual(op) => compare(Comparison::LessEqual, op),
        Numeric::LowerEqualElem(op) => compare_scalar(Comparison::LessEqual, op),
        Numeric::Clamp(op) => clamp(&op.tensor, [op.min.elem(), op.max.elem()], &op.out),
        Numeric::ClampMin(op) => clamp(&op.lhs, [op.rhs.elem(), f64::INFINITY], &op.out),
        Numeric::ClampMax(op) => clamp(&op.lhs, [f64::NEG_INFINITY, op.rhs.elem()], &op.out),
        Numeric::Pad(op) => {
            let mode = match op.mode {
                PadModeIr::Constant(value) => PadMode::Constant(value.elem()),
                PadModeIr::Reflect => PadMode::Reflect,
                PadModeIr::Edge => PadMode::Edge,
            };
            let padding = op.padding.clone();
            node(Op::Pad { padding, mode }, [&op.input], &op.out)
        }
        _ => return None,
    })
}

fn float(op: &Float) -> Option<Converted<'_>> {
    Some(match op {
        Float::Exp(op) => unary(Unary::Exp, op),
        Float::Log(op) => unary(Unary::Log, op),
        Float::Log1p(op) => unary(Unary::Log1p, op),
        Float::Erf(op) => unary(Unary::Erf, op),
        Float::PowfScalar(op) => scalar(Binary::Pow, op),
        Float::Powf(op) => binary(Binary::Pow, op),
        Float::Sqrt(op) => unary(Unary::Sqrt, op),
        Float::Cos(op) => unary(Unary::Cos, op),
        Float::Sin(op) => unary(Unary::Sin, op),
        Float::Tanh(op) => unary(Unary::Tanh, op),
        Float::Round(op) => unary(Unary::Round, op),
        Float::Floor(op) => unary(Unary::Floor, op),
        Float::Ceil(op) => unary(Unary::Ceil, op),
        Float::Recip(op) => unary(Unary::Recip, op),
        Float::IntoInt(op) => node(Op::Cast, [&op.input], &op.out),
        Float::Matmul(op) => node(Op::Matmul, [&op.lhs, &op.rhs], &op.out),
        _ => return None,
    })
}

fn layer(op: &Layer) -> Option<Converted<'_>> {
    Some(match op {
        Layer::Conv2d(op) => {
            let conv = Op::Conv2d {
                stride: op.options.stride,
                padding: op.options.padding,
                dilation: op.options.dilation,
                groups: op.options.groups,
            };
            node(
                conv,
                [&op.x, &op.weight].into_iter().chain(&op.bias),
                &op.out,
            )
        }
        Layer::ConvTranspose2d(op) => {
            let conv = Op::ConvTranspose2d {
                stride: op.options.stride,
                padding: op.options.padding,
                output_padding: op.options.padding_out,
                dilation: op.options.dilation,
                groups: op.options.groups,
            };
            node(
                conv,
                [&op.x, &op.weight].into_iter().chain(&op.bias),
                &op.out,
            )
        }
        Layer::BatchNorm(op) => {
            let eps = op.epsilon.elem();
            let inputs = [&op.x, &op.gamma, &op.beta, &op.mean, &op.variance];
            node(Op::BatchNorm { eps }, inputs, &op.out)
        }
        Layer::LayerNorm(op) => {
            let eps = op.epsilon.elem();
            let inputs = [&op.input, &op.gamma].into_iter().chain(&op.beta);
            node(Op::LayerNorm { eps }, inputs, &op.out)
        }
        Layer::MaxPool2d(op) => {
            let pool = Op::MaxPool2d {
                kernel: op.kernel_size,
                stride: op.stride,
                padding: op.padding,
                dilation: op.dilation,
                ceil_mode: op.ceil_mode,
            };
            node(pool, [&op.x], &op.out)
        }
        Layer::MaxPool2dWithIndices(op) => {
            let pool = Op::MaxPool2d {
                kernel: op.kernel_size,
                stride: op.stride,
                padding: op.padding,
                dilation: op.dilation,
                ceil_mode: op.ceil_mode,
            };
            node(pool, [&op.x], &op.out)
        }
        Layer::AvgPool2d(op) => {
            let pool = Op::AvgPool2d {
                kernel: op.kernel_size,
                stride: op.stride,
                padding: op.padding,
                count_include_pad: op.count_include_pad,
                ceil_mode: op.ceil_mode,
            };
            node(pool, [&op.x], &op.out)
        }
        Layer::AdaptiveAvgPool2d(op) => node(Op::AdaptiveAvgPool2d, [&op.x], &op.out),
        Layer::Interpolate(op) => {
            let mode = match op.options.mode {
                InterpolateModeIr::Nearest => InterpolateMode::Nearest,
                InterpolateModeIr::Bilinear => InterpolateMode::Bilinear,
                InterpolateModeIr::Bicubic => InterpolateMode::Bicubic,
                InterpolateModeIr::NearestExact | InterpolateModeIr::Lanczos3 => return None,
            };
            let align_corners = op.options.align_corners;
            let interpolate = Op::Interpolate {
                mode,
                align_corners,
            };
            node(interpolate, [&op.x], &op.out)
        }
        Layer::Attention(op) => {
            let number = |value: Option<ScalarIr>| value.map(ScalarIr::elem);
            let attention = Op::Attention {
                scale: number(op.options.scale),
                softcap: number(op.options.softcap),
                causal: op.options.is_causal,
                mask: op.mask.is_some(),
                bias: op.attn_bias.is_some(),
            };
            let inputs = [&op.query, &op.key, &op.value].into_iter();
            let inputs = inputs.chain(&op.mask).chain(&op.attn_bias);
            node(attention, inputs, &op.out)
        }
        _ => return None,
    })
}

fn activation(op: &Activation) -> Option<Converted<'_>> {
    Some(match op {
        Activation::Relu(op) => unary(Unary::Relu, op),
        Activation::LeakyRelu(op) => {
            let slope = op.rhs.elem();
            node(Op::Unary(Unary::LeakyRelu { slope }), [&op.lhs], &op.out)
        }
        Activation::PRelu(op) => binary(Binary::PRelu, op),
        Activation::Gelu(op) => unary(Unary::Gelu, op),
        Activation::Sigmoid(op) => unary(Unary::Sigmoid, op),
        Activation::HardSigmoid(op) => {
            let (alpha, beta) = (op.alpha.elem(), op.beta.elem());
            let by = Unary::HardSigmoid { alpha, beta };
            node(Op::Unary(by), [&op.tensor], &op.out)
        }
        Activation::LogSigmoid(op) => unary(Unary::LogSigmoid, op),
        Activation::Softmax(op) => node(Op::Softmax { dim: op.axis }, [&op.input], &op.out),
        Activation::LogSoftmax(op) => node(Op::LogSoftmax { dim: op.axis }, [&op.input], &op.out),
        _ => return None,
    })
}

fn boolean(op: &Bool) -> Option<Converted<'_>> {
    Some(match op {
        Bool::IntoFloat(op) | Bool::IntoInt(op) => node(Op::Cast, [&op.input], &op.out),
        Bool::Not(op) => unary(Unary::Not, op),
        Bool::And(op) => binary(Binary::And, op),
        Bool::Or(op) => binary(Binary::Or, op),
        Bool::Xor(_) => return None,
    })
}
