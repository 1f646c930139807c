//! The registry's models in the compiled engine.

use lenslet_engine::{Engine, EngineError, Options, Session};
use lenslet_models::{ImageModel, Model, Output};

/// Compiles a model for images of shape `[N, C, H, W]`.
///
/// # Errors
/// When the model cannot take images of that size.
pub fn compile(
    model: &Model,
    shape: [usize; 4],
    options: &Options,
) -> Result<Session, EngineError> {
    Engine::compile(model, shape, options, |model, x| match model.output(x) {
        Output::Logits(y) => lenslet_graph::Outputs::from(y),
        Output::Map(y) | Output::Grid(y) => y.into(),
    })
}
