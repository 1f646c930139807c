//! One training step.

use burn::tensor::{Device, Tensor, TensorData};
use lenslet_models::{ImageModel, Model, Output};
use lenslet_nn::{known_loss, to_nhwc};

use crate::detect::{LossValue, Raw, numbers};
use crate::segment::pixel_loss;
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
    /// `[N * classes]`; empty for masks and boxes.
    pub logits: Vec<f32>,
    /// Share of pixels that were right, for masks.
    pub right: Option<f64>,
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
        Input::Pictures(values, shape) if !target.is_classes() => {
            let x = Tensor::<4>::from_data(TensorData::new(values, shape), device);
            return backward_of(model, model.output(x), target, criterion);
        }
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
        right: None,
    }
}

/// Loss and backward pass for masks and boxes, whose losses come with their gradients.
fn backward_of(model: &Model, output: Output, target: &Target, criterion: &Criterion) -> Backward {
    let device = output.device();
    let none = || Tensor::<1>::zeros([1], &device);
    let (loss, right, known) = match (target, output) {
        (Target::Masks(labels, kind), Output::Map(map)) => {
            let map = to_nhwc(map);
            let classes = map.dims()[3];
            let logits = numbers(&map);
            let weights = criterion.class_weights.as_deref();
            let value = pixel_loss(*kind, &logits, labels, classes, weights);
            let right = value.right as f64 / value.pixels.max(1) as f64;
            let loss = known_loss(map, value.loss as f32, value.gradient);
            (value.loss, Some(right), loss)
        }
        (Target::Boxes(boxes, spec), output) => match Raw::of(&output) {
            Ok(raw) => {
                let LossValue { loss, gradients } = raw.loss(spec, boxes);
                let mut gradients = gradients.into_iter();
                let mut next = || gradients.next().unwrap_or_default();
                let known = match output {
                    // Together they have the derivatives; the first has the value.
                    Output::Anchors(scales) => (scales.into_iter().enumerate())
                        .map(|(i, scale)| {
                            let value = if i == 0 { loss as f32 } else { 0.0 };
                            known_loss(scale, value, next())
                        })
                        .reduce(|a, b| a + b),
                    Output::Grid(grid) => Some(known_loss(grid, loss as f32, next())),
                    _ => None,
                };
                (loss, None, known.unwrap_or_else(none))
            }
            Err(_) => (f64::NAN, None, none()),
        },
        // Trainers and users check a model's task before they train it.
        _ => (f64::NAN, None, none()),
    };
    let gradients = loss
        .is_finite()
        .then(|| NamedGradients::of(model, known.backward()));
    Backward {
        loss,
        gradients,
        logits: Vec::new(),
        right,
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
