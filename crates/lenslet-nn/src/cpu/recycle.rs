//! Memory that goes from one tensor to the next.
//!
//! A training step makes and drops the same sizes again and again. Fresh memory costs the kernel's
//! zeroing and a page fault for every page; a vector that was kept costs nothing.

use std::collections::BTreeMap;
use std::sync::Mutex;

/// Vectors shorter than this are left to the allocator, which is as good at them.
const LEAST: usize = 16 << 10;
/// A vector that nobody took in this many calls of [`take`] is freed; a training step makes some
/// hundred.
const PATIENCE: u64 = 8192;

static IDLE: Mutex<Idle> = Mutex::new(Idle::new());

/// Vectors that nobody uses.
struct Idle {
    /// By capacity, each with the time when it came back.
    vectors: BTreeMap<usize, Vec<(u64, Vec<f32>)>>,
    /// How many of a capacity are in use. Others (a step's pictures) come from elsewhere: they would pile up, since nobody takes
    /// what the next step brings itself.
    used: BTreeMap<usize, usize>,
    /// Calls of [`take`].
    clock: u64,
}

impl Idle {
    const fn new() -> Self {
        Self {
            vectors: BTreeMap::new(),
            used: BTreeMap::new(),
            clock: 0,
        }
    }

    /// Takes back a vector; one that does not belong here is the caller's to drop.
    fn keep(&mut self, vector: Vec<f32>) -> Option<Vec<f32>> {
        match self.used.get_mut(&vector.capacity()) {
            Some(used) if *used > 0 => *used -= 1,
            _ => return Some(vector),
        }
        let same = self.vectors.entry(vector.capacity()).or_default();
        same.push((self.clock, vector));
        None
    }

    /// The last vector to come back of the smallest size that serves. An eighth of waste at most.
    fn find(&mut self, len: usize) -> Option<Vec<f32>> {
        let fitting = self.vectors.range_mut(len..=len + len / 8);
        let (_, vector) = { fitting }.find_map(|(_, same)| same.pop())?;
        Some(vector)
    }

    fn free_the_old(&mut self) {
        let oldest = self.clock.saturating_sub(PATIENCE);
        self.vectors.retain(|_, same| {
            same.retain(|(since, _)| *since >= oldest);
            !same.is_empty()
        });
        self.used.retain(|_, used| *used > 0);
    }
}

/// A vector of `len` numbers, which mean nothing.
pub(super) fn take(len: usize) -> Vec<f32> {
    if len < LEAST {
        return vec![0.0; len];
    }
    let found = {
        let mut idle = IDLE.lock().unwrap_or_else(|e| e.into_inner());
        idle.clock += 1;
        if idle.clock.is_multiple_of(PATIENCE) {
            idle.free_the_old();
        }
        let found = idle.find(len);
        let capacity = found.as_ref().map_or(len, Vec::capacity);
        *idle.used.entry(capacity).or_default() += 1;
        found
    };
    match found {
        Some(mut vector) => {
            // Writes only what an earlier, shorter use has left out.
            vector.resize(len, 0.0);
            vector
        }
        None => vec![0.0; len],
    }
}

/// Keeps a vector that came from [`take`] for the next call of it.
pub(super) fn give_back(vector: Vec<f32>) {
    if vector.capacity() >= LEAST {
        // Freed, if at all, when the lock is not held any more.
        let _other = IDLE.lock().unwrap_or_else(|e| e.into_inner()).keep(vector);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vector_comes_back() {
        // A size that no other test uses.
        let len = LEAST + 12_345;
        let first = take(len);
        let at = first.as_ptr();
        give_back(first);
        let second = take(len - 100);
        assert_eq!((second.as_ptr(), second.len()), (at, len - 100));
        let third = take(len);
        assert_ne!(third.as_ptr(), at);
        give_back(second);
        let again = take(len);
        assert_eq!((again.as_ptr(), again.len()), (at, len));
        give_back(again);
        let smaller = take(LEAST);
        assert_ne!(smaller.as_ptr(), at, "too much of it would be wasted");
    }

    #[test]
    fn what_was_not_taken_is_not_kept() {
        let mut idle = Idle::new();
        assert_eq!(idle.keep(vec![1.0; 7]), Some(vec![1.0; 7]));
        *idle.used.entry(7).or_default() += 1;
        assert_eq!(idle.keep(vec![1.0; 7]), None);
        assert_eq!(idle.keep(vec![2.0; 7]), Some(vec![2.0; 7]));
        assert_eq!(idle.find(7), Some(vec![1.0; 7]));
    }

    #[test]
    fn what_nobody_takes_is_freed() {
        let mut idle = Idle::new();
        idle.vectors
            .insert(5, vec![(0, vec![0.0; 5]), (PATIENCE, vec![1.0; 5])]);
        idle.vectors.insert(9, vec![(0, vec![0.0; 9])]);
        idle.clock = PATIENCE + 1;
        idle.free_the_old();
        assert_eq!(idle.find(5), Some(vec![1.0; 5]));
        assert_eq!(idle.find(5), None);
        assert_eq!(idle.find(9), None);
    }
}
