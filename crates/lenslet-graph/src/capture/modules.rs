//! Which module an operation belongs to.

use std::collections::{HashMap, HashSet};

use burn::tensor::TensorId;
use burn_ir::OperationIr;

use super::record::Recording;

/// The path of the module of every operation.
pub(super) fn attribute(recording: &Recording) -> Vec<String> {
    let holders = holders(recording);
    if recording.marks.is_empty() {
        return between(holders);
    }
    let mut running: Vec<&str> = Vec::new();
    let operations = recording.operations.iter().zip(holders);
    let attributed = operations.map(|(operation, holder)| {
        let mark = operation
            .outputs()
            .find_map(|out| recording.marks.get(&out.id));
        match mark {
            Some(Some(name)) => running.push(name),
            Some(None) => {
                running.pop();
            }
            None => {}
        }
        let scope = running.join(".");
        // A child that is not run through a tap of its own is known by its weights.
        match holder {
            Some(holder) if is_inside(&holder, &scope) => holder,
            _ => scope,
        }
    });
    attributed.collect()
}

/// The module that holds the weights which an operation reads, directly or through operations on
/// nothing but weights.
fn holders(recording: &Recording) -> Vec<Option<String>> {
    let mut fixed: HashSet<TensorId> = HashSet::new();
    let mut holder_of: HashMap<TensorId, String> = HashMap::new();
    let holder = |operation: &OperationIr| {
        let inputs: Vec<_> = operation.inputs().collect();
        let mut out = operation.outputs();
        if inputs.is_empty() {
            let constant = out.next().filter(|out| !recording.is_input(out.id));
            let id = constant?.id;
            fixed.insert(id);
            let name = recording.names.get(&id)?;
            let path = name.rsplit_once('.').map_or("", |(path, _)| path);
            holder_of.insert(id, path.to_string());
            return None;
        }
        let weights = inputs.iter().filter(|input| fixed.contains(&input.id));
        let holders = weights.filter_map(|weight| holder_of.get(&weight.id));
        let holder = holders.cloned().reduce(|a, b| common(&a, &b));
        if inputs.iter().all(|input| fixed.contains(&input.id)) {
            for out in out {
                fixed.insert(out.id);
                if let Some(holder) = &holder {
                    holder_of.insert(out.id, holder.clone());
                }
            }
        }
        holder
    };
    recording.operations.iter().map(holder).collect()
}

/// Fills the gaps: the innermost module that holds both the neighbours.
fn between(holders: Vec<Option<String>>) -> Vec<String> {
    let mut after = vec![None; holders.len()];
    let mut next: Option<&String> = None;
    for (i, holder) in holders.iter().enumerate().rev() {
        next = holder.as_ref().or(next);
        after[i] = next;
    }
    let mut before: Option<&String> = None;
    let filled = holders.iter().zip(after).map(|(holder, after)| {
        before = holder.as_ref().or(before);
        match (before, after) {
            (Some(before), Some(after)) => common(before, after),
            _ => String::new(),
        }
    });
    filled.collect()
}

/// Whether `path` is `module` or inside it.
fn is_inside(path: &str, module: &str) -> bool {
    let rest = path.strip_prefix(module);
    module.is_empty() || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// The innermost module that both are in.
fn common(a: &str, b: &str) -> String {
    let parts = a.split('.').zip(b.split('.'));
    let shared = parts.take_while(|(a, b)| a == b).map(|(a, _)| a);
    shared.collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_belong_to_the_module_around_them() {
        let path = |path: &str| Some(path.to_string());
        let holders = vec![
            None,
            path("layer1.0.conv1"),
            None,
            path("layer1.0.conv2"),
            None,
            path("layer1.1.conv1"),
            None,
        ];
        let filled = between(holders);
        let expected = ["", "layer1.0.conv1", "layer1.0", "layer1.0.conv2", "layer1"];
        assert_eq!(filled[..5], expected);
        assert_eq!(filled[5..], ["layer1.1.conv1", ""]);
    }

    #[test]
    fn a_name_that_begins_alike_is_not_inside() {
        assert!(is_inside("layer1.0", "layer1"));
        assert!(is_inside("layer1", ""));
        assert!(!is_inside("layer10.0", "layer1"));
    }
}
