//! Masks by blocks: which blocks of the score matrix are empty, which full, and the pairs of those between.

use std::collections::HashMap;
use std::ops::Range;

use crate::{AttentionError, Coverage};

/// Queries and keys of a block: as many as a machine word has bits, so that a row of a block is one word.
pub const BLOCK: usize = 64;

/// The rows of a block, query by query: bit `k` of word `r` tells whether the block's query `r` sees its key `k`. Bits past the ends
/// of the sequences are 0.
pub type Pattern = [u64; BLOCK];

/// Table entry of a block that nothing sees.
pub const EMPTY: u32 = 0;
/// Table entry of a block in which every pair is seen.
pub const FULL: u32 = 1;
/// The table entry of pattern 0; those of the others follow.
pub const FIRST_PATTERN: u32 = 2;

/// A mask `[batch, heads, query_len, key_len]` in blocks of [`BLOCK`] queries by [`BLOCK`] keys (FlexAttention, Dong et al. 2024).
///
/// Kernels skip blocks that are empty, do not mask blocks that are full, and read the pairs of the others from patterns, of which
/// equal ones are kept once. Batch and heads may be 1, which broadcasts. It lies on the host, as the key lengths do, since it
/// shapes the work. Memory: 4 bytes a block and 512 a distinct pattern. Made by [`MaskExpr::compile`](crate::MaskExpr::compile),
/// or from any function of a pair by [`from_fn`](Self::from_fn).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockMask {
    shape: [usize; 4],
    table: Vec<u32>,
    patterns: Vec<Pattern>,
}

/// How much of one block is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Block<'a> {
    /// Nothing: it is skipped.
    Empty,
    /// Every pair: it is not masked.
    Full,
    /// The pairs of the pattern.
    Partial(&'a Pattern),
}

/// Numbers of blocks by kind, over the mask's own batch and heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BlockCount {
    /// Skipped.
    pub empty: usize,
    /// Computed and masked.
    pub partial: usize,
    /// Computed and not masked.
    pub full: usize,
}

impl BlockMask {
    /// A mask from a function of batch entry, head, query and key that tells whether the pair is seen. Every pair is asked for once.
    ///
    /// # Errors
    /// A value error that names `block_mask` where the table of blocks would not fit in memory.
    pub fn from_fn(
        shape: [usize; 4],
        seen: impl Fn(usize, usize, usize, usize) -> bool,
    ) -> Result<Self, AttentionError> {
        Self::build(
            shape,
            |_, _, _, _| Coverage::Partial,
            |batch, head, query, keys| {
                keys.enumerate().fold(0, |word, (bit, key)| word | (u64::from(seen(batch, head, query, key)) << bit))
            },
        )
    }

    /// A mask from what is known of a block, and the words of those of which no more is known than that they are partial.
    pub(crate) fn build(
        shape: [usize; 4],
        coverage: impl Fn(usize, usize, Range<usize>, Range<usize>) -> Coverage,
        word: impl Fn(usize, usize, usize, Range<usize>) -> u64,
    ) -> Result<Self, AttentionError> {
        let [batch, heads, query_len, key_len] = shape;
        let [query_blocks, key_blocks] = [query_len, key_len].map(|len| len.div_ceil(BLOCK));
        let blocks = [heads, query_blocks, key_blocks].into_iter().try_fold(batch, usize::checked_mul);
        let mut mask = Self { shape, table: Vec::new(), patterns: Vec::new() };
        let room = blocks.is_some_and(|blocks| mask.table.try_reserve_exact(blocks).is_ok());
        if !room {
            return Err(AttentionError::value("block_mask", "blocks that fit in memory", format!("{shape:?}")));
        }
        let mut known = HashMap::new();
        for at in 0..batch * heads * query_blocks {
            let (batch, head) = (at / query_blocks / heads, at / query_blocks % heads);
            let rows = span(at % query_blocks, query_len);
            for keys in (0..key_blocks).map(|block| span(block, key_len)) {
                let entry = match coverage(batch, head, rows.clone(), keys.clone()) {
                    Coverage::None => EMPTY,
                    Coverage::Full => FULL,
                    Coverage::Partial => {
                        let mut pattern = [0; BLOCK];
                        for (word_of_row, row) in pattern.iter_mut().zip(rows.clone()) {
                            *word_of_row = word(batch, head, row, keys.clone());
                        }
                        mask.entry(&mut known, pattern, rows.len(), keys.len())
                    }
                };
                mask.table.push(entry);
            }
        }
        Ok(mask)
    }

    /// The table entry of a block whose pairs are those of a pattern.
    fn entry(&mut self, known: &mut HashMap<Pattern, u32>, pattern: Pattern, rows: usize, keys: usize) -> u32 {
        let all = low_bits(keys);
        if pattern.iter().all(|word| *word == 0) {
            EMPTY
        } else if pattern[..rows].iter().all(|word| *word == all) {
            FULL
        } else {
            *known.entry(pattern).or_insert_with(|| {
                self.patterns.push(pattern);
                // As many patterns as a table has entries, which is allocated in words of this type.
                FIRST_PATTERN + (self.patterns.len() - 1) as u32
            })
        }
    }

    /// `[batch, heads, query_len, key_len]`; batch and heads may be 1.
    pub fn shape(&self) -> [usize; 4] {
        self.shape
    }

    /// Blocks along queries and along keys.
    pub fn blocks(&self) -> [usize; 2] {
        [self.shape[2].div_ceil(BLOCK), self.shape[3].div_ceil(BLOCK)]
    }

    /// The kinds of all blocks, `[batch, heads, query blocks, key blocks]`: [`EMPTY`], [`FULL`], or [`FIRST_PATTERN`] + the number
    /// of a pattern.
    pub fn table(&self) -> &[u32] {
        &self.table
    }

    /// The distinct patterns of the partial blocks.
    pub fn patterns(&self) -> &[Pattern] {
        &self.patterns
    }

    /// One block; batch entries and heads past the mask's own are those of a broadcast axis. `None` past the end.
    pub fn block(&self, batch: usize, head: usize, query_block: usize, key_block: usize) -> Option<Block<'_>> {
        let [query_blocks, key_blocks] = self.blocks();
        if query_block >= query_blocks || key_block >= key_blocks {
            return None;
        }
        let at = self.row_of_table(batch, head, query_block) + key_block;
        Some(match *self.table.get(at)? {
            EMPTY => Block::Empty,
            FULL => Block::Full,
            pattern => Block::Partial(self.patterns.get((pattern - FIRST_PATTERN) as usize)?),
        })
    }

    /// Where a row of blocks begins in the table.
    fn row_of_table(&self, batch: usize, head: usize, query_block: usize) -> usize {
        let [batches, heads, ..] = self.shape;
        let [query_blocks, key_blocks] = self.blocks();
        let (batch, head) = (if batches == 1 { 0 } else { batch }, if heads == 1 { 0 } else { head });
        ((batch * heads + head) * query_blocks + query_block) * key_blocks
    }

    /// Which of the keys of a block a query sees, bit by bit.
    pub fn word(&self, batch: usize, head: usize, query: usize, key_block: usize) -> u64 {
        match self.block(batch, head, query / BLOCK, key_block) {
            None | Some(Block::Empty) => 0,
            Some(Block::Full) => low_bits(span(key_block, self.shape[3]).len()),
            Some(Block::Partial(pattern)) => pattern[query % BLOCK],
        }
    }

    /// Whether a query sees a key.
    pub fn sees(&self, batch: usize, head: usize, query: usize, key: usize) -> bool {
        self.word(batch, head, query, key / BLOCK) >> (key % BLOCK) & 1 == 1
    }

    /// How many of a range of keys a query sees.
    pub fn seen_in(&self, batch: usize, head: usize, query: usize, keys: Range<usize>) -> usize {
        (keys.start / BLOCK..keys.end.div_ceil(BLOCK))
            .map(|block| {
                let first = block * BLOCK;
                let inside = low_bits(keys.end - first) & !low_bits(keys.start.saturating_sub(first));
                (self.word(batch, head, query, block) & inside).count_ones() as usize
            })
            .sum()
    }

    /// How much of a rectangle is seen, judged by its blocks: `Partial` may turn out to be none or all.
    pub fn coverage(&self, batch: usize, head: usize, rows: Range<usize>, keys: Range<usize>) -> Coverage {
        let (mut empty, mut full) = (true, true);
        for row in rows.start / BLOCK..rows.end.div_ceil(BLOCK) {
            for key in keys.start / BLOCK..keys.end.div_ceil(BLOCK) {
                match self.block(batch, head, row, key) {
                    None | Some(Block::Empty) => full = false,
                    Some(Block::Full) => empty = false,
                    Some(Block::Partial(_)) => return Coverage::Partial,
                }
            }
        }
        match (empty, full) {
            (true, _) => Coverage::None,
            (false, true) => Coverage::Full,
            (false, false) => Coverage::Partial,
        }
    }

    /// How many blocks are skipped, masked, and computed whole.
    pub fn count(&self) -> BlockCount {
        self.table.iter().fold(BlockCount::default(), |mut count, entry| {
            *match *entry {
                EMPTY => &mut count.empty,
                FULL => &mut count.full,
                _ => &mut count.partial,
            } += 1;
            count
        })
    }
}

impl std::fmt::Display for BlockCount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} blocks skipped, {} masked, {} whole", self.empty, self.partial, self.full)
    }
}

/// The queries or keys of a block of a sequence.
fn span(block: usize, len: usize) -> Range<usize> {
    block * BLOCK..((block + 1) * BLOCK).min(len)
}

/// A word whose lowest `bits` bits are 1.
pub(crate) fn low_bits(bits: usize) -> u64 {
    match bits {
        0 => 0,
        bits => u64::MAX >> (BLOCK - bits.min(BLOCK)),
    }
}
