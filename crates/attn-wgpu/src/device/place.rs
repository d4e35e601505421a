//! Which rows and keys a cube has, the same for every kernel.

use burn_cubecl::cubecl;
use burn_cubecl::cubecl::prelude::*;

use crate::device::score::Score;

/// Numbers of a launch.
#[derive(CubeLaunch, CubeType, Clone, Copy)]
pub struct Scalars {
    /// H.
    pub heads: usize,
    /// H/G.
    pub group: usize,
    /// Heads whose rows lie behind each other in a tile: `group` or 1.
    pub packed: usize,
    /// Cubes of this launch.
    pub cubes: usize,
    /// Tiles of the rows of `packed` heads.
    pub tiles: usize,
    /// Runs of keys.
    pub splits: usize,
    /// Keys of a run.
    pub run: usize,
    /// The first column of the value that this launch takes.
    pub first_column: usize,
    /// Entries of the table of blocks from one batch entry to the next; 0 where all share one.
    pub blocks_batch: usize,
    /// The same from one head to the next.
    pub blocks_head: usize,
    /// Blocks along the keys.
    pub key_blocks: usize,
    /// Entries of the table, behind which the patterns begin.
    pub patterns_at: usize,
    /// The band that every batch entry has, where no table tells them apart: p − i, the offset of the queries' positions.
    pub offset: i32,
    /// Its lower bound of `j − i`.
    pub lower: i32,
    /// Its upper bound of `j − i`.
    pub upper: i32,
    /// Its keys.
    pub keys: i32,
    /// Factor of q·k.
    pub scale: f32,
    /// c of c·tanh(s/c).
    pub softcap: f32,
    /// −∞, which WGSL cannot spell.
    pub neg_inf: f32,
    /// The lower half of dropout's seed.
    pub seed_low: u32,
    /// The upper half.
    pub seed_high: u32,
    /// The smallest word that keeps a weight.
    pub threshold: u32,
    /// The factor of a weight that is kept; 1 without dropout.
    pub kept: f32,
}

/// Where a cube works. Uniform over its units.
#[derive(CubeType, Clone, Copy)]
pub struct Place {
    /// b.
    pub batch: usize,
    /// The first of the heads whose rows the tile holds.
    pub first_head: usize,
    /// g.
    pub kv_head: usize,
    /// Which tile of rows.
    pub tile: usize,
    /// Which run of keys.
    pub split: usize,
}

/// The cube's place from its number: tiles run fastest, then splits, heads, batch entries.
#[cube]
pub fn place(cube: usize, scalars: &Scalars) -> Place {
    let tile = cube % scalars.tiles;
    let rest = cube / scalars.tiles;
    let split = rest % scalars.splits;
    let rest = rest / scalars.splits;
    let bundles = scalars.heads / scalars.packed;
    let first_head = (rest % bundles) * scalars.packed;
    Place { batch: rest / bundles, first_head, kv_head: first_head / scalars.group, tile, split }
}

/// The rows of a cube's tile and the keys that they reach. Uniform over its units.
#[derive(CubeType, Clone, Copy)]
pub struct Reach {
    /// The tile's first row among those of its heads.
    pub first_row: usize,
    /// Rows of those heads.
    pub rows: usize,
    /// The first key that some row sees, as far as the band knows.
    pub start: i32,
    /// One past the last of them.
    pub end: i32,
    /// The first key from which on every row sees all, up to `all_end`.
    pub all_start: i32,
    /// One past the last of them.
    pub all_end: i32,
    /// Keys that are there.
    pub keys: i32,
    offset: i32,
    lower: i32,
    upper: i32,
}

/// The reach of a tile of `cube_rows` rows.
#[cube]
pub fn reach(
    place: &Place,
    scalars: &Scalars,
    query_len: usize,
    cube_rows: usize,
    bands: &ComptimeOption<&Tensor<i32>>,
) -> Reach {
    let rows = query_len * scalars.packed;
    let band = bounds(place.batch, scalars, bands);
    let (offset, lower, upper, keys) = (band.offset, band.lower, band.upper, band.keys);
    // The queries as a range: all of them where the tile holds rows of two heads.
    let first_row = place.tile * cube_rows;
    let last_row = min(first_row + cube_rows, rows) - 1;
    let one_head = first_row / query_len == last_row / query_len;
    let first_query = select(one_head, first_row % query_len, 0);
    let last_query = select(one_head, last_row % query_len, query_len - 1);
    // Runs are counted from the first key that the tile may see: under a window all of them have work.
    let start = max(first_query as i32 + lower, 0i32) + (place.split * scalars.run) as i32;
    let end = min(min(last_query as i32 + upper + 1, keys), start + scalars.run as i32);
    let all_start = last_query as i32 + lower;
    let all_end = min(min(first_query as i32 + upper + 1, keys), end);
    Reach { first_row, rows, start, end, all_start, all_end, keys, offset, lower, upper }
}

/// What the band of a batch entry says, without a tile: no rows and no keys are reached.
#[cube]
pub fn bounds(batch: usize, scalars: &Scalars, bands: &ComptimeOption<&Tensor<i32>>) -> Reach {
    let none = 0i32.runtime();
    Reach {
        first_row: 0usize.runtime(),
        rows: 0usize.runtime(),
        start: none,
        end: none,
        all_start: none,
        all_end: none,
        keys: of_band(batch, 3usize, scalars.keys, bands),
        offset: of_band(batch, 0usize, scalars.offset, bands),
        lower: of_band(batch, 1usize, scalars.lower, bands),
        upper: of_band(batch, 2usize, scalars.upper, bands),
    }
}

/// A number of a batch entry's band; that which all have, where there is no table.
#[cube]
fn of_band(batch: usize, #[comptime] number: usize, all: i32, bands: &ComptimeOption<&Tensor<i32>>) -> i32 {
    #[comptime]
    match bands {
        ComptimeOption::Some(bands) => bands[batch * bands.stride(0) + number],
        ComptimeOption::None => all,
    }
}

/// The reach of a tile of `cube_keys` keys among the queries: rows are keys here, and the keys from `start` to `end` are queries.
#[cube]
pub fn reach_of_keys(
    place: &Place,
    scalars: &Scalars,
    query_len: usize,
    key_len: usize,
    cube_keys: usize,
    bands: &ComptimeOption<&Tensor<i32>>,
) -> Reach {
    let band = bounds(place.batch, scalars, bands);
    let first_row = place.tile * cube_keys;
    let first = first_row as i32;
    let last = (min(first_row + cube_keys, key_len) - 1) as i32;
    let last_query = query_len as i32 - 1;
    let is_beyond = first >= band.keys;
    Reach {
        first_row,
        rows: key_len,
        start: max(first - band.upper, 0i32),
        // One is added to what cannot be the largest number.
        end: select(is_beyond, 0i32, min(last - band.lower, last_query) + 1),
        all_start: last - band.upper,
        all_end: select(last >= band.keys, 0i32, min(first - band.lower, last_query) + 1),
        keys: band.keys,
        offset: band.offset,
        lower: band.lower,
        upper: band.upper,
    }
}

/// What the score of query `i` of `head` depends on.
#[cube]
#[allow(clippy::too_many_arguments, reason = "a kernel's tensors, handed on one by one")]
pub fn facts<F: Float, M: Numeric>(
    place: &Place,
    reach: &Reach,
    scalars: &Scalars,
    head: usize,
    i: usize,
    mask: &ComptimeOption<&Tensor<M>>,
    bias: &ComptimeOption<&Tensor<F>>,
    slopes: &ComptimeOption<&Tensor<F>>,
) -> Score {
    Score {
        mask_at: at_score(mask, place.batch, head, i),
        bias_at: at_score(bias, place.batch, head, i),
        slope: per_head(slopes, head),
        position: i as i32 + reach.offset,
        first: i as i32 + reach.lower,
        last: min(i as i32 + reach.upper, reach.keys - 1),
        scale: scalars.scale,
        softcap: scalars.softcap,
        neg_inf: scalars.neg_inf,
    }
}

/// Where a row of what broadcasts to the scores begins; 0 where it is not given.
#[cube]
fn at_score<T: Numeric>(tensor: &ComptimeOption<&Tensor<T>>, batch: usize, head: usize, i: usize) -> usize {
    #[comptime]
    match tensor {
        ComptimeOption::Some(tensor) => batch * tensor.stride(0) + head * tensor.stride(1) + i * tensor.stride(2),
        ComptimeOption::None => 0usize.runtime(),
    }
}

/// A head's number; 0 where none is given.
#[cube]
fn per_head<T: Numeric>(tensor: &ComptimeOption<&Tensor<T>>, head: usize) -> f32 {
    #[comptime]
    match tensor {
        ComptimeOption::Some(tensor) => f32::cast_from(tensor[head * tensor.stride(0)]),
        ComptimeOption::None => f32::cast_from(0u32),
    }
}
