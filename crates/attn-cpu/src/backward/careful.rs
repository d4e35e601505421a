//! The careful path of a tile in which something is NaN or infinite: pair by pair, hidden pairs left out.

use super::room::Part;
use super::run::row_of;
use super::worker::Worker;
use crate::element::{Element, Loads};
use crate::kernel::STRIDE;
use crate::kernel::gradient::HIDDEN;
use crate::math::Float;
use crate::task::Span;

impl<S: Loads<T>, T: Element<Accum = S::A>> Worker<'_, S, T> {
    /// All products of a span that follow from its weights and gradients by scores.
    pub(super) fn multiply_seen(&mut self, span: Span, first: bool) {
        let (cut, task, entry) = (self.task.cut, self.task, self.scorer.entry);
        for r in span.row..span.row + span.rows {
            let row = self.scorer.rows[r];
            let place = [entry.0, row.head, row.query];
            if first {
                self.room.fill(Part::GradQuery, r * cut.head_width, cut.head_width, S::A::ZERO);
            }
            for column in span.keys.0..span.keys.1 {
                let weight = self.number(Part::Weights, r, column);
                if weight.to_f64() == HIDDEN {
                    continue;
                }
                let change = self.number(Part::Changes, r, column);
                let key = [entry.0, entry.1, self.block.start + column];
                let (query, keys) = (row_of(&task.problem.query, place), row_of(&task.problem.key, key));
                let (query_step, key_step) = (task.problem.query.strides()[3], task.problem.key.strides()[3]);
                if task.wanted.query {
                    self.add_row((Part::GradQuery, r * cut.head_width), change, keys, key_step, task.dims.head_dim);
                }
                if task.wanted.key {
                    self.add_row(
                        (Part::GradKey, column * cut.head_width),
                        change,
                        query,
                        query_step,
                        task.dims.head_dim,
                    );
                }
                if let Some(grad) = task.upstream.grad_out.filter(|_| task.wanted.value) {
                    let (from, step) = (row_of(&grad, place), grad.strides()[3]);
                    self.add_row((Part::GradValue, column * cut.value_width), weight, from, step, task.dims.value_dim);
                }
            }
        }
    }

    /// A number of a row's weights or gradients by scores, which may be half of a unit.
    fn number(&mut self, part: Part, r: usize, column: usize) -> S::A {
        let unit = self.room.at(part, self.unit_of(r) * STRIDE + column);
        // SAFETY: the span's columns of the row have been written, two rows to a unit where there are pairs.
        unsafe { if S::PAIRS { (*unit.cast::<T>().wrapping_add(r % 2)).widen() } else { *unit } }
    }

    fn unit_of(&self, r: usize) -> usize {
        if S::PAIRS { r / 2 } else { r }
    }

    /// Adds a multiple of a row of elements to one of accumulators.
    fn add_row(&mut self, (part, at): (Part, usize), factor: S::A, from: *const T, step: usize, count: usize) {
        // SAFETY: the accumulators of the block and of the strip have been cleared; the views were checked to hold `count` elements of
        // every row.
        unsafe {
            for (i, x) in self.room.slice_mut(part, at, count).iter_mut().enumerate() {
                *x = *x + factor * (*from.wrapping_add(i * step)).widen();
            }
        }
    }
}
