//! Colours and colour scales that colour-blind people can read.

/// A colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Colour {
    /// Red, green, blue.
    pub rgb: [u8; 3],
    /// From 0, nothing to see, to 255.
    pub opacity: u8,
}

impl Colour {
    /// Black.
    pub const BLACK: Colour = Colour::new(0, 0, 0);
    /// White.
    pub const WHITE: Colour = Colour::new(255, 255, 255);
    /// What text is written in.
    pub const TEXT: Colour = Colour::new(34, 34, 34);
    /// Lines and text that matter less.
    pub const FAINT: Colour = Colour::new(85, 85, 85);

    /// A colour that hides what is below.
    pub const fn new(red: u8, green: u8, blue: u8) -> Self {
        Self {
            rgb: [red, green, blue],
            opacity: 255,
        }
    }

    /// The same, letting through what is below; 1 hides it, 0 shows nothing.
    pub fn with_opacity(mut self, share: f64) -> Self {
        self.opacity = (share.clamp(0.0, 1.0) * 255.0).round() as u8;
        self
    }

    /// A mixture: 0 gives this colour, 1 the other.
    pub fn mixed(self, other: Colour, share: f64) -> Self {
        let mix =
            |a: u8, b: u8| (f64::from(a) + (f64::from(b) - f64::from(a)) * share).round() as u8;
        let [a, b] = [self.rgb, other.rgb];
        Self {
            rgb: [mix(a[0], b[0]), mix(a[1], b[1]), mix(a[2], b[2])],
            opacity: mix(self.opacity, other.opacity),
        }
    }
}

/// Eight colours that are told apart whatever the kind of colour blindness: Okabe and Ito, *Color
/// Universal Design*, 2008 (<https://jfly.uni-koeln.de/color/>). Orange, sky blue, green, yellow,
/// blue, vermilion, purple, black.
pub const OKABE_ITO: [Colour; 8] = [
    Colour::new(0xe6, 0x9f, 0x00),
    Colour::new(0x56, 0xb4, 0xe9),
    Colour::new(0x00, 0x9e, 0x73),
    Colour::new(0xf0, 0xe4, 0x42),
    Colour::new(0x00, 0x72, 0xb2),
    Colour::new(0xd5, 0x5e, 0x00),
    Colour::new(0xcc, 0x79, 0xa7),
    Colour::BLACK,
];

/// Eleven points of Matplotlib's scale of that name (van der Walt and Smith, 2015).
const VIRIDIS: [[u8; 3]; 11] = [
    [0x44, 0x01, 0x54],
    [0x48, 0x24, 0x75],
    [0x41, 0x44, 0x87],
    [0x35, 0x5f, 0x8d],
    [0x2a, 0x78, 0x8e],
    [0x21, 0x91, 0x8c],
    [0x22, 0xa8, 0x84],
    [0x44, 0xbf, 0x70],
    [0x7a, 0xd1, 0x51],
    [0xbd, 0xdf, 0x26],
    [0xfd, 0xe7, 0x25],
];

/// Numbers from 0, dark, to 1, light.
pub fn viridis(value: f64) -> Colour {
    let colours = VIRIDIS.map(|[r, g, b]| Colour::new(r, g, b));
    let place = value.clamp(0.0, 1.0) * (colours.len() - 1) as f64;
    let below = (place as usize).min(colours.len() - 2);
    colours[below].mixed(colours[below + 1], place - below as f64)
}

/// Numbers from -1, blue, over 0, white, to 1, vermilion.
pub fn diverging(value: f64) -> Colour {
    let end = if value < 0.0 {
        OKABE_ITO[4]
    } else {
        OKABE_ITO[5]
    };
    Colour::WHITE.mixed(end, value.abs().min(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_reach_their_ends() {
        assert_eq!(viridis(-1.0), Colour::new(0x44, 0x01, 0x54));
        assert_eq!(viridis(0.5), Colour::new(0x21, 0x91, 0x8c));
        assert_eq!(viridis(2.0), Colour::new(0xfd, 0xe7, 0x25));
        assert_eq!(diverging(0.0), Colour::WHITE);
        assert_eq!(diverging(-3.0), OKABE_ITO[4]);
        assert_eq!(diverging(1.0), OKABE_ITO[5]);
    }
}
