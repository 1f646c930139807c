//! Sums, products with factors that broadcast, and channels side by side.

use burn::tensor::Tensor;
use lenslet_kernels::{
    Activation, Factor, InOut, Scaling, add_forward, channels_last, concat_channels, slice_channels,
};

use super::CHECKED;
use super::op::{CpuOp, Input, Values, input, label, run};
use crate::timing::Label;

/// The sum of two tensors of one shape.
pub(crate) fn add<const D: usize>(a: &Tensor<D>, b: &Tensor<D>) -> Option<Tensor<D>> {
    if a.dims() != b.dims() {
        return None;
    }
    let (y, ()) = run(Add(a.dims().to_vec()), [input(a)?, input(b)?]);
    Some(y)
}

#[derive(Debug, Clone)]
struct Add(Vec<usize>);

impl CpuOp<2> for Add {
    type Saved = ();
    type Extra = ();

    fn label(&self) -> Label {
        label("sum", &self.0)
    }

    fn forward(&self, [a, b]: [Values; 2]) -> (Values, (), ()) {
        let y = Values::written(&self.0, |y| {
            let a_y = InOut::Separate(a.data(), y);
            add_forward(Activation::None, a_y, b.data()).expect(CHECKED);
        });
        (y, (), ())
    }

    fn backward(&self, (): (), dy: Values, _: [bool; 2]) -> [Option<Values>; 2] {
        [Some(dy.clone()), Some(dy)]
    }
}

/// `x * factor + residual`, where the factor is `[1, 1, 1, C]`, `[N, 1, 1, 1]` or `[N, 1, 1, C]`.
pub(crate) fn scale(
    x: &Tensor<4>,
    factor: &Tensor<4>,
    residual: Option<&Tensor<4>>,
) -> Option<Tensor<4>> {
    let [n, h, w, c] = x.dims();
    let kind = match factor.dims() {
        [1, 1, 1, m] if m == c => Kind::Channels,
        [m, 1, 1, 1] if m == n => Kind::Samples,
        [m, 1, 1, k] if m == n && k == c => Kind::Both,
        _ => return None,
    };
    if residual.is_some_and(|r| r.dims() != x.dims()) {
        return None;
    }
    let op = Scale {
        shape: x.dims(),
        factor: factor.dims(),
        kind,
        scaling: Scaling {
            samples: n,
            pixels: h * w,
            channels: c,
        },
    };
    let inputs = [input(x)?, input(factor)?];
    let (y, ()) = match residual {
        None => run(op, inputs),
        Some(residual) => {
            let [x, factor] = inputs;
            run(op, [x, factor, input(residual)?])
        }
    };
    Some(y)
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Channels,
    Samples,
    Both,
}

#[derive(Debug, Clone)]
struct Scale {
    shape: [usize; 4],
    factor: [usize; 4],
    kind: Kind,
    scaling: Scaling,
}

impl Scale {
    fn factor<'a>(&self, values: &'a Values) -> Factor<'a> {
        match self.kind {
            Kind::Channels => Factor::Channels(values.data()),
            Kind::Samples => Factor::Samples(values.data()),
            Kind::Both => Factor::SampleChannels(values.data()),
        }
    }

    fn scaled(&self, x: &Values, factor: &Values, residual: Option<&Values>) -> Values {
        Values::written(&self.shape, |y| {
            let x_y = InOut::Separate(x.data(), y);
            self.scaling
                .forward(x_y, self.factor(factor), residual.map(Values::data))
                .expect(CHECKED);
        })
    }

    fn gradients(&self, [x, factor]: [Values; 2], dy: Values) -> [Option<Values>; 2] {
        let mut d_factor = vec![0.0; self.factor.iter().product()];
        let dx = dy.overwritten(&self.shape, |dy_dx| {
            self.scaling
                .backward(x.data(), self.factor(&factor), dy_dx, &mut d_factor)
                .expect(CHECKED);
        });
        [Some(dx), Some(Values::new(d_factor, &self.factor))]
    }
}

impl CpuOp<2> for Scale {
    type Saved = [Values; 2];
    type Extra = ();

    fn label(&self) -> Label {
        label("scaling", &self.shape)
    }

    fn forward(&self, [x, factor]: [Values; 2]) -> (Values, [Values; 2], ()) {
        (self.scaled(&x, &factor, None), [x, factor], ())
    }

    fn backward(&self, saved: [Values; 2], dy: Values, _: [bool; 2]) -> [Option<Values>; 2] {
        self.gradients(saved, dy)
    }
}

impl CpuOp<3> for Scale {
    type Saved = [Values; 2];
    type Extra = ();

    fn label(&self) -> Label {
        label("scaling", &self.shape)
    }

    fn forward(&self, [x, factor, residual]: [Values; 3]) -> (Values, [Values; 2], ()) {
        (self.scaled(&x, &factor, Some(&residual)), [x, factor], ())
    }

    fn backward(&self, saved: [Values; 2], dy: Values, _: [bool; 3]) -> [Option<Values>; 3] {
        let residual = dy.clone();
        let [dx, d_factor] = self.gradients(saved, dy);
        [dx, d_factor, Some(residual)]
    }
}

/// Two feature maps `[N, H, W, C_i]` side by side.
pub(crate) fn concat(a: &Tensor<4>, b: &Tensor<4>) -> Option<Tensor<4>> {
    let ([n, h, w, left], [bn, bh, bw, right]) = (a.dims(), b.dims());
    if [n, h, w] != [bn, bh, bw] {
        return None;
    }
    let op = Concat {
        outer: [n, h, w],
        channels: [left, right],
    };
    let (y, ()) = run(op, [input(a)?, input(b)?]);
    Some(y)
}

#[derive(Debug, Clone)]
struct Concat {
    outer: [usize; 3],
    channels: [usize; 2],
}

impl Concat {
    fn shape(&self, channels: usize) -> [usize; 4] {
        let [n, h, w] = self.outer;
        [n, h, w, channels]
    }
}

impl CpuOp<2> for Concat {
    type Saved = ();
    type Extra = ();

    fn label(&self) -> Label {
        label("concatenation", &self.shape(self.channels.iter().sum()))
    }

    fn forward(&self, [a, b]: [Values; 2]) -> (Values, (), ()) {
        let [left, right] = self.channels;
        let y = Values::written(&self.shape(left + right), |y| {
            let parts = [(a.data(), left), (b.data(), right)];
            concat_channels(self.outer.iter().product(), &parts, y).expect(CHECKED);
        });
        (y, (), ())
    }

    fn backward(&self, (): (), dy: Values, wanted: [bool; 2]) -> [Option<Values>; 2] {
        let [left, right] = self.channels;
        let part = |from, channels| {
            Values::written(&self.shape(channels), |dx| {
                slice_channels(dy.data(), left + right, from, channels, dx).expect(CHECKED);
            })
        };
        let [a, b] = wanted;
        [a.then(|| part(0, left)), b.then(|| part(left, right))]
    }
}

/// `[N, C, H, W]` that nothing is tracked of to `[N, H, W, C]`, where its memory is in that order.
pub(crate) fn to_nhwc(x: &Tensor<4>) -> Option<Tensor<4>> {
    let [n, c, h, w] = x.dims();
    match input(x)? {
        Input::Plain(tensor) if tensor.is_contiguous() => {
            let (y, ()) = run(ChannelsLast([n, c, h, w]), [Input::Plain(tensor)]);
            Some(y)
        }
        _ => None,
    }
}

#[derive(Debug, Clone)]
struct ChannelsLast([usize; 4]);

impl CpuOp<1> for ChannelsLast {
    type Saved = ();
    type Extra = ();

    fn label(&self) -> Label {
        label("layout", &self.0)
    }

    fn forward(&self, [x]: [Values; 1]) -> (Values, (), ()) {
        let [n, c, h, w] = self.0;
        let y = Values::written(&[n, h, w, c], |y| {
            channels_last([n, c, h * w], x.data(), y).expect(CHECKED);
        });
        (y, (), ())
    }

    fn backward(&self, (): (), dy: Values, _: [bool; 1]) -> [Option<Values>; 1] {
        let [n, c, h, w] = self.0;
        let dx = Values::written(&self.0, |dx| {
            channels_last([n, h * w, c], dy.data(), dx).expect(CHECKED);
        });
        [Some(dx)]
    }
}
