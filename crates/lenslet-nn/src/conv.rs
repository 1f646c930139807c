//! Two-dimensional convolutions.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use burn::tensor::module::{conv_transpose2d, conv2d};
use burn::tensor::ops::{ConvOptions, ConvTransposeOptions};

use crate::{Activation, BiasInit, Init, WeightInit, cpu, to_nchw, to_nhwc};

/// Zeros around a convolution's input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Padding {
    /// `(before, after)` in rows and in columns.
    Explicit([(usize, usize); 2]),
    /// TensorFlow's `SAME`: as many zeros as make the output `ceil(input / stride)` large, the odd
    /// one after. It depends on the input's size.
    Same,
}

/// What `torch.nn.Conv2d` takes. Build with [`Conv2dConfig::new`] and the `with_` methods.
#[derive(Debug, Clone)]
pub struct Conv2dConfig {
    in_channels: usize,
    out_channels: usize,
    kernel_size: [usize; 2],
    stride: [usize; 2],
    padding: Padding,
    dilation: [usize; 2],
    groups: usize,
    bias: bool,
    weight_init: WeightInit,
    bias_init: BiasInit,
}

impl Conv2dConfig {
    /// A convolution with stride 1, no padding, no dilation, one group and a bias.
    pub fn new(in_channels: usize, out_channels: usize, kernel_size: usize) -> Self {
        Self {
            in_channels,
            out_channels,
            kernel_size: [kernel_size; 2],
            stride: [1; 2],
            padding: Padding::Explicit([(0, 0); 2]),
            dilation: [1; 2],
            groups: 1,
            bias: true,
            weight_init: WeightInit::Default,
            bias_init: BiasInit::Default,
        }
    }

    /// Rows and columns of the kernel where they differ.
    pub fn with_kernel_size(mut self, kernel_size: [usize; 2]) -> Self {
        self.kernel_size = kernel_size;
        self
    }

    /// Steps between output positions, in rows and columns.
    pub fn with_stride(mut self, stride: usize) -> Self {
        self.stride = [stride; 2];
        self
    }

    /// Zeros added on every side.
    pub fn with_padding(self, padding: usize) -> Self {
        self.with_paddings([padding; 2])
    }

    /// Zeros added above and below, and left and right.
    pub fn with_paddings(mut self, padding: [usize; 2]) -> Self {
        self.padding = Padding::Explicit(padding.map(|p| (p, p)));
        self
    }

    /// Zeros of any other kind.
    pub fn with_padding_mode(mut self, padding: Padding) -> Self {
        self.padding = padding;
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

    /// First values other than PyTorch's default; a bias starts at zero then.
    pub fn with_init(mut self, weight: WeightInit) -> Self {
        self.weight_init = weight;
        self.bias_init = BiasInit::Zeros;
        self
    }

    /// First values of the bias.
    pub fn with_bias_init(mut self, bias: BiasInit) -> Self {
        self.bias_init = bias;
        self
    }

    /// Channels of the output.
    pub fn out_channels(&self) -> usize {
        self.out_channels
    }

    /// Makes the layer. PyTorch's default values: weight and bias uniform in
    /// `±1 / sqrt(fan_in)`, `fan_in = in_channels / groups * kh * kw`.
    pub fn init(&self, init: &mut Init) -> Conv2d {
        let [kh, kw] = self.kernel_size;
        let inputs = self.in_channels / self.groups;
        Conv2d {
            weight: self
                .weight_init
                .weight(init, [self.out_channels, inputs, kh, kw]),
            bias: self.bias.then(|| {
                self.bias_init
                    .bias(init, self.out_channels, inputs * kh * kw)
            }),
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
    padding: Padding,
    #[module(skip)]
    dilation: [usize; 2],
    #[module(skip)]
    groups: usize,
}

impl Conv2d {
    /// `[N, H, W, in]` to `[N, H', W', out]` with
    /// `H' = (H + padding - dilation * (kh - 1) - 1) / stride + 1`.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.forward_activated(x, None)
    }

    /// The same with an activation behind it, which costs no pass of its own where its derivative can be had from its value.
    pub fn forward_activated(&self, x: Tensor<4>, activation: Option<Activation>) -> Tensor<4> {
        let [_, h, w, _] = x.dims();
        let bias = self.bias.as_ref().map(|b| b.val());
        let (weight, options) = (self.weight.val(), self.options([h, w]));
        let (fused, after) = Activation::split(activation);
        match cpu::conv2d(&x, &weight, bias.as_ref(), &options, false, fused) {
            Some((y, _)) => Activation::apply(after, y),
            None => Activation::apply(activation, to_nhwc(self.forward_nchw(to_nchw(x)))),
        }
    }

    /// The same on `[N, C, H, W]`, composed of Burn's operations.
    pub(crate) fn forward_nchw(&self, x: Tensor<4>) -> Tensor<4> {
        let [_, _, h, w] = x.dims();
        let options = self.options([h, w]);
        let bias = self.bias.as_ref().map(|b| b.val());
        conv2d(x, self.weight.val(), bias, options)
    }

    /// The convolution's geometry for an input of `size` rows and columns.
    pub fn options(&self, size: [usize; 2]) -> ConvOptions<2> {
        let padding = match self.padding {
            Padding::Explicit(padding) => padding,
            Padding::Same => {
                let [_, _, kh, kw] = self.weight.lazy_shape().dims();
                let total = |axis: usize, kernel: usize| {
                    let stride = self.stride[axis];
                    let extent = self.dilation[axis] * (kernel - 1) + 1;
                    let covered = (size[axis].div_ceil(stride) - 1) * stride + extent;
                    let total = covered.saturating_sub(size[axis]);
                    (total / 2, total - total / 2)
                };
                [total(0, kh), total(1, kw)]
            }
        };
        ConvOptions::new_with_padding(self.stride, padding, self.dilation, self.groups)
    }
}

/// What `torch.nn.ConvTranspose2d` takes, as far as image models use it: no padding, one group.
#[derive(Debug, Clone)]
pub struct ConvTranspose2dConfig {
    in_channels: usize,
    out_channels: usize,
    kernel_size: usize,
    stride: usize,
}

impl ConvTranspose2dConfig {
    /// A transposed convolution with a bias.
    pub fn new(in_channels: usize, out_channels: usize, kernel_size: usize, stride: usize) -> Self {
        Self {
            in_channels,
            out_channels,
            kernel_size,
            stride,
        }
    }

    /// Makes the layer with PyTorch's default values: weight and bias uniform in
    /// `±1 / sqrt(out_channels * k * k)`.
    pub fn init(&self, init: &mut Init) -> ConvTranspose2d {
        let k = self.kernel_size;
        let fan_in = self.out_channels * k * k;
        ConvTranspose2d {
            weight: WeightInit::Default.weight(init, [self.in_channels, self.out_channels, k, k]),
            bias: BiasInit::Default.bias(init, self.out_channels, fan_in),
            stride: self.stride,
        }
    }
}

/// `torch.nn.ConvTranspose2d` on `[N, H, W, C]`.
#[derive(Module, Debug)]
pub struct ConvTranspose2d {
    /// `[in_channels, out_channels, k, k]`
    pub weight: Param<Tensor<4>>,
    /// `[out_channels]`
    pub bias: Param<Tensor<1>>,
    #[module(skip)]
    stride: usize,
}

impl ConvTranspose2d {
    /// `[N, H, W, in]` to `[N, H', W', out]` with `H' = (H - 1) * stride + k`.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let (weight, bias) = (self.weight.val(), self.bias.val());
        cpu::conv_transpose2d(&x, &weight, &bias, self.stride).unwrap_or_else(|| {
            let options = ConvTransposeOptions::new([self.stride; 2], [0; 2], [0; 2], [1; 2], 1);
            to_nhwc(conv_transpose2d(to_nchw(x), weight, Some(bias), options))
        })
    }
}
