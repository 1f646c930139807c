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

/// Some samples, ready for a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// Position in its epoch, from 0.
    pub number: usize,
    /// Batch, channels, height, width.
    pub shape: [usize; 4],
    /// The inputs, `[N, C, H, W]`.
    pub images: Vec<f32>,
    /// The classes, `[N]`.
    pub labels: Vec<u32>,
    /// Which samples of the dataset these are, `[N]`.
    pub indices: Vec<usize>,
}

impl Batch {
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
pub struct Loader {
    shared: Arc<Shared>,
    config: LoaderConfig,
}

/// What the workers read.
struct Shared {
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
        if dataset.is_empty() {
            return Err(DataError::Empty {
                what: "the dataset".into(),
            });
        }
        let shared = Arc::new(Shared {
            dataset,
            preprocess,
            augment,
            seed: config.seed,
        });
        Ok(Self { shared, config })
    }

    /// The dataset.
    pub fn dataset(&self) -> &Arc<dyn Dataset> {
        &self.shared.dataset
    }

    /// How pictures are prepared.
    pub fn preprocess(&self) -> &Preprocess {
        &self.shared.preprocess
    }

    /// What is done to pictures at random.
    pub fn augment(&self) -> Option<&Augment> {
        self.shared.augment.as_ref()
    }

    /// Batches in an epoch.
    pub fn batches(&self) -> usize {
        let (samples, size) = (self.shared.dataset.len(), self.config.batch_size);
        if self.config.drop_last {
            samples / size
        } else {
            samples.div_ceil(size)
        }
    }

    /// The samples of epoch `epoch` in their order.
    pub fn order(&self, epoch: u64) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.shared.dataset.len()).collect();
        if self.config.shuffle {
            Rng::keyed(self.config.seed, Purpose::Shuffle, epoch, 0).shuffle(&mut order);
        }
        order
    }

    /// The batches of epoch `epoch`.
    pub fn epoch(&self, epoch: u64) -> Epoch {
        self.epoch_from(epoch, 0)
    }

    /// The batches of epoch `epoch` from number `first` on: the same ones that [`Loader::epoch`] gives after `first`
    /// others.
    pub fn epoch_from(&self, epoch: u64, first: usize) -> Epoch {
        let job = Job {
            order: self.order(epoch),
            batch_size: self.config.batch_size,
            batches: self.batches(),
            sample_len: self.shared.preprocess.output_len(),
        };
        let workers = match self.config.workers {
            0 => std::thread::available_parallelism().map_or(1, |n| n.get()),
            n => n,
        };
        let queue = Arc::new(Queue::new(job, first, self.config.prefetch.max(1)));
        let handles = (0..workers).map(|i| {
            let (queue, shared) = (queue.clone(), self.shared.clone());
            std::thread::Builder::new()
                .name(format!("data-{i}"))
                .spawn(move || queue.work(|index, out| shared.prepare(epoch, index, out)))
        });
        // Where the system refuses threads, `Epoch::next` prepares the samples itself.
        let handles = handles.filter_map(Result::ok).collect();
        let samples = self.shared.dataset.len();
        Epoch {
            queue,
            handles,
            shared: self.shared.clone(),
            epoch,
            on_unreadable: self.config.on_unreadable,
            samples,
            skipped: Vec::new(),
            over: false,
        }
    }
}

impl Shared {
    /// Writes the input for sample `index` into `out` and returns its label.
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
pub struct Epoch {
    queue: Arc<Queue>,
    handles: Vec<JoinHandle<()>>,
    shared: Arc<Shared>,
    epoch: u64,
    on_unreadable: OnUnreadable,
    samples: usize,
    skipped: Vec<Skipped>,
    over: bool,
}

impl Epoch {
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
    pub fn recycle(&self, batch: Batch) {
        self.queue.recycle(batch.images);
    }

    /// Takes the unreadable samples out of `batch`.
    fn sort_out(
        &mut self,
        batch: &mut Batch,
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
            batch.labels[kept] = batch.labels[at];
            kept += 1;
        }
        for (at, error) in failures {
            let index = batch.indices[at];
            self.skipped.push(Skipped {
                index,
                id: self.shared.dataset.id(index),
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
        if self.skipped.len() as f64 > limit * self.samples as f64 {
            let list = self.skipped.iter().map(|s| s.error.to_string()).collect();
            return Err(DataError::TooManyUnreadable {
                count: self.skipped.len(),
                samples: self.samples,
                limit,
                list,
            });
        }
        Ok(())
    }
}

impl Iterator for Epoch {
    type Item = Result<Batch, DataError>;

    /// The next batch with at least one sample. After [`DataError::TooManyUnreadable`] nothing follows; after any other
    /// error the next batch does.
    fn next(&mut self) -> Option<Self::Item> {
        while !self.over {
            if self.handles.is_empty() {
                let (shared, epoch) = (&self.shared, self.epoch);
                self.queue
                    .work_one_batch(|index, out| shared.prepare(epoch, index, out));
            }
            let done = self.queue.take()?;
            let [c, h, w] = self.shared.preprocess.output_shape();
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

impl Drop for Epoch {
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
