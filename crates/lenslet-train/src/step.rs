//! One training step.

use burn::tensor::{Device, Tensor, TensorData};
use lenslet_models::{ImageModel, Model};

use crate::{Criterion, NamedGradients, Optimizer, Target};

/// Weight of each auxiliary classifier's loss (Szegedy et al., 2014, section 5).
const AUXILIARY: f64 = 0.3;

/// What a batch goes in as.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// Pictures: `[N, C, H, W]` and its sizes.
    Pictures(Vec<f32>, [usize; 4]),
    /// What the backbone gave for them: `[N, features]` and its sizes.
    Features(Vec<f32>, [usize; 2]),
}

/// What a backward pass gives.
pub struct Backward {
    /// Mean loss.
    pub loss: f64,
    /// Gradients; `None` where the loss is not finite.
    pub gradients: Option<NamedGradients>,
    /// `[N * classes]`.
    pub logits: Vec<f32>,
}

/// Forward, loss (with those of auxiliary classifiers), backward.
pub fn backward(
    model: &Model,
    input: Input,
    target: &Target,
    criterion: &Criterion,
    device: &Device,
) -> Backward {
    let (output, auxiliary) = match input {
        Input::Pictures(values, shape) => {
            let x = Tensor::<4>::from_data(TensorData::new(values, shape), device);
            model.forward_aux(x)
        }
        Input::Features(values, shape) => {
            let x = Tensor::<2>::from_data(TensorData::new(values, shape), device);
            // Features are only made for models whose last layer takes them.
            (model.classify(x.clone()).unwrap_or(x), Vec::new())
        }
    };
    let logits = output.to_data().iter::<f32>().collect();
    let loss = auxiliary
        .into_iter()
        .fold(criterion.loss(output, target), |loss, logits| {
            loss + criterion.loss(logits, target) * AUXILIARY
        });
    let value = f64::from(loss.clone().into_scalar::<f32>());
    let gradients = value
        .is_finite()
        .then(|| NamedGradients::of(model, loss.backward()));
    Backward {
        loss: value,
        gradients,
        logits,
    }
}

/// How a step is taken.
pub struct Recipe<'a> {
    /// What is made small.
    pub criterion: &'a Criterion,
    /// Largest norm of all gradients together.
    pub max_norm: Option<f64>,
    /// Learning rate of a parameter by its name.
    pub lr: &'a dyn Fn(&str) -> f64,
}

/// [`backward`] and the optimiser's step. Gives the model after it, or as it was where the loss is
/// not finite.
pub fn train_step(
    model: Model,
    optimizer: &mut Optimizer,
    input: Input,
    target: &Target,
    recipe: &Recipe<'_>,
    device: &Device,
) -> Model {
    match backward(&model, input, target, recipe.criterion, device).gradients {
        // Nothing but the model holds its parameters any more when they are changed.
        Some(gradients) => {
            optimizer
                .step(model, gradients, recipe.max_norm, recipe.lr)
                .0
        }
        None => model,
    }
}
