//! The problem struct, the only source of shapes, and the checks that it passes before any work starts.

use std::fmt;

use crate::{CpuError, Element, View};

/// Which keys the queries of one batch entry may see.
///
/// Query `i` stands at the absolute position `p = i + offset` and sees key `j` when `j < keys`, `j ≥ p + lower` (if
/// given) and `j ≤ p + upper` (if given). Causal attention is `upper = 0`; a window of `left` keys back and `right`
/// keys ahead is `lower = −left`, `upper = right`. ALiBi measures its distances from `p`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Band {
    /// Absolute position of query 0.
    pub offset: i64,
    /// Smallest visible `j − p`.
    pub lower: Option<i64>,
    /// Largest visible `j − p`.
    pub upper: Option<i64>,
    /// How many keys are valid. At most the key length.
    pub keys: usize,
}

impl Band {
    /// Every query sees the first `keys` keys.
    pub fn full(keys: usize) -> Self {
        Self { offset: 0, lower: None, upper: None, keys }
    }

    /// The keys `start..end` that query `i` sees. Empty ranges have `start == end`.
    pub fn visible(&self, i: usize) -> (usize, usize) {
        if self.lower.is_none() && self.upper.is_none() {
            return (0, self.keys);
        }
        let (lower, upper) = (self.lower.unwrap_or(0), self.upper.unwrap_or(0));
        let near = |x: i64| x.unsigned_abs() < 1 << 61;
        let (start, end) = if (i as u64) < 1 << 61 && near(self.offset) && near(lower) && near(upper) {
            // No sum of three such numbers overflows.
            let position = i as i64 + self.offset;
            let clamp = |j: i64| (j.max(0) as u64).min(self.keys as u64) as usize;
            (clamp(position + lower), clamp(position + upper + 1))
        } else {
            let position = i as i128 + i128::from(self.offset);
            let clamp = |j: i128| j.clamp(0, self.keys as i128) as usize;
            (clamp(position + i128::from(lower)), clamp(position + i128::from(upper) + 1))
        };
        let start = self.lower.map_or(0, |_| start);
        (start, self.upper.map_or(self.keys, |_| end).max(start))
    }
}

/// A mask of bytes, read as it lies. Broadcast axes have stride 0.
#[derive(Debug, Clone, Copy)]
pub struct Mask<'a> {
    /// Shape `[batch, heads, query_len, key_len]`.
    pub view: View<'a, u8, 4>,
    /// What a byte other than 0 means: seen (`true`) or hidden (`false`).
    pub seen_when: bool,
}

/// Queries and keys of a block of a mask by blocks: a row of a block is one word.
pub(crate) const MASK_BLOCK: usize = 64;
/// Table entry of a block that nothing sees.
pub(crate) const EMPTY: u32 = 0;
/// Table entry of a block in which every pair is seen.
pub(crate) const FULL: u32 = 1;
/// Table entry of the first pattern.
pub(crate) const FIRST_PATTERN: u32 = 2;

/// A mask by blocks of 64 queries by 64 keys. Blocks that nothing sees are skipped, blocks that are seen whole are not masked.
#[derive(Debug, Clone, Copy)]
pub struct Blocks<'a> {
    pub(crate) batch: usize,
    pub(crate) heads: usize,
    pub(crate) query_blocks: usize,
    pub(crate) key_blocks: usize,
    pub(crate) table: &'a [u32],
    pub(crate) patterns: &'a [[u64; MASK_BLOCK]],
}

impl<'a> Blocks<'a> {
    /// A mask of `shape`, `[batch, heads, query_len, key_len]`; batch and heads may be 1, which broadcasts.
    ///
    /// `table` is `[batch, heads, ⌈query_len / 64⌉, ⌈key_len / 64⌉]`: 0 where nothing is seen, 1 where everything is, and `2 + n` where
    /// pattern `n` tells: bit `k` of its word `r` whether the block's query `r` sees its key `k`.
    ///
    /// # Errors
    /// [`CpuError::Length`] where the table has another length than the shape asks for, [`CpuError::Value`] where it names a
    /// pattern that is not there.
    pub fn new(shape: [usize; 4], table: &'a [u32], patterns: &'a [[u64; 64]]) -> Result<Self, CpuError> {
        let [batch, heads, query_len, key_len] = shape;
        let (query_blocks, key_blocks) = (query_len.div_ceil(MASK_BLOCK), key_len.div_ceil(MASK_BLOCK));
        let blocks = [heads, query_blocks, key_blocks].into_iter().fold(batch, usize::saturating_mul);
        length("blocks", table.len(), blocks)?;
        match table.iter().find(|&&entry| entry as usize >= patterns.len() + FIRST_PATTERN as usize) {
            Some(entry) => Err(value_error("blocks", format!("entries of {} patterns", patterns.len()), entry)),
            None => Ok(Self { batch, heads, query_blocks, key_blocks, table, patterns }),
        }
    }

    /// Where the row of a query's block begins in the table.
    pub(crate) fn row(&self, batch: usize, head: usize, query: usize) -> usize {
        let (batch, head) = (if self.batch == 1 { 0 } else { batch }, if self.heads == 1 { 0 } else { head });
        ((batch * self.heads + head) * self.query_blocks + query / MASK_BLOCK) * self.key_blocks
    }

    /// Whether its table is that of a problem.
    fn check(&self, dims: &Dims) -> Result<(), CpuError> {
        let own = |found: usize, axis: usize| found == 1 || found == axis;
        let blocks = [dims.query_len, dims.key_len].map(|len| len.div_ceil(MASK_BLOCK));
        if own(self.batch, dims.batch) && own(self.heads, dims.heads) && [self.query_blocks, self.key_blocks] == blocks
        {
            return Ok(());
        }
        Err(CpuError::Shape {
            argument: "blocks",
            expected: format!("[1 or {}, 1 or {}, {}, {}] blocks", dims.batch, dims.heads, blocks[0], blocks[1]),
            found: format!("[{}, {}, {}, {}]", self.batch, self.heads, self.query_blocks, self.key_blocks),
        })
    }
}

/// A function of each score and the place `[b, h, i, j]` of its query and key, run on the threads that compute.
#[derive(Clone, Copy)]
pub struct ScoreMod<'a> {
    value: &'a Function<'a>,
    slope: Option<&'a Function<'a>>,
}

type Function<'a> = dyn Fn(f64, [usize; 4]) -> f64 + Sync + 'a;

impl<'a> ScoreMod<'a> {
    /// From a function. An answer of −∞ hides.
    pub fn new(function: &'a (dyn Fn(f64, [usize; 4]) -> f64 + Sync)) -> Self {
        Self { value: function, slope: None }
    }

    /// With its derivative by the score, from the same score and place. A backward pass needs it.
    pub fn with_slope(self, slope: &'a (dyn Fn(f64, [usize; 4]) -> f64 + Sync)) -> Self {
        Self { slope: Some(slope), ..self }
    }

    pub(crate) fn apply(&self, score: f64, place: [usize; 4]) -> f64 {
        (self.value)(score, place)
    }

    pub(crate) fn slope(&self) -> Option<&'a Function<'a>> {
        self.slope
    }
}

impl fmt::Debug for ScoreMod<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("function of a score")
    }
}

/// Which weights are dropped as they multiply values; the others are multiplied by `1 / (1 − probability)`.
///
/// The weight of key `j` for query `i` of head `h` and batch entry `b` is kept where word `j mod 4` of Philox4x32-10 (Salmon et al. 2011) at
/// counter `(⌊j / 4⌋, i, h, b)` under the key `seed` is at least `probability · 2³²`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dropout {
    /// In `[0, 1)`.
    pub probability: f64,
    /// The generator's key, its low half first.
    pub seed: u64,
}

impl Dropout {
    /// The factor of a weight that is kept.
    pub(crate) fn scale(&self) -> f64 {
        1.0 / (1.0 - self.probability)
    }

    /// The smallest word that keeps a weight.
    pub(crate) fn threshold(&self) -> u32 {
        // Saturates.
        (self.probability * 2f64.powi(32)).round() as u32
    }
}

/// One attention problem: `out = softmax(hide(bias + relative + alibi + softcap(scale · query · keyᵀ))) · value`.
///
/// Axes: `B` batch, `H` heads, `G` kv_heads (`H` a multiple of `G`; head `h` reads key/value head `h / (H/G)`), `Sq`
/// query_len, `Sk` key_len, `D` head_dim, `E` value_dim. For query `i` and key `j` the score is
/// `scale · q·k`, then `softcap · tanh(score / softcap)`, then `− slope[h] · |j − (i + offset)|`, then
/// `+ table[h, R + clamp(j − (i + offset), −R, R)]`, then `+ bias`, then `f(score, place)`. What the band, the mask, the blocks, a bias of −∞ or an answer of −∞ hides has no
/// influence, even where it holds NaN or infinity.
#[derive(Debug, Clone, Copy)]
pub struct Attention<'a, T> {
    /// `[B, H, Sq, D]`.
    pub query: View<'a, T, 4>,
    /// `[B, G, Sk, D]`.
    pub key: View<'a, T, 4>,
    /// `[B, G, Sk, E]`.
    pub value: View<'a, T, 4>,
    /// Multiplies `q·k`. Finite.
    pub scale: f64,
    /// Finite and above 0 where given.
    pub softcap: Option<f64>,
    /// One a batch entry: length `B`.
    pub bands: &'a [Band],
    /// `[B, H, Sq, Sk]`, broadcast by strides of 0.
    pub mask: Option<Mask<'a>>,
    /// `[B, H, Sq, Sk]`, broadcast by strides of 0. −∞ hides.
    pub bias: Option<View<'a, T, 4>>,
    /// One a head: length `H`.
    pub alibi_slopes: Option<&'a [T]>,
    /// A bias by relative position, `[H, 2·R + 1]`; one table for all heads by a stride of 0. −∞ hides.
    pub relative_bias: Option<View<'a, T, 2>>,
    /// One a head: length `H`. A logit that takes weight and gives no value.
    pub sinks: Option<&'a [T]>,
    /// Blocks of the scores that are skipped, and pairs of others that are hidden.
    pub blocks: Option<Blocks<'a>>,
    /// What becomes of each score in the end. Not asked where a score is −∞ or outside the band; answers for what the blocks hide are
    /// not used.
    pub score_mod: Option<ScoreMod<'a>>,
    /// Weights that are dropped. The LSE is that of all of them.
    pub dropout: Option<Dropout>,
}

/// The lengths of all axes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Dims {
    pub batch: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub query_len: usize,
    pub key_len: usize,
    pub head_dim: usize,
    pub value_dim: usize,
}

impl<'a, T: Element> Attention<'a, T> {
    /// Query `[B, H, Sq, D]`, key `[B, G, Sk, D]`, value `[B, G, Sk, E]` and a band for each of B, with scale 1/√D and no options.
    pub fn plain(query: View<'a, T, 4>, key: View<'a, T, 4>, value: View<'a, T, 4>, bands: &'a [Band]) -> Self {
        Self {
            query,
            key,
            value,
            scale: 1.0 / (query.shape()[3].max(1) as f64).sqrt(),
            softcap: None,
            bands,
            mask: None,
            bias: None,
            alibi_slopes: None,
            relative_bias: None,
            sinks: None,
            blocks: None,
            score_mod: None,
            dropout: None,
        }
    }
}

impl<T: Element> Attention<'_, T> {
    /// Checks every argument against the others, and the outputs' lengths.
    pub(crate) fn check_inputs(&self) -> Result<Dims, CpuError> {
        let [batch, heads, query_len, head_dim] = self.query.shape();
        let [_, kv_heads, key_len, _] = self.key.shape();
        let value_dim = self.value.shape()[3];
        let dims = Dims { batch, heads, kv_heads, query_len, key_len, head_dim, value_dim };
        if head_dim == 0 {
            return Err(value_error("query", "a head_dim of at least 1", 0));
        }
        shape("key", self.key.shape(), [batch, kv_heads, key_len, head_dim])?;
        shape("value", self.value.shape(), [batch, kv_heads, key_len, value_dim])?;
        if heads > 0 && (kv_heads == 0 || heads % kv_heads != 0) {
            return Err(value_error("key", format!("kv_heads that divide {heads} heads"), kv_heads));
        }
        self.check_options(&dims)?;
        Ok(dims)
    }

    /// The same, with the lengths of outputs.
    pub(crate) fn check(&self, out: usize, lse: Option<usize>) -> Result<Dims, CpuError> {
        let dims = self.check_inputs()?;
        let Dims { batch, heads, query_len, value_dim, .. } = dims;
        let rows = batch.saturating_mul(heads).saturating_mul(query_len);
        length("out", out, rows.saturating_mul(value_dim))?;
        lse.map_or(Ok(()), |lse| length("lse", lse, rows))?;
        Ok(dims)
    }

    fn check_options(&self, dims: &Dims) -> Result<(), CpuError> {
        if !self.scale.is_finite() {
            return Err(value_error("scale", "a finite number", self.scale));
        }
        if let Some(cap) = self.softcap.filter(|cap| !(cap.is_finite() && *cap > 0.0)) {
            return Err(value_error("softcap", "a finite number above 0", cap));
        }
        if let Some(Dropout { probability, .. }) = self.dropout.filter(|own| !(0.0..1.0).contains(&own.probability)) {
            return Err(value_error("dropout", "a probability in [0, 1)", probability));
        }
        length("bands", self.bands.len(), dims.batch)?;
        if let Some(band) = self.bands.iter().find(|band| band.keys > dims.key_len) {
            return Err(value_error("bands", format!("at most {} keys", dims.key_len), band.keys));
        }
        let scores = [dims.batch, dims.heads, dims.query_len, dims.key_len];
        self.mask.map_or(Ok(()), |mask| shape("mask", mask.view.shape(), scores))?;
        self.bias.map_or(Ok(()), |bias| shape("bias", bias.shape(), scores))?;
        self.alibi_slopes.map_or(Ok(()), |slopes| length("alibi_slopes", slopes.len(), dims.heads))?;
        if let Some([heads, distances]) = self.relative_bias.map(|table| table.shape())
            && (heads != dims.heads || distances % 2 == 0)
        {
            return Err(CpuError::Shape {
                argument: "relative_bias",
                expected: format!("[{}, an odd number of distances]", dims.heads),
                found: format!("[{heads}, {distances}]"),
            });
        }
        self.sinks.map_or(Ok(()), |sinks| length("sinks", sinks.len(), dims.heads))?;
        self.blocks.map_or(Ok(()), |blocks| blocks.check(dims))
    }
}

pub(crate) fn shape<const N: usize>(
    argument: &'static str,
    found: [usize; N],
    expected: [usize; N],
) -> Result<(), CpuError> {
    if found == expected {
        return Ok(());
    }
    Err(CpuError::Shape { argument, expected: format!("{expected:?}"), found: format!("{found:?}") })
}

pub(crate) fn length(argument: &'static str, found: usize, expected: usize) -> Result<(), CpuError> {
    if found == expected {
        return Ok(());
    }
    Err(CpuError::Length { argument, expected: expected.to_string(), found })
}

pub(crate) fn value_error(argument: &'static str, expected: impl Into<String>, found: impl ToString) -> CpuError {
    CpuError::Value { argument, expected: expected.into(), found: found.to_string() }
}
