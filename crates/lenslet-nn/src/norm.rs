//! Normalisation layers.

use burn::module::{Flag, Module, Param};
use burn::tensor::Tensor;
use burn::tensor::module::{avg_pool2d, batch_norm, batch_norm_train, layer_norm};
use burn::tensor::ops::AvgPoolOptions;

use crate::{Activation, Buffer, Init, cpu, to_nchw, to_nhwc};

/// What `torch.nn.BatchNorm2d` takes.
#[derive(Debug, Clone, Copy)]
pub struct BatchNorm2dConfig {
    features: usize,
    eps: f64,
    momentum: f64,
    weight: f32,
}

impl BatchNorm2dConfig {
    /// PyTorch's defaults: `eps` 1e-5, `momentum` 0.1, weight 1, bias 0.
    pub fn new(features: usize) -> Self {
        Self {
            features,
            eps: 1e-5,
            momentum: 0.1,
            weight: 1.0,
        }
    }

    /// What is added to the variance.
    pub fn with_eps(mut self, eps: f64) -> Self {
        self.eps = eps;
        self
    }

    /// The share of a new batch in the running statistics.
    pub fn with_momentum(mut self, momentum: f64) -> Self {
        self.momentum = momentum;
        self
    }

    /// First value of the weight; 0 turns a residual branch off at the start.
    pub fn with_weight(mut self, weight: f32) -> Self {
        self.weight = weight;
        self
    }

    /// Makes the layer.
    pub fn init(&self, init: &mut Init) -> BatchNorm2d {
        let device = init.device().clone();
        BatchNorm2d {
            weight: init.constant([self.features], self.weight),
            bias: init.constant([self.features], 0.0),
            running_mean: Buffer::new(Tensor::zeros([self.features], &device)),
            running_var: Buffer::new(Tensor::ones([self.features], &device)),
            training: Param::from_bool(true),
            eps: self.eps,
            momentum: self.momentum,
        }
    }
}

/// `torch.nn.BatchNorm2d` on `[N, H, W, C]` (Ioffe and Szegedy, 2015).
///
/// It normalises by the batch and updates the running statistics on an autodiff device while its
/// training flag is on (`Module::freeze` turns it off); otherwise it uses the running statistics
/// and leaves them alone. As in PyTorch, a batch is normalised by its biased variance, and the
/// unbiased one goes into `running_var`.
#[derive(Module, Debug)]
pub struct BatchNorm2d {
    /// `[features]`
    pub weight: Param<Tensor<1>>,
    /// `[features]`
    pub bias: Param<Tensor<1>>,
    /// `[features]`
    pub running_mean: Buffer<1>,
    /// `[features]`
    pub running_var: Buffer<1>,
    /// Whether batches are looked at when the device trains.
    pub training: Param<Flag>,
    #[module(skip)]
    eps: f64,
    #[module(skip)]
    momentum: f64,
}

impl BatchNorm2d {
    /// `[N, H, W, C]` to the same shape.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.forward_fused(&x, None, None, None)
            .unwrap_or_else(|| to_nhwc(self.forward_nchw(to_nchw(x))))
    }

    /// `activation(batch_norm(x) + residual)` in one operation, where the device has it. `moments` are those of the batch,
    /// where they are known.
    pub(crate) fn forward_fused(
        &self,
        x: &Tensor<4>,
        moments: cpu::BatchMoments,
        activation: Option<Activation>,
        residual: Option<&Tensor<4>>,
    ) -> Option<Tensor<4>> {
        let by = if self.is_training(x) {
            cpu::Normalise::Batch(moments)
        } else {
            cpu::Normalise::Running {
                mean: self.running_mean.get(),
                variance: self.running_var.get(),
            }
        };
        let (weight, bias) = (self.weight.val(), self.bias.val());
        let affine = [&weight, &bias];
        let (y, moments) = cpu::batch_norm(x, affine, self.eps, by, activation, residual)?;
        if let Some(moments) = moments {
            let device = self.running_mean.get().device();
            let [mean, variance] = moments.map(|m| Tensor::from_floats(m.as_slice(), &device));
            let [n, h, w, _] = x.dims();
            self.update(mean, variance, n * h * w);
        }
        Some(y)
    }

    /// The same on `[N, C, H, W]`, composed of Burn's operations.
    pub(crate) fn forward_nchw(&self, x: Tensor<4>) -> Tensor<4> {
        if self.is_training(&x) {
            self.forward_train(x)
        } else {
            let (weight, bias) = (self.weight.val(), self.bias.val());
            let device = x.device();
            let mean = self.running_mean.get().to_device(&device);
            let var = self.running_var.get().to_device(&device);
            batch_norm(x, weight, bias, mean, var, self.eps)
        }
    }

    /// Whether this input would be normalised by its own statistics.
    pub fn is_training(&self, x: &Tensor<4>) -> bool {
        x.device().is_autodiff() && self.training.is_enabled()
    }

    /// What is added to the variance.
    pub fn eps(&self) -> f64 {
        self.eps
    }

    /// Moves the running statistics towards a batch of `count` values a channel with this mean
    /// and this biased variance. (One value has no unbiased variance: 0 stands in for it.)
    pub fn update(&self, mean: Tensor<1>, biased_var: Tensor<1>, count: usize) {
        let unbiased = count as f64 / count.saturating_sub(1).max(1) as f64;
        let blend = |buffer: &Buffer<1>, new: Tensor<1>| {
            let old = buffer.get().to_device(&new.device());
            buffer.set(old * (1.0 - self.momentum) + new.detach() * self.momentum);
        };
        blend(&self.running_mean, mean);
        blend(&self.running_var, biased_var * unbiased);
    }

    fn forward_train(&self, x: Tensor<4>) -> Tensor<4> {
        let [n, _, h, w] = x.dims();
        let result = batch_norm_train(x, self.weight.val(), self.bias.val(), self.eps);
        self.update(result.mean, result.variance, n * h * w);
        result.output
    }
}

/// What `torch.nn.LayerNorm` over the last dimension takes.
#[derive(Debug, Clone, Copy)]
pub struct LayerNormConfig {
    features: usize,
    eps: f64,
}

impl LayerNormConfig {
    /// PyTorch's default `eps` of 1e-5, weight 1, bias 0.
    pub fn new(features: usize) -> Self {
        Self {
            features,
            eps: 1e-5,
        }
    }

    /// What is added to the variance.
    pub fn with_eps(mut self, eps: f64) -> Self {
        self.eps = eps;
        self
    }

    /// Makes the layer.
    pub fn init(&self, init: &mut Init) -> LayerNorm {
        LayerNorm {
            weight: init.constant([self.features], 1.0),
            bias: init.constant([self.features], 0.0),
            eps: self.eps,
        }
    }
}

/// `torch.nn.LayerNorm` over the last dimension (Ba et al., 2016): channels of `[N, H, W, C]`,
/// features of tokens.
#[derive(Module, Debug)]
pub struct LayerNorm {
    /// `[features]`
    pub weight: Param<Tensor<1>>,
    /// `[features]`
    pub bias: Param<Tensor<1>>,
    #[module(skip)]
    eps: f64,
}

impl LayerNorm {
    /// `[…, features]` to the same shape.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let (weight, bias) = (self.weight.val(), self.bias.val());
        cpu::layer_norm(&x, [&weight, &bias], self.eps)
            .unwrap_or_else(|| layer_norm(x, weight, Some(bias), self.eps))
    }
}

/// `torch.nn.GroupNorm` on `[N, H, W, C]` (Wu and He, 2018): each image is normalised over its
/// positions and the channels of a group.
#[derive(Module, Debug)]
pub struct GroupNorm {
    /// `[channels]`
    pub weight: Param<Tensor<1>>,
    /// `[channels]`
    pub bias: Param<Tensor<1>>,
    #[module(skip)]
    groups: usize,
    #[module(skip)]
    eps: f64,
}

impl GroupNorm {
    /// PyTorch's default `eps` of 1e-5, weight 1, bias 0.
    pub fn new(groups: usize, channels: usize, init: &mut Init) -> Self {
        Self {
            weight: init.constant([channels], 1.0),
            bias: init.constant([channels], 0.0),
            groups,
            eps: 1e-5,
        }
    }

    /// `[N, H, W, C]` to the same shape.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [n, h, w, c] = x.dims();
        let grouped = x.reshape([n, h * w, self.groups, c / self.groups]);
        let centred = grouped.clone() - grouped.mean_dim(1).mean_dim(3);
        let var = centred.clone().square().mean_dim(1).mean_dim(3);
        let normal = (centred / (var + self.eps).sqrt()).reshape([n, h, w, c]);
        normal * self.weight.val().unsqueeze() + self.bias.val().unsqueeze()
    }
}

/// `torch.nn.LocalResponseNorm` on `[N, H, W, C]` (Krizhevsky et al., 2012, section 3.3): each
/// value is divided by `(k + alpha * mean of squares)^beta` over `size` neighbouring channels.
#[derive(Module, Debug)]
pub struct LocalResponseNorm {
    #[module(skip)]
    size: usize,
    #[module(skip)]
    alpha: f64,
    #[module(skip)]
    beta: f64,
    #[module(skip)]
    k: f64,
}

impl LocalResponseNorm {
    /// A norm over `size` channels.
    pub fn new(size: usize, alpha: f64, beta: f64, k: f64) -> Self {
        Self {
            size,
            alpha,
            beta,
            k,
        }
    }

    /// `[N, H, W, C]` to the same shape.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [n, h, w, c] = x.dims();
        let norm = lenslet_kernels::LocalResponseNorm {
            channels: c,
            size: self.size,
            alpha: self.alpha as f32,
            beta: self.beta as f32,
            k: self.k as f32,
        };
        if let Some(y) = cpu::local_response_norm(&x, norm) {
            return y;
        }
        // Channels become the rows of a picture one column wide, over which a window slides.
        let options = AvgPoolOptions {
            stride: [1, 1],
            padding: [(self.size / 2, (self.size - 1) / 2), (0, 0)],
            ..AvgPoolOptions::new([self.size, 1])
        };
        let squares = x.clone().square().reshape([n * h * w, 1, c, 1]);
        let mean = avg_pool2d(squares, options).reshape([n, h, w, c]);
        x / (mean * self.alpha + self.k).powf_scalar(self.beta)
    }
}
