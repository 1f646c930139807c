//! Antialiased resizing as Pillow does it.

use super::Interpolation;
use crate::{DataError, Image};
use fast_image_resize as fir;
use fir::images::{TypedImage, TypedImageRef};
use std::cell::RefCell;

thread_local! {
    /// Keeps its buffers from one picture to the next.
    static RESIZER: RefCell<fir::Resizer> = RefCell::new(fir::Resizer::new());
}

/// Channels while a picture is resized, whatever it has: every type of pixel that the crate is compiled for
/// costs a minute of the build.
const FOUR: usize = 4;
/// The largest result.
const MAX_PIXELS: u64 = 100_000_000;

/// `image` in `width` x `height`.
///
/// Bilinear and bicubic widen their filter when they reduce (antialiasing) and agree with Pillow's `resize` within one
/// level. Pictures with alpha are weighted by it, as in Pillow.
///
/// # Errors
/// [`DataError::Setting`] when a side is 0, or the result over 100 megapixels.
pub fn resize(
    image: Image,
    width: usize,
    height: usize,
    interpolation: Interpolation,
) -> Result<Image, DataError> {
    if (width, height) == (image.width(), image.height()) {
        return Ok(image);
    }
    // Pillow's order: columns first, rounded to 8 bits and cut to 0..=255, then rows. The other order, or both in one
    // call, differs by several levels where the cubic overshoots. So this size is taken on the way.
    let between = (width as u64).saturating_mul(image.height() as u64);
    let pixels = (width as u64).saturating_mul(height as u64);
    if pixels == 0 || pixels.max(between) > MAX_PIXELS {
        let expected = "it must have from 1 to 100 million pixels; crop very long pictures first";
        let found = format!(
            "{width} x {height} (from {} x {})",
            image.width(),
            image.height()
        );
        return Err(DataError::Setting {
            setting: "resized size",
            found,
            expected,
        });
    }
    let algorithm = match interpolation {
        Interpolation::Nearest => fir::ResizeAlg::Nearest,
        Interpolation::Bilinear => fir::ResizeAlg::Convolution(fir::FilterType::Bilinear),
        Interpolation::Bicubic => fir::ResizeAlg::Convolution(fir::FilterType::CatmullRom),
    };
    let channels = image.channels();
    let weighted = channels == 4 && interpolation != Interpolation::Nearest;
    let image = if weighted {
        premultiplied(image)
    } else {
        with_channels(image, FOUR)
    };
    let image = pass(image, Some(width), None, algorithm)?;
    let image = pass(image, None, Some(height), algorithm)?;
    Ok(if weighted {
        divided(image)
    } else {
        with_channels(image, channels)
    })
}

/// `image` with `channels` channels: missing ones are 0, and what is too many is left out.
fn with_channels(image: Image, channels: usize) -> Image {
    let mut out = Image::filled(image.width(), image.height(), channels, 0);
    let (from, to) = (image.data(), out.data_mut());
    match (image.channels(), channels) {
        (1, FOUR) => repack::<1, FOUR>(from, to),
        (3, FOUR) => repack::<3, FOUR>(from, to),
        (FOUR, 1) => repack::<FOUR, 1>(from, to),
        (FOUR, 3) => repack::<FOUR, 3>(from, to),
        _ => return image,
    }
    out
}

/// Pixels of `A` channels as pixels of `B`.
fn repack<const A: usize, const B: usize>(from: &[u8], to: &mut [u8]) {
    let both = A.min(B);
    for (to, from) in to
        .as_chunks_mut::<B>()
        .0
        .iter_mut()
        .zip(from.as_chunks::<A>().0)
    {
        to[..both].copy_from_slice(&from[..both]);
    }
}

/// Resizes a picture of four channels along one side.
fn pass(
    image: Image,
    width: Option<usize>,
    height: Option<usize>,
    algorithm: fir::ResizeAlg,
) -> Result<Image, DataError> {
    let (width, height) = (
        width.unwrap_or(image.width()),
        height.unwrap_or(image.height()),
    );
    if (width, height) == (image.width(), image.height()) {
        return Ok(image);
    }
    let failed = |e: &dyn std::fmt::Display| DataError::Internal {
        what: "resizing".into(),
        reason: e.to_string(),
    };
    let mut out = Image::filled(width, height, FOUR, 0);
    let [from, to] =
        [[image.width(), image.height()], [width, height]].map(|s| s.map(|n| n as u32));
    let source = TypedImageRef::<fir::pixels::U8x4>::from_buffer(from[0], from[1], image.data())
        .map_err(|e| failed(&e))?;
    let mut target = TypedImage::<fir::pixels::U8x4>::from_buffer(to[0], to[1], out.data_mut())
        .map_err(|e| failed(&e))?;
    let options = fir::ResizeOptions::new()
        .resize_alg(algorithm)
        .use_alpha(false);
    RESIZER
        .with_borrow_mut(|r| r.resize_typed(&source, &mut target, &options))
        .map_err(|e| failed(&e))?;
    Ok(out)
}

/// Colours times alpha, rounded.
fn premultiplied(mut image: Image) -> Image {
    for p in image.data_mut().chunks_exact_mut(4) {
        let alpha = u32::from(p[3]);
        for v in &mut p[..3] {
            *v = ((u32::from(*v) * alpha + 127) / 255) as u8;
        }
    }
    image
}

/// Colours through alpha, cut off as in Pillow; where alpha is 0 they stay as they are.
fn divided(mut image: Image) -> Image {
    for p in image.data_mut().chunks_exact_mut(4) {
        let alpha = u32::from(p[3]);
        for v in &mut p[..3] {
            *v = (u32::from(*v) * 255)
                .checked_div(alpha)
                .map_or(*v, |v| v.min(255) as u8);
        }
    }
    image
}
