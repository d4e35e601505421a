//! The inner loops, each a [`Job`](crate::simd::Job) generic over the instruction set.

pub(crate) mod dot;
pub(crate) mod finish;
pub(crate) mod options;
pub(crate) mod pack;
pub(crate) mod softmax;
pub(crate) mod tile;

/// Rows of a strip: queries that go through the kernel together. Six rows of four vectors are 24 accumulators; with four
/// vectors of keys and a broadcast query they fill the 32 registers of AVX-512 and NEON, and six rows of two vectors the
/// 16 registers of AVX2.
pub(crate) const ROWS: usize = 6;

/// Keys of a block. A strip's scores for them, `6 · 256` f32, take 6 KB of the 32 or 48 KB of a first-level cache; the
/// block's packed keys and its values take 64 KB each at dimension 64 and stay in the second level. A longer block would
/// save little (sums are rescaled once a block), a shorter one pays the row maxima and the accumulators' trip more often.
pub(crate) const BLOCK: usize = 256;
