//! Reusable aligned memory: fresh pages cost more than many layers, so buffers are kept and grown.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

const HUGE_PAGE: usize = 2 << 20;
const CACHE_LINE: usize = 64;

/// A growable buffer of floats that starts on a cache line. Whole huge pages within it are asked for where the system has them. It is not
/// aligned to them, so that it can take memory that an allocator got back.
///
/// It dereferences to the slice of its current length. Growing does not keep the contents.
pub struct AlignedBuf {
    data: *mut f32,
    len: usize,
    capacity: usize,
}

// SAFETY: it owns its memory like a `Vec<f32>`.
unsafe impl Send for AlignedBuf {}
// SAFETY: as above; shared access only reads.
unsafe impl Sync for AlignedBuf {}

impl AlignedBuf {
    /// An empty buffer; allocates nothing.
    pub const fn new() -> Self {
        AlignedBuf {
            data: std::ptr::without_provenance_mut(CACHE_LINE),
            len: 0,
            capacity: 0,
        }
    }

    /// A buffer of `len` zeros.
    pub fn zeroed(len: usize) -> Self {
        let mut buf = Self::new();
        buf.resize(len).fill(0.0);
        buf
    }

    /// A copy of `data`.
    pub fn copy_of(data: &[f32]) -> Self {
        let mut buf = Self::new();
        buf.resize(data.len()).copy_from_slice(data);
        buf
    }

    /// Makes the length `len` and returns the slice, whose contents are unspecified. Memory is allocated only when the
    /// length exceeds every earlier one.
    pub fn resize(&mut self, len: usize) -> &mut [f32] {
        if len > self.capacity {
            self.release();
            self.data = allocate(len);
            self.capacity = len;
        }
        self.len = len;
        self
    }

    fn release(&mut self) {
        if self.capacity > 0 {
            // SAFETY: allocated by `allocate` with the layout of this capacity.
            unsafe { dealloc(self.data.cast(), layout(self.capacity)) };
            self.len = 0;
            self.capacity = 0;
        }
    }
}

fn layout(len: usize) -> Layout {
    let bytes = len
        .checked_mul(size_of::<f32>())
        .expect("buffer size overflows");
    Layout::from_size_align(bytes, CACHE_LINE).expect("buffer size overflows")
}

/// Memory for `len > 0` floats, all zero.
fn allocate(len: usize) -> *mut f32 {
    let layout = layout(len);
    // SAFETY: the layout's size is not zero.
    let data = unsafe { alloc(layout) };
    if data.is_null() {
        handle_alloc_error(layout);
    }
    // SAFETY: the allocation has this size, and nothing is in it yet.
    unsafe { want_huge_pages(data, layout.size()) };
    // SAFETY: the allocation has this size. All-zero bytes are floats, so the memory is initialised from here on.
    unsafe { data.write_bytes(0, layout.size()) };
    data.cast()
}

/// Asks for huge pages wherever whole ones fit. An allocator that reuses memory may have small pages there: they are given back first.
///
/// # Safety
///
/// The bytes must be one allocation, whose contents are lost.
#[cfg(all(target_os = "linux", not(miri)))]
unsafe fn want_huge_pages(data: *mut u8, bytes: usize) {
    use std::ffi::{c_int, c_void};
    const MADV_DONTNEED: c_int = 4;
    const MADV_HUGEPAGE: c_int = 14;
    unsafe extern "C" {
        fn madvise(addr: *mut c_void, length: usize, advice: c_int) -> c_int;
    }
    let before = data.align_offset(HUGE_PAGE);
    let length = bytes.saturating_sub(before) / HUGE_PAGE * HUGE_PAGE;
    if length == 0 {
        return;
    }
    let start = data.wrapping_add(before).cast();
    // SAFETY: the range lies within an allocation whose contents nobody needs. A refusal only costs speed.
    unsafe {
        madvise(start, length, MADV_DONTNEED);
        madvise(start, length, MADV_HUGEPAGE);
    }
}

#[cfg(not(all(target_os = "linux", not(miri))))]
unsafe fn want_huge_pages(_: *mut u8, _: usize) {}

impl Drop for AlignedBuf {
    fn drop(&mut self) {
        self.release();
    }
}

impl Default for AlignedBuf {
    fn default() -> Self {
        Self::new()
    }
}

impl Deref for AlignedBuf {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        // SAFETY: `data` points to `capacity >= len` initialised floats (or is aligned and `len` is 0).
        unsafe { std::slice::from_raw_parts(self.data, self.len) }
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as in `deref`; the buffer is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.data, self.len) }
    }
}

impl std::fmt::Debug for AlignedBuf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AlignedBuf")
            .field("len", &self.len)
            .field("capacity", &self.capacity)
            .finish()
    }
}

/// Memory that an operation needs besides its operands. Give the same one to call after call: once it has grown to the
/// largest need, nothing is allocated any more. Its contents mean nothing between calls.
#[derive(Debug, Default)]
pub struct Scratch {
    pub(crate) a: AlignedBuf,
    pub(crate) b: AlignedBuf,
}

impl Scratch {
    /// Empty scratch memory.
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        (self.a.capacity + self.b.capacity) * size_of::<f32>()
    }
}

/// What a chunk of a job needs, kept by each thread.
#[derive(Default)]
pub(crate) struct Local {
    pub a: AlignedBuf,
    pub b: AlignedBuf,
    pub rows: Vec<*const f32>,
    pub outputs: Vec<usize>,
}

thread_local! {
    static LOCAL: RefCell<Vec<Local>> = const { RefCell::new(Vec::new()) };
}

/// Lends scratch memory of this thread to `f`; a nested call gets memory of its own.
pub(crate) fn with_local<R>(f: impl FnOnce(&mut Local) -> R) -> R {
    let mut local = LOCAL.with_borrow_mut(Vec::pop).unwrap_or_default();
    let result = f(&mut local);
    LOCAL.with_borrow_mut(|all| all.push(local));
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_and_stays() {
        let mut buf = AlignedBuf::new();
        assert!(buf.is_empty());
        for len in [3, 1000, 10, HUGE_PAGE / 4 + 5, 0, 7] {
            let slice = buf.resize(len);
            assert_eq!(slice.len(), len);
            slice.fill(1.0);
            assert_eq!(slice.as_ptr() as usize % CACHE_LINE, 0);
        }
        assert_eq!(buf.capacity, HUGE_PAGE / 4 + 5);
        assert!(AlignedBuf::zeroed(9).iter().all(|&x| x == 0.0));
        assert_eq!(AlignedBuf::copy_of(&[1.0, 2.0])[..], [1.0, 2.0]);
    }

    #[test]
    fn nested_loans_are_distinct() {
        with_local(|outer| {
            outer.a.resize(4).fill(1.0);
            with_local(|inner| inner.a.resize(4).fill(2.0));
            assert_eq!(outer.a[..], [1.0; 4]);
        });
    }
}
