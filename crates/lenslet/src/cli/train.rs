//! What `lenslet train` takes.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use lenslet_models::Task;
use lenslet_nn::HeadKind;
use lenslet_train::segment::PixelLoss;
use lenslet_train::{AugmentKind, EngineKind, Freeze, OptimizerKind, Schedule, TrainConfig};

#[derive(Debug, Args)]
pub struct TrainArgs {
    /// A folder of class folders (or of train/ and val/ or test/ with such in them), a CSV of paths and
    /// classes, or a folder with the four IDX files of MNIST or its like
    pub data: Option<PathBuf>,
    /// What is learnt: a class a picture; a class for every pixel, from images/ and masks/ or a VOC
    /// folder; boxes, from COCO, VOC or YOLO annotations
    #[arg(long, value_name = "TASK", default_value = "classify")]
    pub task: TaskArg,
    /// Architecture [default: efficientnet_lite0 for pictures, lenet5 for IDX files]
    #[arg(long, value_name = "NAME")]
    pub model: Option<String>,
    /// Weights to start from: a run's folder, a .safetensors or PyTorch .pth file, or a name under which
    /// torchvision publishes them (IMAGENET1K_V1, default), which is fetched once [default: for
    /// efficientnet_lite0 those inside the program, trained on ImageNet]
    #[arg(long, value_name = "FILE|NAME", conflicts_with = "from_scratch")]
    pub weights: Option<PathBuf>,
    /// Share of the pictures to hold out, where the data are not divided [default: 0.2]
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true)]
    pub val_split: Option<f64>,
    /// Try rising learning rates for a while, draw the losses, and name a good rate
    #[arg(long)]
    pub lr_find: bool,
    /// Go on with an interrupted run, with its own settings
    #[arg(long, value_name = "RUN", conflicts_with_all = ["data", "task", "model", "output", "weights", "val_split", "lr_find"])]
    pub resume: Option<PathBuf>,
    /// Folder in which the run's folder is made
    #[arg(short, long, default_value = "runs", value_name = "DIR")]
    pub output: PathBuf,
    #[command(flatten)]
    pub settings: Settings,
}

/// What is learnt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TaskArg {
    /// A class a picture
    Classify,
    /// A class for every pixel
    Segment,
    /// Boxes with classes
    Detect,
}

impl TaskArg {
    /// As the models know it.
    pub fn task(self) -> Task {
        match self {
            Self::Classify => Task::Classification,
            Self::Segment => Task::Segmentation,
            Self::Detect => Task::Detection,
        }
    }
}

/// A range written as LOW,HIGH.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Range(pub [f32; 2]);

impl std::str::FromStr for Range {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers = text
            .split_once(',')
            .and_then(|(low, high)| Some([low.trim().parse().ok()?, high.trim().parse().ok()?]));
        numbers
            .map(Self)
            .ok_or("it must be two numbers, such as 0.75,1.33".into())
    }
}

/// What of a model with weights stays as it is.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum FreezeArg {
    /// Everything but the classifier
    Backbone,
    /// Nothing
    None,
}

/// The classifier.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum HeadArg {
    /// One linear layer
    Linear,
    /// Dropout, 256 hidden units, a linear layer
    Mlp,
}

/// Everything that decides the numbers of a run.
#[derive(Debug, Args)]
#[command(next_help_heading = "Training")]
#[group(id = "settings", multiple = true, conflicts_with = "resume")]
pub struct Settings {
    /// Side of the square that the model sees [default: the model's own]
    #[arg(long, value_name = "PIXELS")]
    pub input_size: Option<usize>,
    /// What stays as it is [default: backbone, where it starts from weights]
    #[arg(long, value_name = "WHAT")]
    pub freeze: Option<FreezeArg>,
    /// Train the last N stages of the backbone and the classifier
    #[arg(long, value_name = "N", conflicts_with = "freeze")]
    pub unfreeze: Option<usize>,
    /// Whether batch norms keep the statistics they came with also where they train [default: true from
    /// weights, else false]
    #[arg(long, value_name = "true|false", num_args = 0..=1, default_missing_value = "true")]
    pub freeze_norm_stats: Option<bool>,
    /// Start from random values and train everything
    #[arg(long, conflicts_with_all = ["freeze", "unfreeze"])]
    pub from_scratch: bool,
    /// The classifier [default: linear]
    #[arg(long, value_name = "KIND")]
    pub head: Option<HeadArg>,
    /// Passes over the training data [default: 30; 8 with masks, 15 with boxes]
    #[arg(long, value_name = "N")]
    pub epochs: Option<usize>,
    /// The first epochs, in which the classifier trains alone on the features of the pictures as they
    /// are, before the rest joins [default: a third of --epochs where a backbone with weights trains]
    #[arg(long, value_name = "N")]
    pub head_epochs: Option<usize>,
    /// Samples a forward pass [default: 32 for pictures, 64 for digits, 4 with masks, 8 with boxes]
    #[arg(long, value_name = "N")]
    pub batch_size: Option<usize>,
    /// Batches a step, whose gradients are averaged [default: 1]
    #[arg(long, value_name = "N")]
    pub accumulate: Option<usize>,
    /// Learning rate of the classifier [default: 0.002; 0.001 on pictures, unless the backbone is frozen; 0.004
    /// for masks and boxes]
    #[arg(long, value_name = "RATE", allow_negative_numbers = true)]
    pub lr: Option<f64>,
    /// Share of --lr at which everything but the classifier trains [default: 0.1 from weights, else 1]
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true)]
    pub backbone_lr_mult: Option<f64>,
    /// Factor on the learning rate from each stage to the one before it [default: 1]
    #[arg(long, value_name = "FACTOR", allow_negative_numbers = true)]
    pub layer_decay: Option<f64>,
    /// Weight decay [default: 0.0001]
    #[arg(long, value_name = "RATE", allow_negative_numbers = true)]
    pub weight_decay: Option<f64>,
    /// No weight decay on norms and biases
    #[arg(long)]
    pub no_decay_norm_bias: bool,
    /// Largest norm of all gradients together, 0 for no clipping [default: 1]
    #[arg(long, value_name = "NORM", allow_negative_numbers = true)]
    pub clip_grad_norm: Option<f64>,
    /// Update rule [default: adamw]
    #[arg(long, value_name = "RULE")]
    pub optimizer: Option<OptimizerKind>,
    /// Momentum of SGD [default: 0.9]
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true)]
    pub momentum: Option<f64>,
    /// Learning rate over the epochs [default: cosine]
    #[arg(long, value_name = "NAME")]
    pub scheduler: Option<Schedule>,
    /// Epochs in which the learning rate rises to its full height [default: 0; 1 where a backbone with
    /// weights trains, once it does]
    #[arg(long, value_name = "N")]
    pub warmup_epochs: Option<usize>,
    /// Share of the target spread over all classes [default: 0]
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true)]
    pub label_smoothing: Option<f64>,
    /// Let rare classes weigh as much as frequent ones
    #[arg(long)]
    pub class_weights: bool,
    /// Measure and keep a moving average of the weights with this decay, such as 0.99; 0 for none
    /// [default: 0.99 for masks and boxes, else 0]
    #[arg(long, value_name = "DECAY", allow_negative_numbers = true)]
    pub ema: Option<f64>,
    /// Stop after N epochs without a better validation accuracy
    #[arg(long, value_name = "N")]
    pub early_stopping: Option<usize>,
    /// How much training pictures are changed at random [default: guide from scratch, light from
    /// weights, none where the backbone is frozen]
    #[arg(long, value_name = "HOW")]
    pub augment: Option<AugmentKind>,
    /// Train on the pictures as they are: --augment none
    #[arg(long, conflicts_with = "augment")]
    pub no_augment: bool,
    /// RandAugment: two random operations a picture
    #[arg(long)]
    pub randaugment: bool,
    /// Erase a rectangle of a training picture with this probability
    #[arg(long, value_name = "P", num_args = 0..=1, default_missing_value = "0.25", allow_negative_numbers = true)]
    pub random_erasing: Option<f32>,
    /// Average pairs of pictures with shares from Beta(A, A)
    #[arg(long, value_name = "A", num_args = 0..=1, default_missing_value = "0.2", allow_negative_numbers = true)]
    pub mixup: Option<f32>,
    /// Put a rectangle of one picture into another, with shares from Beta(A, A)
    #[arg(long, value_name = "A", num_args = 0..=1, default_missing_value = "1", allow_negative_numbers = true)]
    pub cutmix: Option<f32>,
    /// Run a frozen backbone anew in every epoch
    #[arg(long)]
    pub no_feature_cache: bool,
    /// What runs a frozen backbone and the model on held-out pictures [default: compiled]
    #[arg(long, value_name = "NAME")]
    pub engine: Option<EngineKind>,
    /// What masks are learnt by [default: both]
    #[arg(long, value_name = "LOSS")]
    pub loss: Option<PixelLoss>,
    /// Enlarge pictures with masks or boxes by a factor in this range [default: 0.9,1.1 with masks,
    /// 0.75,1.333 with boxes]
    #[arg(long, value_name = "LOW,HIGH", allow_negative_numbers = true)]
    pub scale: Option<Range>,
    /// Mirror pictures with masks or boxes with this probability [default: 0]
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub hflip: Option<f32>,
    /// Maps in which an anchor detector finds boxes, 1 to 3 [default: 2]
    #[arg(long, value_name = "N")]
    pub scales: Option<usize>,
    /// Anchors a map [default: 3]
    #[arg(long, value_name = "N")]
    pub anchors: Option<usize>,
    /// Share of the pictures that may be unreadable [default: 0.05]
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true)]
    pub max_unreadable: Option<f64>,
    /// Decides first values, order, augmentation, and what is held out [default: 0]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
}

impl Settings {
    /// The settings for `model`, with the defaults for pictures or digits where nothing was given.
    /// `weights` says where the first values come from, if they are not drawn.
    pub fn config(
        &self,
        task: Task,
        model: &str,
        pictures: bool,
        weights: Option<String>,
    ) -> TrainConfig {
        let freeze = match (self.freeze, self.unfreeze) {
            (_, Some(stages)) => Freeze::AllBut(stages),
            (Some(FreezeArg::Backbone), _) => Freeze::Backbone,
            (Some(FreezeArg::None), _) => Freeze::None,
            (None, None) if weights.is_some() && task == Task::Classification => Freeze::Backbone,
            (None, None) => Freeze::None,
        };
        let given = self.epochs.unwrap_or(TrainConfig::default().epochs);
        let default = if task != Task::Classification {
            TrainConfig::vision(task, model, weights, freeze)
        } else if pictures || weights.is_some() {
            TrainConfig::photos(model, weights, freeze, given)
        } else {
            TrainConfig {
                model: model.into(),
                freeze,
                ..TrainConfig::default()
            }
        };
        let epochs = self.epochs.unwrap_or(default.epochs);
        let head_epochs = self.head_epochs.unwrap_or(default.head_epochs);
        TrainConfig {
            input_size: self.input_size,
            head: match self.head {
                Some(HeadArg::Mlp) => HeadKind::Mlp,
                Some(HeadArg::Linear) => HeadKind::Linear,
                None => default.head,
            },
            epochs,
            head_epochs,
            batch_size: self.batch_size.unwrap_or(default.batch_size),
            accumulate: self.accumulate.unwrap_or(default.accumulate),
            lr: self.lr.unwrap_or(default.lr),
            backbone_lr_mult: self.backbone_lr_mult.unwrap_or(default.backbone_lr_mult),
            layer_decay: self.layer_decay.unwrap_or(default.layer_decay),
            weight_decay: self.weight_decay.unwrap_or(default.weight_decay),
            decay_norm_bias: !self.no_decay_norm_bias,
            clip_grad_norm: match self.clip_grad_norm {
                Some(0.0) => None,
                Some(norm) => Some(norm),
                None => default.clip_grad_norm,
            },
            optimizer: self.optimizer.unwrap_or(default.optimizer),
            momentum: self.momentum.unwrap_or(default.momentum),
            scheduler: self.scheduler.unwrap_or(default.scheduler),
            warmup_epochs: self
                .warmup_epochs
                .unwrap_or((default.warmup_epochs).min(epochs.saturating_sub(head_epochs + 1))),
            label_smoothing: self.label_smoothing.unwrap_or(default.label_smoothing),
            class_weights: self.class_weights,
            ema: match self.ema {
                Some(0.0) => None,
                given => given.or(default.ema),
            },
            early_stopping: self.early_stopping,
            augment: match (self.no_augment, self.augment) {
                (true, _) => AugmentKind::None,
                (false, given) => given.unwrap_or(default.augment),
            },
            freeze_norm_stats: self.freeze_norm_stats.unwrap_or(default.freeze_norm_stats),
            randaugment: self.randaugment,
            random_erasing: self.random_erasing.unwrap_or(default.random_erasing),
            mixup: self.mixup.unwrap_or(default.mixup),
            cutmix: self.cutmix.unwrap_or(default.cutmix),
            cache_features: !self.no_feature_cache,
            engine: self.engine.unwrap_or(default.engine),
            pixel_loss: self.loss.unwrap_or(default.pixel_loss),
            scale: self.scale.map_or(default.scale, |range| range.0),
            hflip: self.hflip.unwrap_or(default.hflip),
            scales: self.scales.unwrap_or(default.scales),
            anchors: self.anchors.unwrap_or(default.anchors),
            max_unreadable: self.max_unreadable.unwrap_or(default.max_unreadable),
            seed: self.seed.unwrap_or(default.seed),
            ..default
        }
    }
}
