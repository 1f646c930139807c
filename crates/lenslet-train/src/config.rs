//! What a training run is made of.

use std::path::PathBuf;
use std::sync::Arc;

use lenslet_data::{Dataset, mnist};
use lenslet_models::{Variant, near_names, variant};
use serde::{Deserialize, Serialize};

use crate::{Rule, Schedule, TrainError};

/// Which update rule trains the parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum OptimizerKind {
    /// Adam with decoupled weight decay.
    #[cfg_attr(feature = "clap", value(name = "adamw"))]
    AdamW,
    /// Stochastic gradient descent with momentum.
    Sgd,
}

/// Everything that decides the numbers of a run. Names and defaults are PyTorch's, or the guide's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainConfig {
    /// Name of the variant.
    pub model: String,
    /// Passes over the training data.
    pub epochs: usize,
    /// Samples a step.
    pub batch_size: usize,
    /// Learning rate of the classifier.
    pub lr: f64,
    /// Share of `lr` at which everything else trains.
    pub backbone_lr_mult: f64,
    /// Share of a parameter that a step takes away, times the learning rate.
    pub weight_decay: f64,
    /// Largest norm of all gradients together; `None` for no limit.
    pub clip_grad_norm: Option<f64>,
    /// Update rule.
    pub optimizer: OptimizerKind,
    /// Momentum of SGD.
    pub momentum: f64,
    /// Learning rate over the epochs.
    pub scheduler: Schedule,
    /// Epochs in which the rate rises to its full height.
    pub warmup_epochs: usize,
    /// Share of the target that is spread over all classes.
    pub label_smoothing: f64,
    /// Decides first values, order and augmentation.
    pub seed: u64,
    /// Whether training pictures are changed at random.
    pub augment: bool,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            model: "lenet5".into(),
            epochs: 30,
            batch_size: 64,
            lr: 2e-3,
            backbone_lr_mult: 1.0,
            weight_decay: 1e-4,
            clip_grad_norm: Some(1.0),
            optimizer: OptimizerKind::AdamW,
            momentum: 0.9,
            scheduler: Schedule::Cosine,
            warmup_epochs: 0,
            label_smoothing: 0.0,
            seed: 0,
            augment: true,
        }
    }
}

impl TrainConfig {
    /// Checks every setting.
    ///
    /// # Errors
    /// [`TrainError::Setting`] names the first that makes no sense, [`TrainError::UnknownModel`]
    /// a model that is not there.
    pub fn validate(&self) -> Result<(), TrainError> {
        self.variant()?;
        let positive = |v: f64| v.is_finite() && v > 0.0;
        let share = |v: f64| (0.0..=1.0).contains(&v);
        let rules = [
            (
                "--epochs",
                self.epochs.to_string(),
                self.epochs >= 1,
                "it must be at least 1",
            ),
            (
                "--batch-size",
                self.batch_size.to_string(),
                self.batch_size >= 1,
                "it must be at least 1",
            ),
            (
                "--lr",
                self.lr.to_string(),
                positive(self.lr),
                "it must be a number above 0",
            ),
            (
                "--backbone-lr-mult",
                self.backbone_lr_mult.to_string(),
                share(self.backbone_lr_mult),
                "it must be from 0 to 1",
            ),
            (
                "--weight-decay",
                self.weight_decay.to_string(),
                self.weight_decay.is_finite() && self.weight_decay >= 0.0,
                "it must be a number of at least 0",
            ),
            (
                "--clip-grad-norm",
                format!("{:?}", self.clip_grad_norm),
                self.clip_grad_norm.is_none_or(positive),
                "it must be above 0, or 0 for no clipping",
            ),
            (
                "--momentum",
                self.momentum.to_string(),
                share(self.momentum) && self.momentum < 1.0,
                "it must be at least 0 and below 1",
            ),
            (
                "--warmup-epochs",
                self.warmup_epochs.to_string(),
                self.warmup_epochs < self.epochs.max(1),
                "it must be less than --epochs",
            ),
            (
                "--label-smoothing",
                self.label_smoothing.to_string(),
                share(self.label_smoothing) && self.label_smoothing < 1.0,
                "it must be at least 0 and below 1",
            ),
        ];
        match rules.into_iter().find(|(_, _, holds, _)| !holds) {
            Some((setting, found, _, expected)) => Err(TrainError::Setting {
                setting,
                found,
                expected,
            }),
            None => Ok(()),
        }
    }

    /// The model's entry in the registry.
    ///
    /// # Errors
    /// [`TrainError::UnknownModel`] with near names.
    pub fn variant(&self) -> Result<&'static Variant, TrainError> {
        find_variant(&self.model)
    }

    /// The update rule with its settings.
    pub fn rule(&self) -> Rule {
        match self.optimizer {
            OptimizerKind::AdamW => Rule::ADAMW,
            OptimizerKind::Sgd => Rule::Sgd {
                momentum: self.momentum,
            },
        }
    }
}

/// The registry's entry of that name.
///
/// # Errors
/// [`TrainError::UnknownModel`] with near names.
pub fn find_variant(name: &str) -> Result<&'static Variant, TrainError> {
    variant(name).ok_or_else(|| TrainError::UnknownModel {
        name: name.to_string(),
        near: near_names(name),
    })
}

/// Where labelled pictures come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DataSource {
    /// The MNIST sample inside the program.
    Embedded,
    /// A folder with the four IDX files of MNIST and its like.
    Idx(PathBuf),
}

/// Training and validation parts of a source.
#[derive(Clone)]
pub struct Split {
    /// What is trained on.
    pub train: Arc<dyn Dataset>,
    /// What is held out.
    pub val: Arc<dyn Dataset>,
}

impl DataSource {
    /// Opens the data.
    ///
    /// # Errors
    /// When files are missing, damaged or do not fit each other.
    pub fn open(&self) -> Result<Split, TrainError> {
        let digits = match self {
            DataSource::Embedded => mnist::embedded()?,
            DataSource::Idx(dir) => mnist::open(dir)?,
        };
        Ok(Split {
            train: Arc::new(digits.train),
            val: Arc::new(digits.test),
        })
    }
}

impl std::fmt::Display for DataSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            DataSource::Embedded => f.write_str("the embedded MNIST sample"),
            DataSource::Idx(dir) => write!(f, "{}", dir.display()),
        }
    }
}
