//! Turns: who adds to a sum that several items share, in an order that does not depend on who runs them.

use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::workspace::Area;

/// A counter for each sum: whose turn it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Turns<'a> {
    counters: &'a [AtomicUsize],
    stopped: &'a AtomicBool,
}

/// Waits this often before it lets another thread have its core: a wait is mostly the rest of a block of rows.
const SPINS: usize = 200;

impl<'a> Turns<'a> {
    /// `count` counters, each beginning at its first turn.
    pub fn new(
        area: &mut Area<'a>,
        count: usize,
        stopped: &'a AtomicBool,
        mut first: impl FnMut(usize) -> usize,
    ) -> Self {
        let counters = area.take::<AtomicUsize>(count);
        for (at, counter) in counters.iter_mut().enumerate() {
            *counter = MaybeUninit::new(AtomicUsize::new(first(at)));
        }
        // SAFETY: every counter has just been written.
        Self { counters: unsafe { counters.assume_init_ref() }, stopped }
    }

    /// Waits for a turn. Whether it came: where another thread has stopped on the way, none will.
    #[must_use]
    pub fn wait(&self, at: usize, turn: usize) -> bool {
        let mut spins = 0;
        while self.counters[at].load(Ordering::Acquire) != turn {
            if self.stopped.load(Ordering::Relaxed) {
                return false;
            }
            spins += 1;
            if spins < SPINS {
                std::hint::spin_loop();
            } else {
                std::thread::yield_now();
            }
        }
        true
    }

    /// Gives the turn to another.
    pub fn pass(&self, at: usize, to: usize) {
        self.counters[at].store(to, Ordering::Release);
    }
}

/// Says that a thread has stopped if it unwinds, so that nobody waits for it.
#[derive(Debug)]
pub(super) struct Watch<'a>(pub &'a AtomicBool);

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::Workspace;

    #[test]
    fn turns_come_in_order_and_a_stopped_thread_is_not_waited_for() {
        let mut workspace = Workspace::new(64).expect("there is room");
        let stopped = AtomicBool::new(false);
        let turns = Turns::new(&mut workspace.area(), 2, &stopped, |at| at);
        let order = std::sync::Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for turn in (1..20).rev() {
                let (turns, order) = (&turns, &order);
                scope.spawn(move || {
                    assert!(turns.wait(1, turn));
                    order.lock().expect("nobody panics").push(turn);
                    turns.pass(1, turn + 1);
                });
            }
        });
        assert_eq!(order.into_inner().expect("nobody panics"), (1..20).collect::<Vec<_>>());
        let unwound = std::panic::catch_unwind(|| {
            let _watch = Watch(&stopped);
            panic!("on purpose");
        });
        assert!(unwound.is_err() && !turns.wait(0, 7));
    }
}
