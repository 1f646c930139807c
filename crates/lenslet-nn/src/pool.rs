//! Pooling.

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::module::avg_pool2d;
use burn::tensor::ops::AvgPoolOptions;

use crate::{to_nchw, to_nhwc};

/// `torch.nn.AvgPool2d` without padding, on `[N, H, W, C]`.
#[derive(Module, Debug)]
pub struct AvgPool2d {
    #[module(skip)]
    kernel_size: usize,
    #[module(skip)]
    stride: usize,
}

impl AvgPool2d {
    /// Square windows of `kernel_size`, `stride` apart.
    pub fn new(kernel_size: usize, stride: usize) -> Self {
        Self {
            kernel_size,
            stride,
        }
    }

    /// `[N, H, W, C]` to `[N, H', W', C]` with `H' = (H - kernel_size) / stride + 1`.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let options = AvgPoolOptions {
            stride: [self.stride; 2],
            ..AvgPoolOptions::new([self.kernel_size; 2])
        };
        to_nhwc(avg_pool2d(to_nchw(x), options))
    }
}
