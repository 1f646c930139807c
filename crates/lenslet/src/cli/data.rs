//! What `lenslet data` takes.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

#[derive(Debug, Args)]
pub struct DataArgs {
    #[command(subcommand)]
    pub what: Data,
}

#[derive(Debug, Subcommand)]
pub enum Data {
    /// Count, and name what is damaged, odd or there twice; writes nothing into the folder
    Check(CheckArgs),
    /// Draw what a model sees in training
    Preview(Box<PreviewArgs>),
    /// Draw pictures of digits to try segmentation or detection on
    Scenes(ScenesArgs),
}

#[derive(Debug, Args)]
pub struct ScenesArgs {
    /// Folder to make
    pub dir: PathBuf,
    /// What is to be learnt of them
    #[arg(long, value_name = "TASK")]
    pub task: SceneTask,
    /// Pictures in all; a fifth is held out, with digits of MNIST's test part only
    #[arg(long, default_value_t = 2000, value_name = "N")]
    pub images: usize,
    /// Height and width in pixels
    #[arg(long, default_value_t = 128, value_name = "PIXELS")]
    pub size: usize,
    /// Decides everything
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub seed: u64,
    /// How masks are written
    #[arg(long, default_value = "palette", value_name = "KIND")]
    pub masks: MaskArg,
    /// How boxes are written
    #[arg(long, default_value = "coco", value_name = "FORMAT")]
    pub boxes: BoxArg,
}

/// What scenes are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SceneTask {
    /// A class for every pixel
    Segment,
    /// Boxes
    Detect,
}

/// How masks are written.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum MaskArg {
    /// PNG with a palette
    Palette,
    /// PNG whose grey values are the classes
    Index,
    /// PNG with a colour a class, listed in classes.csv
    Colour,
}

/// How boxes are written.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum BoxArg {
    /// COCO's JSON
    Coco,
    /// PASCAL VOC's XML
    Voc,
    /// YOLO's text files
    Yolo,
}

#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Folder of class folders
    pub data: PathBuf,
}

#[derive(Debug, Args)]
pub struct PreviewArgs {
    /// Pictures to train on: a folder of class folders, a CSV, or a folder of IDX files
    pub data: PathBuf,
    /// The picture to write, a PNG
    #[arg(short, long, default_value = "preview.png", value_name = "FILE")]
    pub output: PathBuf,
    /// Training pictures to draw
    #[arg(long, default_value_t = 8, value_name = "N", value_parser = super::at_least_one)]
    pub count: usize,
    /// How often each is drawn, changed at random each time [default: 6; 1 where nothing changes]
    #[arg(long, value_name = "N", value_parser = super::at_least_one)]
    pub repeat: Option<usize>,
    /// Architecture whose input is drawn
    #[arg(long, value_name = "NAME")]
    pub model: Option<String>,
    #[command(flatten)]
    pub settings: super::Settings,
}
