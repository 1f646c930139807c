//! Operations on one element at a time.

use super::tensor::Tensor;
use crate::{Binary, Comparison, Kind, Unary};

pub(super) fn map(x: &Tensor, number: impl Fn(f64) -> f64) -> Tensor {
    let numbers = x.numbers().iter().map(|&v| number(f64::from(v)) as f32);
    Tensor::new(x.shape.clone(), numbers.collect())
}

pub(super) fn binary(by: Binary, inputs: &[Tensor], shape: &[usize]) -> Tensor {
    let [a, b] = [&inputs[0], &inputs[1]];
    Tensor::from_fn(shape, |at| by.apply(a.broadcast(at), b.broadcast(at)))
}

pub(super) fn compare(by: Comparison, inputs: &[Tensor], shape: &[usize]) -> Tensor {
    let [a, b] = [&inputs[0], &inputs[1]];
    Tensor::from_fn(shape, |at| by.apply(a.broadcast(at), b.broadcast(at)))
}

/// `x` where the mask does not hold, else the number, or the third input's element.
pub(super) fn mask(inputs: &[Tensor], shape: &[usize], fill: Option<f64>) -> Tensor {
    Tensor::from_fn(shape, |at| {
        if inputs[1].broadcast(at) == 0.0 {
            inputs[0].broadcast(at)
        } else {
            fill.unwrap_or_else(|| inputs[2].broadcast(at))
        }
    })
}

pub(super) fn cast(x: &Tensor, kind: Kind) -> Tensor {
    match kind {
        Kind::Float => x.clone(),
        Kind::Integer => map(x, f64::trunc),
        Kind::Boolean => map(x, |v| truth(v != 0.0)),
    }
}

fn truth(holds: bool) -> f64 {
    f64::from(u8::from(holds))
}

impl Binary {
    /// The function of two numbers; truth is 1.
    pub fn apply(self, a: f64, b: f64) -> f64 {
        match self {
            Binary::Add => a + b,
            Binary::Sub => a - b,
            Binary::Mul => a * b,
            Binary::Div => a / b,
            Binary::Pow => a.powf(b),
            Binary::PRelu if a >= 0.0 => a,
            Binary::PRelu => a * b,
            Binary::And => truth(a != 0.0 && b != 0.0),
            Binary::Or => truth(a != 0.0 || b != 0.0),
        }
    }
}

impl Comparison {
    /// The answer for two numbers, 1 if it holds.
    pub fn apply(self, a: f64, b: f64) -> f64 {
        truth(match self {
            Comparison::Equal => a == b,
            Comparison::NotEqual => a != b,
            Comparison::Greater => a > b,
            Comparison::GreaterEqual => a >= b,
            Comparison::Less => a < b,
            Comparison::LessEqual => a <= b,
        })
    }
}

impl Unary {
    /// The function of a number; truth is 1.
    pub fn apply(self, x: f64) -> f64 {
        match self {
            Unary::Relu => x.max(0.0),
            Unary::LeakyRelu { slope } if x < 0.0 => slope * x,
            Unary::LeakyRelu { .. } => x,
            Unary::Gelu => x / 2.0 * (1.0 + libm::erf(x / std::f64::consts::SQRT_2)),
            Unary::Sigmoid => 1.0 / (1.0 + (-x).exp()),
            Unary::LogSigmoid => x.min(0.0) - (-x.abs()).exp().ln_1p(),
            Unary::HardSigmoid { alpha, beta } => (alpha * x + beta).clamp(0.0, 1.0),
            Unary::Clamp { min, max } => x.max(min).min(max),
            Unary::Tanh => x.tanh(),
            Unary::Exp => x.exp(),
            Unary::Log => x.ln(),
            Unary::Log1p => x.ln_1p(),
            Unary::Sqrt => x.sqrt(),
            Unary::Erf => libm::erf(x),
            Unary::Abs => x.abs(),
            Unary::Neg => -x,
            Unary::Recip => 1.0 / x,
            Unary::Sign if x == 0.0 => 0.0,
            Unary::Sign => x.signum(),
            Unary::Floor => x.floor(),
            Unary::Ceil => x.ceil(),
            Unary::Round => x.round_ties_even(),
            Unary::Sin => x.sin(),
            Unary::Cos => x.cos(),
            Unary::Not => truth(x == 0.0),
        }
    }
}
