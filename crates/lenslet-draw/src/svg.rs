//! SVG.

use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::png::encode;
use crate::{Anchor, Bitmap, Colour, Item, Outline, Scene, Shape, Stroke, Text};

// Writing to a string does not fail, so results are dropped here.
pub(crate) fn write(scene: &Scene) -> String {
    let (width, height) = (scene.width, scene.height);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" \
         viewBox=\"0 0 {width:.0} {height:.0}\" font-family=\"DejaVu Sans, Verdana, Helvetica, sans-serif\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
    );
    for item in &scene.items {
        match item {
            Item::Shape(shape) => draw(&mut svg, shape),
            Item::Text(text) => print(&mut svg, text),
            Item::Bitmap(bitmap) => paste(&mut svg, bitmap),
        }
    }
    svg += "</svg>\n";
    svg
}

fn paint(name: &str, colour: Colour) -> String {
    let [r, g, b] = colour.rgb;
    let mut text = format!("{name}=\"#{r:02x}{g:02x}{b:02x}\"");
    if colour.opacity < 255 {
        let _ = write!(
            text,
            " {name}-opacity=\"{:.2}\"",
            f64::from(colour.opacity) / 255.0
        );
    }
    text
}

fn draw(svg: &mut String, shape: &Shape) {
    let mut style = match shape.fill {
        Some(colour) => paint("fill", colour),
        None => "fill=\"none\"".into(),
    };
    if let Some((colour, width)) = shape.stroke {
        let _ = write!(
            style,
            " {} stroke-width=\"{width}\"",
            paint("stroke", colour)
        );
    }
    let element = match &shape.outline {
        Outline::Rect {
            x,
            y,
            width,
            height,
            radius,
        } => {
            let round = match radius {
                0.0 => String::new(),
                r => format!(" rx=\"{r:.1}\""),
            };
            format!(
                "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\"{round} {style}"
            )
        }
        Outline::Path(strokes) => {
            let point = |[x, y]: [f64; 2]| format!("{x:.1} {y:.1}");
            let strokes = strokes.iter().map(|stroke| match *stroke {
                Stroke::Move(to) => format!("M{}", point(to)),
                Stroke::Line(to) => format!("L{}", point(to)),
                Stroke::Curve(a, b, to) => format!("C{} {} {}", point(a), point(b), point(to)),
            });
            format!(
                "<path d=\"{}\" {style}",
                strokes.collect::<Vec<_>>().join(" ")
            )
        }
    };
    let _ = match shape.hint.as_str() {
        "" => writeln!(svg, "{element}/>"),
        hint => writeln!(
            svg,
            "{element}><title>{}</title></{}>",
            escaped(hint),
            match shape.outline {
                Outline::Rect { .. } => "rect",
                Outline::Path(_) => "path",
            }
        ),
    };
    if let (Some(tip), Some((colour, _))) = (shape.tip(), shape.stroke) {
        draw(svg, &Shape::line(&tip).filled(colour));
    }
}

fn print(svg: &mut String, text: &Text) {
    let anchor = match text.anchor {
        Anchor::Start => "",
        Anchor::Middle => " text-anchor=\"middle\"",
        Anchor::End => " text-anchor=\"end\"",
    };
    let weight = if text.bold {
        " font-weight=\"bold\""
    } else {
        ""
    };
    let _ = writeln!(
        svg,
        "<text x=\"{:.1}\" y=\"{:.1}\" font-size=\"{:.1}\"{anchor}{weight} {}>{}</text>",
        text.x,
        text.y,
        text.size,
        paint("fill", text.colour),
        escaped(&text.text),
    );
}

fn paste(svg: &mut String, bitmap: &Bitmap) {
    let [columns, rows] = bitmap.pixels;
    let png = STANDARD.encode(encode(columns, rows, &bitmap.rgb));
    let rendering = match bitmap.smooth {
        true => "",
        false => " style=\"image-rendering:pixelated\"",
    };
    let _ = writeln!(
        svg,
        "<image x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" preserveAspectRatio=\"none\"{rendering} \
         href=\"data:image/png;base64,{png}\"/>",
        bitmap.x, bitmap.y, bitmap.width, bitmap.height,
    );
}

fn escaped(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    text.replace('>', "&gt;").replace('"', "&quot;")
}

impl Shape {
    /// The corners of the tip at the end of a line.
    pub(crate) fn tip(&self) -> Option<[[f64; 2]; 3]> {
        let Outline::Path(strokes) = &self.outline else {
            return None;
        };
        if !self.arrow || strokes.len() < 2 {
            return None;
        }
        let end = |stroke: &Stroke| match *stroke {
            Stroke::Move(to) | Stroke::Line(to) | Stroke::Curve(_, _, to) => to,
        };
        let to = end(strokes.last()?);
        let from = match strokes.last()? {
            Stroke::Curve(_, b, _) => *b,
            _ => end(&strokes[strokes.len() - 2]),
        };
        let (dx, dy) = (to[0] - from[0], to[1] - from[1]);
        let length = dx.hypot(dy);
        if length == 0.0 {
            return None;
        }
        let [ux, uy] = [dx / length, dy / length];
        let back = [to[0] - 7.0 * ux, to[1] - 7.0 * uy];
        Some([
            to,
            [back[0] - 3.5 * uy, back[1] + 3.5 * ux],
            [back[0] + 3.5 * uy, back[1] - 3.5 * ux],
        ])
    }
}
