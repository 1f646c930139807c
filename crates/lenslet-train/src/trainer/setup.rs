//! What a new and a resumed run share.

use burn::tensor::Device;
use lenslet_data::{Loader, LoaderConfig, OnUnreadable, Preprocess};
use lenslet_models::Variant;
use lenslet_nn::HeadKind;

use super::Trainer;
use super::work::Work;
use crate::run::{Checkpoint, RunConfig, RunDir};
use crate::{Criterion, Data, Parts, TrainError, even_batch};

/// Data and model description.
pub(super) struct Prepared {
    pub variant: &'static Variant,
    pub preprocess: Preprocess,
    pub classes: Vec<String>,
    criterion: Criterion,
    work: Work,
}

impl Prepared {
    pub fn new(config: &RunConfig, data: Data) -> Result<Self, TrainError> {
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
        let classes = data.classes().to_vec();
        let build = config.build(classes.len());
        let (work, class_weights) = Work::new(config, data, preprocess, &build)?;
        Ok(Self {
            variant,
            classes,
            criterion: Criterion {
                label_smoothing: train.label_smoothing,
                class_weights,
            },
            work,
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
            work: self.work,
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
pub(super) fn loading(config: &RunConfig) -> LoaderConfig {
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
