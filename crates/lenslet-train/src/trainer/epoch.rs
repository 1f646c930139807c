//! One epoch: its steps, its record, what is written after it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use burn::module::Module;
use lenslet_models::Model;

use super::feed::{Fed, Feed};
use super::setup::loader;
use super::{Observer, Trainer};
use crate::features::{self, FeatureSet};
use crate::golden::golden_of;
use crate::history::GroupRates;
use crate::metrics::top_k;
use crate::model_file::{FORMAT, save_model};
use crate::run::Progress;
use crate::step::{Input, backward};
use crate::{EpochRecord, Freeze, ModelInfo, NamedGradients, Runner, TrainError, record_golden};

/// Gradients of the batches of a step that is not complete yet.
#[derive(Default)]
struct Pending {
    sum: NamedGradients,
    samples: usize,
    batches: usize,
}

impl Trainer {
    /// Runs the frozen backbone over all pictures, where that is all it is needed for; false when
    /// `stop` was raised.
    pub(super) fn prepare_features(
        &mut self,
        observer: &mut dyn Observer,
        stop: &AtomicBool,
    ) -> Result<bool, TrainError> {
        let head_first = self.trains_head_first(self.progress.epoch);
        if !head_first && !self.has_frozen_backbone() {
            return Ok(true);
        }
        if !head_first && !self.caches_features() {
            self.frozen = Some(self.frozen_backbone()?);
            return Ok(true);
        }
        let preprocess = serde_json::to_string(&self.preprocess).unwrap_or_default();
        let (data, engine) = (&self.config.fingerprint, self.config.train.engine);
        let key = features::key(data, &preprocess, engine, self.model(), &self.parts);
        let path = self.run.file("features.safetensors");
        self.features = features::load(&path, &key);
        if self.features.is_some() {
            return Ok(true);
        }
        let frozen = self.frozen_backbone()?;
        let pictures: usize = self.work.pictures().iter().sum();
        let mut before = 0;
        let mut sets = Vec::new();
        let Some([train, val]) = self.work.classes() else {
            return Ok(true);
        };
        // The pictures as they are, also where later epochs change them.
        let as_they_are = loader(&self.config, train, self.preprocess)?;
        for loader in [&as_they_are, val] {
            let mut progress = |done| observer.features_done(before + done, pictures);
            match FeatureSet::compute(&frozen, loader, &mut progress, stop)? {
                Some(set) => sets.push(set),
                None => return Ok(false),
            }
            before += loader.dataset().len();
        }
        if let Ok(sets) = <[FeatureSet; 2]>::try_from(sets) {
            features::save(&path, &key, [&sets[0], &sets[1]])?;
            self.features = Some(sets);
        }
        Ok(true)
    }

    /// The frozen backbone, ready for batches of pictures.
    fn frozen_backbone(&self) -> Result<Runner, TrainError> {
        let batch = self.config.train.batch_size;
        let [pictures, _] = self.work.pictures();
        let input = self.input(batch.min(pictures));
        let plain = self.device.clone().without_autodiff();
        Runner::features(
            self.config.train.engine,
            self.model().valid(),
            input,
            &plain,
        )
    }

    /// Trains the rest of the epoch under way; true when it was stopped.
    pub(super) fn epoch(
        &mut self,
        observer: &mut dyn Observer,
        stop: &AtomicBool,
    ) -> Result<bool, TrainError> {
        let (epoch, batches) = (self.progress.epoch, self.work.batches());
        if self.progress.batch == 0 && epoch > 0 && self.trains_head_first(epoch - 1) {
            self.join_backbone(epoch);
        }
        observer.epoch_begins(epoch + 1, self.progress.batch, batches);
        let rates = self.rates(epoch);
        let began = Instant::now();
        let spent = self.progress.seconds;
        // Taken out, so that the batches can be read while the model changes.
        let features = self.features.take();
        let stopped = {
            let mut feed = Feed::of(self, features.as_ref(), epoch as u64, self.progress.batch);
            self.batches(&mut feed, rates, spent, began, observer, stop)
        };
        self.features = features;
        if stopped? {
            return Ok(true);
        }
        let train_seconds = self.progress.seconds;
        let model = self.judged_model();
        let Some(evaluation) = self.evaluate(&model, stop)? else {
            return Ok(true);
        };
        self.progress.remember(evaluation.skipped());
        let share = |v: f64| v / self.progress.seen.max(1) as f64;
        let record = EpochRecord {
            epoch: epoch + 1,
            train_loss: share(self.progress.loss_sum),
            train_acc: share(self.progress.correct),
            val_loss: evaluation.loss(),
            val_acc: evaluation.chief(),
            measures: evaluation.measures(),
            lr: rates,
            images_per_s: self.progress.seen as f64 / train_seconds.max(1e-9),
            seconds: spent + began.elapsed().as_secs_f64(),
        };
        self.complete(record, &model, observer)?;
        Ok(false)
    }

    fn batches(
        &mut self,
        feed: &mut Feed<'_>,
        rates: GroupRates,
        spent: f64,
        began: Instant,
        observer: &mut dyn Observer,
        stop: &AtomicBool,
    ) -> Result<bool, TrainError> {
        let mut pending = Pending::default();
        while let Some(fed) = feed.next_batch() {
            self.take_in(fed?, &mut pending, rates)?;
            self.progress.seconds = spent + began.elapsed().as_secs_f64();
            let seen = self.progress.seen;
            let mean = self.progress.loss_sum / seen.max(1) as f64;
            observer.batch_done(self.progress.batch, seen, mean);
            // A checkpoint holds no gradients: a run stops between steps only.
            if pending.batches == 0 && stop.load(Ordering::Relaxed) {
                return Ok(true);
            }
        }
        if pending.batches > 0 {
            self.step(&mut pending, rates)?;
        }
        self.progress.remember(&feed.skipped());
        Ok(false)
    }

    /// The backbone trains from here on: features of how it was are of no more use, and moments of
    /// the classifier alone would make the first steps of the rest too large.
    fn join_backbone(&mut self, epoch: usize) {
        if self.trains_head_first(epoch) {
            return;
        }
        self.features = None;
        self.optimizer = self.config.train.new_optimizer();
    }

    /// Learning rates of an epoch, counted from 0.
    fn rates(&self, epoch: usize) -> GroupRates {
        let train = &self.config.train;
        let head_first = self.trains_head_first(epoch);
        let alone = self.head_epochs();
        // Each of the two stretches has a course of its own.
        let factor = match head_first {
            true => train.scheduler.factor(epoch, alone, 0),
            false => {
                train
                    .scheduler
                    .factor(epoch - alone, train.epochs - alone, train.warmup_epochs)
            }
        };
        let backbone = match train.freeze {
            Freeze::Backbone => 0.0,
            _ if head_first => 0.0,
            _ => train.backbone_lr_mult,
        };
        GroupRates {
            head: train.lr * factor,
            backbone: train.lr * factor * backbone,
        }
    }

    /// The gradients of one batch, and the step when it completes one.
    fn take_in(
        &mut self,
        fed: Fed,
        pending: &mut Pending,
        rates: GroupRates,
    ) -> Result<(), TrainError> {
        let samples = fed.samples;
        // One global generator serves all of Burn's random operations: set by the position in the
        // run, dropout is the same after a resume.
        let position = self.progress.epoch * self.work.batches() + fed.number;
        self.device
            .seed(self.config.train.seed ^ ((position as u64) << 20));
        let input = self.behind_backbone(fed.input)?;
        let (model, criterion) = (self.model(), &self.criterion);
        let done = backward(model, input, &fed.target, criterion, &self.device);
        self.check("loss", done.loss)?;
        if let Some(gradients) = done.gradients {
            pending.add(gradients, samples);
        }
        let rows = done.logits.chunks_exact(self.classes.len());
        let right = rows
            .zip(&fed.labels)
            .filter(|(row, label)| top_k(row, 1)[0] == **label as usize)
            .count();
        let right = done
            .right
            .map_or(right as f64, |share| share * samples as f64);
        self.progress.correct += right;
        self.progress.loss_sum += done.loss * samples as f64;
        self.progress.seen += samples;
        if pending.batches == self.config.train.accumulate {
            self.step(pending, rates)?;
        }
        self.progress.batch = fed.number + 1;
        Ok(())
    }

    /// Pictures as features where the backbone is frozen and runs apart.
    pub(super) fn behind_backbone(&self, input: Input) -> Result<Input, TrainError> {
        Ok(match (&self.frozen, input) {
            (Some(frozen), Input::Pictures(images, shape)) => {
                let features = frozen.run(images, shape)?;
                let width = features.len() / shape[0].max(1);
                Input::Features(features, [shape[0], width])
            }
            (_, input) => input,
        })
    }

    /// One optimiser step.
    fn step(&mut self, pending: &mut Pending, rates: GroupRates) -> Result<(), TrainError> {
        let gradients = std::mem::take(pending).sum;
        let (parts, decay) = (&self.parts, self.config.train.layer_decay);
        let stages = parts.stages();
        let lr = |name: &str| match stages - parts.part(name) {
            0 => rates.head,
            1 => rates.backbone,
            distance => rates.backbone * decay.powi(distance as i32 - 1),
        };
        let max_norm = self.config.train.clip_grad_norm;
        let model = self.model.take().expect("there except during a step");
        let (model, norm) = self.optimizer.step(model, gradients, max_norm, &lr);
        if let Some(ema) = &mut self.ema
            && norm.is_finite()
        {
            ema.update(&model, self.optimizer.steps());
        }
        self.model = Some(model);
        self.check("gradient norm", norm)?;
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
        model: &Model,
        observer: &mut dyn Observer,
    ) -> Result<(), TrainError> {
        let best = self
            .progress
            .best()
            .is_none_or(|best| record.is_better_than(best));
        let mut history = std::mem::take(&mut self.progress.history);
        history.push(record.clone());
        self.progress = Progress {
            epoch: self.progress.epoch + 1,
            history,
            skipped: std::mem::take(&mut self.progress.skipped),
            ..Progress::default()
        };
        if best {
            let info = self.info(model, &record)?;
            save_model(&self.run.file("model.safetensors"), model, &info)?;
        }
        let title = format!("{} on {}", self.config.train.model, self.config.data);
        self.run.save_history(&title, &self.progress.history)?;
        self.checkpoint()?;
        observer.epoch_done(&record, best);
        Ok(())
    }

    fn info(&self, model: &Model, record: &EpochRecord) -> Result<ModelInfo, TrainError> {
        let plain = self.device.clone().without_autodiff();
        let golden = match self.work.classes() {
            Some([_, val]) => {
                record_golden(model, &self.preprocess, val.dataset().as_ref(), &plain)?
            }
            None => match self.work.sample() {
                Some((id, image)) => {
                    vec![golden_of(model, &self.preprocess, id, image, &plain)?]
                }
                None => Vec::new(),
            },
        };
        Ok(ModelInfo {
            format: FORMAT,
            architecture: self.config.train.model.clone(),
            classes: self.classes.clone(),
            options: Some(self.config.build(self.classes.len())),
            preprocess: self.preprocess,
            training: serde_json::json!({ "run": self.config, "epoch": record }),
            golden,
        })
    }
}

impl Pending {
    fn add(&mut self, gradients: NamedGradients, samples: usize) {
        self.batches += 1;
        let before = self.samples;
        self.samples += samples;
        if before == 0 {
            self.sum = gradients;
            return;
        }
        let mut mean = NamedGradients::default();
        let all = self.samples as f64;
        mean.add(std::mem::take(&mut self.sum), before as f64 / all);
        mean.add(gradients, samples as f64 / all);
        self.sum = mean;
    }
}
