//! Masks as expressions: windows, chunks, strides, global tokens, random blocks, documents and prefixes, and any union,
//! intersection and complement of them, compiled to a [`BlockMask`].

mod node;

use std::fmt;
use std::ops::{BitAnd, BitOr, Not};
use std::sync::Arc;

use crate::{Alignment, AttentionError, BlockMask};
use node::Node;

/// Which keys a query sees, as an expression: leaves joined by `&`, `|` and `!`.
///
/// Query `i` stands at position `p = i + offset`, where the [`MaskShape`] says; keys stand at their index `j`.
///
/// ```
/// use attn_core::{MaskExpr, MaskShape};
///
/// // Causal; a sliding window of 256 keys, and the first 4 tokens from everywhere (StreamingLLM, Xiao et al. 2024).
/// let mask = MaskExpr::causal() & (MaskExpr::window(Some(255), None) | MaskExpr::keys(0..4));
/// let blocks = mask.compile(&MaskShape::new(1, 8, 4096, 4096))?;
/// assert!(blocks.sees(0, 0, 1000, 2) && !blocks.sees(0, 0, 1000, 700));
/// println!("{}", blocks.count()); // how many blocks are skipped
/// # Ok::<(), attn_core::AttentionError>(())
/// ```
///
/// Cost of compiling: each block of 64 × 64 is judged from the leaves' bounds at once; only those that are neither empty nor full
/// are evaluated pair by pair.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum MaskExpr {
    /// Every pair.
    All,
    /// `p − left ≤ j ≤ p + right`; `None` leaves a side open. Causal attention is `right = 0` (Longformer, Beltagy et al. 2020).
    Window {
        /// Keys before `p`.
        left: Option<usize>,
        /// Keys after `p`.
        right: Option<usize>,
    },
    /// `⌊p / size⌋ − before ≤ ⌊j / size⌋ ≤ ⌊p / size⌋ + after`: attention within chunks and to their neighbours (block-local
    /// attention, Liu et al. 2018; Qiu et al. 2020).
    Chunks {
        /// Positions of a chunk.
        size: usize,
        /// Chunks before its own that a query sees.
        before: usize,
        /// Chunks after it.
        after: usize,
    },
    /// `p − j` is a multiple of `step` (the strided pattern of Sparse Transformers, Child et al. 2019).
    Strided {
        /// Distance between the keys that are seen.
        step: usize,
    },
    /// `j mod step ≥ step − width`: the last keys of each run of `step` (the fixed pattern of Child et al. 2019).
    Columns {
        /// Keys of a run.
        step: usize,
        /// How many of them are seen, at most `step`.
        width: usize,
    },
    /// `j` is one of these.
    Keys(Arc<[usize]>),
    /// `p` is one of these.
    Queries(Arc<[usize]>),
    /// Each block of `block` queries sees `count` blocks of as many keys, drawn without repetition; the same draws for the same
    /// seed and key length (BigBird, Zaheer et al. 2020). Where there are fewer, it sees all.
    RandomBlocks {
        /// Positions of a block.
        block: usize,
        /// Blocks of keys that a block of queries sees.
        count: usize,
        /// Of the draws.
        seed: u64,
    },
    /// `ids[b][p] = ids[b][j]`: sequences packed into one attend each to itself. One list of ids for all batch entries, or one an
    /// entry; each as long as the keys.
    Documents(Arc<[Vec<u32>]>),
    /// `j < lengths[b]`: with `| causal` a prefix LM (Raffel et al. 2020). One length for all batch entries, or one an entry.
    Prefix(Arc<[usize]>),
    /// An expression a query head.
    PerHead(Vec<MaskExpr>),
    /// Whatever a function says of a pair. It is asked for every pair, over all batch entries and heads, that its neighbours in an
    /// intersection leave open.
    Function(PairFunction),
    /// What all of them show. Of none: every pair.
    And(Vec<MaskExpr>),
    /// What any of them shows. Of none: no pair.
    Or(Vec<MaskExpr>),
    /// What it hides.
    Not(Box<MaskExpr>),
}

/// A query and a key, of which a [`MaskExpr::Function`] tells whether the one sees the other, and a [`ScoreMod`](crate::ScoreMod) what
/// becomes of their score.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pair {
    /// Batch entry.
    pub batch: usize,
    /// Query head.
    pub head: usize,
    /// Index of the query.
    pub query: usize,
    /// Its position among the keys, `query + offset`.
    pub position: i64,
    /// Index, and position, of the key.
    pub key: usize,
}

/// A function from pairs to whether they are seen.
#[derive(Clone)]
pub struct PairFunction(Arc<dyn Fn(Pair) -> bool + Send + Sync>);

impl fmt::Debug for PairFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("function of a pair")
    }
}

/// What an expression is compiled for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MaskShape {
    /// B.
    pub batch: usize,
    /// H.
    pub heads: usize,
    /// Sq.
    pub query_len: usize,
    /// Sk.
    pub key_len: usize,
    /// Where query 0 stands.
    pub alignment: Alignment,
    /// Keys of each batch entry, where they differ: they move bottom-right alignment.
    pub kv_lens: Option<Vec<usize>>,
}

impl MaskShape {
    /// The shape of scores `[batch, heads, query_len, key_len]`, aligned at the bottom right.
    pub fn new(batch: usize, heads: usize, query_len: usize, key_len: usize) -> Self {
        Self { batch, heads, query_len, key_len, alignment: Alignment::default(), kv_lens: None }
    }

    /// Sets where query 0 stands.
    pub fn with_alignment(mut self, alignment: Alignment) -> Self {
        self.alignment = alignment;
        self
    }

    /// Sets the number of keys of each batch entry.
    pub fn with_kv_lens(mut self, kv_lens: impl Into<Vec<usize>>) -> Self {
        self.kv_lens = Some(kv_lens.into());
        self
    }

    /// Position of query 0 in each batch entry, or one for all.
    fn offsets(&self) -> Result<Vec<i64>, AttentionError> {
        if let Some(lens) = &self.kv_lens
            && lens.len() != self.batch
        {
            return Err(AttentionError::shape("kv_lens", format!("[{}]", self.batch), &[lens.len()]));
        }
        let offset = |keys: usize| self.alignment.offset(self.query_len, keys);
        let Some(lens) = &self.kv_lens else { return Ok(vec![offset(self.key_len)]) };
        let mut offsets: Vec<_> = lens.iter().map(|&keys| offset(keys)).collect();
        if offsets.windows(2).all(|pair| pair[0] == pair[1]) {
            offsets.truncate(1);
        }
        Ok(offsets)
    }
}

impl MaskExpr {
    /// `j ≤ p`.
    pub fn causal() -> Self {
        Self::window(None, Some(0))
    }

    /// `p − left ≤ j ≤ p + right`; `None` leaves a side open.
    pub fn window(left: Option<usize>, right: Option<usize>) -> Self {
        Self::Window { left, right }
    }

    /// Attention within chunks of `size` positions.
    pub fn chunks(size: usize) -> Self {
        Self::Chunks { size, before: 0, after: 0 }
    }

    /// Every `step`-th key, up to `left` of them before and `right` after the query (dilated windows of Longformer).
    pub fn dilated(left: usize, right: usize, step: usize) -> Self {
        let reach = |keys: usize| Some(keys.saturating_mul(step));
        Self::window(reach(left), reach(right)) & Self::Strided { step }
    }

    /// These keys, seen from everywhere.
    pub fn keys(keys: impl IntoIterator<Item = usize>) -> Self {
        Self::Keys(set(keys))
    }

    /// These positions, from which everything is seen.
    pub fn queries(positions: impl IntoIterator<Item = usize>) -> Self {
        Self::Queries(set(positions))
    }

    /// Tokens that see everything and are seen from everywhere (Longformer's and BigBird's global tokens).
    pub fn global(tokens: impl IntoIterator<Item = usize>) -> Self {
        let tokens = set(tokens);
        Self::Keys(tokens.clone()) | Self::Queries(tokens)
    }

    /// Packed sequences, one list of ids for all batch entries, or one an entry.
    pub fn documents(ids: impl Into<Vec<Vec<u32>>>) -> Self {
        Self::Documents(ids.into().into())
    }

    /// Everything before a length that belongs to the batch entry, and what causal attention sees (prefix LM).
    pub fn prefix_lm(lengths: impl Into<Vec<usize>>) -> Self {
        Self::Prefix(lengths.into().into()) | Self::causal()
    }

    /// What a function says of each pair.
    pub fn function(seen: impl Fn(Pair) -> bool + Send + Sync + 'static) -> Self {
        Self::Function(PairFunction(Arc::new(seen)))
    }

    /// A sliding window to both sides, and global tokens (Longformer, Beltagy et al. 2020).
    pub fn longformer(reach: usize, global: impl IntoIterator<Item = usize>) -> Self {
        Self::window(Some(reach), Some(reach)) | Self::global(global)
    }

    /// Blocks of `block` positions that see themselves and `neighbours` on both sides, `random` others, and global tokens
    /// (BigBird, Zaheer et al. 2020).
    pub fn big_bird(
        block: usize,
        neighbours: usize,
        random: usize,
        global: impl IntoIterator<Item = usize>,
        seed: u64,
    ) -> Self {
        let near = Self::Chunks { size: block, before: neighbours, after: neighbours };
        near | Self::RandomBlocks { block, count: random, seed } | Self::global(global)
    }

    /// The expression as a mask by blocks.
    ///
    /// # Errors
    /// A value or shape error that names the leaf at fault (`chunks`, `strided`, `columns`, `random_blocks`, `documents`, `prefix`,
    /// `per_head`), `kv_lens`, or `block_mask` where its table would not fit in memory.
    pub fn compile(&self, shape: &MaskShape) -> Result<BlockMask, AttentionError> {
        let offsets = shape.offsets()?;
        let node = Node::new(self, shape)?;
        let [batch, heads] = [node.needs_batch() || offsets.len() > 1, node.needs_heads()];
        // A broadcast axis stays empty where it is.
        let axis = |needed: bool, len: usize| if needed { len } else { len.min(1) };
        let own = [axis(batch, shape.batch), axis(heads, shape.heads), shape.query_len, shape.key_len];
        let place = |batch: usize, head: usize, query: usize| node::Place {
            batch,
            head,
            query,
            position: (query as i64).saturating_add(offsets[if offsets.len() == 1 { 0 } else { batch }]),
        };
        BlockMask::build(
            own,
            |batch, head, rows, keys| node.coverage(place(batch, head, rows.start), rows.len(), keys),
            |batch, head, row, keys| node.word(place(batch, head, row), keys),
        )
    }
}

/// Sorted, each once.
fn set(items: impl IntoIterator<Item = usize>) -> Arc<[usize]> {
    let mut items: Vec<_> = items.into_iter().collect();
    items.sort_unstable();
    items.dedup();
    items.into()
}

impl BitAnd for MaskExpr {
    type Output = Self;

    /// What both show.
    fn bitand(self, other: Self) -> Self {
        match self {
            Self::And(mut all) => {
                all.push(other);
                Self::And(all)
            }
            first => Self::And(vec![first, other]),
        }
    }
}

impl BitOr for MaskExpr {
    type Output = Self;

    /// What either shows.
    fn bitor(self, other: Self) -> Self {
        match self {
            Self::Or(mut all) => {
                all.push(other);
                Self::Or(all)
            }
            first => Self::Or(vec![first, other]),
        }
    }
}

impl Not for MaskExpr {
    type Output = Self;

    /// What it hides.
    fn not(self) -> Self {
        Self::Not(Box::new(self))
    }
}
