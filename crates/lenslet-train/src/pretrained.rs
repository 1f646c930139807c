//! Weights to start from.

use std::path::Path;

use lenslet_data::Preprocess;
use lenslet_models::{Auxiliary, BuildOptions, Classes, LoadOptions, Model, Task};
use lenslet_nn::Init;
use lenslet_weights::Weights;

use crate::config::at_size;
use crate::model_file::description;
use crate::{TrainConfig, TrainError};

/// Weights to start from, and what is known of them.
#[derive(Debug, Clone)]
pub struct Pretrained {
    origin: String,
    weights: Weights,
    architecture: Option<String>,
    preprocess: Option<Preprocess>,
    build: Option<BuildOptions>,
}

/// A model with its first values.
pub(crate) struct Start {
    pub model: Model,
    pub build: BuildOptions,
    pub preprocess: Preprocess,
}

impl Pretrained {
    /// The tensors of a weight file. If it is a Lenslet model file, what it says about itself is
    /// used. `origin` is what a person would call it.
    ///
    /// # Errors
    /// When it is a Lenslet model file with a damaged description, or of a newer version.
    pub fn new(origin: impl Into<String>, weights: Weights) -> Result<Self, TrainError> {
        let origin = origin.into();
        let info = description(&weights.metadata, Path::new(&origin))?;
        let mut found = Self {
            origin,
            weights,
            architecture: None,
            preprocess: None,
            build: None,
        };
        if let Some(info) = info {
            info.preprocess.validate()?;
            found.architecture = Some(info.architecture);
            found.preprocess = Some(info.preprocess);
            found.build = info.options;
        }
        Ok(found)
    }

    /// With what was done to the pictures that the weights come from.
    pub fn with_preprocess(mut self, preprocess: Preprocess) -> Self {
        self.preprocess = Some(preprocess);
        self
    }

    /// What a person would call them.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The variant they are for, if they say so.
    pub fn architecture(&self) -> Option<&str> {
        self.architecture.as_deref()
    }

    /// The model of `config` with these weights and a new classifier for `classes` classes.
    pub(crate) fn load(
        self,
        config: &TrainConfig,
        classes: usize,
        anchors: Vec<Vec<[f32; 2]>>,
        init: &mut Init,
    ) -> Result<Start, TrainError> {
        let variant = config.variant()?;
        let mut build = config.build_options(classes).with_anchors(anchors);
        if let Some(stored) = self.build {
            build = build
                .with_tensorflow(stored.tensorflow)
                .with_transform_input(stored.transform_input);
        }
        let auxiliary = match config.auxiliary() {
            true => Auxiliary::AsStored,
            false => Auxiliary::Without,
        };
        let options = LoadOptions {
            classes: Classes::New(classes),
            auxiliary,
            build,
        };
        let loaded = variant.load(self.weights, &options, init);
        let loaded = loaded.map_err(|source| TrainError::Pretrained {
            origin: self.origin.clone(),
            source: Box::new(source),
        })?;
        let laid_out = loaded.build.image_size;
        if let (Some(laid_out), Some(size)) = (laid_out, config.input_size)
            && laid_out != size
        {
            return Err(TrainError::Setting {
                setting: "--input-size",
                found: format!(
                    "{size}, and the position embeddings of {} are for {laid_out}",
                    self.origin
                ),
                expected: "it must be the size that the weights are for; leave it out",
            });
        }
        let usual = match (config.task, self.preprocess) {
            (Task::Classification, stored) => stored.unwrap_or(variant.preprocess),
            // The weights' colours in the task's geometry.
            (_, stored) => {
                let own = config.preprocess()?;
                let stored = stored.filter(|s| s.channels == own.channels).unwrap_or(own);
                Preprocess {
                    mean: stored.mean,
                    std: stored.std,
                    interpolation: stored.interpolation,
                    ..own
                }
            }
        };
        Ok(Start {
            model: loaded.model,
            preprocess: match config.input_size.or(laid_out) {
                Some(size) => at_size(usual, size),
                None => usual,
            },
            build: loaded.build,
        })
    }
}
