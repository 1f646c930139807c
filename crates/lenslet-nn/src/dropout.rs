//! Randomly leaving things out during training.
//!
//! Random numbers come from the device's generator: `device.seed(n)` before a step makes the step
//! repeatable. On the CPU that generator is one for the whole process.

use burn::module::{Flag, Module, Param};
use burn::tensor::{Distribution, Tensor};

/// `torch.nn.Dropout` (Srivastava et al., 2014): values are zeroed with a probability, the others
/// scaled so that the mean stays. Acts on an autodiff device while its training flag is on.
#[derive(Module, Debug)]
pub struct Dropout {
    /// Whether values are dropped when the device trains.
    pub training: Param<Flag>,
    #[module(skip)]
    p: f64,
}

impl Dropout {
    /// Drops with probability `p`.
    pub fn new(p: f64) -> Self {
        Self {
            training: Param::from_bool(true),
            p,
        }
    }

    /// Any shape to the same shape.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let shape = x.dims();
        drop_blocks(x, shape, self.p, &self.training)
    }
}

/// `torchvision.ops.StochasticDepth` in row mode (Huang et al., 2016): whole images of a residual
/// branch are zeroed with a probability, the others scaled so that the mean stays.
#[derive(Module, Debug)]
pub struct StochasticDepth {
    /// Whether images are dropped when the device trains.
    pub training: Param<Flag>,
    #[module(skip)]
    p: f64,
}

impl StochasticDepth {
    /// Drops with probability `p`.
    pub fn new(p: f64) -> Self {
        Self {
            training: Param::from_bool(true),
            p,
        }
    }

    /// `[N, …]` to the same shape.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let mut shape = [1; D];
        shape[0] = x.dims()[0];
        drop_blocks(x, shape, self.p, &self.training)
    }

    /// Whether this branch can be added without being scaled first.
    pub fn is_identity<const D: usize>(&self, x: &Tensor<D>) -> bool {
        self.p == 0.0 || !self.training.is_enabled() || !x.device().is_autodiff()
    }
}

/// Zeroes blocks of `x`, one for each element of `shape`, which broadcasts to it.
fn drop_blocks<const D: usize>(
    x: Tensor<D>,
    shape: [usize; D],
    p: f64,
    training: &Param<Flag>,
) -> Tensor<D> {
    let device = x.device();
    if p == 0.0 || !training.is_enabled() || !device.is_autodiff() {
        return x;
    }
    if p >= 1.0 {
        return x.zeros_like();
    }
    let keep = 1.0 - p;
    x * (Tensor::random(shape, Distribution::Bernoulli(keep), &device) / keep)
}
