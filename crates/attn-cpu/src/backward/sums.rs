//! What gradients by scores give to the biases, slopes and tables that the scores were made with.

use super::cut::BiasSums;
use super::room::Part;
use super::worker::Worker;
use crate::element::{Element, Loads};
use crate::kernel::STRIDE;
use crate::kernel::gradient::{AddTo, Sum};
use crate::math::Float;
use crate::task::{Row, Span};

impl<S: Loads<T>, T: Element<Accum = S::A>> Worker<'_, S, T> {
    /// Gradients by what the caller's function answered become those by what it was asked.
    pub(super) fn through_function(&mut self, span: Span, changes: *mut S::A) {
        let Some(slope) = self.task.problem.score_mod.and_then(|function| function.slope()) else { return };
        for r in 0..span.rows {
            let row = self.scorer.rows[span.row + r];
            for column in span.keys.0..span.keys.1 {
                let at = r * STRIDE + column - span.columns.0;
                let change = changes.wrapping_add(at);
                let before = self.room.at(Part::Before, r * STRIDE + column);
                // SAFETY: the span's columns of both have been written.
                unsafe {
                    if *change != S::A::ZERO {
                        let place = [self.scorer.entry.0, row.head, row.query, self.block.start + column];
                        *change = *change * S::A::from_f64(slope((*before).to_f64(), place));
                    }
                }
            }
        }
    }

    /// Adds a span's gradients by scores to all sums that are wanted.
    pub(super) fn add_to_options(&mut self, span: Span, changes: *mut S::A) {
        let wanted = &self.task.wanted;
        if wanted.bias.is_none() && !wanted.alibi_slopes && self.task.cut.table == 0 {
            return;
        }
        let count = span.keys.1 - span.keys.0;
        for r in 0..span.rows {
            let row = self.scorer.rows[span.row + r];
            let from = changes.wrapping_add(r * STRIDE + span.keys.0 - span.columns.0).cast_const();
            let key = self.block.start + span.keys.0;
            self.add_to_bias(span.row + r, row, key, from, count);
            if wanted.alibi_slopes {
                self.add_to_slope(span.row + r, row, key, from, count);
            }
            if self.task.cut.table > 0 {
                self.add_to_table(row, key, from, count);
            }
        }
    }

    fn add_to_bias(&mut self, r: usize, row: Row, key: usize, from: *const S::A, count: usize) {
        let batch = self.scorer.entry.0;
        match (self.task.cut.bias, self.task.wanted.bias) {
            (BiasSums::Pairs, Some(shape)) => {
                let place = [batch, row.head, row.query, key];
                let at = place
                    .iter()
                    .zip(shape)
                    .fold(0, |at, (place, length)| at * length + if length == 1 { 0 } else { *place });
                // Of a single key there is one number, whatever stands for its axis.
                self.add(from, self.task.bias_sums.wrapping_add(at), count);
            }
            (BiasSums::Columns, _) => {
                let cut = &self.task.cut;
                let at = row.head % cut.scoring.group * cut.block_keys + key - self.block.start;
                let to = self.room.at(Part::Columns, at);
                self.add(from, to, count);
            }
            (BiasSums::Rows, _) => {
                let sum = self.sum(from, count);
                // SAFETY: sums of rows are cleared before each tile.
                unsafe { self.room.slice_mut(Part::RowSums, r, 1)[0] = self.room.slice(Part::RowSums, r, 1)[0] + sum };
            }
            (BiasSums::Nothing, _) | (BiasSums::Pairs, None) => {}
        }
    }

    /// The slope's gradient is `−Σ dS · |j − p|`.
    fn add_to_slope(&mut self, r: usize, row: Row, key: usize, from: *const S::A, count: usize) {
        let at = self.task.cut.block_rows + r;
        let distance = key as f64 - row.query as f64 - self.task.problem.bands[self.scorer.entry.0].offset as f64;
        // SAFETY: the span's columns have been written, and sums of rows are cleared before each tile.
        unsafe {
            let changes = std::slice::from_raw_parts(from, count);
            let products = changes.iter().enumerate().map(|(i, x)| x.to_f64() * (distance + i as f64).abs());
            let sum = S::A::from_f64(-products.sum::<f64>());
            self.room.slice_mut(Part::RowSums, at, 1)[0] = self.room.slice(Part::RowSums, at, 1)[0] + sum;
        }
    }

    /// A table's first number takes all distances up to it, its last all from there on, each of the others its own.
    fn add_to_table(&mut self, row: Row, key: usize, from: *const S::A, count: usize) {
        let distances = self.task.cut.table;
        let reach = (distances / 2) as i64;
        let offset = self.task.problem.bands[self.scorer.entry.0].offset;
        let distance = (key as i64 - row.query as i64).saturating_sub(offset);
        let keys = count as i64;
        let low = (-reach).saturating_sub(distance).clamp(0, keys);
        let high = (reach + 1).saturating_sub(distance).clamp(low, keys);
        let table = row.head % self.task.cut.scoring.group * distances;
        let (below, inside, above) = (low as usize, (high - low) as usize, (keys - high) as usize);
        for (at, from, count) in [(0, from, below), (distances - 1, from.wrapping_add(high as usize), above)] {
            if count > 0 {
                let sum = self.sum(from, count);
                // SAFETY: tables are cleared with the block's sums.
                unsafe {
                    let to = &mut self.room.slice_mut(Part::Table, table + at, 1)[0];
                    *to = *to + sum;
                }
            }
        }
        if inside > 0 {
            let to = self.room.at(Part::Table, table + (distance + low + reach) as usize);
            self.add(from.wrapping_add(below), to, inside);
        }
    }

    /// Adds the tile's sums of rows to those of all blocks of keys.
    pub(super) fn add_sums_of_rows(&mut self) {
        let dims = self.task.dims;
        for r in 0..self.scorer.rows.len() {
            let row = self.scorer.rows[r];
            let at = (self.scorer.entry.0 * dims.heads + row.head) * dims.query_len + row.query;
            // SAFETY: sums of rows are cleared before each tile; both sums have a number for each row, and it is this item's turn.
            unsafe {
                if self.task.cut.bias == BiasSums::Rows {
                    let to = self.task.bias_sums.wrapping_add(at);
                    *to = *to + self.room.slice(Part::RowSums, r, 1)[0];
                }
                if self.task.wanted.alibi_slopes {
                    let to = self.task.slope_sums.wrapping_add(at);
                    *to = *to + self.room.slice(Part::RowSums, self.task.cut.block_rows + r, 1)[0];
                }
            }
        }
    }

    /// Adds the item's tables to those of all items. `false` where another thread has stopped.
    pub(super) fn add_tables(&mut self, any: bool, turn: usize) -> bool {
        if !self.task.table_turns.wait(self.head, turn) {
            return false;
        }
        if any {
            let (dims, distances, group) = (self.task.dims, self.task.cut.table, self.task.cut.scoring.group);
            let first = self.scorer.entry.0 * dims.heads + self.scorer.entry.1 * group;
            let from = self.room.at(Part::Table, 0).cast_const();
            self.add(from, self.task.table_sums.wrapping_add(first * distances), group * distances);
        }
        self.task.table_turns.pass(self.head, turn + 1);
        true
    }

    /// Adds the item's gradient by a bias of keys to that of its block.
    pub(super) fn add_columns(&mut self) {
        let (dims, cut) = (self.task.dims, self.task.cut);
        let first = self.scorer.entry.0 * dims.heads + self.scorer.entry.1 * cut.scoring.group;
        for head in 0..cut.scoring.group {
            let from = self.room.at(Part::Columns, head * cut.block_keys).cast_const();
            let at = (first + head) * dims.key_len + self.block.start;
            self.add(from, self.task.bias_sums.wrapping_add(at), self.count());
        }
    }

    /// Adds dK and dV of the item to those of its block of keys.
    pub(super) fn add_keys_and_values(&mut self) {
        let cut = self.task.cut;
        let first = self.head * self.task.dims.key_len + self.block.start;
        let sums = [
            (self.task.key_sums, Part::GradKey, cut.head_width),
            (self.task.value_sums, Part::GradValue, cut.value_width),
        ];
        for (to, part, width) in sums {
            if !to.is_null() {
                let from = self.room.at(part, 0).cast_const();
                self.add(from, to.wrapping_add(first * width), self.count() * width);
            }
        }
    }

    /// Counter and turn of a tile of a bias that several heads share.
    fn tile_turn(&self, tile: usize, block: usize) -> (usize, usize) {
        let (cut, dims, (batch, kv_head)) = (self.task.cut, self.task.dims, self.scorer.entry);
        let shape = self.task.wanted.bias.unwrap_or([1; 4]);
        let (own_batch, own_head) = (shape[0] == dims.batch, shape[1] == dims.heads);
        let (of_batch, of_head) = (if own_batch { batch } else { 0 }, if own_head { kv_head } else { 0 });
        let counter = of_batch * dims.kv_heads + of_head;
        let turn = match (own_batch, own_head) {
            (true, _) => kv_head,
            (false, true) => batch,
            (false, false) => batch * dims.kv_heads + kv_head,
        };
        ((counter * cut.key_blocks + block) * cut.row_blocks + tile, turn)
    }

    /// Waits for the heads before this one to have added to a tile. `false` where another thread has stopped.
    pub(super) fn wait_for_tile(&self, tile: usize, block: usize) -> bool {
        let (counter, turn) = self.tile_turn(tile, block);
        self.task.tile_turns.wait(counter, turn)
    }

    pub(super) fn pass_tile(&self, tile: usize, block: usize) {
        let (counter, turn) = self.tile_turn(tile, block);
        self.task.tile_turns.pass(counter, turn + 1);
    }

    fn add(&mut self, from: *const S::A, to: *mut S::A, count: usize) {
        // SAFETY: the callers' numbers: a span's columns or a block's tables, and sums of as many that are this item's, or whose turn it has.
        unsafe { S::enter(AddTo::<S> { from, to, count, factor: S::A::from_f64(1.0) }) };
    }

    fn sum(&self, from: *const S::A, count: usize) -> S::A {
        // SAFETY: the callers' columns have been written.
        unsafe { S::enter(Sum::<S> { from, count }) }
    }
}
