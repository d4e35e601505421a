//! Masks by blocks of 64 queries by 64 keys: which blocks of keys a cube passes over, and the bits of the others.
//!
//! One buffer holds the table `[B or 1, H or 1, ⌈Sq/64⌉, ⌈Sk/64⌉]` (0: empty, 1: full, 2 + n: pattern n), and behind it the patterns, a
//! row of 64 keys as two words.

use burn_cubecl::cubecl;
use burn_cubecl::cubecl::prelude::*;

use crate::device::place::{Place, Reach, Scalars};

/// Queries and keys of a block.
pub const BLOCK: usize = 64;

/// Where the row of blocks of query `i` of a head begins in the table.
#[cube]
pub fn table_row(place: &Place, scalars: &Scalars, head: usize, i: usize) -> usize {
    place.batch * scalars.blocks_batch + head * scalars.blocks_head + (i / BLOCK) * scalars.key_blocks
}

/// Whether any row of a cube's tile sees anything of a block of keys. Uniform over the cube's units.
#[cube]
pub fn is_visible(
    blocks: &Tensor<u32>,
    place: &Place,
    reach: &Reach,
    scalars: &Scalars,
    query_len: usize,
    cube_rows: usize,
    key_block: usize,
) -> bool {
    let end = min(reach.first_row + cube_rows, reach.rows);
    let mut row = reach.first_row;
    let mut kinds = 0u32.runtime();
    while row < end {
        let i = row % query_len;
        kinds |= blocks[table_row(place, scalars, place.first_head + row / query_len, i) + key_block];
        // On to the next block of queries, or to the next head.
        row += min(BLOCK - i % BLOCK, query_len - i);
    }
    kinds != 0
}

/// Which of a block's 64 keys query `i` sees: bits 0 to 31 for `half` 0, 32 to 63 for 1. Bits past the last key may be set.
#[cube]
pub fn half_word(
    blocks: &Tensor<u32>,
    scalars: &Scalars,
    table_row: usize,
    key_block: usize,
    i: usize,
    #[comptime] half: usize,
) -> u32 {
    let kind = blocks[table_row + key_block];
    let mut word = select(kind == 0, 0u32.runtime(), u32::MAX.runtime());
    if kind > 1 {
        word = blocks[scalars.patterns_at + ((kind - 2) as usize * BLOCK + i % BLOCK) * 2 + half];
    }
    word
}
