//! Where the time of a training step goes, operation by operation.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What an operation is called in a table of times.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Label {
    /// What is computed, as "batch norm".
    pub operation: &'static str,
    /// Of what size, and how.
    pub detail: String,
    /// Multiply-accumulates of a call; 0 where memory limits the operation.
    pub macs: usize,
}

/// The passes of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// From input to output.
    Forward,
    /// The gradients of all inputs.
    Backward,
    /// The gradient of the input alone.
    Input,
    /// The gradient of the weight alone.
    Weight,
    /// The gradient of the bias alone.
    Bias,
}

impl Way {
    /// The name in a table.
    pub fn name(self) -> &'static str {
        match self {
            Way::Forward => "forward",
            Way::Backward => "backward",
            Way::Input => "input gradient",
            Way::Weight => "weight gradient",
            Way::Bias => "bias gradient",
        }
    }
}

/// The calls of one kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Spent {
    /// How many.
    pub calls: usize,
    /// How long they took together.
    pub time: Duration,
}

/// Times by label and pass.
pub type Times = BTreeMap<(Label, Way), Spent>;

static RECORDING: AtomicBool = AtomicBool::new(false);
static TIMES: Mutex<Times> = Mutex::new(BTreeMap::new());

fn times() -> MutexGuard<'static, Times> {
    TIMES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `f` and gives the times of the CPU's operations in it, those of other threads included. One recording at a time.
pub fn record<R>(f: impl FnOnce() -> R) -> (R, Times) {
    times().clear();
    RECORDING.store(true, Ordering::Relaxed);
    let result = f();
    RECORDING.store(false, Ordering::Relaxed);
    (result, std::mem::take(&mut *times()))
}

/// Runs `f`, and notes its time while a recording is on.
pub fn timed<R>(label: impl FnOnce() -> Label, way: Way, f: impl FnOnce() -> R) -> R {
    if !RECORDING.load(Ordering::Relaxed) {
        return f();
    }
    let start = Instant::now();
    let result = f();
    let time = start.elapsed();
    let mut times = times();
    let spent = times.entry((label(), way)).or_default();
    spent.calls += 1;
    spent.time += time;
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_while_recording() {
        let label = || Label {
            operation: "nothing",
            detail: String::new(),
            macs: 0,
        };
        timed(label, Way::Forward, || ());
        let (three, times) = record(|| {
            (0..3)
                .map(|_| timed(label, Way::Forward, || 1))
                .sum::<usize>()
        });
        assert_eq!(three, 3);
        // Other tests may run operations meanwhile.
        assert_eq!(times[&(label(), Way::Forward)].calls, 3);
        timed(label, Way::Forward, || ());
        assert!(!self::times().contains_key(&(label(), Way::Forward)));
    }
}
