use super::*;
use image::codecs::jpeg::JpegEncoder;
use image::{ImageBuffer, Luma, LumaA, Rgb, RgbImage, Rgba};
use std::path::PathBuf;

fn photo(w: u32, h: u32) -> RgbImage {
    RgbImage::from_fn(w, h, |x, y| {
        Rgb([(x * 7) as u8, (y * 5) as u8, (x + y) as u8])
    })
}

fn encoded(pixels: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    pixels.into().write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

fn decoded(bytes: &[u8]) -> Result<Decoded, DataError> {
    decode(bytes, Path::new("pictures/a.img"), Limits::default())
}

#[test]
fn lossless_formats_return_the_pixels() {
    let pixels = photo(13, 7);
    for format in [ImageFormat::Png, ImageFormat::Bmp, ImageFormat::WebP] {
        let out = decoded(&encoded(pixels.clone(), format)).unwrap();
        assert_eq!(
            (out.image.width(), out.image.height(), out.image.channels()),
            (13, 7, 3),
            "{format:?}"
        );
        assert_eq!(out.image.data(), pixels.as_raw().as_slice(), "{format:?}");
        assert_eq!(out.info.colour, Colour::Rgb);
    }
}

#[test]
fn gif_gives_its_first_frame() {
    use image::codecs::gif::GifEncoder;
    let mut bytes = Vec::new();
    let mut encoder = GifEncoder::new(&mut bytes);
    for colour in [[255, 0, 0, 255], [0, 0, 255, 255]] {
        encoder
            .encode_frame(image::Frame::new(ImageBuffer::from_pixel(
                4,
                3,
                Rgba(colour),
            )))
            .unwrap();
    }
    drop(encoder);
    let out = decoded(&bytes).unwrap();
    assert_eq!(out.info.format, Format::Gif);
    let rgb = out.image.to_channels(crate::Channels::Rgb);
    assert!(rgb.data().chunks(3).all(|p| p == [255, 0, 0]));
}

#[test]
fn every_kind_of_png() {
    let grey = decoded(&encoded(
        ImageBuffer::from_pixel(2, 2, Luma([9u8])),
        ImageFormat::Png,
    ))
    .unwrap();
    assert_eq!(
        (
            grey.image.channels(),
            grey.image.data()[0],
            grey.info.colour
        ),
        (1, 9, Colour::Grey)
    );
    let grey_alpha = decoded(&encoded(
        ImageBuffer::from_pixel(2, 2, LumaA([9u8, 3])),
        ImageFormat::Png,
    ))
    .unwrap();
    assert_eq!(
        (
            grey_alpha.image.channels(),
            grey_alpha.image.data(),
            grey_alpha.info.alpha
        ),
        (1, [9; 4].as_slice(), true)
    );
    let alpha = decoded(&encoded(
        ImageBuffer::from_pixel(1, 1, Rgba([1u8, 2, 3, 0])),
        ImageFormat::Png,
    ))
    .unwrap();
    assert_eq!(
        (alpha.image.data(), alpha.info.alpha),
        ([1, 2, 3, 0].as_slice(), true)
    );
    let deep = decoded(&encoded(
        ImageBuffer::from_pixel(1, 1, Rgb([0x12ffu16, 0x8000, 0xffff])),
        ImageFormat::Png,
    ))
    .unwrap();
    assert_eq!(
        (deep.image.data(), deep.info.bits),
        ([0x12, 0x80, 0xff].as_slice(), 16)
    );
    let deep_grey = decoded(&encoded(
        ImageBuffer::from_pixel(1, 1, Luma([0x12ffu16])),
        ImageFormat::Png,
    ))
    .unwrap();
    assert_eq!(
        (
            deep_grey.image.data(),
            deep_grey.info.bits,
            deep_grey.info.colour
        ),
        ([0x12].as_slice(), 16, Colour::Grey)
    );
}

/// A 2 x 1 PNG with a palette and transparency: the transparent colour itself is kept.
#[test]
fn palette_png() {
    let mut bytes = Vec::new();
    let mut encoder = png_writer(&mut bytes, 2, 1, 3);
    encoder.chunk(b"PLTE", &[10, 20, 30, 40, 50, 60]);
    encoder.chunk(b"tRNS", &[255, 0]);
    encoder.image(&[0, 0, 1]);
    let out = decoded(&bytes).unwrap();
    assert_eq!(
        out.image.to_channels(crate::Channels::Rgb).data(),
        [10, 20, 30, 40, 50, 60]
    );
}

fn jpeg(pixels: &DynamicImage) -> Vec<u8> {
    let mut bytes = Vec::new();
    let encoder = JpegEncoder::new_with_quality(&mut bytes, 95);
    pixels.write_with_encoder(encoder).unwrap();
    bytes
}

#[test]
fn jpeg_in_colour_and_grey() {
    let colour = decoded(&jpeg(
        &RgbImage::from_pixel(20, 10, Rgb([200, 100, 50])).into(),
    ))
    .unwrap();
    assert_eq!(
        (
            colour.image.width(),
            colour.image.height(),
            colour.image.channels()
        ),
        (20, 10, 3)
    );
    assert!(
        colour
            .image
            .data()
            .chunks(3)
            .all(|p| p[0].abs_diff(200) <= 2 && p[1].abs_diff(100) <= 2 && p[2].abs_diff(50) <= 2)
    );
    let grey = decoded(&jpeg(&DynamicImage::ImageLuma8(ImageBuffer::from_pixel(
        9,
        9,
        Luma([77]),
    ))))
    .unwrap();
    assert_eq!((grey.image.channels(), grey.info.colour), (1, Colour::Grey));
}

#[test]
fn exif_orientation_is_applied() {
    // EXIF: little endian TIFF, one entry: 0x0112 (orientation), SHORT, 1 value, 6.
    let exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
    let plain = jpeg(&photo(24, 8).into());
    let mut bytes = plain[..2].to_vec();
    bytes.extend([0xff, 0xe1, 0, exif.len() as u8 + 2]);
    bytes.extend(exif);
    bytes.extend(&plain[2..]);
    let (upright, lying) = (decoded(&bytes).unwrap(), decoded(&plain).unwrap());
    assert_eq!(
        (
            upright.image.width(),
            upright.image.height(),
            upright.info.orientation
        ),
        (8, 24, 6)
    );
    // Turned clockwise: what was at the lower left is at the upper left.
    assert_eq!(upright.image.row(0)[..3], lying.image.row(7)[..3]);
}

#[test]
fn content_counts_not_the_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("é.jpg");
    std::fs::write(&path, encoded(photo(3, 3), ImageFormat::Png)).unwrap();
    assert_eq!(read(&path).unwrap().info.format, Format::Png);
}

#[test]
fn truncated_files_are_told() {
    let pixels = photo(64, 64);
    let mut files: Vec<(Format, Vec<u8>)> = [
        ImageFormat::Png,
        ImageFormat::Bmp,
        ImageFormat::WebP,
        ImageFormat::Gif,
    ]
    .into_iter()
    .map(|f| encoded(pixels.clone(), f))
    .map(|b| (Format::of(&b).unwrap(), b))
    .collect();
    files.push((Format::Jpeg, jpeg(&pixels.into())));
    for (format, bytes) in files {
        for keep in [bytes.len() / 2, bytes.len() - 40] {
            match decoded(&bytes[..keep]) {
                Err(DataError::Truncated { .. }) => {}
                other => panic!(
                    "{format:?} cut at {keep} of {}: {:?}",
                    bytes.len(),
                    other.map(|d| d.info)
                ),
            }
        }
    }
}

/// Cutting at every length, and flipping bytes: an error or a picture, never a panic.
#[test]
fn damage_never_panics() {
    let pixels = photo(16, 16);
    let mut files = vec![jpeg(&pixels.clone().into())];
    files.extend(
        [
            ImageFormat::Png,
            ImageFormat::Bmp,
            ImageFormat::WebP,
            ImageFormat::Gif,
        ]
        .map(|f| encoded(pixels.clone(), f)),
    );
    for bytes in files {
        for keep in 0..bytes.len() {
            let result = decoded(&bytes[..keep]);
            assert!(
                !matches!(result, Err(DataError::Internal { .. })),
                "{:?} cut at {keep}",
                Format::of(&bytes)
            );
        }
        for at in 0..bytes.len() {
            let mut bytes = bytes.clone();
            bytes[at] ^= 0x55;
            let result = decoded(&bytes);
            assert!(
                !matches!(result, Err(DataError::Internal { .. })),
                "{:?} changed at {at}",
                Format::of(&bytes)
            );
        }
    }
}

#[test]
fn other_content_is_named() {
    let message = |bytes: &[u8]| decoded(bytes).unwrap_err().to_string();
    assert!(message(b"").contains("is empty"));
    assert!(message(b"hello, world, not an image").contains("is not an image"));
    assert!(message(b"II*\0\x08\0\0\0").contains("Tiff"));
    assert!(message(b"hello").starts_with("pictures/a.img:"));
}

#[test]
fn large_headers_are_refused_before_memory_is_taken() {
    let mut bytes = Vec::new();
    png_writer(&mut bytes, 20_000, 20_000, 2).image(&[0]);
    let message = decoded(&bytes).unwrap_err().to_string();
    assert!(
        message.contains("400000000 pixels are over the limit of 100000000"),
        "{message}"
    );
    let small = Limits {
        max_pixels: 10,
        max_bytes: 1000,
    };
    let too_large = decode(&jpeg(&photo(4, 4).into()), Path::new("x"), small);
    assert!(matches!(
        too_large,
        Err(DataError::TooLarge { found: 16, .. })
    ));
}

#[test]
fn paths_that_are_no_images() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(read(dir.path()), Err(DataError::NotAFile { .. })));
    assert!(matches!(
        read(&dir.path().join("missing.png")),
        Err(DataError::Io { .. })
    ));
    let path: PathBuf = dir.path().join("big.png");
    std::fs::write(&path, vec![0; 100]).unwrap();
    let limits = Limits {
        max_bytes: 99,
        ..Limits::default()
    };
    assert!(matches!(
        read_within(&path, limits),
        Err(DataError::TooLarge {
            found: 100,
            unit: "bytes",
            ..
        })
    ));
}

/// Writes PNG files that the encoder would not.
struct PngWriter<'a>(&'a mut Vec<u8>);

fn png_writer(out: &mut Vec<u8>, width: u32, height: u32, colour: u8) -> PngWriter<'_> {
    out.extend(b"\x89PNG\r\n\x1a\n");
    let mut writer = PngWriter(out);
    let header = [
        &width.to_be_bytes()[..],
        &height.to_be_bytes(),
        &[8, colour, 0, 0, 0],
    ]
    .concat();
    writer.chunk(b"IHDR", &header);
    writer
}

impl PngWriter<'_> {
    fn chunk(&mut self, kind: &[u8; 4], data: &[u8]) {
        let mut crc = flate2::Crc::new();
        crc.update(kind);
        crc.update(data);
        self.0.extend((data.len() as u32).to_be_bytes());
        self.0.extend(kind);
        self.0.extend(data);
        self.0.extend(crc.sum().to_be_bytes());
    }

    fn image(&mut self, filtered: &[u8]) {
        let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut zlib, filtered).unwrap();
        self.chunk(b"IDAT", &zlib.finish().unwrap());
        self.chunk(b"IEND", &[]);
    }
}
