//! The end of a task: sums and sinks turn accumulators into outputs, maxima into the LSE.

use std::f64::consts::LN_2;

use super::Worker;
use crate::element::{Element, Loads};
use crate::kernel::finish::Finish;
use crate::math::Float;

impl<S: Loads<T>, T: Element<Accum = S::A>> Worker<'_, S, T> {
    /// Writes the task's rows. Whether all that was written is finite (the LSE of a blind row apart).
    pub(super) fn finish(&mut self) -> bool {
        let mut finite = true;
        for r in 0..self.rows.len() {
            let row = self.rows[r];
            let (factor, lse) = self.weigh(r, row.head);
            let at = (self.entry.0 * self.dims.heads + row.head) * self.dims.query_len + row.query;
            if let Some(out) = self.out.lse {
                // SAFETY: the LSE was checked to have one number a row, and this row is this task's.
                unsafe { *out.wrapping_add(at) = S::A::from_f64(lse) };
            }
            if self.dims.value_dim > 0 {
                let job = Finish::<S, T> {
                    acc: self.scratch.acc(r * self.layout.value_width),
                    factor: S::A::from_f64(factor),
                    count: self.dims.value_dim,
                    out: self.out.out.wrapping_add(at * self.dims.value_dim),
                };
                // SAFETY: the output was checked to have `value_dim` elements a row, and this row is this task's.
                finite &= unsafe { S::enter(job) };
            }
        }
        finite
    }

    /// A row's factor, 1 over the sum of its weights and its sink's, and its LSE.
    fn weigh(&self, r: usize, head: usize) -> (f64, f64) {
        let (max, sums) = self.scratch.state(r, S::LANES);
        let sum: f64 = sums.iter().map(|x| x.to_f64()).sum();
        let factor = if sum == 0.0 { 0.0 } else { 1.0 / sum };
        let sink = self.problem.sinks.map_or(f64::NEG_INFINITY, |sinks| sinks[head].widen().to_f64());
        if self.out.lse.is_none() && sink == f64::NEG_INFINITY {
            return (factor, 0.0);
        }
        let visible = if sum == 0.0 { f64::NEG_INFINITY } else { max.to_f64() * LN_2 + sum.ln() };
        if sink == f64::NEG_INFINITY {
            return (factor, visible);
        }
        let top = visible.max(sink);
        let lse = top + ((visible - top).exp() + (sink - top).exp()).ln();
        (if sum == 0.0 { 0.0 } else { (visible - lse).exp() / sum }, lse)
    }
}
