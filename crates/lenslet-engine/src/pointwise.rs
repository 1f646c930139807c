//! Nodes that compute a function of every element, or a number of all elements along some dimensions.

use lenslet_graph::{Binary, Comparison, Op, Reduction, Unary};
use lenslet_kernels::{ElementMap, KernelError, Reduce};

/// A function of one or two numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Function {
    Binary(Binary),
    Compare(Comparison),
    Unary(Unary),
}

impl Function {
    /// The function of a node, and the second number where the node holds it.
    pub fn of(op: &Op) -> Option<(Self, Option<f32>)> {
        Some(match op {
            Op::Binary(by) => (Self::Binary(*by), None),
            Op::Compare(by) => (Self::Compare(*by), None),
            Op::Scalar(by, number) => (Self::Binary(*by), Some(*number as f32)),
            Op::CompareScalar(by, number) => (Self::Compare(*by), Some(*number as f32)),
            Op::Unary(by) => (Self::Unary(*by), None),
            _ => return None,
        })
    }

    /// y = f(a, b). The four operations are computed in 32 bits, the others in 64.
    pub fn run(
        self,
        map: &ElementMap,
        a: &[f32],
        b: &[f32],
        y: &mut [f32],
    ) -> Result<(), KernelError> {
        let wide = |f: &(dyn Fn(f64, f64) -> f64 + Sync), y: &mut [f32]| {
            map.run(a, b, y, |a, b| f(f64::from(a), f64::from(b)) as f32)
        };
        match self {
            Self::Binary(Binary::Add) => map.run(a, b, y, |a, b| a + b),
            Self::Binary(Binary::Sub) => map.run(a, b, y, |a, b| a - b),
            Self::Binary(Binary::Mul) => map.run(a, b, y, |a, b| a * b),
            Self::Binary(Binary::Div) => map.run(a, b, y, |a, b| a / b),
            Self::Binary(by) => wide(&|a, b| by.apply(a, b), y),
            Self::Compare(by) => wide(&|a, b| by.apply(a, b), y),
            Self::Unary(by) => wide(&|a, _| by.apply(a), y),
        }
    }
}

/// Computes a reduction.
pub(crate) fn reduce(
    by: Reduction,
    loops: &Reduce,
    x: &[f32],
    y: &mut [f32],
) -> Result<(), KernelError> {
    let count = loops.count() as f64;
    match by {
        Reduction::Sum => loops.run(x, y, 0.0, |sum, x| sum + x, |sum| sum),
        Reduction::Mean => loops.run(x, y, 0.0, |sum, x| sum + x, |sum| sum / count),
        Reduction::Max => loops.run(x, y, f64::NEG_INFINITY, f64::max, |most| most),
        Reduction::Min => loops.run(x, y, f64::INFINITY, f64::min, |least| least),
        Reduction::Prod => loops.run(x, y, 1.0, |product, x| product * x, |product| product),
    }
}
