//! Partial results, where the keys of a task are split: few rows against many keys.
//!
//! Each part of a task's keys leaves its accumulators, maxima and sums here. The thread that leaves the last part of a task joins all of
//! them, in the order of the keys: the result does not depend on who that is.

use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::schedule::Layout;
use crate::workspace::{Area, bytes_of};

/// A row's running maximum in base 2, and the sum of its weights.
pub(crate) type State = (f64, f64);

/// The partial results as threads see them: each part is written by one thread, and all parts of a task are read by the one that
/// found them done. Nothing where keys are not split.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shared<'a, A> {
    /// `[tasks, splits, task_rows, value_width]`.
    acc: *mut A,
    /// `[tasks, splits, task_rows]`.
    states: *mut State,
    /// Parts of each task that are done.
    done: &'a [AtomicUsize],
}

// SAFETY: the pointers come from an area that nobody else has for as long as the workers live; parts are disjoint, and are read only after
// the counter of their task says that they are written.
unsafe impl<A: Send> Send for Shared<'_, A> {}
// SAFETY: as above.
unsafe impl<A: Send> Sync for Shared<'_, A> {}

impl<'a, A: 'a> Shared<'a, A> {
    /// Bytes of the parts of all tasks.
    pub(crate) fn bytes(layout: &Layout) -> usize {
        let [acc, states, done] = layout.partial_parts();
        bytes_of::<A>(acc).saturating_add(bytes_of::<State>(states)).saturating_add(bytes_of::<AtomicUsize>(done))
    }

    /// Takes room for them. No part is done.
    pub(crate) fn new(area: &mut Area<'a>, layout: &Layout) -> Self {
        let [acc, states, done] = layout.partial_parts();
        let (acc, states) = (area.take::<A>(acc), area.take::<State>(states));
        let done = area.take(done);
        done.iter_mut().for_each(|done| *done = MaybeUninit::new(AtomicUsize::new(0)));
        // SAFETY: every counter has just been written.
        let done: &'a [AtomicUsize] = unsafe { done.assume_init_ref() };
        Self { acc: acc.as_mut_ptr().cast(), states: states.as_mut_ptr().cast(), done }
    }

    /// Where row `row` of part `part` of task `task` lies: its `value_width` accumulators and its state. Both are unwritten until the one
    /// thread that works on the part writes them, and to be read once [`Shared::leave`] has said that all parts of the task are done.
    pub(crate) fn row(&self, layout: &Layout, (task, part, row): (usize, usize, usize)) -> (*mut A, *mut State) {
        let at = (task * layout.splits + part) * layout.task_rows + row;
        (self.acc.wrapping_add(at * layout.value_width), self.states.wrapping_add(at))
    }

    /// Says that a part is written. Whether it was the task's last.
    pub(crate) fn leave(&self, layout: &Layout, task: usize) -> bool {
        self.done[task].fetch_add(1, Ordering::AcqRel) + 1 == layout.splits
    }
}
