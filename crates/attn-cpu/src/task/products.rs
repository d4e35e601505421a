//! The two products of a task: queries, keys and values brought into the form that they take, then scores, then outputs.

use std::marker::PhantomData;
use std::ops::Range;

use super::blocks::{self, Groups};
use super::{Block, Span, Worker};
use crate::View;
use crate::element::{Element, Loads};
use crate::kernel::lying::{Lying, PAIR, STREAMS};
use crate::kernel::pack::{PackKeys, PackValues, Stage};
use crate::kernel::softmax::Written;
use crate::kernel::tile::{Queries, Tile, Weights};
use crate::kernel::{ROWS, STRIDE, dot, lying, tile};
use crate::math::Float;

/// Most rows of a task whose scores are computed straight from the keys as they lie. With more, packing pays.
const FEW_ROWS: usize = 16;

impl<S: Loads<T>, T: Element<Accum = S::A>> Worker<'_, S, T> {
    fn few_rows(&self) -> bool {
        self.rows.len() <= FEW_ROWS
    }

    /// Whether keys are read as they lie.
    fn keys_as_they_lie(&self) -> bool {
        self.few_rows() && self.problem.key.strides()[3] == 1
    }

    /// Whether values are read as they lie: a vector or more of each, and no widening that more than a few rows would repeat.
    fn values_as_they_lie(&self) -> bool {
        self.few_rows() && self.problem.value.strides()[3] == 1 && self.dims.value_dim >= lying::width::<S>()
    }

    /// Whether values and weights are packed as units of two.
    pub(super) fn pairs_of_values(&self) -> bool {
        S::PAIRS && !self.values_as_they_lie()
    }

    /// How the softmax writes weights.
    pub(super) fn written(&self) -> Written {
        match (S::PAIRS, self.values_as_they_lie()) {
            (false, _) => Written::Wide,
            (true, true) => Written::Rounded,
            (true, false) => Written::Pairs,
        }
    }

    pub(crate) fn keys(&self, key: usize) -> *const T {
        self.of_entry(&self.problem.key, self.entry.1, key)
    }

    pub(crate) fn values(&self, key: usize) -> *const T {
        self.of_entry(&self.problem.value, self.entry.1, key)
    }

    /// Where a key, a value or a query of a head of the running batch entry begins.
    pub(super) fn of_entry(&self, view: &View<'_, T, 4>, head: usize, at: usize) -> *const T {
        let [b, h, i, _] = view.strides();
        view.data().as_ptr().wrapping_add(self.entry.0 * b + head * h + at * i)
    }

    /// Packs those groups of a block's keys, and their values where they can't be read as they lie.
    pub(super) fn pack(&mut self, block: Block, groups: Groups) {
        for keys in blocks::runs(groups, block.end - block.start) {
            self.pack_run(block, keys);
        }
    }

    /// Packs a run of a block's keys, which starts at a panel.
    fn pack_run(&mut self, block: Block, keys: Range<usize>) {
        let (first, count) = (block.start + keys.start, keys.len());
        if !self.keys_as_they_lie() {
            self.pack_keys(block, keys.clone());
        }
        if self.dims.value_dim > 0 && !self.values_as_they_lie() {
            let [_, _, row_stride, stride] = self.problem.value.strides();
            let job = PackValues::<S, T> {
                from: self.values(first),
                row_stride,
                stride,
                rows: count,
                count: self.dims.value_dim,
                to: self.scratch.values().wrapping_add(self.layout.units(keys.start) * self.layout.value_width),
                width: self.layout.value_width,
            };
            // SAFETY: the view was checked to hold every value of the block; the scratch has room for a block.
            unsafe { S::enter(job) };
        }
    }

    /// Transposes a run of a block's keys, which starts at a panel.
    pub(crate) fn pack_keys(&mut self, block: Block, keys: Range<usize>) {
        let [_, _, key_stride, dim_stride] = self.problem.key.strides();
        let job = PackKeys::<S, T> {
            keys: self.keys(block.start + keys.start),
            key_stride,
            dim_stride,
            count: keys.len(),
            dims: self.dims.head_dim,
            units: self.layout.head_units,
            panels: self.scratch.panels().wrapping_add(keys.start * self.layout.head_units),
            stage: self.scratch.stage(),
        };
        // SAFETY: the view was checked to hold every key of the block; the scratch has room for a block.
        unsafe { S::enter(job) };
    }

    /// Raw scores `q·k` of a span, `[ROWS, STRIDE]`.
    pub(crate) fn scores(&mut self, block: Block, span: Span) {
        let units = self.layout.head_units;
        let query = self.scratch.query(span.row * self.layout.query_width()).cast_const();
        if self.keys_as_they_lie() {
            let dot = dot::Dot::<S, T> {
                query,
                dims: self.dims.head_dim,
                keys: self.keys(block.start + span.keys.0),
                key_stride: self.problem.key.strides()[2],
                count: span.keys.1 - span.keys.0,
                scores: self.scratch.scores(0, span.keys.0),
                stride: STRIDE,
            };
            // SAFETY: the span's keys lie in the view, its columns in the scratch, which has six rows.
            unsafe { dot::run(span.rows, dot) };
            return;
        }
        let tile_keys = S::LANES * S::TILE_VECTORS;
        let mut column = span.columns.0;
        while column < span.columns.1 {
            let inside = column % tile_keys;
            let end = span.columns.1.min(column - inside + tile_keys);
            let tile = Tile::<S, Queries> {
                a: query,
                lies: PhantomData,
                b: self.scratch.panels().wrapping_add((column - inside) * units + inside),
                b_stride: tile_keys,
                depth: units,
                c: self.scratch.scores(0, column),
                c_stride: STRIDE,
                factor: std::ptr::null(),
            };
            // SAFETY: the panel holds `end - column` keys from `inside` on; staged queries and scores have six rows.
            unsafe { tile::run(span.rows, (end - column) / S::LANES, &tile) };
            column = end;
        }
    }

    /// Widens the queries of all strips.
    pub(crate) fn stage_queries(&mut self) {
        let [_, _, _, stride] = self.problem.query.strides();
        for row in (0..self.rows.len()).step_by(ROWS) {
            let rows = ROWS.min(self.rows.len() - row);
            let job = Stage::<S, T> {
                from: std::array::from_fn(|r| {
                    let row = self.rows[row + r.min(rows - 1)];
                    self.of_entry(&self.problem.query, row.head, row.query)
                }),
                rows,
                stride,
                count: self.dims.head_dim,
                to: self.scratch.query(row * self.layout.query_width()),
            };
            // SAFETY: the view was checked to hold every query; the scratch has room for all strips of a task.
            unsafe { S::enter(job) };
        }
    }

    /// Weights times values onto the accumulators.
    pub(super) fn accumulate(&mut self, block: Block, span: Span) {
        if self.values_as_they_lie() {
            self.accumulate_lying(block, span);
        } else {
            self.accumulate_packed(span);
        }
    }

    /// With packed values.
    fn accumulate_packed(&mut self, span: Span) {
        let (layout, width, step) = (self.layout, self.layout.value_width, S::LANES * S::TILE_VECTORS);
        // The first key of a unit. Where it is not of the span it is hidden: its weight is 0.
        let first = span.keys.0 / layout.per_unit * layout.per_unit;
        let a = match S::PAIRS {
            true => self.scratch.scores(0, span.columns.0).wrapping_add(layout.units(first - span.columns.0)),
            false => self.scratch.scores(0, first),
        };
        for dim in (0..width).step_by(step) {
            let tile = Tile::<S, Weights> {
                a: a.cast_const(),
                lies: PhantomData,
                b: self.scratch.values().wrapping_add(layout.units(first) * width + dim),
                b_stride: width,
                depth: layout.units(span.keys.1 - first),
                c: self.scratch.acc(span.row * width + dim),
                c_stride: width,
                factor: self.scratch.factor(),
            };
            // SAFETY: the scratch holds `depth` units of values from the span's first on, whole vectors of each; weights,
            // accumulators and factors have six rows.
            unsafe { tile::run(span.rows, (width - dim).min(step) / S::LANES, &tile) };
        }
    }

    /// With values as they lie, from several places of the block by turns, and what is left of it from one.
    fn accumulate_lying(&mut self, block: Block, span: Span) {
        let part = (span.keys.1 - span.keys.0) / STREAMS;
        let (mut factor, ones) = (self.scratch.factor().cast_const(), [S::A::from_f64(1.0); ROWS]);
        if part > 0 {
            self.accumulate_streams(block, span, (span.keys.0, part), (STREAMS, part), factor);
            factor = ones.as_ptr();
        }
        let rest = span.keys.0 + part * STREAMS;
        if rest < span.keys.1 {
            self.accumulate_streams(block, span, (rest, span.keys.1 - rest), (1, 0), factor);
        }
    }

    /// So many keys from one on, and those of the other streams, which lie so far apart.
    fn accumulate_streams(
        &mut self,
        block: Block,
        span: Span,
        (first, depth): (usize, usize),
        (streams, apart): (usize, usize),
        factor: *const S::A,
    ) {
        let (width, vector) = (self.dims.value_dim, lying::width::<S>());
        let vectors = width.div_ceil(vector);
        let pieces = vectors.div_ceil(lying::most_vectors::<S>());
        for row in (0..span.rows).step_by(PAIR) {
            for piece in 0..pieces {
                // As even a cut as there is: a last vector that overlaps another is in one piece with it.
                let cut = |piece| vectors * piece / pieces;
                let (count, dim) = (cut(piece + 1) - cut(piece), cut(piece) * vector);
                let lying = Lying::<S, T> {
                    a: self.scratch.scores(row, first),
                    b: self.values(block.start + first).wrapping_add(dim),
                    b_stride: self.problem.value.strides()[2],
                    last: ((count - 1) * vector).min(width - vector - dim),
                    apart,
                    depth,
                    c: self.scratch.acc((span.row + row) * self.layout.value_width + dim),
                    c_stride: self.layout.value_width,
                    factor: factor.wrapping_add(row),
                };
                // SAFETY: the view holds the values of all keys of the span, which are a vector or more; weights, accumulators and
                // factors have that many rows.
                unsafe { lying::run(PAIR.min(span.rows - row), count, streams, &lying) };
            }
        }
    }
}
