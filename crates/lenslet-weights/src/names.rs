//! What training programs put around a model's own names.

use crate::Tensor;

/// Batch norm's counter of batches: it has no use outside of training with PyTorch's cumulative
/// average.
const COUNTER: &str = "num_batches_tracked";

/// Prefixes of wrappers: `DataParallel`, `torch.compile`, a module that holds the model.
const PREFIXES: [&str; 3] = ["module.", "_orig_mod.", "model."];

/// Takes away what is not the model's: counters, and prefixes that every name has.
pub(crate) fn clean(tensors: &mut Vec<Tensor>) {
    tensors.retain(|t| t.name.rsplit('.').next() != Some(COUNTER));
    while let Some(prefix) = shared_prefix(tensors) {
        for tensor in tensors.iter_mut() {
            tensor.name.drain(..prefix.len());
        }
    }
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
}

fn shared_prefix(tensors: &[Tensor]) -> Option<&'static str> {
    let all = |prefix: &&str| tensors.iter().all(|t| t.name.starts_with(prefix));
    PREFIXES
        .into_iter()
        .find(all)
        .filter(|_| !tensors.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Values;

    fn names(given: &[&str]) -> Vec<String> {
        let mut tensors: Vec<Tensor> = given
            .iter()
            .map(|name| Tensor {
                name: name.to_string(),
                shape: vec![1],
                values: Values::F32(vec![0.0]),
            })
            .collect();
        clean(&mut tensors);
        tensors.into_iter().map(|t| t.name).collect()
    }

    #[test]
    fn wrappers_go_when_they_are_around_everything() {
        assert_eq!(
            names(&["module.model.fc.weight", "module.model.bn.weight"]),
            ["bn.weight", "fc.weight"]
        );
        assert_eq!(
            names(&["module.fc.weight", "fc.bias"]),
            ["fc.bias", "module.fc.weight"]
        );
        assert_eq!(names(&["module."]), [""]);
        assert!(names(&[]).is_empty());
    }

    #[test]
    fn counters_go() {
        assert_eq!(
            names(&["bn.num_batches_tracked", "bn.running_mean"]),
            ["bn.running_mean"]
        );
    }
}
