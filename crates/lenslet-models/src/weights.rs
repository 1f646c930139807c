//! Weights of a file into a model, and a model's weights out again.

use std::collections::HashMap;

use burn::tensor::TensorData;
use lenslet_nn::{
    HeadKind, Init, LoadError, StateDict, load_state_dict, state_dict, tensor_shapes,
};
use lenslet_weights::{Tensor, Values, Weights};

use crate::naming;
use crate::registry::Over;
use crate::{BuildOptions, Model, Variant};

/// How many classes the model gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Classes {
    /// As many as the weights tell apart.
    AsStored,
    /// This many; weights for another number are refused.
    Exactly(usize),
    /// This many, with a classifier that starts anew and leaves the stored one out.
    New(usize),
}

/// Whether the model gets the auxiliary classifiers of GoogLeNet and Inception.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Auxiliary {
    /// If they are stored.
    AsStored,
    /// Yes; weights without them are refused.
    With,
    /// No; stored ones are left out.
    Without,
}

/// What is loaded.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// The classes.
    pub classes: Classes,
    /// The auxiliary classifiers.
    pub auxiliary: Auxiliary,
    /// The rest of how the model is built. Its number of classes, its auxiliary classifiers and its
    /// image size follow from the weights. So does TensorFlow's padding where their names tell it;
    /// say it for timm's `tf_` weights, whose names do not.
    pub build: BuildOptions,
}

impl LoadOptions {
    /// A model just like the stored one.
    pub fn as_stored() -> Self {
        Self {
            classes: Classes::AsStored,
            auxiliary: Auxiliary::AsStored,
            build: BuildOptions::new(0),
        }
    }

    /// Another number of classes.
    pub fn with_classes(mut self, classes: Classes) -> Self {
        self.classes = classes;
        self
    }

    /// With or without auxiliary classifiers.
    pub fn with_auxiliary(mut self, auxiliary: Auxiliary) -> Self {
        self.auxiliary = auxiliary;
        self
    }
}

/// A model with its weights, and what was decided on the way.
#[derive(Debug)]
pub struct Loaded {
    /// The model.
    pub model: Model,
    /// How it was built.
    pub build: BuildOptions,
    /// Whose names the weights had.
    pub naming: &'static str,
    /// Stored tensors that were left out on request: classifiers.
    pub left_out: Vec<String>,
    /// Tensors of the model that keep their first values, on request: classifiers.
    pub new: Vec<String>,
}

/// Why weights were not loaded. No model was made.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ModelError {
    /// Tensors are missing, unexpected or of another shape.
    #[error("{variant}, with {naming}'s names: {source}")]
    Load {
        /// The variant that was to be filled.
        variant: &'static str,
        /// The naming that fits best.
        naming: &'static str,
        /// What does not fit.
        source: LoadError,
    },
    /// The weights tell another number of classes apart.
    #[error(
        "the weights are for {stored} classes, the model is to have {wanted}; give as many, or ask for a new classifier"
    )]
    Classes {
        /// The weights' classes.
        stored: usize,
        /// Classes asked for.
        wanted: usize,
    },
}

impl Variant {
    /// Makes the model and fills its backbone with `weights` for that.
    fn load_backbone(
        &self,
        over: &Over,
        weights: Weights,
        options: &LoadOptions,
        init: &mut Init,
    ) -> Result<Loaded, ModelError> {
        let alone = LoadOptions {
            classes: Classes::New(1),
            auxiliary: Auxiliary::Without,
            build: BuildOptions {
                head: HeadKind::Own,
                ..options.build.clone()
            },
        };
        let filled = over
            .backbone
            .load(weights, &alone, &mut Init::empty(init.device()))?;
        let num_classes = match options.classes {
            Classes::New(n) | Classes::Exactly(n) => n,
            Classes::AsStored => self.num_classes,
        };
        let build = BuildOptions {
            num_classes,
            image_size: filled.build.image_size,
            tensorflow: filled.build.tensorflow,
            aux_logits: false,
            ..options.build.clone()
        };
        let model = self.build_with(&build, init);
        let stored: HashMap<String, TensorData> = state_dict(&filled.model)
            .into_iter()
            .filter(|(name, _)| !is_in(name, over.backbone.classifier))
            .map(|(name, data)| (format!("{}.{name}", over.prefix), data))
            .collect();
        let mut new = Vec::new();
        let dict = state_dict(&model).into_iter().map(|(name, own)| {
            let data = stored.get(&name).cloned();
            if data.is_none() {
                new.push(name.clone());
            }
            (name, data.unwrap_or(own))
        });
        let dict: StateDict = dict.collect();
        let model = load_state_dict(model, dict).map_err(|source| ModelError::Load {
            variant: self.name,
            naming: filled.naming,
            source,
        })?;
        Ok(Loaded {
            model,
            build,
            naming: filled.naming,
            left_out: filled.left_out,
            new,
        })
    }

    /// Makes the model and fills it with `weights`, under whichever naming they have.
    ///
    /// All or nothing: every tensor must be there, and nothing else, but for what `options` say.
    /// First values of a new classifier are drawn from `init`; give [`Init::empty`] where there is
    /// none.
    ///
    /// # Errors
    /// When a tensor is missing, unexpected or of another shape, or the number of classes differs.
    pub fn load(
        &self,
        weights: Weights,
        options: &LoadOptions,
        init: &mut Init,
    ) -> Result<Loaded, ModelError> {
        if let Some(over) = &self.over {
            let own = format!("{}.", over.prefix);
            let whole = weights.tensors.iter().any(|t| t.name.starts_with(&own));
            if !whole {
                return self.load_backbone(over, weights, options, init);
            }
        }
        let whole = BuildOptions {
            num_classes: self.num_classes,
            head: HeadKind::Own,
            aux_logits: true,
            ..options.build.clone()
        };
        let shapes = tensor_shapes(&self.build_with(&whole, &mut Init::empty(init.device())));
        let ours: Vec<String> = shapes.iter().map(|(name, _)| name.clone()).collect();
        let file = weights.tensors.iter().map(|t| t.name.as_str());
        let (naming, map) = naming::best(self.naming, &ours, file);
        let mut tensors = HashMap::<String, Tensor>::new();
        for tensor in weights.tensors {
            let mut name = map.get(&tensor.name).unwrap_or(&tensor.name).clone();
            // A file that has a tensor under two namings must not lose one of them.
            while tensors.contains_key(&name) {
                name = format!("{} (stored twice)", tensor.name);
            }
            tensors.insert(name, tensor);
        }

        let stored = tensors
            .get(&format!("{}.weight", self.classifier))
            .and_then(|t| t.shape.first().copied());
        let num_classes = match (options.classes, stored) {
            (Classes::New(n), _) | (Classes::Exactly(n), None) => n,
            (Classes::AsStored, stored) => stored.unwrap_or(self.num_classes),
            (Classes::Exactly(wanted), Some(stored)) if stored != wanted => {
                return Err(ModelError::Classes { stored, wanted });
            }
            (Classes::Exactly(n), _) => n,
        };
        let in_auxiliary = |name: &str| {
            self.auxiliary
                .iter()
                .any(|a| is_in(name, a.split('.').next().unwrap_or(a)))
        };
        let aux_logits = match options.auxiliary {
            Auxiliary::AsStored => tensors.keys().any(|name| in_auxiliary(name)),
            Auxiliary::With => true,
            Auxiliary::Without => false,
        };
        let build = BuildOptions {
            num_classes,
            aux_logits,
            image_size: self
                .image_size(&shapes, &tensors)
                .or(options.build.image_size),
            tensorflow: naming.tensorflow || options.build.tensorflow,
            ..options.build.clone()
        };

        let model = self.build_with(&build, init);
        let (mut left_out, mut new) = (Vec::new(), Vec::new());
        if !aux_logits {
            tensors.retain(|name, _| {
                let keep = !in_auxiliary(name);
                if !keep {
                    left_out.push(name.clone());
                }
                keep
            });
        }
        let mut dict = StateDict::new();
        if let Classes::New(_) = options.classes {
            let counts_classes = |name: &str| {
                is_in(name, self.classifier) || self.auxiliary.iter().any(|a| is_in(name, a))
            };
            tensors.retain(|name, _| {
                let keep = !counts_classes(name);
                if !keep {
                    left_out.push(name.clone());
                }
                keep
            });
            dict.extend(
                state_dict(&model)
                    .into_iter()
                    .filter(|(n, _)| counts_classes(n)),
            );
            new.extend(dict.iter().map(|(name, _)| name.clone()));
        }
        let wanted: HashMap<String, Vec<usize>> = tensor_shapes(&model).into_iter().collect();
        dict.extend(tensors.into_iter().map(|(name, tensor)| {
            let shape = reshaped(&tensor.shape, wanted.get(&name));
            (name, to_data(tensor.values, shape))
        }));
        left_out.sort();
        let model = load_state_dict(model, dict).map_err(|source| ModelError::Load {
            variant: self.name,
            naming: naming.name,
            source,
        })?;
        Ok(Loaded {
            model,
            build,
            naming: naming.name,
            left_out,
            new,
        })
    }

    /// The image size that stored position embeddings were laid out for, where that is not the
    /// model's own.
    fn image_size(
        &self,
        shapes: &[(String, Vec<usize>)],
        stored: &HashMap<String, Tensor>,
    ) -> Option<usize> {
        let (name, own) = shapes.iter().find(|(n, _)| n.ends_with("pos_embedding"))?;
        let [_, tokens, _] = *stored.get(name)?.shape.as_slice() else {
            return None;
        };
        let (_, kernel) = shapes
            .iter()
            .find(|(n, _)| *n == format!("{}.weight", self.first_conv))?;
        let side = tokens.checked_sub(1)?.isqrt();
        (own[1] != tokens && side * side + 1 == tokens).then(|| side * kernel[2])
    }
}

/// A model's tensors under its own names, torchvision's: what PyTorch's
/// `load_state_dict(strict=True)` takes.
pub fn export(model: &Model) -> Vec<Tensor> {
    state_dict(model)
        .into_iter()
        .map(|(name, data)| {
            let shape = data.shape().to_vec();
            let values = match data.dtype().is_int() {
                true => Values::I64(data.iter::<i64>().collect()),
                false => Values::F32(data.iter::<f32>().collect()),
            };
            Tensor {
                name,
                shape,
                values,
            }
        })
        .collect()
}

fn to_data(values: Values, shape: Vec<usize>) -> TensorData {
    match values {
        Values::F32(v) => TensorData::new(v, shape),
        Values::I64(v) => TensorData::new(v, shape),
    }
}

/// Whether a tensor belongs to a module.
fn is_in(name: &str, module: &str) -> bool {
    name.strip_prefix(module)
        .is_some_and(|rest| rest.starts_with('.'))
}

/// The wanted shape where it differs by sides of length 1 only (a layer scale is `[C]` in one
/// library, `[C, 1, 1]` in another); else the stored one.
fn reshaped(stored: &[usize], wanted: Option<&Vec<usize>>) -> Vec<usize> {
    let sides =
        |shape: &[usize]| -> Vec<usize> { shape.iter().copied().filter(|&n| n != 1).collect() };
    match wanted {
        Some(wanted) if sides(wanted) == sides(stored) => wanted.clone(),
        _ => stored.to_vec(),
    }
}
