//! Brightness, contrast, saturation and hue, as Pillow's `ImageEnhance` and torchvision's `adjust_hue` do them on 8 bits.

use crate::Image;
use crate::picture::luma;
use std::sync::LazyLock;

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
    each_colour(&mut image, |[r, g, b]| {
        let grey = luma(r, g, b).into();
        [r, g, b].map(|v| blend(grey, v, factor))
    });
    image
}

/// Hues turned by `shift`, a fraction of the circle in -0.5..=0.5. Goes through 8-bit HSV as Pillow does, which costs up
/// to a level even for a shift of 0. Grey pictures stay as they are.
pub fn hue(mut image: Image, shift: f32) -> Image {
    // The shift in whole 255ths, cut towards zero and wrapped.
    let steps = (f64::from(shift) * 255.0) as i32 as u8;
    let tables = (HUES.as_slice(), SATURATIONS.as_slice());
    each_colour(&mut image, |rgb| {
        let (h, s, v) = to_hsv(rgb, tables);
        from_hsv(h.wrapping_add(steps), s, v)
    });
    image
}

/// Replaces the colour of every pixel, if there is any.
fn each_colour(image: &mut Image, change: impl Fn([u8; 3]) -> [u8; 3]) {
    match image.channels() {
        3 => image
            .data_mut()
            .as_chunks_mut::<3>()
            .0
            .iter_mut()
            .for_each(|p| *p = change(*p)),
        4 => {
            for p in image.data_mut().as_chunks_mut::<4>().0 {
                let [r, g, b] = change([p[0], p[1], p[2]]);
                *p = [r, g, b, p[3]];
            }
        }
        _ => {}
    }
}

/// Hue in 255ths of the circle by sixth, range and distance of the middle colour from the highest. Computing it, with
/// the divisions and roundings that Pillow has, takes five times as long as a look into this table of 384 KiB.
static HUES: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let hue = |sixth: usize, range: usize, below: usize| {
        let x = below as f32 / range as f32;
        let sixths = match sixth {
            0 => 1.0 - x,
            1 => x - 1.0,
            2 => 2.0 + x - 1.0,
            3 => 2.0 + 1.0 - x,
            4 => 4.0 + x - 1.0,
            _ => 4.0 + 1.0 - x,
        };
        let turn = f64::from(sixths) / 6.0;
        ((if turn < 0.0 { turn + 1.0 } else { turn }) * 255.0) as u8
    };
    (0..6 << 16)
        .map(|i| hue(i >> 16, i >> 8 & 0xff, i & 0xff))
        .collect()
});

/// Saturation by highest colour and range.
static SATURATIONS: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let saturation =
        |high: usize, range: usize| (f64::from(range as f32 / high as f32) * 255.0) as u8;
    (0..1 << 16).map(|i| saturation(i >> 8, i & 0xff)).collect()
});

/// Hue in 255ths of the circle, saturation and value in 0..=255.
fn to_hsv([r, g, b]: [u8; 3], (hues, saturations): (&[u8], &[u8])) -> (u8, u8, u8) {
    let (high, low) = (r.max(g).max(b), r.min(g).min(b));
    let range = high - low;
    if range == 0 {
        return (0, 0, high);
    }
    // The sixths of the circle by which colour is highest and which is lowest.
    let (sixth, middle) = match (high == r, high == g) {
        (true, _) if b <= g => (0, g),
        (true, _) => (1, b),
        (_, true) if b <= r => (2, r),
        (_, true) => (3, b),
        _ if r <= g => (4, g),
        _ => (5, r),
    };
    let at = (sixth << 8 | usize::from(range)) << 8 | usize::from(high - middle);
    (
        hues[at],
        saturations[usize::from(high) << 8 | usize::from(range)],
        high,
    )
}

/// For every hue: where red, green and blue are found among value, lowest, falling and rising level, and the part of the
/// sector that lies behind it.
static SECTORS: [([u8; 3], f32); 256] = {
    const ORDER: [[u8; 3]; 6] = [
        [0, 3, 1],
        [2, 0, 1],
        [1, 0, 3],
        [1, 2, 0],
        [3, 1, 0],
        [0, 1, 2],
    ];
    let mut table = [([0; 3], 0.0); 256];
    let mut h = 0;
    while h < 256 {
        let sixths = h as f32 * 6.0 / 255.0;
        let sector = sixths as usize;
        table[h] = (ORDER[sector % 6], sixths - sector as f32);
        h += 1;
    }
    table
};

fn from_hsv(h: u8, s: u8, v: u8) -> [u8; 3] {
    let (order, part) = SECTORS[usize::from(h)];
    let (s, value) = (f32::from(s) / 255.0, f32::from(v));
    // Between 0 and 255.5: within what the conversion takes, which cuts off.
    let level = |fade: f32| (value * (1.0 - fade) + 0.5) as u8;
    let levels = [v, level(s), level(s * part), level(s * (1.0 - part))];
    order.map(|at| levels[usize::from(at & 3)])
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
                    let (h, s, v) = to_hsv([r, g, b], (&HUES, &SATURATIONS));
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
