//! Boxes and lines as a picture.

use lenslet_draw::{Anchor, Colour, OKABE_ITO, Scene, Shape, Text, text_width};

use super::layout::{Layout, Line, MARGIN, Rect};
use super::{Drawing, Look, Unit};

/// Room for the title.
const TITLE: f64 = 34.0;
/// Its letters.
const TITLE_SIZE: f64 = 16.0;

/// Fill and border of a box.
fn colours(look: Look) -> [Colour; 2] {
    let [orange, sky, green, yellow, blue, vermilion, purple, _] = OKABE_ITO;
    let light = |border: Colour| [Colour::WHITE.mixed(border, 0.2), border];
    let grey = Colour::new(0x88, 0x88, 0x88);
    match look {
        Look::Input | Look::Join => [Colour::WHITE, Colour::FAINT],
        Look::Conv => light(blue),
        Look::Linear => light(green),
        Look::Pool => light(orange),
        Look::Norm | Look::Activation => light(grey),
        Look::Attention => light(purple),
        Look::Resize => light(vermilion),
        Look::Module => light(sky),
        Look::Other => light(yellow.mixed(Colour::BLACK, 0.3)),
    }
}

pub(super) fn draw(drawing: &Drawing, layout: &Layout, title: &str) -> Scene {
    let top = if title.is_empty() { 0.0 } else { TITLE };
    let titled = text_width(title, TITLE_SIZE, true) + 2.0 * MARGIN;
    let width = layout.size[0].max(titled);
    let mut scene = Scene::new(width, layout.size[1] + top);
    if !title.is_empty() {
        scene.text(Text::new(MARGIN, 26.0, title).sized(TITLE_SIZE).bold());
    }
    let at = [(width - layout.size[0]) / 2.0, top];
    for (block, ground) in drawing.blocks.iter().zip(&layout.grounds) {
        let Some(ground) = ground else { continue };
        let x = ground.x - ground.width / 2.0 + at[0];
        let y = ground.y - ground.height / 2.0 + at[1];
        let shape = Shape::rect(x, y, ground.width, ground.height).rounded(8.0);
        let [fill, border] = [Colour::new(0xf6, 0xf6, 0xf2), Colour::new(0xd9, 0xd9, 0xd0)];
        scene.shape(shape.filled(fill).stroked(border, 1.0));
        let name = Text::new(x + 6.0, y + 12.0, &block.name).sized(11.0);
        scene.text(name.coloured(Colour::FAINT));
        if block.times > 1 {
            let times = format!("× {}", block.times);
            let right = x + ground.width - 7.0;
            let times = Text::new(right, y + 14.0, times).sized(13.0).bold();
            scene.text(times.anchored(Anchor::End));
        }
    }
    for line in &layout.lines {
        scene.shape(path(line, at).stroked(Colour::FAINT, 1.3).with_arrow());
    }
    for (unit, rect) in drawing.units.iter().zip(&layout.boxes) {
        let rect = Rect {
            x: rect.x + at[0],
            y: rect.y + at[1],
            ..*rect
        };
        boxed(&mut scene, unit, &rect);
    }
    scene
}

fn path(line: &Line, at: [f64; 2]) -> Shape {
    let moved = |[x, y]: [f64; 2]| [x + at[0], y + at[1]];
    match line {
        Line::Straight(from, to) => Shape::line(&[moved(*from), moved(*to)]),
        Line::Down(points) => {
            let mut shape = Shape::line(&[moved(points[0])]);
            for pair in points.windows(2) {
                let ([x0, y0], [x1, y1]) = (moved(pair[0]), moved(pair[1]));
                let middle = (y0 + y1) / 2.0;
                shape = match (x0 - x1).abs() < 0.5 {
                    true => shape.line_to([x1, y1]),
                    false => shape.curve_to([x0, middle], [x1, middle], [x1, y1]),
                };
            }
            shape
        }
    }
}

fn boxed(scene: &mut Scene, unit: &Unit, rect: &Rect) {
    let [fill, border] = colours(unit.look);
    let (x, y) = (rect.x - rect.width / 2.0, rect.y - rect.height / 2.0);
    let radius = match unit.look {
        Look::Join => rect.height / 2.0,
        _ => 5.0,
    };
    let shape = Shape::rect(x, y, rect.width, rect.height).rounded(radius);
    let hint = match unit.module.as_str() {
        "" => &unit.label,
        module => module,
    };
    scene.shape(shape.filled(fill).stroked(border, 1.3).hinted(hint));
    let mut print = |text: Text| {
        scene.text(text.anchored(Anchor::Middle).at_most(rect.width - 8.0));
    };
    let under = match (unit.detail.as_str(), unit.shape.as_str()) {
        ("", shape) => shape.to_string(),
        (detail, "") => detail.to_string(),
        (detail, shape) => format!("{detail} · {shape}"),
    };
    match unit.look {
        Look::Join if unit.is_sign() => {
            print(
                Text::new(rect.x, rect.y + 5.0, &unit.label)
                    .sized(15.0)
                    .bold(),
            );
        }
        Look::Join => {
            let label = format!("{} · {}", unit.label, unit.shape);
            print(Text::new(rect.x, rect.y + 4.0, label).sized(11.0));
        }
        _ => {
            print(
                Text::new(rect.x, rect.y - 3.0, &unit.label)
                    .sized(13.0)
                    .bold(),
            );
            let under = Text::new(rect.x, rect.y + 14.0, under).sized(11.0);
            print(under.coloured(Colour::FAINT));
        }
    }
}
