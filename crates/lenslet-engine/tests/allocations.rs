//! After the first call a session takes no memory.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use common::{compiled, filled};
use lenslet_engine::Options;
use lenslet_kernels::pool;
use lenslet_models::{BuildOptions, variant};
use lenslet_reference::input;

/// Counts the allocations of each thread.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: everything is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn a_second_call_allocates_nothing() {
    // With more, which of them first needs how much working memory is a matter of chance.
    pool::set_num_threads(1);
    let names = ["resnet18", "resnet50", "googlenet", "squeezenet1_1"];
    let with_depthwise = ["mobilenet_v2", "efficientnet_b0", "convnext_tiny"];
    for name in names.into_iter().chain(with_depthwise) {
        let build = BuildOptions::new(10).with_image_size(64);
        let model = filled(variant(name).expect(name), &build, 5.0);
        let session = compiled(&model, [1, 3, 64, 64], &Options::default());
        let image = input("image", 3 * 64 * 64);
        let mut output = Vec::new();
        for _ in 0..2 {
            session.run_into(&image, &mut output).unwrap();
        }
        let steps = session.steps();
        let mut before = ALLOCATIONS.get();
        let start = before;
        let mut who = [""; 8];
        let mut found = 0;
        let mut note = |i: usize, _| {
            if ALLOCATIONS.get() != before && found < who.len() {
                who[found] = steps[i].kernel;
                found += 1;
            }
            before = ALLOCATIONS.get();
        };
        session.run_timed(&image, &mut output, &mut note).unwrap();
        assert_eq!(ALLOCATIONS.get() - start, 0, "{name}: {who:?}");
    }
}
