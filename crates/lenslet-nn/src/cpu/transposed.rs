//! Transposed convolution: a convolution's input gradient.

use burn::tensor::Tensor;
use lenslet_kernels::{Conv2d, ConvTranspose2d, Epilogue, Matrix, Pass, column_sums};

use super::CHECKED;
use super::conv::{pass, weight_gradient};
use super::op::{Values, input};
use super::weighted::{Weighted, added, run_weighted};
use crate::timing::Label;

/// `[N, H, W, in]` and `[in, out, k, k]` to `[N, H', W', out]`, without padding.
pub(crate) fn conv_transpose2d(
    x: &Tensor<4>,
    weight: &Tensor<4>,
    bias: &Tensor<1>,
    stride: usize,
) -> Option<Tensor<4>> {
    let [_, c_out, kh, kw] = weight.dims();
    let shape = ConvTranspose2d {
        input: x.dims(),
        c_out,
        kernel: [kh, kw],
        stride: [stride; 2],
        padding: [0; 4],
        output_padding: [0; 2],
        dilation: [1; 2],
        groups: 1,
    };
    let op = Transposed(shape.convolution().ok()?);
    let inputs = [input(x)?, input(weight)?];
    let (y, ()) = run_weighted(op, inputs, Some(input(bias)?));
    Some(y)
}

/// The convolution from the output to the input.
#[derive(Debug, Clone)]
struct Transposed(Conv2d);

impl Transposed {
    fn input(&self) -> [usize; 4] {
        let [h, w] = self.0.output_size().expect(CHECKED);
        [self.0.n, h, w, self.0.c_out]
    }
}

impl Weighted for Transposed {
    type Extra = ();

    fn label(&self) -> Label {
        let Conv2d {
            c_in,
            c_out,
            kernel: [kh, kw],
            ..
        } = self.0;
        let [n, h, w, _] = self.input();
        Label {
            operation: "transposed convolution",
            detail: format!("{n}x{h}x{w}, {kh}x{kw}, {c_out}-{c_in}"),
            macs: self.0.macs(),
        }
    }

    fn forward(&self, x: &Values, weight: &Values, bias: Option<&Values>) -> (Values, ()) {
        let shape = &self.0;
        let epilogue = Epilogue {
            bias: bias.map(Values::data),
            ..Epilogue::NONE
        };
        let (x, way) = (Matrix::new(x.data(), shape.c_out), Pass::InputGradient);
        let y = Values::written(&[shape.n, shape.h, shape.w, shape.c_in], |y| {
            pass(shape, way, weight, x, y, shape.c_in, &epilogue);
        });
        (y, ())
    }

    fn input_gradient(&self, weight: &Values, dy: &Values, other: Option<&Values>) -> Values {
        let shape = &self.0;
        let channels = shape.c_out;
        let (dy, epilogue) = (Matrix::new(dy.data(), shape.c_in), &added(other, channels));
        Values::written(&self.input(), |dx| {
            pass(shape, Pass::Forward, weight, dy, dx, channels, epilogue);
        })
    }

    fn weight_gradient(&self, x: &Values, dy: &Values) -> Values {
        weight_gradient(&self.0, dy, x)
    }

    fn bias_gradient(&self, dy: &Values) -> Values {
        let channels = self.0.c_in;
        let mut db = vec![0.0; channels];
        let rows = dy.data().len() / channels;
        column_sums(rows, Matrix::new(dy.data(), channels), &mut db).expect(CHECKED);
        Values::new(db, &[channels])
    }
}
