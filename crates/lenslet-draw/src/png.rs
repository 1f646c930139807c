//! PNG.

use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{ExtendedColorType, ImageEncoder};
use tiny_skia::{
    FillRule, FilterQuality, IntSize, LineCap, Paint, Path, PathBuilder, Pixmap, PixmapPaint, Rect,
    Stroke as Pen, Transform,
};

use crate::font::outline;
use crate::{Anchor, Bitmap, Colour, Item, Outline, Scene, Shape, Stroke, Text, text_width};

/// Larger pictures are written smaller.
const LARGEST: f64 = 20_000.0;

pub(crate) fn write(scene: &Scene, scale: f64) -> Vec<u8> {
    let side = scene.width.max(scene.height).max(1.0);
    let scale = scale.min(LARGEST / side) as f32;
    let size = |length: f64| ((length as f32 * scale).ceil() as u32).max(1);
    let (width, height) = (size(scene.width), size(scene.height));
    let mut canvas = Pixmap::new(width, height).expect("not empty, and not too large");
    canvas.fill(tiny_skia::Color::WHITE);
    let transform = Transform::from_scale(scale, scale);
    for item in &scene.items {
        match item {
            Item::Shape(shape) => draw(&mut canvas, shape, transform),
            Item::Text(text) => print(&mut canvas, text, transform),
            Item::Bitmap(bitmap) => paste(&mut canvas, bitmap, transform),
        }
    }
    // The ground is white, so nothing is transparent.
    let rgb = canvas
        .data()
        .chunks_exact(4)
        .flat_map(|p| [p[0], p[1], p[2]]);
    encode(width as usize, height as usize, &rgb.collect::<Vec<_>>())
}

/// An image of three bytes a pixel as a PNG file.
///
/// # Panics
/// When there are more or fewer bytes than `3 * columns * rows`, or no pixels at all.
pub fn encode(columns: usize, rows: usize, rgb: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let encoder =
        PngEncoder::new_with_quality(&mut bytes, CompressionType::Best, FilterType::Adaptive);
    encoder
        .write_image(rgb, columns as u32, rows as u32, ExtendedColorType::Rgb8)
        .expect("writing to memory does not fail");
    bytes
}

fn paint(colour: Colour) -> Paint<'static> {
    let [r, g, b] = colour.rgb;
    let mut paint = Paint {
        anti_alias: true,
        ..Paint::default()
    };
    paint.set_color_rgba8(r, g, b, colour.opacity);
    paint
}

fn draw(canvas: &mut Pixmap, shape: &Shape, transform: Transform) {
    let Some(path) = path(&shape.outline) else {
        return;
    };
    if let Some(colour) = shape.fill {
        canvas.fill_path(&path, &paint(colour), FillRule::Winding, transform, None);
    }
    if let Some((colour, width)) = shape.stroke {
        let pen = Pen {
            width: width as f32,
            line_cap: LineCap::Butt,
            ..Pen::default()
        };
        canvas.stroke_path(&path, &paint(colour), &pen, transform, None);
        if let Some(tip) = shape.tip() {
            draw(canvas, &Shape::line(&tip).filled(colour), transform);
        }
    }
}

fn path(outline: &Outline) -> Option<Path> {
    let mut path = PathBuilder::new();
    match outline {
        Outline::Rect {
            x,
            y,
            width,
            height,
            radius,
        } => {
            let [x, y, w, h] = [*x, *y, *width, *height].map(|v| v as f32);
            let r = (*radius as f32).min(w / 2.0).min(h / 2.0);
            if r <= 0.0 {
                path.push_rect(Rect::from_xywh(x, y, w, h)?);
                return path.finish();
            }
            // Quarters of circles as Bézier curves.
            let k = r * 0.552_285;
            let (right, bottom) = (x + w, y + h);
            path.move_to(x + r, y);
            path.line_to(right - r, y);
            path.cubic_to(right - r + k, y, right, y + r - k, right, y + r);
            path.line_to(right, bottom - r);
            path.cubic_to(
                right,
                bottom - r + k,
                right - r + k,
                bottom,
                right - r,
                bottom,
            );
            path.line_to(x + r, bottom);
            path.cubic_to(x + r - k, bottom, x, bottom - r + k, x, bottom - r);
            path.line_to(x, y + r);
            path.cubic_to(x, y + r - k, x + r - k, y, x + r, y);
            path.close();
        }
        Outline::Path(strokes) => {
            for stroke in strokes {
                match *stroke {
                    Stroke::Move([x, y]) => path.move_to(x as f32, y as f32),
                    Stroke::Line([x, y]) => path.line_to(x as f32, y as f32),
                    Stroke::Curve(a, b, to) => {
                        let [[ax, ay], [bx, by], [x, y]] = [a, b, to].map(|p| p.map(|v| v as f32));
                        path.cubic_to(ax, ay, bx, by, x, y);
                    }
                }
            }
        }
    }
    path.finish()
}

fn print(canvas: &mut Pixmap, text: &Text, transform: Transform) {
    let width = text_width(&text.text, text.size, text.bold);
    let left = match text.anchor {
        Anchor::Start => text.x,
        Anchor::Middle => text.x - width / 2.0,
        Anchor::End => text.x - width,
    };
    if let Some(path) = outline(&text.text, [left, text.y], text.size, text.bold) {
        let paint = paint(text.colour);
        canvas.fill_path(&path, &paint, FillRule::Winding, transform, None);
    }
}

fn paste(canvas: &mut Pixmap, bitmap: &Bitmap, transform: Transform) {
    let [columns, rows] = bitmap.pixels;
    let rgba = bitmap
        .rgb
        .chunks_exact(3)
        .flat_map(|p| [p[0], p[1], p[2], 255]);
    let size = IntSize::from_wh(columns as u32, rows as u32);
    let Some(image) = size.and_then(|size| Pixmap::from_vec(rgba.collect(), size)) else {
        return;
    };
    let paint = PixmapPaint {
        quality: match bitmap.smooth {
            true => FilterQuality::Bicubic,
            false => FilterQuality::Nearest,
        },
        ..PixmapPaint::default()
    };
    let (sx, sy) = (bitmap.width / columns as f64, bitmap.height / rows as f64);
    let place = transform
        .pre_translate(bitmap.x as f32, bitmap.y as f32)
        .pre_scale(sx as f32, sy as f32);
    canvas.draw_pixmap(0, 0, image.as_ref(), &paint, place, None);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_shows_what_was_put_into_it() {
        let mut scene = Scene::new(40.0, 20.0);
        scene.shape(Shape::rect(0.0, 0.0, 10.0, 20.0).filled(Colour::new(255, 0, 0)));
        let image = vec![0, 0, 255, 0, 255, 0];
        scene.bitmap(Bitmap::new([10.0, 0.0, 20.0, 20.0], 2, 1, image));
        let png = scene.to_png(2.0);
        let decoded = image::load_from_memory(&png).unwrap().to_rgb8();
        assert_eq!(decoded.dimensions(), (80, 40));
        let at = |x, y| decoded.get_pixel(x, y).0;
        assert_eq!(at(5, 20), [255, 0, 0]);
        assert_eq!(at(30, 20), [0, 0, 255]);
        assert_eq!(at(50, 20), [0, 255, 0]);
        assert_eq!(at(70, 20), [255, 255, 255]);
    }

    #[test]
    fn letters_leave_ink() {
        let ink = |text: &str| {
            let mut scene = Scene::new(100.0, 30.0);
            scene.text(Text::new(5.0, 20.0, text).sized(16.0));
            let decoded = image::load_from_memory(&scene.to_png(1.0))
                .unwrap()
                .to_luma8();
            decoded.pixels().filter(|p| p.0[0] < 128).count()
        };
        assert_eq!(ink(" "), 0);
        assert!(ink("l") > 5 && ink("lenslet") > ink("l"));
    }
}
