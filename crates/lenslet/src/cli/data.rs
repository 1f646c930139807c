//! What `lenslet data` takes.

use std::path::PathBuf;

use clap::{Args, Subcommand};

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
