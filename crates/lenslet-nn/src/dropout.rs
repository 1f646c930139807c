//! Randomly leaving things out during training.
//!
//! Random numbers come from the device's generator: `device.seed(n)` before a step makes the step
//! repeatable. On the CPU that generator is one for the whole process.

use burn::module::{Flag, Module, Param};
use burn::tensor::{Device, Distribution, Tensor};

use crate::{add, scale};

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
        if self.is_identity(&x) {
            return x;
        }
        match mask(x.dims(), self.p, &x.device()) {
            Some(mask) => x * mask,
            None => x.zeros_like(),
        }
    }

    /// Whether it leaves `x` as it is.
    pub fn is_identity<const D: usize>(&self, x: &Tensor<D>) -> bool {
        self.p == 0.0 || !self.training.is_enabled() || !x.device().is_autodiff()
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

    /// The branch's output `[N, H, W, C]`, with images left out, added to the branch's input.
    pub fn add(&self, branch: Tensor<4>, input: Tensor<4>) -> Tensor<4> {
        if self.is_identity(&branch) {
            return add(branch, input);
        }
        let [n, _, _, _] = branch.dims();
        match mask([n, 1, 1, 1], self.p, &branch.device()) {
            Some(mask) => scale(branch, mask, Some(input)),
            None => input,
        }
    }

    /// Whether this branch can be added without being scaled first.
    pub fn is_identity<const D: usize>(&self, x: &Tensor<D>) -> bool {
        self.p == 0.0 || !self.training.is_enabled() || !x.device().is_autodiff()
    }
}

/// Zeros with probability `p`, elsewhere `1 / (1 - p)`; `None` where all are zero.
fn mask<const D: usize>(shape: [usize; D], p: f64, device: &Device) -> Option<Tensor<D>> {
    let keep = 1.0 - p;
    (keep > 0.0).then(|| Tensor::random(shape, Distribution::Bernoulli(keep), device) / keep)
}
