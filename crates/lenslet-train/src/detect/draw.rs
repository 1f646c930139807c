//! Boxes drawn into a picture.

use font8x8::legacy::{BASIC_LEGACY, LATIN_LEGACY};
use lenslet_data::masks::voc_palette;
use lenslet_data::{Channels, DataError, Image};

use super::Detection;

/// A glyph's side in pixels, before it is enlarged.
const GLYPH: usize = 8;

/// The letter's rows, the left column in the lowest bit; a question mark where it has none.
fn glyph(letter: char) -> [u8; GLYPH] {
    let code = letter as usize;
    let latin = code.checked_sub(0xa0).and_then(|at| LATIN_LEGACY.get(at));
    let found = BASIC_LEGACY.get(code).or(latin);
    *found.unwrap_or(&BASIC_LEGACY['?' as usize])
}

/// A picture to draw into.
struct Canvas {
    width: usize,
    height: usize,
    data: Vec<u8>,
}

impl Canvas {
    fn fill(&mut self, [left, top, right, bottom]: [isize; 4], colour: [u8; 3]) {
        let clamp = |v: isize, side: usize| v.clamp(0, side as isize) as usize;
        for y in clamp(top, self.height)..clamp(bottom, self.height) {
            for x in clamp(left, self.width)..clamp(right, self.width) {
                self.data[(y * self.width + x) * 3..][..3].copy_from_slice(&colour);
            }
        }
    }

    /// The outline of a rectangle, `line` pixels wide.
    fn frame(&mut self, [left, top, right, bottom]: [isize; 4], line: isize, colour: [u8; 3]) {
        self.fill([left, top, right, top + line], colour);
        self.fill([left, bottom - line, right, bottom], colour);
        self.fill([left, top, left + line, bottom], colour);
        self.fill([right - line, top, right, bottom], colour);
    }

    fn text(&mut self, text: &str, [left, top]: [isize; 2], scale: usize, colour: [u8; 3]) {
        let s = scale as isize;
        for (i, letter) in text.chars().enumerate() {
            let glyph = glyph(letter);
            for (row, bits) in glyph.iter().enumerate() {
                for column in (0..GLYPH).filter(|c| bits >> c & 1 == 1) {
                    let x = left + (i * GLYPH + column) as isize * s;
                    let y = top + row as isize * s;
                    self.fill([x, y, x + s, y + s], colour);
                }
            }
        }
    }
}

/// `image` with the boxes in the colours of their classes, each with its class and score. Small
/// pictures are enlarged, so that the letters can be read.
///
/// # Errors
/// None in a sound build.
pub fn draw_boxes(
    image: &Image,
    found: &[Detection],
    classes: &[String],
) -> Result<Image, DataError> {
    /// Sides below this are enlarged.
    const READABLE: usize = 480;
    let palette = voc_palette();
    let image = image.clone().to_channels(Channels::Rgb);
    let factor = (READABLE / image.width().max(image.height()).max(1)).max(1);
    let (width, height) = (image.width() * factor, image.height() * factor);
    let pixel = |i: usize| {
        let (x, y) = (i % width / factor, i / width / factor);
        (y * image.width() + x) * 3
    };
    let data = (0..width * height).flat_map(|i| {
        let at = pixel(i);
        [image.data()[at], image.data()[at + 1], image.data()[at + 2]]
    });
    let mut canvas = Canvas {
        width,
        height,
        data: data.collect(),
    };
    let scale = (width.max(height) / 900).max(1);
    let line = 2 * scale as isize;
    // The surest last, on top.
    for one in found.iter().rev() {
        // The palette's first colour is black.
        let colour = palette[one.class % 254 + 1].map(|v| v / 2 + 127);
        let rect = one.rect.mapped([factor as f64; 2], [0.0; 2]);
        let edges = [rect.left, rect.top, rect.right, rect.bottom].map(|v| v.round() as isize);
        canvas.frame(edges, line, colour);
        let name = classes.get(one.class).map_or("?", String::as_str);
        let text = format!("{name} {:.0}", one.score * 100.0);
        let high = (GLYPH * scale) as isize + 2;
        let wide = (text.chars().count() * GLYPH * scale) as isize + 4;
        // Above the box, or inside it at the picture's upper edge.
        let top = if edges[1] >= high {
            edges[1] - high
        } else {
            edges[1]
        };
        let left = edges[0].min(width as isize - wide).max(0);
        canvas.fill([left, top, left + wide, top + high], colour);
        canvas.text(&text, [left + 2, top + 1], scale, [0, 0, 0]);
    }
    Image::new(width, height, 3, canvas.data)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lenslet_boxes::Rect;

    #[test]
    fn boxes_are_drawn_where_they_are() {
        let image = Image::new(60, 40, 3, vec![0; 60 * 40 * 3]).unwrap();
        let found = [Detection {
            class: 0,
            score: 0.93,
            rect: Rect::new(10.0, 15.0, 30.0, 35.0),
        }];
        let drawn = draw_boxes(&image, &found, &["cat".into()]).unwrap();
        // Eight times as large.
        assert_eq!((drawn.width(), drawn.height()), (480, 320));
        let at = |x: usize, y: usize| drawn.data()[(y * 480 + x) * 3] > 0;
        assert!(at(80, 200) && at(239, 200) && at(160, 120) && at(160, 279));
        assert!(!at(160, 200) && !at(300, 200));
        // A box that reaches over every edge, and a name that has no glyphs, are no trouble.
        let wild = [Detection {
            class: 7,
            score: 1.0,
            rect: Rect::new(-50.0, -50.0, 500.0, 500.0),
        }];
        assert!(draw_boxes(&image, &wild, &[]).is_ok());
    }
}
