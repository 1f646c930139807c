//! The letters: DejaVu Sans, the Latin and Greek part of it.

use tiny_skia::{Path, PathBuilder};
use ttf_parser::{Face, GlyphId, OutlineBuilder};

const REGULAR: &[u8] = include_bytes!("../fonts/DejaVuSans.ttf");
const BOLD: &[u8] = include_bytes!("../fonts/DejaVuSans-Bold.ttf");

fn face(bold: bool) -> Face<'static> {
    let bytes = if bold { BOLD } else { REGULAR };
    Face::parse(bytes, 0).expect("the fonts of this crate are sound")
}

/// How wide a text is.
pub fn text_width(text: &str, size: f64, bold: bool) -> f64 {
    let face = face(bold);
    let advances = text.chars().map(|c| advance(&face, glyph(&face, c)));
    advances.sum::<f64>() * size / f64::from(face.units_per_em())
}

/// The outline of a text that begins at `[x, y]`, and its width.
pub(crate) fn outline(text: &str, [x, y]: [f64; 2], size: f64, bold: bool) -> Option<Path> {
    let face = face(bold);
    let scale = size / f64::from(face.units_per_em());
    let mut pen = Pen {
        path: PathBuilder::new(),
        x,
        y,
        scale,
    };
    for c in text.chars() {
        let glyph = glyph(&face, c);
        face.outline_glyph(glyph, &mut pen);
        pen.x += advance(&face, glyph) * scale;
    }
    pen.path.finish()
}

/// A letter that the font lacks is a box.
fn glyph(face: &Face<'_>, c: char) -> GlyphId {
    let known = face.glyph_index(c).or_else(|| face.glyph_index('□'));
    known.unwrap_or(GlyphId(0))
}

fn advance(face: &Face<'_>, glyph: GlyphId) -> f64 {
    f64::from(face.glyph_hor_advance(glyph).unwrap_or(0))
}

/// Turns a font's units, which count upwards, into pixels.
struct Pen {
    path: PathBuilder,
    x: f64,
    y: f64,
    scale: f64,
}

impl Pen {
    fn at(&self, x: f32, y: f32) -> (f32, f32) {
        let x = self.x + f64::from(x) * self.scale;
        let y = self.y - f64::from(y) * self.scale;
        (x as f32, y as f32)
    }
}

impl OutlineBuilder for Pen {
    fn move_to(&mut self, x: f32, y: f32) {
        let (x, y) = self.at(x, y);
        self.path.move_to(x, y);
    }
    fn line_to(&mut self, x: f32, y: f32) {
        let (x, y) = self.at(x, y);
        self.path.line_to(x, y);
    }
    fn quad_to(&mut self, x1: f32, y1: f32, x: f32, y: f32) {
        let ((x1, y1), (x, y)) = (self.at(x1, y1), self.at(x, y));
        self.path.quad_to(x1, y1, x, y);
    }
    fn curve_to(&mut self, x1: f32, y1: f32, x2: f32, y2: f32, x: f32, y: f32) {
        let ((x1, y1), (x2, y2)) = (self.at(x1, y1), self.at(x2, y2));
        let (x, y) = self.at(x, y);
        self.path.cubic_to(x1, y1, x2, y2, x, y);
    }
    fn close(&mut self) {
        self.path.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widths_add_up() {
        let width = |text: &str| text_width(text, 20.0, false);
        assert!((width("ab") - width("a") - width("b")).abs() < 1e-9);
        assert!(text_width("ab", 20.0, true) > width("ab"));
        assert!(width("漢") > 5.0);
        let bounds = outline("a", [10.0, 50.0], 20.0, false).unwrap().bounds();
        assert!(bounds.left() >= 10.0 && bounds.right() <= 10.0 + width("a") as f32);
        assert!(bounds.bottom() < 51.0 && bounds.top() > 30.0);
    }
}
