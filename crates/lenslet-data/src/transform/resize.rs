//! Antialiased resizing as Pillow does it.

use super::Interpolation;
use crate::{DataError, Image};
use fast_image_resize as fir;
use std::cell::RefCell;

thread_local! {
    /// Keeps its buffers from one picture to the next.
    static RESIZER: RefCell<fir::Resizer> = RefCell::new(fir::Resizer::new());
}

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
    let weighted = image.channels() == 4 && interpolation != Interpolation::Nearest;
    let image = if weighted {
        premultiplied(image)
    } else {
        image
    };
    let image = pass(image, Some(width), None, algorithm)?;
    let image = pass(image, None, Some(height), algorithm)?;
    Ok(if weighted { divided(image) } else { image })
}

/// Resizes along one side.
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
    let mut out = Image::filled(width, height, image.channels(), 0);
    let sizes = [[image.width(), image.height()], [width, height]];
    let resized = match image.channels() {
        1 => typed::<fir::pixels::U8>(image.data(), out.data_mut(), sizes, algorithm),
        3 => typed::<fir::pixels::U8x3>(image.data(), out.data_mut(), sizes, algorithm),
        _ => typed::<fir::pixels::U8x4>(image.data(), out.data_mut(), sizes, algorithm),
    };
    resized.map_err(|reason| DataError::Internal {
        what: "resizing".into(),
        reason,
    })?;
    Ok(out)
}

/// Resizes pixels of one type. The crate's untyped function would be compiled for fifteen types.
fn typed<P: fir::PixelTrait>(
    from: &[u8],
    to: &mut [u8],
    sizes: [[usize; 2]; 2],
    algorithm: fir::ResizeAlg,
) -> Result<(), String> {
    let [[from_width, from_height], [width, height]] = sizes.map(|size| size.map(|n| n as u32));
    let source = fir::images::TypedImageRef::<P>::from_buffer(from_width, from_height, from)
        .map_err(|e| e.to_string())?;
    let mut target =
        fir::images::TypedImage::<P>::from_buffer(width, height, to).map_err(|e| e.to_string())?;
    let options = fir::ResizeOptions::new()
        .resize_alg(algorithm)
        .use_alpha(false);
    RESIZER
        .with_borrow_mut(|r| r.resize_typed(&source, &mut target, &options))
        .map_err(|e| e.to_string())
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
