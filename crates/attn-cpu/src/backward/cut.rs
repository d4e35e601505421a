//! How a backward pass is cut into items and tiles, and the room that it takes. All of it follows from lengths.

use super::Wanted;
use crate::kernel::{BLOCK, ROWS, STRIDE};
use crate::problem::{Dims, MASK_BLOCK};
use crate::schedule::{Geometry, Layout, pieces};
use crate::task;
use crate::workspace::bytes_of;

/// Most rows of a tile: the depth of the transposed products, whose accumulators are fetched and stored once for it. Queries and gradients
/// of a tile, as rows, leave room beside them in a first-level cache of 32 KB at dimension 64. 72 and 144 rows were slower by a few percent.
const TILE_ROWS: usize = 96;

/// Bytes of a block's keys and values, both ways, and of their gradients. In a second-level cache of 1 MB: 512 KB were 4% slower, 256 KB 15%,
/// 1 MB slower at large dimensions by a percent.
const ITEM_BYTES: usize = 768 << 10;

/// Fewest keys of a block that a problem is cut into for the sake of parallelism. Packing rows then costs 3%.
const SHORT_KEYS: usize = 128;

/// Items that keep a good number of threads busy.
const ENOUGH_ITEMS: usize = 32;

/// Fewest tiles of rows of an item, where the rows of a block of keys are split for the sake of parallelism. Keys are then packed again for
/// each part, which costs 2%.
const FEWEST_TILES: usize = 4;

/// Parts of a worker's own room.
pub(super) const PARTS: usize = 21;

/// How the gradient by a bias is summed up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BiasSums {
    /// There is none.
    Nothing,
    /// A number each pair of query and key.
    Pairs,
    /// A number each key, a row for every head.
    Columns,
    /// A number each query, a row for every head.
    Rows,
}

/// The cut of a backward pass.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cut {
    /// How scores are made, tile by tile.
    pub scoring: Layout,
    /// Key/value heads of all batch entries.
    pub heads: usize,
    /// Rows of a key/value head.
    pub rows: usize,
    pub row_blocks: usize,
    pub key_blocks: usize,
    /// Items that share a block of keys: each has the rows of some tiles.
    pub parts: usize,
    /// Tiles of such an item at most.
    pub part_tiles: usize,
    /// Rows of a tile, and keys.
    pub block_rows: usize,
    pub block_keys: usize,
    /// `head_dim` and `value_dim` rounded up to whole vectors.
    pub head_width: usize,
    pub value_width: usize,
    /// Units of a packed value.
    pub value_units: usize,
    pub bias: BiasSums,
    /// Whether several key/value heads add to one gradient by a bias of every pair.
    pub shared_bias: bool,
    /// Numbers of all sums for the bias that do not go to the gradient itself.
    bias_sums: usize,
    /// Numbers of a table of relative positions whose gradient is wanted.
    pub table: usize,
    /// Rows of all heads that have a sum for their slope.
    slope_sums: usize,
    /// Accumulators of dQ where they are no elements.
    query_sums: usize,
    /// Numbers of the tables of all heads.
    table_sums: usize,
    /// Accumulators of dK and dV where several items share a block of keys.
    key_sums: usize,
    value_sums: usize,
}

impl Cut {
    pub fn new(dims: &Dims, geometry: Geometry, wanted: &Wanted, wide: bool) -> Self {
        let group = dims.heads.checked_div(dims.kv_heads).unwrap_or(0);
        let rows = dims.query_len.saturating_mul(group);
        let heads = dims.batch.saturating_mul(dims.kv_heads);
        let whole = |count: usize| count.saturating_add(geometry.lanes - 1) / geometry.lanes * geometry.lanes;
        let (head_width, value_width) = (whole(dims.head_dim), whole(dims.value_dim));
        let blocks = rows.div_ceil(TILE_ROWS).max(1);
        let block_rows = rows.div_ceil(blocks).max(1).next_multiple_of(ROWS);
        let accums = head_width.saturating_mul(2).saturating_add(value_width.saturating_mul(2));
        let units =
            dims.head_dim.div_ceil(geometry.per_unit).saturating_add(dims.value_dim.div_ceil(geometry.per_unit));
        let key_bytes = accums.saturating_add(units).saturating_mul(geometry.accum_bytes).max(1);
        let most = (ITEM_BYTES / key_bytes).clamp(MASK_BLOCK, BLOCK) / MASK_BLOCK * MASK_BLOCK;
        let parallel = dims.key_len / ENOUGH_ITEMS.div_ceil(heads.max(1));
        let wanted_keys = parallel.clamp(SHORT_KEYS.min(most), most);
        let blocks = dims.key_len.div_ceil(wanted_keys).max(1);
        let panel = geometry.tile_keys.max(MASK_BLOCK);
        let block_keys = dims.key_len.div_ceil(blocks).max(1).next_multiple_of(panel);
        let all_rows = dims.batch.saturating_mul(dims.heads).saturating_mul(dims.query_len);
        let all_columns = dims.batch.saturating_mul(dims.heads).saturating_mul(dims.key_len);
        let bias = match wanted.bias {
            None => BiasSums::Nothing,
            Some([.., 1]) if dims.key_len != 1 => BiasSums::Rows,
            Some([_, _, 1, _]) if dims.query_len != 1 => BiasSums::Columns,
            Some(_) => BiasSums::Pairs,
        };
        let shape = wanted.bias.unwrap_or([0; 4]);
        let scoring = Layout::scoring(dims, geometry, block_rows, block_keys);
        let (row_blocks, key_blocks) = (rows.div_ceil(block_rows), dims.key_len.div_ceil(block_keys));
        let few = ENOUGH_ITEMS / heads.saturating_mul(key_blocks).max(1);
        let parts = if scoring.serial { 1 } else { few.min(row_blocks / FEWEST_TILES).max(1) };
        let part_tiles = row_blocks.div_ceil(parts).max(1);
        let parts = row_blocks.div_ceil(part_tiles).max(1);
        let shared_keys = if parts > 1 { heads.saturating_mul(dims.key_len) } else { 0 };
        Self {
            scoring,
            heads,
            rows,
            row_blocks,
            key_blocks,
            parts,
            part_tiles,
            block_rows,
            block_keys,
            head_width,
            value_width,
            value_units: dims.value_dim.div_ceil(geometry.per_unit),
            bias,
            shared_bias: bias == BiasSums::Pairs && (shape[0] != dims.batch || shape[1] != dims.heads),
            bias_sums: match bias {
                BiasSums::Nothing => 0,
                BiasSums::Pairs if wide => 0,
                BiasSums::Pairs => shape.iter().fold(1, |count: usize, length| count.saturating_mul(*length)),
                BiasSums::Columns => all_columns,
                BiasSums::Rows => all_rows,
            },
            table: wanted.relative_bias.map_or(0, |[_, distances]| distances),
            slope_sums: if wanted.alibi_slopes { all_rows } else { 0 },
            query_sums: if wanted.query && !wide { all_rows.saturating_mul(dims.head_dim) } else { 0 },
            table_sums: wanted
                .relative_bias
                .map_or(0, |[_, distances]| dims.batch.saturating_mul(dims.heads).saturating_mul(distances)),
            key_sums: if wanted.key { shared_keys.saturating_mul(head_width) } else { 0 },
            value_sums: if wanted.value { shared_keys.saturating_mul(value_width) } else { 0 },
        }
    }

    /// Units of so many packed numbers.
    pub fn units(&self, numbers: usize) -> usize {
        self.scoring.units(numbers)
    }

    /// Items: what workers take.
    pub fn items(&self) -> usize {
        self.heads.saturating_mul(self.key_blocks).saturating_mul(self.parts)
    }

    /// Workers that have room, where there are `threads`.
    pub fn workers(&self, threads: usize) -> usize {
        if self.scoring.serial { 1 } else { threads.clamp(1, self.items().max(1)) }
    }

    /// Numbers that all items add to: of dQ, the bias, slopes, tables, dK and dV.
    pub fn sums(&self) -> [usize; 6] {
        [self.query_sums, self.bias_sums, self.slope_sums, self.table_sums, self.key_sums, self.value_sums]
    }

    /// Counters: a turn for each block of rows; for each tile that several heads add to; for the table of each head; for each block of
    /// keys that several items share.
    pub fn turns(&self) -> [usize; 4] {
        let rows = self.heads.saturating_mul(self.row_blocks);
        let tiles = rows.saturating_mul(self.key_blocks);
        [
            rows,
            if self.shared_bias { tiles } else { 0 },
            if self.table > 0 { self.heads } else { 0 },
            if self.parts > 1 { self.heads.saturating_mul(self.key_blocks) } else { 0 },
        ]
    }

    /// Accumulators in each part of a worker's own room, in the order of `room.rs`.
    pub fn parts(&self) -> [usize; PARTS] {
        let keys = self.block_keys.next_multiple_of(ROWS);
        let (key_units, row_units) = (self.units(self.block_keys), self.units(self.block_rows));
        let strip = STRIDE * ROWS;
        let tile = row_units.saturating_mul(STRIDE);
        let pairs = self.scoring.per_unit > 1;
        [
            self.block_keys.saturating_mul(self.value_units),
            key_units.saturating_mul(self.head_width),
            keys.saturating_mul(self.head_width),
            keys.saturating_mul(self.value_width),
            self.block_rows.saturating_mul(pieces(self.value_units)),
            row_units.saturating_mul(self.head_width),
            row_units.saturating_mul(self.value_width),
            tile,
            tile,
            strip,
            if pairs { strip } else { 0 },
            strip,
            strip,
            strip,
            self.block_rows.saturating_mul(self.head_width),
            self.block_rows,
            self.block_rows,
            self.block_rows.saturating_mul(2),
            self.table.saturating_mul(self.scoring.group),
            if self.bias == BiasSums::Columns { self.block_keys.saturating_mul(self.scoring.group) } else { 0 },
            self.scoring.lanes.saturating_mul(self.value_units),
        ]
    }

    /// Bytes of a worker's area.
    pub fn worker_bytes<A>(&self) -> usize {
        let own = self.parts().into_iter().fold(0, |sum: usize, part| sum.saturating_add(bytes_of::<A>(part)));
        let seen = bytes_of::<super::worker::Seen>(self.scoring.task_strips());
        task::bytes::<A>(&self.scoring).saturating_add(own).saturating_add(seen)
    }

    /// Bytes of the workspace on `threads` threads.
    pub fn bytes<A>(&self, threads: usize) -> usize {
        if self.items() == 0 || self.rows == 0 {
            return 0;
        }
        let sums = self.sums().into_iter().map(bytes_of::<A>);
        let turns = self.turns().into_iter().map(bytes_of::<std::sync::atomic::AtomicUsize>);
        let shared = sums.chain(turns).fold(0, |sum: usize, bytes| sum.saturating_add(bytes));
        self.worker_bytes::<A>().saturating_mul(self.workers(threads)).saturating_add(shared)
    }
}
