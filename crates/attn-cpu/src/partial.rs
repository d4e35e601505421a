//! Partial results, where the keys of a task are split: few rows against many keys.
//!
//! Each part of a task's keys leaves its accumulators, maxima and sums here. The thread that leaves the last part of a task joins all of
//! them, in the order of the keys: the result does not depend on who that is.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::math::Float;
use crate::schedule::Layout;

/// A row's running maximum in base 2, and the sum of its weights.
pub(crate) type State = (f64, f64);

/// Room for the parts of all tasks. Nothing where keys are not split.
#[derive(Debug)]
pub(crate) struct Partials<A> {
    /// `[tasks, splits, task_rows, value_width]`.
    acc: Vec<A>,
    /// `[tasks, splits, task_rows]`.
    states: Vec<State>,
    /// Parts of each task that are done.
    done: Vec<AtomicUsize>,
}

impl<A: Float> Partials<A> {
    pub(crate) fn new(layout: &Layout) -> Self {
        let [acc, states, done] = layout.partial_parts();
        Self {
            acc: vec![A::ZERO; acc],
            states: vec![(f64::NEG_INFINITY, 0.0); states],
            done: std::iter::repeat_with(AtomicUsize::default).take(done).collect(),
        }
    }

    /// What threads share.
    pub(crate) fn shared(&mut self) -> Shared<'_, A> {
        Shared { acc: self.acc.as_mut_ptr(), states: self.states.as_mut_ptr(), done: &self.done }
    }
}

/// The partial results as threads see them: each part is written by one thread, and all parts of a task are read by the one that
/// found them done.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shared<'a, A> {
    acc: *mut A,
    states: *mut State,
    done: &'a [AtomicUsize],
}

// SAFETY: the pointers come from an exclusive borrow that outlives the workers; parts are disjoint, and are read only after the counter of
// their task says that they are written.
unsafe impl<A: Send> Send for Shared<'_, A> {}
// SAFETY: as above.
unsafe impl<A: Send> Sync for Shared<'_, A> {}

impl<A: Float> Shared<'_, A> {
    /// Row `row` of part `part` of task `task`: its accumulators and its state.
    ///
    /// # Safety
    /// All three exist, and either this thread alone works on the part, or [`Shared::leave`] has said that all of the task's are done.
    #[allow(clippy::mut_from_ref, reason = "the caller vouches for being alone")]
    pub(crate) unsafe fn row(
        &self,
        layout: &Layout,
        (task, part, row): (usize, usize, usize),
    ) -> (&mut [A], &mut State) {
        let at = (task * layout.splits + part) * layout.task_rows + row;
        let width = layout.value_width;
        // SAFETY: the caller's word, and the sizes of `Partials::new`.
        unsafe { (std::slice::from_raw_parts_mut(self.acc.add(at * width), width), &mut *self.states.add(at)) }
    }

    /// Says that a part is written. Whether it was the task's last.
    pub(crate) fn leave(&self, layout: &Layout, task: usize) -> bool {
        self.done[task].fetch_add(1, Ordering::AcqRel) + 1 == layout.splits
    }
}
