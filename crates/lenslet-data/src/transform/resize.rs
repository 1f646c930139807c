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
    let pixels = (width as u64).saturating_mul(height as u64);
    if !(1..=MAX_PIXELS).contains(&pixels) {
        let expected = "it must have from 1 to 100 million pixels; crop very long pictures first";
        return Err(DataError::Setting {
            setting: "resized size",
            found: format!("{width} x {height}"),
            expected,
        });
    }
    let kind = match image.channels() {
        1 => fir::PixelType::U8,
        3 => fir::PixelType::U8x3,
        _ => fir::PixelType::U8x4,
    };
    let algorithm = match interpolation {
        Interpolation::Nearest => fir::ResizeAlg::Nearest,
        Interpolation::Bilinear => fir::ResizeAlg::Convolution(fir::FilterType::Bilinear),
        Interpolation::Bicubic => fir::ResizeAlg::Convolution(fir::FilterType::CatmullRom),
    };
    let mut out = Image::filled(width, height, image.channels(), 0);
    let failed = |e: &dyn std::fmt::Display| DataError::Internal {
        what: "resizing".into(),
        reason: e.to_string(),
    };
    let source = fir::images::ImageRef::new(
        image.width() as u32,
        image.height() as u32,
        image.data(),
        kind,
    )
    .map_err(|e| failed(&e))?;
    let mut target =
        fir::images::Image::from_slice_u8(width as u32, height as u32, out.data_mut(), kind)
            .map_err(|e| failed(&e))?;
    let options = fir::ResizeOptions::new().resize_alg(algorithm);
    RESIZER
        .with_borrow_mut(|r| r.resize(&source, &mut target, &options))
        .map_err(|e| failed(&e))?;
    Ok(out)
}
