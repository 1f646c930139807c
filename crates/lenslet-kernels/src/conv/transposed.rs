//! Transposed convolution, which is the input gradient of a convolution and borrows its kernels.

use super::{Conv2d, PackedConv, Pass};
use crate::buffer::Scratch;
use crate::error::KernelError;
use crate::matrix::Matrix;

/// The shape of a transposed convolution, with PyTorch's parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConvTranspose2d {
    /// Input: images, height, width, channels.
    pub input: [usize; 4],
    /// Output channels.
    pub c_out: usize,
    /// Kernel height and width.
    pub kernel: [usize; 2],
    /// Vertical and horizontal stride.
    pub stride: [usize; 2],
    /// What is cut off the output: top, left, bottom, right.
    pub padding: [usize; 4],
    /// Rows and columns added at the output's end; less than the stride.
    pub output_padding: [usize; 2],
    /// Vertical and horizontal distance of kernel taps.
    pub dilation: [usize; 2],
    /// Groups of channels that do not see each other.
    pub groups: usize,
}

impl ConvTranspose2d {
    /// The convolution from this one's output to its input; its weight is the same, `[c_in, c_out / groups, kh, kw]`.
    ///
    /// # Errors
    ///
    /// If the input is empty, the output would be, a number that must be positive is 0, the output padding is not less
    /// than the stride, or the groups do not divide the channels.
    pub fn convolution(&self) -> Result<Conv2d, KernelError> {
        let [n, h, w, c_in] = self.input;
        let mut size = [0; 2];
        for (axis, input) in [h, w].into_iter().enumerate() {
            let (kernel, stride) = (self.kernel[axis], self.stride[axis]);
            let extra = self.output_padding[axis];
            let cut = self.padding[axis] + self.padding[axis + 2];
            let full = (input.max(1) - 1) * stride
                + kernel.max(1).saturating_sub(1) * self.dilation[axis]
                + 1
                + extra;
            if input == 0 || kernel == 0 || extra >= stride || full <= cut {
                return Err(KernelError::Shape {
                    what: "transposed convolution",
                    why: format!(
                        "input {input}, kernel {kernel}, stride {stride}, output padding {extra}, padding {cut}"
                    ),
                });
            }
            size[axis] = full - cut;
        }
        let conv = Conv2d {
            n,
            h: size[0],
            w: size[1],
            c_in: self.c_out,
            c_out: c_in,
            kernel: self.kernel,
            stride: self.stride,
            padding: self.padding,
            dilation: self.dilation,
            groups: self.groups,
        };
        conv.output_size()?;
        Ok(conv)
    }

    /// Output height and width.
    ///
    /// # Errors
    ///
    /// As [`ConvTranspose2d::convolution`].
    pub fn output_size(&self) -> Result<[usize; 2], KernelError> {
        self.convolution().map(|conv| [conv.h, conv.w])
    }

    /// Packs `weight` (`[c_in, c_out / groups, kh, kw]`) for the forward pass: [`PackedConv::run`] then takes the input
    /// and writes the output.
    ///
    /// # Errors
    ///
    /// As [`ConvTranspose2d::convolution`], or if the weight has the wrong length.
    pub fn pack_forward(&self, weight: &[f32]) -> Result<PackedConv, KernelError> {
        PackedConv::new(&self.convolution()?, Pass::InputGradient, weight)
    }

    /// Packs `weight` for the input gradient: [`PackedConv::run`] then takes the output's gradient and writes the input's.
    ///
    /// # Errors
    ///
    /// As [`ConvTranspose2d::convolution`], or if the weight has the wrong length.
    pub fn pack_input_gradient(&self, weight: &[f32]) -> Result<PackedConv, KernelError> {
        PackedConv::new(&self.convolution()?, Pass::Forward, weight)
    }

    /// Writes the weight's gradient to `dw`, given the input `x` and the output's gradient `dy`.
    ///
    /// # Errors
    ///
    /// As [`ConvTranspose2d::convolution`], if a slice is too short or a row stride too small.
    pub fn weight_gradient(
        &self,
        x: Matrix<'_>,
        dy: Matrix<'_>,
        dw: &mut [f32],
        scratch: &mut Scratch,
    ) -> Result<(), KernelError> {
        self.convolution()?.weight_gradient(dy, x, dw, scratch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::epilogue::Epilogue;
    use crate::matrix::MatrixMut;
    use crate::testing::{assert_close, poisoned, random, sum_tolerance, with_each_isa};
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn transposed_convolutions_match_the_reference(
            n in 1usize..3, size in [1usize..7, 1usize..7], channels in [1usize..12, 1usize..12], groups in 1usize..3,
            kernel in [1usize..5, 1usize..5], stride in [1usize..4, 1usize..4], pad in 0usize..3, extra in 0usize..2,
            dilation in 1usize..3, seed: u64,
        ) {
            let [c_in, c_out] = channels.map(|c| c * groups);
            let shape = ConvTranspose2d {
                input: [n, size[0], size[1], c_in],
                c_out,
                kernel,
                stride,
                padding: [pad; 4],
                output_padding: [extra.min(stride[0] - 1), extra.min(stride[1] - 1)],
                dilation: [dilation; 2],
                groups,
            };
            let Ok([oh, ow]) = shape.output_size() else { return Ok(()) };
            let taps = kernel[0] * kernel[1];
            let per_group = c_out / groups;
            let x = random(n * size[0] * size[1] * c_in, seed);
            let dy = random(n * oh * ow * c_out, seed ^ 1);
            let weight = random(c_in * per_group * taps, seed ^ 2);
            let [mut y, mut dx, mut dw] = [dy.len(), x.len(), weight.len()].map(|len| vec![0.0f64; len]);
            // Every input pixel is spread over the output.
            for (pixel, xs) in x.chunks(c_in).enumerate() {
                let (image, iy, ix) = (pixel / size[0] / size[1], pixel / size[1] % size[0], pixel % size[1]);
                for tap in 0..taps {
                    let (ky, kx) = (tap / kernel[1], tap % kernel[1]);
                    let (oy, ox) = (iy * stride[0] + ky * dilation, ix * stride[1] + kx * dilation);
                    if oy < pad || ox < pad || oy - pad >= oh || ox - pad >= ow {
                        continue;
                    }
                    let out = ((image * oh + oy - pad) * ow + ox - pad) * c_out;
                    for (i, &x) in xs.iter().enumerate() {
                        let group = i / (c_in / groups);
                        for o in 0..per_group {
                            let (w, at) = ((i * per_group + o) * taps + tap, out + group * per_group + o);
                            y[at] += f64::from(x) * f64::from(weight[w]);
                            dx[pixel * c_in + i] += f64::from(dy[at]) * f64::from(weight[w]);
                            dw[w] += f64::from(dy[at]) * f64::from(x);
                        }
                    }
                }
            }
            // Winograd's transforms amplify rounding.
            let tolerance = 20.0 * sum_tolerance(taps * c_in.max(c_out));
            with_each_isa(|_| {
                let mut scratch = Scratch::new();
                let mut got = poisoned(y.len());
                let (from, to) = (Matrix::new(&x, c_in), MatrixMut::new(&mut got, c_out));
                shape.pack_forward(&weight).unwrap().run(n, from, to, &mut scratch, &Epilogue::NONE).unwrap();
                assert_close("transposed convolution", &got, &y, tolerance);
                let mut got = poisoned(dx.len());
                let (from, to) = (Matrix::new(&dy, c_out), MatrixMut::new(&mut got, c_in));
                shape.pack_input_gradient(&weight).unwrap().run(n, from, to, &mut scratch, &Epilogue::NONE).unwrap();
                assert_close("its input gradient", &got, &dx, tolerance);
                let mut got = poisoned(dw.len());
                shape.weight_gradient(Matrix::new(&x, c_in), Matrix::new(&dy, c_out), &mut got, &mut scratch).unwrap();
                assert_close("its weight gradient", &got, &dw, sum_tolerance(n * size[0] * size[1]));
            });
        }
    }

    #[test]
    fn impossible_shapes_are_refused() {
        let shape = ConvTranspose2d {
            input: [1, 2, 2, 4],
            c_out: 4,
            kernel: [2, 2],
            stride: [2, 2],
            padding: [0; 4],
            output_padding: [0, 0],
            dilation: [1, 1],
            groups: 1,
        };
        assert_eq!(shape.output_size(), Ok([4, 4]));
        for wrong in [
            ConvTranspose2d {
                input: [1, 0, 2, 4],
                ..shape
            },
            ConvTranspose2d {
                output_padding: [2, 0],
                ..shape
            },
            ConvTranspose2d {
                padding: [2; 4],
                ..shape
            },
            ConvTranspose2d {
                kernel: [0, 1],
                ..shape
            },
            ConvTranspose2d {
                stride: [0, 1],
                ..shape
            },
            ConvTranspose2d { groups: 3, ..shape },
        ] {
            assert!(wrong.output_size().is_err(), "{wrong:?}");
        }
    }
}
