//! JPEG, by `zune-jpeg` directly: the header is read once, and CMYK is told from RGB.

use super::{Colour, DataError, Decoded, FileInfo, Source};
use image::metadata::Orientation;
use image::{DynamicImage, GrayImage, RgbImage};
use zune_jpeg::JpegDecoder;
use zune_jpeg::errors::DecodeErrors;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

pub(super) fn decode(file: &Source<'_>) -> Result<Decoded, DataError> {
    let error = |e: DecodeErrors| match e {
        DecodeErrors::ExhaustedData | DecodeErrors::IoErrors(_) => file.truncated(),
        e => file.refused(e),
    };
    // Not strict: many photos have harmless defects. What is missing at the end is found by `is_complete`.
    let options = DecoderOptions::default()
        .set_strict_mode(false)
        .set_max_width(usize::MAX)
        .set_max_height(usize::MAX);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(file.bytes), options);
    decoder.decode_headers().map_err(error)?;
    let (Some((width, height)), Some(stored)) = (decoder.dimensions(), decoder.input_colorspace())
    else {
        return Err(file.refused("it has no frame header"));
    };
    file.check_size(width as u64, height as u64)?;
    if !is_complete(file.bytes) {
        return Err(file.truncated());
    }
    let (colour, wanted) = match stored {
        ColorSpace::Luma | ColorSpace::LumaA => (Colour::Grey, ColorSpace::Luma),
        ColorSpace::CMYK | ColorSpace::YCCK => (Colour::Cmyk, ColorSpace::RGB),
        _ => (Colour::Rgb, ColorSpace::RGB),
    };
    decoder.set_options(options.jpeg_set_out_colorspace(wanted));
    let orientation = decoder
        .exif()
        .and_then(|e| Orientation::from_exif_chunk(e))
        .unwrap_or(Orientation::NoTransforms);
    let samples = decoder.decode().map_err(error)?;
    let (w, h) = (width as u32, height as u32);
    let pixels = match wanted {
        ColorSpace::Luma => GrayImage::from_raw(w, h, samples).map(DynamicImage::ImageLuma8),
        _ => RgbImage::from_raw(w, h, samples).map(DynamicImage::ImageRgb8),
    };
    let pixels = pixels.ok_or_else(|| file.refused("its data does not fill its size"))?;
    let info = FileInfo {
        format: file.format,
        colour,
        alpha: false,
        bits: 8,
        orientation: orientation.to_exif(),
    };
    file.upright(pixels, orientation, info)
}

/// True when the data reaches the end-of-image marker. The decoder fills what is missing with grey, so a file that was
/// cut off is only told this way.
fn is_complete(bytes: &[u8]) -> bool {
    if bytes.ends_with(&[0xff, 0xd9]) {
        return true;
    }
    // Something follows the image, or nothing ends it: walk the segments, so that a thumbnail's marker does not count.
    let mut at = 2;
    loop {
        let Some(skip) = bytes
            .get(at..)
            .and_then(|rest| rest.iter().position(|&b| b == 0xff))
        else {
            return false;
        };
        at += skip + 1;
        match bytes.get(at) {
            None => return false,
            Some(0xd9) => return true,
            // Stuffed zeros, fill bytes, restart markers and TEM have no length.
            Some(0x00 | 0x01 | 0xd0..=0xd8) => at += 1,
            Some(0xff) => {}
            Some(_) => match bytes.get(at + 1..at + 3) {
                Some(length) => at += 1 + usize::from(u16::from_be_bytes([length[0], length[1]])),
                None => return false,
            },
        }
    }
}
