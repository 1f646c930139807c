//! PNG files whose pixels are numbers of classes.

use crate::decode::{self, Limits};
use crate::{Channels, DataError, Image};
use std::io::Cursor;
use std::path::Path;

/// How a mask file says which class a pixel is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Coding {
    /// Its grey value, or its place in the palette, is the class.
    Index,
    /// Colours and the classes that they stand for.
    Colours(Vec<([u8; 3], u8)>),
}

/// A class for each pixel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mask {
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Classes, in rows.
    pub classes: Vec<u8>,
}

/// Pixels of no class: they are neither learnt nor measured.
pub const IGNORE: u8 = 255;

/// Reads the mask file `path`.
///
/// # Errors
/// [`DataError::Io`]; [`DataError::Annotation`] when it is no mask of this coding; what the decoder says.
pub fn read_mask(path: &Path, coding: &Coding) -> Result<Mask, DataError> {
    match coding {
        Coding::Index => read_index(path),
        Coding::Colours(colours) => read_colours(path, colours),
    }
}

fn read_index(path: &Path) -> Result<Mask, DataError> {
    let bytes = std::fs::read(path).map_err(|e| DataError::io(path, e))?;
    let refuse = |reason: String| DataError::annotation(path, reason);
    let broken = |e: png::DecodingError| {
        refuse(format!(
            "is no readable PNG mask ({e}); masks are PNG files, save it again"
        ))
    };
    let mut decoder = png::Decoder::new(Cursor::new(bytes));
    decoder.set_transformations(png::Transformations::IDENTITY);
    let mut reader = decoder.read_info().map_err(broken)?;
    let (width, height) = (reader.info().width as usize, reader.info().height as usize);
    let limit = Limits::default().max_pixels;
    if width as u64 * height as u64 > limit {
        return Err(DataError::TooLarge {
            path: path.into(),
            found: width as u64 * height as u64,
            unit: "pixels",
            limit,
        });
    }
    let (colour, depth) = reader.output_color_type();
    let index = matches!(colour, png::ColorType::Indexed | png::ColorType::Grayscale);
    if !index || depth == png::BitDepth::Sixteen {
        return Err(refuse(format!(
            "is a {colour:?} mask of {} bits a sample; a mask has one channel of up to 8 bits (the class, or its place \
             in a palette). If each class has a colour, say which in a classes.csv with the columns \
             name,red,green,blue",
            depth as u8
        )));
    }
    let size = reader.output_buffer_size().unwrap_or(0);
    let mut packed = vec![0; size];
    let info = reader.next_frame(&mut packed).map_err(broken)?;
    let bits = depth as usize;
    let mut classes = Vec::with_capacity(width * height);
    for row in packed.chunks_exact(info.line_size.max(1)).take(height) {
        let value = |x: usize| {
            let at = x * bits;
            let shift = 8 - bits - at % 8;
            (row[at / 8] >> shift) & (0xff >> (8 - bits)) as u8
        };
        classes.extend((0..width).map(value));
    }
    Ok(Mask {
        width,
        height,
        classes,
    })
}

fn read_colours(path: &Path, colours: &[([u8; 3], u8)]) -> Result<Mask, DataError> {
    let image = decode::read(path)?.image.to_channels(Channels::Rgb);
    let mut classes = Vec::with_capacity(image.width() * image.height());
    for pixel in image.data().as_chunks::<3>().0 {
        match colours.iter().find(|(colour, _)| colour == pixel) {
            Some((_, class)) => classes.push(*class),
            None => {
                let [r, g, b] = pixel;
                let at = classes.len();
                return Err(DataError::annotation(
                    path,
                    format!(
                        "the pixel at column {}, row {} has the colour {r},{g},{b}, which no class has; add it to \
                         classes.csv, or save the mask without smoothing",
                        at % image.width(),
                        at / image.width()
                    ),
                ));
            }
        }
    }
    Ok(Mask {
        width: image.width(),
        height: image.height(),
        classes,
    })
}

impl Mask {
    /// The mask as the content of a PNG file: the classes as grey values, or, with `palette`, as places in it.
    ///
    /// # Errors
    /// [`DataError::Internal`]: none in a sound build.
    pub fn to_png(&self, palette: Option<&[[u8; 3]]>) -> Result<Vec<u8>, DataError> {
        let mut file = Vec::new();
        let mut encoder = png::Encoder::new(&mut file, self.width as u32, self.height as u32);
        encoder.set_depth(png::BitDepth::Eight);
        match palette {
            Some(colours) => {
                encoder.set_color(png::ColorType::Indexed);
                encoder.set_palette(colours.concat());
            }
            None => encoder.set_color(png::ColorType::Grayscale),
        }
        let written = encoder.write_header().and_then(|mut writer| {
            writer.write_image_data(&self.classes)?;
            writer.finish()
        });
        written.map_err(|e| DataError::Internal {
            what: "writing PNG".into(),
            reason: e.to_string(),
        })?;
        Ok(file)
    }
}

impl Mask {
    /// The mask as a picture in the colours of its classes; black where there is none for a class.
    ///
    /// # Errors
    /// None in a sound build.
    pub fn coloured(&self, colours: &[[u8; 3]]) -> Result<Image, DataError> {
        let colour = |&class: &u8| colours.get(usize::from(class)).copied().unwrap_or_default();
        let data = self.classes.iter().flat_map(colour).collect();
        Image::new(self.width, self.height, 3, data)
    }
}

/// The colours of PASCAL VOC for 256 classes: the bits of the number spread over the three channels, so that neighbours
/// differ.
pub fn voc_palette() -> Vec<[u8; 3]> {
    (0..=255u8)
        .map(|class| {
            let mut colour = [0u8; 3];
            for bit in 0..8 {
                let channel = bit % 3;
                colour[channel] |= (class >> bit & 1) << (7 - bit / 3);
            }
            colour
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first colours of the development kit.
    #[test]
    fn the_palette_is_vocs() {
        let palette = voc_palette();
        assert_eq!(
            palette[..5],
            [
                [0, 0, 0],
                [128, 0, 0],
                [0, 128, 0],
                [128, 128, 0],
                [0, 0, 128]
            ]
        );
        assert_eq!((palette[8], palette[255]), ([64, 0, 0], [224, 224, 192]));
    }

    #[test]
    fn masks_return_from_every_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mask.png");
        let mask = Mask {
            width: 3,
            height: 2,
            classes: vec![0, 1, 2, 255, 1, 0],
        };
        for palette in [None, Some(voc_palette())] {
            let png = mask.to_png(palette.as_deref()).unwrap();
            std::fs::write(&path, png).unwrap();
            assert_eq!(read_mask(&path, &Coding::Index).unwrap(), mask);
        }
        let colours: Vec<_> = voc_palette().into_iter().zip(0..=255).collect();
        let few = Coding::Colours(colours[..2].to_vec());
        let colours = Coding::Colours(colours);
        assert_eq!(read_mask(&path, &colours).unwrap(), mask);
        let error = read_mask(&path, &few).unwrap_err().to_string();
        assert!(error.contains("column 2, row 0"), "{error}");
    }

    /// Samples of less than a byte are unpacked, the first in the high bits.
    #[test]
    fn small_depths_are_unpacked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mask.png");
        let mut file = Vec::new();
        let mut encoder = png::Encoder::new(&mut file, 3, 2);
        encoder.set_depth(png::BitDepth::Two);
        encoder.set_color(png::ColorType::Grayscale);
        let mut writer = encoder.write_header().unwrap();
        writer
            .write_image_data(&[0b00_01_10_00, 0b11_00_01_00])
            .unwrap();
        writer.finish().unwrap();
        std::fs::write(&path, file).unwrap();
        let mask = read_mask(&path, &Coding::Index).unwrap();
        assert_eq!(mask.classes, [0, 1, 2, 3, 0, 1]);
    }

    #[test]
    fn pictures_are_no_index_masks() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mask.png");
        let image = crate::Image::new(1, 1, 3, vec![1, 2, 3]).unwrap();
        std::fs::write(&path, image.to_png().unwrap()).unwrap();
        let error = read_mask(&path, &Coding::Index).unwrap_err().to_string();
        assert!(error.contains("classes.csv"), "{error}");
        std::fs::write(&path, b"no picture").unwrap();
        assert!(read_mask(&path, &Coding::Index).is_err());
    }
}
