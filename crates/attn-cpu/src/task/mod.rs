//! One task: the rows that it holds, block by block of keys, strip by strip of six rows.

mod blocks;
mod brief;
mod careful;
mod dropout;
mod finish;
mod mask;
mod products;

use std::ops::Range;

pub(crate) use mask::Through;

use crate::element::{Element, Loads};
use crate::kernel::options::{Options, Relative};
use crate::kernel::softmax::Softmax;
use crate::kernel::{ROWS, STRIDE, whole_rows};
use crate::math::Float;
use crate::partial::Shared;
use crate::problem::{Attention, Dims, MASK_BLOCK};
use crate::schedule::{Layout, Output};
use crate::scratch::{self, Scratch};
use crate::workspace::{Area, List, bytes_of};

pub(crate) use blocks::{ALL, Groups, runs};

/// A row of a task.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row {
    pub query: usize,
    pub head: usize,
    kv_head: usize,
    /// Keys `start..end` are in the band. Both 0 where it is empty.
    pub start: usize,
    pub end: usize,
    /// Where the row of its block of queries begins in the table of blocks, if there is one.
    blocks: usize,
}

/// Bytes of a worker's area.
pub(crate) fn bytes<A>(layout: &Layout) -> usize {
    let strips = bytes_of::<Strip>(layout.task_strips()).saturating_add(bytes_of::<Through>(layout.task_strips()));
    let lists = strips.saturating_add(bytes_of::<Row>(layout.task_rows));
    scratch::bytes::<A>(layout.parts()).saturating_add(lists)
}

/// What the rows of a strip see.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Strip {
    /// Keys that any row sees: `some.0..some.1`.
    some: (usize, usize),
    /// Keys that every row sees: `all.0..all.1`.
    all: (usize, usize),
}

impl Strip {
    fn of(rows: &[Row]) -> Self {
        let (mut some, mut all) = ((usize::MAX, 0), (0, usize::MAX));
        for row in rows {
            if row.start == row.end {
                all = (0, 0);
                continue;
            }
            some = (some.0.min(row.start), some.1.max(row.end));
            all = if all == (0, 0) { all } else { (all.0.max(row.start), all.1.min(row.end)) };
        }
        Self { some: if some.1 == 0 { (0, 0) } else { some }, all }
    }
}

/// A block of keys of the running task.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Block {
    pub start: usize,
    pub end: usize,
}

/// Steps from a raw score to that which is hidden or weighed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Steps {
    All,
    /// Scale and softcap.
    Cap,
    /// What follows them.
    Rest,
}

/// A strip's part of a block: columns of its scores.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span {
    /// First row of the strip in the task, and how many there are.
    pub row: usize,
    pub rows: usize,
    /// Keys of the block that any row sees.
    pub keys: (usize, usize),
    /// The same rounded out to whole vectors.
    pub columns: (usize, usize),
}

impl Span {
    fn new(row: usize, rows: usize, keys: (usize, usize), lanes: usize) -> Self {
        Self { row, rows, keys, columns: (keys.0 / lanes * lanes, keys.1.next_multiple_of(lanes)) }
    }

    /// The part of it that lies in a run of keys.
    pub(crate) fn part(self, run: Range<usize>, lanes: usize) -> Self {
        Self::new(self.row, self.rows, (self.keys.0.max(run.start), self.keys.1.min(run.end)), lanes)
    }
}

/// A thread's view of the problem, and its scratch.
pub(crate) struct Worker<'a, S: Loads<T>, T: Element<Accum = S::A>> {
    pub problem: &'a Attention<'a, T>,
    pub dims: Dims,
    layout: Layout,
    out: Output<T, S::A>,
    partials: Shared<'a, S::A>,
    pub scratch: Scratch<'a, S::A>,
    pub rows: List<'a, Row>,
    pub strips: List<'a, Strip>,
    /// What each strip sees of the running block through the mask. Empty where there is none.
    through: List<'a, Through>,
    /// Batch entry and first key/value head of the running task.
    pub entry: (usize, usize),
    /// Whether anything but a positive scale is to be applied to the scores.
    pub options: bool,
    /// What turns a score into an exponent of 2.
    pub unit: S::A,
    /// Recomputing a task whose output was not finite: hidden values are skipped one by one.
    careful: bool,
}

impl<'a, S: Loads<T>, T: Element<Accum = S::A>> Worker<'a, S, T> {
    pub(crate) fn new(
        problem: &'a Attention<'a, T>,
        dims: Dims,
        layout: Layout,
        out: Output<T, S::A>,
        partials: Shared<'a, S::A>,
        mut area: Area<'a>,
    ) -> Self {
        let unit = problem.scale * std::f64::consts::LOG2_E;
        // A scale that is not a normal number of the accumulator's type would turn −∞ into NaN.
        let plain = unit >= f64::from(f32::MIN_POSITIVE) && unit <= f64::from(f32::MAX);
        let options = !plain
            || problem.softcap.is_some()
            || problem.alibi_slopes.is_some()
            || problem.relative_bias.is_some()
            || problem.score_mod.is_some()
            || problem.bias.is_some();
        Self {
            problem,
            dims,
            layout,
            out,
            partials,
            scratch: Scratch::new(&mut area, layout.parts(), layout.columns()),
            rows: List::new(area.take(layout.task_rows)),
            strips: List::new(area.take(layout.task_strips())),
            through: List::new(area.take(layout.task_strips())),
            entry: (0, 0),
            options,
            unit: S::A::from_f64(if options { std::f64::consts::LOG2_E } else { unit }),
            careful: false,
        }
    }

    /// One that makes scores alone.
    pub(crate) fn scoring(problem: &'a Attention<'a, T>, dims: Dims, layout: Layout, mut area: Area<'a>) -> Self {
        let partials = Shared::new(&mut area, &layout);
        Self::new(problem, dims, layout, Output::NOWHERE, partials, area)
    }

    /// Computes all rows of a task over a part of their keys, and writes them once the last part is there.
    pub(crate) fn item(&mut self, task: usize, part: usize) {
        self.entry = self.layout.entry(task);
        let keys = part * self.layout.split_keys..(part + 1) * self.layout.split_keys;
        self.find_rows(task % self.layout.blocks * self.layout.task_rows, keys);
        if self.layout.brief {
            return self.brief();
        }
        self.careful = false;
        self.blocks();
        if !self.write(task, part) {
            // Something is NaN or infinite. Where that was hidden, a weight of 0 has spread it: once more, with care.
            self.careful = true;
            self.blocks();
            self.write(task, part);
        }
        if self.layout.splits > 1 && self.partials.leave(&self.layout, task) {
            self.join(task);
        }
    }

    /// Writes the rows of a task, or of a part of it. Whether all that was written is finite.
    fn write(&mut self, task: usize, part: usize) -> bool {
        if self.layout.splits == 1 { self.finish() } else { self.keep(task, part) }
    }

    /// Lists the task's rows from `first` on, with those of the keys that each sees, and what its strips see.
    pub(crate) fn find_rows(&mut self, first: usize, keys: Range<usize>) {
        let Layout { group, task_rows, bundle, .. } = self.layout;
        let band = &self.problem.bands[self.entry.0];
        let queries = self.dims.query_len * bundle.min(self.dims.kv_heads - self.entry.1);
        let last = (first + task_rows).min(queries * group);
        self.rows.clear();
        // The rows of a query of a key/value head see the same.
        let (mut query, mut kv_head) =
            (first / group % self.dims.query_len, self.entry.1 + first / group / self.dims.query_len);
        for t in first / group..last.div_ceil(group) {
            let (start, end) = band.visible(query);
            let (start, end) = (start.max(keys.start), end.min(keys.end));
            let (start, end) = if start < end { (start, end) } else { (0, 0) };
            for row in first.max(t * group)..last.min((t + 1) * group) {
                let head = kv_head * group + row - t * group;
                let blocks = self.problem.blocks.map_or(0, |blocks| blocks.row(self.entry.0, head, query));
                self.rows.push(Row { query, head, kv_head, start, end, blocks });
            }
            query += 1;
            if query == self.dims.query_len {
                (query, kv_head) = (0, kv_head + 1);
            }
        }
        self.strips.clear();
        self.strips.extend(self.rows.chunks(ROWS).map(Strip::of));
    }

    /// Goes through the keys that the task sees, block by block.
    fn blocks(&mut self) {
        let rows = self.rows.len() / ROWS * ROWS + whole_rows(self.rows.len() % ROWS);
        self.scratch.reset(rows.min(self.layout.task_rows), self.layout.value_width, S::LANES);
        let seeing = || self.strips.iter().filter(|strip| strip.some.0 < strip.some.1);
        let Some(start) = seeing().map(|strip| strip.some.0).min() else { return };
        let end = seeing().map(|strip| strip.some.1).max().unwrap_or(start);
        // Groups of keys are those of the mask by blocks.
        let start = if self.problem.blocks.is_some() { start / MASK_BLOCK * MASK_BLOCK } else { start };
        self.stage_queries();
        for start in (start..end).step_by(self.layout.block_keys) {
            let block = Block { start, end: end.min(start + self.layout.block_keys) };
            self.look(block);
            self.pack(block, self.groups_of_task(block));
            for strip in 0..self.strips.len() {
                let Some(span) = self.span(block, strip) else { continue };
                match self.groups(block, span, strip) {
                    blocks::ALL => self.strip(block, span),
                    groups => {
                        for run in blocks::runs(groups, block.end - block.start) {
                            let part = span.part(run, S::LANES);
                            if part.keys.0 < part.keys.1 {
                                self.strip(block, part);
                            }
                        }
                    }
                }
            }
        }
    }

    /// The part of a block that a strip sees, if any.
    pub(crate) fn span(&self, block: Block, strip: usize) -> Option<Span> {
        let some = self.strips[strip].some;
        let (low, high) = (some.0.max(block.start), some.1.min(block.end));
        if low >= high {
            return None;
        }
        let row = strip * ROWS;
        let rows = ROWS.min(self.rows.len() - row);
        Some(Span::new(row, rows, (low - block.start, high - block.start), S::LANES))
    }

    /// One strip of one block: scores, options, hiding, softmax, values.
    fn strip(&mut self, block: Block, span: Span) {
        self.scores(block, span);
        if self.options {
            self.apply_options(block, span, Steps::All);
        }
        self.hide_some(block, span, |_| {});
        let hidden = self.careful.then(|| self.hidden(span));
        match self.problem.dropout {
            None => self.softmax(span, std::ptr::null()),
            Some(dropout) => self.with_factors(block, span, dropout, |worker, kept| worker.softmax(span, kept)),
        }
        if self.dims.value_dim > 0 {
            match hidden {
                None => self.accumulate(block, span),
                Some(hidden) => self.accumulate_seen(block, span, &hidden),
            }
        }
    }

    /// Hides what a span's rows do not see, and asks the caller's function in between. `before` runs right before that is asked, if it is.
    pub(crate) fn hide_some(&mut self, block: Block, span: Span, before: impl FnOnce(&mut Self)) {
        let through = self.through.get(span.row / ROWS).copied().unwrap_or(Through::WHOLE);
        self.hide_by_mask(block, span, through);
        if self.problem.score_mod.is_some() {
            before(self);
            self.apply_function(block, span);
        }
        let all = self.strips[span.row / ROWS].all;
        if all.0 > block.start + span.columns.0 || all.1 < block.start + span.columns.1 {
            self.hide(block, span);
        }
        self.hide_by_blocks(block, span);
    }

    /// Scale, softcap, ALiBi and biases, row by row.
    pub(crate) fn apply_options(&mut self, block: Block, span: Span, steps: Steps) {
        let problem = self.problem;
        let (cap, rest) = (steps != Steps::Rest, steps != Steps::Cap);
        let key = block.start + span.columns.0;
        let keys = (block.end - block.start).min(span.columns.1) - span.columns.0;
        for r in 0..span.rows {
            let row = self.rows[span.row + r];
            let index = [self.entry.0, row.head, row.query, key];
            let position = row.query as f64 + problem.bands[self.entry.0].offset as f64;
            let at = |strides: [usize; 4]| index.iter().zip(strides).map(|(i, s)| i * s).sum::<usize>();
            let bias = problem.bias.filter(|_| rest).map(|bias| bias.data().as_ptr().wrapping_add(at(bias.strides())));
            let job = Options::<S, T> {
                scores: self.scratch.scores(r, span.columns.0),
                vectors: (span.columns.1 - span.columns.0) / S::LANES,
                keys,
                scale: S::A::from_f64(if cap { problem.scale } else { 1.0 }),
                softcap: S::A::from_f64(problem.softcap.filter(|_| cap).unwrap_or(0.0)),
                alibi: problem
                    .alibi_slopes
                    .filter(|_| rest)
                    .map(|slopes| (slopes[row.head].widen(), key as f64 - position)),
                relative: problem.relative_bias.filter(|_| rest).map(|table| Relative {
                    table: table.data().as_ptr().wrapping_add(row.head * table.strides()[0]),
                    stride: table.strides()[1],
                    reach: (table.shape()[1] / 2) as i64,
                    distance: (key as i64 - row.query as i64).saturating_sub(problem.bands[self.entry.0].offset),
                }),
                bias: bias.unwrap_or(std::ptr::null()),
                bias_stride: problem.bias.map_or(0, |bias| bias.strides()[3]),
                addend: self.scratch.addend(),
            };
            // SAFETY: the bias was checked to have the scores' shape, and the keys from `key` on lie below key_len; the table was
            // checked to have a row of `2·reach + 1` for every head.
            unsafe { S::enter(job) };
        }
    }

    /// The caller's function, for the pairs that the band shows and nothing has hidden so far.
    fn apply_function(&mut self, block: Block, span: Span) {
        let Some(function) = self.problem.score_mod else { return };
        for r in 0..span.rows {
            let row = self.rows[span.row + r];
            let (start, end) = (row.start.max(block.start + span.keys.0), row.end.min(block.start + span.keys.1));
            for key in start..end {
                let score = &mut self.scratch.row(r)[key - block.start];
                if *score != S::A::NEG_INFINITY {
                    let place = [self.entry.0, row.head, row.query, key];
                    *score = S::A::from_f64(function.apply(score.to_f64(), place));
                }
            }
        }
    }

    /// Sets what the band hides to −∞, and the columns that stand for no key.
    fn hide(&mut self, block: Block, span: Span) {
        let (low, high) = span.columns;
        for r in 0..span.rows {
            let row = self.rows[span.row + r];
            let start = row.start.saturating_sub(block.start).clamp(low, high);
            let end = row.end.saturating_sub(block.start).clamp(start, high);
            let scores = self.scratch.row(r);
            scores[low..start].fill(S::A::NEG_INFINITY);
            scores[end..high].fill(S::A::NEG_INFINITY);
        }
    }

    /// `kept`: what weights are multiplied by as they are written, a [`STRIDE`] a row from the span's first column on. Null: 1.
    fn softmax(&mut self, span: Span, kept: *const S::A) {
        let job = Softmax::<S> {
            scores: self.scratch.scores(0, span.columns.0),
            stride: STRIDE,
            rows: span.rows,
            vectors: (span.columns.1 - span.columns.0) / S::LANES,
            written: self.written(),
            unit: self.unit,
            max: self.scratch.max(span.row),
            sum: self.scratch.sum(span.row * S::LANES),
            factor: self.scratch.factor(),
            kept,
        };
        // SAFETY: the columns lie in the block, the rows in the task; the factors are laid out as the scores.
        unsafe { S::enter(job) };
    }
}
