//! Targets and loss of the anchor head.
//!
//! J. Redmon, A. Farhadi, *YOLOv3: An Incremental Improvement*, 2018, sections 2.1 and 2.2: every box
//! belongs to the one anchor, over all scales, whose shape overlaps it most, at the position that holds
//! its centre; other anchors there that overlap it by more than a half are left in peace; objectness and
//! classes are logistic. In the place of the squared error of coordinates stands the complete IoU loss
//! (Zheng et al., 2020) of the decoded box.

use lenslet_data::boxes::BoxLabel;
use serde::{Deserialize, Serialize};

use super::LossValue;
use super::anchors::shape_iou;
use super::ciou::ciou;
use super::dual::{Dual, sigmoid};

/// The shape of what an anchor head gives, and what it means.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AnchorSpec {
    /// Height and width of the model's input.
    pub input: [usize; 2],
    /// Classes.
    pub classes: usize,
    /// Widths and heights in pixels of the input, a list a scale, from the finest to the coarsest.
    pub anchors: Vec<Vec<[f32; 2]>>,
}

/// Overlap of shapes above which an anchor is neither right nor wrong.
const IGNORED: f64 = 0.5;
/// Weight of a box's place and shape beside its objectness and its classes.
const BOX_WEIGHT: f64 = 5.0;
/// The logarithm of the largest factor on an anchor's side.
pub(super) const LARGEST: f64 = 4.0;

/// Where a scale's numbers lie.
#[derive(Clone, Copy)]
pub(super) struct Scale<'a> {
    pub anchors: &'a [[f32; 2]],
    /// Rows and columns.
    pub size: [usize; 2],
    /// Pixels a step, down and to the right.
    pub stride: [f64; 2],
    pub values: usize,
}

impl<'a> Scale<'a> {
    pub fn new(spec: &'a AnchorSpec, number: usize, size: [usize; 2]) -> Self {
        Self {
            anchors: &spec.anchors[number],
            size,
            stride: [0, 1].map(|i| spec.input[i] as f64 / size[i] as f64),
            values: 5 + spec.classes,
        }
    }

    /// Numbers of one image.
    pub fn len(&self) -> usize {
        self.anchors.len() * self.size[0] * self.size[1] * self.values
    }

    /// The first number of an anchor at a position.
    pub fn at(&self, anchor: usize, row: usize, column: usize) -> usize {
        ((anchor * self.size[0] + row) * self.size[1] + column) * self.values
    }

    /// The decoded box at a position, as the loss sees it: edges with their slopes by the four numbers.
    pub fn decode(&self, raw: [f64; 4], anchor: usize, row: usize, column: usize) -> [Dual; 4] {
        let c = Dual::constant;
        let [x, y, w, h] = std::array::from_fn(|i| Dual::variable(raw[i], i));
        let x = (x.sigmoid() + c(column as f64)) * c(self.stride[1]);
        let y = (y.sigmoid() + c(row as f64)) * c(self.stride[0]);
        let side = |t: Dual, i: usize| t.min(c(LARGEST)).exp() * c(self.anchors[anchor][i].into());
        let (w, h) = (side(w, 0) / c(2.0), side(h, 1) / c(2.0));
        [x - w, y - h, x + w, y + h]
    }
}

/// The loss of what the head gave for a batch: `[N, anchors, rows, columns, 5 + classes]` a scale, with
/// its rows and columns. `boxes` are in pixels of the input; crowds are not learnt.
pub fn anchor_loss(
    spec: &AnchorSpec,
    outputs: &[(&[f32], [usize; 2])],
    boxes: &[Vec<BoxLabel>],
) -> LossValue {
    let scales: Vec<Scale<'_>> = outputs
        .iter()
        .enumerate()
        .map(|(i, (_, size))| Scale::new(spec, i, *size))
        .collect();
    let mut result = LossValue {
        loss: 0.0,
        gradients: outputs.iter().map(|(v, _)| vec![0.0; v.len()]).collect(),
    };
    let wanted = boxes.iter().flatten().filter(|b| !b.crowd).count();
    let norm = 1.0 / wanted.max(1) as f64;
    for (image, boxes) in boxes.iter().enumerate() {
        let aims = assign(&scales, boxes);
        for (s, scale) in scales.iter().enumerate() {
            let from = image * scale.len();
            let raw = &outputs[s].0[from..from + scale.len()];
            let gradient = &mut result.gradients[s][from..from + scale.len()];
            let [rows, columns] = scale.size;
            for anchor in 0..scale.anchors.len() {
                for row in 0..rows {
                    for column in 0..columns {
                        let cell = (anchor * rows + row) * columns + column;
                        let at = scale.at(anchor, row, column);
                        let place = at..at + scale.values;
                        let (raw, gradient) = (&raw[place.clone()], &mut gradient[place]);
                        result.loss += match &aims[s][cell] {
                            Aim::Ignored => 0.0,
                            Aim::Nothing => logistic(raw[4], 0.0, norm, &mut gradient[4]),
                            Aim::Box(label) => {
                                let place = [anchor, row, column];
                                positive(scale, place, raw, label, norm, gradient)
                            }
                        };
                    }
                }
            }
        }
    }
    result
}

/// What a prediction should be.
#[derive(Debug, Clone, PartialEq)]
enum Aim {
    Nothing,
    Ignored,
    Box(BoxLabel),
}

/// What each prediction for one image should be, scale by scale.
fn assign(scales: &[Scale<'_>], boxes: &[BoxLabel]) -> Vec<Vec<Aim>> {
    let mut aims: Vec<Vec<Aim>> = scales
        .iter()
        .map(|s| vec![Aim::Nothing; s.anchors.len() * s.size[0] * s.size[1]])
        .collect();
    // Every anchor at the position of a box's centre: scale, cell, overlap.
    let candidates = |label: &BoxLabel| {
        let [x, y, w, h] = label.rect.centre();
        let mut found = Vec::new();
        for (s, scale) in scales.iter().enumerate() {
            let [rows, columns] = scale.size;
            let row = ((y / scale.stride[0]) as usize).min(rows - 1);
            let column = ((x / scale.stride[1]) as usize).min(columns - 1);
            for (a, anchor) in scale.anchors.iter().enumerate() {
                let overlap = shape_iou(*anchor, [w as f32, h as f32]);
                found.push((s, (a * rows + row) * columns + column, overlap));
            }
        }
        found
    };
    for label in boxes {
        for (s, cell, overlap) in candidates(label) {
            if overlap > IGNORED || label.crowd {
                aims[s][cell] = Aim::Ignored;
            }
        }
    }
    // Large ones first: where two want one anchor, the smaller gets it, which has fewer.
    let mut order: Vec<&BoxLabel> = boxes.iter().filter(|b| !b.crowd).collect();
    order.sort_by(|a, b| b.rect.area().total_cmp(&a.rect.area()));
    for label in order {
        let found = candidates(label);
        let best = found.iter().max_by(|a, b| a.2.total_cmp(&b.2));
        if let Some(&(s, cell, _)) = best {
            aims[s][cell] = Aim::Box(*label);
        }
    }
    aims
}

/// Binary cross entropy of a logit, times `norm`.
fn logistic(logit: f32, target: f64, norm: f64, gradient: &mut f32) -> f64 {
    let x = f64::from(logit);
    *gradient += ((sigmoid(x) - target) * norm) as f32;
    (x.max(0.0) - x * target + (-x.abs()).exp().ln_1p()) * norm
}

fn positive(
    scale: &Scale<'_>,
    [anchor, row, column]: [usize; 3],
    raw: &[f32],
    label: &BoxLabel,
    norm: f64,
    gradient: &mut [f32],
) -> f64 {
    let numbers = std::array::from_fn(|i| f64::from(raw[i]));
    let edges = scale.decode(numbers, anchor, row, column);
    let place = ciou(edges, &label.rect);
    for (g, slope) in gradient.iter_mut().zip(place.slopes) {
        *g += (BOX_WEIGHT * slope * norm) as f32;
    }
    let mut loss = BOX_WEIGHT * place.value * norm;
    loss += logistic(raw[4], 1.0, norm, &mut gradient[4]);
    for (class, (logit, g)) in raw[5..].iter().zip(&mut gradient[5..]).enumerate() {
        let target = f64::from(u8::from(class == label.class as usize));
        loss += logistic(*logit, target, norm, g);
    }
    loss
}

#[cfg(test)]
mod tests {
    use super::*;
    use lenslet_boxes::Rect;

    fn spec() -> AnchorSpec {
        AnchorSpec {
            input: [32, 32],
            classes: 2,
            anchors: vec![vec![[6.0, 8.0], [8.0, 8.0]], vec![[20.0, 18.0]]],
        }
    }

    fn label(rect: Rect, class: u32, crowd: bool) -> BoxLabel {
        BoxLabel { class, rect, crowd }
    }

    fn outputs() -> Vec<(Vec<f32>, [usize; 2])> {
        let numbers = |n: usize, seed: usize| {
            (0..n)
                .map(|i| (((i * 37 + seed * 11) % 23) as f32 - 11.0) / 8.0)
                .collect::<Vec<f32>>()
        };
        vec![
            (numbers(2 * 2 * 4 * 4 * 7, 1), [4, 4]),
            (numbers(2 * 2 * 2 * 7, 2), [2, 2]),
        ]
    }

    fn boxes() -> Vec<Vec<BoxLabel>> {
        vec![
            vec![
                label(Rect::new(2.0, 3.0, 9.0, 10.0), 1, false),
                label(Rect::new(8.0, 10.0, 30.0, 28.0), 0, false),
            ],
            vec![label(Rect::new(20.0, 20.0, 26.0, 28.0), 1, true)],
        ]
    }

    #[test]
    fn every_box_belongs_to_the_best_anchor() {
        let spec = spec();
        let scales = [Scale::new(&spec, 0, [4, 4]), Scale::new(&spec, 1, [2, 2])];
        let aims = assign(&scales, &boxes()[0]);
        // Centre 5.5, 6.5: row 0, column 0; 7 x 7 is nearest to 8 x 8.
        assert_eq!(aims[0][16], Aim::Box(boxes()[0][0]));
        assert_eq!(aims[0][0], Aim::Ignored);
        // Centre 19, 19: row 1, column 1.
        assert_eq!(aims[1][3], Aim::Box(boxes()[0][1]));
        let sure = aims.iter().flatten().filter(|a| matches!(a, Aim::Box(_)));
        assert_eq!(sure.count(), 2);
        // A crowd is not learnt and not held against the model.
        let aims = assign(&scales, &boxes()[1]);
        let left = aims.iter().flatten().filter(|a| **a == Aim::Ignored);
        assert_eq!(left.count(), 3);
    }

    /// Central differences; numbers whose slope passes through the fixed weight of the proportions are
    /// checked in `ciou`.
    #[test]
    fn gradients_are_slopes() {
        let (spec, outputs, boxes) = (spec(), outputs(), boxes());
        let loss = |o: &[(Vec<f32>, [usize; 2])]| {
            let parts: Vec<_> = o.iter().map(|(v, s)| (v.as_slice(), *s)).collect();
            anchor_loss(&spec, &parts, &boxes)
        };
        let found = loss(&outputs);
        assert!(found.loss > 0.0);
        for s in 0..2 {
            for i in (0..outputs[s].0.len()).step_by(3) {
                if matches!(i % 7, 2 | 3) {
                    continue;
                }
                let at = |step: f32| {
                    let mut moved = outputs.clone();
                    moved[s].0[i] += step;
                    loss(&moved).loss
                };
                let slope = (at(1e-3) - at(-1e-3)) / 2e-3;
                let got = f64::from(found.gradients[s][i]);
                assert!((got - slope).abs() < 2e-3, "{s} {i}: {got} is not {slope}");
            }
        }
    }

    /// A head that says just what is there costs next to nothing.
    #[test]
    fn the_right_answer_is_cheap() {
        let spec = spec();
        let truth = vec![vec![label(Rect::new(8.0, 10.0, 28.0, 28.0), 1, false)]];
        let mut outputs = [
            (vec![-9.0f32; 2 * 16 * 7], [4, 4]),
            (vec![-9.0f32; 4 * 7], [2, 2]),
        ];
        // Centre 18, 19 in the cell from 16, 16: offsets 2/16 and 3/16.
        let logit = |p: f32| (p / (1.0 - p)).ln();
        outputs[1].0[21..28].copy_from_slice(&[
            logit(0.125),
            logit(0.1875),
            0.0,
            0.0,
            9.0,
            -9.0,
            9.0,
        ]);
        let parts: Vec<_> = outputs.iter().map(|(v, s)| (v.as_slice(), *s)).collect();
        let loss = anchor_loss(&spec, &parts, &truth).loss;
        assert!(loss < 0.01, "{loss}");
    }
}
