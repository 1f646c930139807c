//! A depthwise convolution with the convolutions before and behind it, strip by strip: 1 x 1, or over an image's planes before it.
//!
//! One by one, they write their feature maps out and read them in again: the widest of MobileNetV2 is 4.8 MB. Here a thread takes some
//! rows of the output and computes, a few rows at a time, what these need of the map between, which stays in its caches.

use std::ops::Range;

use super::{Conv2d, PackedConv, PlanesConv};
use crate::buffer::{Local, with_local};
use crate::epilogue::{Epilogue, Post};
use crate::error::{KernelError, elements, expect_len};
use crate::matrix::{Matrix, MatrixMut};
use crate::panels::Panel;
use crate::pool::{num_threads, parallel_for};
use crate::product::Output;

/// Floats of the maps between that a thread holds at a time: 256 KB, half of a second cache level that is small.
const HELD: usize = 64 << 10;
/// Chunks of an image at most.
const CHUNKS_OF_IMAGE: usize = 16;
/// Pixels of a map up to which a panel of channels is taken at a time.
const PANEL_PIXELS: usize = 64;

/// Whether [`InvertedResidual::run`] takes this depthwise convolution and the 1 x 1 convolution before it, with nothing behind, one panel of
/// channels at a time instead of rows: on maps so small that neighbouring strips would compute most rows twice. Those who read the output
/// get channels from every thread.
pub fn takes_panels(depthwise: &Conv2d) -> bool {
    depthwise.h * depthwise.w <= PANEL_PIXELS
}

/// A convolution, packed for the forward pass.
#[derive(Clone, Copy, Debug)]
pub enum PartConv<'a> {
    /// Over rows of channels.
    Pixels(&'a PackedConv),
    /// Over planes.
    Planes(&'a PlanesConv),
}

impl<'a> PartConv<'a> {
    fn shape(&self) -> &'a Conv2d {
        match self {
            PartConv::Pixels(conv) => conv.shape(),
            PartConv::Planes(conv) => conv.shape(),
        }
    }

    fn is_pointwise(&self) -> bool {
        matches!(self, PartConv::Pixels(conv) if conv.takes_gate())
    }

    /// The depthwise convolution, if it is one.
    fn depthwise(&self) -> Option<&'a PackedConv> {
        match self {
            PartConv::Pixels(conv) if conv.is_depthwise() => Some(conv),
            _ => None,
        }
    }
}

/// A convolution and what happens to its output.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    /// The convolution.
    pub conv: PartConv<'a>,
    /// Its epilogue. A residual can only be added to the last part's output; moments to none.
    pub epilogue: Epilogue<'a>,
}

/// An inverted residual (Sandler et al. 2018, section 3.3) or what is left of it: a depthwise convolution between 1 x 1 convolutions,
/// of which one can be missing, or behind the convolution over an image's planes that such networks start with.
#[derive(Clone, Copy, Debug)]
pub struct InvertedResidual<'a> {
    /// The 1 x 1 convolution before, or the one over planes.
    pub expand: Option<Part<'a>>,
    /// The depthwise convolution.
    pub depthwise: Part<'a>,
    /// The 1 x 1 convolution behind.
    pub project: Option<Part<'a>>,
}

/// Into how many chunks [`InvertedResidual::run`] cuts each of `n` images on so many threads. Neighbours compute the rows of the map between
/// that both see, so that fewer are better as long as all threads have as much to do.
pub fn strip_chunks(n: usize, depthwise: &Conv2d, threads: usize) -> usize {
    let reach = (depthwise.kernel[0] - 1) * depthwise.dilation[0] + 1;
    let shared = reach.saturating_sub(depthwise.stride[0]).max(1);
    // A quarter of a chunk's rows at most are another's too.
    let most = CHUNKS_OF_IMAGE.min(1 + depthwise.h / 4 / shared);
    // Rows that the busiest thread computes.
    let rows = |chunks: &usize| {
        let each = depthwise.h.div_ceil(*chunks) + if *chunks > 1 { shared } else { 0 };
        (n * chunks).div_ceil(threads) * each
    };
    (1..=most).min_by_key(rows).unwrap_or(1)
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

    /// Checks the parts, alone and with each other, and the slices; the depthwise convolution.
    fn check(
        &self,
        n: usize,
        x: Matrix<'_>,
        y: &MatrixMut<'_>,
    ) -> Result<&'a PackedConv, KernelError> {
        let expands =
            |part: &Part<'_>| part.conv.is_pointwise() || matches!(part.conv, PartConv::Planes(_));
        let fits = self.expand.as_ref().is_none_or(expands)
            && self.project.is_none_or(|part| part.conv.is_pointwise());
        let (Some(depthwise), true) = (self.depthwise.conv.depthwise(), fits) else {
            return Err(refusal(
                "not a depthwise convolution between others that it can be computed with",
            ));
        };
        let mut before: Option<&Conv2d> = None;
        let count = self.parts().count();
        for (i, part) in self.parts().enumerate() {
            let shape = part.conv.shape();
            if let Some(before) = before
                && (before.output_size()? != [shape.h, shape.w] || before.c_out != shape.c_in)
            {
                return Err(refusal("a part does not continue the one before it"));
            }
            before = Some(shape);
            let last = i + 1 == count;
            let [oh, ow] = shape.output_size()?;
            let rows = if last { elements([n, oh, ow]) } else { 0 };
            part.epilogue.check(rows, shape.c_out)?;
            if part.epilogue.moments.is_some() || !last && part.epilogue.residual.is_some() {
                return Err(refusal("moments, or a residual before the last part"));
            }
            if last {
                y.check("output", rows, shape.c_out)?;
            }
        }
        let first = self.expand.unwrap_or(self.depthwise).conv;
        let Conv2d { h, w, c_in, .. } = *first.shape();
        match first {
            PartConv::Pixels(_) => x.check("input", elements([n, h, w]), c_in)?,
            PartConv::Planes(_) => expect_len("input", x.data.len(), elements([n, c_in, h, w]))?,
        }
        Ok(depthwise)
    }

    /// Runs it over `n` images: `x` is `[n, h, w]` rows of the first part's input channels, or their planes without gaps, if it reads
    /// those; `y` is `[n, oh, ow]` rows of the last part's output channels. The numbers are the ones that the parts give one by one. Without a
    /// convolution behind, `means` can be `[n, oh]` rows of channels, which get the means of the output's rows of pixels.
    ///
    /// # Errors
    ///
    /// If a slice is too short, has another length or a row stride too small, if the parts are no such convolutions or do not fit together.
    pub fn run(
        &self,
        n: usize,
        x: Matrix<'_>,
        y: MatrixMut<'_>,
        means: Option<&mut [f32]>,
    ) -> Result<(), KernelError> {
        let depthwise = self.check(n, x, &y)?;
        let mut post = self.depthwise.epilogue.raw();
        let [rows, channels] = [depthwise.output[0], depthwise.shape.c_out];
        if let Some(means) = means {
            if self.project.is_some() {
                return Err(refusal("means of the rows before a convolution"));
            }
            expect_len("means of rows", means.len(), elements([n, rows, channels]))?;
            post.row_means = means.as_mut_ptr();
        }
        let post = &post;
        if let Some(expand) = self.expand_by_panels(&depthwise.shape) {
            self.run_by_panels(n, expand, depthwise, x, y, post);
            return Ok(());
        }
        let per_image = strip_chunks(n, &depthwise.shape, num_threads());
        let y = Output {
            data: y.data.as_mut_ptr(),
            ld: y.ld,
        };
        parallel_for(n * per_image, |i| {
            let (image, chunk) = (i / per_image, i % per_image);
            let rows = chunk * rows / per_image..(chunk + 1) * rows / per_image;
            // SAFETY: checked above; chunks write different rows.
            with_local(|local| unsafe { self.chunk(depthwise, image, rows, x, y, post, local) });
        });
        Ok(())
    }

    /// The convolution before, where it is computed by panels of its output channels.
    fn expand_by_panels(&self, depthwise: &Conv2d) -> Option<(&'a PackedConv, Epilogue<'a>)> {
        match (&self.expand, &self.project) {
            (
                Some(Part {
                    conv: PartConv::Pixels(conv),
                    epilogue,
                }),
                None,
            ) if takes_panels(depthwise) => Some((conv, *epilogue)),
            _ => None,
        }
    }

    /// Each panel of channels of each image by itself, as a thread takes it.
    fn run_by_panels(
        &self,
        n: usize,
        (expand, epilogue): (&PackedConv, Epilogue<'_>),
        depthwise: &PackedConv,
        x: Matrix<'_>,
        y: MatrixMut<'_>,
        post: &Post,
    ) {
        let Conv2d { h, w, .. } = depthwise.shape;
        let [oh, ow] = depthwise.output;
        let panels = expand.weights.indirect.packed().panels;
        let before = epilogue.raw();
        let y = Output {
            data: y.data.as_mut_ptr(),
            ld: y.ld,
        };
        // A thread takes a panel's images one after the other, whose weights it has then.
        parallel_for(n * panels.count, |i| {
            let (index, image) = (i / n, i % n);
            let Panel {
                col, cols, width, ..
            } = panels.get(index);
            with_local(|local| {
                let between = local.a.resize(h * w * width);
                let first = image * h * w * x.ld;
                let x = Matrix::new(x.data.get(first..).unwrap_or(&[]), x.ld);
                let to = Output {
                    data: between.as_mut_ptr(),
                    ld: width,
                };
                // SAFETY: `run` checked the slices; the buffer has room for the panel's pixels, and chunks write different channels or
                // images.
                unsafe {
                    (expand.weights.indirect).run_panel(index, h * w, x, to, before);
                    depthwise.weights.depthwise.run_rows(
                        image * oh..(image + 1) * oh,
                        [col, cols],
                        Matrix::new(&between[..], width),
                        [h, w],
                        [oh, ow],
                        y.columns_from(col),
                        &post.columns_from(col),
                        h,
                        0,
                    );
                }
            });
        });
    }

    /// Some rows of an image's output.
    ///
    /// # Safety
    ///
    /// The parts, the slices behind `x` and `y` and the epilogues must have been checked for this image; `post` is that of the depthwise
    /// convolution.
    #[allow(clippy::too_many_arguments)]
    unsafe fn chunk(
        &self,
        depthwise: &PackedConv,
        image: usize,
        rows: Range<usize>,
        x: Matrix<'_>,
        y: Output,
        post: &Post,
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
        } = depthwise.shape;
        let [oh, ow] = depthwise.output;
        let reach = (kernel[0] - 1) * dilation[0] + 1;
        // Floats that one more row of the output takes.
        let of_row = match self.expand {
            Some(_) => stride[0] * w * c + ow * c,
            None => ow * c,
        };
        let at_once = (HELD / of_row.max(1)).clamp(1, rows.len().max(1));
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
        // Rows of the map that are held, each where the rest of its number says.
        let held = ((at_once - 1) * stride[0] + reach).min(h);
        if self.expand.is_some() {
            expanded.resize(held * w * c);
        }
        // Rows before this one are there, as far as they are seen.
        let mut next = 0;
        let mut start = rows.start;
        while start < rows.end {
            let strip = start..(start + at_once).min(rows.end);
            let wanted = seen(&strip);
            if let Some(part) = &self.expand {
                next = next.max(wanted.start);
                while next < wanted.end {
                    let slot = (image * h + next) % held;
                    let end = wanted.end.min(next + held - slot);
                    let to = Output {
                        data: expanded[slot * w * c..].as_mut_ptr(),
                        ld: c,
                    };
                    // SAFETY: the input has all rows of the image; the buffer has room for these.
                    unsafe { self.expand_rows(part, image, next..end, x, to) };
                    next = end;
                }
            }
            let (x, held) = match self.expand {
                Some(_) => (Matrix::new(&expanded[..], c), held),
                None => (x, usize::MAX),
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
                depthwise.weights.depthwise.run_rows(
                    image * oh + strip.start..image * oh + strip.end,
                    [0, c],
                    x,
                    [h, w],
                    [oh, ow],
                    to,
                    post,
                    held,
                    first_out,
                );
            }
            if let Some(Part {
                conv: PartConv::Pixels(conv),
                epilogue,
            }) = &self.project
            {
                let first = (image * oh + strip.start) * ow;
                let y = Output {
                    data: y.data.wrapping_add(first * y.ld),
                    ld: y.ld,
                };
                let x = Matrix::new(&between[..], c);
                // SAFETY: as above.
                unsafe { pixels(conv, epilogue, strip.len() * ow, x, y, first) };
            }
            start = strip.end;
        }
    }

    /// Some rows of the map that the depthwise convolution reads.
    ///
    /// # Safety
    ///
    /// As for [`Self::chunk`]; `to` must have room for these rows.
    unsafe fn expand_rows(
        &self,
        part: &Part<'_>,
        image: usize,
        rows: Range<usize>,
        x: Matrix<'_>,
        to: Output,
    ) {
        let Conv2d { h, w, .. } = *self.depthwise.conv.shape();
        // SAFETY: the caller's promise.
        unsafe {
            match part.conv {
                PartConv::Pixels(conv) => {
                    let first = (image * h + rows.start) * w * x.ld;
                    let x = Matrix::new(x.data.get(first..).unwrap_or(&[]), x.ld);
                    pixels(conv, &part.epilogue, rows.len() * w, x, to, 0);
                }
                PartConv::Planes(conv) => {
                    let first = image * h + rows.start;
                    conv.run_rows(image, rows, x.data, to, &part.epilogue.raw(), first);
                }
            }
        }
    }
}

/// Runs a 1 x 1 convolution over `count` pixels; the first is the epilogue's pixel `first`.
///
/// # Safety
///
/// Input, output and epilogue must cover so many.
unsafe fn pixels(
    conv: &PackedConv,
    epilogue: &Epilogue<'_>,
    count: usize,
    x: Matrix<'_>,
    y: Output,
    first: usize,
) {
    let post = epilogue.raw();
    let residual = match post.residual.is_null() {
        true => post.residual,
        false => post.residual.wrapping_add(first * post.ld_residual),
    };
    // SAFETY: the caller's promise.
    unsafe { (conv.weights.indirect).run_rows(count, x, y, Post { residual, ..post }) };
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
            let conv = match part.conv {
                PartConv::Pixels(conv) => conv,
                PartConv::Planes(conv) => {
                    let y = MatrixMut::new(&mut to, c);
                    conv.run(n, &from, y, &part.epilogue).unwrap();
                    (from, ld) = (to, c);
                    continue;
                }
            };
            let (x, y) = (Matrix::new(&from, ld), MatrixMut::new(&mut to, c));
            conv.run(n, x, y, &mut scratch, &part.epilogue).unwrap();
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
        /// Expanded, projected, with a residual.
        with: [bool; 3],
        /// Expanded by a 3 x 3 convolution over planes.
        planes: bool,
        pads: [usize; 2],
    }

    fn cases() -> impl Strategy<Value = Case> {
        let shape = (
            1usize..10,
            [1usize..40, 1usize..40],
            [1usize..20, 2usize..70, 1usize..40],
        );
        let window = (
            any::<bool>(),
            1usize..6,
            1usize..4,
            [0usize..3, 0usize..3, 0usize..3, 0usize..3],
            1usize..3,
        );
        (shape, window, any::<[bool; 3]>(), [0usize..5, 0usize..5]).prop_map(
            |((n, size, channels), (planes, kernel, stride, padding, dilation), with, pads)| Case {
                n,
                size,
                channels,
                kernel,
                stride,
                padding,
                dilation,
                with,
                planes,
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
        let stem = Conv2d::new([n, 2 * h, 2 * w, 1 + c_in % 4], c, [3, 3]);
        let stem = stem.stride(2).padding(1);
        let over_planes = PlanesConv::new(&stem, &random(stem.weight_len(), 7)).unwrap();
        let first = if with_expand { c_in } else { c };
        let last = if with_project { c_out } else { c };
        let ld_y = last + case.pads[1];
        let (ld, len) = match case.planes && with_expand {
            true => (2 * w, n * stem.c_in * 4 * h * w),
            false => (first + case.pads[0], n * h * w * (first + case.pads[0])),
        };
        let x = random(len, 4);
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
                conv: match case.planes {
                    true => PartConv::Planes(&over_planes),
                    false => PartConv::Pixels(&before),
                },
                epilogue: epilogue(c, Activation::Silu),
            }),
            depthwise: Part {
                conv: PartConv::Pixels(&middle),
                epilogue: epilogue(c, Activation::Relu6),
            },
            project: with_project.then_some(Part {
                conv: PartConv::Pixels(&behind),
                epilogue: epilogue(c_out, Activation::None),
            }),
        };
        let end = block.project.as_mut().unwrap_or(&mut block.depthwise);
        end.epilogue.residual = residual;
        let parts: Vec<Part<'_>> = block.parts().copied().collect();
        let want = one_by_one(&parts, n, &x, ld);
        let mut y = poisoned(n * oh * ow * ld_y);
        let mut means = (!with_project).then(|| poisoned(n * oh * c));
        block
            .run(
                n,
                Matrix::new(&x, ld),
                MatrixMut::new(&mut y, ld_y),
                means.as_deref_mut(),
            )
            .unwrap();
        for (i, (y, want)) in y.chunks(ld_y).zip(want.chunks(last)).enumerate() {
            assert_eq!(y[..last], *want, "pixel {i} of {case:?}");
            assert!(
                y[last..].iter().all(|y| y.is_nan()),
                "written beside pixel {i} of {case:?}"
            );
        }
        let Some(means) = means else { return };
        // As the depthwise convolution writes them by itself.
        let parts = &parts[..parts.len() - 1];
        let (x, ld) = match parts {
            [] => (x, ld),
            parts => (one_by_one(parts, n, &x, ld), c),
        };
        let (mut y, mut alone) = (poisoned(n * oh * ow * c), poisoned(n * oh * c));
        let (x, y) = (Matrix::new(&x, ld), MatrixMut::new(&mut y, c));
        let epilogue = &block.depthwise.epilogue;
        let done = middle.run_with_means(n, x, y, &mut alone, epilogue);
        done.unwrap();
        assert_eq!(means, alone, "means of {case:?}");
        for (row, means) in means.chunks(c).enumerate() {
            for (channel, mean) in means.iter().enumerate() {
                let pixels = &want[row * ow * c..(row + 1) * ow * c];
                let column = pixels.iter().skip(channel).step_by(c);
                let (sum, size) = column.fold((0.0, 0.0), |(sum, size), x| {
                    (sum + f64::from(*x), size + f64::from(x.abs()))
                });
                let error = (f64::from(*mean) - sum / ow as f64).abs();
                assert!(error <= 1e-6 * size, "mean of row {row} of {case:?}");
            }
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
    fn panels_of_a_small_map() {
        let case = Case {
            n: 3,
            size: [7, 8],
            channels: [20, 150, 24],
            kernel: 5,
            stride: 1,
            padding: [2; 4],
            dilation: 1,
            with: [true, false, true],
            planes: false,
            pads: [3, 8],
        };
        with_each_isa(|_| {
            for stride in [1, 2] {
                check(&Case {
                    stride,
                    ..case.clone()
                });
            }
        });
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
            planes: false,
            pads: [0, 8],
        };
        with_each_isa(|_| {
            for stride in [1, 2, 4] {
                check(&Case {
                    stride,
                    planes: stride == 1,
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
            conv: PartConv::Pixels(conv),
            epilogue: Epilogue::NONE,
        };
        let alone = InvertedResidual {
            expand: None,
            depthwise: part(&middle),
            project: None,
        };
        let (x, mut y) = (vec![0.0; 8 * 8 * 32], vec![0.0; 8 * 8 * 32]);
        let mut run = |block: InvertedResidual<'_>, n: usize| {
            block.run(n, Matrix::new(&x, 32), MatrixMut::new(&mut y, 32), None)
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
