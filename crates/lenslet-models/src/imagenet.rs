//! The classes that weights trained on ImageNet tell apart.

/// The 1000 classes of ImageNet's challenge in the order of the logits, under torchvision's names.
pub fn imagenet_classes() -> Vec<String> {
    include_str!("imagenet.txt")
        .lines()
        .map(String::from)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_stand_at_their_places() {
        let classes = imagenet_classes();
        assert_eq!(classes.len(), 1000);
        for (place, name) in [
            (0, "tench"),
            (281, "tabby"),
            (967, "espresso"),
            (999, "toilet tissue"),
        ] {
            assert_eq!(classes[place], name);
        }
    }
}
