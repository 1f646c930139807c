//! The names that others give to the tensors of these models.
//!
//! A model's own names are torchvision's. What another library calls a tensor is a table beside
//! them, one file a family; a weight file is read under the naming that fits most of its tensors.

mod convnext;
mod densenet;
mod efficientnet;
mod vit;

use std::collections::HashMap;

pub(crate) use convnext::CONVNEXT;
pub(crate) use densenet::DENSENET;
pub(crate) use efficientnet::{EFFICIENTNET, EFFICIENTNET_LITE};
pub(crate) use vit::{GUIDE_VIT, VIT};

/// How a library or a former version calls the tensors of a family.
#[derive(Debug, Clone, Copy)]
pub struct Naming {
    /// Whose names they are.
    pub name: &'static str,
    /// Whether weights under these names come from TensorFlow: convolutions padded as `SAME`, batch
    /// norms with its `eps`.
    pub tensorflow: bool,
    /// What each of a model's tensors, all of them given, is called there; `None` where it has no
    /// counterpart.
    pub(crate) theirs: fn(&[String]) -> Vec<Option<String>>,
}

/// The models' own names.
pub(crate) const OWN: Naming = Naming {
    name: "torchvision",
    tensorflow: false,
    theirs: |names| names.iter().cloned().map(Some).collect(),
};

impl Naming {
    pub(crate) const fn new(
        name: &'static str,
        theirs: fn(&[String]) -> Vec<Option<String>>,
    ) -> Self {
        Self {
            name,
            tensorflow: false,
            theirs,
        }
    }

    /// Their names to ours, for a model with the tensors `ours`.
    pub(crate) fn map(&self, ours: &[String]) -> HashMap<String, String> {
        let theirs = (self.theirs)(ours);
        let pairs = theirs.into_iter().zip(ours);
        pairs
            .filter_map(|(theirs, ours)| Some((theirs?, ours.clone())))
            .collect()
    }
}

/// The naming, of the models' own and `others`, that knows most of a file's tensors, with its map.
pub(crate) fn best<'a>(
    others: &'static [Naming],
    ours: &[String],
    file: impl Iterator<Item = &'a str> + Clone,
) -> (&'static Naming, HashMap<String, String>) {
    let known =
        |map: &HashMap<String, String>| file.clone().filter(|n| map.contains_key(*n)).count();
    let mut best = (&OWN, OWN.map(ours));
    for naming in others {
        let map = naming.map(ours);
        if known(&map) > known(&best.1) {
            best = (naming, map);
        }
    }
    best
}

/// Applies a rule on a name's parts to every name.
fn each(names: &[String], rule: impl Fn(&[&str]) -> Option<String>) -> Vec<Option<String>> {
    names
        .iter()
        .map(|name| rule(&name.split('.').collect::<Vec<_>>()))
        .collect()
}
