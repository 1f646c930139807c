//! The registry's models on batches of pictures: in the compiled engine, or layer by layer.

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use lenslet_engine::{Engine, EngineError, Options, Session};
use lenslet_graph::{Graph, Outputs};
use lenslet_models::{ImageModel, Model, Output};
use serde::{Deserialize, Serialize};

use crate::TrainError;

/// What runs a model that does not train.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum EngineKind {
    /// Compiled for the CPU
    #[default]
    Compiled,
    /// Layer by layer
    Eager,
}

/// What a model was made for, as a graph's output: the forward pass to capture.
pub fn outputs(model: &Model, x: Tensor<4>) -> Outputs {
    match model.output(x.clone()) {
        Output::Logits(y) => y.into(),
        Output::Map(y) | Output::Grid(y) => y.into(),
        // One row an image, scale after scale.
        Output::Anchors(_) => model.forward(x).into(),
    }
}

/// Compiles a model for images of shape `[N, C, H, W]`. The model ends here, so that the memory of each weight goes back when it is
/// packed.
///
/// # Errors
/// When the model cannot take images of that size.
pub fn compile(model: Model, shape: [usize; 4], options: &Options) -> Result<Session, EngineError> {
    compile_with(model, shape, options, outputs)
}

/// As [`compile`], for what `forward` gives.
fn compile_with<O: Into<Outputs>>(
    model: Model,
    shape: [usize; 4],
    options: &Options,
    forward: impl FnOnce(&Model, Tensor<4>) -> O,
) -> Result<Session, EngineError> {
    let graph = Graph::capture_result(&model, shape, forward)?;
    drop(model);
    Engine::compile_graph(graph, options)
}

/// The size of batches into which `samples` are divided evenly, so that none is more than
/// `at_most` and the last one is nearly full: a compiled model takes as long for a batch that is
/// not full.
pub fn even_batch(samples: usize, at_most: usize) -> usize {
    let batches = samples.div_ceil(at_most.max(1)).max(1);
    samples.div_ceil(batches).max(1)
}

/// From pictures to a vector for each.
type Forward = fn(&Model, Tensor<4>) -> Tensor<2>;

/// A model in evaluation mode that takes batches of pictures.
pub struct Runner(Kind);

enum Kind {
    Compiled(Box<Session>),
    Eager {
        model: Box<Model>,
        device: Device,
        forward: Forward,
    },
}

impl Runner {
    /// Gives `model`'s logits. `input` is `[N, C, H, W]`; `N` pictures are computed together where
    /// the model is compiled, and any number can be given. Where nobody else holds the model, the memory
    /// of each weight goes back when it is packed.
    ///
    /// # Errors
    /// [`TrainError::Engine`] when the model cannot be compiled.
    pub fn logits(
        engine: EngineKind,
        model: Model,
        input: [usize; 4],
        device: &Device,
    ) -> Result<Self, TrainError> {
        Self::new(engine, model, input, device, Model::forward)
    }

    /// As [`Runner::logits`], but gives what goes into the last layer, `[N, features]`.
    ///
    /// # Errors
    /// [`TrainError::Engine`] when the model cannot be compiled.
    pub fn features(
        engine: EngineKind,
        model: Model,
        input: [usize; 4],
        device: &Device,
    ) -> Result<Self, TrainError> {
        Self::new(engine, model, input, device, Model::embed)
    }

    fn new(
        engine: EngineKind,
        model: Model,
        input: [usize; 4],
        device: &Device,
        forward: Forward,
    ) -> Result<Self, TrainError> {
        Ok(Self(match engine {
            EngineKind::Compiled => {
                let session = compile_with(model, input, &Options::default(), forward)?;
                Kind::Compiled(Box::new(session))
            }
            EngineKind::Eager => Kind::Eager {
                model: Box::new(model.valid()),
                device: device.clone().without_autodiff(),
                forward,
            },
        }))
    }

    /// One vector for each of the pictures `[N, C, H, W]`, one after the other.
    ///
    /// # Errors
    /// [`TrainError::Engine`] when the pictures are not of the size that the model was compiled for.
    pub fn run(&self, images: Vec<f32>, shape: [usize; 4]) -> Result<Vec<f32>, TrainError> {
        match &self.0 {
            Kind::Compiled(session) => Ok(session.run(&images)?),
            Kind::Eager {
                model,
                device,
                forward,
            } => {
                let x = Tensor::<4>::from_data(TensorData::new(images, shape), device);
                let y = forward(model, x).into_data();
                Ok(y.iter::<f32>().collect())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_even() {
        assert_eq!(even_batch(17, 16), 9);
        assert_eq!(even_batch(16, 16), 16);
        assert_eq!(even_batch(3, 16), 3);
        assert_eq!(even_batch(0, 16), 1);
        for samples in 1..200 {
            let batch = even_batch(samples, 16);
            assert!(batch <= 16 && batch * samples.div_ceil(batch) < samples + batch);
            assert_eq!(samples.div_ceil(batch), samples.div_ceil(16));
        }
    }
}
