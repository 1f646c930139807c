//! Brightness, contrast, saturation and hue, as Pillow's `ImageEnhance` and torchvision's `adjust_hue` do them on 8 bits.

use crate::Image;
use crate::picture::luma;

/// Every sample between `base` (factor 0) and itself (factor 1), or beyond; cut to 8 bits as Pillow's `blend` does.
fn blend(base: f32, value: u8, factor: f32) -> u8 {
    // The conversion saturates and drops the fraction.
    (base + factor * (f32::from(value) - base)) as u8
}

/// Applies one table to every sample.
pub(super) fn map(mut image: Image, table: &[u8; 256]) -> Image {
    for v in image.data_mut() {
        *v = table[usize::from(*v)];
    }
    image
}

/// Brighter (factor above 1) or darker (0 is black).
pub fn brightness(image: Image, factor: f32) -> Image {
    map(image, &std::array::from_fn(|v| blend(0.0, v as u8, factor)))
}

/// More contrast (factor above 1) or less (0 is grey) about the picture's mean luma.
pub fn contrast(image: Image, factor: f32) -> Image {
    let c = image.channels();
    let sum: u64 = match c {
        1 => image.data().iter().map(|&v| u64::from(v)).sum(),
        _ => image
            .data()
            .chunks_exact(c)
            .map(|p| u64::from(luma(p[0], p[1], p[2])))
            .sum(),
    };
    let mean = (sum as f64 / (image.width() * image.height()) as f64 + 0.5).floor() as f32;
    map(
        image,
        &std::array::from_fn(|v| blend(mean, v as u8, factor)),
    )
}

/// More colour (factor above 1) or less (0 is grey). Grey pictures stay as they are.
pub fn saturation(mut image: Image, factor: f32) -> Image {
    let c = image.channels();
    if c >= 3 {
        for p in image.data_mut().chunks_exact_mut(c) {
            let grey = luma(p[0], p[1], p[2]).into();
            for v in &mut p[..3] {
                *v = blend(grey, *v, factor);
            }
        }
    }
    image
}

/// Hues turned by `shift`, a fraction of the circle in -0.5..=0.5. Goes through 8-bit HSV as Pillow does, which costs up
/// to a level even for a shift of 0. Grey pictures stay as they are.
pub fn hue(mut image: Image, shift: f32) -> Image {
    // The shift in whole 255ths, cut towards zero and wrapped.
    let steps = (f64::from(shift) * 255.0) as i32 as u8;
    let c = image.channels();
    if c >= 3 {
        for p in image.data_mut().chunks_exact_mut(c) {
            let (h, s, v) = to_hsv(p[0], p[1], p[2]);
            p[..3].copy_from_slice(&from_hsv(h.wrapping_add(steps), s, v));
        }
    }
    image
}

/// Hue in 255ths of the circle, saturation and value in 0..=255.
fn to_hsv(r: u8, g: u8, b: u8) -> (u8, u8, u8) {
    let (high, low) = (r.max(g).max(b), r.min(g).min(b));
    let range = high - low;
    if range == 0 {
        return (0, 0, high);
    }
    // Sixths of the circle from the axis of the strongest colour; distances to it divided by the range.
    let [dr, dg, db] = [r, g, b].map(|v| f32::from(high - v) / f32::from(range));
    let sixths = match high {
        _ if high == r => db - dg,
        _ if high == g => 2.0 + dr - db,
        _ => 4.0 + dg - dr,
    };
    let turn = (f64::from(sixths) / 6.0 + 1.0).fract();
    let saturation = f32::from(range) / f32::from(high);
    (
        (turn * 255.0) as u8,
        (f64::from(saturation) * 255.0) as u8,
        high,
    )
}

fn from_hsv(h: u8, s: u8, v: u8) -> [u8; 3] {
    if s == 0 {
        return [v; 3];
    }
    let sixths = f32::from(h) * 6.0 / 255.0;
    let (sector, part) = (sixths.floor(), sixths.fract());
    let (s, value) = (f32::from(s) / 255.0, f32::from(v));
    let level = |fade: f32| (value * (1.0 - fade) + 0.5) as u8;
    let (low, falling, rising) = (level(s), level(s * part), level(s * (1.0 - part)));
    match sector as u8 % 6 {
        0 => [v, rising, low],
        1 => [falling, v, low],
        2 => [low, v, rising],
        3 => [low, falling, v],
        4 => [rising, low, v],
        _ => [v, low, falling],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_of_one_change_nothing_and_of_zero_everything() {
        let image = Image::new(
            4,
            1,
            3,
            vec![0, 10, 250, 255, 255, 255, 3, 3, 3, 90, 200, 17],
        )
        .unwrap();
        for op in [brightness, contrast, saturation] {
            assert_eq!(op(image.clone(), 1.0), image);
        }
        assert!(
            brightness(image.clone(), 0.0)
                .data()
                .iter()
                .all(|&v| v == 0)
        );
        let flat = contrast(image.clone(), 0.0);
        assert!(flat.data().iter().all(|&v| v == flat.data()[0]));
        assert!(
            saturation(image, 0.0)
                .data()
                .chunks(3)
                .all(|p| p[0] == p[1] && p[1] == p[2])
        );
    }

    #[test]
    fn hue_turns_the_circle() {
        let red = Image::new(1, 1, 3, vec![255, 0, 0]).unwrap();
        assert_eq!(hue(red.clone(), 0.0).data(), [255, 0, 0]);
        let cyan = hue(red.clone(), 0.5);
        assert!(
            cyan.data()[0] == 0 && cyan.data()[1] > 245 && cyan.data()[2] > 245,
            "{:?}",
            cyan.data()
        );
        let blue = hue(red, -1.0 / 3.0);
        assert!(
            blue.data()[2] == 255 && blue.data()[0] < 10,
            "{:?}",
            blue.data()
        );
    }

    /// The way there and back, for every saturation and value: as close as 8 bits allow.
    #[test]
    fn hsv_returns() {
        for r in (0..=255).step_by(5) {
            for g in (0..=255).step_by(5) {
                for b in (0..=255).step_by(5) {
                    let (h, s, v) = to_hsv(r, g, b);
                    let back = from_hsv(h, s, v);
                    assert!(
                        back.iter().zip([r, g, b]).all(|(&x, y)| x.abs_diff(y) <= 7),
                        "{r} {g} {b} {back:?}"
                    );
                }
            }
        }
    }
}
