//! Inputs in the forms that products take: a block's keys and values, a tile's queries and gradients.

use super::cut::BiasSums;
use super::room::Part;
use super::run::{number, row_of, shift};
use super::worker::Worker;
use crate::element::{Element, Loads};
use crate::kernel::ROWS;
use crate::kernel::gradient::Finite;
use crate::kernel::pack::{PackKeys, PackRows, PackValues, Stage};
use crate::math::Float;
use crate::schedule::pieces;

impl<S: Loads<T>, T: Element<Accum = S::A>> Worker<'_, S, T> {
    /// Brings the block's keys and values into the forms that products take, and clears what is summed up over it.
    pub(super) fn pack(&mut self) {
        let (cut, dims, count) = (self.task.cut, self.task.dims, self.count());
        let (keys, values) = (self.scorer.keys(self.block.start), self.scorer.values(self.block.start));
        self.scorer.pack_keys(self.block, 0..count);
        let [_, _, key_stride, key_step] = self.task.problem.key.strides();
        let [_, _, value_stride, value_step] = self.task.problem.value.strides();
        if self.task.upstream.grad_out.is_some() && dims.value_dim > 0 {
            let job = PackKeys::<S, T> {
                keys: values,
                key_stride: value_stride,
                dim_stride: value_step,
                count,
                dims: dims.value_dim,
                units: cut.value_units,
                panels: self.room.at(Part::Values, 0),
                stage: self.room.at(Part::Stage, 0),
            };
            // SAFETY: the view was checked to hold every value of the block; the room is for a block.
            unsafe { S::enter(job) };
        }
        let job = PackValues::<S, T> {
            from: keys,
            row_stride: key_stride,
            stride: key_step,
            rows: count,
            count: dims.head_dim,
            to: self.room.at(Part::KeyRows, 0),
            width: cut.head_width,
        };
        // SAFETY: the view was checked to hold every key of the block; the room is for a block.
        unsafe { S::enter(job) };
        let finite = |from, row_stride, stride, length| {
            let job = Finite { from, row_stride, stride, rows: count, count: length };
            // SAFETY: as above.
            unsafe { S::enter(job) }
        };
        self.keys_finite = !self.task.may_hide
            || (finite(keys, key_stride, key_step, dims.head_dim)
                && finite(values, value_stride, value_step, dims.value_dim));
        let rows = count.next_multiple_of(ROWS);
        self.room.fill(Part::GradKey, 0, rows * cut.head_width, S::A::ZERO);
        self.room.fill(Part::GradValue, 0, rows * cut.value_width, S::A::ZERO);
        self.room.fill(Part::Table, 0, cut.table * cut.scoring.group, S::A::ZERO);
        if cut.bias == BiasSums::Columns {
            self.room.fill(Part::Columns, 0, cut.block_keys * cut.scoring.group, S::A::ZERO);
        }
    }

    /// Brings the tile's queries and gradients into the forms that products take, and finds `base` and `shift` of each row.
    pub(super) fn stage(&mut self) {
        let (cut, dims, task, entry) = (self.task.cut, self.task.dims, self.task, self.scorer.entry);
        let count = self.scorer.rows.len();
        self.scorer.stage_queries();
        let mut finite = true;
        for first in (0..count).step_by(ROWS) {
            let rows = ROWS.min(count - first);
            let places: [[usize; 3]; ROWS] = std::array::from_fn(|r| {
                let row = self.scorer.rows[first + r.min(rows - 1)];
                [entry.0, row.head, row.query]
            });
            let query = places.map(|place| row_of(&task.problem.query, place));
            let step = task.problem.query.strides()[3];
            let job = PackRows::<S, T> {
                rows: &query[..rows],
                stride: step,
                count: dims.head_dim,
                to: self.room.at(Part::QueryRows, cut.units(first) * cut.head_width),
                width: cut.head_width,
            };
            // SAFETY: the view was checked to hold every query; the room is for a tile.
            unsafe { S::enter(job) };
            finite &= !task.may_hide || rows_finite::<S, T>(&query[..rows], step, dims.head_dim);
            if let Some(grad_out) = task.upstream.grad_out {
                let from = places.map(|place| row_of(&grad_out, place));
                let step = grad_out.strides()[3];
                let job = PackRows::<S, T> {
                    rows: &from[..rows],
                    stride: step,
                    count: dims.value_dim,
                    to: self.room.at(Part::OutRows, cut.units(first) * cut.value_width),
                    width: cut.value_width,
                };
                // SAFETY: the view was checked to hold every row of the gradient; the room is for a tile.
                unsafe { S::enter(job) };
                let to = self.room.at(Part::OutStrips, first * pieces(cut.value_units));
                // SAFETY: as above.
                unsafe { S::enter(Stage::<S, T> { from, rows, stride: step, count: dims.value_dim, to }) };
                finite &= !task.may_hide || rows_finite::<S, T>(&from[..rows], step, dims.value_dim);
            }
            for (r, place) in places.into_iter().enumerate().take(rows) {
                let lse = number(&task.upstream.lse, place).to_f64();
                self.room.fill(Part::Base, first + r, 1, S::A::from_f64(lse * std::f64::consts::LOG2_E));
                self.room.fill(Part::Shift, first + r, 1, shift::<S, T>(task.upstream, &dims, place));
            }
        }
        self.room.fill(Part::RowSums, 0, 2 * cut.block_rows, S::A::ZERO);
        self.careful = !(self.keys_finite && finite);
    }
}

/// Whether all elements of some rows are finite.
fn rows_finite<S: Loads<T>, T: Element<Accum = S::A>>(rows: &[*const T], stride: usize, count: usize) -> bool {
    rows.iter().all(|from| {
        let job = Finite { from: *from, row_stride: 0, stride, rows: 1, count };
        // SAFETY: the rows were checked to hold `count` elements at the stride.
        unsafe { S::enter(job) }
    })
}
