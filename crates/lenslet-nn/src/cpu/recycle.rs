//! Memory that goes from one tensor to the next.
//!
//! A training step makes and drops the same sizes again and again. Fresh memory costs the kernel's
//! zeroing and a page fault for every page; a vector that was kept costs nothing.

use std::collections::BTreeMap;
use std::sync::Mutex;

/// Vectors shorter than this are left to the allocator, which is as good at them.
const LEAST: usize = 16 << 10;

static IDLE: Mutex<Idle> = Mutex::new(Idle {
    vectors: BTreeMap::new(),
    floats: 0,
    lent: 0,
    most_lent: 0,
});

/// Vectors that nobody uses, by capacity.
struct Idle {
    vectors: BTreeMap<usize, Vec<Vec<f32>>>,
    /// Capacity of all of them.
    floats: usize,
    /// Floats in vectors that were taken and have not come back.
    lent: usize,
    /// The most that `lent` has been.
    most_lent: usize,
}

/// A vector of `len` numbers, which mean nothing.
pub(super) fn take(len: usize) -> Vec<f32> {
    if len < LEAST {
        return vec![0.0; len];
    }
    let mut idle = IDLE.lock().unwrap_or_else(|e| e.into_inner());
    let mut found = None;
    // An eighth of waste at most.
    if let Some((&capacity, same)) = idle.vectors.range_mut(len..=len + len / 8).next() {
        found = same.pop();
        if same.is_empty() {
            idle.vectors.remove(&capacity);
        }
        idle.floats -= capacity;
    }
    idle.lent += found.as_ref().map_or(len, Vec::capacity);
    idle.most_lent = idle.most_lent.max(idle.lent);
    drop(idle);
    match found {
        Some(mut vector) => {
            // Writes only what an earlier, shorter use has left out.
            vector.resize(len, 0.0);
            vector
        }
        None => vec![0.0; len],
    }
}

/// Keeps a vector for [`take`], or frees it where more lies idle than was ever used at once.
pub(super) fn give_back(vector: Vec<f32>) {
    let capacity = vector.capacity();
    if capacity < LEAST {
        return;
    }
    let mut idle = IDLE.lock().unwrap_or_else(|e| e.into_inner());
    idle.lent = idle.lent.saturating_sub(capacity);
    if idle.floats + idle.lent + capacity > idle.most_lent {
        return;
    }
    idle.floats += capacity;
    idle.vectors.entry(capacity).or_default().push(vector);
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
        // Ten times as much as needed is too much waste.
        give_back(again);
        let small = take(LEAST);
        assert_ne!(small.as_ptr(), at);
    }
}
