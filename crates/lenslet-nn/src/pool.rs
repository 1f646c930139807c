//! Pooling.

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::module::{adaptive_avg_pool2d, avg_pool2d, max_pool2d};
use burn::tensor::ops::{AvgPoolOptions, MaxPoolOptions};

use lenslet_kernels::Pool2d;

use crate::{cpu, to_nchw, to_nhwc};

/// `torch.nn.AvgPool2d` on `[N, H, W, C]`.
#[derive(Module, Debug)]
pub struct AvgPool2d {
    #[module(skip)]
    kernel_size: usize,
    #[module(skip)]
    stride: usize,
    #[module(skip)]
    padding: usize,
    #[module(skip)]
    count_include_pad: bool,
}

impl AvgPool2d {
    /// Square windows of `kernel_size`, `stride` apart, without padding.
    pub fn new(kernel_size: usize, stride: usize) -> Self {
        Self {
            kernel_size,
            stride,
            padding: 0,
            count_include_pad: true,
        }
    }

    /// Zeros added on every side.
    pub fn with_padding(mut self, padding: usize) -> Self {
        self.padding = padding;
        self
    }

    /// Whether those zeros count in the average (PyTorch's default).
    pub fn with_count_include_pad(mut self, count: bool) -> Self {
        self.count_include_pad = count;
        self
    }

    /// `[N, H, W, C]` to `[N, H', W', C]` with
    /// `H' = (H + 2 * padding - kernel_size) / stride + 1`.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let windows = Pool2d::new(x.dims(), self.kernel_size, self.stride).padding(self.padding);
        if let Some(y) = cpu::avg_pool2d(&x, windows, self.count_include_pad) {
            return y;
        }
        let options = AvgPoolOptions {
            stride: [self.stride; 2],
            padding: [(self.padding, self.padding); 2],
            count_include_pad: self.count_include_pad,
            ..AvgPoolOptions::new([self.kernel_size; 2])
        };
        to_nhwc(avg_pool2d(to_nchw(x), options))
    }
}

/// `torch.nn.MaxPool2d` on `[N, H, W, C]`.
#[derive(Module, Debug)]
pub struct MaxPool2d {
    #[module(skip)]
    kernel_size: usize,
    #[module(skip)]
    stride: usize,
    #[module(skip)]
    padding: usize,
    #[module(skip)]
    ceil_mode: bool,
}

impl MaxPool2d {
    /// Square windows of `kernel_size`, `stride` apart, without padding.
    pub fn new(kernel_size: usize, stride: usize) -> Self {
        Self {
            kernel_size,
            stride,
            padding: 0,
            ceil_mode: false,
        }
    }

    /// Border added on every side, below every value.
    pub fn with_padding(mut self, padding: usize) -> Self {
        self.padding = padding;
        self
    }

    /// Whether a last window that leaves the input is kept, as long as it starts inside.
    pub fn with_ceil_mode(mut self, ceil_mode: bool) -> Self {
        self.ceil_mode = ceil_mode;
        self
    }

    /// `[N, H, W, C]` to `[N, H', W', C]` with
    /// `H' = (H + 2 * padding - kernel_size) / stride + 1`, rounded up in ceil mode.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let windows = Pool2d::new(x.dims(), self.kernel_size, self.stride)
            .padding(self.padding)
            .ceil_mode(self.ceil_mode);
        if let Some(y) = cpu::max_pool2d(&x, windows) {
            return y;
        }
        let options = MaxPoolOptions::new([self.kernel_size; 2])
            .with_stride([self.stride; 2])
            .with_padding([self.padding; 2])
            .with_ceil_mode(self.ceil_mode);
        to_nhwc(max_pool2d(to_nchw(x), options))
    }
}

/// `torch.nn.AdaptiveAvgPool2d` on `[N, H, W, C]`: window `i` of `n` covers the rows from
/// `floor(i * H / n)` to `ceil((i + 1) * H / n)`, so any input size gives the output size.
#[derive(Module, Debug)]
pub struct AdaptiveAvgPool2d {
    #[module(skip)]
    output_size: usize,
}

impl AdaptiveAvgPool2d {
    /// A square output.
    pub fn new(output_size: usize) -> Self {
        Self { output_size }
    }

    /// `[N, H, W, C]` to `[N, output_size, output_size, C]`.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let size = [self.output_size; 2];
        cpu::adaptive_avg_pool2d(&x, size)
            .unwrap_or_else(|| to_nhwc(adaptive_avg_pool2d(to_nchw(x), size)))
    }
}

/// The mean over all positions: `[N, H, W, C]` to `[N, C]`.
pub fn global_avg_pool(x: Tensor<4>) -> Tensor<2> {
    let [n, _, _, c] = x.dims();
    AdaptiveAvgPool2d::new(1).forward(x).reshape([n, c])
}
