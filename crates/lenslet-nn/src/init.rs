//! Seeded initialisation of parameters.

use burn::module::{Param, ParamId};
use burn::tensor::{Device, Tensor, TensorData};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Where a model's parameters are made: the device and the source of their first values.
///
/// Values are drawn in the order in which layers are built, so a seed gives the same model on
/// every machine. (Burn's own lazy initialisation depends on which parameter is touched first.)
#[derive(Debug)]
pub struct Init {
    device: Device,
    rng: Option<ChaCha8Rng>,
}

impl Init {
    /// Parameters with random first values from `seed`.
    pub fn seeded(device: &Device, seed: u64) -> Self {
        Self {
            device: device.clone(),
            rng: Some(ChaCha8Rng::seed_from_u64(seed)),
        }
    }

    /// Parameters without values, for a model whose weights are loaded next: nothing is drawn or
    /// allocated, and a parameter that is used before it is loaded reads as zeros.
    pub fn empty(device: &Device) -> Self {
        Self {
            device: device.clone(),
            rng: None,
        }
    }

    /// The device parameters are made on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Values of `U(-bound, bound)`.
    pub fn uniform<const D: usize>(&mut self, shape: [usize; D], bound: f64) -> Param<Tensor<D>> {
        self.fill(shape, |rng| (2.0 * unit(rng) - 1.0) * bound)
    }

    /// Values of a normal distribution with mean 0.
    pub fn normal<const D: usize>(&mut self, shape: [usize; D], std: f64) -> Param<Tensor<D>> {
        self.fill(shape, |rng| gauss(rng) * std)
    }

    /// Values of a normal distribution with mean 0, redrawn outside `[-limit, limit]`, as
    /// `torch.nn.init.trunc_normal_` does (there `limit` is 2 unless told).
    pub fn trunc_normal<const D: usize>(
        &mut self,
        shape: [usize; D],
        std: f64,
        limit: f64,
    ) -> Param<Tensor<D>> {
        self.fill(shape, |rng| {
            loop {
                let v = gauss(rng) * std;
                if v.abs() <= limit {
                    return v;
                }
            }
        })
    }

    /// The same value everywhere.
    pub fn constant<const D: usize>(&mut self, shape: [usize; D], value: f32) -> Param<Tensor<D>> {
        Param::uninitialized(
            ParamId::new(),
            move |device: &Device, grad| {
                let t = Tensor::full(shape, value, device);
                if grad { t.require_grad() } else { t }
            },
            self.device.clone(),
            true,
            shape.into(),
        )
    }

    fn fill<const D: usize>(
        &mut self,
        shape: [usize; D],
        mut draw: impl FnMut(&mut ChaCha8Rng) -> f64,
    ) -> Param<Tensor<D>> {
        let Some(rng) = &mut self.rng else {
            return self.constant(shape, 0.0);
        };
        let values: Vec<f32> = (0..shape.iter().product())
            .map(|_| draw(rng) as f32)
            .collect();
        Param::from_data(TensorData::new(values, shape), &self.device)
    }
}

/// Uniform in `[0, 1)` with 53 bits.
fn unit(rng: &mut ChaCha8Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

/// Standard normal (Box and Muller, 1958).
fn gauss(rng: &mut ChaCha8Rng) -> f64 {
    let radius = (-2.0 * (1.0 - unit(rng)).ln()).sqrt();
    radius * (std::f64::consts::TAU * unit(rng)).cos()
}

/// How a weight's first values are drawn (`torch.nn.init`).
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum WeightInit {
    /// What `Conv2d` and `Linear` do by themselves: uniform in `±1 / sqrt(fan_in)`.
    Default,
    /// He et al. (2015) for ReLU by the outputs: normal, `std = sqrt(2 / fan_out)`.
    KaimingNormalFanOut,
    /// He et al. (2015) for ReLU by the inputs: normal, `std = sqrt(2 / fan_in)`.
    KaimingNormalFanIn,
    /// He et al. (2015) for ReLU by the inputs: uniform in `±sqrt(6 / fan_in)`.
    KaimingUniformFanIn,
    /// Glorot and Bengio (2010): uniform in `±sqrt(6 / (fan_in + fan_out))`.
    XavierUniform,
    /// Normal with this standard deviation.
    Normal(f64),
    /// Normal with this standard deviation, redrawn outside `[-2, 2]`.
    TruncNormal(f64),
    /// Uniform in plus and minus this bound.
    Uniform(f64),
    /// Zeros.
    Zeros,
}

impl WeightInit {
    /// Draws a weight `[out, in, …]`.
    pub fn weight<const D: usize>(self, init: &mut Init, shape: [usize; D]) -> Param<Tensor<D>> {
        let receptive: usize = shape[2..].iter().product();
        let fan_in = (shape[1] * receptive) as f64;
        let fan_out = (shape[0] * receptive) as f64;
        match self {
            Self::Default => init.uniform(shape, 1.0 / fan_in.sqrt()),
            Self::KaimingNormalFanOut => init.normal(shape, (2.0 / fan_out).sqrt()),
            Self::KaimingNormalFanIn => init.normal(shape, (2.0 / fan_in).sqrt()),
            Self::KaimingUniformFanIn => init.uniform(shape, (6.0 / fan_in).sqrt()),
            Self::XavierUniform => init.uniform(shape, (6.0 / (fan_in + fan_out)).sqrt()),
            Self::Normal(std) => init.normal(shape, std),
            Self::TruncNormal(std) => init.trunc_normal(shape, std, 2.0),
            Self::Uniform(bound) => init.uniform(shape, bound),
            Self::Zeros => init.constant(shape, 0.0),
        }
    }
}

/// How a bias' first values are drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum BiasInit {
    /// What `Conv2d` and `Linear` do by themselves: uniform in `±1 / sqrt(fan_in)`.
    Default,
    /// Zeros.
    Zeros,
    /// Normal with this standard deviation.
    Normal(f64),
}

impl BiasInit {
    /// Draws a bias for a weight with `fan_in` inputs an output.
    pub fn bias(self, init: &mut Init, len: usize, fan_in: usize) -> Param<Tensor<1>> {
        match self {
            Self::Default => init.uniform([len], 1.0 / (fan_in as f64).sqrt()),
            Self::Zeros => init.constant([len], 0.0),
            Self::Normal(std) => init.normal([len], std),
        }
    }
}
