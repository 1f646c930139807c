//! Memory that goes from one tensor to the next.
//!
//! A training step makes and drops tensors of the same sizes again and again. Fresh memory costs the kernel's zeroing and a page fault
//! for every page; kept size by size, it would be held once for every size that a step ever uses. So large blocks are kept, cut into
//! places of any size, and free neighbours join again: gradients lie where feature maps lay before.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::collections::{BTreeMap, BTreeSet};
use std::mem::MaybeUninit;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::Mutex;

use burn::tensor::Bytes;
use burn_std::{AccessError, AccessPolicy, AllocationController, AllocationProperty};

/// Tensors of fewer numbers are left to the allocator, which is as good at them.
const LEAST: usize = 16 << 10;
/// Places begin on pages.
const GRAIN: usize = 4096;
/// Bytes of a block at least. What no place has reached takes no memory.
const BLOCK: usize = 256 << 20;
/// A block in which nobody took a place in this many calls of [`Space::new`] is freed, when it is empty; a training step makes some
/// hundred.
const PATIENCE: u64 = 8192;

static ARENA: Mutex<Arena> = Mutex::new(Arena::new());

/// Blocks of memory and what is free of them. Addresses and lengths are in bytes.
struct Arena {
    blocks: BTreeMap<usize, Block>,
    /// Length of every free stretch by its address; none has a free neighbour in its block.
    free: BTreeMap<usize, usize>,
    /// The same as lengths and addresses.
    by_len: BTreeSet<(usize, usize)>,
    /// Calls of [`Arena::take`].
    clock: u64,
}

struct Block {
    len: usize,
    /// What the allocator gave; the block begins on the next page.
    given: NonNull<u8>,
    layout: Layout,
    /// When a place of it was last taken.
    used: u64,
}

// SAFETY: the block's memory belongs to the arena, which hands out places of it one by one.
unsafe impl Send for Block {}

impl Arena {
    const fn new() -> Self {
        Self {
            blocks: BTreeMap::new(),
            free: BTreeMap::new(),
            by_len: BTreeSet::new(),
            clock: 0,
        }
    }

    /// A free stretch of `len` bytes, whole pages: in the shortest stretch that has room.
    fn take(&mut self, len: usize) -> usize {
        self.clock += 1;
        if self.clock.is_multiple_of(PATIENCE) {
            self.free_the_old();
        }
        let found = self.by_len.range((len, 0)..).next().copied();
        let (there, at) = found.unwrap_or_else(|| self.grow(len));
        self.remove(at, there);
        if there > len {
            self.insert(at + len, there - len);
        }
        let block = self.blocks.range_mut(..=at).next_back();
        block.expect("stretches lie in blocks").1.used = self.clock;
        at
    }

    /// Takes back what [`Arena::take`] gave.
    fn give_back(&mut self, at: usize, len: usize) {
        let (&start, block) = self
            .blocks
            .range(..=at)
            .next_back()
            .expect("places lie in blocks");
        let end = start + block.len;
        let (mut at, mut len) = (at, len);
        if let Some((&before, &there)) = self.free.range(start..at).next_back()
            && before + there == at
        {
            self.remove(before, there);
            (at, len) = (before, there + len);
        }
        if at + len < end
            && let Some(&there) = self.free.get(&(at + len))
        {
            self.remove(at + len, there);
            len += there;
        }
        self.insert(at, len);
    }

    fn insert(&mut self, at: usize, len: usize) {
        self.free.insert(at, len);
        self.by_len.insert((len, at));
    }

    fn remove(&mut self, at: usize, len: usize) {
        self.free.remove(&at);
        self.by_len.remove(&(len, at));
    }

    /// Another block, with room for `len` bytes: its length and its address.
    fn grow(&mut self, len: usize) -> (usize, usize) {
        let len = len.max(BLOCK);
        // Without alignment the allocator takes untouched pages, which are zero, as they are.
        let layout = Layout::array::<u8>(len + GRAIN).expect("a tensor fits into memory");
        // SAFETY: the layout's size is not zero.
        let Some(given) = NonNull::new(unsafe { alloc_zeroed(layout) }) else {
            handle_alloc_error(layout)
        };
        let at = given.addr().get().next_multiple_of(GRAIN);
        let block = Block {
            len,
            given,
            layout,
            used: self.clock,
        };
        self.blocks.insert(at, block);
        self.insert(at, len);
        (len, at)
    }

    /// Where an address lies, with the right to reach it.
    fn pointer(&self, at: usize) -> NonNull<f32> {
        let (_, block) = self
            .blocks
            .range(..=at)
            .next_back()
            .expect("places lie in blocks");
        let offset = at - block.given.addr().get();
        // SAFETY: inside the block's memory.
        unsafe { block.given.add(offset).cast() }
    }

    /// Gives back empty blocks that have not been used for long.
    fn free_the_old(&mut self) {
        let oldest = self.clock.saturating_sub(PATIENCE);
        let is_old = |(at, block): (&usize, &Block)| {
            (block.used < oldest && self.free.get(at) == Some(&block.len)).then_some(*at)
        };
        let old: Vec<usize> = self.blocks.iter().filter_map(is_old).collect();
        for at in old {
            let block = self.blocks.remove(&at).expect("found just now");
            self.remove(at, block.len);
            // SAFETY: allocated with this layout; no place of it is in use.
            unsafe { dealloc(block.given.as_ptr(), block.layout) };
        }
    }
}

/// A place in a block, with `len` numbers; goes back when it is dropped.
pub(super) struct Place {
    at: NonNull<f32>,
    len: usize,
}

// SAFETY: a place is owned like a boxed slice.
unsafe impl Send for Place {}
// SAFETY: as above; shared access only reads.
unsafe impl Sync for Place {}

impl Place {
    /// Bytes that it takes.
    fn bytes(len: usize) -> usize {
        (len * size_of::<f32>()).next_multiple_of(GRAIN)
    }

    fn new(len: usize) -> Self {
        let mut arena = ARENA.lock().unwrap_or_else(|e| e.into_inner());
        let at = arena.take(Self::bytes(len));
        Self {
            at: arena.pointer(at),
            len,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut arena = ARENA.lock().unwrap_or_else(|e| e.into_inner());
        arena.give_back(self.at.addr().get(), Self::bytes(self.len));
    }
}

impl Deref for Place {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: so many floats are this place's own; blocks start as zeros, so that all are initialised.
        unsafe { std::slice::from_raw_parts(self.at.as_ptr(), self.len) }
    }
}

impl DerefMut for Place {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as for `deref`; borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.at.as_ptr(), self.len) }
    }
}

impl AllocationController for Place {
    fn alloc_align(&self) -> usize {
        align_of::<f32>()
    }

    fn property(&self) -> AllocationProperty {
        AllocationProperty::Other
    }

    unsafe fn memory_mut(
        &mut self,
        _: AccessPolicy,
    ) -> Result<&mut [MaybeUninit<u8>], AccessError> {
        let len = size_of_val::<[f32]>(self);
        // SAFETY: the place's own bytes; the caller promises to write initialised ones.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.at.as_ptr().cast(), len) })
    }

    fn memory(&self, _: AccessPolicy) -> Result<&[MaybeUninit<u8>], AccessError> {
        let len = size_of_val::<[f32]>(self);
        // SAFETY: the place's own bytes.
        Ok(unsafe { std::slice::from_raw_parts(self.at.as_ptr().cast(), len) })
    }
}

/// Memory for the numbers of a tensor.
pub(super) enum Space {
    Small(Vec<f32>),
    Large(Place),
}

impl Space {
    /// Space for `len` numbers, which mean nothing.
    pub fn new(len: usize) -> Self {
        match len < LEAST {
            true => Self::Small(vec![0.0; len]),
            false => Self::Large(Place::new(len)),
        }
    }

    /// As the backend holds it. A large one comes back here when the backend drops it.
    pub fn into_bytes(self) -> Bytes {
        match self {
            Self::Small(numbers) => Bytes::from_elems(numbers),
            Self::Large(place) => {
                let len = size_of_val::<[f32]>(&place);
                // SAFETY: so many bytes of the place are initialised.
                unsafe { Bytes::from_controller(Box::new(place), len) }
            }
        }
    }
}

impl Deref for Space {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match self {
            Self::Small(numbers) => numbers,
            Self::Large(place) => place,
        }
    }
}

impl DerefMut for Space {
    fn deref_mut(&mut self) -> &mut [f32] {
        match self {
            Self::Small(numbers) => numbers,
            Self::Large(place) => place,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::backend::flex::FlexTensor;
    use burn::tensor::{DType, Shape};

    #[test]
    fn free_neighbours_join() {
        let mut arena = Arena::new();
        let page = |n: usize| n * GRAIN;
        let places: Vec<usize> = (0..6).map(|_| arena.take(page(3))).collect();
        assert!(places.windows(2).all(|pair| pair[1] == pair[0] + page(3)));
        for i in [1, 3, 2] {
            arena.give_back(places[i], page(3));
        }
        // The shortest stretch with room, before the rest of the block.
        assert_eq!(arena.take(page(8)), places[1]);
        assert_eq!(arena.take(page(1)), places[1] + page(8));
        assert_eq!(arena.take(page(1)), places[5] + page(3));
        assert_eq!(arena.blocks.len(), 1);
    }

    #[test]
    fn random_places_never_overlap_and_all_come_back() {
        let mut arena = Arena::new();
        let mut state = 1u64;
        let mut random = |below: usize| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) as usize % below
        };
        let mut held: Vec<(usize, usize)> = Vec::new();
        for _ in 0..4000 {
            if held.len() > 40 || (!held.is_empty() && random(3) == 0) {
                let (at, len) = held.swap_remove(random(held.len()));
                arena.give_back(at, len);
            } else {
                let len = (1 + random(9000)) * GRAIN;
                let at = arena.take(len);
                assert!(held.iter().all(|&(a, l)| at + len <= a || a + l <= at));
                held.push((at, len));
            }
            let free: Vec<(usize, usize)> = arena.free.iter().map(|(a, l)| (*l, *a)).collect();
            assert!(free.iter().all(|stretch| arena.by_len.contains(stretch)));
            assert_eq!(free.len(), arena.by_len.len());
        }
        for (at, len) in held {
            arena.give_back(at, len);
        }
        let whole = |(at, block): (&usize, &Block)| arena.free.get(at) == Some(&block.len);
        assert!(arena.blocks.iter().all(whole));
        assert_eq!(arena.free.len(), arena.blocks.len());
        arena.clock += 2 * PATIENCE;
        arena.free_the_old();
        assert!(arena.blocks.is_empty() && arena.free.is_empty() && arena.by_len.is_empty());
    }

    #[test]
    fn a_tensor_larger_than_a_block_gets_its_own() {
        let mut arena = Arena::new();
        let at = arena.take(BLOCK + GRAIN);
        assert_eq!(arena.blocks[&at].len, BLOCK + GRAIN);
        assert!(arena.free.is_empty());
        arena.give_back(at, BLOCK + GRAIN);
        assert_eq!(arena.take(GRAIN), at);
    }

    #[test]
    fn the_backend_reads_writes_copies_and_drops_it() {
        let mut space = Space::new(LEAST);
        space.fill(2.0);
        let layout = burn::backend::flex::Layout::contiguous(Shape::from([LEAST]));
        let mut tensor = FlexTensor::new(space.into_bytes(), layout, DType::F32);
        let other = tensor.clone();
        assert!(tensor.try_storage_mut::<f32>().is_none(), "shared");
        tensor.storage_mut::<f32>()[1] = 3.0;
        assert_eq!(other.storage::<f32>()[..3], [2.0; 3]);
        assert_eq!(tensor.storage::<f32>()[..3], [2.0, 3.0, 2.0]);
        let numbers: Vec<f32> = other.into_data().try_to_vec().expect("numbers");
        assert_eq!(numbers, vec![2.0; LEAST]);
    }
}
