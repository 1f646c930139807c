//! Fully connected layer.

use std::cell::RefCell;

use burn::tensor::Tensor;
use lenslet_kernels::{
    Epilogue, Matrix, MatrixMut, Order, PackedMatrix, column_sums, transposed_product,
};

use super::CHECKED;
use super::op::{Values, input};
use super::weighted::{Weighted, run_weighted};

/// `[rows, in]` and `[out, in]` to `[rows, out]`.
pub(crate) fn linear(
    x: &Tensor<2>,
    weight: &Tensor<2>,
    bias: Option<&Tensor<1>>,
) -> Option<Tensor<2>> {
    let ([rows, inputs], [outputs, _]) = (x.dims(), weight.dims());
    let op = Linear {
        rows,
        inputs,
        outputs,
    };
    let bias = match bias {
        Some(bias) => Some(input(bias)?),
        None => None,
    };
    Some(run_weighted(op, [input(x)?, input(weight)?], bias))
}

#[derive(Debug, Clone)]
struct Linear {
    rows: usize,
    inputs: usize,
    outputs: usize,
}

thread_local! {
    /// Memory for packed weights, which change at every step.
    static PACKED: RefCell<PackedMatrix> = RefCell::new(PackedMatrix::empty());
}

impl Linear {
    fn product(&self, order: Order, a: &Values, weight: &Values, bias: Option<&Values>) -> Values {
        let (k, n) = match order {
            Order::Transposed => (self.inputs, self.outputs),
            Order::RowMajor => (self.outputs, self.inputs),
        };
        let epilogue = Epilogue {
            bias: bias.map(Values::data),
            ..Epilogue::NONE
        };
        Values::written(&[self.rows, n], |c| {
            PACKED.with_borrow_mut(|packed| {
                let weight = Matrix::new(weight.data(), self.inputs);
                packed.pack(weight, order, k, n).expect(CHECKED);
                let (a, c) = (Matrix::new(a.data(), k), MatrixMut::new(c, n));
                packed.multiply(self.rows, a, c, &epilogue).expect(CHECKED);
            });
        })
    }
}

impl Weighted for Linear {
    fn forward(&self, x: &Values, weight: &Values, bias: Option<&Values>) -> Values {
        self.product(Order::Transposed, x, weight, bias)
    }

    fn input_gradient(&self, weight: &Values, dy: &Values) -> Values {
        self.product(Order::RowMajor, dy, weight, None)
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
