//! A picture inside a frame of other proportions.

use crate::Rect;

/// How a whole picture lies in a frame: reduced or enlarged by one factor, in the middle.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Letterbox {
    /// Width and height of the picture in the frame.
    pub size: [usize; 2],
    /// Columns left of it and rows above it.
    pub offset: [usize; 2],
    picture: [f64; 2],
}

impl Letterbox {
    /// A picture of `picture` (width, height) in a frame of `frame` (width, height).
    pub fn new(picture: [usize; 2], frame: [usize; 2]) -> Self {
        let ratio = |i: usize| frame[i] as f64 / picture[i].max(1) as f64;
        let scale = ratio(0).min(ratio(1));
        let side = |i: usize| ((picture[i] as f64 * scale).round() as usize).clamp(1, frame[i]);
        let size = [side(0), side(1)];
        Self {
            size,
            offset: [(frame[0] - size[0]) / 2, (frame[1] - size[1]) / 2],
            picture: picture.map(|v| v as f64),
        }
    }

    /// Frame pixels a picture's pixel. The two differ by the rounding of the size.
    fn scale(&self) -> [f64; 2] {
        [0, 1].map(|i| self.size[i] as f64 / self.picture[i])
    }

    /// A box of the picture as it lies in the frame.
    pub fn into_frame(&self, rect: &Rect) -> Rect {
        rect.mapped(self.scale(), self.offset.map(|v| v as f64))
    }

    /// A box of the frame as it lies in the picture, without what lies outside of it.
    pub fn into_picture(&self, rect: &Rect) -> Rect {
        let scale = self.scale();
        let shift = [0, 1].map(|i| -(self.offset[i] as f64) / scale[i]);
        rect.mapped(scale.map(|s| 1.0 / s), shift)
            .clamped(self.picture[0], self.picture[1])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_wide_picture_lies_in_the_middle() {
        let letterbox = Letterbox::new([200, 100], [128, 128]);
        assert_eq!((letterbox.size, letterbox.offset), ([128, 64], [0, 32]));
        let whole = Rect::new(0.0, 0.0, 200.0, 100.0);
        assert_eq!(
            letterbox.into_frame(&whole),
            Rect::new(0.0, 32.0, 128.0, 96.0)
        );
        // The borders belong to no picture.
        let frame = Rect::new(0.0, 0.0, 128.0, 128.0);
        assert_eq!(letterbox.into_picture(&frame), whole);
    }

    proptest! {
        #[test]
        fn boxes_return(w in 1usize..900, h in 1usize..900, x in 0.0..0.9, y in 0.0..0.9) {
            let rect = Rect::new(
                x * w as f64, y * h as f64, (x + 0.1) * w as f64, (y + 0.1) * h as f64,
            );
            let letterbox = Letterbox::new([w, h], [128, 96]);
            let back = letterbox.into_picture(&letterbox.into_frame(&rect));
            for (a, b) in back.corner().into_iter().zip(rect.corner()) {
                prop_assert!((a - b).abs() < 1e-6, "{back:?} is not {rect:?}");
            }
        }
    }
}
