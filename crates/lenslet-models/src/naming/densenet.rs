//! DenseNet.

use super::{Naming, each};

/// Names of the files that torchvision publishes: `norm.1` where the model says `norm1`, from the
/// time when PyTorch allowed dots in names.
pub(crate) const DENSENET: &[Naming] = &[Naming::new("torchvision, first version", |names| {
    each(names, |parts| match parts {
        [
            "features",
            block,
            layer,
            unit @ ("norm1" | "conv1" | "norm2" | "conv2"),
            rest,
        ] => {
            let (kind, number) = unit.split_at(4);
            Some(format!("features.{block}.{layer}.{kind}.{number}.{rest}"))
        }
        _ => Some(parts.join(".")),
    })
})];
