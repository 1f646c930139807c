//! What the command line takes.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use lenslet_train::{OptimizerKind, Schedule, TrainConfig};

/// Image models from LeNet to the Vision Transformer: train, evaluate, predict.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
    #[command(flatten)]
    pub common: Common,
}

/// Options of every command.
#[derive(Debug, Args)]
#[command(next_help_heading = "Common")]
pub struct Common {
    /// Device to calculate on; this build has: cpu
    #[arg(long, global = true, default_value = "cpu", value_parser = ["cpu"])]
    pub device: String,
    /// Threads of the calculation [default: all cores]
    #[arg(long, global = true, value_name = "N")]
    pub threads: Option<usize>,
    /// Print results as JSON on standard output
    #[arg(long, global = true)]
    pub json: bool,
    /// Print results only
    #[arg(short, long, global = true)]
    pub quiet: bool,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Train a model; without DATA, LeNet-5 on the MNIST sample inside the program
    Train(Box<TrainArgs>),
    /// Measure a trained model on labelled data
    Eval(EvalArgs),
    /// Tell what is in pictures
    Predict(PredictArgs),
    /// Replay the golden pictures in a model file on this machine
    Verify(VerifyArgs),
    /// Measure the milliseconds of a call, or of a training step, on random data
    Bench(BenchArgs),
    /// The arithmetic of convolutions
    Calc(CalcArgs),
}

#[derive(Debug, Args)]
pub struct TrainArgs {
    /// Folder with the four IDX files of MNIST or its like, gzipped or not
    pub data: Option<PathBuf>,
    /// Architecture
    #[arg(long, default_value = "lenet5", value_name = "NAME")]
    pub model: String,
    /// Go on with an interrupted run, with its own settings
    #[arg(long, value_name = "RUN", conflicts_with_all = ["data", "model", "output"])]
    pub resume: Option<PathBuf>,
    /// Folder in which the run's folder is made
    #[arg(short, long, default_value = "runs", value_name = "DIR")]
    pub output: PathBuf,
    #[command(flatten)]
    pub settings: Settings,
}

/// Everything that decides the numbers of a run.
#[derive(Debug, Args)]
#[command(next_help_heading = "Training")]
#[group(id = "settings", multiple = true, conflicts_with = "resume")]
pub struct Settings {
    /// Passes over the training data [default: 30]
    #[arg(long, value_name = "N")]
    pub epochs: Option<usize>,
    /// Samples a step [default: 64]
    #[arg(long, value_name = "N")]
    pub batch_size: Option<usize>,
    /// Learning rate of the classifier [default: 0.002]
    #[arg(long, value_name = "RATE", allow_negative_numbers = true)]
    pub lr: Option<f64>,
    /// Share of --lr at which everything but the classifier trains [default: 1]
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true)]
    pub backbone_lr_mult: Option<f64>,
    /// Weight decay [default: 0.0001]
    #[arg(long, value_name = "RATE", allow_negative_numbers = true)]
    pub weight_decay: Option<f64>,
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
    /// Epochs in which the learning rate rises to its full height [default: 0]
    #[arg(long, value_name = "N")]
    pub warmup_epochs: Option<usize>,
    /// Share of the target spread over all classes [default: 0]
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true)]
    pub label_smoothing: Option<f64>,
    /// Decides first values, order and augmentation [default: 0]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Train on the pictures as they are, without random shifts and rotations
    #[arg(long)]
    pub no_augment: bool,
}

impl Settings {
    /// The settings with the defaults where nothing was given.
    pub fn config(&self, model: &str) -> TrainConfig {
        let default = TrainConfig::default();
        TrainConfig {
            model: model.to_string(),
            epochs: self.epochs.unwrap_or(default.epochs),
            batch_size: self.batch_size.unwrap_or(default.batch_size),
            lr: self.lr.unwrap_or(default.lr),
            backbone_lr_mult: self.backbone_lr_mult.unwrap_or(default.backbone_lr_mult),
            weight_decay: self.weight_decay.unwrap_or(default.weight_decay),
            clip_grad_norm: match self.clip_grad_norm {
                Some(0.0) => None,
                Some(norm) => Some(norm),
                None => default.clip_grad_norm,
            },
            optimizer: self.optimizer.unwrap_or(default.optimizer),
            momentum: self.momentum.unwrap_or(default.momentum),
            scheduler: self.scheduler.unwrap_or(default.scheduler),
            warmup_epochs: self.warmup_epochs.unwrap_or(default.warmup_epochs),
            label_smoothing: self.label_smoothing.unwrap_or(default.label_smoothing),
            seed: self.seed.unwrap_or(default.seed),
            augment: !self.no_augment,
        }
    }
}

#[derive(Debug, Args)]
pub struct EvalArgs {
    /// Labelled data [default: what the model was trained on; its held-out part is measured]
    pub data: Option<PathBuf>,
    #[command(flatten)]
    pub model: ModelArgs,
}

/// Which model works.
#[derive(Debug, Args)]
pub struct ModelArgs {
    /// A run's folder, a model file, or an architecture with its --weights [default: the model
    /// inside the program, EfficientNet-Lite0 trained on ImageNet]
    #[arg(long, value_name = "RUN|NAME")]
    pub model: Option<PathBuf>,
    /// Weights of the architecture: a .safetensors or PyTorch .pth file, or a name under which
    /// torchvision publishes them (IMAGENET1K_V1, default), which is fetched once
    #[arg(long, value_name = "FILE|NAME", requires = "model")]
    pub weights: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct PredictArgs {
    /// Picture files, folders of them, or patterns such as 'photos/*.jpg'
    #[arg(required = true, value_name = "IMAGE")]
    pub images: Vec<PathBuf>,
    #[command(flatten)]
    pub model: ModelArgs,
    /// Classes to name for each picture
    #[arg(long, default_value_t = 3, value_name = "K", value_parser = at_least_one)]
    pub top: usize,
    /// Print comma-separated values: path, rank, class, probability
    #[arg(long, conflicts_with = "json")]
    pub csv: bool,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("it must be at least 1".into()),
        Ok(n) => Ok(n),
        Err(e) => Err(e.to_string()),
    }
}

#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// A run's folder or a model file
    #[arg(value_name = "RUN")]
    pub model: PathBuf,
}

#[derive(Debug, Args)]
pub struct BenchArgs {
    /// Architecture
    pub model: String,
    /// Measure a training step (forward, loss, backward, clipping, AdamW) instead of inference
    #[arg(long)]
    pub train: bool,
    /// Pictures a call
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = at_least_one)]
    pub batch: usize,
    /// How long to measure
    #[arg(long, default_value_t = 3.0, value_name = "S")]
    pub seconds: f64,
    /// What runs the model: compiled inference, or the layers one by one
    #[arg(
        long,
        default_value = "compiled",
        value_name = "NAME",
        conflicts_with = "train"
    )]
    pub engine: EngineKind,
    /// No Winograd transforms: sums as they are defined
    #[arg(long, conflicts_with = "train")]
    pub exact: bool,
    /// Every step of compiled inference: kernel, time, and how near to what this machine can do
    #[arg(long, conflicts_with_all = ["train", "json"])]
    pub layers: bool,
}

/// What runs a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EngineKind {
    /// Compiled for the CPU
    Compiled,
    /// Layer by layer
    Eager,
}

#[derive(Debug, Args)]
pub struct CalcArgs {
    #[command(subcommand)]
    pub what: Calc,
}

#[derive(Debug, Subcommand)]
pub enum Calc {
    /// Output size, parameters and multiply-accumulates of a convolution
    Conv {
        /// Height and width of the input
        #[arg(long)]
        input: usize,
        /// Height and width of the kernel
        #[arg(long)]
        kernel: usize,
        #[arg(long, default_value_t = 1)]
        stride: usize,
        #[arg(long, default_value_t = 0)]
        padding: usize,
        #[arg(long, default_value_t = 1)]
        dilation: usize,
        /// Input channels
        #[arg(long = "in", default_value_t = 3, value_name = "CHANNELS")]
        in_channels: usize,
        /// Output channels
        #[arg(long = "out", default_value_t = 64, value_name = "CHANNELS")]
        out_channels: usize,
        #[arg(long, default_value_t = 1)]
        groups: usize,
        /// Whether a value per output channel is added
        #[arg(long, default_value_t = true, action = clap::ArgAction::Set, value_name = "true|false")]
        bias: bool,
    },
    /// Receptive field and jump after each layer of a stack
    ReceptiveField {
        /// Layers in order, each KERNEL,STRIDE or KERNEL,STRIDE,DILATION
        #[arg(required = true, value_name = "LAYER")]
        layers: Vec<String>,
    },
    /// A standard convolution beside a depthwise separable one
    Separable {
        /// Input channels, and output channels unless --out is given
        #[arg(long)]
        channels: usize,
        /// Output channels
        #[arg(long = "out", value_name = "CHANNELS")]
        out_channels: Option<usize>,
        #[arg(long, default_value_t = 3)]
        kernel: usize,
    },
}
