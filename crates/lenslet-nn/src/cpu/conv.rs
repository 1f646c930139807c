//! Convolution.

use std::cell::RefCell;
use std::collections::HashMap;

use burn::tensor::Tensor;
use burn::tensor::ops::ConvOptions;
use lenslet_kernels::{
    Algorithm, Conv2d, Epilogue, Matrix, MatrixMut, PackedConv, Pass, Scratch, column_sums,
};

use super::CHECKED;
use super::op::{Values, input};
use super::weighted::{Weighted, run_weighted};

/// `[N, H, W, in]` and `[out, in / groups, kh, kw]` to `[N, H', W', out]`.
pub(crate) fn conv2d(
    x: &Tensor<4>,
    weight: &Tensor<4>,
    bias: Option<&Tensor<1>>,
    geometry: &ConvOptions<2>,
) -> Option<Tensor<4>> {
    let [n, h, w, c_in] = x.dims();
    let [c_out, _, kh, kw] = weight.dims();
    let [(top, bottom), (left, right)] = geometry.padding;
    let shape = Conv2d {
        n,
        h,
        w,
        c_in,
        c_out,
        kernel: [kh, kw],
        stride: geometry.stride,
        padding: [top, left, bottom, right],
        dilation: geometry.dilation,
        groups: geometry.groups,
    };
    // An impossible shape is left to Burn's operation, whose message names it.
    shape.output_size().ok()?;
    let bias = match bias {
        Some(bias) => Some(input(bias)?),
        None => None,
    };
    Some(run_weighted(Conv(shape), [input(x)?, input(weight)?], bias))
}

#[derive(Debug, Clone)]
struct Conv(Conv2d);

impl Weighted for Conv {
    fn forward(&self, x: &Values, weight: &Values, bias: Option<&Values>) -> Values {
        let shape = &self.0;
        let [oh, ow] = shape.output_size().expect(CHECKED);
        let epilogue = Epilogue {
            bias: bias.map(Values::data),
            ..Epilogue::NONE
        };
        let (x, channels) = (Matrix::new(x.data(), shape.c_in), shape.c_out);
        Values::written(&[shape.n, oh, ow, channels], |y| {
            pass(shape, Pass::Forward, weight, x, y, channels, &epilogue);
        })
    }

    fn input_gradient(&self, weight: &Values, dy: &Values) -> Values {
        let shape = &self.0;
        let (dy, channels) = (Matrix::new(dy.data(), shape.c_out), shape.c_in);
        let (way, none) = (Pass::InputGradient, &Epilogue::NONE);
        Values::written(&[shape.n, shape.h, shape.w, channels], |dx| {
            pass(shape, way, weight, dy, dx, channels, none);
        })
    }

    fn weight_gradient(&self, x: &Values, dy: &Values) -> Values {
        weight_gradient(&self.0, x, dy)
    }

    fn bias_gradient(&self, dy: &Values) -> Values {
        let channels = self.0.c_out;
        let mut db = vec![0.0; channels];
        let rows = dy.data().len() / channels;
        column_sums(rows, Matrix::new(dy.data(), channels), &mut db).expect(CHECKED);
        Values::new(db, &[channels])
    }
}

/// The gradient of a convolution's weight, given its input and its output's gradient.
pub(super) fn weight_gradient(shape: &Conv2d, x: &Values, dy: &Values) -> Values {
    let [kh, kw] = shape.kernel;
    let inputs = shape.c_in / shape.groups;
    let (x, dy) = (
        Matrix::new(x.data(), shape.c_in),
        Matrix::new(dy.data(), shape.c_out),
    );
    Values::written(&[shape.c_out, inputs, kh, kw], |dw| {
        MEMORY
            .with_borrow_mut(|memory| shape.weight_gradient(x, dy, dw, &mut memory.scratch))
            .expect(CHECKED);
    })
}

/// What one call leaves for the next, so that a step allocates little.
#[derive(Default)]
struct Memory {
    scratch: Scratch,
    /// Packed weights by shape; the weights change at every step, the memory stays.
    packed: HashMap<(Conv2d, bool), PackedConv>,
}

thread_local! {
    static MEMORY: RefCell<Memory> = RefCell::default();
}

pub(super) fn pass(
    shape: &Conv2d,
    pass: Pass,
    weight: &Values,
    from: Matrix<'_>,
    to: &mut [f32],
    channels: usize,
    epilogue: &Epilogue<'_>,
) {
    use std::collections::hash_map::Entry;
    MEMORY.with_borrow_mut(|memory| {
        let key = (*shape, pass == Pass::Forward);
        let packed = match memory.packed.entry(key) {
            Entry::Occupied(entry) => {
                let packed = entry.into_mut();
                packed.repack(weight.data()).expect(CHECKED);
                packed
            }
            Entry::Vacant(entry) => {
                let algorithm = Algorithm::choose_repacked(shape, pass);
                let packed = PackedConv::with_algorithm(shape, pass, algorithm, weight.data());
                entry.insert(packed.expect(CHECKED))
            }
        };
        let to = MatrixMut::new(to, channels);
        packed
            .run(shape.n, from, to, &mut memory.scratch, epilogue)
            .expect(CHECKED);
    });
}
