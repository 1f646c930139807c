//! The batches of an epoch: pictures, or the features of a frozen backbone.

use std::sync::Arc;

use lenslet_data::boxes::BoxSamples;
use lenslet_data::masks::MaskSamples;
use lenslet_data::mix::Mix;
use lenslet_data::{Batch, DataError, Epoch, Skipped};

use super::Trainer;
use super::work::Work;
use crate::detect::AnchorSpec;
use crate::features::FeatureSet;
use crate::segment::PixelLoss;
use crate::step::Input;
use crate::{SkippedFile, Target, TrainError};

/// A batch to train on.
pub(super) struct Fed {
    /// Position in its epoch, from 0.
    pub number: usize,
    pub input: Input,
    pub samples: usize,
    /// The classes, where that is what is learnt.
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
    Masks(Epoch<MaskSamples>, PixelLoss),
    Boxes(Epoch<BoxSamples>, Arc<AnchorSpec>),
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
        let train = match &trainer.work {
            Work::Classes(loaders) => &loaders[0],
            Work::Masks(train, _) => {
                return Feed::Masks(train.epoch_from(epoch, first), config.pixel_loss);
            }
            Work::Boxes(loaders, spec) => {
                return Feed::Boxes(loaders[0].epoch_from(epoch, first), Arc::clone(spec));
            }
        };
        match features {
            Some([set, _]) => Feed::Features {
                set,
                order: train.order(epoch),
                batch_size: config.batch_size,
                next: first,
            },
            None => Feed::Pictures {
                epoch: train.epoch_from(epoch, first),
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
        let named = |skipped: &[Skipped]| skipped.iter().map(SkippedFile::of).collect();
        match self {
            Feed::Pictures { epoch, .. } => named(epoch.skipped()),
            Feed::Masks(epoch, _) => named(epoch.skipped()),
            Feed::Boxes(epoch, _) => named(epoch.skipped()),
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
                    samples: batch.labels.len(),
                    input: Input::Pictures(batch.images, batch.shape),
                    labels: batch.labels,
                    target,
                }))
            }
            Feed::Masks(epoch, loss) => {
                let loss = *loss;
                of_vision(epoch.next()?, |masks| Target::Masks(masks.concat(), loss))
            }
            Feed::Boxes(epoch, spec) => of_vision(epoch.next()?, |targets| {
                let boxes = targets.into_iter().map(|target| target.boxes);
                Target::Boxes(boxes.collect(), Arc::clone(spec))
            }),
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
                        samples: labels.len(),
                        labels,
                    }));
                }
            },
        }
    }
}

/// A batch of masks or boxes.
fn of_vision<L>(
    batch: Result<Batch<L>, DataError>,
    target: impl FnOnce(Vec<L>) -> Target,
) -> Option<Result<Fed, TrainError>> {
    Some(match batch {
        Ok(batch) => Ok(Fed {
            number: batch.number,
            samples: batch.labels.len(),
            input: Input::Pictures(batch.images, batch.shape),
            labels: Vec::new(),
            target: target(batch.labels),
        }),
        Err(error) => Err(error.into()),
    })
}
