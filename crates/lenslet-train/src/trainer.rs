//! The training loop.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData};
use lenslet_data::{Augment, Batch, Dataset, Loader, LoaderConfig, Preprocess};
use lenslet_models::{Model, Variant};
use lenslet_nn::Init;

use crate::config::Split;
use crate::evaluate::{Evaluation, evaluate};
use crate::files::write_atomic;
use crate::history::GroupRates;
use crate::metrics::top_k;
use crate::model_file::{FORMAT, save_model};
use crate::run::{Progress, RunConfig, RunDir};
use crate::step::{Recipe, train_step};
use crate::{EpochRecord, ModelInfo, Optimizer, TrainError, load_model, record_golden};

/// Who is told how a run goes.
pub trait Observer {
    /// An epoch begins, or goes on at batch `done` of `batches`.
    fn epoch_begins(&mut self, epoch: usize, done: usize, batches: usize);
    /// A batch is done; the mean loss of the epoch so far.
    fn batch_done(&mut self, done: usize, samples: usize, mean_loss: f64);
    /// An epoch is done.
    fn epoch_done(&mut self, record: &EpochRecord, best: bool);
}

/// How a run ended.
#[derive(Debug)]
pub enum Outcome {
    /// All epochs are done.
    Finished(Box<Summary>),
    /// It was told to stop; a checkpoint holds all that is needed to go on.
    Interrupted {
        /// Epochs completed.
        epoch: usize,
        /// Batches done in the next.
        batch: usize,
    },
}

/// What a finished run gives.
#[derive(Debug)]
pub struct Summary {
    /// The epoch with the best validation accuracy, whose weights are in the model file.
    pub best: EpochRecord,
    /// That model on the validation data.
    pub evaluation: Evaluation,
    /// Duration of all epochs.
    pub seconds: f64,
}

/// A run that is about to start or to go on.
pub struct Trainer {
    run: RunDir,
    config: RunConfig,
    variant: &'static Variant,
    preprocess: Preprocess,
    classes: Vec<String>,
    train: Loader,
    val: Loader,
    device: Device,
    /// There, except during a step, which changes it in place.
    model: Option<Model>,
    optimizer: Optimizer,
    progress: Progress,
}

impl Trainer {
    /// Starts a new run in a folder of its own under `output`.
    ///
    /// # Errors
    /// When a setting makes no sense, the data do not suit, or the folder cannot be made.
    pub fn start(config: RunConfig, device: &Device, output: PathBuf) -> Result<Self, TrainError> {
        config.train.validate()?;
        let split = config.data.open()?;
        let prepared = Prepared::new(&config, split)?;
        let device = device.clone().autodiff();
        let mut init = Init::seeded(&device, config.train.seed);
        let model = prepared.variant.build(prepared.classes.len(), &mut init);
        let optimizer = Optimizer::new(config.train.rule(), config.train.weight_decay);
        let run = RunDir::create(&output, &config.train.model, &config)?;
        Ok(prepared.trainer(run, config, device, model, optimizer, Progress::default()))
    }

    /// Goes on with an interrupted run.
    ///
    /// # Errors
    /// When the folder is no run, the run is finished, or its files are damaged.
    pub fn resume(run: RunDir, config: RunConfig, device: &Device) -> Result<Self, TrainError> {
        config.train.validate()?;
        let prepared = Prepared::new(&config, config.data.open()?)?;
        let device = device.clone().autodiff();
        let (model, optimizer, progress) =
            run.load_checkpoint(&config.train, prepared.classes.len(), &device)?;
        if progress.epoch >= config.train.epochs {
            return Err(TrainError::Resume {
                run: run.path().to_path_buf(),
                reason: format!(
                    "it is finished ({} of {} epochs); start a new run to train again",
                    progress.epoch, config.train.epochs
                ),
            });
        }
        Ok(prepared.trainer(run, config, device, model, optimizer, progress))
    }

    /// The run's folder.
    pub fn run_dir(&self) -> &RunDir {
        &self.run
    }

    /// The configuration it runs with.
    pub fn config(&self) -> &RunConfig {
        &self.config
    }

    /// The model as it is now.
    pub fn model(&self) -> &Model {
        self.model.as_ref().expect("there except during a step")
    }

    /// Samples of the training and validation parts, and the class names.
    pub fn data(&self) -> (usize, usize, &[String]) {
        let len = |loader: &Loader| loader.dataset().len();
        (len(&self.train), len(&self.val), &self.classes)
    }

    /// Trains to the end, or until `stop` is raised.
    ///
    /// # Errors
    /// When a picture cannot be read, a file cannot be written, or the loss is no number any more.
    pub fn run(
        mut self,
        observer: &mut dyn Observer,
        stop: &AtomicBool,
    ) -> Result<Outcome, TrainError> {
        while self.progress.epoch < self.config.train.epochs {
            if self.epoch(observer, stop)? {
                self.checkpoint()?;
                return Ok(Outcome::Interrupted {
                    epoch: self.progress.epoch,
                    batch: self.progress.batch,
                });
            }
        }
        self.finish()
    }

    fn checkpoint(&self) -> Result<(), TrainError> {
        self.run
            .save_checkpoint(self.model(), &self.optimizer, &self.progress)
    }

    /// Trains the rest of the epoch under way; true when it was stopped.
    fn epoch(
        &mut self,
        observer: &mut dyn Observer,
        stop: &AtomicBool,
    ) -> Result<bool, TrainError> {
        let train = &self.config.train;
        let (epoch, batches) = (self.progress.epoch, self.train.batches());
        observer.epoch_begins(epoch + 1, self.progress.batch, batches);
        let factor = train
            .scheduler
            .factor(epoch, train.epochs, train.warmup_epochs);
        let rates = GroupRates {
            head: train.lr * factor,
            backbone: train.lr * factor * train.backbone_lr_mult,
        };
        let began = Instant::now();
        let spent = self.progress.seconds;
        for batch in self.train.epoch_from(epoch as u64, self.progress.batch) {
            self.step(batch?, rates)?;
            self.progress.seconds = spent + began.elapsed().as_secs_f64();
            let seen = self.progress.seen;
            observer.batch_done(
                self.progress.batch,
                seen,
                self.progress.loss_sum / seen as f64,
            );
            if stop.load(Ordering::Relaxed) {
                return Ok(true);
            }
        }
        let train_seconds = self.progress.seconds;
        let plain = self.device.clone().without_autodiff();
        let Some(evaluation) = evaluate(&self.model().valid(), &self.val, &plain, stop)? else {
            return Ok(true);
        };
        let share = |v: f64| v / self.progress.seen as f64;
        let record = EpochRecord {
            epoch: epoch + 1,
            train_loss: share(self.progress.loss_sum),
            train_acc: share(self.progress.correct as f64),
            val_loss: evaluation.loss,
            val_acc: evaluation.top1,
            lr: rates,
            images_per_s: self.progress.seen as f64 / train_seconds,
            seconds: spent + began.elapsed().as_secs_f64(),
        };
        self.complete(record, observer)?;
        Ok(false)
    }

    /// One optimiser step.
    fn step(&mut self, batch: Batch, rates: GroupRates) -> Result<(), TrainError> {
        let samples = batch.len();
        let (images, shape) = (batch.images, batch.shape);
        let x = Tensor::<4>::from_data(TensorData::new(images, shape), &self.device);
        let labels: Vec<i64> = batch.labels.iter().map(|&l| i64::from(l)).collect();
        let y = Tensor::<1, Int>::from_data(TensorData::new(labels, [samples]), &self.device);

        // One global generator serves all of Burn's random operations: set by the position in the
        // run, dropout is the same after a resume.
        let seed = self.config.train.seed ^ (self.optimizer.steps() << 20);
        self.device.seed(seed);
        let head = self.variant.classifier;
        let lr = |name: &str| match name.strip_prefix(head) {
            Some(rest) if rest.starts_with('.') => rates.head,
            _ => rates.backbone,
        };
        let recipe = Recipe {
            label_smoothing: self.config.train.label_smoothing,
            max_norm: self.config.train.clip_grad_norm,
            lr: &lr,
        };
        let model = self.model.take().expect("there except during a step");
        let done = train_step(model, &mut self.optimizer, x, y, &recipe);
        self.model = Some(done.model);
        self.check("loss", done.loss)?;
        self.check("gradient norm", done.norm)?;
        let (value, values) = (done.loss, done.logits);

        let rows = values.chunks_exact(self.classes.len()).zip(&batch.labels);
        self.progress.correct += rows
            .filter(|(row, label)| top_k(row, 1)[0] == **label as usize)
            .count();
        self.progress.loss_sum += value * samples as f64;
        self.progress.seen += samples;
        self.progress.batch += 1;
        Ok(())
    }

    fn check(&self, what: &'static str, value: f64) -> Result<(), TrainError> {
        if value.is_finite() {
            return Ok(());
        }
        Err(TrainError::Diverged {
            what,
            value,
            epoch: self.progress.epoch + 1,
            batch: self.progress.batch + 1,
            run: self.run.path().to_path_buf(),
        })
    }

    /// Writes down an epoch that is done: the model if it is the best, history, checkpoint.
    fn complete(
        &mut self,
        record: EpochRecord,
        observer: &mut dyn Observer,
    ) -> Result<(), TrainError> {
        let best = self
            .progress
            .best()
            .is_none_or(|best| record.val_acc > best.val_acc);
        let mut history = std::mem::take(&mut self.progress.history);
        history.push(record.clone());
        self.progress = Progress {
            epoch: self.progress.epoch + 1,
            history,
            ..Progress::default()
        };
        if best {
            let model = self.model().valid();
            let info = self.info(&model, &record)?;
            save_model(&self.run.file("model.safetensors"), &model, &info)?;
        }
        let title = format!("{} on {}", self.config.train.model, self.config.data);
        self.run.save_history(&title, &self.progress.history)?;
        self.checkpoint()?;
        observer.epoch_done(&record, best);
        Ok(())
    }

    fn info(&self, model: &Model, record: &EpochRecord) -> Result<ModelInfo, TrainError> {
        let plain = self.device.clone().without_autodiff();
        let val = self.val.dataset();
        Ok(ModelInfo {
            format: FORMAT,
            architecture: self.config.train.model.clone(),
            classes: self.classes.clone(),
            preprocess: self.preprocess,
            training: serde_json::json!({ "run": self.config, "epoch": record }),
            golden: record_golden(model, &self.preprocess, val.as_ref(), &plain)?,
        })
    }

    /// The best model on the validation data, and its confusion matrix in the run's folder.
    fn finish(self) -> Result<Outcome, TrainError> {
        let plain = self.device.clone().without_autodiff();
        let (model, _) = load_model(self.run.path(), &plain)?;
        let best = self.progress.best().cloned();
        // Short, and the run is as good as done: not to be stopped.
        let evaluation = evaluate(&model, &self.val, &plain, &AtomicBool::new(false))?;
        let (Some(best), Some(evaluation)) = (best, evaluation) else {
            return Ok(Outcome::Interrupted {
                epoch: self.progress.epoch,
                batch: 0,
            });
        };
        let csv = evaluation.confusion.to_csv(&self.classes);
        write_atomic(&self.run.file("confusion.csv"), csv.as_bytes())?;
        Ok(Outcome::Finished(Box::new(Summary {
            best,
            evaluation,
            seconds: self.progress.history.iter().map(|r| r.seconds).sum(),
        })))
    }
}

/// Data and model description that a new and a resumed run share.
struct Prepared {
    variant: &'static Variant,
    preprocess: Preprocess,
    classes: Vec<String>,
    train: Loader,
    val: Loader,
}

impl Prepared {
    fn new(config: &RunConfig, split: Split) -> Result<Self, TrainError> {
        let variant = config.train.variant()?;
        let preprocess = Preprocess::lenet5();
        let [channels, height, width] = preprocess.output_shape();
        if variant.input != [channels, height, width] {
            return Err(TrainError::Mismatch(format!(
                "{} takes pictures of {:?}, {} gives {:?}",
                variant.name,
                variant.input,
                config.data,
                [channels, height, width]
            )));
        }
        let train = &config.train;
        let loader = |dataset: Arc<dyn Dataset>, augment: Option<Augment>, shuffle: bool| {
            let settings = LoaderConfig {
                batch_size: train.batch_size,
                shuffle,
                seed: train.seed,
                workers: config.threads,
                ..LoaderConfig::default()
            };
            Loader::new(dataset, preprocess, augment, settings)
        };
        Ok(Self {
            variant,
            classes: split.train.class_names().to_vec(),
            train: loader(split.train, train.augment.then(Augment::digits), true)?,
            val: loader(split.val, None, false)?,
            preprocess,
        })
    }

    fn trainer(
        self,
        run: RunDir,
        config: RunConfig,
        device: Device,
        model: Model,
        optimizer: Optimizer,
        progress: Progress,
    ) -> Trainer {
        Trainer {
            run,
            config,
            variant: self.variant,
            preprocess: self.preprocess,
            classes: self.classes,
            train: self.train,
            val: self.val,
            device,
            model: Some(model),
            optimizer,
            progress,
        }
    }
}
