//! What the tests of this crate share.
#![allow(dead_code)] // Every test file takes a part of it.

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use lenslet_engine::{Engine, Options, Session};
use lenslet_graph::Outputs;
use lenslet_models::{BuildOptions, ImageModel, Model, Output, Variant};
use lenslet_nn::{Init, StateDict, load_state_dict, state_dict};

/// A variant with generated numbers, running statistics included.
pub fn filled(variant: &Variant, options: &BuildOptions, gain: f64) -> Model {
    fill(
        variant.build_with(options, &mut Init::empty(&Device::flex())),
        gain,
    )
}

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

pub fn compiled(model: &Model, shape: [usize; 4], options: &Options) -> Session {
    Engine::compile(model, shape, options, outputs).expect("models of the registry compile")
}
