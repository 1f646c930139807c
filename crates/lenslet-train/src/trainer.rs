//! The training loop.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use burn::module::Module;
use burn::tensor::Device;
use lenslet_data::{DataError, Dataset, Image, Preprocess, Sample};
use lenslet_models::{Model, Variant};
use lenslet_nn::Init;

use crate::features::FeatureSet;
use crate::files::write_atomic;
use crate::run::{Checkpoint, Progress, RunConfig, RunDir};
use crate::{
    Criterion, Ema, EngineKind, EpochRecord, Freeze, Measured, Optimizer, PartSize, Parts,
    Pretrained, ReportSource, Runner, SkippedFile, TestTime, TrainError, evaluate, even_batch,
    load_model, write_report,
};

mod epoch;
mod feed;
mod find_rate;
mod setup;
mod work;

pub use find_rate::FoundRate;
use setup::Prepared;
use work::{Work, settle};

/// Held-out pictures from which on compiling a model anew for every epoch takes less time than it
/// saves.
const COMPILED_FROM: usize = 64;

/// Who is told how a run goes.
pub trait Observer {
    /// The backbone has run over `done` of all `pictures`, once and for all epochs.
    fn features_done(&mut self, done: usize, pictures: usize);
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
    pub evaluation: Measured,
    /// Every epoch.
    pub history: Vec<EpochRecord>,
    /// Pictures of either part that could not be read.
    pub skipped: Vec<SkippedFile>,
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
    work: Work,
    device: Device,
    /// There, except during a step, which changes it in place.
    model: Option<Model>,
    parts: Parts,
    criterion: Criterion,
    optimizer: Optimizer,
    ema: Option<Ema>,
    /// Training and validation features, where the backbone runs once.
    features: Option<[FeatureSet; 2]>,
    /// The frozen backbone, where it runs anew for every picture.
    frozen: Option<Runner>,
    progress: Progress,
}

impl Trainer {
    /// Starts a new run in a folder of its own under `output`, from `weights` where there are such.
    ///
    /// # Errors
    /// When a setting makes no sense, the data or the weights do not suit, or the folder cannot be
    /// made.
    pub fn start(
        mut config: RunConfig,
        device: &Device,
        weights: Option<Pretrained>,
        output: PathBuf,
    ) -> Result<Self, TrainError> {
        config.train.validate()?;
        config.data = config.data.settled(config.data.is_divided()?);
        let data = config.data.data()?;
        config.fingerprint = data.fingerprint()?;
        let anchors = settle(&mut config.train, &data)?;
        // The size that was filled in must suit the model as well.
        config.train.validate()?;
        let device = device.clone().autodiff();
        let mut init = Init::seeded(&device, config.train.seed);
        let classes = data.classes().len();
        let model = match weights {
            Some(weights) => {
                let start = weights.load(&config.train, classes, anchors, &mut init)?;
                config.build = Some(start.build);
                config.preprocess = Some(start.preprocess);
                start.model
            }
            None => {
                let build = config.train.build_options(classes).with_anchors(anchors);
                let variant = config.train.variant()?;
                let model = variant.build_with(&build, &mut init);
                config.build = Some(build);
                config.preprocess = Some(config.train.preprocess()?);
                model
            }
        };
        let prepared = Prepared::new(&config, data)?;
        let parts = Parts::of(&model, prepared.variant.classifier);
        let stand = Checkpoint {
            model: parts.freeze(model, config.train.freeze, config.train.freeze_norm_stats)?,
            optimizer: config.train.new_optimizer(),
            ema: config.train.ema.map(Ema::new),
            progress: Progress::default(),
        };
        let run = RunDir::create(&output, &config.train.model, &config)?;
        Ok(prepared.trainer(run, config, device, parts, stand))
    }

    /// Goes on with an interrupted run.
    ///
    /// # Errors
    /// When the folder is no run, the run is finished, its files are damaged, or the data are not
    /// what they were.
    pub fn resume(run: RunDir, config: RunConfig, device: &Device) -> Result<Self, TrainError> {
        config.train.validate()?;
        let refuse = |reason: String| TrainError::Resume {
            run: run.path().to_path_buf(),
            reason,
        };
        let data = config.data.data()?;
        if data.fingerprint()? != config.fingerprint {
            return Err(refuse(format!(
                "the data in {} have changed since it began (pictures, labels or classes), so it could not go on \
                 where it was. Bring them back to what they were, or start a new run",
                config.data
            )));
        }
        let prepared = Prepared::new(&config, data)?;
        let device = device.clone().autodiff();
        let build = config.build(prepared.classes.len());
        let mut stand = run.load_checkpoint(&config.train, &build, &device)?;
        if stand.progress.is_finished(&config.train) {
            return Err(refuse(format!(
                "it is finished ({} of {} epochs); start a new run to train again",
                stand.progress.epoch, config.train.epochs
            )));
        }
        let parts = Parts::of(&stand.model, prepared.variant.classifier);
        stand.model = parts.freeze(
            stand.model,
            config.train.freeze,
            config.train.freeze_norm_stats,
        )?;
        Ok(prepared.trainer(run, config, device, parts, stand))
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

    /// How much of each part of the model trains.
    pub fn parts(&self) -> Vec<PartSize> {
        self.parts.sizes(self.config.train.freeze)
    }

    /// Pictures to train on and held out.
    pub fn pictures(&self) -> [usize; 2] {
        self.work.pictures()
    }

    /// The names of the classes, in order.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// Whether everything but the last layer is frozen, and can run apart from it.
    fn has_frozen_backbone(&self) -> bool {
        let linear = self.variant.family != "SqueezeNet" && self.work.classes().is_some();
        self.config.train.freeze == Freeze::Backbone && linear
    }

    /// Whether the frozen backbone runs once a picture, for all epochs.
    pub fn caches_features(&self) -> bool {
        let train = self.work.classes().map(|[train, _]| train);
        let plain = train.is_some_and(|train| train.augment().is_none());
        let plain = plain && self.config.train.mix().is_none();
        self.config.train.cache_features && self.has_frozen_backbone() && plain
    }

    /// The first epochs, in which the classifier trains alone and what else trains does not yet.
    pub fn head_epochs(&self) -> usize {
        match self.trains_head_first(0) {
            true => self.config.train.head_epochs,
            false => 0,
        }
    }

    /// Whether the classifier trains alone in `epoch`, counted from 0, and everything after it.
    fn trains_head_first(&self, epoch: usize) -> bool {
        let tunes = self.config.train.freeze != Freeze::Backbone && self.work.classes().is_some();
        tunes && epoch < self.config.train.head_epochs && self.variant.family != "SqueezeNet"
    }

    /// Shape of a batch of pictures.
    fn input(&self, batch: usize) -> [usize; 4] {
        let [c, h, w] = self.preprocess.output_shape();
        [batch, c, h, w]
    }

    /// Trains to the end, or until `stop` is raised.
    ///
    /// # Errors
    /// When too many pictures cannot be read, a file cannot be written, or the loss is no number
    /// any more.
    pub fn run(
        mut self,
        observer: &mut dyn Observer,
        stop: &AtomicBool,
    ) -> Result<Outcome, TrainError> {
        let mut goes_on = self.prepare_features(observer, stop)?;
        while goes_on && !self.progress.is_finished(&self.config.train) {
            goes_on = !self.epoch(observer, stop)?;
        }
        if goes_on {
            return self.finish();
        }
        self.checkpoint()?;
        Ok(Outcome::Interrupted {
            epoch: self.progress.epoch,
            batch: self.progress.batch,
        })
    }

    fn checkpoint(&self) -> Result<(), TrainError> {
        let ema = self.ema.as_ref();
        self.run
            .save_checkpoint(self.model(), &self.optimizer, ema, &self.progress)
    }

    /// The model as it is measured and kept.
    fn judged_model(&self) -> Model {
        match &self.ema {
            Some(ema) => ema.averaged(self.model()),
            None => self.model().valid(),
        }
    }

    /// A model on the validation data; `None` when `stop` was raised.
    fn evaluate(&self, model: &Model, stop: &AtomicBool) -> Result<Option<Measured>, TrainError> {
        let plain = self.device.clone().without_autodiff();
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        if let Some([_, val]) = &self.features {
            let found = val.evaluate(model, self.classes.len(), &plain);
            return Ok(Some(Measured::Classes(found)));
        }
        let Some([_, val]) = self.work.classes() else {
            let build = self.config.build(self.classes.len());
            let how = (&self.preprocess, &build);
            return self.work.evaluate(model, how, &plain, stop);
        };
        let samples = val.dataset().len();
        let engine = if samples < COMPILED_FROM {
            EngineKind::Eager
        } else {
            self.config.train.engine
        };
        let input = self.input(even_batch(samples, self.config.train.batch_size));
        let runner = Runner::logits(engine, model.clone(), input, &plain)?;
        let found = evaluate(&runner, val, TestTime::None, &mut |_| (), stop)?;
        Ok(found.map(Measured::Classes))
    }

    /// The best model on the validation data, and its confusion matrix and the report in the
    /// run's folder.
    fn finish(mut self) -> Result<Outcome, TrainError> {
        let plain = self.device.clone().without_autodiff();
        let (model, _) = load_model(self.run.path(), &plain)?;
        let best = self.progress.best().cloned();
        // Short, and the run is as good as done: not to be stopped.
        let evaluation = self.evaluate(&model, &AtomicBool::new(false))?;
        let (Some(best), Some(evaluation)) = (best, evaluation) else {
            return Ok(Outcome::Interrupted {
                epoch: self.progress.epoch,
                batch: 0,
            });
        };
        self.progress.remember(evaluation.skipped());
        let summary = Summary {
            best,
            evaluation,
            skipped: std::mem::take(&mut self.progress.skipped),
            seconds: self.progress.history.iter().map(|r| r.seconds).sum(),
            history: std::mem::take(&mut self.progress.history),
        };
        let confusion = match &summary.evaluation {
            Measured::Classes(found) => Some(&found.confusion),
            Measured::Masks(found) => Some(&found.confusion),
            Measured::Boxes(_) => None,
        };
        if let Some(confusion) = confusion {
            let csv = confusion.to_csv(&self.classes);
            write_atomic(&self.run.file("confusion.csv"), csv.as_bytes())?;
        }
        let val: &dyn Dataset = match self.work.classes() {
            Some([_, val]) => val.dataset().as_ref(),
            None => &NoPictures,
        };
        let [trained_on, held_out] = self.work.pictures();
        let source = ReportSource {
            config: &self.config,
            summary: &summary,
            classes: &self.classes,
            parts: &self.parts(),
            trained_on,
            held_out,
            val,
            preprocess: &self.preprocess,
            examples: self.examples(&model, &summary.evaluation, &plain)?,
        };
        write_report(&self.run, &source)?;
        Ok(Outcome::Finished(Box::new(summary)))
    }
}

impl Trainer {
    /// Held-out pictures beside what the model makes of them, where masks or boxes are learnt.
    fn examples(
        &self,
        model: &Model,
        found: &Measured,
        device: &Device,
    ) -> Result<Vec<(String, Image)>, TrainError> {
        let build = self.config.build(self.classes.len());
        let how = (&self.preprocess, &build);
        work::examples(&self.work, model, found, how, device)
    }
}

/// The data of a task whose pictures have no class.
struct NoPictures;

impl Dataset for NoPictures {
    fn len(&self) -> usize {
        0
    }
    fn class_names(&self) -> &[String] {
        &[]
    }
    fn label(&self, _: usize) -> Option<u32> {
        None
    }
    fn id(&self, index: usize) -> String {
        format!("sample {index}")
    }
    fn get(&self, index: usize) -> Result<Sample, DataError> {
        Err(DataError::Index { index, len: 0 })
    }
}
