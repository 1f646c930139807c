//! The window of batches in preparation, shared by the workers and the consumer.
//!
//! A worker claims a few samples at a time, in order, so that all workers help with the batch that is needed next. It
//! prepares them in memory of its own and copies them into the batch; that copy is a hundredth of the work, and needs no
//! shared mutable buffer. No batch is begun that lies more than `prefetch` ahead of the consumer.

use crate::DataError;
use crate::decode::panic_message;
use std::collections::VecDeque;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// What an epoch consists of.
pub(super) struct Job {
    pub order: Vec<usize>,
    pub batch_size: usize,
    pub batches: usize,
    pub sample_len: usize,
}

impl Job {
    fn samples(&self, batch: usize) -> &[usize] {
        let from = batch * self.batch_size;
        &self.order[from..(from + self.batch_size).min(self.order.len())]
    }
}

/// A batch that is complete.
pub(super) struct Done<L> {
    pub number: usize,
    pub images: Vec<f32>,
    pub labels: Vec<L>,
    pub indices: Vec<usize>,
    /// Positions in the batch that could not be prepared, rising, and why.
    pub failures: Vec<(usize, DataError)>,
}

/// A batch in preparation.
struct Open<L> {
    done: Done<L>,
    /// Samples not yet handed to a worker begin here.
    claimed: usize,
    /// Samples not yet delivered.
    missing: usize,
}

struct State<L> {
    /// Batches from `next` on that were begun.
    window: VecDeque<Open<L>>,
    /// The batch that the consumer takes next.
    next: usize,
    /// Memory to use again.
    spare: Vec<Vec<f32>>,
    stopped: bool,
}

pub(super) struct Queue<L> {
    job: Job,
    prefetch: usize,
    /// Samples that a worker claims at once: small ones in groups, so that the lock is not the work.
    group: usize,
    state: Mutex<State<L>>,
    /// Something may be claimed, or the end has come.
    work: Condvar,
    /// A batch is complete.
    ready: Condvar,
}

/// Samples `range` of batch `number`.
struct Claim {
    number: usize,
    range: Range<usize>,
}

impl<L: Clone + Default> Queue<L> {
    pub(super) fn new(job: Job, first: usize, prefetch: usize) -> Self {
        let group = (16_384 / job.sample_len.max(1)).clamp(1, 64);
        let state = State {
            window: VecDeque::new(),
            next: first,
            spare: Vec::new(),
            stopped: false,
        };
        Self {
            job,
            prefetch,
            group,
            state: Mutex::new(state),
            work: Condvar::new(),
            ready: Condvar::new(),
        }
    }

    /// No code that can panic runs under the lock, so a poisoned lock holds sound data.
    fn lock(&self) -> MutexGuard<'_, State<L>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A worker's life: prepares samples until the epoch is over or stopped.
    pub(super) fn work(&self, prepare: impl Fn(usize, &mut [f32]) -> Result<L, DataError>) {
        let mut scratch = vec![0.0; self.job.sample_len];
        let mut state = self.lock();
        while !state.stopped {
            let Some(claim) = self.claim(&mut state) else {
                if state.next + state.window.len() >= self.job.batches {
                    return;
                }
                state = self
                    .work
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            drop(state);
            self.prepare(claim, &mut scratch, &prepare);
            state = self.lock();
        }
    }

    /// Prepares the next batch on the calling thread.
    pub(super) fn work_one_batch(
        &self,
        prepare: impl Fn(usize, &mut [f32]) -> Result<L, DataError>,
    ) {
        let mut scratch = vec![0.0; self.job.sample_len];
        loop {
            let mut state = self.lock();
            if state.window.front().is_some_and(|b| b.missing == 0) {
                return;
            }
            let Some(claim) = self.claim(&mut state) else {
                return;
            };
            drop(state);
            self.prepare(claim, &mut scratch, &prepare);
        }
    }

    /// The next samples that nobody prepares yet.
    fn claim(&self, state: &mut State<L>) -> Option<Claim> {
        let unclaimed = |open: &Open<L>| open.claimed < open.done.indices.len();
        let at = match state.window.iter().position(unclaimed) {
            Some(at) => at,
            None => {
                let number = state.next + state.window.len();
                if number >= self.job.batches || state.window.len() >= self.prefetch {
                    return None;
                }
                let indices = self.job.samples(number).to_vec();
                let n = indices.len();
                let mut images = state.spare.pop().unwrap_or_default();
                images.resize(n * self.job.sample_len, 0.0);
                let done = Done {
                    number,
                    images,
                    labels: vec![L::default(); n],
                    indices,
                    failures: Vec::new(),
                };
                state.window.push_back(Open {
                    done,
                    claimed: 0,
                    missing: n,
                });
                state.window.len() - 1
            }
        };
        let open = state.window.get_mut(at)?;
        let from = open.claimed;
        open.claimed = (from + self.group).min(open.done.indices.len());
        Some(Claim {
            number: open.done.number,
            range: from..open.claimed,
        })
    }

    /// Prepares and delivers the samples of a claim.
    fn prepare(
        &self,
        claim: Claim,
        scratch: &mut [f32],
        prepare: &impl Fn(usize, &mut [f32]) -> Result<L, DataError>,
    ) {
        let len = self.job.sample_len;
        for (at, &index) in claim
            .range
            .clone()
            .zip(&self.job.samples(claim.number)[claim.range])
        {
            let result = catch_unwind(AssertUnwindSafe(|| prepare(index, scratch)));
            let result = result.unwrap_or_else(|panic| {
                Err(DataError::Internal {
                    what: format!("sample {index}"),
                    reason: panic_message(&*panic),
                })
            });
            let mut state = self.lock();
            // The consumer takes complete batches only, so the batch is still in the window.
            let Some(open) = claim
                .number
                .checked_sub(state.next)
                .and_then(|i| state.window.get_mut(i))
            else {
                return;
            };
            match result {
                Ok(label) => {
                    open.done.images[at * len..(at + 1) * len].copy_from_slice(scratch);
                    open.done.labels[at] = label;
                }
                Err(error) => open.done.failures.push((at, error)),
            }
            open.missing -= 1;
            if open.missing == 0 {
                open.done.failures.sort_by_key(|(at, _)| *at);
                self.ready.notify_one();
            }
        }
    }

    /// The next batch, as soon as it is complete; `None` after the last.
    pub(super) fn take(&self) -> Option<Done<L>> {
        let mut state = self.lock();
        if state.next >= self.job.batches {
            return None;
        }
        loop {
            if state.window.front().is_some_and(|b| b.missing == 0) {
                let open = state.window.pop_front()?;
                state.next += 1;
                self.work.notify_all();
                return Some(open.done);
            }
            state = self
                .ready
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    pub(super) fn recycle(&self, images: Vec<f32>) {
        let mut state = self.lock();
        if state.spare.len() < self.prefetch {
            state.spare.push(images);
        }
    }

    pub(super) fn stop(&self) {
        self.lock().stopped = true;
        self.work.notify_all();
    }
}
