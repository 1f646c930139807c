//! What the command line takes.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
pub use lenslet_train::EngineKind;
use lenslet_train::{Part, TestTime};

mod data;
mod explain;
mod inspect;
mod train;

pub use data::{BoxArg, CheckArgs, Data, DataArgs, MaskArg, PreviewArgs, SceneTask, ScenesArgs};
pub use explain::{
    ConvArgs, Explain, ExplainArgs, FeaturesArgs, FieldArgs, FiltersArgs, GradcamArgs, PictureArgs,
};
pub use inspect::{
    DrawArgs, DrawFormat, ModelsArgs, NamedModel, RunArgs, SortBy, StructureArgs, SummaryArgs,
};
pub use train::{FreezeArg, Settings, TrainArgs};

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
    /// Train a model on pictures; without DATA, LeNet-5 on the MNIST sample inside the program
    Train(Box<TrainArgs>),
    /// Measure a trained model on labelled data
    Eval(EvalArgs),
    /// Tell what is in pictures
    Predict(PredictArgs),
    /// Replay the golden pictures in a model file on this machine
    Verify(VerifyArgs),
    /// Look at a folder of pictures before it is trained on
    Data(Box<DataArgs>),
    /// Measure the milliseconds of a call, or of a training step, on random data
    Bench(BenchArgs),
    /// The architectures: year, input, parameters, multiply-accumulates, published accuracy
    Models(ModelsArgs),
    /// A model layer by layer: shapes, parameters, multiply-accumulates, receptive field, memory
    Summary(SummaryArgs),
    /// Draw a model
    Draw(DrawArgs),
    /// Pictures that explain: a convolution, filters, feature maps, where a classifier looks, what a unit sees
    Explain(ExplainArgs),
    /// Run a model on an array: NumPy files in and out
    Run(RunArgs),
    /// The arithmetic of convolutions
    Calc(CalcArgs),
}

#[derive(Debug, Args)]
pub struct EvalArgs {
    /// Labelled pictures: a folder of class folders, a CSV, a folder of IDX files [default: what the
    /// model was trained on]
    pub data: Option<PathBuf>,
    #[command(flatten)]
    pub model: ModelArgs,
    /// Which part of the data is measured; all of them where they are not divided
    #[arg(long, default_value = "val", value_name = "PART")]
    pub split: Part,
    /// What is averaged over: flip for each picture and its mirror image
    #[arg(long, default_value = "none", value_name = "HOW")]
    pub tta: TestTime,
    /// Pictures a call
    #[arg(long, default_value_t = 16, value_name = "N", value_parser = at_least_one)]
    pub batch_size: usize,
    /// What runs the model: compiled inference, or the layers one by one
    #[arg(long, default_value = "compiled", value_name = "NAME")]
    pub engine: EngineKind,
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
    /// What is averaged over: flip for each picture and its mirror image
    #[arg(long, default_value = "none", value_name = "HOW")]
    pub tta: TestTime,
    /// Pictures a call
    #[arg(long, default_value_t = 16, value_name = "N", value_parser = at_least_one)]
    pub batch_size: usize,
    /// What runs the model: compiled inference, or the layers one by one
    #[arg(long, default_value = "compiled", value_name = "NAME")]
    pub engine: EngineKind,
    /// Print comma-separated values: path, rank, class, probability
    #[arg(long, conflicts_with = "json")]
    pub csv: bool,
    /// Folder for masks and overlays, or for pictures with their boxes drawn [default for masks:
    /// predictions; boxes are drawn where this is given]
    #[arg(short, long, value_name = "DIR")]
    pub output: Option<PathBuf>,
    /// Tell boxes that the model is at least so sure of
    #[arg(long, default_value_t = 0.3, value_name = "P")]
    pub score: f64,
    /// A box goes when a surer one of its class overlaps it by more
    #[arg(long, default_value_t = 0.45, value_name = "IOU")]
    pub overlap: f64,
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
    /// Architecture, or a run's folder
    #[arg(required_unless_present = "kernels")]
    pub model: Option<PathBuf>,
    /// The picture: channels, height, width [default: the model's own]
    #[arg(long, value_name = "CxHxW", value_parser = inspect::picture, conflicts_with = "kernels")]
    pub input: Option<[usize; 3]>,
    /// List the kernels that this machine picks, and what it can do, instead of measuring a model
    #[arg(long, conflicts_with_all = ["model", "train", "layers", "exact"])]
    pub kernels: bool,
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
    /// The numbers that weights and maps are made of
    #[arg(long, default_value = "f32", value_name = "NAME")]
    pub precision: Precision,
    /// No Winograd transforms: sums as they are defined
    #[arg(long, conflicts_with = "train")]
    pub exact: bool,
    /// Every step of compiled inference, or every operation of a training step: time, and how near to what this machine
    /// can do
    #[arg(long, conflicts_with = "json")]
    pub layers: bool,
    /// The order of `--layers` in compiled inference; a training step's operations always are the longest first
    #[arg(long, default_value = "run", value_name = "ORDER", requires = "layers")]
    pub sort: LayerOrder,
    /// Passes of the compiler to leave out, by their names in `lenslet summary MODEL --compiled`
    #[arg(long, value_name = "PASS,…", value_delimiter = ',', conflicts_with_all = ["train", "kernels"])]
    pub without: Vec<String>,
}

/// Number formats that the kernels compute with: one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Precision {
    /// 32 bits
    F32,
}

impl Precision {
    /// As the option has it.
    pub fn name(self) -> &'static str {
        match self {
            Precision::F32 => "f32",
        }
    }
}

/// Orders of a table of steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LayerOrder {
    /// As they run
    Run,
    /// The longest first
    Share,
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
