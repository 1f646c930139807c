//! The registry's models in the compiled engine.

use burn::tensor::Tensor;
use lenslet_engine::{Engine, EngineError, Options, Session};
use lenslet_graph::Outputs;
use lenslet_models::{ImageModel, Model, Output};

/// What a model was made for, as a graph's output: the forward pass to capture.
pub fn outputs(model: &Model, x: Tensor<4>) -> Outputs {
    match model.output(x) {
        Output::Logits(y) => y.into(),
        Output::Map(y) | Output::Grid(y) => y.into(),
    }
}

/// Compiles a model for images of shape `[N, C, H, W]`.
///
/// # Errors
/// When the model cannot take images of that size.
pub fn compile(
    model: &Model,
    shape: [usize; 4],
    options: &Options,
) -> Result<Session, EngineError> {
    Engine::compile(model, shape, options, outputs)
}
