//! Labelled cells in rows.

use lenslet_draw::{Bitmap, Colour, Scene, Shape};

use crate::picture::{LABEL, MARGIN, TITLE, caption, caption_within, title};

/// A small picture with a label.
#[derive(Debug, Clone)]
pub(crate) struct Cell {
    pub label: String,
    pub columns: usize,
    pub rows: usize,
    pub rgb: Vec<u8>,
}

/// Cells in a grid that is a little wider than high.
pub(crate) fn scene(text: &str, note: &str, cells: &[Cell]) -> Scene {
    let columns = ((cells.len() as f64 * 1.5).sqrt().ceil() as usize).clamp(1, 16);
    let rows = cells.len().div_ceil(columns);
    let side = if cells.len() > 40 { 84.0 } else { 104.0 };
    let (across, down) = (side + 12.0, side + LABEL + 14.0);
    let width = (columns as f64 * across - 12.0 + 2.0 * MARGIN).max(420.0);
    let height = TITLE + 8.0 + rows as f64 * down + MARGIN + 12.0;
    let mut scene = Scene::new(width, height);
    title(&mut scene, text);
    let left = (width - (columns as f64 * across - 12.0)) / 2.0;
    for (i, cell) in cells.iter().enumerate() {
        let x = left + (i % columns) as f64 * across;
        let y = TITLE + 8.0 + (i / columns) as f64 * down;
        // The longer side fills the cell.
        let scale = side / cell.columns.max(cell.rows) as f64;
        let (w, h) = (scale * cell.columns as f64, scale * cell.rows as f64);
        let place = [x + (side - w) / 2.0, y + (side - h) / 2.0, w, h];
        let bitmap = Bitmap::new(place, cell.columns, cell.rows, cell.rgb.clone());
        scene.bitmap(if scale < 1.5 { bitmap.smooth() } else { bitmap });
        let [px, py, ..] = place;
        scene.shape(Shape::rect(px, py, w, h).stroked(Colour::FAINT, 0.6));
        let below = [x + side / 2.0, y + side + LABEL + 1.0];
        caption_within(&mut scene, below, &cell.label, side + 6.0);
    }
    caption(&mut scene, [width / 2.0, height - 10.0], note);
    scene
}
