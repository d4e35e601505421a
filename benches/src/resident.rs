//! The peak of resident memory: what a call takes where its allocations go past the counting allocator.
//!
//! LibTorch allocates by itself, so only the system knows. Linux keeps the highest resident size of a process and takes
//! a request to begin anew; what glibc's allocator holds back from earlier calls is handed to the system first, since it would
//! serve the next call unseen. Pages and not bytes are counted, and every page of the process, so the figure is good to
//! some hundred KiB, and only if the process does nothing else meanwhile.

/// A stretch of time in which the peak of resident memory is watched. One at a time.
pub struct Resident {
    before: u64,
}

impl Resident {
    /// Forgets the peak so far and watches from here; none where the system does not tell.
    pub fn start() -> Option<Self> {
        give_back();
        // "5" resets the peak to the present size, see proc_pid_clear_refs(5).
        std::fs::write("/proc/self/clear_refs", "5").ok()?;
        Some(Self { before: status("VmRSS")? })
    }

    /// Bytes by which the process grew at most since the start.
    pub fn stop(self) -> Option<u64> {
        Some(status("VmHWM")?.saturating_sub(self.before))
    }
}

/// A line of the process's status, in bytes.
fn status(key: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let value = crate::machine::field(&text, key)?;
    Some(value.strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

/// Hands memory that is free within the allocator back to the system.
fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: `malloc_trim` may be called by any thread at any time, and touches only memory that nobody holds.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Makes glibc's allocator ask the system for every large block and hand it back when it is freed. By itself it comes to keep blocks
/// of up to 32 MiB, which then serve later calls unseen. For tests: allocations take longer so.
pub fn keep_nothing() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: `mallopt` may be called by any thread at any time; it sets a number of the allocator.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 64 << 10);
    }
}

#[cfg(all(test, target_os = "linux", target_env = "gnu"))]
mod tests {
    use super::*;
    use std::hint::black_box;

    /// Other tests run in this process meanwhile: a size far above theirs.
    const SIZE: usize = 256 << 20;

    #[test]
    fn the_peak_is_seen_and_what_was_freed_before_is_not() {
        drop(black_box(vec![1u8; SIZE]));
        let watch = Resident::start().expect("Linux tells");
        drop(black_box(vec![1u8; SIZE]));
        let seen = watch.stop().expect("Linux tells");
        assert!(seen > SIZE as u64 / 8 * 7 && seen < SIZE as u64 / 4 * 5, "{seen}");
        let watch = Resident::start().expect("Linux tells");
        let seen = watch.stop().expect("Linux tells");
        assert!(seen < SIZE as u64 / 4, "{seen}");
    }
}
