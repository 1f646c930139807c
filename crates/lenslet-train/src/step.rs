//! One training step.

use burn::tensor::{Int, Tensor};
use lenslet_models::{ImageModel, Model};

use crate::{Optimizer, cross_entropy};

/// How a step is taken.
pub struct Recipe<'a> {
    /// Share of the target spread over all classes.
    pub label_smoothing: f64,
    /// Largest norm of all gradients together.
    pub max_norm: Option<f64>,
    /// Learning rate of a parameter by its name.
    pub lr: &'a dyn Fn(&str) -> f64,
}

/// What a step gives.
pub struct Stepped {
    /// The model after the step; where loss or norm is not finite, as it was.
    pub model: Model,
    /// Mean loss before the step.
    pub loss: f64,
    /// Norm of all gradients before clipping; NaN where the loss is not finite.
    pub norm: f64,
    /// `[N * classes]`, before the step.
    pub logits: Vec<f32>,
}

/// Forward, loss, backward, clipping, optimiser.
///
/// `x` is `[N, C, H, W]`, `y` the classes `[N]`.
pub fn train_step(
    model: Model,
    optimizer: &mut Optimizer,
    x: Tensor<4>,
    y: Tensor<1, Int>,
    recipe: &Recipe<'_>,
) -> Stepped {
    let output = model.forward(x);
    let logits = output.to_data().iter::<f32>().collect();
    let loss = cross_entropy(output, y, recipe.label_smoothing);
    let value = f64::from(loss.clone().into_scalar::<f32>());
    let (model, norm) = if value.is_finite() {
        // Nothing but the model holds its parameters any more when they are changed.
        let gradients = loss.backward();
        optimizer.step(model, gradients, recipe.max_norm, recipe.lr)
    } else {
        (model, f64::NAN)
    };
    Stepped {
        model,
        loss: value,
        norm,
        logits,
    }
}
