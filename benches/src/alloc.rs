//! An allocator that counts: how much a call allocates beyond what lived before it.
//!
//! The binary makes [`Counting`] its global allocator; then every allocation of every thread, by whatever crate, is
//! counted. What goes past the global allocator (a driver's memory, `mmap` by hand) is not.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Bytes alive now.
static LIVE: AtomicU64 = AtomicU64::new(0);
/// The most bytes alive at once since the last [`Watch::start`].
static PEAK: AtomicU64 = AtomicU64::new(0);

/// The system's allocator, with a count of live bytes and of their peak.
pub struct Counting;

fn grown(bytes: usize) {
    let live = LIVE.fetch_add(bytes as u64, Relaxed) + bytes as u64;
    PEAK.fetch_max(live, Relaxed);
}

fn shrunk(bytes: usize) {
    LIVE.fetch_sub(bytes as u64, Relaxed);
}

// SAFETY: every call is handed to `System` unchanged, whose promises are thereby ours; the counting touches atomics only
// and neither allocates nor unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps to `GlobalAlloc::alloc`'s contract, which is `System`'s.
        let pointer = unsafe { System.alloc(layout) };
        if !pointer.is_null() {
            grown(layout.size());
        }
        pointer
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as in `alloc`.
        let pointer = unsafe { System.alloc_zeroed(layout) };
        if !pointer.is_null() {
            grown(layout.size());
        }
        pointer
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        shrunk(layout.size());
        // SAFETY: `pointer` came from `System` through this allocator, with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: as in `dealloc`; `new_size` is the caller's to vouch for.
        let moved = unsafe { System.realloc(pointer, layout, new_size) };
        if !moved.is_null() {
            // Grow before shrinking: while the content moves, both may be alive.
            grown(new_size);
            shrunk(layout.size());
        }
        moved
    }
}

/// A stretch of time in which the peak of live bytes is watched. One at a time.
pub struct Watch {
    before: u64,
}

/// What a [`Watch`] saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The most bytes alive at once, beyond those alive at the start.
    pub peak: u64,
    /// Bytes alive at the end beyond those alive at the start: results, and what a call keeps for the next.
    pub kept: u64,
}

impl Watch {
    /// Forgets the peak so far and watches from here.
    pub fn start() -> Self {
        let before = LIVE.load(Relaxed);
        PEAK.store(before, Relaxed);
        Self { before }
    }

    /// Bytes alive now beyond those alive at the start.
    pub fn kept(&self) -> u64 {
        LIVE.load(Relaxed).saturating_sub(self.before)
    }

    /// What was seen since the start. Zeros where [`Counting`] is not the global allocator.
    pub fn stop(self) -> Seen {
        Seen { peak: PEAK.load(Relaxed).saturating_sub(self.before), kept: self.kept() }
    }
}
