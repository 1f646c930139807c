//! A short text that tells whether data are the same as before.

use crate::split::Content;

/// Takes in bytes in order and gives a text that differs when they do (not against an adversary).
#[derive(Clone, Debug, Default)]
pub struct Fingerprint {
    state: [u64; 3],
}

impl Fingerprint {
    /// Takes in one item. Items are told apart: "ab", "c" is not "a", "bc".
    pub fn add(&mut self, bytes: &[u8]) {
        let item = Content::of(bytes).words();
        let words = [self.state, item].concat();
        let joined: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        self.state = Content::of(&joined).words();
    }

    /// The text, 32 digits.
    pub fn text(&self) -> String {
        format!("{:016x}{:016x}", self.state[0], self.state[1])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_borders_matter() {
        let text = |items: &[&str]| {
            let mut print = Fingerprint::default();
            items.iter().for_each(|item| print.add(item.as_bytes()));
            print.text()
        };
        assert_eq!(text(&["ab", "c"]), text(&["ab", "c"]));
        assert_eq!(text(&["ab", "c"]).len(), 32);
        for other in [&["a", "bc"][..], &["c", "ab"], &["ab"], &["ab", "c", ""]] {
            assert_ne!(text(&["ab", "c"]), text(other), "{other:?}");
        }
    }
}
