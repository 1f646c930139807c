//! Rotation, shift and scale of a picture within its frame.

use super::Interpolation;
use crate::Image;

/// A map from a place in the result to the place in the source that it shows: `x' = a x + b y + c`, `y' = d x + e y + f`,
/// in pixels, a pixel's centre lying at one half.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Affine(pub [f64; 6]);

impl Affine {
    /// The map that turns a picture of `width` x `height` about its centre by `degrees` counter-clockwise, enlarges it
    /// by `scale`, and then shifts it by (`dx`, `dy`) pixels to the right and down.
    pub fn about_centre(
        width: usize,
        height: usize,
        degrees: f64,
        scale: f64,
        dx: f64,
        dy: f64,
    ) -> Self {
        let (sin, cos) = degrees.to_radians().sin_cos();
        let (sin, cos) = (sin / scale, cos / scale);
        let (cx, cy) = (width as f64 / 2.0, height as f64 / 2.0);
        // The inverse: shift back, turn back, about the centre.
        let (ox, oy) = (cx + dx, cy + dy);
        Self([
            cos,
            -sin,
            cx - cos * ox + sin * oy,
            sin,
            cos,
            cy - sin * ox - cos * oy,
        ])
    }

    fn at(&self, x: f64, y: f64) -> (f64, f64) {
        let [a, b, c, d, e, f] = self.0;
        (a * x + b * y + c, d * x + e * y + f)
    }
}

/// `image` seen through `map`; `fill` where the map points outside. Bicubic counts as bilinear.
///
/// Follows Pillow's `transform(AFFINE)`: a result's pixel whose centre falls inside the source takes the nearest pixel, or
/// the mean of the four around it (those over the edge repeat it).
pub fn warp(image: &Image, map: Affine, interpolation: Interpolation, fill: u8) -> Image {
    let (w, h, c) = (image.width(), image.height(), image.channels());
    let mut out = Image::filled(w, h, c, fill);
    for y in 0..h {
        for (x, to) in out.row_mut(y).chunks_exact_mut(c).enumerate() {
            let (sx, sy) = map.at(x as f64 + 0.5, y as f64 + 0.5);
            if !(sx >= 0.0 && sx < w as f64 && sy >= 0.0 && sy < h as f64) {
                continue;
            }
            if interpolation == Interpolation::Nearest {
                let from = sx as usize * c;
                to.copy_from_slice(&image.row(sy as usize)[from..from + c]);
            } else {
                bilinear(image, sx - 0.5, sy - 0.5, to);
            }
        }
    }
    out
}

/// The mean of the four pixels around (`x`, `y`), which counts from the first pixel's centre.
fn bilinear(image: &Image, x: f64, y: f64, to: &mut [u8]) {
    let c = image.channels();
    let (left, top) = (x.floor(), y.floor());
    let (fx, fy) = ((x - left) as f32, (y - top) as f32);
    let column = |v: f64| v.clamp(0.0, (image.width() - 1) as f64) as usize * c;
    let line = |v: f64| image.row(v.clamp(0.0, (image.height() - 1) as f64) as usize);
    let (x0, x1, upper, lower) = (column(left), column(left + 1.0), line(top), line(top + 1.0));
    for (k, to) in to.iter_mut().enumerate() {
        let mix = |row: &[u8]| f32::from(row[x0 + k]) * (1.0 - fx) + f32::from(row[x1 + k]) * fx;
        *to = (mix(upper) * (1.0 - fy) + mix(lower) * fy + 0.5) as u8;
    }
}
