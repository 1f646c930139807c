//! One module a command.

pub mod bench;
pub mod calc;
pub mod eval;
pub mod fetch;
pub mod model;
pub mod predict;
pub mod train;
pub mod verify;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use burn::tensor::Device;
use lenslet_train::{DataSource, TrainError};

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
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build_global()
        .context("cannot start the threads that calculate")?;
    Ok(threads)
}

/// The device to calculate on. The command line has checked the name.
pub fn device() -> Device {
    Device::flex()
}

/// Where the labelled pictures in `data` come from.
pub fn data_source(data: Option<&Path>) -> DataSource {
    match data {
        Some(dir) => DataSource::Idx(dir.to_path_buf()),
        None => DataSource::Embedded,
    }
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
