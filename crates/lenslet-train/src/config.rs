//! What a training run is made of.

use lenslet_data::mix::Mix;
use lenslet_data::transform::{RandAugment, RandomErasing};
use lenslet_data::{Augment, Joint, Preprocess, Resize};
use lenslet_models::{BuildOptions, Task, Variant, grey, near_names, variant};
use lenslet_nn::HeadKind;
use serde::{Deserialize, Serialize};

use crate::segment::PixelLoss;
use crate::{EngineKind, Freeze, Optimizer, Rule, Schedule, TrainError};

mod check;

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

/// How much training pictures are changed at random.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum AugmentKind {
    /// Not at all
    None,
    /// Cut to at least a third of the picture, mirrored, a little brighter or darker
    Light,
    /// As the guide has it: cut to as little as a twelfth, mirrored, turned, recoloured
    Guide,
}

/// Everything that decides the numbers of a run. Names and defaults are PyTorch's, or the guide's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TrainConfig {
    /// What is learnt.
    pub task: Task,
    /// Name of the variant.
    pub model: String,
    /// Side of the square that the model sees; the variant's own if `None`.
    pub input_size: Option<usize>,
    /// What turns features into logits.
    pub head: HeadKind,
    /// Where the first weights come from; drawn from the seed if `None`.
    pub weights: Option<String>,
    /// What does not train.
    pub freeze: Freeze,
    /// Whether batch norms that train keep the statistics they came with.
    pub freeze_norm_stats: bool,
    /// Passes over the training data.
    pub epochs: usize,
    /// The first of them, in which the classifier trains alone on the features of the pictures as
    /// they are (Kumar et al., 2022: a classifier that fits first distorts the features less).
    pub head_epochs: usize,
    /// Samples a forward pass.
    pub batch_size: usize,
    /// Batches a step: their gradients are averaged.
    pub accumulate: usize,
    /// Learning rate of the classifier.
    pub lr: f64,
    /// Share of `lr` at which everything else trains.
    pub backbone_lr_mult: f64,
    /// Factor on the learning rate from each stage to the one before it.
    pub layer_decay: f64,
    /// Share of a parameter that a step takes away, times the learning rate.
    pub weight_decay: f64,
    /// Whether norms and biases decay as well.
    pub decay_norm_bias: bool,
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
    /// Whether rare classes weigh as much as frequent ones.
    pub class_weights: bool,
    /// Decay of the moving average of the weights, which is then what is measured and kept.
    pub ema: Option<f64>,
    /// Epochs without a better validation accuracy after which the run ends.
    pub early_stopping: Option<usize>,
    /// How much training pictures are changed at random.
    pub augment: AugmentKind,
    /// Whether RandAugment is done.
    pub randaugment: bool,
    /// Probability that a rectangle of a picture is erased.
    pub random_erasing: f32,
    /// Alpha of mixup; 0 for none.
    pub mixup: f32,
    /// Alpha of cutmix; 0 for none.
    pub cutmix: f32,
    /// Whether a frozen backbone runs once a picture where it can.
    pub cache_features: bool,
    /// What runs a frozen backbone, and the model on the held-out pictures.
    pub engine: EngineKind,
    /// What masks are learnt by.
    pub pixel_loss: PixelLoss,
    /// Range of the factor by which pictures with masks or boxes are enlarged at random.
    pub scale: [f32; 2],
    /// Probability that such a picture is mirrored.
    pub hflip: f32,
    /// Maps that an anchor detector finds boxes in.
    pub scales: usize,
    /// Anchors a map.
    pub anchors: usize,
    /// Share of the pictures that may be unreadable.
    pub max_unreadable: f64,
    /// Decides first values, order and augmentation.
    pub seed: u64,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            task: Task::Classification,
            model: "lenet5".into(),
            input_size: None,
            head: HeadKind::Own,
            weights: None,
            freeze: Freeze::None,
            freeze_norm_stats: false,
            epochs: 30,
            head_epochs: 0,
            batch_size: 64,
            accumulate: 1,
            lr: 2e-3,
            backbone_lr_mult: 1.0,
            layer_decay: 1.0,
            weight_decay: 1e-4,
            decay_norm_bias: true,
            clip_grad_norm: Some(1.0),
            optimizer: OptimizerKind::AdamW,
            momentum: 0.9,
            scheduler: Schedule::Cosine,
            warmup_epochs: 0,
            label_smoothing: 0.0,
            class_weights: false,
            ema: None,
            early_stopping: None,
            augment: AugmentKind::Guide,
            randaugment: false,
            random_erasing: 0.0,
            mixup: 0.0,
            cutmix: 0.0,
            cache_features: true,
            engine: EngineKind::Compiled,
            pixel_loss: PixelLoss::Both,
            scale: Joint::default().scale,
            hflip: 0.0,
            scales: 2,
            anchors: 3,
            max_unreadable: 0.05,
            seed: 0,
        }
    }
}

impl TrainConfig {
    /// Defaults for photos: batches of 32.
    ///
    /// Where a frozen backbone has weights, the pictures as they are, so that it runs once. Where it
    /// trains as well (fine-tuning): the classifier alone in the first third of `epochs`, then an
    /// epoch of warm-up, half the learning rate and a tenth of that for the backbone, batch norms
    /// with the statistics they came with, light random changes.
    pub fn photos(model: &str, weights: Option<String>, freeze: Freeze, epochs: usize) -> Self {
        let tuning = weights.is_some() && freeze != Freeze::Backbone;
        let head_epochs = if tuning { epochs / 3 } else { 0 };
        Self {
            model: model.into(),
            head: if weights.is_some() {
                HeadKind::Linear
            } else {
                HeadKind::Own
            },
            batch_size: 32,
            epochs,
            head_epochs,
            warmup_epochs: usize::from(tuning && epochs > head_epochs + 1),
            freeze_norm_stats: tuning,
            backbone_lr_mult: if weights.is_some() { 0.1 } else { 1.0 },
            lr: match (&weights, tuning) {
                (Some(_), false) => 2e-3,
                _ => 1e-3,
            },
            augment: match (&weights, freeze) {
                (None, _) => AugmentKind::Guide,
                (Some(_), Freeze::Backbone) => AugmentKind::None,
                (Some(_), _) => AugmentKind::Light,
            },
            weights,
            freeze,
            ..Self::default()
        }
    }

    /// Defaults for pictures with masks or boxes.
    pub fn vision(task: Task, model: &str, weights: Option<String>, freeze: Freeze) -> Self {
        let (epochs, batch_size, scale) = match task {
            Task::Segmentation => (7, 4, [0.9, 1.1]),
            _ => (15, 8, Joint::default().scale),
        };
        let photos = Self::photos(model, weights, freeze, epochs);
        Self {
            task,
            head: HeadKind::Own,
            head_epochs: 0,
            batch_size,
            lr: 4e-3,
            warmup_epochs: 0,
            ema: Some(0.99),
            augment: AugmentKind::Guide,
            scale,
            ..photos
        }
    }

    /// The model's entry in the registry.
    ///
    /// # Errors
    /// [`TrainError::UnknownModel`] with near names; [`TrainError::Setting`] for a model that is for
    /// another task.
    pub fn variant(&self) -> Result<&'static Variant, TrainError> {
        let variant = find_variant(&self.model)?;
        if variant.task == self.task {
            return Ok(variant);
        }
        let expected = match self.task {
            Task::Classification => {
                "it must be a model that classifies pictures; this one is for another task: say which with --task"
            }
            Task::Segmentation => "it must be one for segmentation, such as unet or unet_resnet18",
            Task::Detection => "it must be one for detection, such as yolo or yolo_resnet18",
        };
        Err(TrainError::Setting {
            setting: "--model",
            found: self.model.clone(),
            expected,
        })
    }

    /// What is done at random to training pictures whose masks or boxes follow.
    pub fn joint(&self) -> Joint {
        match self.augment {
            AugmentKind::None => Joint {
                scale: [1.0; 2],
                horizontal_flip: 0.0,
                color_jitter: None,
            },
            _ => Joint {
                scale: self.scale,
                horizontal_flip: self.hflip,
                ..Joint::default()
            },
        }
    }

    /// Whether auxiliary classifiers train, if the model has any: they help the layers below them, which must train for that, and
    /// need pictures that are large enough.
    pub fn auxiliary(&self) -> bool {
        let fits = |variant: &Variant| {
            let side = self.input_size.unwrap_or(variant.preprocess.crop[0]);
            side >= variant.min_aux_size
        };
        self.freeze == Freeze::None && self.variant().is_ok_and(fits)
    }

    /// How the model is built for `classes` classes.
    pub fn build_options(&self, classes: usize) -> BuildOptions {
        let options = BuildOptions::new(classes)
            .with_head(self.head)
            .with_aux_logits(self.auxiliary());
        match self.input_size {
            Some(size) => options.with_image_size(size),
            None => options,
        }
    }

    /// From a decoded picture to the model's input, where no weights say otherwise.
    ///
    /// # Errors
    /// As [`TrainConfig::variant`].
    pub fn preprocess(&self) -> Result<Preprocess, TrainError> {
        let variant = self.variant()?;
        let side = self.input_size.unwrap_or(variant.preprocess.crop[0]);
        let usual = match (self.task, variant.input[0]) {
            // The guide's U-Net has no preprocessing of its own.
            (Task::Segmentation, 1) => grey(side),
            (Task::Segmentation, _) => Preprocess {
                resize: Resize::Keep,
                ..variant.preprocess
            },
            (Task::Detection, _) => Preprocess {
                resize: Resize::Letterbox([side; 2]),
                crop: [side; 2],
                ..variant.preprocess
            },
            _ => variant.preprocess,
        };
        Ok(match self.input_size {
            Some(size) => at_size(usual, size),
            None => usual,
        })
    }

    /// What is done to training pictures at random, if anything.
    ///
    /// # Errors
    /// As [`TrainConfig::variant`].
    pub fn augmentation(&self) -> Result<Option<Augment>, TrainError> {
        let mut augment = match (self.augment, self.variant()?.input[0]) {
            (AugmentKind::None, _) => Augment::default(),
            (_, 1) => Augment::digits(),
            (AugmentKind::Light, _) => Augment::photos_light(),
            (AugmentKind::Guide, _) => Augment::photos(),
        };
        augment.rand_augment = self.randaugment.then(RandAugment::default);
        augment.random_erasing = (self.random_erasing > 0.0).then(|| RandomErasing {
            p: self.random_erasing,
            ..RandomErasing::default()
        });
        Ok((augment != Augment::default()).then_some(augment))
    }

    /// How pictures and targets of a batch are blended, if at all.
    pub fn mix(&self) -> Option<Mix> {
        let mix = Mix {
            mixup_alpha: self.mixup,
            cutmix_alpha: self.cutmix,
        };
        (mix != Mix::default()).then_some(mix)
    }

    /// The optimiser before its first step.
    pub fn new_optimizer(&self) -> Optimizer {
        Optimizer::new(self.rule(), self.weight_decay)
            .with_decay_of_norms_and_biases(self.decay_norm_bias)
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

/// The same preprocessing for another side of the square that the model sees.
pub fn at_size(usual: Preprocess, side: usize) -> Preprocess {
    let scaled =
        |n: usize, crop: usize| (n as f64 * side as f64 / crop.max(1) as f64).round() as usize;
    let [height, width] = usual.crop;
    Preprocess {
        resize: match usual.resize {
            Resize::Keep => Resize::Keep,
            Resize::ShortSide(n) => Resize::ShortSide(scaled(n, height.min(width))),
            Resize::Exact([h, w]) => Resize::Exact([scaled(h, height), scaled(w, width)]),
            Resize::Letterbox(_) => Resize::Letterbox([side; 2]),
        },
        crop: [side; 2],
        ..usual
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
