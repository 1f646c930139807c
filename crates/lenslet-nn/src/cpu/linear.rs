//! Fully connected layer.

use std::cell::RefCell;

use burn::tensor::Tensor;
use lenslet_kernels::{
    Activation, Epilogue, Matrix, MatrixMut, Order, PackedMatrix, column_sums, product,
    transposed_product,
};

use super::op::{Values, input};
use super::weighted::{Weighted, added, run_weighted};
use super::{CHECKED, kernel_activation};
use crate::timing::Label;

/// `[…, in]` and `[out, in]` to `[…, out]`, with one activation before it and one behind it. The one behind must be one that
/// [`is_known_by_output`](super::is_known_by_output).
pub(crate) fn linear<const D: usize>(
    x: &Tensor<D>,
    weight: &Tensor<2>,
    bias: Option<&Tensor<1>>,
    [before, after]: [Option<crate::Activation>; 2],
) -> Option<Tensor<D>> {
    let (shape, [outputs, inputs]) = (x.dims(), weight.dims());
    if shape[D - 1] != inputs {
        return None;
    }
    let outer = shape[..D - 1].to_vec();
    let op = Linear {
        rows: outer.iter().product(),
        outer,
        inputs,
        outputs,
        before: before.map_or(Activation::None, kernel_activation),
        after: after.map_or(Activation::None, kernel_activation),
    };
    let bias = match bias {
        Some(bias) => Some(input(bias)?),
        None => None,
    };
    let (y, ()) = run_weighted(op, [input(x)?, input(weight)?], bias);
    Some(y)
}

#[derive(Debug, Clone)]
struct Linear {
    /// All dimensions but the last, and their product.
    outer: Vec<usize>,
    rows: usize,
    inputs: usize,
    outputs: usize,
    before: Activation,
    after: Activation,
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
}

impl Weighted for Linear {
    type Extra = ();

    fn activation(&self) -> Activation {
        self.after
    }

    fn input_activation(&self) -> Activation {
        self.before
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

    fn forward(&self, x: &Values, weight: &Values, bias: Option<&Values>) -> (Values, ()) {
        let epilogue = Epilogue::bias_activation(bias.map(Values::data), self.after);
        (self.product(Order::Transposed, x, weight, &epilogue), ())
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
