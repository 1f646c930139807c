//! Axis-parallel boxes.

use serde::{Deserialize, Serialize};

/// A box from its left and top edge to its right and bottom edge, in pixels that begin at 0: a box
/// over the first pixel alone is `[0, 0, 1, 1]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rect {
    /// Left edge.
    pub left: f64,
    /// Upper edge.
    pub top: f64,
    /// Right edge.
    pub right: f64,
    /// Lower edge.
    pub bottom: f64,
}

impl Rect {
    /// A box by its edges.
    pub const fn new(left: f64, top: f64, right: f64, bottom: f64) -> Self {
        Self {
            left,
            top,
            right,
            bottom,
        }
    }

    /// A box by its upper left corner and its size, as COCO writes it.
    pub fn from_corner([left, top, width, height]: [f64; 4]) -> Self {
        Self::new(left, top, left + width, top + height)
    }

    /// A box by its centre and its size.
    pub fn from_centre([x, y, width, height]: [f64; 4]) -> Self {
        Self::from_corner([x - width / 2.0, y - height / 2.0, width, height])
    }

    /// Upper left corner and size.
    pub fn corner(&self) -> [f64; 4] {
        [self.left, self.top, self.width(), self.height()]
    }

    /// Centre and size.
    pub fn centre(&self) -> [f64; 4] {
        [
            (self.left + self.right) / 2.0,
            (self.top + self.bottom) / 2.0,
            self.width(),
            self.height(),
        ]
    }

    /// From left to right.
    pub fn width(&self) -> f64 {
        self.right - self.left
    }

    /// From top to bottom.
    pub fn height(&self) -> f64 {
        self.bottom - self.top
    }

    /// Width times height; 0 for a box that is turned inside out.
    pub fn area(&self) -> f64 {
        self.width().max(0.0) * self.height().max(0.0)
    }

    /// True for four finite edges with something between them.
    pub fn is_sound(&self) -> bool {
        [self.left, self.top, self.right, self.bottom]
            .iter()
            .all(|v| v.is_finite())
            && self.width() > 0.0
            && self.height() > 0.0
    }

    /// The part of it that two boxes share; of no area where they share none.
    pub fn intersection(&self, other: &Self) -> Self {
        Self::new(
            self.left.max(other.left),
            self.top.max(other.top),
            self.right.min(other.right),
            self.bottom.min(other.bottom),
        )
    }

    /// Shared area over joint area; 0 where neither has any.
    pub fn iou(&self, other: &Self) -> f64 {
        let shared = self.intersection(other).area();
        let joint = self.area() + other.area() - shared;
        if joint > 0.0 { shared / joint } else { 0.0 }
    }

    /// The part inside a picture of `width` x `height`.
    pub fn clamped(&self, width: f64, height: f64) -> Self {
        Self::new(
            self.left.clamp(0.0, width),
            self.top.clamp(0.0, height),
            self.right.clamp(0.0, width),
            self.bottom.clamp(0.0, height),
        )
    }

    /// Every edge multiplied (`x` and `y`), then shifted.
    pub fn mapped(&self, scale: [f64; 2], shift: [f64; 2]) -> Self {
        Self::new(
            self.left * scale[0] + shift[0],
            self.top * scale[1] + shift[1],
            self.right * scale[0] + shift[0],
            self.bottom * scale[1] + shift[1],
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn overlap_by_hand() {
        let a = Rect::new(0.0, 0.0, 2.0, 2.0);
        assert_eq!(a.iou(&a), 1.0);
        assert_eq!(a.iou(&Rect::new(1.0, 1.0, 3.0, 3.0)), 1.0 / 7.0);
        assert_eq!(a.iou(&Rect::new(2.0, 0.0, 3.0, 2.0)), 0.0);
        assert_eq!(Rect::default().iou(&Rect::default()), 0.0);
        assert!(!Rect::new(3.0, 0.0, 1.0, 1.0).is_sound());
        assert!(!Rect::new(0.0, f64::NAN, 1.0, 1.0).is_sound());
    }

    proptest! {
        #[test]
        fn corners_and_centres_return(x in -50.0..50.0, y in -50.0..50.0, w in 0.1..50.0, h in 0.1..50.0) {
            let rect = Rect::from_corner([x, y, w, h]);
            let back = Rect::from_centre(rect.centre());
            for (a, b) in back.corner().into_iter().zip([x, y, w, h]) {
                prop_assert!((a - b).abs() < 1e-9);
            }
        }
    }
}
