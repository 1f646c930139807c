//! A run's folder: configuration, checkpoint, best model, history.

use std::path::{Path, PathBuf};

use burn::tensor::{Device, TensorData};
use lenslet_data::Preprocess;
use lenslet_models::{BuildOptions, Model};
use lenslet_nn::{Init, load_state_dict, state_dict};
use serde::{Deserialize, Serialize};

use crate::config::TrainConfig;
use crate::files::write_atomic;
use crate::history::{curves_svg, history_csv};
use crate::model_file::{FORMAT, read_tensors, write_tensors};
use crate::{DataSource, Ema, EpochRecord, Optimizer, SkippedFile, TrainError};

/// What a run was started with, kept as `config.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunConfig {
    /// The command as typed.
    pub command: String,
    /// The version of Lenslet.
    pub version: String,
    /// Everything that decides the numbers.
    pub train: TrainConfig,
    /// Where the pictures come from.
    pub data: DataSource,
    /// Tells whether the data are still the same.
    #[serde(default)]
    pub fingerprint: String,
    /// How the model is built, once that is known: it follows from settings, data and weights.
    #[serde(default)]
    pub build: Option<BuildOptions>,
    /// From a decoded picture to the model's input, once that is known.
    #[serde(default)]
    pub preprocess: Option<Preprocess>,
    /// Threads of the calculation; results are compared between runs with the same number.
    pub threads: usize,
}

impl RunConfig {
    /// How the model is built for `classes` classes.
    pub fn build(&self, classes: usize) -> BuildOptions {
        (self.build.clone()).unwrap_or_else(|| self.train.build_options(classes))
    }
}

/// How far a run is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Version of the checkpoint's format.
    pub format: u32,
    /// Epochs completed.
    pub epoch: usize,
    /// Batches done in the epoch that is under way.
    pub batch: usize,
    /// Optimiser steps taken.
    pub step: u64,
    /// Sum of the losses of the samples of the epoch under way.
    pub loss_sum: f64,
    /// Samples of the epoch under way that were right, of masks the shares that were.
    pub correct: f64,
    /// Samples of the epoch under way that were seen.
    pub seen: usize,
    /// Seconds spent in the epoch under way.
    pub seconds: f64,
    /// Epochs completed so far.
    pub history: Vec<EpochRecord>,
    /// Pictures that could not be read.
    #[serde(default)]
    pub skipped: Vec<SkippedFile>,
}

impl Progress {
    /// The epoch with the highest validation accuracy, of several the one with the lowest loss.
    pub fn best(&self) -> Option<&EpochRecord> {
        self.history
            .iter()
            .reduce(|best, r| if r.is_better_than(best) { r } else { best })
    }

    /// Whether all epochs are done, or enough of them brought nothing better.
    pub fn is_finished(&self, config: &TrainConfig) -> bool {
        let mut highest = (0, f64::NEG_INFINITY);
        for record in &self.history {
            if record.val_acc > highest.1 {
                highest = (record.epoch, record.val_acc);
            }
        }
        let patience = config.early_stopping.unwrap_or(usize::MAX);
        // While the classifier trains alone nothing is lost by going on.
        let since = highest.0.max(config.head_epochs);
        self.epoch >= config.epochs || self.epoch.saturating_sub(since) >= patience
    }

    /// Remembers pictures that could not be read, each once.
    pub fn remember(&mut self, skipped: &[SkippedFile]) {
        for file in skipped {
            if !self.skipped.contains(file) {
                self.skipped.push(file.clone());
            }
        }
    }
}

/// Where a run stands.
pub struct Checkpoint {
    /// The weights.
    pub model: Model,
    /// Steps and moments.
    pub optimizer: Optimizer,
    /// The average of the weights, where one is kept.
    pub ema: Option<Ema>,
    /// Epochs and batches done.
    pub progress: Progress,
}

/// A run's folder.
#[derive(Debug, Clone)]
pub struct RunDir {
    path: PathBuf,
}

const CHECKPOINT: &str = "Lenslet checkpoint";

impl RunDir {
    /// Makes a new folder `parent/NAME-N` with the first free number and writes `config.json`.
    ///
    /// # Errors
    /// When the folder cannot be made or written to.
    pub fn create(parent: &Path, name: &str, config: &RunConfig) -> Result<Self, TrainError> {
        std::fs::create_dir_all(parent).map_err(TrainError::io("create", parent))?;
        let mut number = 1;
        let path = loop {
            let path = parent.join(format!("{name}-{number}"));
            match std::fs::create_dir(&path) {
                Ok(()) => break path,
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => number += 1,
                Err(e) => return Err(TrainError::io("create", path)(e)),
            }
        };
        let run = Self { path };
        let text = serde_json::to_string_pretty(config).unwrap_or_default() + "\n";
        write_atomic(&run.file("config.json"), text.as_bytes())?;
        Ok(run)
    }

    /// Opens the folder of an earlier run.
    ///
    /// # Errors
    /// When it is no run's folder.
    pub fn open(path: &Path) -> Result<(Self, RunConfig), TrainError> {
        let refuse = |reason: String| TrainError::Resume {
            run: path.to_path_buf(),
            reason,
        };
        if !path.is_dir() {
            return Err(refuse(
                "there is no such folder; give the folder of a run, such as runs/lenet5-1".into(),
            ));
        }
        let file = path.join("config.json");
        let text = std::fs::read_to_string(&file).map_err(|e| {
            refuse(format!(
                "it is not the folder of a run (its config.json cannot be read: {e})"
            ))
        })?;
        let config = serde_json::from_str(&text)
            .map_err(|e| refuse(format!("its config.json is damaged: {e}")))?;
        let path = path.to_path_buf();
        Ok((Self { path }, config))
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Writes all that is needed to go on: weights, moments, progress.
    ///
    /// # Errors
    /// When it cannot be written; the last checkpoint is kept.
    pub fn save_checkpoint(
        &self,
        model: &Model,
        optimizer: &Optimizer,
        ema: Option<&Ema>,
        progress: &Progress,
    ) -> Result<(), TrainError> {
        let model = state_dict(model).into_iter();
        let moments = optimizer.state().into_iter();
        let averages = ema.map(Ema::state).unwrap_or_default().into_iter();
        let tensors: Vec<(String, TensorData)> = model
            .map(|(name, data)| (format!("{MODEL}{name}"), data))
            .chain(moments.map(|(name, data)| (format!("{OPTIMIZER}{name}"), data)))
            .chain(averages.map(|(name, data)| (format!("{EMA}{name}"), data)))
            .collect();
        let progress = Progress {
            format: FORMAT,
            step: optimizer.steps(),
            ..progress.clone()
        };
        write_tensors(&self.file("checkpoint.safetensors"), &tensors, &progress)
    }

    /// Reads the checkpoint into a fresh model (built with `options`), optimiser and average of
    /// `config` on `device`.
    ///
    /// # Errors
    /// When there is none, it is damaged or does not fit.
    pub fn load_checkpoint(
        &self,
        config: &TrainConfig,
        options: &BuildOptions,
        device: &Device,
    ) -> Result<Checkpoint, TrainError> {
        let path = self.file("checkpoint.safetensors");
        if !path.exists() {
            return Err(TrainError::Resume {
                run: self.path.clone(),
                reason: "it holds no checkpoint; it stopped before its first, start a new run"
                    .into(),
            });
        }
        let (tensors, progress): (_, Progress) = read_tensors(&path, CHECKPOINT)?;
        let (mut weights, mut moments, mut averages) = (Vec::new(), Vec::new(), Vec::new());
        for (name, data) in tensors {
            if let Some(name) = name.strip_prefix(OPTIMIZER) {
                moments.push((name.to_string(), data));
            } else if let Some(name) = name.strip_prefix(EMA) {
                averages.push((name.to_string(), data));
            } else {
                let name = name.strip_prefix(MODEL).unwrap_or(&name);
                weights.push((name.to_string(), data));
            }
        }
        let model = config
            .variant()?
            .build_with(options, &mut Init::empty(device));
        let model = load_state_dict(model, weights)
            .map_err(|source| TrainError::Weights { path, source })?;
        let mut optimizer = config.new_optimizer();
        optimizer.restore(progress.step, moments, device);
        let ema = config.ema.map(|decay| {
            let mut ema = Ema::new(decay);
            ema.restore(averages, device);
            ema
        });
        Ok(Checkpoint {
            model,
            optimizer,
            ema,
            progress,
        })
    }

    /// Writes `history.csv` and `curves.svg`.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn save_history(&self, title: &str, history: &[EpochRecord]) -> Result<(), TrainError> {
        write_atomic(&self.file("history.csv"), history_csv(history).as_bytes())?;
        let path = self.file("curves.svg");
        write_atomic(&path, curves_svg(&path, title, history)?.as_bytes())
    }
}

const MODEL: &str = "model.";
const OPTIMIZER: &str = "optimizer.";
const EMA: &str = "ema.";
