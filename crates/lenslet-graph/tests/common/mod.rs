//! What the tests of this crate share.

use burn::module::Module;
use burn::tensor::{Tensor, TensorData};
use lenslet_graph::{Graph, Outputs};
use lenslet_models::{ImageModel, Model, Output};
use lenslet_nn::{StateDict, load_state_dict, state_dict};

/// Fills a model with generated numbers, running statistics included, by its tensors' names.
pub fn fill<M: Module>(model: M, gain: f64) -> M {
    let generated: StateDict = state_dict(&model)
        .into_iter()
        .map(|(name, data)| {
            let shape = data.shape().to_vec();
            let computed = name.ends_with("relative_position_index");
            let values = if computed || name.ends_with("num_batches_tracked") {
                data
            } else {
                TensorData::new(lenslet_reference::tensor(&name, &shape, gain), shape)
            };
            (name, values)
        })
        .collect();
    load_state_dict(model, generated).expect("a model takes its own tensors")
}

/// A model's output as a graph's.
pub fn outputs(model: &Model, x: Tensor<4>) -> Outputs {
    match model.output(x) {
        Output::Logits(y) => y.into(),
        Output::Map(y) | Output::Grid(y) => y.into(),
        Output::Anchors(_) => unreachable!("no variant of the registry has anchors"),
    }
}

/// The graph of a model of the registry.
pub fn captured(model: &Model, input: [usize; 4]) -> Graph {
    Graph::capture(model, input, outputs).expect("models of the registry can be captured")
}
