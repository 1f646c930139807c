//! Two-dimensional convolution.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use burn::tensor::module::conv2d;
use burn::tensor::ops::ConvOptions;

use crate::{Init, to_nchw, to_nhwc};

/// What `torch.nn.Conv2d` takes. Build with [`Conv2dConfig::new`] and the `with_` methods.
#[derive(Debug, Clone)]
pub struct Conv2dConfig {
    in_channels: usize,
    out_channels: usize,
    kernel_size: [usize; 2],
    stride: [usize; 2],
    padding: [usize; 2],
    dilation: [usize; 2],
    groups: usize,
    bias: bool,
}

impl Conv2dConfig {
    /// A convolution with stride 1, no padding, no dilation, one group and a bias.
    pub fn new(in_channels: usize, out_channels: usize, kernel_size: usize) -> Self {
        Self {
            in_channels,
            out_channels,
            kernel_size: [kernel_size; 2],
            stride: [1; 2],
            padding: [0; 2],
            dilation: [1; 2],
            groups: 1,
            bias: true,
        }
    }

    /// Steps between output positions, in rows and columns.
    pub fn with_stride(mut self, stride: usize) -> Self {
        self.stride = [stride; 2];
        self
    }

    /// Zeros added on every side.
    pub fn with_padding(mut self, padding: usize) -> Self {
        self.padding = [padding; 2];
        self
    }

    /// Distance between kernel taps.
    pub fn with_dilation(mut self, dilation: usize) -> Self {
        self.dilation = [dilation; 2];
        self
    }

    /// Channel groups that are convolved apart.
    pub fn with_groups(mut self, groups: usize) -> Self {
        self.groups = groups;
        self
    }

    /// Whether a value per output channel is added.
    pub fn with_bias(mut self, bias: bool) -> Self {
        self.bias = bias;
        self
    }

    /// Makes the layer with PyTorch's default values: weight and bias uniform in
    /// `±1 / sqrt(fan_in)`, `fan_in = in_channels / groups * kh * kw`.
    pub fn init(&self, init: &mut Init) -> Conv2d {
        let [kh, kw] = self.kernel_size;
        let inputs = self.in_channels / self.groups;
        let bound = 1.0 / ((inputs * kh * kw) as f64).sqrt();
        Conv2d {
            weight: init.uniform([self.out_channels, inputs, kh, kw], bound),
            bias: self.bias.then(|| init.uniform([self.out_channels], bound)),
            stride: self.stride,
            padding: self.padding,
            dilation: self.dilation,
            groups: self.groups,
        }
    }
}

/// `torch.nn.Conv2d` on `[N, H, W, C]`.
#[derive(Module, Debug)]
pub struct Conv2d {
    /// `[out_channels, in_channels / groups, kh, kw]`
    pub weight: Param<Tensor<4>>,
    /// `[out_channels]`
    pub bias: Option<Param<Tensor<1>>>,
    #[module(skip)]
    stride: [usize; 2],
    #[module(skip)]
    padding: [usize; 2],
    #[module(skip)]
    dilation: [usize; 2],
    #[module(skip)]
    groups: usize,
}

impl Conv2d {
    /// `[N, H, W, in]` to `[N, H', W', out]` with
    /// `H' = (H + 2 * padding - dilation * (kh - 1) - 1) / stride + 1`.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let options = ConvOptions::new(self.stride, self.padding, self.dilation, self.groups);
        let bias = self.bias.as_ref().map(|b| b.val());
        to_nhwc(conv2d(to_nchw(x), self.weight.val(), bias, options))
    }
}
