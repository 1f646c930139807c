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
mod tests;
