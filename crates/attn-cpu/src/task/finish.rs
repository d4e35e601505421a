//! The end of a task: sums and sinks turn accumulators into outputs, maxima into the LSE. Parts of a task are kept and joined.

use std::f64::consts::LN_2;

use super::Worker;
use crate::element::{Element, Loads};
use crate::kernel::finish::{Finish, Keep};
use crate::math::Float;
use crate::partial::State;

impl<S: Loads<T>, T: Element<Accum = S::A>> Worker<'_, S, T> {
    /// Writes the task's rows. Whether all that was written is finite (the LSE of a blind row apart).
    pub(super) fn finish(&mut self) -> bool {
        let mut finite = true;
        for r in 0..self.rows.len() {
            let state = self.state(r);
            finite &= self.finish_row(r, state);
        }
        finite
    }

    /// Keeps the rows of a part of a task. Whether all of them are finite.
    pub(super) fn keep(&mut self, task: usize, part: usize) -> bool {
        let mut finite = true;
        for r in 0..self.rows.len() {
            let state = self.state(r);
            let (to, kept) = self.partials.row(&self.layout, (task, part, r));
            let (acc, count) = (self.scratch.acc(r * self.layout.value_width), self.layout.value_width);
            // SAFETY: the row is one of the task's, and this thread alone works on the part; both are rows of `value_width` accumulators.
            finite &= unsafe {
                kept.write(state);
                S::enter(Keep::<S> { acc, count, to })
            };
        }
        finite
    }

    /// Joins the parts of a task, all of which are kept, and writes its rows:
    ///
    /// ```text
    /// M = max Mₛ;  sum = Σ 2^(Mₛ − M) · sumₛ;  acc = Σ 2^(Mₛ − M) · accₛ          over parts s, in the order of the keys
    /// ```
    pub(super) fn join(&mut self, task: usize) {
        let (layout, width) = (self.layout, self.layout.value_width);
        for r in 0..self.rows.len() {
            let part = |part| {
                let (acc, state) = self.partials.row(&layout, (task, part, r));
                // SAFETY: the row is one of the task's, and all parts of the task are done, which has written both.
                unsafe { (std::slice::from_raw_parts(acc, width), *state) }
            };
            let max = (0..layout.splits).map(|s| part(s).1.0).fold(f64::NEG_INFINITY, f64::max);
            let mut total = 0.0;
            let acc = self.scratch.accumulators(r * width, width);
            acc.fill(S::A::ZERO);
            for s in 0..layout.splits {
                let (from, (own, sum)) = part(s);
                if sum != 0.0 {
                    let factor = (own - max).exp2();
                    total += factor * sum;
                    let factor = S::A::from_f64(factor);
                    acc.iter_mut().zip(from.iter()).for_each(|(x, y)| *x = *x + factor * *y);
                }
            }
            self.finish_row(r, (max, total));
        }
    }

    /// Writes a row from its accumulators and its state. Whether what was written is finite.
    fn finish_row(&mut self, r: usize, state: State) -> bool {
        let (factor, at) = self.weigh_row(r, state);
        if self.dims.value_dim == 0 {
            return true;
        }
        let job = Finish::<S, T> {
            acc: self.scratch.acc(r * self.layout.value_width),
            factor: S::A::from_f64(factor),
            count: self.dims.value_dim,
            out: self.out.out.wrapping_add(at * self.dims.value_dim),
        };
        // SAFETY: the output was checked to have `value_dim` elements a row, and this row is this task's.
        unsafe { S::enter(job) }
    }

    /// Writes a row's LSE. Its factor, and its place among all rows.
    pub(super) fn weigh_row(&self, r: usize, state: State) -> (f64, usize) {
        let row = self.rows[r];
        let (factor, lse) = self.weigh(state, row.head);
        let at = (self.entry.0 * self.dims.heads + row.head) * self.dims.query_len + row.query;
        if let Some(out) = self.out.lse {
            // SAFETY: the LSE was checked to have one number a row, and this row is this task's.
            unsafe { *out.wrapping_add(at) = S::A::from_f64(lse) };
        }
        (factor, at)
    }

    /// A row's maximum and the sum of its weights.
    fn state(&self, r: usize) -> State {
        let (max, sums) = self.scratch.state(r, S::LANES);
        (max.to_f64(), sums.iter().map(|x| x.to_f64()).sum())
    }

    /// A row's factor, 1 over the sum of its weights and its sink's (times that of weights that dropout keeps), and its LSE.
    fn weigh(&self, (max, sum): State, head: usize) -> (f64, f64) {
        let kept = self.problem.dropout.map_or(1.0, |dropout| dropout.scale());
        let factor = if sum == 0.0 { 0.0 } else { kept / sum };
        let sink = self.problem.sinks.map_or(f64::NEG_INFINITY, |sinks| sinks[head].widen().to_f64());
        if self.out.lse.is_none() && sink == f64::NEG_INFINITY {
            return (factor, 0.0);
        }
        let visible = if sum == 0.0 { f64::NEG_INFINITY } else { max * LN_2 + sum.ln() };
        if sink == f64::NEG_INFINITY {
            return (factor, visible);
        }
        let top = visible.max(sink);
        let lse = top + ((visible - top).exp() + (sink - top).exp()).ln();
        (if sum == 0.0 { 0.0 } else { kept * (visible - lse).exp() / sum }, lse)
    }
}
