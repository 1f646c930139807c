//! Weights to start from.

use std::collections::HashMap;

use lenslet_models::Model;
use lenslet_nn::{LoadError, StateDict, load_state_dict, state_dict};

/// A model's weights under PyTorch's names, and where they come from.
#[derive(Debug, Clone)]
pub struct Pretrained {
    /// What a person would call them.
    pub origin: String,
    /// The tensors; those of a classifier for other classes are not used.
    pub tensors: StateDict,
}

/// First modules of auxiliary classifiers.
const AUXILIARY: [&str; 3] = ["aux1.", "aux2.", "AuxLogits."];

/// Puts a backbone's weights into `model`. Its last layer, called `classifier`, and its auxiliary
/// classifiers keep the values they have: they tell other classes apart.
///
/// # Errors
/// When a tensor of the backbone is missing, unexpected or of another shape.
pub(crate) fn load_backbone(
    model: Model,
    weights: StateDict,
    classifier: &str,
) -> Result<Model, LoadError> {
    let own: HashMap<String, _> = state_dict(&model).into_iter().collect();
    let is_own = |name: &str| {
        let last = name
            .strip_prefix(classifier)
            .is_some_and(|rest| rest.starts_with('.'));
        last || AUXILIARY.iter().any(|module| name.starts_with(module))
    };
    let backbone = weights.into_iter().filter(|(name, _)| !is_own(name));
    let mut tensors: StateDict = backbone.collect();
    tensors.extend(own.into_iter().filter(|(name, _)| is_own(name)));
    load_state_dict(model, tensors)
}
