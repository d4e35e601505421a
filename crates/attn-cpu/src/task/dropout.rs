//! Factors of a span's weights where some are dropped.

use super::{Block, Span, Worker};
use crate::element::{Element, Loads};
use crate::kernel::dropout::Factors;
use crate::kernel::{ROWS, STRIDE};
use crate::math::Float;
use crate::problem::Dropout;

impl<S: Loads<T>, T: Element<Accum = S::A>> Worker<'_, S, T> {
    /// Runs with what dropout makes of a span's weights, up to the factor that rows are multiplied by in the end: 1 or 0, a [`STRIDE`] a
    /// row, from the span's first column on. Apart from its callers, whose stack need not hold this where nothing is dropped.
    #[inline(never)]
    pub(super) fn with_factors(
        &mut self,
        block: Block,
        span: Span,
        dropout: Dropout,
        run: impl FnOnce(&mut Self, *const S::A),
    ) {
        let mut factors = [S::A::ZERO; ROWS * STRIDE];
        // SAFETY: there is a STRIDE for each of the rows, and no span has more columns.
        unsafe { self.write_factors(block, span, dropout, S::A::from_f64(1.0), factors.as_mut_ptr()) };
        run(self, factors.as_ptr());
    }

    /// Writes `kept` or 0 for each row and column of a span.
    ///
    /// # Safety
    /// `to` is valid for so many columns in each row, [`STRIDE`] apart.
    pub(crate) unsafe fn write_factors(&self, block: Block, span: Span, dropout: Dropout, kept: S::A, to: *mut S::A) {
        for r in 0..span.rows {
            let row = self.rows[span.row + r];
            let job = Factors {
                place: [self.entry.0, row.head, row.query],
                key: block.start + span.columns.0,
                count: span.columns.1 - span.columns.0,
                seed: dropout.seed,
                threshold: dropout.threshold(),
                kept,
                to: to.wrapping_add(r * STRIDE),
            };
            // SAFETY: the caller's word.
            unsafe { S::enter(job) };
        }
    }
}
