//! Fully connected layer.

use std::cell::RefCell;

use burn::tensor::Tensor;
use lenslet_kernels::{
    Activation, Epilogue, Matrix, MatrixMut, Order, PackedMatrix, column_sums, product,
    transposed_product,
};

use super::op::{CpuOp, Input, Values, input, run};
use super::recycle::Space;
use super::weighted::{Forwarded, Kept, Recorded, Weighted, added, run_weighted};
use super::{CHECKED, kernel_activation};
use crate::timing::Label;

/// `[…, in]` and `[out, in]` to `[…, out]`, with the activation applied.
pub(crate) fn linear<const D: usize>(
    x: &Tensor<D>,
    weight: &Tensor<2>,
    bias: Option<&Tensor<1>>,
    activation: Option<crate::Activation>,
) -> Option<Tensor<D>> {
    let (shape, [outputs, inputs]) = (x.dims(), weight.dims());
    if shape[D - 1] != inputs {
        return None;
    }
    let outer = shape[..D - 1].to_vec();
    let rows = outer.iter().product();
    let operands = [input(x)?, input(weight)?];
    let bias = match bias {
        Some(bias) => Some(input(bias)?),
        None => None,
    };
    let wanted = activation.map_or(Activation::None, kernel_activation);
    let tracked = operands.iter().chain(&bias).any(Input::is_tracked);
    let slopes = tracked && !wanted.derivative_from_output_exists();
    // Few rows are computed piece by piece, without slopes.
    let (fused, after) = match slopes && rows < MANY_ROWS {
        true => (Activation::None, activation),
        false => (wanted, None),
    };
    let op = Linear {
        rows,
        outer,
        inputs,
        outputs,
        activation: fused,
        slopes: slopes && after.is_none(),
    };
    let (y, ()) = run_weighted(op, operands, bias);
    Some(crate::Activation::apply(after, y))
}

/// `[…, in]` and `[out, in]` to `[…, out]`, on top of `residual`.
pub(crate) fn linear_onto<const D: usize>(
    x: &Tensor<D>,
    weight: &Tensor<2>,
    bias: &Tensor<1>,
    residual: &Tensor<D>,
) -> Option<Tensor<D>> {
    let (shape, [outputs, inputs]) = (x.dims(), weight.dims());
    let outer = shape[..D - 1].to_vec();
    let given = residual.dims();
    if shape[D - 1] != inputs || given[..D - 1] != outer[..] || given[D - 1] != outputs {
        return None;
    }
    let op = Linear {
        rows: outer.iter().product(),
        outer,
        inputs,
        outputs,
        activation: Activation::None,
        slopes: false,
    };
    let operands = [input(x)?, input(weight)?, input(bias)?, input(residual)?];
    let (y, ()) = run(Onto(op), operands);
    Some(y)
}

#[derive(Debug, Clone)]
struct Linear {
    /// All dimensions but the last, and their product.
    outer: Vec<usize>,
    rows: usize,
    inputs: usize,
    outputs: usize,
    activation: Activation,
    /// Whether the activation's derivative is kept, since the output does not tell it.
    slopes: bool,
}

thread_local! {
    /// Memory for packed weights, which change at every step.
    static PACKED: RefCell<PackedMatrix> = RefCell::new(PackedMatrix::empty());
}

/// Rows from which on a weight is packed whole, so that chunks of rows share it; for fewer, which are one chunk, it is packed piece by
/// piece.
const MANY_ROWS: usize = 192;

impl Linear {
    fn product(&self, order: Order, a: &Values, weight: &Values, epilogue: &Epilogue) -> Values {
        let (k, n) = match order {
            Order::Transposed => (self.inputs, self.outputs),
            Order::RowMajor => (self.outputs, self.inputs),
        };
        let shape = [&self.outer[..], &[n]].concat();
        Values::written(&shape, |c| {
            let weight = Matrix::new(weight.data(), self.inputs);
            let (a, c) = (Matrix::new(a.data(), k), MatrixMut::new(c, n));
            if self.rows < MANY_ROWS {
                product(self.rows, a, weight, order, [k, n], c, epilogue).expect(CHECKED);
                return;
            }
            PACKED.with_borrow_mut(|packed| {
                packed.pack(weight, order, k, n).expect(CHECKED);
                packed.multiply(self.rows, a, c, epilogue).expect(CHECKED);
            });
        })
    }

    /// The output, and the activation's derivative there.
    fn product_with_slopes(
        &self,
        x: &Values,
        weight: &Values,
        epilogue: &Epilogue,
    ) -> (Values, Values) {
        let (k, n) = (self.inputs, self.outputs);
        let shape = [&self.outer[..], &[n]].concat();
        let (x, weight) = (Matrix::new(x.data(), k), Matrix::new(weight.data(), k));
        let mut space = Space::new(self.rows * n);
        let y = Values::written(&shape, |y| {
            PACKED.with_borrow_mut(|packed| {
                packed.pack(weight, Order::Transposed, k, n).expect(CHECKED);
                let (y, slopes) = (MatrixMut::new(y, n), MatrixMut::new(&mut space, n));
                packed
                    .multiply_with_slopes(self.rows, x, y, epilogue, slopes)
                    .expect(CHECKED);
            });
        });
        (y, Values::filled(space, &shape))
    }
}

impl Weighted for Linear {
    type Extra = ();

    fn activation(&self) -> Activation {
        self.activation
    }

    fn label(&self) -> Label {
        let Linear {
            rows,
            inputs,
            outputs,
            ..
        } = *self;
        Label {
            operation: "linear",
            detail: format!("{rows} rows, {inputs}-{outputs}"),
            macs: rows * inputs * outputs,
        }
    }

    fn forward(&self, x: &Values, weight: &Values, bias: Option<&Values>) -> Forwarded<()> {
        let epilogue = Epilogue::bias_activation(bias.map(Values::data), self.activation);
        if !self.slopes {
            return Forwarded::plain(self.product(Order::Transposed, x, weight, &epilogue), ());
        }
        let (y, slopes) = self.product_with_slopes(x, weight, &epilogue);
        Forwarded {
            y,
            slopes: Some(slopes),
            extra: (),
        }
    }

    fn input_gradient(&self, weight: &Values, dy: &Values, other: Option<&Values>) -> Values {
        self.product(Order::RowMajor, dy, weight, &added(other, self.inputs))
    }

    fn weight_gradient(&self, x: &Values, dy: &Values) -> Values {
        let (dy, x) = (
            Matrix::new(dy.data(), self.outputs),
            Matrix::new(x.data(), self.inputs),
        );
        Values::written(&[self.outputs, self.inputs], |dw| {
            transposed_product(self.rows, dy, self.outputs, x, self.inputs, dw).expect(CHECKED);
        })
    }

    fn bias_gradient(&self, dy: &Values) -> Values {
        let mut db = vec![0.0; self.outputs];
        let dy = Matrix::new(dy.data(), self.outputs);
        column_sums(self.rows, dy, &mut db).expect(CHECKED);
        Values::new(db, &[self.outputs])
    }
}

/// The layer with a residual behind its bias.
#[derive(Debug, Clone)]
struct Onto(Linear);

impl CpuOp<4> for Onto {
    type Saved = Kept;
    type Extra = ();

    const TIMES_PARTS: bool = true;

    fn label(&self) -> Label {
        self.0.label()
    }

    fn forward(&self, [x, weight, bias, residual]: [Values; 4]) -> (Values, Kept, ()) {
        let epilogue = Epilogue {
            bias: Some(bias.data()),
            ..added(Some(&residual), self.0.outputs)
        };
        let y = self.0.product(Order::Transposed, &x, &weight, &epilogue);
        (y, Kept::plain(x, weight), ())
    }

    fn backward(&self, kept: Kept, dy: Values, wanted: [bool; 4]) -> [Option<Values>; 4] {
        self.backward_onto(kept, dy, wanted, &mut [const { None }; 4])
    }

    fn backward_onto(
        &self,
        kept: Kept,
        dy: Values,
        [for_x, for_weight, for_bias, _]: [bool; 4],
        [other, ..]: &mut [Option<Values>; 4],
    ) -> [Option<Values>; 4] {
        let layer = Recorded(self.0.clone());
        let (wanted, mut others) = ([for_x, for_weight, for_bias], [other.take(), None, None]);
        let [dx, dw, d_bias] = layer.backward_onto(kept, dy.clone(), wanted, &mut others);
        [dx, dw, d_bias, Some(dy)]
    }
}
