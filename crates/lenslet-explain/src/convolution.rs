//! A convolution, seen: input, kernel and output side by side, or step by step.

use std::fmt::Write;
use std::path::Path;

use lenslet_data::{Channels, Image};
use lenslet_draw::{Anchor, Bitmap, Colour, Scene, Shape, Text, diverging, viridis};
use lenslet_graph::{Window, output_size};

use crate::ExplainError;
use crate::picture::{LABEL, MARGIN, TITLE, number, scale_bar};

/// Rows of numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct Matrix {
    rows: usize,
    columns: usize,
    values: Vec<f64>,
}

/// Kernels by name: the values that image editors use.
const KERNELS: &[(&str, [f64; 9], f64)] = &[
    (
        "edge",
        [-1.0, -1.0, -1.0, -1.0, 8.0, -1.0, -1.0, -1.0, -1.0],
        1.0,
    ),
    (
        "sharpen",
        [0.0, -1.0, 0.0, -1.0, 5.0, -1.0, 0.0, -1.0, 0.0],
        1.0,
    ),
    ("blur", [1.0, 2.0, 1.0, 2.0, 4.0, 2.0, 1.0, 2.0, 1.0], 16.0),
    (
        "sobel-x",
        [-1.0, 0.0, 1.0, -2.0, 0.0, 2.0, -1.0, 0.0, 1.0],
        1.0,
    ),
    (
        "sobel-y",
        [-1.0, -2.0, -1.0, 0.0, 0.0, 0.0, 1.0, 2.0, 1.0],
        1.0,
    ),
    (
        "emboss",
        [-2.0, -1.0, 0.0, -1.0, 1.0, 1.0, 0.0, 1.0, 2.0],
        1.0,
    ),
];

impl Matrix {
    /// Numbers row by row.
    ///
    /// # Panics
    /// When there are more or fewer.
    pub fn new(rows: usize, columns: usize, values: Vec<f64>) -> Self {
        assert_eq!(values.len(), rows * columns);
        Self {
            rows,
            columns,
            values,
        }
    }

    /// The example of the guide's first section: a picture of 5x5 and a kernel of 3x3, which give
    /// 4 3 4, 2 4 3, 2 3 4.
    pub fn example() -> (Self, Self) {
        let picture = [
            1, 1, 1, 0, 0, 0, 1, 1, 1, 0, 0, 0, 1, 1, 1, 0, 0, 1, 1, 0, 0, 1, 1, 0, 0,
        ];
        let kernel = [1, 0, 1, 0, 1, 0, 1, 0, 1];
        let matrix = |side, values: &[i32]| {
            Self::new(side, side, values.iter().map(|&v| f64::from(v)).collect())
        };
        (matrix(5, &picture), matrix(3, &kernel))
    }

    /// A kernel by name: `edge`, `sharpen`, `blur`, `sobel-x`, `sobel-y` or `emboss`.
    pub fn kernel(name: &str) -> Option<Self> {
        let (_, values, over) = KERNELS.iter().find(|(known, ..)| *known == name)?;
        Some(Self::new(3, 3, values.iter().map(|v| v / over).collect()))
    }

    /// The names of the kernels.
    pub fn kernel_names() -> impl Iterator<Item = &'static str> {
        KERNELS.iter().map(|(name, ..)| *name)
    }

    /// Numbers of a CSV file.
    ///
    /// # Errors
    /// When the file cannot be read or holds anything but rows of the same number of numbers.
    pub fn read(path: &Path) -> Result<Self, ExplainError> {
        let fail = |reason: String| ExplainError::Matrix {
            path: path.to_path_buf(),
            reason,
        };
        let mut reader = csv::ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .trim(csv::Trim::All)
            .from_path(path)
            .map_err(|e| fail(format!("cannot be read: {e}")))?;
        let (mut values, mut rows, mut columns) = (Vec::new(), 0, 0);
        for record in reader.records() {
            let record = record.map_err(|e| fail(format!("cannot be read: {e}")))?;
            rows += 1;
            if rows > 1 && record.len() != columns {
                let found = record.len();
                return Err(fail(format!(
                    "row {rows} has {found} numbers, the first {columns}"
                )));
            }
            columns = record.len();
            for field in &record {
                let value: f64 = field.parse().unwrap_or(f64::NAN);
                if !value.is_finite() {
                    return Err(fail(format!(
                        "row {rows} has '{field}', which is no number"
                    )));
                }
                values.push(value);
            }
        }
        if values.is_empty() {
            return Err(fail("holds no numbers".into()));
        }
        Ok(Self::new(rows, columns, values))
    }

    /// A picture's brightness from 0 to 1.
    pub fn of_image(image: Image) -> Self {
        let image = image.to_channels(Channels::Grey);
        let values = image.data().iter().map(|&v| f64::from(v) / 255.0);
        Self::new(image.height(), image.width(), values.collect())
    }

    /// Rows and columns.
    pub fn size(&self) -> [usize; 2] {
        [self.rows, self.columns]
    }

    /// The numbers row by row.
    pub fn values(&self) -> &[f64] {
        &self.values
    }

    fn at(&self, row: isize, column: isize) -> f64 {
        let inside = |i: isize, n: usize| usize::try_from(i).ok().filter(|&i| i < n);
        match (inside(row, self.rows), inside(column, self.columns)) {
            (Some(row), Some(column)) => self.values[row * self.columns + column],
            _ => 0.0,
        }
    }

    fn range(&self) -> [f64; 2] {
        let least = self.values.iter().copied().fold(f64::MAX, f64::min);
        let most = self.values.iter().copied().fold(f64::MIN, f64::max);
        [least, most]
    }
}

/// How a kernel slides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slide {
    /// Rows and columns between positions.
    pub stride: usize,
    /// Zeros around the input.
    pub padding: usize,
    /// Rows and columns between the kernel's values.
    pub dilation: usize,
}

/// The output of a convolution as networks do it: the kernel is not flipped.
///
/// # Errors
/// When the kernel does not fit.
pub fn convolve(input: &Matrix, kernel: &Matrix, slide: Slide) -> Result<Matrix, ExplainError> {
    let size = |input: usize, kernel: usize| {
        let Slide {
            stride,
            padding,
            dilation,
        } = slide;
        let window = Window {
            kernel,
            stride,
            padding,
            dilation,
        };
        output_size(input, window).map_err(|e| ExplainError::Convolution(e.to_string()))
    };
    let rows = size(input.rows, kernel.rows)?;
    let columns = size(input.columns, kernel.columns)?;
    let mut values = Vec::with_capacity(rows * columns);
    for row in 0..rows {
        for column in 0..columns {
            let products = products(input, kernel, slide, [row, column]);
            values.push(products.map(|(a, b)| a * b).sum());
        }
    }
    Ok(Matrix::new(rows, columns, values))
}

/// What is multiplied at a position of the output.
fn products<'a>(
    input: &'a Matrix,
    kernel: &'a Matrix,
    slide: Slide,
    [row, column]: [usize; 2],
) -> impl Iterator<Item = (f64, f64)> + 'a {
    let start = move |i: usize| (i * slide.stride) as isize - slide.padding as isize;
    kernel.values.iter().enumerate().map(move |(i, &weight)| {
        let (down, right) = (i / kernel.columns, i % kernel.columns);
        let at = |start: isize, i: usize| start + (i * slide.dilation) as isize;
        (
            input.at(at(start(row), down), at(start(column), right)),
            weight,
        )
    })
}

/// Larger inputs are not written out step by step.
const TRACED: usize = 16;

/// The sums of a small convolution, one line for each position of the output, and the output.
///
/// # Errors
/// When the input or the kernel has more than 16 rows or columns, or the kernel does not fit.
pub fn trace(input: &Matrix, kernel: &Matrix, slide: Slide) -> Result<String, ExplainError> {
    if [input.rows, input.columns, kernel.rows, kernel.columns]
        .iter()
        .any(|&n| n > TRACED)
    {
        let [rows, columns] = input.size();
        return Err(ExplainError::Convolution(format!(
            "an input of {rows} x {columns} is too large to follow step by step; it must be at most {TRACED} x \
             {TRACED}, the kernel as well: give a small matrix as a .csv"
        )));
    }
    let output = convolve(input, kernel, slide)?;
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = writeln!(text, "input\n{}\nkernel\n{}", rows(input), rows(kernel));
    for row in 0..output.rows {
        for column in 0..output.columns {
            let products = products(input, kernel, slide, [row, column]);
            let products = products.map(|(a, b)| format!("{}·{}", number(a), number(b)));
            let products: Vec<String> = products.collect();
            let sum = number(output.values[row * output.columns + column]);
            let (row, column) = (row + 1, column + 1);
            let _ = writeln!(
                text,
                "row {row}, column {column}: {} = {sum}",
                products.join(" + ")
            );
        }
    }
    let _ = write!(text, "\noutput\n{}", rows(&output));
    Ok(text)
}

/// The numbers in columns.
fn rows(matrix: &Matrix) -> String {
    let words: Vec<String> = matrix.values.iter().map(|&v| number(v)).collect();
    let width = words.iter().map(String::len).max().unwrap_or(0);
    let mut text = String::new();
    for row in words.chunks(matrix.columns) {
        let row: Vec<String> = row.iter().map(|word| format!("{word:>width$}")).collect();
        text += &row.join(" ");
        text.push('\n');
    }
    text
}

/// Side of a panel.
const PANEL: f64 = 300.0;
/// Panels with more rows or columns than this show no numbers.
const NUMBERED: usize = 8;

/// The three panels: the input, the kernel with its values, the output with its scale.
///
/// # Errors
/// When the kernel does not fit.
pub fn scene(
    input: &Matrix,
    kernel: &Matrix,
    slide: Slide,
    kernel_name: &str,
) -> Result<Scene, ExplainError> {
    let output = convolve(input, kernel, slide)?;
    let width = 3.0 * PANEL + 2.0 * 46.0 + 2.0 * MARGIN + 86.0;
    let mut scene = Scene::new(width, PANEL + TITLE + 50.0 + MARGIN);
    let top = TITLE + 14.0;
    let size = |m: &Matrix| format!("{}×{}", m.rows, m.columns);
    let kernel_range = kernel.range().map(f64::abs);
    let strongest = kernel_range[0].max(kernel_range[1]).max(f64::MIN_POSITIVE);
    let [least, most] = input.range();
    let grey = |value: f64| {
        let share = (value - least) / (most - least).max(f64::MIN_POSITIVE);
        Colour::BLACK.mixed(Colour::WHITE, share)
    };
    let [low, high] = output.range();
    let warm = |value: f64| viridis((value - low) / (high - low).max(f64::MIN_POSITIVE));
    let x = |i: usize| MARGIN + i as f64 * (PANEL + 46.0);
    panel(
        &mut scene,
        [x(0), top],
        &format!("input, {}", size(input)),
        input,
        &grey,
    );
    let title = format!("kernel: {kernel_name}, {}", size(kernel));
    panel(&mut scene, [x(1), top], &title, kernel, &|v| {
        diverging(0.85 * v / strongest)
    });
    panel(
        &mut scene,
        [x(2), top],
        &format!("output, {}", size(&output)),
        &output,
        &warm,
    );
    for (i, sign) in ["*", "="].into_iter().enumerate() {
        let middle = x(i + 1) - 23.0;
        let sign = Text::new(middle, top + PANEL / 2.0 + 10.0, sign)
            .sized(30.0)
            .bold();
        scene.text(sign.anchored(Anchor::Middle));
    }
    let bar = [x(2) + PANEL + 14.0, top, 16.0, PANEL];
    scale_bar(&mut scene, bar, [&number(low), &number(high)], viridis);
    let Slide {
        stride,
        padding,
        dilation,
    } = slide;
    let how = format!("stride {stride}, padding {padding}, dilation {dilation}");
    let at = top + PANEL + 26.0;
    scene.text(
        Text::new(x(1) + PANEL / 2.0, at, how)
            .anchored(Anchor::Middle)
            .sized(LABEL),
    );
    Ok(scene)
}

/// A matrix as cells in a square, with numbers where there is room.
fn panel(
    scene: &mut Scene,
    [x, y]: [f64; 2],
    title: &str,
    matrix: &Matrix,
    colour: &dyn Fn(f64) -> Colour,
) {
    let title = Text::new(x + PANEL / 2.0, y - 10.0, title)
        .sized(14.0)
        .bold();
    scene.text(title.anchored(Anchor::Middle));
    let cell = PANEL / matrix.rows.max(matrix.columns) as f64;
    let (width, height) = (cell * matrix.columns as f64, cell * matrix.rows as f64);
    let (left, top) = (x + (PANEL - width) / 2.0, y + (PANEL - height) / 2.0);
    let rgb = matrix.values.iter().flat_map(|&v| colour(v).rgb).collect();
    let place = [left, top, width, height];
    let bitmap = Bitmap::new(place, matrix.columns, matrix.rows, rgb);
    scene.bitmap(if cell < 2.0 { bitmap.smooth() } else { bitmap });
    if matrix.rows.max(matrix.columns) <= NUMBERED {
        for (i, &value) in matrix.values.iter().enumerate() {
            let (row, column) = (i / matrix.columns, i % matrix.columns);
            let (cx, cy) = (left + column as f64 * cell, top + row as f64 * cell);
            let edge = Shape::rect(cx, cy, cell, cell).stroked(Colour::FAINT, 0.6);
            scene.shape(edge);
            let ink = match lightness(colour(value)) > 0.5 {
                true => Colour::BLACK,
                false => Colour::WHITE,
            };
            let size = (cell * 0.34).min(26.0);
            let text = Text::new(
                cx + cell / 2.0,
                cy + cell / 2.0 + size * 0.36,
                number(value),
            );
            let text = text.sized(size).at_most(cell - 6.0).coloured(ink);
            scene.text(text.anchored(Anchor::Middle));
        }
    }
    scene.shape(Shape::rect(left, top, width, height).stroked(Colour::FAINT, 1.0));
}

/// From 0, black, to 1, white.
fn lightness(colour: Colour) -> f64 {
    let [r, g, b] = colour.rgb.map(f64::from);
    (0.299 * r + 0.587 * g + 0.114 * b) / 255.0
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Slide = Slide {
        stride: 1,
        padding: 0,
        dilation: 1,
    };

    #[test]
    fn the_guides_example_comes_out() {
        let (picture, kernel) = Matrix::example();
        let text = trace(&picture, &kernel, PLAIN).unwrap();
        assert!(text.ends_with("output\n4 3 4\n2 4 3\n2 3 4\n"), "{text}");
        let first = "row 1, column 1: 1·1 + 1·0 + 1·1 + 0·0 + 1·1 + 1·0 + 0·1 + 0·0 + 1·1 = 4";
        assert!(text.contains(first), "{text}");
    }

    /// By hand: a row of four with a kernel of two, two apart, one zero on each side.
    #[test]
    fn strides_borders_and_gaps_count() {
        let input = Matrix::new(1, 4, vec![1.0, 2.0, 3.0, 4.0]);
        let kernel = Matrix::new(1, 2, vec![10.0, 1.0]);
        let slide = Slide {
            stride: 2,
            padding: 1,
            dilation: 2,
        };
        // Rows of zeros are above and below, so of three rows (stride 2: two) none meets the input.
        let output = convolve(&input, &kernel, slide).unwrap();
        assert_eq!(output.size(), [2, 2]);
        assert_eq!(output.values(), [0.0; 4]);
        let column = Matrix::new(3, 4, [[0.0; 4], [1.0, 2.0, 3.0, 4.0], [0.0; 4]].concat());
        let slide = Slide {
            padding: 0,
            ..slide
        };
        assert_eq!(convolve(&column, &kernel, slide).unwrap().size(), [2, 1]);
        let slide = Slide { stride: 1, ..slide };
        let output = convolve(&column, &kernel, slide).unwrap();
        assert_eq!(output.values()[2..4], [13.0, 24.0]);
        let wide = Matrix::new(1, 9, vec![0.0; 9]);
        let error = convolve(&input, &wide, slide).unwrap_err().to_string();
        // Nine taps, two apart.
        assert!(error.contains("spans 17"), "{error}");
    }

    #[test]
    fn kernels_are_what_they_are_called() {
        let sum = |name| Matrix::kernel(name).unwrap().values().iter().sum::<f64>();
        for (name, expected) in [("edge", 0.0), ("sobel-x", 0.0), ("sobel-y", 0.0)] {
            assert_eq!(sum(name), expected, "{name}");
        }
        for name in ["blur", "sharpen", "emboss"] {
            assert!((sum(name) - 1.0).abs() < 1e-12, "{name}");
        }
        assert_eq!(Matrix::kernel("none"), None);
    }
}
