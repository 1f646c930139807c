//! Image files to pixels.
//!
//! One policy, for training, evaluation and prediction alike:
//!
//! - **Formats** are told by content, never by name: PNG, JPEG, BMP, WebP and GIF (the first frame).
//! - **Orientation**: the EXIF tag is applied; the picture comes out upright.
//! - **Alpha** is kept in [`Decoded::image`] (four channels) and *dropped* when a model's channels are taken
//!   ([`Image::to_channels`]), as Pillow's `convert("RGB")` does and hence every torchvision pipeline: a transparent
//!   pixel shows the colour stored under it. Grey with alpha is grey.
//! - **16 bits** a sample become 8 by taking the high byte, as Pillow does for colour.
//! - **CMYK and YCCK** JPEGs become RGB by the plain formula, without colour management; ICC profiles are not applied
//!   (Pillow does not either).
//! - **Limits**: [`Limits`] are checked on the header, before memory is taken.
//! - **Truncated** files are errors, never half a picture.

mod jpeg;

use crate::{DataError, Image};
use image::metadata::Orientation;
use image::{DynamicImage, ExtendedColorType, ImageDecoder, ImageError, ImageFormat, ImageReader};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{Cursor, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

/// What a decoder may take. The default, 100 megapixels and 512 MiB a file, is far above cameras and far below what
/// hurts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest width x height.
    pub max_pixels: u64,
    /// Largest file.
    pub max_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_pixels: 100_000_000,
            max_bytes: 512 << 20,
        }
    }
}

/// An image format that is read here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Format {
    Png,
    Jpeg,
    Bmp,
    WebP,
    Gif,
}

impl Format {
    /// Its usual name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Png => "PNG",
            Self::Jpeg => "JPEG",
            Self::Bmp => "BMP",
            Self::WebP => "WebP",
            Self::Gif => "GIF",
        }
    }

    /// The format of a file with this content, if it is one that is read here.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        match image::guess_format(bytes).ok()? {
            ImageFormat::Png => Some(Self::Png),
            ImageFormat::Jpeg => Some(Self::Jpeg),
            ImageFormat::Bmp => Some(Self::Bmp),
            ImageFormat::WebP => Some(Self::WebP),
            ImageFormat::Gif => Some(Self::Gif),
            _ => None,
        }
    }
}

/// How a file stores its colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Colour {
    Grey,
    Rgb,
    Cmyk,
}

/// What a file says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileInfo {
    /// Format by content.
    pub format: Format,
    /// How colours are stored.
    pub colour: Colour,
    /// True when there is an alpha channel.
    pub alpha: bool,
    /// Bits a sample: 8 or 16 (fewer count as 8).
    pub bits: u8,
    /// EXIF orientation, 1 (upright) to 8.
    pub orientation: u8,
}

/// A decoded file.
#[derive(Clone, Debug)]
pub struct Decoded {
    /// The pixels, upright: 1, 3 or (with alpha) 4 channels.
    pub image: Image,
    /// What the file said.
    pub info: FileInfo,
}

/// Reads and decodes the image file `path` within the default [`Limits`].
///
/// # Errors
/// See [`decode`]; and [`DataError::Io`], [`DataError::NotAFile`].
pub fn read(path: &Path) -> Result<Decoded, DataError> {
    read_within(path, Limits::default())
}

/// Reads and decodes the image file `path` within `limits`.
///
/// # Errors
/// See [`decode`]; and [`DataError::Io`], [`DataError::NotAFile`].
pub fn read_within(path: &Path, limits: Limits) -> Result<Decoded, DataError> {
    decode(&read_bytes(path, limits)?, path, limits)
}

/// The content of the regular file `path`, refused when it is over `limits.max_bytes`.
///
/// # Errors
/// [`DataError::Io`], [`DataError::NotAFile`], [`DataError::TooLarge`].
pub fn read_bytes(path: &Path, limits: Limits) -> Result<Vec<u8>, DataError> {
    let io = |e| DataError::io(path, e);
    // Asked before opening: opening a pipe would wait for its writer.
    let meta = std::fs::metadata(path).map_err(io)?;
    if !meta.is_file() {
        return Err(DataError::NotAFile { path: path.into() });
    }
    let too_large = |found| DataError::TooLarge {
        path: path.into(),
        found,
        unit: "bytes",
        limit: limits.max_bytes,
    };
    if meta.len() > limits.max_bytes {
        return Err(too_large(meta.len()));
    }
    let mut bytes = Vec::with_capacity(meta.len() as usize);
    let read = File::open(path)
        .map_err(io)?
        .take(limits.max_bytes.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(io)? as u64;
    if read > limits.max_bytes {
        Err(too_large(read))
    } else {
        Ok(bytes)
    }
}

/// Decodes the image file content `bytes`; `name` is what errors call it.
///
/// # Errors
/// [`DataError::Format`] when the content is none of the formats read here, [`DataError::TooLarge`] when its header says
/// more than `limits`, [`DataError::Truncated`], and [`DataError::Decode`] for every other defect.
pub fn decode(bytes: &[u8], name: &Path, limits: Limits) -> Result<Decoded, DataError> {
    let Some(format) = Format::of(bytes) else {
        let found = match image::guess_format(bytes) {
            _ if bytes.is_empty() => "is empty".to_string(),
            Ok(other) => format!("is a {other:?} file"),
            Err(_) => "is not an image".to_string(),
        };
        return Err(DataError::Format {
            path: name.into(),
            found,
        });
    };
    let file = Source {
        bytes,
        name,
        format,
        limits,
    };
    // A decoder that panics on a hostile file must not end a training.
    catch_unwind(AssertUnwindSafe(|| match format {
        Format::Jpeg => jpeg::decode(&file),
        Format::Png => file.decode_as(ImageFormat::Png),
        Format::Bmp => file.decode_as(ImageFormat::Bmp),
        Format::WebP if file.riff_is_cut() => Err(file.truncated()),
        Format::WebP => file.decode_as(ImageFormat::WebP),
        Format::Gif => file.decode_as(ImageFormat::Gif),
    }))
    .unwrap_or_else(|panic| {
        Err(DataError::Internal {
            what: name.display().to_string(),
            reason: panic_message(&*panic),
        })
    })
}

/// The message of a caught panic.
pub(crate) fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| s.to_string());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".into())
}

/// A file's content on its way to pixels.
struct Source<'a> {
    bytes: &'a [u8],
    name: &'a Path,
    format: Format,
    limits: Limits,
}

impl Source<'_> {
    fn refused(&self, reason: impl ToString) -> DataError {
        DataError::Decode {
            path: self.name.into(),
            format: self.format.name(),
            reason: reason.to_string(),
        }
    }

    fn truncated(&self) -> DataError {
        DataError::Truncated {
            path: self.name.into(),
            format: self.format.name(),
            bytes: self.bytes.len() as u64,
        }
    }

    /// True when a RIFF container (WebP) announces more than there is; its decoder calls that a corrupt bitstream.
    fn riff_is_cut(&self) -> bool {
        let size = self
            .bytes
            .get(4..8)
            .and_then(|b| <[u8; 4]>::try_from(b).ok());
        size.is_none_or(|b| u64::from(u32::from_le_bytes(b)) + 8 > self.bytes.len() as u64)
    }

    /// Refuses a header over the limit.
    fn check_size(&self, width: u64, height: u64) -> Result<(), DataError> {
        let found = width.saturating_mul(height);
        if found > self.limits.max_pixels {
            let limit = self.limits.max_pixels;
            return Err(DataError::TooLarge {
                path: self.name.into(),
                found,
                unit: "pixels",
                limit,
            });
        }
        Ok(())
    }

    fn error(&self, error: ImageError) -> DataError {
        match error {
            ImageError::IoError(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
                self.truncated()
            }
            // The decoders wrap the end of the file in errors of their own; its name survives in the text.
            e => {
                let text = e.to_string();
                let lower = text.to_lowercase();
                let early = [
                    "unexpected eof",
                    "unexpected end",
                    "failed to fill whole buffer",
                    "no more data",
                ];
                if early.iter().any(|s| lower.contains(s)) {
                    self.truncated()
                } else {
                    self.refused(text)
                }
            }
        }
    }

    /// Decodes with the decoder that `image` has for the format.
    fn decode_as(&self, format: ImageFormat) -> Result<Decoded, DataError> {
        let mut reader = ImageReader::with_format(Cursor::new(self.bytes), format);
        let mut limits = image::Limits::no_limits();
        // 8 bytes a pixel for the result (16-bit RGBA), and as much again for a decoder's own buffers.
        limits.max_alloc = Some(self.limits.max_pixels.saturating_mul(16).max(16 << 20));
        reader.limits(limits);
        let mut decoder = reader.into_decoder().map_err(|e| self.error(e))?;
        let (width, height) = decoder.dimensions();
        self.check_size(width.into(), height.into())?;
        let stored = decoder.original_color_type();
        // A damaged EXIF block is no reason to lose the picture.
        let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
        let pixels = DynamicImage::from_decoder(decoder).map_err(|e| self.error(e))?;
        let info = FileInfo {
            format: self.format,
            colour: if pixels.color().has_color() {
                Colour::Rgb
            } else {
                Colour::Grey
            },
            alpha: pixels.color().has_alpha(),
            bits: if matches!(
                stored,
                ExtendedColorType::L16
                    | ExtendedColorType::La16
                    | ExtendedColorType::Rgb16
                    | ExtendedColorType::Rgba16
            ) {
                16
            } else {
                8
            },
            orientation: orientation.to_exif(),
        };
        self.upright(pixels, orientation, info)
    }

    /// Applies the orientation and takes the 8-bit samples.
    fn upright(
        &self,
        mut pixels: DynamicImage,
        orientation: Orientation,
        info: FileInfo,
    ) -> Result<Decoded, DataError> {
        pixels.apply_orientation(orientation);
        let (width, height) = (pixels.width() as usize, pixels.height() as usize);
        let high = |samples: Vec<u16>| {
            samples
                .into_iter()
                .map(|v| (v >> 8) as u8)
                .collect::<Vec<u8>>()
        };
        let first_of_two = |samples: Vec<u8>| samples.into_iter().step_by(2).collect();
        let (channels, data) = match pixels {
            DynamicImage::ImageLuma8(p) => (1, p.into_raw()),
            DynamicImage::ImageLumaA8(p) => (1, first_of_two(p.into_raw())),
            DynamicImage::ImageRgb8(p) => (3, p.into_raw()),
            DynamicImage::ImageRgba8(p) => (4, p.into_raw()),
            DynamicImage::ImageLuma16(p) => (1, high(p.into_raw())),
            DynamicImage::ImageLumaA16(p) => (1, first_of_two(high(p.into_raw()))),
            DynamicImage::ImageRgb16(p) => (3, high(p.into_raw())),
            DynamicImage::ImageRgba16(p) => (4, high(p.into_raw())),
            other => {
                return Err(self.refused(format!(
                    "samples of kind {:?} are not supported",
                    other.color()
                )));
            }
        };
        Ok(Decoded {
            image: Image::new(width, height, channels, data)?,
            info,
        })
    }
}

#[cfg(test)]
mod tests;
