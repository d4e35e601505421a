//! Scores in memory, with the sinks as one more key, for layers whose weights no kernel makes.

use attn_core::AttentionError;
use burn::tensor::{FloatDType, Int, Tensor};

use super::normalise::{Normaliser, greatest, hidden, wide};
use super::options::AttentionOptions;
use crate::attention::{check_devices, info};
use crate::{Attention, Selection, apply_weights};

/// Scores of all rows, `[B, H, Sq, Sk]`, or `[B, H, Sq, Sk + 1]` where sinks are given: a head's sink is its last key.
pub(super) struct Logits {
    /// In the accumulation type, `−inf` where hidden.
    pub values: Tensor<4>,
    /// Sk.
    pub keys: usize,
}

impl Logits {
    /// The scores of an attention, and sinks `[H]` that were checked with it.
    pub fn new(attention: Attention, sinks: Option<&Tensor<1>>) -> Result<Self, AttentionError> {
        let scores = attention.scores(Selection::all())?;
        let [batch, heads, rows, keys] = scores.dims();
        let values = match sinks {
            Some(sinks) if batch * heads * rows == 0 => {
                Tensor::zeros([batch, heads, rows, keys + 1], (&sinks.device(), scores.dtype()))
            }
            Some(sinks) => {
                let sinks = wide(sinks.clone()).reshape([1, heads, 1, 1]).expand::<4, _>([batch, heads, rows, 1]);
                if keys == 0 { sinks } else { Tensor::cat(vec![scores, sinks], 3) }
            }
            None => scores,
        };
        Ok(Self { values, keys })
    }

    /// The scaled dot products of a layer without projections, checked first.
    pub fn checked(
        query: Tensor<4>,
        key: Tensor<4>,
        value: Tensor<4>,
        options: &AttentionOptions,
    ) -> Result<Self, AttentionError> {
        checked(&query, &key, &value, options)?;
        let (_, _, sinks) = options.given();
        Self::new(options.attention(query, key, value), sinks)
    }

    /// Whether a sink is the last key.
    pub fn has_sinks(&self) -> bool {
        self.values.dims()[3] > self.keys
    }

    /// Whether there is a score at all.
    pub fn is_empty(&self) -> bool {
        self.values.shape().num_elements() == 0
    }

    /// Weights of the keys, `[B, H, Sq, Sk]`; the sink's are left out.
    pub fn weights(&self, normaliser: Normaliser) -> Tensor<4> {
        self.without_sinks(normaliser.weights(self.values.clone()))
    }

    /// The columns of the keys.
    pub fn without_sinks(&self, columns: Tensor<4>) -> Tensor<4> {
        match self.has_sinks() {
            true if self.keys == 0 => {
                let [batch, heads, rows, _] = columns.dims();
                Tensor::zeros([batch, heads, rows, 0], (&columns.device(), columns.dtype()))
            }
            true => columns.narrow(3, 0, self.keys),
            false => columns,
        }
    }

    /// `ln Σ exp(s)` of each row, sink included, `[B, H, Sq, 1]`; `−inf` where it sees nothing.
    pub fn lse(&self) -> Tensor<4> {
        let [batch, heads, rows, columns] = self.values.dims();
        if batch * heads * rows * columns == 0 {
            let options = (&self.values.device(), self.values.dtype());
            return Tensor::full([batch, heads, rows, 1], f64::NEG_INFINITY, options);
        }
        let max = greatest(&self.values);
        let sum = (self.values.clone() - max.clone()).exp().mask_fill(hidden(&self.values), 0.0).sum_dim(3);
        let nothing = sum.clone().inner().equal_elem(0.0);
        let lse = sum.mask_fill(nothing.clone(), 1.0).log() + max;
        lse.mask_fill(nothing, f64::NEG_INFINITY)
    }

    /// [`lse`](Self::lse) as `[B, H, Sq]`.
    pub fn row_lse(&self) -> Tensor<3> {
        let [batch, heads, rows, _] = self.values.dims();
        self.lse().reshape([batch, heads, rows])
    }

    /// Columns as keys: −1 for the sink.
    pub fn keys_of(&self, columns: Tensor<4, Int>) -> Tensor<4, Int> {
        if !self.has_sinks() || columns.shape().num_elements() == 0 {
            return columns;
        }
        let sink = columns.clone().equal_elem(self.keys as i64);
        columns.mask_fill(sink, -1)
    }

    /// An output `[B, H, Sq, E]` of chosen values, NaN in rows whose scores are: a choice among those means nothing.
    pub fn with_poison(&self, out: Tensor<4>) -> Tensor<4> {
        let shape = out.dims();
        if out.shape().num_elements() == 0 {
            return out;
        }
        out.mask_fill(self.lse().inner().is_nan().expand::<4, _>(shape), f64::NAN)
    }
}

/// Checks a call of a layer without projections.
///
/// # Errors
/// Names the input or option at fault.
pub(super) fn checked(
    query: &Tensor<4>,
    key: &Tensor<4>,
    value: &Tensor<4>,
    options: &AttentionOptions,
) -> Result<(), AttentionError> {
    check_devices(&query.device(), &[("key", Some(key.device())), ("value", Some(value.device()))])?;
    options.check(&query.device(), info(query), info(key), info(value))
}

/// `weights · value` in the weights' type, given back in the value's: `[B, H, Sq, E]`. What is empty gives 0.
pub(super) fn applied(weights: Tensor<4>, value: Tensor<4>) -> Result<Tensor<4>, AttentionError> {
    let ([batch, heads, rows, keys], [.., value_dim]) = (weights.dims(), value.dims());
    let narrow = value.dtype();
    if batch * heads * rows * keys * value_dim == 0 {
        return Ok(Tensor::zeros([batch, heads, rows, value_dim], (&value.device(), narrow)));
    }
    let out = apply_weights(weights, wide(value))?;
    Ok(if out.dtype() == narrow { out } else { out.cast(FloatDType::from(narrow)) })
}
