//! Non-maximum suppression.

use crate::Rect;

/// A box that a detector is so sure of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scored {
    /// Where.
    pub rect: Rect,
    /// Which class.
    pub class: usize,
    /// How sure.
    pub score: f64,
}

/// Which of `boxes` stay, the surest first: a box goes when a surer one of its class, which stays,
/// overlaps it by more than `threshold`. Of equally sure ones the first is taken for the surer, as
/// torchvision's `batched_nms` does.
pub fn suppress(boxes: &[Scored], threshold: f64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..boxes.len()).collect();
    // A stable order; scores that are no numbers come last.
    order.sort_by(|&a, &b| {
        let rank = |i: usize| {
            let score = boxes[i].score;
            if score.is_nan() {
                f64::NEG_INFINITY
            } else {
                score
            }
        };
        rank(b).total_cmp(&rank(a))
    });
    let mut kept: Vec<usize> = Vec::new();
    for candidate in order {
        let one = &boxes[candidate];
        let covered = kept
            .iter()
            .any(|&i| boxes[i].class == one.class && boxes[i].rect.iou(&one.rect) > threshold);
        if !covered {
            kept.push(candidate);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scored(left: f64, class: usize, score: f64) -> Scored {
        Scored {
            rect: Rect::new(left, 0.0, left + 10.0, 10.0),
            class,
            score,
        }
    }

    #[test]
    fn classes_do_not_cover_each_other() {
        let boxes = [
            scored(0.0, 0, 0.5),
            scored(1.0, 0, 0.9),
            scored(2.0, 1, 0.4),
            scored(9.0, 0, 0.3),
        ];
        assert_eq!(suppress(&boxes, 0.5), [1, 2, 3]);
        assert_eq!(suppress(&boxes, 1.0), [1, 0, 2, 3]);
    }

    /// What is suppressed suppresses nothing itself.
    #[test]
    fn only_what_stays_suppresses() {
        let chain = [
            scored(0.0, 0, 0.9),
            scored(3.0, 0, 0.8),
            scored(6.0, 0, 0.7),
        ];
        assert_eq!(suppress(&chain, 0.5), [0, 2]);
    }

    #[test]
    fn equally_sure_boxes_keep_their_order() {
        let boxes = [scored(0.0, 0, 0.5), scored(0.0, 0, 0.5)];
        assert_eq!(suppress(&boxes, 0.5), [0]);
        let unsure = [scored(0.0, 0, f64::NAN), scored(0.0, 0, 0.1)];
        assert_eq!(suppress(&unsure, 0.5), [1]);
    }
}
