//! The batches of an epoch: pictures, or the features of a frozen backbone.

use lenslet_data::Epoch;
use lenslet_data::mix::Mix;

use super::Trainer;
use crate::features::FeatureSet;
use crate::step::Input;
use crate::{SkippedFile, Target, TrainError};

/// A batch to train on.
pub(super) struct Fed {
    /// Position in its epoch, from 0.
    pub number: usize,
    pub input: Input,
    pub labels: Vec<u32>,
    /// The labels, or blends of them.
    pub target: Target,
}

/// The rest of an epoch.
pub(super) enum Feed<'a> {
    Pictures {
        epoch: Epoch,
        mixing: Option<Mixing>,
    },
    Features {
        set: &'a FeatureSet,
        order: Vec<usize>,
        batch_size: usize,
        next: usize,
    },
}

/// How pictures of a batch are blended.
pub(super) struct Mixing {
    mix: Mix,
    seed: u64,
    epoch: u64,
    classes: usize,
    smoothing: f32,
}

impl<'a> Feed<'a> {
    /// The batches of `epoch` from number `first` on.
    pub fn of(
        trainer: &Trainer,
        features: Option<&'a [FeatureSet; 2]>,
        epoch: u64,
        first: usize,
    ) -> Self {
        let config = &trainer.config.train;
        match features {
            Some([set, _]) => Feed::Features {
                set,
                order: trainer.train.order(epoch),
                batch_size: config.batch_size,
                next: first,
            },
            None => Feed::Pictures {
                epoch: trainer.train.epoch_from(epoch, first),
                mixing: config.mix().map(|mix| Mixing {
                    mix,
                    seed: config.seed,
                    epoch,
                    classes: trainer.classes.len(),
                    smoothing: config.label_smoothing as f32,
                }),
            },
        }
    }

    /// Pictures that could not be read so far.
    pub fn skipped(&self) -> Vec<SkippedFile> {
        match self {
            Feed::Pictures { epoch, .. } => epoch.skipped().iter().map(SkippedFile::of).collect(),
            Feed::Features { set, .. } => set.skipped.clone(),
        }
    }

    /// The next batch with at least one sample.
    pub fn next_batch(&mut self) -> Option<Result<Fed, TrainError>> {
        match self {
            Feed::Pictures { epoch, mixing } => {
                let mut batch = match epoch.next()? {
                    Ok(batch) => batch,
                    Err(error) => return Some(Err(error.into())),
                };
                let target = match mixing {
                    Some(m) => {
                        let mixed = m.mix.apply(&mut batch, m.seed, m.epoch);
                        let targets = mixed.targets(&batch.labels, m.classes, m.smoothing);
                        Target::Shares(targets)
                    }
                    None => Target::Classes(batch.labels.clone()),
                };
                Some(Ok(Fed {
                    number: batch.number,
                    input: Input::Pictures(batch.images, batch.shape),
                    labels: batch.labels,
                    target,
                }))
            }
            Feed::Features {
                set,
                order,
                batch_size,
                next,
            } => loop {
                let number = *next;
                let indices = order.chunks(*batch_size).nth(number)?;
                *next += 1;
                let (input, labels, _) = set.batch(indices);
                if !labels.is_empty() {
                    return Some(Ok(Fed {
                        number,
                        input,
                        target: Target::Classes(labels.clone()),
                        labels,
                    }));
                }
            },
        }
    }
}
