//! How a decoder's state is compared with a memory, and what it takes from it.

use attn_core::{AttentionError, Mask};
use burn::config::Config;
use burn::module::{Initializer, Module};
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Bool, Device, Tensor};

use super::memory::{Memory, cleaned};
use crate::functions::additive_scores;
use crate::nn::check::{self, reshaped, reshaped_mask};
use crate::nn::decoder::cache::{picked, picked_bool};
use crate::nn::normalise::{narrowed, wide};
use crate::nn::options::seen;
use crate::{Attention, Selection};

/// The score of a query q, a decoder's state, and a key k of the memory.
#[derive(Config, Debug, Copy, PartialEq, Eq)]
pub enum AlignmentScore {
    /// `q·k` (Luong et al. 2015); as many features in both.
    Dot,
    /// `q·k / √d_memory` (Vaswani et al. 2017); as many features in both.
    ScaledDot,
    /// `q·W·k` (Luong et al. 2015, "general").
    General,
    /// `v·tanh(W_q q + b + W_k k)` (Bahdanau et al. 2015).
    Additive,
}

/// One head of attention from states to a memory.
///
/// Dot products, scaled or not, and the general score run on the kernels in memory linear in the lengths. The additive
/// score has a function between the sum and the product, so its `[batch, queries, memory_len]` are made, a run of queries at a
/// time; its softmax and sum are the kernel's, to which the scores go as a bias.
#[derive(Module, Debug)]
pub struct AlignmentAttention {
    /// W `[d_query, d_key]` of the general score; `W_q [d_query, d_score]`, b of the additive one.
    pub query: Option<Linear>,
    /// `W_k [d_key, d_score]` of the additive score.
    pub key: Option<Linear>,
    /// v `[d_score, 1]` of the additive score.
    pub vector: Option<Linear>,
    #[module(skip)]
    score: AlignmentScore,
}

/// A memory made ready for many calls.
#[derive(Debug, Clone)]
pub(super) struct Prepared {
    /// What the kernel compares, `[batch, 1, length, features]`.
    key: Tensor<4>,
    value: Tensor<4>,
    /// `W_k k` of the additive score, `[batch, length, d_score]`.
    features: Option<Tensor<3>>,
    padding: Option<Tensor<2, Bool>>,
}

impl Prepared {
    pub(super) fn batch(&self) -> usize {
        self.value.dims()[0]
    }

    pub(super) fn length(&self) -> usize {
        self.value.dims()[2]
    }

    pub(super) fn d_value(&self) -> usize {
        self.value.dims()[3]
    }

    /// Rows of the batch, any number of times.
    pub(super) fn picked(self, rows: &[usize]) -> Self {
        Self {
            key: picked(self.key, rows),
            value: picked(self.value, rows),
            features: self.features.map(|features| picked(features, rows)),
            padding: self.padding.map(|padding| picked_bool(padding, rows)),
        }
    }
}

impl AlignmentAttention {
    /// # Errors
    /// Names `d_memory` where a dot product has other features than the query. Sizes must be at least 1.
    pub(super) fn new(
        score: AlignmentScore,
        [d_query, d_key, d_score]: [usize; 3],
        initializer: &Initializer,
        device: &Device,
    ) -> Result<Self, AttentionError> {
        let linear = |d_input, d_output, bias| {
            let config = LinearConfig::new(d_input, d_output).with_bias(bias);
            Some(config.with_initializer(initializer.clone()).init(device))
        };
        let (query, key, vector) = match score {
            AlignmentScore::Dot | AlignmentScore::ScaledDot if d_query != d_key => {
                return Err(AttentionError::value(
                    "d_memory",
                    format!("d_hidden = {d_query}, for a dot product"),
                    d_key,
                ));
            }
            AlignmentScore::Dot | AlignmentScore::ScaledDot => (None, None, None),
            AlignmentScore::General => (linear(d_query, d_key, false), None, None),
            AlignmentScore::Additive => {
                (linear(d_query, d_score, true), linear(d_key, d_score, false), linear(d_score, 1, false))
            }
        };
        Ok(Self { query, key, vector, score })
    }

    /// The memory's part of the scores. The memory must have been checked.
    pub(super) fn prepare(&self, memory: &Memory) -> Prepared {
        let heads = |tensor: Tensor<3>| {
            let [batch, length, features] = tensor.dims();
            reshaped(tensor, [batch, 1, length, features])
        };
        let [batch, length, _] = memory.key.dims();
        let (key, features) = match &self.key {
            // The kernel shall compare nothing: the scores come as its bias.
            Some(linear) => {
                let nothing = Tensor::zeros([batch, 1, length, 1], (&memory.key.device(), memory.key.dtype()));
                (nothing, Some(applied(linear, cleaned(memory.key.clone(), memory.padding.as_ref()))))
            }
            None => (heads(memory.key.clone()), None),
        };
        Prepared { key, value: heads(memory.value.clone()), features, padding: memory.padding.clone().map(seen) }
    }

    /// What queries `[batch, queries, d_query]` take from the memory, `[batch, queries, d_value]`, and the weights
    /// `[batch, queries, length]` where wanted.
    ///
    /// # Errors
    /// Only where a kernel fails: what it is given must have been checked.
    pub(super) fn attend(
        &self,
        query: Tensor<3>,
        memory: &Prepared,
        weights: bool,
    ) -> Result<(Tensor<3>, Option<Tensor<3>>), AttentionError> {
        let ([batch, queries, _], length) = (query.dims(), memory.length());
        let query = match &self.query {
            Some(linear) => applied(linear, query),
            None => query,
        };
        let (query, bias) = match (&memory.features, &self.vector) {
            (Some(features), Some(vector)) => {
                let nothing = Tensor::zeros([batch, queries, 1], (&query.device(), query.dtype()));
                (nothing, Some(additive(query, features.clone(), vector)?))
            }
            _ => (query, None),
        };
        let [_, _, features] = query.dims();
        let query = reshaped(query, [batch, 1, queries, features]);
        let mut attention = Attention::new(query, memory.key.clone(), memory.value.clone());
        if self.score != AlignmentScore::ScaledDot {
            attention = attention.scale(1.0);
        }
        if let Some(bias) = bias {
            attention = attention.bias(bias);
        }
        if let Some(padding) = memory.padding.clone() {
            attention = attention.mask(Mask::keep(reshaped_mask(padding, [batch, 1, 1, length])));
        }
        if weights {
            attention = attention.with_weights(Selection::all());
        }
        let output = attention.forward()?;
        let weights = output.weights.map(|weights| reshaped(weights, [batch, queries, length]));
        Ok((reshaped(output.out, [batch, queries, memory.d_value()]), weights))
    }

    /// The weights against each other and against the features of query and key.
    pub(super) fn check(&self, d_query: usize, d_key: usize) -> Result<(), AttentionError> {
        let mut d_score = None;
        if let Some(query) = &self.query {
            let d_output = self.key.is_none().then_some(d_key);
            d_score = Some(check::linear("score.query.weight", query, Some(d_query), d_output)?[1]);
        }
        if let Some(key) = &self.key {
            check::linear("score.key.weight", key, Some(d_key), d_score)?;
        }
        if let Some(vector) = &self.vector {
            check::linear("score.vector.weight", vector, d_score, Some(1))?;
        }
        Ok(())
    }
}

/// `v·tanh(q + k)` of projected queries `[batch, queries, d_score]` and keys `[batch, length, d_score]`, summed up in the accumulation
/// type: `[batch, 1, queries, length]`.
fn additive(query: Tensor<3>, key: Tensor<3>, vector: &Linear) -> Result<Tensor<4>, AttentionError> {
    let ([batch, queries, size], [_, length, _]) = (query.dims(), key.dims());
    let dtype = query.dtype();
    if batch * queries * length == 0 {
        return Ok(Tensor::zeros([batch, 1, queries, length], (&query.device(), dtype)));
    }
    let [query, key] = [(query, queries), (key, length)].map(|(x, length)| wide(x.reshape([batch, 1, length, size])));
    Ok(narrowed(additive_scores(query, key, wide(vector.weight.val()).swap_dims(0, 1))?, dtype))
}

/// `input·W + b`; an input without elements is not multiplied.
pub(super) fn applied<const D: usize>(linear: &Linear, input: Tensor<D>) -> Tensor<D> {
    let mut dims = input.dims();
    if dims.contains(&0) {
        dims[D - 1] = linear.weight.val().dims()[1];
        return Tensor::zeros(dims, (&input.device(), input.dtype()));
    }
    linear.forward(input)
}
