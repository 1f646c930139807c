//! Rotation, shift, scale and shear of a picture within its frame.

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

    /// The map in 48.16 fixed point, for the pixel at the origin and the steps to its neighbours.
    fn fixed(&self) -> [i64; 6] {
        let [a, b, c, d, e, f] = self.0;
        let centre = [a, b, c + 0.5 * (a + b), d, e, f + 0.5 * (d + e)];
        centre.map(|v| (v * 65536.0 + 0.5).floor() as i64)
    }
}

/// `image` seen through `map`; `fill` where the map points outside. Bicubic counts as bilinear.
///
/// Follows Pillow's `transform(AFFINE)`, fixed point included: a result's pixel whose centre falls inside the source takes
/// the nearest pixel, or the mean of the four around it (those over the edge repeat it). Bilinear rounds, where Pillow
/// cuts off: within one level.
pub fn warp(image: &Image, map: Affine, interpolation: Interpolation, fill: u8) -> Image {
    let (w, h) = (image.width(), image.height());
    let mut out = Image::filled(w, h, image.channels(), fill);
    match image.channels() {
        1 => fill_from::<1>(image, &mut out, map.fixed(), interpolation),
        3 => fill_from::<3>(image, &mut out, map.fixed(), interpolation),
        _ => fill_from::<4>(image, &mut out, map.fixed(), interpolation),
    }
    out
}

fn fill_from<const C: usize>(
    image: &Image,
    out: &mut Image,
    [a, b, c, d, e, f]: [i64; 6],
    interpolation: Interpolation,
) {
    let (w, h) = (image.width() as i64, image.height() as i64);
    for y in 0..out.height() {
        // Saturating: settings far out of range leave the picture empty, they do not overflow.
        let mut sx = b.saturating_mul(y as i64).saturating_add(c);
        let mut sy = e.saturating_mul(y as i64).saturating_add(f);
        for to in out.row_mut(y).as_chunks_mut::<C>().0 {
            let (px, py) = (sx >> 16, sy >> 16);
            if (0..w).contains(&px) && (0..h).contains(&py) {
                *to = match interpolation {
                    Interpolation::Nearest => *pixel(image.row(py as usize), px as usize),
                    _ => bilinear(image, sx - 0x8000, sy - 0x8000),
                };
            }
            sx = sx.saturating_add(a);
            sy = sy.saturating_add(d);
        }
    }
}

fn pixel<const C: usize>(row: &[u8], x: usize) -> &[u8; C] {
    &row.as_chunks::<C>().0[x]
}

/// The mean of the four pixels around a place in fixed point that counts from the first pixel's centre.
fn bilinear<const C: usize>(image: &Image, x: i64, y: i64) -> [u8; C] {
    let column = |v: i64| v.clamp(0, image.width() as i64 - 1) as usize;
    let line = |v: i64| image.row(v.clamp(0, image.height() as i64 - 1) as usize);
    let (left, top) = (x >> 16, y >> 16);
    // Weights of 8 bits: their error is below a level.
    let (fx, fy) = ((x >> 8 & 0xff) as u32, (y >> 8 & 0xff) as u32);
    let (x0, x1, upper, lower) = (column(left), column(left + 1), line(top), line(top + 1));
    let corners = [
        pixel::<C>(upper, x0),
        pixel(upper, x1),
        pixel(lower, x0),
        pixel(lower, x1),
    ];
    std::array::from_fn(|k| {
        let [a, b, c, d] = corners.map(|p| u32::from(p[k]));
        let (above, below) = (a * (256 - fx) + b * fx, c * (256 - fx) + d * fx);
        ((above * (256 - fy) + below * fy + 0x8000) >> 16) as u8
    })
}
