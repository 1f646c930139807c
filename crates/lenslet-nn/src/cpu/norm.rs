//! Batch norm with what follows it, layer norm, and local response norm.

use burn::tensor::Tensor;
use lenslet_kernels::{
    Activation, BatchNorm, InOut, LayerNorm, LocalResponseNorm, Preactivation, Statistics,
    batch_statistics, inverse_std,
};

use super::op::{CpuOp, Values, input, label, run};
use super::recycle::Space;
use super::{CHECKED, kernel_activation};
use crate::timing::Label;

/// What a batch norm normalises by.
pub(crate) enum Normalise {
    /// The batch's own mean and variance; these, where they were taken before.
    Batch(BatchMoments),
    /// These, `[channels]` each.
    Running {
        mean: Tensor<1>,
        variance: Tensor<1>,
    },
}

/// The batch's mean and biased variance, where it was normalised by them.
pub(crate) type BatchMoments = Option<[Vec<f32>; 2]>;

/// `activation(batch_norm(x) + residual)` on `[N, H, W, C]`.
pub(crate) fn batch_norm(
    x: &Tensor<4>,
    [gamma, beta]: [&Tensor<1>; 2],
    eps: f64,
    by: Normalise,
    activation: Option<crate::Activation>,
    residual: Option<&Tensor<4>>,
) -> Option<(Tensor<4>, BatchMoments)> {
    let [n, h, w, channels] = x.dims();
    if n * h * w * channels == 0 || residual.is_some_and(|r| r.dims() != x.dims()) {
        return None;
    }
    // Before any number is read: a graph that is being captured has none.
    let inputs = [input(x)?, input(gamma)?, input(beta)?];
    let (running, moments) = match by {
        Normalise::Batch(moments) => (false, moments),
        Normalise::Running { mean, variance } => (true, Some([moment(&mean)?, moment(&variance)?])),
    };
    let op = Norm {
        shape: x.dims(),
        eps: eps as f32,
        activation: activation.map_or(Activation::None, kernel_activation),
        running,
        moments,
    };
    Some(match residual {
        None => run(op, inputs),
        Some(residual) => {
            let [x, gamma, beta] = inputs;
            run(op, [x, gamma, beta, input(residual)?])
        }
    })
}

/// Running statistics as numbers; `None` for another type of number.
fn moment(tensor: &Tensor<1>) -> Option<Vec<f32>> {
    tensor.clone().into_data().try_to_vec().ok()
}

#[derive(Debug, Clone)]
struct Norm {
    shape: [usize; 4],
    eps: f32,
    activation: Activation,
    /// Whether mean and variance are constants, not the batch's.
    running: bool,
    /// Mean and variance, unless they are still to be taken.
    moments: BatchMoments,
}

/// What the backward pass needs.
#[derive(Debug, Clone)]
struct NormSaved {
    x: Values,
    gamma: Values,
    beta: Values,
    mean: Vec<f32>,
    inv_std: Vec<f32>,
    /// The residual, or where the activation allows the output, which the next layer keeps anyway.
    other: Option<Values>,
}

impl Norm {
    fn rows(&self) -> usize {
        self.shape[..3].iter().product()
    }

    fn kernel<'a>(&self, saved: &'a NormSaved) -> BatchNorm<'a> {
        BatchNorm {
            mean: &saved.mean,
            inv_std: &saved.inv_std,
            gamma: Some(saved.gamma.data()),
            beta: Some(saved.beta.data()),
            activation: self.activation,
        }
    }

    fn forward(
        &self,
        [x, gamma, beta]: [Values; 3],
        residual: Option<Values>,
    ) -> (Values, NormSaved, BatchMoments) {
        let (rows, channels) = (self.rows(), self.shape[3]);
        let (mean, variance) = match &self.moments {
            Some([mean, variance]) => (mean.clone(), variance.clone()),
            None => {
                let (mut mean, mut variance) = (vec![0.0; channels], vec![0.0; channels]);
                batch_statistics(rows, x.data(), &mut mean, &mut variance).expect(CHECKED);
                (mean, variance)
            }
        };
        let mut inv_std = vec![0.0; channels];
        inverse_std(&variance, self.eps, &mut inv_std).expect(CHECKED);
        let moments = (!self.running).then(|| [mean.clone(), variance]);
        let mut saved = NormSaved {
            x: x.clone(),
            gamma,
            beta,
            mean,
            inv_std,
            other: None,
        };
        let y = Values::written(&self.shape, |y| {
            let x_y = lenslet_kernels::InOut::Separate(x.data(), y);
            let residual = residual.as_ref().map(Values::data);
            self.kernel(&saved)
                .forward(rows, x_y, residual)
                .expect(CHECKED);
        });
        saved.other = residual.map(|residual| {
            if self.activation.derivative_from_output_exists() {
                y.clone()
            } else {
                residual
            }
        });
        (y, saved, moments)
    }

    /// Gradients of x, gamma, beta and the residual.
    fn backward(&self, saved: &NormSaved, dy: Values, residual: bool) -> [Option<Values>; 4] {
        let (rows, channels) = (self.rows(), self.shape[3]);
        let (mut d_gamma, mut d_beta) = (vec![0.0; channels], vec![0.0; channels]);
        let statistics = if self.running {
            Statistics::Frozen
        } else {
            Statistics::Batch
        };
        let z = match &saved.other {
            None => Preactivation::FromInput,
            Some(other) if self.activation.derivative_from_output_exists() => {
                Preactivation::FromOutput(other.data())
            }
            Some(other) => Preactivation::FromResidual(other.data()),
        };
        // Without an activation the residual's gradient is the output's.
        let plain = self.activation == Activation::None;
        let mut d_residual = match (residual, plain) {
            (true, true) => Some(dy.clone()),
            _ => None,
        };
        let mut fresh = (residual && !plain).then(|| Space::new(dy.data().len()));
        let dx = dy.overwritten(&self.shape, |dy_dx| {
            let gradients = [Some(&mut d_gamma[..]), Some(&mut d_beta[..])];
            self.kernel(saved)
                .backward(
                    rows,
                    statistics,
                    saved.x.data(),
                    z,
                    dy_dx,
                    fresh.as_deref_mut(),
                    gradients,
                )
                .expect(CHECKED);
        });
        if let Some(fresh) = fresh {
            d_residual = Some(Values::filled(fresh, &self.shape));
        }
        [
            Some(dx),
            Some(Values::new(d_gamma, &[channels])),
            Some(Values::new(d_beta, &[channels])),
            d_residual,
        ]
    }
}

impl CpuOp<3> for Norm {
    type Saved = NormSaved;
    type Extra = BatchMoments;

    fn label(&self) -> Label {
        label("batch norm", &self.shape)
    }

    fn forward(&self, inputs: [Values; 3]) -> (Values, NormSaved, BatchMoments) {
        self.forward(inputs, None)
    }

    fn backward(&self, saved: NormSaved, dy: Values, _: [bool; 3]) -> [Option<Values>; 3] {
        let [dx, d_gamma, d_beta, _] = self.backward(&saved, dy, false);
        [dx, d_gamma, d_beta]
    }
}

impl CpuOp<4> for Norm {
    type Saved = NormSaved;
    type Extra = BatchMoments;

    fn label(&self) -> Label {
        label("batch norm with residual", &self.shape)
    }

    fn forward(&self, inputs: [Values; 4]) -> (Values, NormSaved, BatchMoments) {
        let [x, gamma, beta, residual] = inputs;
        self.forward([x, gamma, beta], Some(residual))
    }

    fn backward(&self, saved: NormSaved, dy: Values, wanted: [bool; 4]) -> [Option<Values>; 4] {
        self.backward(&saved, dy, wanted[3])
    }
}

/// Layer norm over the last dimension.
pub(crate) fn layer_norm<const D: usize>(
    x: &Tensor<D>,
    [gamma, beta]: [&Tensor<1>; 2],
    eps: f64,
) -> Option<Tensor<D>> {
    let shape = x.dims();
    if shape.contains(&0) {
        return None;
    }
    let op = RowNorm {
        shape: shape.to_vec(),
        eps: eps as f32,
    };
    let (y, ()) = run(op, [input(x)?, input(gamma)?, input(beta)?]);
    Some(y)
}

#[derive(Debug, Clone)]
struct RowNorm {
    shape: Vec<usize>,
    eps: f32,
}

impl RowNorm {
    fn channels(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    fn rows(&self) -> usize {
        self.shape.iter().product::<usize>() / self.channels()
    }

    fn kernel<'a>(&self, gamma: &'a Values, beta: Option<&'a Values>) -> LayerNorm<'a> {
        LayerNorm {
            channels: self.channels(),
            gamma: Some(gamma.data()),
            beta: beta.map(Values::data),
            epsilon: self.eps,
        }
    }
}

impl CpuOp<3> for RowNorm {
    type Saved = (Values, Values, [Vec<f32>; 2]);
    type Extra = ();

    fn label(&self) -> Label {
        label("layer norm", &self.shape)
    }

    fn forward(&self, [x, gamma, beta]: [Values; 3]) -> (Values, Self::Saved, ()) {
        let rows = self.rows();
        let (mut mean, mut inv_std) = (vec![0.0; rows], vec![0.0; rows]);
        let y = Values::written(&self.shape, |y| {
            let x_y = lenslet_kernels::InOut::Separate(x.data(), y);
            self.kernel(&gamma, Some(&beta))
                .forward(rows, x_y, Some([&mut mean, &mut inv_std]))
                .expect(CHECKED);
        });
        (y, (x, gamma, [mean, inv_std]), ())
    }

    fn backward(&self, saved: Self::Saved, dy: Values, wanted: [bool; 3]) -> [Option<Values>; 3] {
        self.backward_onto(saved, dy, wanted, &mut [None, None, None])
    }

    fn backward_onto(
        &self,
        (x, gamma, [mean, inv_std]): Self::Saved,
        dy: Values,
        _: [bool; 3],
        others: &mut [Option<Values>; 3],
    ) -> [Option<Values>; 3] {
        let (rows, channels) = (self.rows(), self.channels());
        let (mut d_gamma, mut d_beta) = (vec![0.0; channels], vec![0.0; channels]);
        let other = others[0].take();
        let onto = other.as_ref().map(Values::data);
        let dx = dy.overwritten(&self.shape, |dy_dx| {
            let gradients = [Some(&mut d_gamma[..]), Some(&mut d_beta[..])];
            self.kernel(&gamma, None)
                .backward(rows, x.data(), [&mean, &inv_std], dy_dx, onto, gradients)
                .expect(CHECKED);
        });
        [
            Some(dx),
            Some(Values::new(d_gamma, &[channels])),
            Some(Values::new(d_beta, &[channels])),
        ]
    }
}

/// Local response norm of `[N, H, W, C]`.
pub(crate) fn local_response_norm(x: &Tensor<4>, norm: LocalResponseNorm) -> Option<Tensor<4>> {
    let shape = x.dims();
    if shape.contains(&0) || norm.size == 0 {
        return None;
    }
    let op = ResponseNorm { shape, norm };
    let (y, ()) = run(op, [input(x)?]);
    Some(y)
}

#[derive(Debug, Clone)]
struct ResponseNorm {
    shape: [usize; 4],
    norm: LocalResponseNorm,
}

impl ResponseNorm {
    fn rows(&self) -> usize {
        self.shape[..3].iter().product()
    }
}

impl CpuOp<1> for ResponseNorm {
    type Saved = Values;
    type Extra = ();

    fn label(&self) -> Label {
        label("local response norm", &self.shape)
    }

    fn forward(&self, [x]: [Values; 1]) -> (Values, Values, ()) {
        let y = Values::written(&self.shape, |y| {
            let x_y = InOut::Separate(x.data(), y);
            self.norm.forward(self.rows(), x_y).expect(CHECKED);
        });
        (y, x, ())
    }

    fn backward(&self, x: Values, dy: Values, _: [bool; 1]) -> [Option<Values>; 1] {
        let dx = dy.overwritten(&self.shape, |dy_dx| {
            let done = self.norm.backward(self.rows(), x.data(), dy_dx);
            done.expect(CHECKED);
        });
        [Some(dx)]
    }
}
