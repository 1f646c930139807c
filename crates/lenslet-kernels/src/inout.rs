//! The buffers of an element-wise pass: what it reads and what it writes, as chunks of it share them.

use crate::epilogue::load;
use crate::error::{KernelError, expect_len};
use crate::simd::Simd;

/// From this many floats on, an output is written past the caches.
const STREAM_FROM: usize = 6 << 20;

/// What a pass reads and what it writes: two buffers, or one that is overwritten.
#[derive(Debug)]
pub enum InOut<'a> {
    /// Read the first, write the second.
    Separate(&'a [f32], &'a mut [f32]),
    /// Replace the contents.
    InPlace(&'a mut [f32]),
}

impl InOut<'_> {
    /// How many elements there are to read.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        match self {
            InOut::Separate(from, _) => from.len(),
            InOut::InPlace(data) => data.len(),
        }
    }

    /// The pointers, after a check that both sides have `len` elements.
    pub(crate) fn check(
        &mut self,
        what: &'static str,
        len: usize,
    ) -> Result<(In, Out), KernelError> {
        match self {
            InOut::Separate(from, to) => {
                expect_len(what, from.len(), len)?;
                expect_len(what, to.len(), len)?;
                Ok((In::new(from), Out::new(to)))
            }
            InOut::InPlace(data) => {
                expect_len(what, data.len(), len)?;
                let to = Out {
                    data: data.as_mut_ptr(),
                    // Its lines are in the cache, since they were just read.
                    stream: false,
                };
                Ok((In(data.as_mut_ptr()), to))
            }
        }
    }
}

/// A buffer that a pass reads.
#[derive(Clone, Copy)]
pub(crate) struct In(*const f32);

// SAFETY: the pointer comes from a slice that outlives the pass; where a pass also writes it, every element belongs to one chunk.
unsafe impl Send for In {}
// SAFETY: as above.
unsafe impl Sync for In {}

impl In {
    pub fn new(data: &[f32]) -> Self {
        In(data.as_ptr())
    }

    /// Reads from a pointer; accesses are as safe as it is.
    pub fn at(data: *const f32) -> Self {
        In(data)
    }

    /// Null where there is none.
    pub fn optional(data: Option<&[f32]>) -> Self {
        In(data.map_or(std::ptr::null(), <[f32]>::as_ptr))
    }

    #[inline(always)]
    pub fn is_some(self) -> bool {
        !self.0.is_null()
    }

    /// Element `at`.
    ///
    /// # Safety
    ///
    /// The element must exist and must not be written by another thread.
    #[inline(always)]
    pub unsafe fn one(self, at: usize) -> f32 {
        // SAFETY: the caller's promise.
        unsafe { *self.0.add(at) }
    }

    /// A vector from element `at` on, or `n` lanes of one.
    ///
    /// # Safety
    ///
    /// The elements must exist and must not be written by another thread.
    #[inline(always)]
    pub unsafe fn get<S: Simd, const PARTIAL: bool>(self, s: S, at: usize, n: usize) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { load::<S, PARTIAL>(s, self.0.add(at), n) }
    }
}

/// A buffer that a pass writes.
#[derive(Clone, Copy)]
pub(crate) struct Out {
    data: *mut f32,
    stream: bool,
}

// SAFETY: the pointer comes from a mutable slice that outlives the pass, and every element belongs to one chunk.
unsafe impl Send for Out {}
// SAFETY: as above.
unsafe impl Sync for Out {}

impl Out {
    pub fn new(data: &mut [f32]) -> Self {
        Out {
            stream: data.len() >= STREAM_FROM,
            data: data.as_mut_ptr(),
        }
    }

    /// Writes to a pointer; accesses are as safe as it is.
    pub fn at(data: *mut f32) -> Self {
        Out {
            data,
            stream: false,
        }
    }

    /// Null where there is none.
    pub fn optional(data: Option<&mut [f32]>) -> Self {
        let none = Out {
            data: std::ptr::null_mut(),
            stream: false,
        };
        data.map_or(none, Out::new)
    }

    #[inline(always)]
    pub fn is_some(self) -> bool {
        !self.data.is_null()
    }

    /// Writes `n` elements once more, which stand at `from` and are still in a cache; says if they are, and does nothing if not.
    ///
    /// # Safety
    ///
    /// Both places must lie inside the buffer, not overlap, and belong to the calling chunk.
    pub unsafe fn repeat(self, from: usize, to: usize, n: usize) -> bool {
        if !self.stream {
            // SAFETY: the caller's promise.
            unsafe {
                self.data
                    .add(from)
                    .copy_to_nonoverlapping(self.data.add(to), n)
            };
        }
        !self.stream
    }

    /// The same buffer, never written past the caches: for rows that are read again at once.
    #[inline(always)]
    pub fn cached(self) -> Self {
        Out {
            stream: false,
            ..self
        }
    }

    /// The same buffer, to read what this thread has written.
    #[inline(always)]
    pub fn as_in(self) -> In {
        In(self.data)
    }

    /// A pointer to element `at`; accesses are as safe as the buffer's.
    pub fn pointer(self, at: usize) -> *mut f32 {
        self.data.wrapping_add(at)
    }

    /// Copies a slice to element `at` and those behind it.
    ///
    /// # Safety
    ///
    /// The elements must exist, belong to this thread and not overlap the slice.
    pub unsafe fn copy(self, at: usize, from: &[f32]) {
        // SAFETY: the caller's promise.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), self.data.add(at), from.len()) }
    }

    /// Adds `x` to element `at`.
    ///
    /// # Safety
    ///
    /// The element must exist and belong to this thread.
    #[inline(always)]
    pub unsafe fn add_one(self, at: usize, x: f32) {
        // SAFETY: the caller's promise.
        unsafe { *self.data.add(at) += x }
    }

    /// Writes a vector from element `at` on, or `n` lanes of it.
    ///
    /// # Safety
    ///
    /// The elements must exist and belong to this thread.
    #[inline(always)]
    pub unsafe fn put<S: Simd, const PARTIAL: bool>(self, s: S, at: usize, n: usize, v: S::V) {
        // SAFETY: the caller's promise.
        unsafe {
            let p = self.data.add(at);
            if PARTIAL {
                s.store_n(p, n, v)
            } else if self.stream {
                s.store_stream(p, v)
            } else {
                s.store(p, v)
            }
        }
    }
}
