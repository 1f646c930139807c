//! Two-dimensional convolution: shape, choice of algorithm, forward pass and gradients.
//!
//! Activations are `[n, h, w, c]`, weights `[c_out, c_in / groups, kh, kw]`. A [`PackedConv`] holds weights in the form that its
//! algorithm reads; it is made for the forward pass or for the input gradient (which is the transposed convolution). A [`ConvWorkspace`]
//! runs passes whose weights serve once.

mod choose;
mod depthwise;
mod depthwise_gradient;
mod depthwise_tile;
mod few_tiles;
mod filters;
mod gated;
mod gradient;
mod indirect;
mod narrow;
mod packed;
mod planes;
mod strips;
mod transform;
mod transposed;
mod winograd;
mod winograd_gradient;
mod workspace;

pub use choose::{Algorithm, Pass};
pub use gradient::column_sums;
pub use packed::PackedConv;
pub use planes::PlanesConv;
pub use strips::{InvertedResidual, Part, PartConv, strip_chunks, takes_panels};
pub use transposed::ConvTranspose2d;
pub use workspace::ConvWorkspace;

use crate::error::{KernelError, elements};

/// The shape of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Conv2d {
    /// Images of a batch.
    pub n: usize,
    /// Input height in pixels.
    pub h: usize,
    /// Input width in pixels.
    pub w: usize,
    /// Input channels.
    pub c_in: usize,
    /// Output channels.
    pub c_out: usize,
    /// Kernel height and width.
    pub kernel: [usize; 2],
    /// Vertical and horizontal stride.
    pub stride: [usize; 2],
    /// Zeros around the input: top, left, bottom, right.
    pub padding: [usize; 4],
    /// Vertical and horizontal distance of kernel taps.
    pub dilation: [usize; 2],
    /// Groups of channels that do not see each other.
    pub groups: usize,
}

impl Conv2d {
    /// A convolution of stride 1 without padding, dilation or groups.
    pub fn new(input: [usize; 4], c_out: usize, kernel: [usize; 2]) -> Self {
        let [n, h, w, c_in] = input;
        Conv2d {
            n,
            h,
            w,
            c_in,
            c_out,
            kernel,
            stride: [1, 1],
            padding: [0; 4],
            dilation: [1, 1],
            groups: 1,
        }
    }

    /// With the same stride both ways.
    pub fn stride(self, stride: usize) -> Self {
        Conv2d {
            stride: [stride; 2],
            ..self
        }
    }

    /// With the same padding on all sides.
    pub fn padding(self, padding: usize) -> Self {
        Conv2d {
            padding: [padding; 4],
            ..self
        }
    }

    /// With the same dilation both ways.
    pub fn dilation(self, dilation: usize) -> Self {
        Conv2d {
            dilation: [dilation; 2],
            ..self
        }
    }

    /// With groups.
    pub fn groups(self, groups: usize) -> Self {
        Conv2d { groups, ..self }
    }

    /// Output height and width.
    ///
    /// # Errors
    ///
    /// If a number that must be positive is 0, if the groups do not divide the channels, or if the kernel is larger than the padded
    /// input.
    pub fn output_size(&self) -> Result<[usize; 2], KernelError> {
        let refuse = |why: String| {
            Err(KernelError::Shape {
                what: "convolution",
                why,
            })
        };
        let Conv2d {
            c_in,
            c_out,
            groups,
            ..
        } = *self;
        if groups == 0 || !c_in.is_multiple_of(groups) || !c_out.is_multiple_of(groups) {
            return refuse(format!(
                "{groups} groups do not divide {c_in} and {c_out} channels"
            ));
        }
        if c_in == 0 || c_out == 0 {
            return refuse(format!("{c_in} input and {c_out} output channels"));
        }
        let mut size = [0; 2];
        for axis in 0..2 {
            let (kernel, stride) = (self.kernel[axis], self.stride[axis]);
            let dilation = self.dilation[axis];
            if kernel == 0 || stride == 0 || dilation == 0 {
                return refuse(format!(
                    "kernel {kernel}, stride {stride}, dilation {dilation}"
                ));
            }
            let input = [self.h, self.w][axis]
                .saturating_add(self.padding[axis])
                .saturating_add(self.padding[axis + 2]);
            let extent = (kernel - 1).saturating_mul(dilation).saturating_add(1);
            if input < extent || [self.h, self.w][axis] == 0 {
                return refuse(format!(
                    "a kernel over {extent} pixels on an input of {input}"
                ));
            }
            size[axis] = (input - extent) / stride + 1;
        }
        Ok(size)
    }

    /// Elements of the weight.
    pub fn weight_len(&self) -> usize {
        elements([
            self.c_out,
            self.c_in / self.groups.max(1),
            self.kernel[0],
            self.kernel[1],
        ])
    }

    /// Multiply-accumulates of the forward pass, those with padding included; 0 for an impossible shape.
    pub fn macs(&self) -> usize {
        self.output_size()
            .map_or(0, |[oh, ow]| self.n * oh * ow * self.weight_len())
    }

    /// One input and one output channel per group.
    pub fn is_depthwise(&self) -> bool {
        self.groups > 1 && self.groups == self.c_in && self.groups == self.c_out
    }

    pub(crate) fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    /// A matrix product over all pixels: 1 x 1, stride 1, no padding.
    pub(crate) fn is_pointwise(&self) -> bool {
        self.kernel == [1, 1] && self.stride == [1, 1] && self.padding == [0; 4]
    }

    /// Few input channels: kernel rows are read as one run of `kw * c_in` floats from a padded copy of the input.
    pub(crate) fn reads_kernel_rows(&self) -> bool {
        let few = self.c_in < 16 || self.c_in == 16 && self.kernel[1] >= 5;
        self.groups == 1 && few && self.kernel[1] > 1 && self.dilation[1] == 1
    }
}

#[cfg(test)]
mod accuracy;
#[cfg(test)]
mod tests;
