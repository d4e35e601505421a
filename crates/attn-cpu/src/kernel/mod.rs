//! The inner loops, each a [`Job`](crate::simd::Job) generic over the instruction set.

pub(crate) mod brief;
pub(crate) mod dot;
pub(crate) mod dropout;
pub(crate) mod finish;
pub(crate) mod gradient;
pub(crate) mod lying;
pub(crate) mod mask;
pub(crate) mod options;
pub(crate) mod pack;
pub(crate) mod softmax;
pub(crate) mod tile;

/// Rows of a strip: queries that go through the kernel together. Six rows of four vectors are 24 accumulators; with four
/// vectors of keys and a broadcast query they fill the 32 registers of AVX-512 and NEON, and six rows of two vectors the
/// 16 registers of AVX2.
pub(crate) const ROWS: usize = 6;

/// Rows that a product over `rows` of a strip goes through: there are kernels for 1, 2, 4 and 6.
pub(crate) const fn whole_rows(rows: usize) -> usize {
    match rows {
        0 | 1 => 1,
        2 => 2,
        3 | 4 => 4,
        _ => ROWS,
    }
}

/// Most keys of a block. A strip's scores for them, `6 · 512` f32, take 12 KB of the 32 or 48 KB of a first-level cache;
/// the block's packed keys and its values, 128 KB each at dimension 64, stay in the second level. Against 256 keys this
/// saves 2%: queries are staged, maxima found and accumulators fetched once a block.
pub(crate) const BLOCK: usize = 512;

/// Distance between the rows of a strip's scores, and of its staged queries. A block and a cache line, so that the rows
/// don't fall on the same cache sets and stores of one row don't look like those of another (4 KB aliasing).
pub(crate) const STRIDE: usize = BLOCK + 16;

/// Dimensions of a strip's queries that lie side by side: `[ROWS, PIECE]`, then the next piece. So the queries of a task are one
/// stream, and the distance of rows is a constant.
pub(crate) const PIECE: usize = 32;

/// Bytes of a block's keys and values together, for large dimensions: half of a second-level cache of 1 MB.
pub(crate) const BLOCK_BYTES: usize = 512 << 10;
