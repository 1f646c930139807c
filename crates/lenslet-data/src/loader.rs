//! Batches, prepared by worker threads.
//!
//! What comes out depends on the dataset, the settings, the epoch and nothing else: not on the number of workers, nor on
//! which of them was faster. Order and augmentation are drawn from generators keyed by seed, epoch and sample
//! ([`crate::rng`]), and an epoch can be entered at any batch, so that an interrupted run continues bit for bit.

mod queue;

use crate::rng::Purpose;
use crate::{Augment, DataError, Dataset, Preprocess, Rng};
use queue::{Job, Queue};
use std::sync::Arc;
use std::thread::JoinHandle;

/// How batches are made.
#[derive(Clone, Debug)]
pub struct LoaderConfig {
    /// Samples a batch; the last of an epoch may have fewer.
    pub batch_size: usize,
    /// Random order, a new one each epoch; otherwise the dataset's.
    pub shuffle: bool,
    /// Decides order and augmentation.
    pub seed: u64,
    /// Threads that prepare samples; 0 for as many as there are cores.
    pub workers: usize,
    /// Batches that may be prepared ahead of the one being used, at least 1. Bounds the memory.
    pub prefetch: usize,
    /// Leaves out the last batch of an epoch when it is not full.
    pub drop_last: bool,
    /// What happens when a sample cannot be read.
    pub on_unreadable: OnUnreadable,
}

impl Default for LoaderConfig {
    fn default() -> Self {
        Self {
            batch_size: 64,
            shuffle: false,
            seed: 0,
            workers: 0,
            prefetch: 2,
            drop_last: false,
            on_unreadable: OnUnreadable::Fail,
        }
    }
}

/// What happens when a sample cannot be read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum OnUnreadable {
    /// Its batch is an error.
    Fail,
    /// It is left out of its batch and listed in [`Epoch::skipped`]. More than this fraction of the dataset in one epoch
    /// ends the epoch with [`DataError::TooManyUnreadable`].
    Skip {
        /// Fraction of the dataset, 0 to 1.
        limit: f64,
    },
}

/// What a loader reads: samples that become a model's input, each with something to be learnt of it.
pub trait Samples: Send + Sync + 'static {
    /// What is to be learnt of a sample: a class, a mask, boxes.
    type Label: Clone + Default + Send + 'static;

    /// Number of samples.
    fn len(&self) -> usize;

    /// True when there are no samples.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What a person would call sample `index`.
    fn id(&self, index: usize) -> String;

    /// Channels, height and width of an input.
    fn input_shape(&self) -> [usize; 3];

    /// Writes the input for sample `index`, as epoch `epoch` sees it, into `out`, and returns its label.
    ///
    /// # Errors
    /// When the sample cannot be read.
    fn prepare(&self, epoch: u64, index: usize, out: &mut [f32]) -> Result<Self::Label, DataError>;
}

/// Some samples, ready for a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch<L = u32> {
    /// Position in its epoch, from 0.
    pub number: usize,
    /// Batch, channels, height, width.
    pub shape: [usize; 4],
    /// The inputs, `[N, C, H, W]`.
    pub images: Vec<f32>,
    /// The classes, or what else is to be learnt, `[N]`.
    pub labels: Vec<L>,
    /// Which samples of the dataset these are, `[N]`.
    pub indices: Vec<usize>,
}

impl<L> Batch<L> {
    /// Number of samples.
    pub fn len(&self) -> usize {
        self.shape[0]
    }

    /// True when every sample of it was left out.
    pub fn is_empty(&self) -> bool {
        self.shape[0] == 0
    }
}

/// A sample that was left out.
#[derive(Debug)]
pub struct Skipped {
    /// Its index in the dataset.
    pub index: usize,
    /// What a person would call it.
    pub id: String,
    /// Why.
    pub error: DataError,
}

/// A dataset together with how it becomes batches.
pub struct Loader<S = Pictures> {
    samples: Arc<S>,
    config: LoaderConfig,
}

/// Pictures of a class each, as a model is to see them.
pub struct Pictures {
    dataset: Arc<dyn Dataset>,
    preprocess: Preprocess,
    augment: Option<Augment>,
    seed: u64,
}

impl Loader {
    /// A loader of `dataset`, each picture taken through `preprocess` and, in training, `augment`.
    ///
    /// # Errors
    /// [`DataError::Empty`] for a dataset without samples, [`DataError::Setting`] for settings that make no sense.
    pub fn new(
        dataset: Arc<dyn Dataset>,
        preprocess: Preprocess,
        augment: Option<Augment>,
        config: LoaderConfig,
    ) -> Result<Self, DataError> {
        preprocess.validate()?;
        if let Some(a) = &augment {
            a.validate()?;
        }
        let pictures = Pictures {
            dataset,
            preprocess,
            augment,
            seed: config.seed,
        };
        Self::of(pictures, config)
    }

    /// The dataset.
    pub fn dataset(&self) -> &Arc<dyn Dataset> {
        &self.samples.dataset
    }

    /// How pictures are prepared.
    pub fn preprocess(&self) -> &Preprocess {
        &self.samples.preprocess
    }

    /// What is done to pictures at random.
    pub fn augment(&self) -> Option<&Augment> {
        self.samples.augment.as_ref()
    }
}

impl<S: Samples> Loader<S> {
    /// A loader of `samples`.
    ///
    /// # Errors
    /// As [`Loader::new`].
    pub fn of(samples: S, config: LoaderConfig) -> Result<Self, DataError> {
        let setting = |setting, found: String, expected| {
            Err(DataError::Setting {
                setting,
                found,
                expected,
            })
        };
        if config.batch_size == 0 {
            return setting("batch_size", "0".into(), "it must be at least 1");
        }
        if let OnUnreadable::Skip { limit } = config.on_unreadable
            && !(0.0..=1.0).contains(&limit)
        {
            return setting(
                "limit of unreadable images",
                limit.to_string(),
                "it must be a fraction from 0 to 1",
            );
        }
        if samples.is_empty() {
            return Err(DataError::Empty {
                what: "the dataset".into(),
            });
        }
        let samples = Arc::new(samples);
        Ok(Self { samples, config })
    }

    /// What it reads.
    pub fn samples(&self) -> &S {
        &self.samples
    }

    /// Batches in an epoch.
    pub fn batches(&self) -> usize {
        let (samples, size) = (self.samples.len(), self.config.batch_size);
        if self.config.drop_last {
            samples / size
        } else {
            samples.div_ceil(size)
        }
    }

    /// The samples of epoch `epoch` in their order.
    pub fn order(&self, epoch: u64) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.samples.len()).collect();
        if self.config.shuffle {
            Rng::keyed(self.config.seed, Purpose::Shuffle, epoch, 0).shuffle(&mut order);
        }
        order
    }

    /// The batches of epoch `epoch`.
    pub fn epoch(&self, epoch: u64) -> Epoch<S> {
        self.epoch_from(epoch, 0)
    }

    /// The batches of epoch `epoch` from number `first` on: the same ones that [`Loader::epoch`] gives after `first`
    /// others.
    pub fn epoch_from(&self, epoch: u64, first: usize) -> Epoch<S> {
        let job = Job {
            order: self.order(epoch),
            batch_size: self.config.batch_size,
            batches: self.batches(),
            sample_len: self.samples.input_shape().iter().product(),
        };
        let workers = match self.config.workers {
            0 => std::thread::available_parallelism().map_or(1, |n| n.get()),
            n => n,
        };
        let queue = Arc::new(Queue::new(job, first, self.config.prefetch.max(1)));
        let handles = (0..workers).map(|i| {
            let (queue, samples) = (queue.clone(), self.samples.clone());
            std::thread::Builder::new()
                .name(format!("data-{i}"))
                .spawn(move || queue.work(|index, out| samples.prepare(epoch, index, out)))
        });
        // Where the system refuses threads, `Epoch::next` prepares the samples itself.
        let handles = handles.filter_map(Result::ok).collect();
        Epoch {
            queue,
            handles,
            samples: self.samples.clone(),
            epoch,
            on_unreadable: self.config.on_unreadable,
            skipped: Vec::new(),
            over: false,
        }
    }
}

impl Samples for Pictures {
    type Label = u32;

    fn len(&self) -> usize {
        self.dataset.len()
    }

    fn id(&self, index: usize) -> String {
        self.dataset.id(index)
    }

    fn input_shape(&self) -> [usize; 3] {
        self.preprocess.output_shape()
    }

    fn prepare(&self, epoch: u64, index: usize, out: &mut [f32]) -> Result<u32, DataError> {
        let sample = self.dataset.get(index)?;
        match &self.augment {
            Some(augment) => {
                let mut rng = Rng::keyed(self.seed, Purpose::Augment, epoch, index as u64);
                self.preprocess
                    .apply(sample.image, Some((augment, &mut rng)), out)?;
            }
            None => self.preprocess.apply(sample.image, None, out)?,
        }
        Ok(sample.label)
    }
}

/// The batches of one epoch, in order. Dropping it stops and joins its workers.
pub struct Epoch<S: Samples = Pictures> {
    queue: Arc<Queue<S::Label>>,
    handles: Vec<JoinHandle<()>>,
    samples: Arc<S>,
    epoch: u64,
    on_unreadable: OnUnreadable,
    skipped: Vec<Skipped>,
    over: bool,
}

impl<S: Samples> Epoch<S> {
    /// The samples that were left out of the batches seen so far.
    pub fn skipped(&self) -> &[Skipped] {
        &self.skipped
    }

    /// Takes the samples that were left out since the last call out of the list. (The limit on their number then
    /// counts anew.)
    pub fn take_skipped(&mut self) -> Vec<Skipped> {
        std::mem::take(&mut self.skipped)
    }

    /// Gives a batch's memory back for the batches to come.
    pub fn recycle(&self, batch: Batch<S::Label>) {
        self.queue.recycle(batch.images);
    }

    /// Takes the unreadable samples out of `batch`.
    fn sort_out(
        &mut self,
        batch: &mut Batch<S::Label>,
        failures: Vec<(usize, DataError)>,
    ) -> Result<(), DataError> {
        let OnUnreadable::Skip { limit } = self.on_unreadable else {
            return failures
                .into_iter()
                .next()
                .map_or(Ok(()), |(_, error)| Err(error));
        };
        let len = batch.shape[1..].iter().product::<usize>();
        let bad: Vec<usize> = failures.iter().map(|(at, _)| *at).collect();
        let mut kept = 0;
        for at in (0..batch.len()).filter(|at| bad.binary_search(at).is_err()) {
            batch
                .images
                .copy_within(at * len..(at + 1) * len, kept * len);
            batch.labels.swap(kept, at);
            kept += 1;
        }
        for (at, error) in failures {
            let index = batch.indices[at];
            self.skipped.push(Skipped {
                index,
                id: self.samples.id(index),
                error,
            });
        }
        let mut at = 0;
        batch.indices.retain(|_| {
            at += 1;
            bad.binary_search(&(at - 1)).is_err()
        });
        batch.images.truncate(kept * len);
        batch.labels.truncate(kept);
        batch.shape[0] = kept;
        if self.skipped.len() as f64 > limit * self.samples.len() as f64 {
            let list = self.skipped.iter().map(|s| s.error.to_string()).collect();
            return Err(DataError::TooManyUnreadable {
                count: self.skipped.len(),
                samples: self.samples.len(),
                limit,
                list,
            });
        }
        Ok(())
    }
}

impl<S: Samples> Iterator for Epoch<S> {
    type Item = Result<Batch<S::Label>, DataError>;

    /// The next batch with at least one sample. After [`DataError::TooManyUnreadable`] nothing follows; after any other
    /// error the next batch does.
    fn next(&mut self) -> Option<Self::Item> {
        while !self.over {
            if self.handles.is_empty() {
                let (samples, epoch) = (&self.samples, self.epoch);
                self.queue
                    .work_one_batch(|index, out| samples.prepare(epoch, index, out));
            }
            let done = self.queue.take()?;
            let [c, h, w] = self.samples.input_shape();
            let shape = [done.indices.len(), c, h, w];
            let mut batch = Batch {
                number: done.number,
                shape,
                images: done.images,
                labels: done.labels,
                indices: done.indices,
            };
            if !done.failures.is_empty()
                && let Err(error) = self.sort_out(&mut batch, done.failures)
            {
                self.over = matches!(error, DataError::TooManyUnreadable { .. });
                return Some(Err(error));
            }
            if !batch.is_empty() {
                return Some(Ok(batch));
            }
        }
        None
    }
}

impl<S: Samples> Drop for Epoch<S> {
    fn drop(&mut self) {
        self.queue.stop();
        for handle in self.handles.drain(..) {
            // A worker catches its panics; there is nothing to learn here.
            let _ = handle.join();
        }
    }
}

#[cfg(test)]
mod tests;
