//! Relative biases: a learned number a head for each distance of key and query.

use attn_core::AttentionError;
use burn::config::Config;
use burn::module::{Initializer, Module, Param};
use burn::tensor::{Device, Int, Tensor};

use super::Positions;
use crate::nn::check::{features, positive};

/// Which row of the table a distance `r = j − p` of key position and query position reads.
#[derive(Config, Debug, Copy, PartialEq, Eq)]
pub enum DistanceRule {
    /// T5 (Raffel et al. 2020): small distances have a row each, greater ones share rows that grow with the logarithm.
    ///
    /// ```text
    /// bidirectional:   n = buckets / 2,   row = (n if r > 0 else 0) + f(|r|)
    /// causal:          n = buckets,       row = f(max(−r, 0))
    /// e = ⌊n / 2⌋      f(x) = x  for x < e,   else  min(e + ⌊ln(x/e) / ln(max_distance/e) · (n − e)⌋, n − 1)
    /// ```
    ///
    /// Logarithms are f32, as in the authors' code.
    T5 {
        /// Rows of the table; 32 in the paper. Even where bidirectional.
        buckets: usize,
        /// From here on all distances share a row; 128 in the paper.
        max_distance: usize,
        /// Whether keys after the query have rows of their own: yes in an encoder, no in a decoder.
        bidirectional: bool,
    },
    /// A row for each distance, clipped: `row = clamp(r, −max_distance, max_distance) + max_distance` (Shaw et al. 2018, with
    /// biases in place of vectors; for tokens in a row, the table of Swin, Liu et al. 2021).
    Clipped {
        /// Greatest distance with a row of its own.
        max_distance: usize,
    },
}

impl DistanceRule {
    /// The paper's numbers: 32 buckets up to a distance of 128.
    pub fn t5(bidirectional: bool) -> Self {
        Self::T5 { buckets: 32, max_distance: 128, bidirectional }
    }

    /// Rows of the table.
    pub fn rows(&self) -> usize {
        match *self {
            Self::T5 { buckets, .. } => buckets,
            Self::Clipped { max_distance } => max_distance.saturating_mul(2).saturating_add(1),
        }
    }

    /// The distance at and past which all read the same row.
    fn reach(&self) -> usize {
        match *self {
            Self::T5 { max_distance, .. } | Self::Clipped { max_distance } => max_distance,
        }
    }

    /// The row that a distance reads, below [`rows`](Self::rows). The rule must be one that [`RelativeBiasConfig::init`] takes.
    pub fn row(&self, distance: i64) -> usize {
        match *self {
            Self::T5 { buckets, max_distance, bidirectional: true } => {
                let side = buckets / 2;
                let row = t5_row(distance.unsigned_abs(), side, max_distance);
                if distance > 0 { side + row } else { row }
            }
            Self::T5 { buckets, max_distance, bidirectional: false } => {
                t5_row(distance.min(0).unsigned_abs(), buckets, max_distance)
            }
            Self::Clipped { max_distance } => {
                let steps = usize::try_from(distance.unsigned_abs()).unwrap_or(usize::MAX).min(max_distance);
                if distance < 0 { max_distance - steps } else { max_distance + steps }
            }
        }
    }

    fn check(&self) -> Result<(), AttentionError> {
        match *self {
            Self::T5 { buckets, max_distance, bidirectional } => {
                let side = if bidirectional { buckets / 2 } else { buckets };
                if side < 2 || bidirectional && buckets % 2 != 0 {
                    let expected = if bidirectional { "an even number of at least 4" } else { "at least 2" };
                    return Err(AttentionError::value("buckets", expected, buckets));
                }
                match max_distance > side / 2 {
                    true => Ok(()),
                    false => Err(AttentionError::value("max_distance", format!("above {}", side / 2), max_distance)),
                }
            }
            Self::Clipped { max_distance } => positive("max_distance", max_distance).map(|_| ()),
        }
    }
}

/// `f` of [`DistanceRule::T5`] with `n` rows.
fn t5_row(distance: u64, n: usize, max_distance: usize) -> usize {
    let exact = n / 2;
    if distance < exact as u64 {
        return distance as usize;
    }
    let log = (distance as f32 / exact as f32).ln() / ((max_distance as f64 / exact as f64).ln() as f32);
    (exact + (log * (n - exact) as f32) as usize).min(n - 1)
}

/// Sizes of a [`RelativeBias`]; [`init`](Self::init) makes it.
#[derive(Config, Debug)]
pub struct RelativeBiasConfig {
    /// Query heads, H.
    pub heads: usize,
    /// Which row a distance reads.
    pub rule: DistanceRule,
    /// How the table begins.
    #[config(default = "Initializer::Normal{mean:0.0, std:0.02}")]
    pub initializer: Initializer,
}

impl RelativeBiasConfig {
    /// Makes the table on a device.
    ///
    /// # Errors
    /// A value error that names the first number without a meaning.
    pub fn init(&self, device: &Device) -> Result<RelativeBias, AttentionError> {
        let heads = positive("heads", self.heads)?;
        self.rule.check()?;
        features("max_distance", self.rule.rows(), heads)?;
        features("max_distance", self.rule.reach().saturating_mul(2).saturating_add(1), heads)?;
        Ok(RelativeBias { weight: self.initializer.init([self.rule.rows(), heads], device), rule: self.rule })
    }
}

/// A learned bias of the scores by the distance of key and query: T5's buckets (Raffel et al. 2020) or a clipped table (Shaw et
/// al. 2018 in its bias form).
///
/// ```text
/// bias(h, i, j) = weight[row(k_j − p_i), h]        p, k: positions of queries and keys
/// ```
///
/// [`table`](Self::table) is what the kernels take, `H · (2·R + 1)` numbers whatever the lengths, its gradient as many: for keys at
/// `0, 1, …` and queries at the contract's `p`. For positions of another kind [`between`](Self::between) makes the bias of every pair,
/// `H · Sq · Sk` numbers.
///
/// Layers that share one table, as those of T5 do: make it once and give it to each call, by
/// [`AttentionOptions::relative_bias`](super::super::AttentionOptions::relative_bias); an encoder's config has a field for that. T5
/// also leaves scores unscaled, a `scale` of 1.
#[derive(Module, Debug)]
pub struct RelativeBias {
    /// `[rows, H]`.
    pub weight: Param<Tensor<2>>,
    #[module(skip)]
    rule: DistanceRule,
}

impl RelativeBias {
    /// The bias of `query_len` queries, the first at position `offset`, over keys at `0, 1, …`: `[1, H, query_len, key_len]`.
    ///
    /// # Errors
    /// Names `weight` where it has not the rule's rows.
    pub fn forward(&self, query_len: usize, key_len: usize, offset: i64) -> Result<Tensor<4>, AttentionError> {
        self.between(&Positions::From(offset), &Positions::From(0), [1, query_len, key_len])
    }

    /// The bias between any positions, `[batch or 1, H, query_len, key_len]`.
    ///
    /// # Errors
    /// Names `query_positions` or `key_positions` where their shape is not `[batch, length]`, and `weight` as
    /// [`forward`](Self::forward).
    pub fn between(
        &self,
        query: &Positions,
        key: &Positions,
        [batch, query_len, key_len]: [usize; 3],
    ) -> Result<Tensor<4>, AttentionError> {
        query.check("query_positions", batch, query_len)?;
        key.check("key_positions", batch, key_len)?;
        let weight = self.checked()?;
        let [_, heads] = weight.dims();
        let entries = query.rows().max(key.rows());
        if batch * entries * heads * query_len * key_len == 0 {
            let shape = [entries.min(batch), heads, query_len, key_len];
            return Ok(Tensor::zeros(shape, (&weight.device(), weight.dtype())));
        }
        match (query.run(), key.run()) {
            (Some(query), Some(key)) => Ok(self.of_runs(query.saturating_sub(key), query_len, key_len)),
            _ => Ok(self.of_pairs(query, key, [entries, query_len, key_len])),
        }
    }

    /// A number for each distance from `−max_distance` to `max_distance`, at and past which all are the same: `[H, 2·max_distance + 1]`,
    /// for [`Attention::relative_bias`](crate::Attention::relative_bias).
    ///
    /// # Errors
    /// Names `weight` where it has not the rule's rows.
    pub fn table(&self) -> Result<Tensor<2>, AttentionError> {
        self.checked()?;
        let reach = self.rule.reach() as i64;
        let table = match self.rule {
            DistanceRule::T5 { .. } => self.of_distances(-reach..=reach),
            DistanceRule::Clipped { .. } => self.weight.val(),
        };
        Ok(table.swap_dims(0, 1))
    }

    /// The rule by which distances read the table.
    pub fn rule(&self) -> DistanceRule {
        self.rule
    }

    /// The weight, of the rule's rows.
    fn checked(&self) -> Result<Tensor<2>, AttentionError> {
        let weight = self.weight.val();
        let [rows, heads] = weight.dims();
        match rows == self.rule.rows() {
            true => Ok(weight),
            false => Err(AttentionError::shape("weight", format!("[{}, heads]", self.rule.rows()), &[rows, heads])),
        }
    }

    /// The same table for the heads that are kept.
    pub(in crate::nn) fn with_heads(&self, keep: impl FnOnce(&Param<Tensor<2>>) -> Param<Tensor<2>>) -> Self {
        Self { weight: keep(&self.weight), rule: self.rule }
    }

    /// Runs of positions: along a diagonal all is the same.
    fn of_runs(&self, offset: i64, query_len: usize, key_len: usize) -> Tensor<4> {
        let count = query_len + key_len - 1;
        // Number c is the distance of key j and query i with j − i = c − (query_len − 1).
        let first = (query_len as i64 - 1).saturating_add(offset);
        let distances = self.of_distances((0..count as i64).map(|c| c.saturating_sub(first)));
        let heads = distances.dims()[1];
        let distances: Tensor<2> = distances.swap_dims(0, 1);
        if query_len == 1 {
            return distances.reshape([1, heads, 1, key_len]);
        }
        // Copies of the row one after another, cut from `query_len − 1` on into rows shorter by one: each begins one distance earlier.
        let copies = distances.reshape([heads, 1, count]).expand::<3, _>([heads, query_len, count]);
        let skewed = copies.reshape([heads, query_len * count]).narrow(1, query_len - 1, query_len * (count - 1));
        skewed.reshape([1, heads, query_len, count - 1]).narrow(3, 0, key_len)
    }

    /// Any positions: an index of every pair.
    fn of_pairs(&self, query: &Positions, key: &Positions, [entries, query_len, key_len]: [usize; 3]) -> Tensor<4> {
        let at = |positions: &Positions, entry: usize, token| positions.at(entry.min(positions.rows() - 1), token);
        let pairs = (0..entries).flat_map(|entry| {
            (0..query_len).flat_map(move |i| {
                let p = at(query, entry, i);
                (0..key_len).map(move |j| at(key, entry, j).saturating_sub(p))
            })
        });
        let biases = self.of_distances(pairs);
        let heads = biases.dims()[1];
        biases.reshape([entries, query_len, key_len, heads]).permute([0, 3, 1, 2])
    }

    /// `[distances, H]`.
    fn of_distances(&self, distances: impl Iterator<Item = i64>) -> Tensor<2> {
        let weight = self.weight.val();
        let rows: Vec<i64> = distances.map(|distance| self.rule.row(distance) as i64).collect();
        let rows = Tensor::<1, Int>::from_data(rows.as_slice(), &weight.device().without_autodiff());
        weight.select(0, rows)
    }
}
