//! The variants by name, with all that their weights need as data.

use lenslet_nn::Init;

use crate::{LeNet5Config, Model};

/// One named model.
#[derive(Debug)]
pub struct Variant {
    /// The name users type, torchvision's where it has one.
    pub name: &'static str,
    /// The family it belongs to.
    pub family: &'static str,
    /// Year of the paper.
    pub year: u16,
    /// Where it was published.
    pub paper: &'static str,
    /// Channels, height and width of the input it was made for.
    pub input: [usize; 3],
    /// The last linear layer, by name: what a new set of classes replaces.
    pub classifier: &'static str,
    /// The first convolution, by name.
    pub first_conv: &'static str,
    build: fn(usize, &mut Init) -> Model,
}

impl Variant {
    /// Makes the model for `num_classes` classes.
    pub fn build(&self, num_classes: usize, init: &mut Init) -> Model {
        (self.build)(num_classes, init)
    }
}

static VARIANTS: &[Variant] = &[Variant {
    name: "lenet5",
    family: "LeNet",
    year: 1998,
    paper: "LeCun et al., Gradient-Based Learning Applied to Document Recognition",
    input: [1, 32, 32],
    classifier: "classifier.2",
    first_conv: "features.0",
    build: |classes, init| Model::LeNet5(LeNet5Config::new(classes).init(init)),
}];

/// Every variant there is.
pub fn variants() -> &'static [Variant] {
    VARIANTS
}

/// The variant of that name.
pub fn variant(name: &str) -> Option<&'static Variant> {
    VARIANTS.iter().find(|v| v.name == name)
}

/// Names of variants that a mistyped name may have meant, nearest first.
pub fn near_names(name: &str) -> Vec<&'static str> {
    let mut near: Vec<_> = VARIANTS
        .iter()
        .map(|v| (strsim::jaro_winkler(name, v.name), v.name))
        .filter(|(score, _)| *score > 0.75)
        .collect();
    near.sort_by(|a, b| b.0.total_cmp(&a.0));
    near.into_iter().take(3).map(|(_, name)| name).collect()
}
