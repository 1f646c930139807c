//! What several pictures share.

use lenslet_draw::{Anchor, Bitmap, Colour, Scene, Shape, Text};

/// Around everything.
pub(crate) const MARGIN: f64 = 16.0;
/// Room for a title.
pub(crate) const TITLE: f64 = 36.0;
/// Size of the letters of labels.
pub(crate) const LABEL: f64 = 12.0;

/// A number as short as it is understood.
pub(crate) fn number(value: f64) -> String {
    if value == value.trunc() && value.abs() < 1e6 {
        return format!("{}", value as i64);
    }
    let text = match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 1.0 => format!("{value:.2}"),
        v if v >= 0.001 => format!("{value:.3}"),
        _ => return format!("{value:.1e}"),
    };
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_string(),
        false => text,
    }
}

/// A number with two digits that count.
pub(crate) fn short(value: f64) -> String {
    match value.abs() {
        v if v < 1e-4 => "0".into(),
        v if v >= 10.0 => format!("{value:.0}"),
        v if v >= 1.0 => format!("{value:.1}"),
        v if v >= 0.1 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// A standing bar of a colour scale with its ends' numbers, low below.
pub(crate) fn scale_bar(
    scene: &mut Scene,
    [x, y, width, height]: [f64; 4],
    [low, high]: [&str; 2],
    colour: impl Fn(f64) -> Colour,
) {
    const STEPS: usize = 64;
    let rgb = (0..STEPS)
        .rev()
        .flat_map(|i| colour(i as f64 / (STEPS - 1) as f64).rgb);
    let bitmap = Bitmap::new([x, y, width, height], 1, STEPS, rgb.collect());
    scene.bitmap(bitmap.smooth());
    scene.shape(Shape::rect(x, y, width, height).stroked(Colour::FAINT, 0.8));
    let right = x + width + 6.0;
    scene.text(Text::new(right, y + 10.0, high).sized(LABEL));
    scene.text(Text::new(right, y + height, low).sized(LABEL));
}

/// A title over a picture.
pub(crate) fn title(scene: &mut Scene, text: &str) {
    let most = scene.size()[0] - 2.0 * MARGIN;
    scene.text(
        Text::new(MARGIN, 25.0, text)
            .sized(16.0)
            .bold()
            .at_most(most),
    );
}

/// A line in the middle under something.
pub(crate) fn caption(scene: &mut Scene, place: [f64; 2], text: &str) {
    let most = scene.size()[0] - 2.0 * MARGIN;
    caption_within(scene, place, text, most);
}

/// The same, no wider than that.
pub(crate) fn caption_within(scene: &mut Scene, [x, y]: [f64; 2], text: &str, most: f64) {
    let text = Text::new(x, y, text).sized(LABEL).coloured(Colour::FAINT);
    scene.text(text.anchored(Anchor::Middle).at_most(most));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let words = [4.0, -1.0, 0.0625, 1.5, 123.4, -0.333_333, 2e-7].map(number);
        assert_eq!(
            words,
            ["4", "-1", "0.062", "1.5", "123", "-0.333", "2.0e-7"]
        );
    }
}
