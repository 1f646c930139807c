//! What a detector's numbers say.

use lenslet_boxes::{Rect, Scored, suppress};
use serde::Serialize;

use super::anchor::{AnchorSpec, Scale};
use super::dual::sigmoid;
use super::grid;

/// A box that was found.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Detection {
    /// Which class.
    pub class: usize,
    /// How sure: the confidence in the box times the probability of the class.
    pub score: f64,
    /// Where.
    pub rect: Rect,
}

/// The boxes of one image that an anchor head is at least `least` sure of. `outputs` are the image's
/// numbers, `[anchors, rows, columns, 5 + classes]` a scale, with its rows and columns.
pub fn decode_anchors(
    spec: &AnchorSpec,
    outputs: &[(&[f32], [usize; 2])],
    least: f64,
) -> Vec<Detection> {
    let mut found = Vec::new();
    for (number, (raw, size)) in outputs.iter().enumerate() {
        let scale = Scale::new(spec, number, *size);
        let [rows, columns] = *size;
        for anchor in 0..scale.anchors.len() {
            for row in 0..rows {
                for column in 0..columns {
                    let at = scale.at(anchor, row, column);
                    let raw = &raw[at..at + scale.values];
                    let confidence = sigmoid(raw[4].into());
                    if confidence < least {
                        continue;
                    }
                    let numbers = std::array::from_fn(|i| f64::from(raw[i]));
                    let edges = scale.decode(numbers, anchor, row, column);
                    let [left, top, right, bottom] = edges.map(|e| e.value);
                    let rect = Rect::new(left, top, right, bottom);
                    let scores = raw[5..].iter().map(|v| confidence * sigmoid((*v).into()));
                    add(&mut found, scores, rect, least);
                }
            }
        }
    }
    found
}

/// The boxes of one image that a grid detector is at least `least` sure of. `output` are the image's
/// numbers, `[rows, columns, 5 * boxes + classes]`; `input` is the height and width of the input.
pub fn decode_grid(
    output: &[f32],
    size: [usize; 2],
    classes: usize,
    input: [usize; 2],
    least: f64,
) -> Vec<Detection> {
    let [rows, columns] = size;
    let values = output.len() / (rows * columns);
    let boxes = (values - classes) / 5;
    let mut found = Vec::new();
    for (cell, raw) in output.chunks_exact(values).enumerate() {
        for b in 0..boxes {
            let numbers = std::array::from_fn(|i| f64::from(raw[5 * b + i]));
            let place = [cell / columns, cell % columns];
            let rect = grid::decode(numbers, place, size, input);
            let confidence = f64::from(raw[5 * b + 4]).clamp(0.0, 1.0);
            let scores = raw[5 * boxes..].iter();
            let scores = scores.map(|v| confidence * f64::from(*v).clamp(0.0, 1.0));
            add(&mut found, scores, rect, least);
        }
    }
    found
}

fn add(found: &mut Vec<Detection>, scores: impl Iterator<Item = f64>, rect: Rect, least: f64) {
    if !rect.is_sound() {
        return;
    }
    for (class, score) in scores.enumerate() {
        if score >= least {
            found.push(Detection { class, score, rect });
        }
    }
}

/// Boxes that suppression looks at, the surest ones: it takes time by the square of their number.
const CANDIDATES: usize = 3000;

/// What is left when the surest box of each class has suppressed those that overlap it by more than
/// `overlap`, the surest first, at most `most`.
pub(super) fn thinned(mut found: Vec<Detection>, overlap: f64, most: usize) -> Vec<Detection> {
    found.sort_by(|a, b| b.score.total_cmp(&a.score));
    found.truncate(CANDIDATES);
    let scored: Vec<Scored> = found
        .iter()
        .map(|d| Scored {
            rect: d.rect,
            class: d.class,
            score: d.score,
        })
        .collect();
    let kept = suppress(&scored, overlap).into_iter();
    kept.take(most).map(|i| found[i]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_anchor_is_moved_and_stretched() {
        let spec = AnchorSpec {
            input: [32, 64],
            classes: 2,
            anchors: vec![vec![[10.0, 6.0]]],
        };
        let mut raw = vec![-20.0f32; 2 * 4 * 7];
        // Row 1, column 2 of cells of 16 x 16.
        raw[6 * 7..7 * 7].copy_from_slice(&[0.0, 0.0, 2.0f32.ln(), 0.0, 20.0, -20.0, 20.0]);
        let found = decode_anchors(&spec, &[(&raw, [2, 4])], 0.5);
        assert_eq!((found.len(), found[0].class), (1, 1));
        let [x, y, w, h] = found[0].rect.centre();
        let near = |a: f64, b: f64| (a - b).abs() < 1e-5;
        assert!(
            near(x, 40.0) && near(y, 24.0) && near(w, 20.0) && near(h, 6.0),
            "{found:?}"
        );
    }

    #[test]
    fn a_cell_names_its_boxes() {
        let mut raw = vec![0.0f32; 4 * 8];
        raw[3 * 8..].copy_from_slice(&[0.5, 0.5, 0.5, 0.7, 0.8, 0.1, 0.9, 0.0]);
        let found = decode_grid(&raw, [2, 2], 3, [40, 40], 0.5);
        assert_eq!((found.len(), found[0].class), (1, 1));
        assert!((found[0].score - 0.72).abs() < 1e-6);
        assert!((found[0].rect.width() - 10.0).abs() < 1e-6);
        assert!((found[0].rect.left - 25.0).abs() < 1e-6);
    }

    #[test]
    fn duplicates_go_and_the_surest_stays() {
        let one = |score, class, left| Detection {
            class,
            score,
            rect: Rect::new(left, 0.0, left + 10.0, 10.0),
        };
        let found = vec![one(0.5, 0, 0.0), one(0.9, 0, 1.0), one(0.4, 1, 0.0)];
        let kept = thinned(found.clone(), 0.5, 10);
        assert_eq!(kept.iter().map(|d| d.score).collect::<Vec<_>>(), [0.9, 0.4]);
        assert_eq!(thinned(found, 0.5, 1).len(), 1);
    }
}
