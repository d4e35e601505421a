//! A thread's part of the backward pass: blocks of keys, tile by tile of rows, strip by strip.

use super::cut::BiasSums;
use super::room::{Part, Room};
use super::run::{Task, number};
use crate::element::{Element, Loads};
use crate::kernel::finish::Finish;
use crate::kernel::gradient::{AddTo, Divide, Exponents, Narrow, Uncap, Weigh};
use crate::kernel::{BLOCK, ROWS, STRIDE, whole_rows};
use crate::math::Float;
use crate::problem::MASK_BLOCK;
use crate::task::{self, ALL, Block, Groups, Span, Steps, runs};
use crate::workspace::{Area, List};

/// Most runs of keys that a strip sees of a block: every other group.
const PARTS: usize = BLOCK / MASK_BLOCK / 2;

/// What a strip of the tile has seen of the block of keys: where its weights are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    /// Columns from the first to past the last.
    pub columns: (usize, usize),
    /// Groups of 64 columns that hold any.
    pub groups: Groups,
    /// Whether it has seen anything, multiplied pair by pair included, of which no weights are left to multiply.
    pub any: bool,
}

impl Seen {
    const NOTHING: Self = Self { columns: (0, 0), groups: 0, any: false };

    fn add(&mut self, span: Span) {
        let (low, high) = span.columns;
        self.columns = if self.groups == 0 { (low, high) } else { (self.columns.0.min(low), self.columns.1.max(high)) };
        for group in low / MASK_BLOCK..high.div_ceil(MASK_BLOCK) {
            self.groups |= 1 << group;
        }
    }

    /// Whether any of up to [`ROWS`] columns from one on may hold weights.
    pub fn holds(&self, column: usize) -> bool {
        let last = column + ROWS - 1;
        column < self.columns.1
            && last >= self.columns.0
            && (self.groups >> (column / MASK_BLOCK) | self.groups.checked_shr((last / MASK_BLOCK) as u32).unwrap_or(0))
                & 1
                == 1
    }
}

/// A thread's view of the problem, and its room.
pub(super) struct Worker<'a, S: Loads<T>, T: Element<Accum = S::A>> {
    pub task: &'a Task<'a, T>,
    /// What makes the scores.
    pub scorer: task::Worker<'a, S, T>,
    pub room: Room<'a, S::A>,
    /// What each strip of the tile has seen.
    pub seen: List<'a, Seen>,
    /// Key/value head, of all batch entries, and block of keys of the running item.
    pub head: usize,
    pub block: Block,
    /// Whether the block's keys and values are, if that may matter.
    pub keys_finite: bool,
    /// Whether the running tile is multiplied pair by pair.
    pub careful: bool,
}

impl<'a, S: Loads<T>, T: Element<Accum = S::A>> Worker<'a, S, T> {
    pub fn new(task: &'a Task<'a, T>, mut area: Area<'a>) -> Self {
        let cut = &task.cut;
        let own = task::bytes::<S::A>(&cut.scoring);
        let scorer = task::Worker::scoring(task.problem, task.dims, cut.scoring, area.split(own));
        Self {
            task,
            scorer,
            room: Room::new(&mut area, cut.parts()),
            seen: List::new(area.take(cut.scoring.task_strips())),
            head: 0,
            block: Block { start: 0, end: 0 },
            keys_finite: true,
            careful: false,
        }
    }

    /// Keys of the block.
    pub fn count(&self) -> usize {
        self.block.end - self.block.start
    }

    /// Whether gradients by the scores are needed.
    fn wants_scores(&self) -> bool {
        let wanted = &self.task.wanted;
        wanted.query || wanted.key || wanted.bias.is_some() || wanted.alibi_slopes || wanted.relative_bias.is_some()
    }

    /// Computes all that a block of keys gives to a part of the rows. `false` where another thread has stopped.
    pub fn item(&mut self, head: usize, block: usize, part: usize) -> bool {
        let cut = self.task.cut;
        self.head = head;
        self.scorer.entry = (head / self.task.dims.kv_heads, head % self.task.dims.kv_heads);
        let start = block * cut.block_keys;
        self.block = Block { start, end: (start + cut.block_keys).min(self.task.dims.key_len) };
        let mut packed = false;
        let first = part * cut.part_tiles;
        for tile in first..(first + cut.part_tiles).min(cut.row_blocks) {
            let (low, high) = self.task.seen_by_rows(head, tile);
            let sees = low < self.block.end && high > start && low < high;
            if sees && !packed {
                self.pack();
                packed = true;
            }
            if cut.shared_bias && !self.wait_for_tile(tile, block) {
                return false;
            }
            let mut done = true;
            if sees {
                done = self.tile(tile, block, high);
            }
            if cut.shared_bias {
                self.pass_tile(tile, block);
            }
            if !done {
                return false;
            }
        }
        self.hand_over(packed, block, part) && (cut.table == 0 || self.add_tables(packed, block * cut.parts + part))
    }

    /// Writes what the item gives to the block's keys, or adds it to what the other parts of the rows give, the last of which writes it.
    /// `packed`: whether it gives anything. `false` where another thread has stopped.
    fn hand_over(&mut self, packed: bool, block: usize, part: usize) -> bool {
        let cut = self.task.cut;
        let turn = self.head * cut.key_blocks + block;
        if cut.parts > 1 && !self.task.key_turns.wait(turn, part) {
            return false;
        }
        if packed && cut.bias == BiasSums::Columns {
            self.add_columns();
        }
        if cut.parts == 1 {
            if packed {
                let [keys, values] = [Part::GradKey, Part::GradValue].map(|part| self.room.at(part, 0));
                self.write(keys, values);
            }
            return true;
        }
        if packed {
            self.add_keys_and_values();
        }
        if part + 1 == cut.parts {
            let first = self.head * self.task.dims.key_len + self.block.start;
            let (keys, values) = (self.task.key_sums, self.task.value_sums);
            self.write(keys.wrapping_add(first * cut.head_width), values.wrapping_add(first * cut.value_width));
        }
        self.task.key_turns.pass(turn, part + 1);
        true
    }

    /// One tile: a block of rows against the block of keys. `last` is past the last key that the rows see. `false` where another thread has
    /// stopped.
    fn tile(&mut self, tile: usize, block: usize, last: usize) -> bool {
        let cut = self.task.cut;
        self.scorer.find_rows(tile * cut.block_rows, self.block.start..self.block.end);
        self.scorer.look(self.block);
        self.stage();
        self.seen.clear();
        for strip in 0..self.scorer.strips.len() {
            let seen = self.strip(strip);
            self.seen.push(seen);
        }
        if self.task.wanted.value && self.task.upstream.grad_out.is_some() {
            self.add_values();
        }
        if self.task.wanted.key {
            self.add_keys();
        }
        let sums_of_rows = cut.bias == BiasSums::Rows || self.task.wanted.alibi_slopes;
        if self.task.wanted.query || sums_of_rows {
            let turn = self.head * cut.row_blocks + tile;
            if !self.task.row_turns.wait(turn, block) {
                return false;
            }
            if self.task.wanted.query {
                self.add_queries(last <= self.block.end);
            }
            if sums_of_rows {
                self.add_sums_of_rows();
            }
            self.task.row_turns.pass(turn, block + 1);
        }
        true
    }

    /// One strip of the tile: whatever it sees, part by part.
    fn strip(&mut self, strip: usize) -> Seen {
        let mut seen = Seen::NOTHING;
        let Some(span) = self.scorer.span(self.block, strip) else { return seen };
        let (mut parts, mut count) = ([span; PARTS], 1);
        let groups = self.scorer.groups(self.block, span, strip);
        if groups != ALL {
            let some = runs(groups, self.count()).map(|run| span.part(run, S::LANES));
            count = 0;
            for part in some.filter(|part| part.keys.0 < part.keys.1) {
                parts[count] = part;
                count += 1;
            }
        }
        let parts = &parts[..count];
        for part in parts {
            self.scores(*part);
            self.multiply_values(*part);
            self.drop(*part);
        }
        let ready = self.normalise(span, parts);
        for part in parts {
            self.part(*part, ready, &mut seen);
        }
        seen
    }

    /// Divides the weights of those rows of a strip by their sum that see nothing outside this block. Which rows these are.
    fn normalise(&mut self, span: Span, parts: &[Span]) -> [bool; ROWS] {
        let mut ready = [false; ROWS];
        let band = &self.task.problem.bands[self.scorer.entry.0];
        for (r, ready) in ready.iter_mut().enumerate().take(span.rows) {
            let row = self.scorer.rows[span.row + r];
            let (start, end) = band.visible(row.query);
            if start >= end || start < self.block.start || end > self.block.end {
                continue;
            }
            *ready = true;
            let place = [self.scorer.entry.0, row.head, row.query];
            let lse = number(&self.task.upstream.lse, place).to_f64();
            // SAFETY: the tile's rows have bases; the spans' columns hold scores, and dP where there is any.
            let base = unsafe { self.room.slice(Part::Base, span.row + r, 1)[0] };
            let mut sum = self.task.problem.sinks.map_or(S::A::ZERO, |sinks| {
                let sink = sinks[row.head].widen().to_f64();
                S::A::from_f64(if sink == f64::NEG_INFINITY { 0.0 } else { (sink - lse).exp() })
            });
            for part in parts {
                let (scores, vectors) = (self.scorer.scratch.scores(r, part.columns.0), self.vectors(*part));
                // SAFETY: as above.
                sum = sum + unsafe { S::enter(Exponents::<S> { scores, vectors, unit: self.scorer.unit, base }) };
            }
            let sum = if sum == S::A::ZERO { S::A::from_f64(1.0) } else { sum };
            let mut delta = S::A::ZERO;
            for part in parts {
                let by_out = self.by_out(*part);
                let job = Divide::<S> {
                    weights: self.scorer.scratch.scores(r, part.columns.0),
                    by_out: if by_out.is_null() { by_out } else { by_out.wrapping_add(r * STRIDE) },
                    vectors: self.vectors(*part),
                    sum,
                };
                // SAFETY: as above.
                delta = delta + unsafe { S::enter(job) };
            }
            let above = self.task.upstream.grad_lse.map_or(S::A::ZERO, |grad| number(&grad, place));
            self.room.fill(Part::Shift, span.row + r, 1, delta + -above);
        }
        ready
    }

    /// Vectors of a span's columns.
    fn vectors(&self, span: Span) -> usize {
        (span.columns.1 - span.columns.0) / S::LANES
    }

    /// Weights and gradients by scores of a span, and what follows from these for its queries alone.
    fn part(&mut self, span: Span, ready: [bool; ROWS], seen: &mut Seen) {
        let vectors = self.vectors(span);
        let first = !seen.any;
        seen.any = true;
        let (base, shift) = (self.room.at(Part::Base, span.row), self.room.at(Part::Shift, span.row));
        let changes = self.changes(span);
        let weigh = Weigh::<S> {
            scores: self.scorer.scratch.scores(0, span.columns.0),
            ready,
            by_out: self.by_out(span),
            rows: span.rows,
            vectors,
            unit: self.scorer.unit,
            base,
            shift,
            weights: self.room.at(Part::Weights, self.task.cut.units(span.row) * STRIDE + span.columns.0),
            changes,
            mark: self.careful,
            kept: self.kept(span),
        };
        // SAFETY: the columns lie in the block, the rows in the tile, and all parts have a STRIDE for each of them.
        unsafe { S::enter(weigh) };
        self.clear_around(Part::Weights, span);
        if self.wants_scores() {
            self.through_options(span, vectors, changes);
        }
        if self.careful {
            self.multiply_seen(span, first);
            return;
        }
        if self.wants_scores() {
            self.clear_around(Part::Changes, span);
            if self.task.wanted.query {
                self.multiply_keys(span, first);
            }
        }
        seen.add(span);
    }

    /// Scores of a span with all options, hidden ones −∞. What the way back needs is kept on the way.
    fn scores(&mut self, span: Span) {
        let vectors = self.vectors(span);
        self.scorer.scores(self.block, span);
        let capped = self.room.at(Part::Capped, span.columns.0);
        let before = self.room.at(Part::Before, span.columns.0);
        if self.scorer.options && self.task.problem.softcap.is_some() {
            self.scorer.apply_options(self.block, span, Steps::Cap);
            keep(&mut self.scorer, span, vectors * S::LANES, capped);
            self.scorer.apply_options(self.block, span, Steps::Rest);
        } else if self.scorer.options {
            self.scorer.apply_options(self.block, span, Steps::All);
        }
        self.scorer.hide_some(self.block, span, |scorer| keep(scorer, span, vectors * S::LANES, before));
    }

    /// Where gradients by a span's scores are made, in accumulators.
    fn changes(&mut self, span: Span) -> *mut S::A {
        match S::PAIRS {
            true => self.room.at(Part::ByOut, span.columns.0),
            false => self.room.at(Part::Changes, span.row * STRIDE + span.columns.0),
        }
    }

    /// Gradients by the scores as the kernel made them become those by the raw scores; biases, slopes and tables take theirs on the way.
    fn through_options(&mut self, span: Span, vectors: usize, changes: *mut S::A) {
        self.through_function(span, changes);
        self.add_to_options(span, changes);
        if let Some(softcap) = self.task.problem.softcap {
            let job = Uncap::<S> {
                changes,
                capped: self.room.at(Part::Capped, span.columns.0),
                rows: span.rows,
                vectors,
                inverse: S::A::from_f64(1.0 / softcap),
            };
            // SAFETY: the columns lie in the block, and both parts have a STRIDE for each row of a strip.
            unsafe { S::enter(job) };
        }
        if S::PAIRS {
            let job = Narrow::<S> {
                changes,
                rows: span.rows,
                vectors,
                by_rows: self.room.at(Part::Changes, self.task.cut.units(span.row) * STRIDE + span.columns.0),
                by_keys: self.room.at(Part::ByKeys, span.columns.0 / 2),
            };
            // SAFETY: as above.
            unsafe { S::enter(job) };
        }
    }

    /// Writes 0 beside a span's columns: products take columns by sixes, and rows of a strip by what [`whole_rows`] says.
    fn clear_around(&mut self, part: Part, span: Span) {
        let (low, high) = (span.columns.0.saturating_sub(ROWS), (span.columns.1 + ROWS).min(STRIDE));
        let first = self.task.cut.units(span.row);
        for row in first..self.task.cut.units(span.row + span.rows) {
            self.room.fill(part, row * STRIDE + low, span.columns.0 - low, S::A::ZERO);
            self.room.fill(part, row * STRIDE + span.columns.1, high - span.columns.1, S::A::ZERO);
        }
        let columns = span.columns.1 - span.columns.0;
        for row in span.rows..whole_rows(span.rows) {
            if S::PAIRS {
                self.room.fill(Part::ByKeys, row * STRIDE + span.columns.0 / 2, columns / 2, S::A::ZERO);
            } else {
                self.room.fill(part, (span.row + row) * STRIDE + span.columns.0, columns, S::A::ZERO);
            }
        }
    }

    /// Adds what the tile has given to dQ, and narrows it once the last block of keys has.
    fn add_queries(&mut self, last: bool) {
        let (cut, dims, entry) = (self.task.cut, self.task.dims, self.scorer.entry);
        for r in 0..self.scorer.rows.len() {
            let row = self.scorer.rows[r];
            let place = ((entry.0 * dims.heads + row.head) * dims.query_len + row.query) * dims.head_dim;
            let sum = match T::IS_WIDE {
                true => place,
                false => {
                    (self.head * cut.rows + row.query * cut.scoring.group + row.head % cut.scoring.group)
                        * dims.head_dim
                }
            };
            let to = self.task.query_sums.wrapping_add(sum);
            if self.seen[r / ROWS].any {
                let job = AddTo::<S> {
                    from: self.room.at(Part::GradQuery, r * cut.head_width),
                    to,
                    count: dims.head_dim,
                    factor: S::A::from_f64(self.task.problem.scale),
                };
                // SAFETY: dQ has `head_dim` numbers for this row, and it is this item's turn to add to it.
                unsafe { S::enter(job) };
            }
            if last && !T::IS_WIDE {
                // SAFETY: as above; nobody adds to this row any more, and the gradient has as many elements.
                unsafe { narrow_row(to, self.task.query.wrapping_add(place), dims.head_dim) };
            }
        }
    }

    /// Writes dK and dV of the block from their accumulators.
    fn write(&mut self, keys: *mut S::A, values: *mut S::A) {
        let (cut, dims) = (self.task.cut, self.task.dims);
        let scale = S::A::from_f64(self.task.problem.scale);
        let kept = S::A::from_f64(self.task.problem.dropout.map_or(1.0, |dropout| dropout.scale()));
        let gradients = [
            (self.task.key, keys, cut.head_width, dims.head_dim, scale),
            (self.task.value, values, cut.value_width, dims.value_dim, kept),
        ];
        for (to, from, width, count, factor) in gradients {
            if to.is_null() || count == 0 {
                continue;
            }
            for key in 0..self.count() {
                let at = self.head * dims.key_len + self.block.start + key;
                let acc = from.wrapping_add(key * width);
                let job = Finish::<S, T> { acc, factor, count, out: to.wrapping_add(at * count) };
                // SAFETY: the gradient has `count` numbers for each key, the accumulators a `width`, and this block is this item's, or it
                // is the last of those that share it.
                unsafe { S::enter(job) };
            }
        }
    }
}

/// Copies a span's scores.
fn keep<S: Loads<T>, T: Element<Accum = S::A>>(
    scorer: &mut task::Worker<'_, S, T>,
    span: Span,
    count: usize,
    to: *mut S::A,
) {
    for r in 0..span.rows {
        let from = scorer.scratch.scores(r, span.columns.0).cast_const();
        // SAFETY: both have a STRIDE for each row of a strip, the columns lie in it, and the scores have been written.
        unsafe { std::ptr::copy_nonoverlapping(from, to.wrapping_add(r * STRIDE), count) };
    }
}

/// Narrows `count` accumulators, which need not be whole vectors.
///
/// # Safety
/// `from` and `to` are valid for as many.
unsafe fn narrow_row<T: Element>(from: *const T::Accum, to: *mut T, count: usize) {
    for i in 0..count {
        // SAFETY: the caller's word.
        unsafe { *to.add(i) = T::narrow(*from.add(i)) };
    }
}
