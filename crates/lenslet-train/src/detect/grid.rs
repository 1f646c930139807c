//! Targets and loss of the grid detector: J. Redmon, S. Divvala, R. Girshick, A. Farhadi, *You Only
//! Look Once: Unified, Real-Time Object Detection*, CVPR 2016, section 2.2, equation 3.

use lenslet_boxes::Rect;
use lenslet_data::boxes::BoxLabel;

use super::LossValue;

/// Weight of a box's place and size (the paper's λ_coord).
const COORD: f64 = 5.0;
/// Weight of the confidence of boxes without an object (the paper's λ_noobj).
const NO_OBJECT: f64 = 0.5;

/// What a box's four numbers mean at a cell: the centre in the cell, and the square roots of width and
/// height, as shares of the picture of `input` (height, width).
pub(super) fn decode(
    raw: [f64; 4],
    [row, column]: [usize; 2],
    grid: [usize; 2],
    input: [usize; 2],
) -> Rect {
    let [height, width] = input.map(|v| v as f64);
    let x = (raw[0] + column as f64) / grid[1] as f64 * width;
    let y = (raw[1] + row as f64) / grid[0] as f64 * height;
    // A negative root has no meaning; its square would give one.
    let side = |root: f64| root.max(0.0) * root.max(0.0);
    Rect::from_centre([x, y, side(raw[2]) * width, side(raw[3]) * height])
}

/// The loss of `output`, `[N, rows, columns, 5 * boxes + classes]`, the mean over the images of the sum
/// of squared errors. `boxes` are in pixels of the input; of several whose centres share a cell the
/// largest is learnt, crowds are not.
pub fn grid_loss(
    output: &[f32],
    grid: [usize; 2],
    classes: usize,
    input: [usize; 2],
    boxes: &[Vec<BoxLabel>],
) -> LossValue {
    let images = boxes.len().max(1);
    let [rows, columns] = grid;
    let values = output.len() / (images * rows * columns);
    let count = (values - classes) / 5;
    let mut gradient = vec![0.0f32; output.len()];
    let mut loss = 0.0;
    let norm = 1.0 / images as f64;
    for (image, boxes) in boxes.iter().enumerate() {
        let aims = assign(boxes, grid, input);
        for (cell, aim) in aims.iter().enumerate() {
            let at = (image * rows * columns + cell) * values;
            let (raw, gradient) = (&output[at..at + values], &mut gradient[at..at + values]);
            let mut squared = |i: usize, target: f64, weight: f64| {
                let error = f64::from(raw[i]) - target;
                gradient[i] += (2.0 * weight * error * norm) as f32;
                loss += weight * error * error * norm;
            };
            let place = [cell / columns, cell % columns];
            let predicted = |b: usize| {
                let numbers = std::array::from_fn(|i| f64::from(raw[5 * b + i]));
                decode(numbers, place, grid, input)
            };
            let Some(label) = aim else {
                (0..count).for_each(|b| squared(5 * b + 4, 0.0, NO_OBJECT));
                continue;
            };
            let overlap = |b: &usize| predicted(*b).iou(&label.rect);
            // The one that overlaps most is responsible; without any overlap, the first.
            let responsible = (0..count)
                .rev()
                .max_by(|a, b| overlap(a).total_cmp(&overlap(b)))
                .unwrap_or(0);
            for b in 0..count {
                if b != responsible {
                    squared(5 * b + 4, 0.0, NO_OBJECT);
                    continue;
                }
                let [x, y, w, h] = label.rect.centre();
                let [height, width] = input.map(|v| v as f64);
                let aims = [
                    x / width * columns as f64 - place[1] as f64,
                    y / height * rows as f64 - place[0] as f64,
                    (w / width).sqrt(),
                    (h / height).sqrt(),
                ];
                for (i, aim) in aims.into_iter().enumerate() {
                    squared(5 * b + i, aim, COORD);
                }
                // The confidence is to be the overlap that the box has (the paper's section 2).
                squared(5 * b + 4, overlap(&b), 1.0);
            }
            for class in 0..classes {
                let target = f64::from(u8::from(class == label.class as usize));
                squared(5 * count + class, target, 1.0);
            }
        }
    }
    LossValue {
        loss,
        gradients: vec![gradient],
    }
}

/// The box that each cell is to find.
fn assign(
    boxes: &[BoxLabel],
    [rows, columns]: [usize; 2],
    input: [usize; 2],
) -> Vec<Option<BoxLabel>> {
    let mut cells = vec![None::<BoxLabel>; rows * columns];
    for label in boxes.iter().filter(|b| !b.crowd) {
        let [x, y, ..] = label.rect.centre();
        let cell = |v: f64, side: usize, count: usize| {
            ((v / side as f64 * count as f64) as usize).min(count - 1)
        };
        let at = cell(y, input[0], rows) * columns + cell(x, input[1], columns);
        let larger = |old: &BoxLabel| label.rect.area() > old.rect.area();
        if cells[at].as_ref().is_none_or(larger) {
            cells[at] = Some(*label);
        }
    }
    cells
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRID: [usize; 2] = [2, 2];
    const INPUT: [usize; 2] = [40, 40];

    fn boxes() -> Vec<Vec<BoxLabel>> {
        let label = |rect, class| BoxLabel {
            class,
            rect,
            crowd: false,
        };
        vec![
            vec![
                label(Rect::new(2.0, 4.0, 14.0, 18.0), 1),
                label(Rect::new(6.0, 6.0, 10.0, 10.0), 0),
            ],
            vec![label(Rect::new(10.0, 22.0, 38.0, 38.0), 2)],
        ]
    }

    #[test]
    fn the_larger_box_has_the_cell() {
        let cells = assign(&boxes()[0], GRID, INPUT);
        assert_eq!(cells[0].map(|b| b.class), Some(1));
        assert!(cells[1..].iter().all(Option::is_none));
        // Centre 24, 30: row 1, column 1.
        assert_eq!(
            assign(&boxes()[1], GRID, INPUT)[3].map(|b| b.class),
            Some(2)
        );
    }

    /// Central differences, but where the aim itself moves: a confidence follows its box's overlap.
    #[test]
    fn gradients_are_slopes() {
        let n = 2 * 4 * 13;
        let output: Vec<f32> = (0..n).map(|i| ((i * 29 % 17) as f32) / 16.0).collect();
        let loss = |o: &[f32]| grid_loss(o, GRID, 3, INPUT, &boxes());
        let found = loss(&output);
        for i in 0..n {
            let numbers = i % 13;
            if numbers < 10 && numbers % 5 < 4 {
                continue;
            }
            let at = |step: f32| {
                let mut moved = output.clone();
                moved[i] += step;
                loss(&moved).loss
            };
            let slope = (at(1e-3) - at(-1e-3)) / 2e-3;
            let got = f64::from(found.gradients[0][i]);
            assert!((got - slope).abs() < 1e-3, "{i}: {got} is not {slope}");
        }
    }

    #[test]
    fn the_right_answer_costs_nothing() {
        let truth = vec![boxes()[1].clone()];
        let mut output = vec![0.0f32; 4 * 13];
        // Centre 24, 30 in the cell from 20, 20 of 20 pixels.
        let right = [
            0.2,
            0.5,
            (28.0f32 / 40.0).sqrt(),
            (16.0f32 / 40.0).sqrt(),
            1.0,
        ];
        output[3 * 13..3 * 13 + 5].copy_from_slice(&right);
        output[3 * 13 + 12] = 1.0;
        let found = grid_loss(&output, GRID, 3, INPUT, &truth);
        assert!(found.loss < 1e-9, "{}", found.loss);
        let place: [f64; 4] = std::array::from_fn(|i| f64::from(right[i]));
        let rect = decode(place, [1, 1], GRID, INPUT);
        assert!(rect.iou(&truth[0][0].rect) > 0.9999);
    }
}
