//! Convolution.

use std::cell::RefCell;

use burn::tensor::Tensor;
use burn::tensor::ops::ConvOptions;
use lenslet_kernels::{
    Activation, Conv2d, ConvWorkspace, Epilogue, Matrix, MatrixMut, Moments, Pass, channels_last,
    column_sums,
};

use super::norm::BatchMoments;
use super::op::{Values, input};
use super::weighted::{Weighted, added, run_weighted};
use super::{CHECKED, kernel_activation};
use crate::timing::Label;

/// `[N, H, W, in]` and `[out, in / groups, kh, kw]` to `[N, H', W', out]`; the moments of the output's
/// channels with it, if `moments`. An activation must be one that [`is_known_by_output`](super::is_known_by_output).
pub(crate) fn conv2d(
    x: &Tensor<4>,
    weight: &Tensor<4>,
    bias: Option<&Tensor<1>>,
    geometry: &ConvOptions<2>,
    moments: bool,
    activation: Option<crate::Activation>,
) -> Option<(Tensor<4>, BatchMoments)> {
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
    let op = Conv {
        shape,
        moments,
        activation: activation.map_or(Activation::None, kernel_activation),
    };
    Some(run_weighted(op, [input(x)?, input(weight)?], bias))
}

#[derive(Debug, Clone)]
struct Conv {
    shape: Conv2d,
    /// Whether a batch norm follows that needs the output's.
    moments: bool,
    activation: Activation,
}

impl Weighted for Conv {
    type Extra = BatchMoments;

    fn activation(&self) -> Activation {
        self.activation
    }

    fn label(&self) -> Label {
        let Conv2d {
            n,
            h,
            w,
            c_in,
            c_out,
            kernel: [kh, kw],
            stride,
            groups,
            ..
        } = self.shape;
        let grouped = match groups {
            1 => String::new(),
            groups => format!(", {groups} groups"),
        };
        Label {
            operation: match (groups, kh * kw) {
                (1, 1) => "convolution 1x1",
                (1, _) => "convolution",
                (groups, _) if groups == c_in && groups == c_out => "depthwise convolution",
                _ => "grouped convolution",
            },
            detail: format!(
                "{n}x{h}x{w}, {kh}x{kw}/{}, {c_in}-{c_out}{grouped}",
                stride[0]
            ),
            macs: self.shape.macs(),
        }
    }

    fn forward(
        &self,
        x: &Values,
        weight: &Values,
        bias: Option<&Values>,
    ) -> (Values, BatchMoments) {
        let shape = &self.shape;
        let [oh, ow] = shape.output_size().expect(CHECKED);
        let moments = self.moments.then(Moments::new);
        let epilogue = Epilogue {
            moments: moments.as_ref(),
            ..Epilogue::bias_activation(bias.map(Values::data), self.activation)
        };
        let (shape, weight) = (&self.flat(), &self.flat_weight(weight));
        let (x, channels) = (Matrix::new(x.data(), shape.c_in), shape.c_out);
        let y = Values::written(&[shape.n, oh, ow, channels], |y| {
            pass(shape, Pass::Forward, weight, x, y, channels, &epilogue);
        });
        (y, moments.and_then(|m| m.finish(channels).ok()))
    }

    fn input_gradient(&self, weight: &Values, dy: &Values, other: Option<&Values>) -> Values {
        let Conv2d { n, h, w, c_in, .. } = self.shape;
        let (shape, weight) = (self.flat(), self.flat_weight(weight));
        let (dy, channels) = (
            Matrix::new(dy.data(), self.shape.c_out),
            c_in * self.joined(),
        );
        let epilogue = &added(other, channels);
        Values::written(&[n, h, w, c_in], |dx| {
            pass(
                &shape,
                Pass::InputGradient,
                &weight,
                dy,
                dx,
                channels,
                epilogue,
            );
        })
    }

    fn weight_gradient(&self, x: &Values, dy: &Values) -> Values {
        let shape = self.flat();
        let dw = weight_gradient(&shape, x, dy);
        let [kh, kw] = self.shape.kernel;
        let inputs = self.shape.c_in / self.shape.groups;
        match self.joined() {
            1 => dw,
            taps => Values::written(&[self.shape.c_out, inputs, kh, kw], |back| {
                let order = [self.shape.c_out, taps, inputs];
                channels_last(order, dw.data(), back).expect(CHECKED);
            }),
        }
    }

    fn bias_gradient(&self, dy: &Values) -> Values {
        let channels = self.shape.c_out;
        let mut db = vec![0.0; channels];
        let rows = dy.data().len() / channels;
        column_sums(rows, Matrix::new(dy.data(), channels), &mut db).expect(CHECKED);
        Values::new(db, &[channels])
    }
}

impl Conv {
    /// Taps that are taken for channels: all of a kernel that covers the whole input, since those pixels lie side by side.
    fn joined(&self) -> usize {
        let Conv2d {
            h,
            w,
            kernel,
            padding,
            dilation,
            groups,
            ..
        } = self.shape;
        let covers = kernel == [h, w] && padding == [0; 4] && dilation == [1, 1] && groups == 1;
        if covers { h * w } else { 1 }
    }

    /// The shape with those taps as channels.
    fn flat(&self) -> Conv2d {
        let Conv2d { n, c_in, c_out, .. } = self.shape;
        match self.joined() {
            1 => self.shape,
            taps => Conv2d::new([n, 1, 1, taps * c_in], c_out, [1, 1]),
        }
    }

    /// The weight of [`Conv::flat`].
    fn flat_weight(&self, weight: &Values) -> Values {
        let Conv2d { c_in, c_out, .. } = self.shape;
        match self.joined() {
            1 => weight.clone(),
            taps => Values::written(&[c_out, taps * c_in], |flat| {
                channels_last([c_out, c_in, taps], weight.data(), flat).expect(CHECKED);
            }),
        }
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
        WORKSPACE
            .with_borrow_mut(|workspace| workspace.weight_gradient(shape, x, dy, dw))
            .expect(CHECKED);
    })
}

thread_local! {
    static WORKSPACE: RefCell<ConvWorkspace> = RefCell::default();
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
    let to = MatrixMut::new(to, channels);
    WORKSPACE
        .with_borrow_mut(|workspace| workspace.run(shape, pass, weight.data(), from, to, epilogue))
        .expect(CHECKED);
}
