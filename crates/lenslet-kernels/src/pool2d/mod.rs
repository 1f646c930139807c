//! Max and average pooling over `[n, h, w, c]`, forward and backward.
//!
//! Both gradients gather: each input pixel adds up what the windows that cover it send back, in a fixed order, and is
//! written once.

mod average;
mod max;

pub use average::{AdaptiveAveragePool2d, AveragePool2d};
pub use max::MaxPool2d;

use crate::error::{KernelError, elements};

/// The windows of a pooling layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool2d {
    /// Input: images, height, width, channels.
    pub input: [usize; 4],
    /// Window height and width.
    pub kernel: [usize; 2],
    /// Vertical and horizontal stride.
    pub stride: [usize; 2],
    /// Padding: top, left, bottom, right. It never wins a maximum.
    pub padding: [usize; 4],
    /// Whether a last window may reach beyond the padded input, as long as it starts inside the input or the padding before it.
    pub ceil_mode: bool,
}

impl Pool2d {
    /// Square windows of `kernel` pixels, `stride` apart, without padding.
    pub fn new(input: [usize; 4], kernel: usize, stride: usize) -> Self {
        Pool2d {
            input,
            kernel: [kernel; 2],
            stride: [stride; 2],
            padding: [0; 4],
            ceil_mode: false,
        }
    }

    /// With the same padding on all sides.
    pub fn padding(self, padding: usize) -> Self {
        Pool2d {
            padding: [padding; 4],
            ..self
        }
    }

    /// With or without partial last windows.
    pub fn ceil_mode(self, ceil_mode: bool) -> Self {
        Pool2d { ceil_mode, ..self }
    }

    fn axes(&self, dilation: [usize; 2]) -> Result<[Axis; 2], KernelError> {
        let axis = |i: usize| {
            Axis::new(
                self.input[1 + i],
                self.kernel[i],
                self.stride[i],
                [self.padding[i], self.padding[i + 2]],
                dilation[i],
                self.ceil_mode,
            )
        };
        Ok([axis(0)?, axis(1)?])
    }
}

/// One axis of a pooling layer.
#[derive(Clone, Copy, Debug)]
struct Axis {
    input: usize,
    output: usize,
    kernel: usize,
    stride: usize,
    padding: [usize; 2],
    dilation: usize,
}

impl Axis {
    fn new(
        input: usize,
        kernel: usize,
        stride: usize,
        padding: [usize; 2],
        dilation: usize,
        ceil_mode: bool,
    ) -> Result<Self, KernelError> {
        let refuse = |why: String| {
            Err(KernelError::Shape {
                what: "pooling",
                why,
            })
        };
        if kernel == 0 || stride == 0 || dilation == 0 || input == 0 {
            return refuse(format!(
                "input {input}, kernel {kernel}, stride {stride}, dilation {dilation}"
            ));
        }
        let extent = (kernel - 1).saturating_mul(dilation).saturating_add(1);
        let padded = input.saturating_add(padding[0]).saturating_add(padding[1]);
        if padded < extent {
            return refuse(format!(
                "a window of {extent} pixels is larger than the padded input of {padded}"
            ));
        }
        let steps = padded - extent;
        let mut output = 1 + if ceil_mode {
            steps.div_ceil(stride)
        } else {
            steps / stride
        };
        if ceil_mode && (output - 1) * stride >= input + padding[0] {
            output -= 1;
        }
        let axis = Axis {
            input,
            output,
            kernel,
            stride,
            padding,
            dilation,
        };
        match (0..output).find(|&o| axis.taps(o).is_empty()) {
            Some(o) => refuse(format!(
                "window {o} of {kernel} pixels lies in the padding {padding:?} only"
            )),
            None => Ok(axis),
        }
    }

    /// The taps of window `o` that lie inside the input.
    fn taps(&self, o: usize) -> std::ops::Range<usize> {
        let start = o * self.stride;
        let first = self.padding[0]
            .saturating_sub(start)
            .div_ceil(self.dilation);
        let end = (self.input + self.padding[0])
            .saturating_sub(start)
            .div_ceil(self.dilation);
        first.min(self.kernel)..end.min(self.kernel)
    }

    /// The input position of a tap inside the input.
    fn position(&self, o: usize, tap: usize) -> usize {
        o * self.stride + tap * self.dilation - self.padding[0]
    }
}

fn volume(input: [usize; 4], [h, w]: [usize; 2]) -> usize {
    elements([input[0], h, w, input[3]])
}

#[cfg(test)]
mod tests;
