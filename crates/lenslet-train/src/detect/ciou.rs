//! The complete IoU loss: Z. Zheng, P. Wang, W. Liu, J. Li, R. Ye, D. Ren, *Distance-IoU Loss:
//! Faster and Better Learning for Bounding Box Regression*, AAAI 2020, equations 10 to 12.

use lenslet_boxes::Rect;

use super::dual::Dual;

/// Keeps boxes without area from being divided by.
const EPSILON: f64 = 1e-9;

/// `1 - IoU + distance of the centres + difference of the proportions` of a box `[left, top, right,
/// bottom]` and the one it should be.
pub(super) fn ciou([left, top, right, bottom]: [Dual; 4], truth: &Rect) -> Dual {
    let c = Dual::constant;
    let zero = c(0.0);
    let (w, h) = (right - left, bottom - top);
    let (tw, th) = (c(truth.width()), c(truth.height()));
    let shared_w = right.min(c(truth.right)) - left.max(c(truth.left));
    let shared_h = bottom.min(c(truth.bottom)) - top.max(c(truth.top));
    let shared = shared_w.max(zero) * shared_h.max(zero);
    let joint = w * h + tw * th - shared + c(EPSILON);
    let iou = shared / joint;
    // The diagonal of the smallest box around both.
    let around_w = right.max(c(truth.right)) - left.min(c(truth.left));
    let around_h = bottom.max(c(truth.bottom)) - top.min(c(truth.top));
    let diagonal = around_w * around_w + around_h * around_h + c(EPSILON);
    let dx = left + right - c(truth.left + truth.right);
    let dy = top + bottom - c(truth.top + truth.bottom);
    let distance = (dx * dx + dy * dy) / c(4.0) / diagonal;
    let angle = (tw / (th + c(EPSILON))).atan() - (w / (h + c(EPSILON))).atan();
    let v = c(4.0 / (std::f64::consts::PI * std::f64::consts::PI)) * angle * angle;
    // A weight, not differentiated (section 3.2.2 of the paper's code).
    let alpha = v.value / (1.0 - iou.value + v.value + EPSILON);
    c(1.0) - iou + distance + c(alpha) * v
}

/// The loss of a box against the one it should be.
pub fn ciou_loss(found: &Rect, truth: &Rect) -> f64 {
    let edges = [found.left, found.top, found.right, found.bottom];
    ciou(edges.map(Dual::constant), truth).value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_right_box_costs_nothing_and_farther_ones_cost_more() {
        let truth = Rect::new(10.0, 10.0, 30.0, 20.0);
        let shifted = |dx: f64| ciou_loss(&truth.mapped([1.0; 2], [dx, 0.0]), &truth);
        assert!(shifted(0.0).abs() < 1e-6);
        assert!(shifted(5.0) > 0.1 && shifted(50.0) > shifted(30.0));
        // Boxes that do not touch still pull.
        assert!(shifted(30.0) > 1.0);
    }

    /// `torchvision.ops.complete_box_iou_loss`: see lenslet-boxes/scripts/make_fixtures.py.
    #[test]
    fn it_is_torchvisions() {
        #[derive(serde::Deserialize)]
        struct Cases {
            complete_iou: Vec<Case>,
        }
        #[derive(serde::Deserialize)]
        struct Case {
            a: [f64; 4],
            b: [f64; 4],
            loss: f64,
        }
        let text = include_str!("../../../lenslet-boxes/tests/fixtures/boxes.json");
        let cases: Cases = serde_json::from_str(text).unwrap();
        for Case { a, b, loss } in cases.complete_iou {
            let got = ciou_loss(&Rect::from_corner(a), &Rect::from_corner(b));
            assert!(
                (got - loss).abs() < 1e-5,
                "{a:?} {b:?}: {got} is not {loss}"
            );
        }
    }

    #[test]
    fn slopes_are_central_differences() {
        let truth = Rect::new(10.0, 10.0, 30.0, 20.0);
        let edges = [12.0, 8.0, 40.0, 25.0];
        let at = |edges: [f64; 4]| {
            let variables = std::array::from_fn(|i| Dual::variable(edges[i], i));
            ciou(variables, &truth)
        };
        let base = at(edges);
        // The weight of the proportions is held where it is.
        let w = |e: [f64; 4]| e[2] - e[0];
        let h = |e: [f64; 4]| e[3] - e[1];
        let v = |e: [f64; 4]| {
            let angle = (truth.width() / truth.height()).atan() - (w(e) / h(e)).atan();
            4.0 / std::f64::consts::PI.powi(2) * angle * angle
        };
        let alpha = |e: [f64; 4]| {
            let rect = Rect::new(e[0], e[1], e[2], e[3]);
            v(e) / (1.0 - rect.iou(&truth) + v(e))
        };
        let fixed = |e: [f64; 4]| at(e).value + (alpha(edges) - alpha(e)) * v(e);
        for i in 0..4 {
            let moved = |step: f64| {
                let mut e = edges;
                e[i] += step;
                fixed(e)
            };
            let slope = (moved(1e-5) - moved(-1e-5)) / 2e-5;
            assert!(
                (base.slopes[i] - slope).abs() < 1e-6,
                "{i}: {} {slope}",
                base.slopes[i]
            );
        }
    }
}
