//! A small fork-join thread pool for loops whose iterations take microseconds.
//!
//! A job is a loop over chunks. The calling thread claims chunks from the low end, the helpers from the high end, so that the
//! same part of a tensor tends to stay with the same core from one layer to the next. A helper that finds nothing to do
//! looks again for a short while (a wake-up from sleep costs about 30 us, more than many layers take) and then sleeps; an
//! idle pool uses no processor time.
//!
//! - The number of threads is what the process may use (affinity, cgroup quota) or what [`set_num_threads`] says.
//! - A call from inside a chunk, or while another thread's job runs, does all its chunks on the calling thread.
//! - A panic in a chunk reaches the caller after the other chunks are done.
//! - What a chunk computes must not depend on who runs it. Where chunk boundaries change a result, choose them from the problem,
//!   never from [`num_threads`], and results do not depend on the number of threads.

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, TryLockError};
use std::time::{Duration, Instant};

use crate::placement::Places;

/// How long a thread without work looks for some before it sleeps.
const SPIN: Duration = Duration::from_micros(80);

/// More threads than this are never started.
const MAX_THREADS: usize = 512;

/// The chunks that nobody has claimed yet, `low..high`, in one word.
struct Claims(AtomicU64);

impl Claims {
    fn publish(&self, n: u32) {
        self.0.store(u64::from(n), Ordering::SeqCst);
    }

    fn any(&self) -> bool {
        let word = self.0.load(Ordering::SeqCst);
        (word >> 32) < (word & 0xffff_ffff)
    }

    fn claim(&self, from_low_end: bool) -> Option<usize> {
        let mut word = self.0.load(Ordering::SeqCst);
        loop {
            let (low, high) = (word >> 32, word & 0xffff_ffff);
            if low >= high {
                return None;
            }
            let (chunk, next) = if from_low_end {
                (low, (low + 1) << 32 | high)
            } else {
                (high - 1, low << 32 | (high - 1))
            };
            match self
                .0
                .compare_exchange_weak(word, next, Ordering::SeqCst, Ordering::SeqCst)
            {
                Ok(_) => return Some(chunk as usize),
                Err(now) => word = now,
            }
        }
    }
}

type Body<'a> = &'a (dyn Fn(usize) + Sync);

struct Pool {
    /// Held by the thread whose job is running.
    owner: Mutex<()>,
    claims: Claims,
    /// The current job; only meaningful to a thread that has claimed one of its chunks.
    body: UnsafeCell<Option<Body<'static>>>,
    /// Chunks of the current job that are not finished.
    unfinished: AtomicUsize,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    /// Helpers with an index below this take part.
    helpers: AtomicUsize,
    /// How many helper threads exist.
    started: AtomicUsize,
    /// How many helpers sleep.
    sleepers: AtomicUsize,
    sleep: Mutex<()>,
    wake: Condvar,
    /// The owner sleeps until `unfinished` is 0.
    owner_sleeps: AtomicBool,
    done: Mutex<()>,
    all_done: Condvar,
    places: Places,
}

// SAFETY: `body` is the only field that is not `Sync`. The owner writes it while no chunk can be claimed; others read it only
// after they claimed a chunk, which the owner published after writing (`claims` orders the two), and the owner waits for all
// claimed chunks before it writes again.
unsafe impl Sync for Pool {}

thread_local! {
    /// Whether this thread is running a chunk, or is a helper.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
    /// Whether this thread claims chunks from the high end.
    static DOWNWARD: Cell<bool> = const { Cell::new(false) };
}

fn pool() -> &'static Pool {
    static POOL: OnceLock<Pool> = OnceLock::new();
    POOL.get_or_init(|| Pool {
        owner: Mutex::new(()),
        claims: Claims(AtomicU64::new(0)),
        body: UnsafeCell::new(None),
        unfinished: AtomicUsize::new(0),
        panic: Mutex::new(None),
        helpers: AtomicUsize::new(
            std::thread::available_parallelism()
                .map_or(1, |n| n.get())
                .min(MAX_THREADS)
                - 1,
        ),
        started: AtomicUsize::new(0),
        sleepers: AtomicUsize::new(0),
        sleep: Mutex::new(()),
        wake: Condvar::new(),
        owner_sleeps: AtomicBool::new(false),
        done: Mutex::new(()),
        all_done: Condvar::new(),
        places: Places::new(),
    })
}

/// A mutex of this module guards no data that a panic could leave half-written.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// The chunk that this thread will most likely run after chunk `i`: those of the low end are claimed upward, those of the high end
/// downward. For fetching what it reads ahead of time; nothing may depend on it.
pub(crate) fn likely_next(i: usize) -> Option<usize> {
    if DOWNWARD.get() {
        i.checked_sub(1)
    } else {
        Some(i + 1)
    }
}

/// How many threads share the work, the calling one included.
pub fn num_threads() -> usize {
    pool().helpers.load(Ordering::Relaxed) + 1
}

/// Sets how many threads share the work from now on, the calling one included; 0 stands for as many as the process may use.
pub fn set_num_threads(n: usize) {
    let n = match n {
        0 => std::thread::available_parallelism().map_or(1, |n| n.get()),
        n => n,
    };
    pool()
        .helpers
        .store(n.min(MAX_THREADS) - 1, Ordering::Relaxed);
}

/// Runs `body(0)`, `body(1)`, ... `body(chunks - 1)`, each once, in any order, on all threads, and returns when all are done.
///
/// # Panics
///
/// If a chunk panics, or if there are 2^32 chunks or more.
pub fn parallel_for<F: Fn(usize) + Sync>(chunks: usize, body: F) {
    let pool = pool();
    if chunks <= 1 || pool.helpers.load(Ordering::Relaxed) == 0 || INSIDE.get() {
        return (0..chunks).for_each(body);
    }
    let owner = match pool.owner.try_lock() {
        Ok(guard) => guard,
        Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
        Err(TryLockError::WouldBlock) => return (0..chunks).for_each(body),
    };
    let n = u32::try_from(chunks).expect("a job has fewer than 2^32 chunks");
    let panic = pool.run(n, &body);
    drop(owner);
    if let Some(payload) = panic {
        resume_unwind(payload);
    }
}

/// Cuts `data` into pieces of `piece` elements (the last may be shorter) and runs `body(index, piece)` for each, as
/// [`parallel_for`] does.
///
/// # Panics
///
/// If `piece` is 0 or if `body` panics.
pub fn parallel_chunks_mut<T: Send, F: Fn(usize, &mut [T]) + Sync>(
    data: &mut [T],
    piece: usize,
    body: F,
) {
    assert!(piece > 0, "pieces of 0 elements");
    let len = data.len();
    let shared = SharedMut::new(data);
    parallel_for(len.div_ceil(piece), |i| {
        let start = i * piece;
        // SAFETY: pieces do not overlap and each index is run once.
        body(i, unsafe { shared.slice(start, piece.min(len - start)) });
    });
}

/// A mutable slice that chunks of a job share, each writing its own part.
pub struct SharedMut<'a, T> {
    data: *mut T,
    len: usize,
    borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: it is a `&mut [T]` handed to several threads; `slice` makes its caller promise that they take disjoint parts.
unsafe impl<T: Send> Send for SharedMut<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for SharedMut<'_, T> {}

impl<'a, T> SharedMut<'a, T> {
    /// Shares a slice.
    pub fn new(data: &'a mut [T]) -> Self {
        SharedMut {
            data: data.as_mut_ptr(),
            len: data.len(),
            borrow: PhantomData,
        }
    }

    /// How many elements there are.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.len
    }

    /// The elements `start..start + len`.
    ///
    /// # Safety
    ///
    /// No two parts that are alive at the same time may overlap.
    ///
    /// # Panics
    ///
    /// If the part does not lie inside the slice.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn slice(&self, start: usize, len: usize) -> &mut [T] {
        assert!(
            start <= self.len && len <= self.len - start,
            "part outside the shared slice"
        );
        // SAFETY: inside the slice by the assertion; not aliased by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(start), len) }
    }

    /// Pointer to the first element; every access through it must stay inside the slice and off the other chunks' parts.
    pub fn as_mut_ptr(&self) -> *mut T {
        self.data
    }
}

impl Pool {
    /// Runs a job of `n` chunks; the calling thread holds `owner`.
    fn run(&'static self, n: u32, body: Body<'_>) -> Option<Box<dyn Any + Send>> {
        let helpers = self.helpers.load(Ordering::Relaxed);
        self.start_helpers(helpers);
        // SAFETY: only the lifetime changes. The reference is used only by threads that hold a claimed chunk of this job, and this
        // function does not return before all of those are finished.
        let body: Body<'static> = unsafe { std::mem::transmute::<Body<'_>, Body<'static>>(body) };
        // SAFETY: no chunk is claimable or unfinished (the last job waited for all of its own), so nobody reads `body`.
        unsafe { *self.body.get() = Some(body) };
        self.unfinished.store(n as usize, Ordering::SeqCst);
        self.places.settle(0);
        self.claims.publish(n);
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            drop(lock(&self.sleep));
            self.wake.notify_all();
        }
        INSIDE.set(true);
        while let Some(chunk) = self.claims.claim(true) {
            self.run_chunk(body, chunk);
        }
        INSIDE.set(false);
        self.wait_until_done();
        lock(&self.panic).take()
    }

    fn run_chunk(&self, body: Body<'_>, chunk: usize) {
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| body(chunk))) {
            lock(&self.panic).get_or_insert(payload);
        }
        let last = self.unfinished.fetch_sub(1, Ordering::SeqCst) == 1;
        if last && self.owner_sleeps.load(Ordering::SeqCst) {
            drop(lock(&self.done));
            self.all_done.notify_all();
        }
    }

    fn wait_until_done(&self) {
        if spin_until(|| self.unfinished.load(Ordering::SeqCst) == 0) {
            return;
        }
        let mut guard = lock(&self.done);
        self.owner_sleeps.store(true, Ordering::SeqCst);
        while self.unfinished.load(Ordering::SeqCst) != 0 {
            guard = self
                .all_done
                .wait(guard)
                .unwrap_or_else(|poisoned| poisoned.into_inner());
        }
        self.owner_sleeps.store(false, Ordering::SeqCst);
    }

    fn start_helpers(&'static self, wanted: usize) {
        // Only the owner starts helpers, so nobody else changes `started`.
        let started = self.started.load(Ordering::Relaxed);
        for index in started..wanted {
            let thread = std::thread::Builder::new().name(format!("lenslet-{index}"));
            if thread.spawn(move || self.help(index)).is_err() {
                // The system refuses threads; the job is done by those that there are.
                return;
            }
            self.started.store(index + 1, Ordering::Relaxed);
        }
    }

    /// What a helper does all its life.
    fn help(&self, index: usize) {
        INSIDE.set(true);
        DOWNWARD.set(true);
        let work = || index < self.helpers.load(Ordering::Relaxed) && self.claims.any();
        loop {
            if !spin_until(work) {
                let mut guard = lock(&self.sleep);
                self.sleepers.fetch_add(1, Ordering::SeqCst);
                while !work() {
                    guard = self
                        .wake
                        .wait(guard)
                        .unwrap_or_else(|poisoned| poisoned.into_inner());
                }
                self.sleepers.fetch_sub(1, Ordering::SeqCst);
            }
            self.places.settle(index + 1);
            while let Some(chunk) = self.claims.claim(false) {
                // SAFETY: a claimed chunk keeps its job alive and `body` unchanged until it is counted as finished.
                let body = unsafe { *self.body.get() };
                self.run_chunk(body.expect("a job was published"), chunk);
            }
        }
    }
}

/// Whether `condition` became true within [`SPIN`].
fn spin_until(condition: impl Fn() -> bool) -> bool {
    let start = Instant::now();
    loop {
        for _ in 0..32 {
            if condition() {
                return true;
            }
            std::hint::spin_loop();
        }
        if start.elapsed() >= SPIN {
            return false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    fn runs_each_once(chunks: usize) {
        let seen: Vec<AtomicU32> = (0..chunks).map(|_| AtomicU32::new(0)).collect();
        parallel_for(chunks, |i| {
            seen[i].fetch_add(1, Ordering::Relaxed);
        });
        assert!(seen.iter().all(|n| n.load(Ordering::Relaxed) == 1));
    }

    #[test]
    fn every_chunk_once() {
        let _turn = crate::testing::turn();
        for threads in [1, 2, 3, 8] {
            set_num_threads(threads);
            assert_eq!(num_threads(), threads);
            for chunks in [0, 1, 2, 3, 7, 1000] {
                for _ in 0..50 {
                    runs_each_once(chunks);
                }
            }
        }
        set_num_threads(0);
    }

    #[test]
    fn wakes_after_sleep() {
        let _turn = crate::testing::turn();
        set_num_threads(4);
        for _ in 0..5 {
            std::thread::sleep(Duration::from_millis(2));
            runs_each_once(100);
        }
        set_num_threads(0);
    }

    #[test]
    fn nested_and_concurrent() {
        let _turn = crate::testing::turn();
        set_num_threads(3);
        let total = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        parallel_for(8, |_| {
                            parallel_for(4, |_| {
                                total.fetch_add(1, Ordering::Relaxed);
                            });
                        });
                    }
                });
            }
        });
        assert_eq!(total.into_inner(), 4 * 100 * 8 * 4);
        set_num_threads(0);
    }

    #[test]
    fn panics_reach_the_caller() {
        let _turn = crate::testing::turn();
        set_num_threads(3);
        for bad in [0, 5, 15] {
            let ran = AtomicUsize::new(0);
            let result = catch_unwind(AssertUnwindSafe(|| {
                parallel_for(16, |i| {
                    ran.fetch_add(1, Ordering::Relaxed);
                    assert!(i != bad, "chunk {bad} is bad");
                });
            }));
            let payload = result.expect_err("the panic is passed on");
            let text = payload
                .downcast_ref::<String>()
                .expect("a formatted message");
            assert!(text.contains("is bad"));
            assert_eq!(ran.into_inner(), 16);
            runs_each_once(100);
        }
        set_num_threads(0);
    }

    #[test]
    fn pieces_cover_the_slice() {
        let mut data = vec![0usize; 103];
        parallel_chunks_mut(&mut data, 10, |i, piece| {
            piece.iter_mut().for_each(|x| *x += i + 1)
        });
        assert!(data.iter().enumerate().all(|(i, &x)| x == i / 10 + 1));
    }
}
