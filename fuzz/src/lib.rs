//! What all fuzzers share: the allocator that counts, and the frame of a target.
//!
//! The targets themselves, with what they assert, are in the crates that they try
//! (`afflux_*::fuzzing`). Here is nothing but what runs them.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    env, fs,
    path::Path,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use afflux_record::fuzzing::Target;
/// For [`target!`].
pub use libfuzzer_sys;

/// Where seeds are written to before the fuzzer reads its corpus, if this is set.
const SEEDS_VARIABLE: &str = "AFFLUX_FUZZ_SEEDS";

static HELD: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

/// The system's allocator, which also counts, all threads together.
struct Counting;

fn count(bytes: usize) {
    MOST.fetch_max(HELD.fetch_add(bytes, Relaxed) + bytes, Relaxed);
}

#[expect(unsafe_code, reason = "an allocator is the only place where a reservation can be seen")]
// SAFETY: every call is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Runs a target on an input.
pub fn run(target: &Target, input: &[u8]) {
    target.check(input, |run| {
        let before = HELD.load(Relaxed);
        MOST.store(before, Relaxed);
        run();
        MOST.load(Relaxed) - before
    });
}

/// Writes a target's seeds where it was asked for.
///
/// # Panics
///
/// If they can not be written.
pub fn write_seeds(target: &Target) {
    let Some(dir) = env::var_os(SEEDS_VARIABLE) else { return };
    for (number, seed) in (target.seeds)().iter().enumerate() {
        let path = Path::new(&dir).join(format!("seed-{number:04}"));
        fs::write(&path, seed).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}

/// The whole of a fuzzer.
#[macro_export]
macro_rules! target {
    ($target:path) => {
        $crate::libfuzzer_sys::fuzz_target!(
            init: $crate::write_seeds(&$target),
            |input: &[u8]| $crate::run(&$target, input)
        );
    };
}
