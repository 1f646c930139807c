//! Small pictures in temporary folders.

use std::path::Path;

/// Writes a PNG of 12 x 10 pixels that `seed` decides, and the folders above it.
pub fn picture(path: &Path, seed: u32) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let pixels = image::RgbImage::from_fn(12, 10, |x, y| {
        let v = (x / 3 * 7 + y / 2 * 13 + 1)
            .wrapping_mul(seed.wrapping_mul(2_654_435_761).wrapping_add(40_503))
            >> 7;
        image::Rgb([v as u8, (v >> 8) as u8, (v >> 3) as u8])
    });
    pixels
        .save_with_format(path, image::ImageFormat::Png)
        .unwrap();
}
