//! Threads that share a job should sit on processors of their own.
//!
//! A scheduler often wakes a helper on the processor of the thread that woke it, where both then take turns for milliseconds while another
//! processor idles. A helper that finds itself there moves away at once; where it may run stays as it was.

#[cfg(all(target_os = "linux", not(miri)))]
mod system {
    use std::ffi::c_int;

    /// As large as the C library's own.
    type Mask = [u64; 16];

    unsafe extern "C" {
        fn sched_getcpu() -> c_int;
        fn sched_getaffinity(pid: c_int, size: usize, mask: *mut Mask) -> c_int;
        fn sched_setaffinity(pid: c_int, size: usize, mask: *const Mask) -> c_int;
    }

    /// The processor that the calling thread runs on.
    pub fn current() -> Option<u32> {
        // SAFETY: takes nothing and only reads.
        u32::try_from(unsafe { sched_getcpu() }).ok()
    }

    /// Moves the calling thread to a processor that is none of `taken`, if it may use one.
    pub fn move_off(taken: impl Iterator<Item = u32>) {
        let mut allowed: Mask = [0; 16];
        let size = size_of::<Mask>();
        // SAFETY: the mask is as long as `size` says.
        if unsafe { sched_getaffinity(0, size, &mut allowed) } < 0 {
            return;
        }
        let mut free = allowed;
        for cpu in taken {
            if let Some(word) = free.get_mut(cpu as usize / 64) {
                *word &= !(1 << (cpu % 64));
            }
        }
        if free.iter().all(|&word| word == 0) {
            return;
        }
        // SAFETY: as above. The second call gives the thread its former freedom; it stays where the first has put it.
        unsafe {
            sched_setaffinity(0, size, &free);
            sched_setaffinity(0, size, &allowed);
        }
    }
}

#[cfg(not(all(target_os = "linux", not(miri))))]
mod system {
    pub fn current() -> Option<u32> {
        None
    }

    pub fn move_off(_: impl Iterator<Item = u32>) {}
}

use std::sync::atomic::{AtomicU32, Ordering};

/// Threads whose places are watched; more than these are left to the scheduler.
const WATCHED: usize = 64;
const NOWHERE: u32 = u32::MAX;

/// Where each thread of a pool was seen last: the owner of the job first, then the helpers.
pub(crate) struct Places([AtomicU32; WATCHED]);

impl Places {
    pub const fn new() -> Self {
        Places([const { AtomicU32::new(NOWHERE) }; WATCHED])
    }

    /// Notes where the calling thread runs, which is number `index`; where a thread of a lower number runs too, it moves.
    pub fn settle(&self, index: usize) {
        let (Some(place), Some(cpu)) = (self.0.get(index), system::current()) else {
            return;
        };
        let others = || self.0[..index].iter().map(|p| p.load(Ordering::Relaxed));
        let shared = others().any(|other| other == cpu);
        if shared {
            system::move_off(others());
        }
        let now = if shared { system::current() } else { Some(cpu) };
        place.store(now.unwrap_or(NOWHERE), Ordering::Relaxed);
    }
}
