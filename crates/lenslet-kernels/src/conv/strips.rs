//! A depthwise convolution with the 1 x 1 convolutions before and behind it, strip by strip.
//!
//! One by one, they write their feature maps out and read them in again: the widest of MobileNetV2 is 4.8 MB. Here a thread takes some
//! rows of the output and computes, a few rows at a time, what these need of the map between, which stays in its caches.

use std::ops::Range;

use super::{Conv2d, PackedConv};
use crate::buffer::{Local, with_local};
use crate::epilogue::{Epilogue, Post};
use crate::error::{KernelError, elements};
use crate::matrix::{Matrix, MatrixMut};
use crate::pool::parallel_for;
use crate::product::Output;

/// Floats of the maps between that a thread holds at a time: 256 KB, half of a second cache level that is small.
const HELD: usize = 64 << 10;
/// Chunks of a call at least, where the images have enough rows.
const CHUNKS: usize = 8;
/// Chunks of an image at most.
const CHUNKS_OF_IMAGE: usize = 4;

/// A convolution and what happens to its output.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    /// Packed for the forward pass.
    pub conv: &'a PackedConv,
    /// Its epilogue. A residual can only be added to the last part's output; moments to none.
    pub epilogue: Epilogue<'a>,
}

/// An inverted residual (Sandler et al. 2018, section 3.3) or what is left of it: a depthwise convolution between 1 x 1 convolutions,
/// of which one can be missing.
#[derive(Clone, Copy, Debug)]
pub struct InvertedResidual<'a> {
    /// The 1 x 1 convolution before.
    pub expand: Option<Part<'a>>,
    /// The depthwise convolution.
    pub depthwise: Part<'a>,
    /// The 1 x 1 convolution behind.
    pub project: Option<Part<'a>>,
}

/// Into how many chunks [`InvertedResidual::run`] cuts each of `n` images: neighbours compute the rows of the map between that both see,
/// a quarter of them at most.
pub fn strip_chunks(n: usize, depthwise: &Conv2d) -> usize {
    let reach = (depthwise.kernel[0] - 1) * depthwise.dilation[0] + 1;
    let shared = reach.saturating_sub(depthwise.stride[0]).max(1);
    let most = CHUNKS_OF_IMAGE.min(1 + depthwise.h / 4 / shared);
    CHUNKS.div_ceil(n.max(1)).min(most)
}

fn refusal(why: &str) -> KernelError {
    KernelError::Shape {
        what: "inverted residual",
        why: why.to_owned(),
    }
}

impl<'a> InvertedResidual<'a> {
    fn parts(&self) -> impl Iterator<Item = &Part<'a>> {
        self.expand
            .iter()
            .chain([&self.depthwise])
            .chain(&self.project)
    }

    fn check(&self, n: usize, x: Matrix<'_>, y: &MatrixMut<'_>) -> Result<(), KernelError> {
        let depthwise = self.depthwise.conv;
        let (shape, output) = (&depthwise.shape, depthwise.output);
        let before = self.expand.map(|part| *part.conv.shape());
        let behind = self.project.map(|part| *part.conv.shape());
        if !depthwise.is_depthwise()
            || !self
                .expand
                .iter()
                .chain(&self.project)
                .all(|part| part.conv.takes_gate())
        {
            return Err(refusal(
                "not a depthwise convolution between 1 x 1 convolutions",
            ));
        }
        if before.is_some_and(|s| [s.h, s.w, s.c_out] != [shape.h, shape.w, shape.c_in])
            || behind.is_some_and(|s| [s.h, s.w, s.c_in] != [output[0], output[1], shape.c_out])
        {
            return Err(refusal("a part does not continue the one before it"));
        }
        let count = self.parts().count();
        for (i, part) in self.parts().enumerate() {
            let last = i + 1 == count;
            let rows = if last {
                elements([n, output[0], output[1]])
            } else {
                0
            };
            part.epilogue.check(rows, part.conv.shape.c_out)?;
            if part.epilogue.moments.is_some() || !last && part.epilogue.residual.is_some() {
                return Err(refusal("moments, or a residual before the last part"));
            }
        }
        x.check(
            "input",
            elements([n, shape.h, shape.w]),
            before.unwrap_or(*shape).c_in,
        )?;
        y.check(
            "output",
            elements([n, output[0], output[1]]),
            behind.unwrap_or(*shape).c_out,
        )
    }

    /// Runs it over `n` images: `x` is `[n, h, w]` rows of the first part's input channels, `y` `[n, oh, ow]` rows of the last part's
    /// output channels. The numbers are the ones that the parts give one by one.
    ///
    /// # Errors
    ///
    /// If a slice is too short or a row stride too small, if the parts are no such convolutions or do not fit together.
    pub fn run(&self, n: usize, x: Matrix<'_>, y: MatrixMut<'_>) -> Result<(), KernelError> {
        self.check(n, x, &y)?;
        let shape = &self.depthwise.conv.shape;
        let per_image = strip_chunks(n, shape);
        let rows = self.depthwise.conv.output[0];
        let y = Output {
            data: y.data.as_mut_ptr(),
            ld: y.ld,
        };
        parallel_for(n * per_image, |i| {
            let (image, chunk) = (i / per_image, i % per_image);
            let rows = chunk * rows / per_image..(chunk + 1) * rows / per_image;
            // SAFETY: checked above; chunks write different rows.
            with_local(|local| unsafe { self.chunk(image, rows, x, y, local) });
        });
        Ok(())
    }

    /// Some rows of an image's output.
    ///
    /// # Safety
    ///
    /// The parts, the slices behind `x` and `y` and the epilogues must have been checked for this image.
    unsafe fn chunk(
        &self,
        image: usize,
        rows: Range<usize>,
        x: Matrix<'_>,
        y: Output,
        local: &mut Local,
    ) {
        let Conv2d {
            h,
            w,
            c_in: c,
            stride,
            padding,
            kernel,
            dilation,
            ..
        } = self.depthwise.conv.shape;
        let [oh, ow] = self.depthwise.conv.output;
        let reach = (kernel[0] - 1) * dilation[0] + 1;
        let held = match self.expand {
            Some(_) => stride[0] * w * c + ow * c,
            None => ow * c,
        };
        let at_once = (HELD / held.max(1)).clamp(1, rows.len().max(1));
        // Rows of the map that the depthwise convolution reads.
        let seen = |rows: &Range<usize>| {
            let first = (rows.start * stride[0]).saturating_sub(padding[0]);
            let last = ((rows.end - 1) * stride[0] + reach).saturating_sub(padding[0]);
            first.min(h)..last.min(h)
        };
        let Local {
            a: expanded,
            b: between,
            ..
        } = local;
        if self.expand.is_some() {
            expanded.resize(((at_once - 1) * stride[0] + reach).min(h) * w * c);
        }
        // Rows of the map that are there.
        let mut there = 0..0;
        let mut start = rows.start;
        while start < rows.end {
            let strip = start..(start + at_once).min(rows.end);
            let wanted = seen(&strip);
            if let Some(part) = &self.expand {
                let kept = there.end.max(wanted.start).min(wanted.end);
                if there.end > wanted.start {
                    let from = (wanted.start - there.start) * w * c..(kept - there.start) * w * c;
                    expanded.copy_within(from, 0);
                }
                let first = (image * h + kept) * w * x.ld;
                let x = Matrix::new(x.data.get(first..).unwrap_or(&[]), x.ld);
                let to = &mut expanded[(kept - wanted.start) * w * c..];
                // SAFETY: the input has all rows of the image; the buffer has a place for all rows that the strip sees.
                unsafe {
                    part.pixels(
                        (wanted.end - kept) * w,
                        x,
                        Output {
                            data: to.as_mut_ptr(),
                            ld: c,
                        },
                        0,
                    )
                };
                there = wanted.clone();
            }
            let (x, first) = match self.expand {
                Some(_) => (Matrix::new(&expanded[..], c), image * h + wanted.start),
                None => (x, 0),
            };
            let (to, first_out) = match self.project {
                Some(_) => {
                    let data = between.resize(strip.len() * ow * c).as_mut_ptr();
                    (Output { data, ld: c }, image * oh + strip.start)
                }
                None => (y, 0),
            };
            // SAFETY: as above.
            unsafe {
                self.depthwise.conv.weights.depthwise.run_rows(
                    image * oh + strip.start..image * oh + strip.end,
                    c,
                    x,
                    [h, w],
                    [oh, ow],
                    to,
                    &self.depthwise.epilogue.raw(),
                    [first, first_out],
                );
            }
            if let Some(part) = &self.project {
                let first = (image * oh + strip.start) * ow;
                let y = Output {
                    data: y.data.wrapping_add(first * y.ld),
                    ld: y.ld,
                };
                // SAFETY: as above.
                unsafe { part.pixels(strip.len() * ow, Matrix::new(&between[..], c), y, first) };
            }
            start = strip.end;
        }
    }
}

impl Part<'_> {
    /// Runs a 1 x 1 convolution over `count` pixels; the first is the epilogue's pixel `first`.
    ///
    /// # Safety
    ///
    /// Input, output and epilogue must cover so many.
    unsafe fn pixels(&self, count: usize, x: Matrix<'_>, y: Output, first: usize) {
        let post = self.epilogue.raw();
        let residual = match post.residual.is_null() {
            true => post.residual,
            false => post.residual.wrapping_add(first * post.ld_residual),
        };
        // SAFETY: the caller's promise.
        unsafe { (self.conv.weights.indirect).run_rows(count, x, y, Post { residual, ..post }) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::Scratch;
    use crate::conv::{Algorithm, Pass};
    use crate::epilogue::{Activation, Residual, ResidualPosition};
    use crate::testing::{poisoned, random, with_each_isa};
    use proptest::prelude::*;

    /// Each part by itself, the map written out between.
    fn one_by_one(parts: &[Part<'_>], n: usize, x: &[f32], ld: usize) -> Vec<f32> {
        let mut scratch = Scratch::new();
        let (mut from, mut ld) = (x.to_vec(), ld);
        for part in parts {
            let [oh, ow] = part.conv.shape().output_size().unwrap();
            let c = part.conv.shape().c_out;
            let mut to = poisoned(n * oh * ow * c);
            let (x, y) = (Matrix::new(&from, ld), MatrixMut::new(&mut to, c));
            part.conv
                .run(n, x, y, &mut scratch, &part.epilogue)
                .unwrap();
            (from, ld) = (to, c);
        }
        from
    }

    #[derive(Debug, Clone)]
    struct Case {
        n: usize,
        size: [usize; 2],
        channels: [usize; 3],
        kernel: usize,
        stride: usize,
        padding: [usize; 4],
        dilation: usize,
        with: [bool; 3],
        pads: [usize; 2],
    }

    fn cases() -> impl Strategy<Value = Case> {
        let shape = (
            1usize..10,
            [1usize..40, 1usize..40],
            [1usize..20, 2usize..70, 1usize..40],
        );
        let window = (
            1usize..6,
            1usize..4,
            [0usize..3, 0usize..3, 0usize..3, 0usize..3],
            1usize..3,
        );
        (shape, window, any::<[bool; 3]>(), [0usize..5, 0usize..5]).prop_map(
            |((n, size, channels), (kernel, stride, padding, dilation), with, pads)| Case {
                n,
                size,
                channels,
                kernel,
                stride,
                padding,
                dilation,
                with,
                pads,
            },
        )
    }

    fn check(case: &Case) {
        let Case {
            n,
            size: [h, w],
            channels: [c_in, c, c_out],
            ..
        } = *case;
        let [with_expand, with_project, with_residual] = case.with;
        let depthwise = Conv2d {
            padding: case.padding,
            dilation: [case.dilation; 2],
            ..Conv2d::new([n, h, w, c], c, [case.kernel; 2])
                .stride(case.stride)
                .groups(c)
        };
        let Ok([oh, ow]) = depthwise.output_size() else {
            return;
        };
        let pack = |shape: Conv2d, algorithm, seed| {
            let weight = random(shape.weight_len(), seed);
            PackedConv::with_algorithm(&shape, Pass::Forward, algorithm, &weight).unwrap()
        };
        let before = pack(
            Conv2d::new([n, h, w, c_in], c, [1, 1]),
            Algorithm::Indirect,
            1,
        );
        let middle = pack(depthwise, Algorithm::Depthwise, 2);
        let behind = pack(
            Conv2d::new([n, oh, ow, c], c_out, [1, 1]),
            Algorithm::Indirect,
            3,
        );
        let first = if with_expand { c_in } else { c };
        let last = if with_project { c_out } else { c };
        let (ld, ld_y) = (first + case.pads[0], last + case.pads[1]);
        let x = random(n * h * w * ld, 4);
        let bias = random(c.max(c_out), 5);
        let other = random(n * oh * ow * last, 6);
        let epilogue = |len: usize, activation| Epilogue {
            bias: Some(&bias[..len]),
            activation,
            ..Epilogue::NONE
        };
        let residual = with_residual.then_some(Residual {
            data: &other,
            ld: last,
            position: ResidualPosition::BeforeActivation,
        });
        let mut block = InvertedResidual {
            expand: with_expand.then_some(Part {
                conv: &before,
                epilogue: epilogue(c, Activation::Silu),
            }),
            depthwise: Part {
                conv: &middle,
                epilogue: epilogue(c, Activation::Relu6),
            },
            project: with_project.then_some(Part {
                conv: &behind,
                epilogue: epilogue(c_out, Activation::None),
            }),
        };
        let end = block.project.as_mut().unwrap_or(&mut block.depthwise);
        end.epilogue.residual = residual;
        let parts: Vec<Part<'_>> = block.parts().copied().collect();
        let want = one_by_one(&parts, n, &x, ld);
        let mut y = poisoned(n * oh * ow * ld_y);
        block
            .run(n, Matrix::new(&x, ld), MatrixMut::new(&mut y, ld_y))
            .unwrap();
        for (i, (y, want)) in y.chunks(ld_y).zip(want.chunks(last)).enumerate() {
            assert_eq!(y[..last], *want, "pixel {i} of {case:?}");
            assert!(
                y[last..].iter().all(|y| y.is_nan()),
                "written beside pixel {i} of {case:?}"
            );
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]
        #[test]
        fn the_same_numbers_as_one_by_one(case in cases()) {
            with_each_isa(|_| check(&case));
        }
    }

    #[test]
    fn many_strips_of_a_wide_map() {
        let case = Case {
            n: 2,
            size: [40, 61],
            channels: [16, 96, 24],
            kernel: 3,
            stride: 2,
            padding: [1; 4],
            dilation: 1,
            with: [true; 3],
            pads: [0, 8],
        };
        with_each_isa(|_| {
            for stride in [1, 2, 4] {
                check(&Case {
                    stride,
                    ..case.clone()
                });
                check(&Case {
                    stride,
                    kernel: 5,
                    padding: [2; 4],
                    ..case.clone()
                });
            }
        });
    }

    #[test]
    fn parts_that_do_not_fit_are_refused() {
        let pack = |shape: Conv2d| {
            PackedConv::new(&shape, Pass::Forward, &vec![0.0; shape.weight_len()]).unwrap()
        };
        let middle = pack(Conv2d::new([1, 8, 8, 32], 32, [3, 3]).padding(1).groups(32));
        let narrow = pack(Conv2d::new([1, 8, 8, 8], 24, [1, 1]));
        let part = |conv| Part {
            conv,
            epilogue: Epilogue::NONE,
        };
        let alone = InvertedResidual {
            expand: None,
            depthwise: part(&middle),
            project: None,
        };
        let (x, mut y) = (vec![0.0; 8 * 8 * 32], vec![0.0; 8 * 8 * 32]);
        let mut run = |block: InvertedResidual<'_>, n: usize| {
            block.run(n, Matrix::new(&x, 32), MatrixMut::new(&mut y, 32))
        };
        assert!(run(alone, 1).is_ok());
        assert!(run(alone, 2).is_err(), "too few images");
        assert!(
            run(
                InvertedResidual {
                    expand: Some(part(&narrow)),
                    ..alone
                },
                1
            )
            .is_err()
        );
        assert!(
            run(
                InvertedResidual {
                    depthwise: part(&narrow),
                    ..alone
                },
                1
            )
            .is_err()
        );
    }
}
