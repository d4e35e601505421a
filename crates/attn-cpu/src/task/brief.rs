//! A task of rows that see so few keys that a vector holds a row's scores: strip by strip, from the queries to the outputs.

use super::{Block, Span, Steps, Strip, Through, Worker};
use crate::element::{Element, Loads};
use crate::kernel::brief::{Scores, Values, Weigh};
use crate::kernel::{ROWS, STRIDE};
use crate::math::Float;

const _: () = assert!(STRIDE >= 2 * 16, "scores and weights of a row lie side by side");

impl<S: Loads<T>, T: Element<Accum = S::A>> Worker<'_, S, T> {
    /// Computes the task's rows and writes them.
    pub(super) fn brief(&mut self) {
        for strip in 0..self.strips.len() {
            let Strip { some, all } = self.strips[strip];
            let row = strip * ROWS;
            let span = Span::new(row, ROWS.min(self.rows.len() - row), (0, some.1), S::LANES);
            self.brief_scores(span);
            self.brief_options(span, all);
            let block = Block { start: 0, end: self.dims.key_len };
            let one = Span { columns: (0, S::LANES), ..span };
            match self.problem.dropout {
                None => self.brief_outputs(span, std::ptr::null()),
                Some(dropout) => {
                    self.with_factors(block, one, dropout, |worker, kept| worker.brief_outputs(span, kept));
                }
            }
        }
    }

    fn brief_scores(&mut self, span: Span) {
        let [_, _, key_stride, dim_stride] = self.problem.key.strides();
        let (mut query, mut keys) = ([std::ptr::null(); ROWS], [std::ptr::null(); ROWS]);
        for (r, row) in self.rows[span.row..span.row + span.rows].iter().enumerate() {
            query[r] = self.of_entry(&self.problem.query, row.head, row.query);
            keys[r] = match r > 0 && row.kv_head == self.rows[span.row + r - 1].kv_head {
                true => keys[r - 1],
                false => self.of_entry(&self.problem.key, row.kv_head, 0),
            };
        }
        let job = Scores::<S, T> {
            query,
            rows: span.rows,
            query_stride: self.problem.query.strides()[3],
            keys,
            key_stride,
            dim_stride,
            count: span.keys.1,
            dims: self.dims.head_dim,
            scores: self.scratch.scores(0, 0),
        };
        // SAFETY: the views were checked to hold every query and key; a row of the scratch has room for a vector and three numbers.
        unsafe { S::enter(&job) };
    }

    /// What becomes of the scores, and what is hidden.
    fn brief_options(&mut self, span: Span, all: (usize, usize)) {
        let block = Block { start: 0, end: self.dims.key_len };
        if self.options {
            self.apply_options(block, span, Steps::All);
        }
        if self.problem.mask.is_some() && span.keys.1 > 0 {
            self.hide_by_mask(block, span, Through { some: 0, all: 0 });
        }
        self.apply_function(block, span);
        if all.0 > 0 || all.1 < span.keys.1 {
            self.hide(block, span);
        }
        self.hide_by_blocks(block, span);
    }

    /// Softmax, LSE and outputs. `kept`: what weights are multiplied by as they are written, a [`STRIDE`] a row. Null: 1.
    fn brief_outputs(&mut self, span: Span, kept: *const S::A) {
        let (scores, rows, count) = (self.scratch.scores(0, 0), span.rows, span.keys.1);
        // SAFETY: the scratch has six rows of scores and of weights, and so have the factors.
        let states = unsafe { S::enter(Weigh::<S> { scores, rows, count, unit: self.unit, kept }) };
        let mut factor = [S::A::ZERO; ROWS];
        let (mut values, mut out) = ([std::ptr::null(); ROWS], [self.out.out; ROWS]);
        for (r, (max, sum)) in states.into_iter().enumerate().take(rows) {
            let (weight, at) = self.weigh_row(span.row + r, (max.to_f64(), sum.to_f64()));
            factor[r] = S::A::from_f64(weight);
            values[r] = self.of_entry(&self.problem.value, self.rows[span.row + r].kv_head, 0);
            out[r] = self.out.out.wrapping_add(at * self.dims.value_dim);
        }
        if self.dims.value_dim == 0 {
            return;
        }
        let [_, _, value_stride, dim_stride] = self.problem.value.strides();
        for careful in [false, true] {
            let job = Values::<S, T> {
                scores,
                rows,
                count,
                values,
                value_stride,
                dim_stride,
                dims: self.dims.value_dim,
                factor,
                out,
                careful,
            };
            // SAFETY: the view was checked to hold every value, the output to have `value_dim` elements a row; the rows are this task's.
            if unsafe { S::enter(&job) } {
                return;
            }
        }
    }
}
