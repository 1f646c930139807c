//! What `lenslet explain` takes.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::NamedModel;

#[derive(Debug, Args)]
pub struct ExplainArgs {
    #[command(subcommand)]
    pub what: Explain,
}

#[derive(Debug, Subcommand)]
pub enum Explain {
    /// A convolution: input, kernel and output side by side, or step by step
    Conv(ConvArgs),
    /// The filters of a convolution as a labelled grid
    Filters(FiltersArgs),
    /// The feature maps of a layer for a picture as a labelled grid
    Features(FeaturesArgs),
    /// Where a classifier looks: Grad-CAM over the picture
    Gradcam(GradcamArgs),
    /// How much of a picture a unit of a layer sees
    ReceptiveField(FieldArgs),
}

/// Where the picture goes.
#[derive(Debug, Args)]
pub struct PictureArgs {
    /// The picture to write, a .png or .svg
    #[arg(short, long, default_value = "explain.png", value_name = "FILE")]
    pub output: PathBuf,
}

#[derive(Debug, Args)]
pub struct ConvArgs {
    /// A picture, whose brightness is taken, or a .csv of numbers [default: the 5x5 example of textbooks]
    pub image: Option<PathBuf>,
    /// edge, sharpen, blur, sobel-x, sobel-y, emboss, or a .csv of numbers [default: edge, of the example its own]
    #[arg(long, value_name = "NAME|FILE")]
    pub kernel: Option<String>,
    /// Rows and columns between positions
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = super::at_least_one)]
    pub stride: usize,
    /// Zeros around the input
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub padding: usize,
    /// Rows and columns between the kernel's values
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = super::at_least_one)]
    pub dilation: usize,
    /// Print every sum of a small matrix instead of drawing
    #[arg(long)]
    pub trace: bool,
    #[command(flatten)]
    pub picture: PictureArgs,
}

#[derive(Debug, Args)]
pub struct FiltersArgs {
    #[command(flatten)]
    pub named: NamedModel,
    /// The convolution [default: the first]
    #[arg(long, value_name = "PATH")]
    pub layer: Option<String>,
    #[command(flatten)]
    pub picture: PictureArgs,
}

#[derive(Debug, Args)]
pub struct FeaturesArgs {
    #[command(flatten)]
    pub named: NamedModel,
    /// A picture
    pub image: PathBuf,
    /// The module whose output is drawn [default: the first convolution]
    #[arg(long, value_name = "PATH")]
    pub layer: Option<String>,
    #[command(flatten)]
    pub picture: PictureArgs,
}

#[derive(Debug, Args)]
pub struct GradcamArgs {
    #[command(flatten)]
    pub named: NamedModel,
    /// A picture
    pub image: PathBuf,
    /// The class that is asked for [default: the likeliest]
    #[arg(long, value_name = "NAME")]
    pub class: Option<String>,
    /// The module whose maps are weighted [default: the last stage of the backbone that the class's
    /// gradient reaches]
    #[arg(long, value_name = "PATH")]
    pub layer: Option<String>,
    #[command(flatten)]
    pub picture: PictureArgs,
}

#[derive(Debug, Args)]
pub struct FieldArgs {
    /// An architecture, a run's folder or a model file
    #[command(flatten)]
    pub named: NamedModel,
    /// A picture to draw on
    pub image: Option<PathBuf>,
    /// The module whose middle unit is asked
    #[arg(long, value_name = "PATH")]
    pub layer: String,
    /// Also how strongly every pixel counts, from gradients; of an architecture without weights, with
    /// random first values
    #[arg(long)]
    pub effective: bool,
    #[command(flatten)]
    pub picture: PictureArgs,
}
