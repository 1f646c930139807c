//! What a new and a resumed run share.

use std::sync::Arc;

use burn::tensor::Device;
use lenslet_data::{
    Augment, Dataset, Loader, LoaderConfig, OnUnreadable, Preprocess, class_counts,
};
use lenslet_models::Variant;
use lenslet_nn::HeadKind;

use super::Trainer;
use crate::loss::balanced_weights;
use crate::run::{Checkpoint, RunConfig, RunDir};
use crate::source::Split;
use crate::{Criterion, Parts, TrainError, even_batch};

/// Data and model description.
pub(super) struct Prepared {
    pub variant: &'static Variant,
    pub preprocess: Preprocess,
    pub classes: Vec<String>,
    criterion: Criterion,
    train: Loader,
    val: Loader,
}

impl Prepared {
    pub fn new(config: &RunConfig, split: Split) -> Result<Self, TrainError> {
        let train = &config.train;
        let variant = train.variant()?;
        if train.head == HeadKind::Mlp && variant.family == "SqueezeNet" {
            return Err(TrainError::Setting {
                setting: "--head",
                found: format!("mlp for {}", variant.name),
                expected: "this model's last layer is a convolution, leave it out",
            });
        }
        let preprocess = match config.preprocess {
            Some(preprocess) => preprocess,
            None => train.preprocess()?,
        };
        let loader = |dataset: Arc<dyn Dataset>, augment: Option<Augment>, shuffle: bool| {
            let settings = LoaderConfig {
                batch_size: if shuffle {
                    train.batch_size
                } else {
                    even_batch(dataset.len(), train.batch_size)
                },
                shuffle,
                seed: train.seed,
                ..loading(config)
            };
            Loader::new(dataset, preprocess, augment, settings)
        };
        let counts = class_counts(split.train.as_ref());
        Ok(Self {
            variant,
            classes: split.train.class_names().to_vec(),
            criterion: Criterion {
                label_smoothing: train.label_smoothing,
                class_weights: train.class_weights.then(|| balanced_weights(&counts)),
            },
            train: loader(split.train, train.augmentation()?, true)?,
            val: loader(split.val, None, false)?,
            preprocess,
        })
    }

    pub fn trainer(
        self,
        run: RunDir,
        config: RunConfig,
        device: Device,
        parts: Parts,
        stand: Checkpoint,
    ) -> Trainer {
        Trainer {
            run,
            config,
            variant: self.variant,
            preprocess: self.preprocess,
            classes: self.classes,
            train: self.train,
            val: self.val,
            device,
            parts,
            criterion: self.criterion,
            model: Some(stand.model),
            optimizer: stand.optimizer,
            ema: stand.ema,
            features: None,
            frozen: None,
            progress: stand.progress,
        }
    }
}

/// What the loading of all pictures of a run has in common.
fn loading(config: &RunConfig) -> LoaderConfig {
    LoaderConfig {
        workers: config.threads,
        on_unreadable: OnUnreadable::Skip {
            limit: config.train.max_unreadable,
        },
        ..LoaderConfig::default()
    }
}

/// The pictures of `train` as they are, in the order of the dataset.
pub(super) fn loader(
    config: &RunConfig,
    train: &Loader,
    preprocess: Preprocess,
) -> Result<Loader, TrainError> {
    let dataset = train.dataset().clone();
    let settings = LoaderConfig {
        batch_size: even_batch(dataset.len(), config.train.batch_size),
        ..loading(config)
    };
    Ok(Loader::new(dataset, preprocess, None, settings)?)
}
