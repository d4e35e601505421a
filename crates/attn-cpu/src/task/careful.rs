//! The careful path: hidden values are skipped one by one, so that NaN and infinity in them can't spread.
//!
//! A weight of 0 times a NaN is NaN. The fast path multiplies every value between a strip's first and last visible key
//! with every row's weight, so a hidden NaN or infinity makes an output NaN. That is noticed when the task's rows are
//! finished, and the task runs again with this path: no test of the values is needed before, and only problems with
//! such values pay.

use super::{Block, Span, Worker};
use crate::element::{Element, Loads};
use crate::kernel::{BLOCK, ROWS};
use crate::math::Float;

/// Whether a score was −∞ before it became a weight, by strip row and column.
pub(super) type Hidden = [[bool; BLOCK]; ROWS];

impl<S: Loads<T>, T: Element<Accum = S::A>> Worker<'_, S, T> {
    /// Notes which scores of a span are −∞.
    pub(super) fn hidden(&mut self, span: Span) -> Hidden {
        let mut hidden = [[true; BLOCK]; ROWS];
        for (r, hidden) in hidden.iter_mut().enumerate().take(span.rows) {
            let scores = self.scratch.row(r);
            for column in span.keys.0..span.keys.1 {
                hidden[column] = scores[column] == S::A::NEG_INFINITY;
            }
        }
        hidden
    }

    /// A weight of a span, which may be half of a unit.
    fn weight(&mut self, r: usize, span: Span, column: usize) -> S::A {
        if !self.pairs_of_values() {
            return self.scratch.row(r)[column];
        }
        let units = self.scratch.scores(r, span.columns.0).cast::<T>();
        // SAFETY: the row's weights were written from the span's first column on, two to a unit.
        unsafe { *units.wrapping_add(column - span.columns.0) }.widen()
    }

    /// Weights times values onto the accumulators, visible pairs alone.
    pub(super) fn accumulate_seen(&mut self, block: Block, span: Span, hidden: &Hidden) {
        let width = self.layout.value_width;
        let stride = self.problem.value.strides()[3];
        for (r, hidden) in hidden.iter().enumerate().take(span.rows) {
            for (column, hidden) in hidden.iter().enumerate().take(span.keys.1).skip(span.keys.0) {
                let from = self.values(block.start + column);
                let first = column == span.keys.0;
                let weight = self.weight(r, span, column);
                // SAFETY: a strip has a factor for each of its rows.
                let factor = unsafe { *self.scratch.factor().wrapping_add(r) };
                let acc = self.scratch.accumulators((span.row + r) * width, width);
                if first {
                    acc.iter_mut().for_each(|x| *x = *x * factor);
                }
                if *hidden {
                    continue;
                }
                for (e, x) in acc.iter_mut().enumerate().take(self.dims.value_dim) {
                    // SAFETY: the view was checked to hold `value_dim` elements of every key.
                    let value = unsafe { *from.wrapping_add(e * stride) };
                    *x = *x + weight * value.widen();
                }
            }
        }
    }
}
