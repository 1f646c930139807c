//! One scene.

use super::texture::background;
use crate::boxes::BoxLabel;
use crate::masks::Mask;
use crate::{DataError, Dataset, Image, Rng};
use lenslet_boxes::Rect;

/// A picture of digits, with all that is to be learnt of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Scene {
    /// In RGB.
    pub image: Image,
    /// 0 where the background is seen, 1 to 10 for the digits 0 to 9.
    pub mask: Mask,
    /// Boxes around what is seen of each digit; their classes are 0 to 9.
    pub boxes: Vec<BoxLabel>,
}

/// Digits in a scene, at most.
const MOST: u64 = 5;
/// Share of a digit that has to stay visible.
const VISIBLE: f64 = 0.95;
/// Places that are tried for a digit.
const ATTEMPTS: usize = 20;
/// Ink from which on a pixel belongs to the digit.
const INK: f32 = 0.5;
/// By how much a digit is lighter than what lies under it, at least.
const CONTRAST: f32 = 0.3;

/// A digit as it lies in the frame.
struct Placed {
    class: u8,
    left: isize,
    top: isize,
    side: usize,
    /// Ink from 0 to 1, `[side * side]`.
    ink: Vec<f32>,
}

impl Placed {
    /// The pixels of the frame that it covers, with the ink there.
    fn pixels(&self, size: usize) -> impl Iterator<Item = (usize, f32)> + '_ {
        self.ink.iter().enumerate().filter_map(move |(i, &ink)| {
            let x = self.left + (i % self.side) as isize;
            let y = self.top + (i / self.side) as isize;
            let inside = |v: isize| (0..size as isize).contains(&v);
            (ink > 0.0 && inside(x) && inside(y)).then(|| (y as usize * size + x as usize, ink))
        })
    }
}

/// Draws a scene of `size` x `size` pixels with digits out of `digits`, which are grey and square.
///
/// # Errors
/// When a digit cannot be read.
pub fn draw(digits: &dyn Dataset, size: usize, rng: &mut Rng) -> Result<Scene, DataError> {
    let mut pixels = background(size, rng);
    // Which digit is seen where, from 1; 0 is background.
    let mut owner = vec![0u8; size * size];
    let mut areas: Vec<usize> = Vec::new();
    let mut classes: Vec<u8> = Vec::new();
    // Some pictures show nothing.
    let count = if rng.chance(0.04) {
        0
    } else {
        1 + rng.below(MOST)
    };
    for _ in 0..count {
        let sample = digits.get(rng.below(digits.len() as u64) as usize)?;
        let side = (size as f64 * rng.range(0.3, 0.45)).round().max(8.0) as usize;
        let ink = turned(&sample.image, side, rng.range(-10.0, 10.0));
        let mut placed = Placed {
            class: sample.label as u8,
            left: 0,
            top: 0,
            side,
            ink,
        };
        let found = (0..ATTEMPTS).any(|_| {
            let room = (size - side.min(size)) as u64 + 1;
            placed.left = rng.below(room) as isize;
            placed.top = rng.below(room) as isize;
            fits(&placed, &owner, &areas, size)
        });
        if !found {
            continue;
        }
        paint(&placed, &mut pixels, size, rng);
        let number = areas.len() as u8 + 1;
        let mut area = 0;
        for (at, _) in placed.pixels(size).filter(|(_, ink)| *ink >= INK) {
            owner[at] = number;
            area += 1;
        }
        areas.push(area);
        classes.push(placed.class);
    }
    let data = pixels.iter().map(|v| (v * 255.0).round() as u8).collect();
    let seen = |&number: &u8| match number {
        0 => 0,
        n => classes[usize::from(n) - 1] + 1,
    };
    Ok(Scene {
        image: Image::new(size, size, 3, data)?,
        mask: Mask {
            width: size,
            height: size,
            classes: owner.iter().map(seen).collect(),
        },
        boxes: (1..)
            .zip(&classes)
            .map(|(n, &class)| bounds(&owner, size, n, class))
            .collect(),
    })
}

/// The digit's ink in a square of `side`, turned about its middle.
fn turned(digit: &Image, side: usize, degrees: f64) -> Vec<f32> {
    let own = digit.width() as f64;
    let (sin, cos) = degrees.to_radians().sin_cos();
    let middle = own / 2.0;
    let level = |x: isize, y: isize| {
        let inside = |v: isize, n: usize| (0..n as isize).contains(&v);
        if inside(x, digit.width()) && inside(y, digit.height()) {
            f32::from(digit.data()[y as usize * digit.width() + x as usize]) / 255.0
        } else {
            0.0
        }
    };
    (0..side * side)
        .map(|i| {
            let place = |v: usize| (v as f64 + 0.5) * own / side as f64 - middle;
            let (dx, dy) = (place(i % side), place(i / side));
            let sx = cos * dx + sin * dy + middle - 0.5;
            let sy = cos * dy - sin * dx + middle - 0.5;
            let (x, y) = (sx.floor(), sy.floor());
            let (fx, fy) = ((sx - x) as f32, (sy - y) as f32);
            let (x, y) = (x as isize, y as isize);
            let upper = level(x, y) * (1.0 - fx) + level(x + 1, y) * fx;
            let lower = level(x, y + 1) * (1.0 - fx) + level(x + 1, y + 1) * fx;
            upper * (1.0 - fy) + lower * fy
        })
        .collect()
}

/// Whether enough of every digit that is there stays visible.
fn fits(new: &Placed, owner: &[u8], areas: &[usize], size: usize) -> bool {
    let mut visible = vec![0usize; areas.len() + 1];
    for &number in owner {
        visible[usize::from(number)] += 1;
    }
    for (at, _) in new.pixels(size).filter(|(_, ink)| *ink >= INK) {
        visible[usize::from(owner[at])] -= 1;
    }
    let enough = |(left, area): (&usize, &usize)| *left as f64 >= VISIBLE * *area as f64;
    visible[1..].iter().zip(areas).all(enough)
}

/// Paints the digit in a colour that is lighter than what lies under it.
fn paint(new: &Placed, pixels: &mut [f32], size: usize, rng: &mut Rng) {
    let lightness = |c: [f32; 3]| 0.299 * c[0] + 0.587 * c[1] + 0.114 * c[2];
    let under = |at: usize| lightness([pixels[at * 3], pixels[at * 3 + 1], pixels[at * 3 + 2]]);
    let (mut sum, mut count) = (0.0, 0.0f32);
    for (at, ink) in new.pixels(size) {
        sum += under(at) * ink;
        count += ink;
    }
    let ground = sum / count.max(1e-6);
    let colour = (0..50)
        .map(|_| [0; 3].map(|_| rng.unit() as f32))
        .find(|&colour| lightness(colour) - ground >= CONTRAST)
        .unwrap_or([1.0; 3]);
    let covered: Vec<(usize, f32)> = new.pixels(size).collect();
    for (at, ink) in covered {
        for (level, colour) in pixels[at * 3..][..3].iter_mut().zip(colour) {
            *level += (colour - *level) * ink;
        }
    }
}

/// The box around what is seen of a digit.
fn bounds(owner: &[u8], size: usize, number: u8, class: u8) -> BoxLabel {
    let mut rect = Rect::new(f64::MAX, f64::MAX, 0.0, 0.0);
    for (at, _) in owner.iter().enumerate().filter(|(_, n)| **n == number) {
        let (x, y) = ((at % size) as f64, (at / size) as f64);
        rect = Rect::new(
            rect.left.min(x),
            rect.top.min(y),
            rect.right.max(x + 1.0),
            rect.bottom.max(y + 1.0),
        );
    }
    BoxLabel {
        class: u32::from(class),
        rect,
        crowd: false,
    }
}
