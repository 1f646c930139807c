//! Pictures of boxes, lines, text and images, as SVG and as PNG: one scene, two ways to write it.
//!
//! ```
//! use lenslet_draw::{Anchor, Colour, Scene, Text};
//!
//! let mut scene = Scene::new(200.0, 40.0);
//! scene.text(Text::new(100.0, 25.0, "two thirds").bold().anchored(Anchor::Middle));
//! assert!(scene.to_svg().contains("two thirds"));
//! assert!(scene.to_png(2.0).starts_with(b"\x89PNG"));
//! # let _ = Colour::BLACK;
//! ```

mod colour;
mod font;
mod png;
mod svg;

pub use colour::{Colour, OKABE_ITO, diverging, viridis};
pub use font::text_width;
pub use png::encode;

/// A picture: what was added last lies on top. Coordinates are pixels from the top left.
#[derive(Debug, Clone)]
pub struct Scene {
    width: f64,
    height: f64,
    items: Vec<Item>,
}

#[derive(Debug, Clone)]
enum Item {
    Shape(Shape),
    Text(Text),
    Bitmap(Bitmap),
}

/// A line or an area.
#[derive(Debug, Clone)]
pub struct Shape {
    outline: Outline,
    fill: Option<Colour>,
    stroke: Option<(Colour, f64)>,
    arrow: bool,
    hint: String,
}

#[derive(Debug, Clone)]
enum Outline {
    Rect {
        x: f64,
        y: f64,
        width: f64,
        height: f64,
        radius: f64,
    },
    Path(Vec<Stroke>),
}

/// A piece of a line.
#[derive(Debug, Clone, Copy)]
enum Stroke {
    Move([f64; 2]),
    Line([f64; 2]),
    Curve([f64; 2], [f64; 2], [f64; 2]),
}

impl Shape {
    fn of(outline: Outline) -> Self {
        Self {
            outline,
            fill: None,
            stroke: None,
            arrow: false,
            hint: String::new(),
        }
    }

    /// A rectangle by its top left corner.
    pub fn rect(x: f64, y: f64, width: f64, height: f64) -> Self {
        Self::of(Outline::Rect {
            x,
            y,
            width,
            height,
            radius: 0.0,
        })
    }

    /// A line through points.
    pub fn line(points: &[[f64; 2]]) -> Self {
        let mut strokes: Vec<Stroke> = points.iter().map(|&p| Stroke::Line(p)).collect();
        if let (Some(first), Some(&start)) = (strokes.first_mut(), points.first()) {
            *first = Stroke::Move(start);
        }
        Self::of(Outline::Path(strokes))
    }

    /// Goes on with a Bézier curve to the last of three points.
    pub fn curve_to(mut self, a: [f64; 2], b: [f64; 2], to: [f64; 2]) -> Self {
        if let Outline::Path(strokes) = &mut self.outline {
            strokes.push(Stroke::Curve(a, b, to));
        }
        self
    }

    /// Goes on with a straight line.
    pub fn line_to(mut self, to: [f64; 2]) -> Self {
        if let Outline::Path(strokes) = &mut self.outline {
            strokes.push(Stroke::Line(to));
        }
        self
    }

    /// Round corners of a rectangle.
    pub fn rounded(mut self, by: f64) -> Self {
        if let Outline::Rect { radius, .. } = &mut self.outline {
            *radius = by;
        }
        self
    }

    /// The colour inside.
    pub fn filled(mut self, colour: Colour) -> Self {
        self.fill = Some(colour);
        self
    }

    /// The colour and width of the line.
    pub fn stroked(mut self, colour: Colour, width: f64) -> Self {
        self.stroke = Some((colour, width));
        self
    }

    /// With a tip at the end.
    pub fn with_arrow(mut self) -> Self {
        self.arrow = true;
        self
    }

    /// What a browser shows when the pointer rests there.
    pub fn hinted(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }
}

/// Where a text's coordinate is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Anchor {
    /// At its left end.
    Start,
    /// In its middle.
    Middle,
    /// At its right end.
    End,
}

/// A line of text.
#[derive(Debug, Clone)]
pub struct Text {
    x: f64,
    y: f64,
    text: String,
    size: f64,
    bold: bool,
    anchor: Anchor,
    colour: Colour,
}

impl Text {
    /// Text of 12 pixels whose base line is at `y`.
    pub fn new(x: f64, y: f64, text: impl Into<String>) -> Self {
        Self {
            x,
            y,
            text: text.into(),
            size: 12.0,
            bold: false,
            anchor: Anchor::Start,
            colour: Colour::TEXT,
        }
    }

    /// Of this size.
    pub fn sized(mut self, size: f64) -> Self {
        self.size = size;
        self
    }

    /// In bold letters.
    pub fn bold(mut self) -> Self {
        self.bold = true;
        self
    }

    /// Where its coordinate is.
    pub fn anchored(mut self, anchor: Anchor) -> Self {
        self.anchor = anchor;
        self
    }

    /// In this colour.
    pub fn coloured(mut self, colour: Colour) -> Self {
        self.colour = colour;
        self
    }

    /// Smaller, if it would be wider than this.
    pub fn at_most(mut self, width: f64) -> Self {
        let own = text_width(&self.text, self.size, self.bold);
        if own > width {
            self.size *= width / own;
        }
        self
    }
}

/// An image in a picture.
#[derive(Debug, Clone)]
pub struct Bitmap {
    x: f64,
    y: f64,
    width: f64,
    height: f64,
    pixels: [usize; 2],
    rgb: Vec<u8>,
    smooth: bool,
}

impl Bitmap {
    /// `rgb` are three bytes for each of `columns * rows` pixels, row by row; they fill the rectangle,
    /// each pixel a small one of its own.
    ///
    /// # Panics
    /// When there are more or fewer bytes.
    pub fn new([x, y, width, height]: [f64; 4], columns: usize, rows: usize, rgb: Vec<u8>) -> Self {
        assert_eq!(rgb.len(), 3 * columns * rows);
        Self {
            x,
            y,
            width,
            height,
            pixels: [columns, rows],
            rgb,
            smooth: false,
        }
    }

    /// With soft transitions between pixels, as for photos.
    pub fn smooth(mut self) -> Self {
        self.smooth = true;
        self
    }
}

impl Scene {
    /// A white picture.
    pub fn new(width: f64, height: f64) -> Self {
        Self {
            width,
            height,
            items: Vec::new(),
        }
    }

    /// Its width and height.
    pub fn size(&self) -> [f64; 2] {
        [self.width, self.height]
    }

    /// Adds a line or an area.
    pub fn shape(&mut self, shape: Shape) {
        self.items.push(Item::Shape(shape));
    }

    /// Adds text.
    pub fn text(&mut self, text: Text) {
        self.items.push(Item::Text(text));
    }

    /// Adds an image.
    pub fn bitmap(&mut self, bitmap: Bitmap) {
        self.items.push(Item::Bitmap(bitmap));
    }

    /// The picture as SVG.
    pub fn to_svg(&self) -> String {
        svg::write(self)
    }

    /// The picture as PNG, `scale` pixels for each of its own.
    pub fn to_png(&self, scale: f64) -> Vec<u8> {
        png::write(self, scale)
    }
}
