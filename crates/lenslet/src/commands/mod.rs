//! One module a command.

pub mod bench;
pub mod calc;
pub mod data;
pub mod draw;
pub mod eval;
pub mod explain;
pub mod fetch;
pub mod model;
pub mod models;
pub mod predict;
pub mod run;
pub mod scenes;
pub mod structure;
pub mod summary;
pub mod train;
pub mod verify;
pub mod vision;

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use burn::tensor::Device;
use indicatif::{ProgressBar, ProgressStyle};
use lenslet_models::Task;
use lenslet_train::TrainError;

use crate::cli::Common;

/// Sets the number of threads that calculate: what was asked for, else every core.
pub fn set_threads(asked: Option<usize>) -> Result<usize> {
    let threads = match asked {
        Some(0) => {
            return Err(TrainError::Setting {
                setting: "--threads",
                found: "0".into(),
                expected: "it must be at least 1",
            }
            .into());
        }
        Some(n) => n,
        None => std::thread::available_parallelism().map_or(1, |n| n.get()),
    };
    lenslet_kernels::pool::set_num_threads(threads);
    Ok(threads)
}

/// The architecture inside the program.
pub const INSIDE: &str = "efficientnet_lite0";

/// The architecture for pictures, or for digits, where none is named.
pub fn usual_model(pictures: bool) -> &'static str {
    if pictures { INSIDE } else { "lenet5" }
}

/// The architecture for a task where none is named.
pub fn usual_for(task: Task, pictures: bool) -> &'static str {
    match task {
        Task::Classification => usual_model(pictures),
        Task::Segmentation => "unet",
        Task::Detection => "yolo",
    }
}

/// The device to calculate on. The command line has checked the name.
pub fn device() -> Device {
    Device::flex()
}

/// A bar that counts pictures on standard error, if that is a terminal and talk is wanted.
pub fn picture_bar(common: &Common, pictures: u64) -> ProgressBar {
    if common.quiet || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = "{prefix} {bar:30} {pos}/{len} pictures, {per_sec}, {eta} left";
    let style = ProgressStyle::with_template(style);
    ProgressBar::new(pictures).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// A flag that Ctrl-C raises. A second Ctrl-C ends the program at once.
pub fn stop_flag() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
    })
    .context("cannot listen for Ctrl-C")?;
    Ok(stop)
}
