//! What the commands that look into models take.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use lenslet_models::BuildOptions;

use super::{EngineKind, FreezeArg};

/// A model with weights.
#[derive(Debug, Args)]
pub struct NamedModel {
    /// A run's folder, a model file, or an architecture with its --weights (efficientnet_lite0 without
    /// any is the one inside the program)
    pub model: PathBuf,
    /// Weights of the architecture: a .safetensors or PyTorch .pth file, or a name under which
    /// torchvision publishes them (IMAGENET1K_V1, default), which is fetched once
    #[arg(long, value_name = "FILE|NAME")]
    pub weights: Option<PathBuf>,
}

/// What weights of others ask of an architecture.
#[derive(Debug, Args)]
pub struct BuildArgs {
    /// GoogLeNet and Inception: the input is normalised as for ImageNet, and the model changes that
    /// to what its published weights know, as torchvision's do
    #[arg(long, requires = "weights")]
    pub transform_input: bool,
    /// EfficientNet: padding and batch norms as in TensorFlow, for timm's tf_ weights
    #[arg(long, requires = "weights")]
    pub tensorflow: bool,
}

impl BuildArgs {
    /// How the architecture is built.
    pub fn options(&self) -> BuildOptions {
        BuildOptions::new(0)
            .with_transform_input(self.transform_input)
            .with_tensorflow(self.tensorflow)
    }
}

#[derive(Debug, Args)]
pub struct RunArgs {
    #[command(flatten)]
    pub named: NamedModel,
    #[command(flatten)]
    pub build: BuildArgs,
    /// The array [N, C, H, W], as numpy.save writes it: float32; float64 is rounded, float16 widened,
    /// uint8 taken as the numbers 0 to 255. Nothing is scaled or normalised
    #[arg(long, value_name = "X.npy")]
    pub input: PathBuf,
    /// Where the model's output goes: float32, [N, classes], a map [N, classes, H, W] or a grid
    #[arg(long, value_name = "Y.npy")]
    pub output: PathBuf,
    /// What runs the model: compiled inference, or the layers one by one
    #[arg(long, default_value = "compiled", value_name = "NAME")]
    pub engine: EngineKind,
    /// No Winograd transforms: sums as they are defined
    #[arg(long)]
    pub exact: bool,
    /// Also write what these modules return (layer1.0.conv1,avgpool), each to a file beside the output:
    /// Y.layer1.0.conv1.npy; maps are [N, C, H, W], tokens [N, L, C]
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    pub taps: Vec<String>,
    /// Pictures a call
    #[arg(long, default_value_t = 16, value_name = "N", value_parser = super::at_least_one)]
    pub batch_size: usize,
}

/// A model's structure; its weights have no part in it.
#[derive(Debug, Args)]
pub struct StructureArgs {
    /// An architecture, a run's folder or a model file
    pub model: PathBuf,
    /// The picture: channels, height, width [default: the model's own]
    #[arg(long, value_name = "CxHxW", value_parser = picture)]
    pub input: Option<[usize; 3]>,
    /// Classes of an architecture [default: those of its published weights]
    #[arg(long, value_name = "N", value_parser = super::at_least_one)]
    pub classes: Option<usize>,
}

/// `3x224x224`
pub(super) fn picture(text: &str) -> Result<[usize; 3], String> {
    let sides = text
        .split(['x', 'X', '×', ','])
        .map(|side| side.trim().parse::<usize>().ok());
    let sides: Option<Vec<usize>> = sides.collect();
    match sides.as_deref() {
        Some(&[c, h, w]) if c > 0 && h > 0 && w > 0 && c.max(h).max(w) <= 1 << 14 => Ok([c, h, w]),
        _ => Err("it must be channels, height and width, such as 3x224x224".into()),
    }
}

#[derive(Debug, Args)]
pub struct SummaryArgs {
    #[command(flatten)]
    pub structure: StructureArgs,
    /// Pictures a call
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = super::at_least_one)]
    pub batch: usize,
    /// Modules this deep are one line each
    #[arg(long, value_name = "N", value_parser = super::at_least_one)]
    pub depth: Option<usize>,
    /// What would not train [default: none; of a run what did not]
    #[arg(long, value_name = "WHAT")]
    pub freeze: Option<FreezeArg>,
    /// Only the last N stages of the backbone and the classifier would train
    #[arg(long, value_name = "N", conflicts_with = "freeze")]
    pub unfreeze: Option<usize>,
    /// The steps of compiled inference instead: kernel, output, and what was fused
    #[arg(long, conflicts_with_all = ["depth", "freeze", "unfreeze"])]
    pub compiled: bool,
}

#[derive(Debug, Args)]
pub struct ModelsArgs {
    /// Only this family: ResNet, ViT, …
    #[arg(long, value_name = "NAME")]
    pub family: Option<String>,
    /// In this order [default: year]
    #[arg(
        long,
        value_name = "BY",
        default_value = "year",
        hide_default_value = true
    )]
    pub sort: SortBy,
}

/// The order of the architectures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SortBy {
    /// Fewest parameters first
    Params,
    /// Fewest multiply-accumulates first
    Macs,
    /// Highest published accuracy first
    Top1,
    /// Oldest paper first
    Year,
}

#[derive(Debug, Args)]
pub struct DrawArgs {
    #[command(flatten)]
    pub structure: StructureArgs,
    /// The picture to write
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// What is written: a picture, or text for Graphviz [default: by the file's ending]
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<DrawFormat>,
    /// Modules this deep are one box each [default: as fine as can be looked at]
    #[arg(long, value_name = "N", value_parser = super::at_least_one)]
    pub depth: Option<usize>,
}

/// How a graph is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DrawFormat {
    /// A picture that can be enlarged
    Svg,
    /// A picture of pixels
    Png,
    /// Text for Graphviz
    Dot,
}
