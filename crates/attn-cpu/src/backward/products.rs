//! The products of a tile, all by the forward's register tile.

use std::marker::PhantomData;

use super::room::Part;
use super::worker::Worker;
use crate::element::{Element, Loads};
use crate::kernel::gradient::Drop;
use crate::kernel::tile::{self, Columns, Queries, Tile, Weights};
use crate::kernel::{ROWS, STRIDE};
use crate::math::Float;
use crate::schedule::pieces;
use crate::task::Span;

impl<S: Loads<T>, T: Element<Accum = S::A>> Worker<'_, S, T> {
    /// Where `dP` of a span lies; null where it is 0.
    pub(super) fn by_out(&mut self, span: Span) -> *const S::A {
        match self.task.upstream.grad_out.is_some() && self.task.dims.value_dim > 0 {
            true => self.room.at(Part::ByOut, span.columns.0),
            false => std::ptr::null(),
        }
    }

    /// `dP = dOut · valueᵀ` of a span.
    pub(super) fn multiply_values(&mut self, span: Span) {
        if self.by_out(span).is_null() {
            return;
        }
        let (units, panel) = (self.task.cut.value_units, S::LANES * S::TILE_VECTORS);
        let mut column = span.columns.0;
        while column < span.columns.1 {
            let inside = column % panel;
            let end = span.columns.1.min(column - inside + panel);
            let tile = Tile::<S, Queries> {
                a: self.room.at(Part::OutStrips, span.row * pieces(units)),
                lies: PhantomData,
                b: self.room.at(Part::Values, (column - inside) * units).wrapping_add(inside),
                b_stride: panel,
                depth: units,
                c: self.room.at(Part::ByOut, column),
                c_stride: STRIDE,
                factor: std::ptr::null(),
            };
            // SAFETY: the panel holds `end - column` values from `inside` on; staged gradients and dP have six rows.
            unsafe { tile::run(span.rows, (end - column) / S::LANES, &tile) };
            column = end;
        }
    }

    /// Where the factors of dropout of a span lie; null where nothing is dropped.
    pub(super) fn kept(&mut self, span: Span) -> *const S::A {
        match self.task.problem.dropout {
            Some(_) => self.room.at(Part::Kept, span.columns.0),
            None => std::ptr::null(),
        }
    }

    /// Finds the factors of dropout of a span, and multiplies `dP` by them.
    pub(super) fn drop(&mut self, span: Span) {
        let kept = self.kept(span).cast_mut();
        let Some(dropout) = self.task.problem.dropout else { return };
        // SAFETY: the part has a STRIDE for each row of a strip, and the columns lie in it.
        unsafe { self.scorer.write_factors(self.block, span, dropout, S::A::from_f64(dropout.scale()), kept) };
        let by_out = self.by_out(span).cast_mut();
        if !by_out.is_null() {
            let vectors = (span.columns.1 - span.columns.0) / S::LANES;
            // SAFETY: as above, of both.
            unsafe { S::enter(Drop::<S> { by_out, kept, rows: span.rows, vectors }) };
        }
    }

    /// What a span gives to dQ: `dS · key`, onto what the strip's spans before it gave.
    pub(super) fn multiply_keys(&mut self, span: Span, first: bool) {
        let (width, step, cut) = (self.task.cut.head_width, S::LANES * S::TILE_VECTORS, self.task.cut);
        let ones = [S::A::from_f64(1.0); ROWS];
        // The first key of a unit. Where it is not of the span it is hidden: its gradient is 0.
        let key = span.keys.0 / cut.scoring.per_unit * cut.scoring.per_unit;
        let a = match S::PAIRS {
            true => self.room.at(Part::ByKeys, cut.units(key)),
            false => self.room.at(Part::Changes, span.row * STRIDE + key),
        };
        for dim in (0..width).step_by(step) {
            let tile = Tile::<S, Weights> {
                a,
                lies: PhantomData,
                b: self.room.at(Part::KeyRows, cut.units(key) * width + dim),
                b_stride: width,
                depth: cut.units(span.keys.1 - key),
                c: self.room.at(Part::GradQuery, span.row * width + dim),
                c_stride: width,
                factor: if first { std::ptr::null() } else { ones.as_ptr() },
            };
            // SAFETY: the block holds `depth` units of keys from the span's first on, whole vectors of each; gradients by scores and dQ
            // have six rows.
            unsafe { tile::run(span.rows, (width - dim).min(step) / S::LANES, &tile) };
        }
    }

    /// `dV += Pᵀ · dOut`.
    pub(super) fn add_values(&mut self) {
        self.add_transposed(Part::Weights, Part::OutRows, Part::GradValue, self.task.cut.value_width);
    }

    /// `dK += dSᵀ · query`.
    pub(super) fn add_keys(&mut self) {
        self.add_transposed(Part::Changes, Part::QueryRows, Part::GradKey, self.task.cut.head_width);
    }

    /// A product of the tile's transposed weights, six columns at a time, with rows of `width`, over the strips that see them.
    fn add_transposed(&mut self, weights: Part, rows: Part, to: Part, width: usize) {
        let (cut, count, total) = (self.task.cut, self.count(), self.scorer.rows.len());
        let step = S::LANES * S::TILE_VECTORS;
        let ones = [S::A::from_f64(1.0); ROWS];
        for column in (0..count).step_by(ROWS) {
            let mut strip = 0;
            while strip < self.seen.len() {
                let run = self.seen[strip..].iter().take_while(|seen| seen.holds(column)).count();
                if run == 0 {
                    strip += 1;
                    continue;
                }
                let (first, last) = (strip * ROWS, ((strip + run) * ROWS).min(total));
                let unit = cut.units(first);
                for dim in (0..width).step_by(step) {
                    let tile = Tile::<S, Columns> {
                        a: self.room.at(weights, unit * STRIDE + column),
                        lies: PhantomData,
                        b: self.room.at(rows, unit * width + dim),
                        b_stride: width,
                        depth: cut.units(last - first),
                        c: self.room.at(to, column * width + dim),
                        c_stride: width,
                        factor: ones.as_ptr(),
                    };
                    let vectors = (width - dim).min(step) / S::LANES;
                    // SAFETY: weights and rows were written for `depth` units from the first strip's on, up to six columns beyond those
                    // that a strip sees; the sums have room for a multiple of six keys.
                    unsafe { tile::run(ROWS.min(count - column), vectors, &tile) };
                }
                strip += run;
            }
        }
    }
}
