//! How a problem is cut into tasks, and how threads take them.
//!
//! A task is a run of rows of one key/value head of one batch entry, where the rows of a group of query heads are taken
//! query by query: row `t` is query `t / group`, head `t % group`. So a task's rows see nearly the same keys, and under
//! GQA each packed key serves all heads that read it. The cut depends on the problem alone, and every row is computed by
//! one task in a fixed order of keys: the result is the same to the last bit for any number of threads. Where keys are so few that
//! nothing is packed, a task takes the rows of several key/value heads, one after another.

use std::cmp::Reverse;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::CpuError;
use crate::element::{Element, Loads};
use crate::kernel::{BLOCK, BLOCK_BYTES, PIECE, ROWS, STRIDE};
use crate::partial::Shared;
use crate::problem::{Attention, Blocks, Dims, EMPTY, MASK_BLOCK};
use crate::simd::Simd;
use crate::spread::{is_serial, spread};
use crate::task::{self, Worker};
use crate::workspace::{Area, List, OnStack, Workspace, bytes_of};

/// Most rows of a task. Packing a key and a value costs about 10 rows' products, so 1024 rows hide it (1%); their accumulators, 256 KB at
/// value_dim 64 in f32, go by once a block of keys, which stays in the second-level cache beside them. 0.5 to 1% over 768.
const TASK_ROWS: usize = 1024;

/// Fewest rows of a task that a longer problem is cut into for the sake of parallelism. Packing then costs 5%.
const SHORT_ROWS: usize = 192;

/// Fewest keys of a block, however large the dimensions.
const SHORT_BLOCK: usize = 64;

/// Tasks that keep a good number of threads busy and the last of them short. Below, tasks are made of fewer rows.
const ENOUGH_TASKS: usize = 32;

/// Fewest keys that the keys of a task are split into where there are too few tasks: a row's accumulators are then written and read
/// once more for a thousand keys.
const SPLIT_KEYS: usize = 1024;

/// Rows of the key/value heads that a task takes together where nothing is packed: beside them, what a task costs is little.
const BRIEF_ROWS: usize = 48;

/// Most bytes of a task's accumulators, for large value_dim.
const TASK_BYTES: usize = 512 << 10;

/// A checked problem with its outputs.
pub struct Call<'a, T, W> {
    pub(crate) problem: &'a Attention<'a, T>,
    pub(crate) dims: Dims,
    pub(crate) out: Output<T, W>,
}

/// What the cut and the scratch depend on besides the problem.
#[derive(Debug, Clone, Copy)]
pub struct Geometry {
    pub(crate) lanes: usize,
    pub(crate) tile_keys: usize,
    pub(crate) accum_bytes: usize,
    /// Numbers in a unit of a packed operand.
    pub(crate) per_unit: usize,
}

impl Geometry {
    pub(crate) fn of<S: Simd>() -> Self {
        Self {
            lanes: S::LANES,
            tile_keys: S::LANES * S::TILE_VECTORS,
            accum_bytes: size_of::<S::A>(),
            per_unit: if S::PAIRS { 2 } else { 1 },
        }
    }
}

/// The cut of a problem, and the scratch that a worker needs, in accumulators.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout {
    /// Query heads of a key/value head.
    pub group: usize,
    /// Key/value heads of a batch entry whose rows a task takes together. More than one only where `brief`; there may be fewer left for
    /// the last task of an entry.
    pub bundle: usize,
    /// Bundles of a batch entry.
    pub bundles: usize,
    /// Rows of all tasks but the last of a bundle. A multiple of [`ROWS`].
    pub task_rows: usize,
    /// Tasks of a bundle.
    pub blocks: usize,
    /// Tasks in all.
    pub tasks: usize,
    /// Parts that the keys of each task are split into.
    pub splits: usize,
    /// Keys of a part.
    pub split_keys: usize,
    /// `value_dim` rounded up to whole vectors.
    pub value_width: usize,
    /// Keys that a block has room for.
    pub block_keys: usize,
    /// Units of a packed query or key.
    pub head_units: usize,
    pub lanes: usize,
    /// Numbers in a unit.
    pub per_unit: usize,
    /// Whether a vector holds a row's scores of all keys, and nothing need be packed.
    pub brief: bool,
    /// Whether the whole takes less time than waking a thread, whatever of it is hidden.
    pub serial: bool,
}

impl Layout {
    pub(crate) fn new(dims: &Dims, geometry: Geometry) -> Self {
        let group = dims.heads.checked_div(dims.kv_heads).unwrap_or(0);
        let head_rows = dims.query_len.saturating_mul(group);
        let brief = (1..=geometry.lanes).contains(&dims.key_len);
        let bundle = if brief { (BRIEF_ROWS / head_rows.max(1)).clamp(1, dims.kv_heads.max(1)) } else { 1 };
        let bundles = dims.kv_heads.div_ceil(bundle);
        let rows = head_rows.saturating_mul(bundle);
        let value_width = dims.value_dim.saturating_add(geometry.lanes - 1) / geometry.lanes * geometry.lanes;
        let head_units = dims.head_dim.div_ceil(geometry.per_unit);
        let unit_bytes = geometry.accum_bytes / geometry.per_unit;
        let key_bytes = value_width.saturating_add(dims.head_dim).saturating_mul(unit_bytes).max(1);
        let block_keys = (BLOCK_BYTES / key_bytes).clamp(SHORT_BLOCK, BLOCK).min(dims.key_len);
        let groups = dims.batch.saturating_mul(bundles);
        let row_bytes = value_width.saturating_mul(geometry.accum_bytes).max(1);
        let most = (TASK_BYTES / row_bytes).clamp(SHORT_ROWS, TASK_ROWS);
        let parallel = rows / ENOUGH_TASKS.div_ceil(groups.max(1));
        let wanted = parallel.clamp(SHORT_ROWS, most);
        let blocks = rows.div_ceil(wanted);
        let task_rows = rows.div_ceil(blocks.max(1)).next_multiple_of(ROWS);
        let blocks = rows.div_ceil(task_rows.max(1));
        let tasks = blocks.saturating_mul(groups);
        let splits = (ENOUGH_TASKS / tasks.max(1)).min(dims.key_len / SPLIT_KEYS).max(1);
        let split_keys = dims.key_len.div_ceil(splits).saturating_add(MASK_BLOCK - 1) / MASK_BLOCK * MASK_BLOCK;
        let splits = dims.key_len.div_ceil(split_keys.max(1)).max(1);
        Self {
            group,
            bundle,
            bundles,
            task_rows,
            blocks,
            tasks,
            splits,
            split_keys,
            value_width,
            block_keys: block_keys.next_multiple_of(geometry.tile_keys).next_multiple_of(MASK_BLOCK),
            lanes: geometry.lanes,
            brief,
            serial: is_serial(products(dims, pairs(dims))),
            per_unit: geometry.per_unit,
            head_units,
        }
    }

    /// For workers that make scores alone, of so many rows and keys at a time; `rows` is a multiple of [`ROWS`], `keys` at most [`BLOCK`] and a
    /// multiple of [`MASK_BLOCK`] and of a panel.
    pub(crate) fn scoring(dims: &Dims, geometry: Geometry, rows: usize, keys: usize) -> Self {
        let whole = Self::new(dims, geometry);
        let total = dims.query_len.saturating_mul(whole.group);
        let blocks = total.div_ceil(rows);
        Self {
            bundle: 1,
            bundles: dims.kv_heads,
            task_rows: rows,
            blocks,
            tasks: blocks.saturating_mul(dims.batch.saturating_mul(dims.kv_heads)),
            splits: 1,
            split_keys: dims.key_len,
            value_width: 0,
            block_keys: keys,
            brief: false,
            ..whole
        }
    }

    /// Accumulators in each part of a worker's scratch: panels, stage, query, scores, addend, values, acc, max, sum.
    pub(crate) fn parts(&self) -> [usize; 9] {
        if self.brief {
            // Of the last row, the scores of a vector and the weights beside them are all.
            return [0, 0, 0, STRIDE * (ROWS - 1) + 2 * self.lanes, self.lanes, 0, 0, 0, 0];
        }
        [
            self.block_keys.saturating_mul(self.head_units),
            self.lanes.saturating_mul(self.head_units),
            self.task_rows.saturating_mul(self.query_width()),
            STRIDE * ROWS,
            BLOCK,
            self.block_keys.div_ceil(self.per_unit).saturating_mul(self.value_width),
            self.task_rows.saturating_mul(self.value_width),
            self.task_rows,
            self.task_rows.saturating_mul(self.lanes),
        ]
    }

    /// Columns that a row of scores may have.
    pub(crate) fn columns(&self) -> usize {
        if self.brief { self.lanes } else { self.block_keys }
    }

    /// Units of so many packed numbers.
    pub(crate) fn units(&self, numbers: usize) -> usize {
        numbers.div_ceil(self.per_unit)
    }

    /// Units between the queries of two rows.
    pub(crate) fn query_width(&self) -> usize {
        pieces(self.head_units)
    }

    /// Batch entry and first key/value head of a task.
    pub(crate) fn entry(&self, task: usize) -> (usize, usize) {
        let group = task / self.blocks;
        (group / self.bundles, group % self.bundles * self.bundle)
    }

    /// Strips of a task.
    pub(crate) fn task_strips(&self) -> usize {
        self.task_rows.div_ceil(ROWS)
    }

    /// Parts of all tasks: what workers take.
    fn items(&self) -> usize {
        self.tasks.saturating_mul(self.splits)
    }

    /// Workers that have room, where there are `threads`.
    fn workers(&self, threads: usize) -> usize {
        if self.serial { 1 } else { threads.clamp(1, self.items().max(1)) }
    }

    /// Items that are put in order. Where one thread takes all of them, any order will do.
    fn ordered(&self) -> usize {
        if self.serial { 0 } else { self.items() }
    }

    /// Bytes that threads share: the order of the items, and partial results.
    fn shared_bytes<A>(&self) -> usize {
        bytes_of::<Item>(self.ordered()).saturating_add(Shared::<A>::bytes(self))
    }

    /// Bytes that a call on `threads` threads allocates: its workspace, unless one thread works in a few on its stack.
    pub(crate) fn bytes<A>(&self, threads: usize) -> usize {
        let workspace = self.workspace::<A>(threads);
        if self.serial && workspace <= OnStack::BYTES { 0 } else { workspace }
    }

    /// Bytes of the workspace on `threads` threads.
    fn workspace<A>(&self, threads: usize) -> usize {
        if self.tasks == 0 {
            return 0;
        }
        task::bytes::<A>(self).saturating_mul(self.workers(threads)).saturating_add(self.shared_bytes::<A>())
    }

    /// Accumulators, states and counters of the partial results, where keys are split.
    pub(crate) fn partial_parts(&self) -> [usize; 3] {
        if self.splits == 1 {
            return [0; 3];
        }
        let rows = self.tasks.saturating_mul(self.splits).saturating_mul(self.task_rows);
        [rows.saturating_mul(self.value_width), rows, self.tasks]
    }
}

/// A part of a task, and what it costs: pairs of a query and a key.
type Item = (u64, usize);

/// Runs a checked problem on vectors of `S`, which this machine has.
///
/// # Errors
/// Where memory has no room for the workspace.
pub(crate) fn run<S: Loads<T>, T: Element<Accum = S::A>>(call: Call<'_, T, S::A>) -> Result<(), CpuError> {
    let dims = call.dims;
    let layout = Layout::new(&dims, Geometry::of::<S>());
    if layout.tasks == 0 || (dims.value_dim == 0 && call.out.lse.is_none()) {
        return Ok(());
    }
    let threads = rayon::current_num_threads();
    if layout.serial {
        match layout.bytes::<S::A>(threads) {
            0 => serial::<S, T>(&call, &layout, OnStack::new().area()),
            bytes => serial::<S, T>(&call, &layout, Workspace::new(bytes)?.area()),
        }
        return Ok(());
    }
    let mut workspace = Workspace::new(layout.bytes::<S::A>(threads))?;
    let mut area = workspace.area();
    let mut order = List::new(area.take(layout.ordered()));
    let partials = Shared::new(&mut area, &layout);
    set_order(&mut order, call.problem, &dims, &layout, threads);
    let pairs: u128 = order.iter().map(|(cost, _)| u128::from(*cost)).sum();
    let products = products(&dims, pairs);
    let workers = if is_serial(products) { 1 } else { layout.workers(threads) };
    let next = AtomicUsize::new(0);
    let work = |area: Area<'_>| {
        // A thread that wakes up when all is done makes nothing.
        let (mut area, mut worker) = (Some(area), None);
        while let Some((_, item)) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Some(area) = area.take() {
                worker = Some(Worker::<S, T>::new(call.problem, dims, layout, call.out, partials, area));
            }
            if let Some(worker) = &mut worker {
                worker.item(item / layout.splits, item % layout.splits);
            }
        }
    };
    spread(area, workers, task::bytes::<S::A>(&layout), products, &work);
    Ok(())
}

/// Runs every item on this thread.
fn serial<S: Loads<T>, T: Element<Accum = S::A>>(call: &Call<'_, T, S::A>, layout: &Layout, mut area: Area<'_>) {
    let partials = Shared::new(&mut area, layout);
    let mut worker = Worker::<S, T>::new(call.problem, call.dims, *layout, call.out, partials, area);
    (0..layout.items()).for_each(|item| worker.item(item / layout.splits, item % layout.splits));
}

/// All pairs of a query and a key.
fn pairs(dims: &Dims) -> u128 {
    [dims.heads, dims.query_len, dims.key_len].into_iter().fold(dims.batch, usize::saturating_mul) as u128
}

/// Multiplications of so many pairs of a query and a key.
pub(crate) fn products(dims: &Dims, pairs: u128) -> u128 {
    pairs.saturating_mul(dims.head_dim as u128 + dims.value_dim as u128)
}

/// A number of units rounded up to whole pieces.
pub(crate) fn pieces(units: usize) -> usize {
    units.saturating_add(PIECE - 1) / PIECE * PIECE
}

/// Lists every part of every task in the order in which threads take them: key/value head by key/value head, so that what a task packs
/// is in a cache that another has just filled, and the costliest of a head first. As many heads as there are threads come last, all
/// together and the costliest first, so that the last to finish are small.
fn set_order<T: Element>(
    order: &mut List<'_, Item>,
    problem: &Attention<'_, T>,
    dims: &Dims,
    layout: &Layout,
    threads: usize,
) {
    let rows = dims.query_len * layout.group;
    let cost = |item: usize| {
        let (task, part) = (item / layout.splits, item % layout.splits);
        let entry = layout.entry(task);
        let band = &problem.bands[entry.0];
        let first = task % layout.blocks * layout.task_rows;
        let last = (first + layout.task_rows).min(rows) - 1;
        let (a, b) = (band.visible(first / layout.group), band.visible(last / layout.group));
        let part = part * layout.split_keys..(part + 1) * layout.split_keys;
        let start = a.0.min(b.0).max(part.start);
        let end = b.1.max(a.1).min(part.end).max(start);
        let seen = match &problem.blocks {
            None => (end - start) as u64,
            Some(blocks) => keys_in_blocks(blocks, layout.group, entry, first..last + 1, start..end),
        };
        // Of a bundle, what its first head costs stands for all.
        (last + 1 - first) as u64 * seen * layout.bundle.min(dims.kv_heads - entry.1) as u64
    };
    order.extend((0..layout.items()).map(|item| (cost(item), item)));
    let heads = dims.batch * layout.bundles;
    let head = |item: usize| (item / layout.splits / layout.blocks).min(heads.saturating_sub(threads));
    order.records().sort_unstable_by_key(|&(cost, item)| (head(item), Reverse(cost), item));
}

/// The keys in a range that lie in blocks seen by a task's rows, on average over its heads and blocks of queries.
fn keys_in_blocks(
    blocks: &Blocks<'_>,
    group: usize,
    (batch, kv_head): (usize, usize),
    rows: Range<usize>,
    keys: Range<usize>,
) -> u64 {
    let queries = rows.start / group..(rows.end - 1) / group + 1;
    let (mut seen, mut count) = (0, 0);
    for head in kv_head * group..(kv_head + 1) * group {
        for block in queries.start / MASK_BLOCK..queries.end.div_ceil(MASK_BLOCK) {
            let row = blocks.row(batch, head, block * MASK_BLOCK);
            let kinds = &blocks.table[row..][keys.start / MASK_BLOCK..keys.end.div_ceil(MASK_BLOCK)];
            seen += kinds.iter().filter(|kind| **kind != EMPTY).count() * MASK_BLOCK;
            count += 1;
        }
    }
    (seen / count.max(1)) as u64
}

/// Where results go. Tasks write disjoint rows, and together all of them.
#[derive(Debug)]
pub struct Output<T, A> {
    /// `[B, H, Sq, E]`.
    pub(crate) out: *mut T,
    /// `[B, H, Sq]`.
    pub(crate) lse: Option<*mut A>,
}

impl<T, A> Output<T, A> {
    /// For a worker that writes none.
    pub(crate) const NOWHERE: Self = Self { out: std::ptr::null_mut(), lse: None };
}

impl<T, A> Clone for Output<T, A> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T, A> Copy for Output<T, A> {}

// SAFETY: the pointers come from exclusive borrows that outlive the workers, and no two tasks share a row.
unsafe impl<T: Send, A: Send> Send for Output<T, A> {}
// SAFETY: as above; the pointers are only ever copied through a shared reference.
unsafe impl<T: Send, A: Send> Sync for Output<T, A> {}
