//! Multi-head attention: projections in, attention over heads, projection out.

mod config;
mod importance;
mod norm;
mod projected;
mod prune;

use attn_core::{AttentionError, Plan, TensorInfo};
use burn::module::{Content, DisplaySettings, Module, ModuleDisplay, Param};
use burn::nn::{Dropout, Linear};
use burn::tensor::{Device, Int, Tensor, TensorData};

pub use config::MultiHeadAttentionConfig;
pub use importance::HeadImportance;
pub use norm::{HeadNorm, QkNormConfig, QkNormKind};

use super::check;
use super::options::{AttentionOptions, Own};
use super::position::{Positions, RelativeBias, Rotary};
use crate::{AttentionOutput, Selection};

/// Multi-head attention (Vaswani et al. 2017), self or cross, with any number of key/value heads.
///
/// ```text
/// Q = query·W_q + b_q   [B, Sq, H·D]        K = key·W_k + b_k   [B, Sk, G·D]        V = value·W_v + b_v   [B, Sk, G·E]
/// A = attention of the heads of Q over those of K and V, as the options say          [B, H, Sq, E]
/// out = concat(A)·W_o + b_o                                                          [B, Sq, d_out]
/// ```
///
/// A projection is viewed as heads, `[B, S, H·D]` as `[B, H, S, D]`, and never copied; keys and values are not repeated for
/// groups of heads.
///
/// What a config may add, in the order in which it acts:
///
/// | | on | memory beside plain attention |
/// | --- | --- | --- |
/// | one projection for keys and values | K, V | less |
/// | norm of queries and keys ([`QkNormKind`]) | Q, K, a head at a time | a copy of Q and K |
/// | rotary positions ([`Rotary`]) | Q, K | a copy of Q and K |
/// | scale, ALiBi, sinks | scores, in the kernel | none |
/// | relative bias ([`RelativeBias`]) | scores, in the kernel | its table |
/// | the same, where a call gives positions or a table of its own | scores, as a bias of every pair | `H · Sq · Sk` |
///
/// **Positions.** Keys stand at `0, 1, …` and query i at the `p = i + offset` of the contract, which the spec's alignment gives, for
/// rotary positions and relative biases as for causal, window and ALiBi; [`AttentionOptions::positions`] says otherwise.
///
/// **Dropout on weights** acts while training (on an autodiff device, if the probability is above 0 and the layer not frozen), in the
/// kernel: memory stays linear in the lengths. Each call takes the next of the seeds that [`seed`](crate::seed) sets.
#[derive(Module, Debug)]
#[module(custom_display)]
pub struct MultiHeadAttention {
    /// `W_q [d_query, H·D]`, `b_q`.
    pub query: Linear,
    /// `W_k [d_key, G·D]`, `b_k`.
    pub key: Linear,
    /// `W_v [d_value, G·E]`, `b_v`; `None`: values are projected as keys.
    pub value: Option<Linear>,
    /// `W_o [H·E, d_out]`, `b_o`.
    pub output: Linear,
    /// Of each query head.
    pub query_norm: Option<HeadNorm>,
    /// Of each key head.
    pub key_norm: Option<HeadNorm>,
    /// Of queries and keys.
    pub rotary: Option<Rotary>,
    /// Of the scores.
    pub relative_bias: Option<RelativeBias>,
    /// One logit a query head, `[H]`.
    pub sinks: Option<Param<Tensor<1>>>,
    /// Of the weights.
    pub dropout: Dropout,
    alibi: Option<Vec<f64>>,
    scale: Option<f64>,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    value_dim: usize,
}

/// Heads ready for attention, and the options with what the layer adds to them.
struct Projected {
    query: Tensor<4>,
    key: Tensor<4>,
    value: Tensor<4>,
    options: AttentionOptions,
}

/// What a [`MultiHeadAttention`] gives.
#[derive(Debug, Clone)]
pub struct MultiHeadAttentionOutput {
    /// `[B, Sq, d_out]`.
    pub out: Tensor<3>,
    /// `[B, H, Sq]`, the natural-log LSE of the scores; there if it was asked for.
    pub lse: Option<Tensor<3>>,
    /// `[B, selected heads, selected rows, Sk]`, before any dropout; there if they were asked for.
    pub weights: Option<Tensor<4>>,
}

impl MultiHeadAttention {
    /// Attends from `query` `[B, Sq, d_query]` to `key` `[B, Sk, d_key]` and `value` `[B, Sk, d_value]`.
    ///
    /// # Errors
    /// An [`AttentionError`] that names the input or option at fault, before any work starts.
    pub fn forward(
        &self,
        query: Tensor<3>,
        key: Tensor<3>,
        value: Tensor<3>,
        options: &AttentionOptions,
    ) -> Result<MultiHeadAttentionOutput, AttentionError> {
        self.attend(self.project(query, key, Some(value), options)?)
    }

    /// Attends from every position of `hidden` `[B, S, d_query]` to every other: query, key and value are the same.
    ///
    /// # Errors
    /// As [`forward`](Self::forward). In a layer with positions (rotary, relative bias, ALiBi) also where `kv_lens` are shorter than
    /// S and the alignment is bottom-right: a query would then stand elsewhere than the key of the same token. With
    /// [`Alignment::TopLeft`](crate::Alignment::TopLeft) they stand together.
    pub fn self_attention(
        &self,
        hidden: Tensor<3>,
        options: &AttentionOptions,
    ) -> Result<MultiHeadAttentionOutput, AttentionError> {
        self.attend(self.project_self(hidden, options)?)
    }

    /// Attends from `query` `[B, Sq, d_query]` to `context` `[B, Sk, d_key]`, of which both keys and values are made.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn cross_attention(
        &self,
        query: Tensor<3>,
        context: Tensor<3>,
        options: &AttentionOptions,
    ) -> Result<MultiHeadAttentionOutput, AttentionError> {
        self.attend(self.project(query, context, None, options)?)
    }

    /// Tells which kernels will serve a call and at what cost. The input projections run; the attention does not.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn plan(
        &self,
        query: Tensor<3>,
        key: Tensor<3>,
        value: Tensor<3>,
        options: &AttentionOptions,
    ) -> Result<Plan, AttentionError> {
        self.plan_of(self.project(query, key, Some(value), options)?)
    }

    /// Query heads, H.
    pub fn heads(&self) -> usize {
        self.heads
    }

    /// Key/value heads, G.
    pub fn kv_heads(&self) -> usize {
        self.kv_heads
    }

    /// The layer's ALiBi slopes, one a query head.
    pub fn alibi_slopes(&self) -> Option<&[f64]> {
        self.alibi.as_deref()
    }

    /// Tells which kernels will serve a self-attention, as [`plan`](Self::plan).
    ///
    /// # Errors
    /// As [`self_attention`](Self::self_attention).
    pub fn plan_self_attention(&self, hidden: Tensor<3>, options: &AttentionOptions) -> Result<Plan, AttentionError> {
        self.plan_of(self.project_self(hidden, options)?)
    }

    fn project_self(&self, hidden: Tensor<3>, options: &AttentionOptions) -> Result<Projected, AttentionError> {
        if self.rotary.is_some() || self.relative_bias.is_some() || self.alibi.is_some() {
            check_together(&hidden, options)?;
        }
        self.project(hidden.clone(), hidden, None, options)
    }

    /// Checks everything, then projects: `[B, H, Sq, D]`, `[B, G, Sk, D]`, `[B, G, Sk, E]`. Without `value` it is the key's input.
    fn project(
        &self,
        query: Tensor<3>,
        key: Tensor<3>,
        value: Option<Tensor<3>>,
        options: &AttentionOptions,
    ) -> Result<Projected, AttentionError> {
        self.check_parameters()?;
        let [batch, query_len] = self.check_query(&query)?;
        let key_len = self.check_key_value(&key, value.as_ref().unwrap_or(&key), batch)?;
        self.check_options(options, [batch, query_len, key_len])?;
        let [of_query, of_key] = options.positions_of(query_len, key_len);
        let options = self.with_own(options, [&of_query, &of_key], [batch, query_len, key_len])?;
        let grown = of_query.end(query_len).max(of_key.end(key_len));
        let query = self.rotated(self.query_heads(query), &of_query, grown)?;
        let (key, value) = self.key_value_heads(key, value);
        Ok(Projected { query, key: self.rotated(key, &of_key, grown)?, value, options })
    }

    /// `[B, H, Sq, D]`, normalised, not rotated.
    fn query_heads(&self, query: Tensor<3>) -> Tensor<4> {
        let heads = self.heads_of(project(&self.query, query), self.head_dim);
        self.query_norm.iter().fold(heads, |heads, norm| norm.forward(heads))
    }

    /// `[B, G, Sk, D]`, normalised, not rotated, and `[B, G, Sk, E]`. Without `value` it is the key's input.
    fn key_value_heads(&self, key: Tensor<3>, value: Option<Tensor<3>>) -> (Tensor<4>, Tensor<4>) {
        let projected = project(&self.key, key.clone());
        let value = match (&self.value, value) {
            (Some(linear), value) => project(linear, value.unwrap_or(key)),
            (None, Some(value)) => project(&self.key, value),
            (None, None) => projected.clone(),
        };
        let heads = self.heads_of(projected, self.head_dim);
        let heads = self.key_norm.iter().fold(heads, |heads, norm| norm.forward(heads));
        (heads, self.heads_of(value, self.value_dim))
    }

    /// `[B, S, heads·dim]` viewed as `[B, heads, S, dim]`.
    fn heads_of(&self, tensor: Tensor<3>, dim: usize) -> Tensor<4> {
        let [batch, length, features] = tensor.dims();
        tensor.reshape([batch, length, features / dim, dim]).swap_dims(1, 2)
    }

    /// Heads turned by their positions in a sequence of `grown` tokens, if the layer has rotary positions.
    fn rotated(&self, heads: Tensor<4>, positions: &Positions, grown: usize) -> Result<Tensor<4>, AttentionError> {
        match &self.rotary {
            Some(rotary) => rotary.within(heads, positions, grown),
            None => Ok(heads),
        }
    }

    /// The options with the layer's scale, slopes, sinks and bias. They must have been checked.
    fn with_own(
        &self,
        options: &AttentionOptions,
        [of_query, of_key]: [&Positions; 2],
        [batch, query_len, key_len]: [usize; 3],
    ) -> Result<AttentionOptions, AttentionError> {
        let weight = self.query.weight.val();
        let (device, dtype) = (weight.device().without_autodiff(), weight.dtype());
        let slopes = |slopes: &Vec<f64>| {
            let data = TensorData::new(slopes.clone(), [slopes.len()]).convert_dtype(dtype);
            Tensor::from_data(data, (&device, dtype))
        };
        let own = Own {
            scale: self.scale,
            alibi_slopes: self.alibi.as_ref().map(slopes),
            sinks: self.sinks.as_ref().map(Param::val),
            ..Own::default()
        };
        // Where there are no scores there is nothing to add to.
        let bias = self.relative_bias.as_ref().filter(|_| batch * query_len * key_len > 0);
        Ok(options.clone().with_own(match bias {
            Some(bias) if options.takes_table() => Own { relative_bias: Some(bias.table()?), ..own },
            Some(bias) => Own { bias: Some(bias.between(of_query, of_key, [batch, query_len, key_len])?), ..own },
            None => own,
        }))
    }

    /// The options with the layer's dropout, where it trains on that device.
    fn dropping(
        &self,
        device: &Device,
        options: AttentionOptions,
        seed: impl FnOnce() -> u64,
    ) -> Result<AttentionOptions, AttentionError> {
        match self.dropout.training.is_enabled() && device.is_autodiff() && self.dropout.prob > 0.0 {
            true => options.dropping(crate::Dropout::new(self.dropout.prob, seed())),
            false => Ok(options),
        }
    }

    fn plan_of(&self, projected: Projected) -> Result<Plan, AttentionError> {
        let Projected { query, key, value, options } = projected;
        // Any seed will do: the next one is left to the call itself.
        self.dropping(&query.device(), options, || 0)?.attention(query, key, value).plan()
    }

    /// Attention over projected heads, then the output projection.
    fn attend(&self, projected: Projected) -> Result<MultiHeadAttentionOutput, AttentionError> {
        let Projected { query, key, value, options } = projected;
        let options = self.dropping(&query.device(), options, crate::seeds::next)?;
        let mut attention = options.attention(query, key, value);
        if options.wants_lse() {
            attention = attention.with_lse();
        }
        if let Some(selection) = options.selection() {
            attention = attention.with_weights(selection.clone());
        }
        let AttentionOutput { out, lse, weights } = attention.forward()?;
        let [batch, heads, query_len, value_dim] = out.dims();
        let out = match options.own_head_mask() {
            Some(mask) if batch * query_len > 0 => out * mask.clone().reshape([1, heads, 1, 1]),
            _ => out,
        };
        let joined = out.swap_dims(1, 2).reshape([batch, query_len, heads * value_dim]);
        Ok(MultiHeadAttentionOutput { out: project(&self.output, joined), lse, weights })
    }

    /// The parameters against each other, whatever was loaded or set into them.
    pub(super) fn check_parameters(&self) -> Result<(), AttentionError> {
        let (h, g, d, e) = (self.heads, self.kv_heads, self.head_dim, self.value_dim);
        let weight = self.query.weight.val();
        check::linear("query.weight", &self.query, None, Some(h * d))?;
        check::linear("key.weight", &self.key, None, Some(g * d))?;
        if let Some(value) = &self.value {
            check::linear("value.weight", value, None, Some(g * e))?;
        }
        check::linear("output.weight", &self.output, Some(h * e), None)?;
        for (norm, arguments) in [
            (&self.query_norm, ["query_norm.gamma", "query_norm.beta"]),
            (&self.key_norm, ["key_norm.gamma", "key_norm.beta"]),
        ] {
            norm.iter().try_for_each(|norm| norm.check(arguments, d, &weight))?;
        }
        if let Some(bias) = &self.relative_bias {
            check::parameter("relative_bias.weight", &bias.weight, [bias.rule().rows(), h], &weight)?;
        }
        self.sinks.iter().try_for_each(|sinks| check::parameter("sinks", sinks, [h], &weight))
    }

    /// Gives batch and length.
    fn check_query(&self, query: &Tensor<3>) -> Result<[usize; 2], AttentionError> {
        let weight = self.query.weight.val();
        check::sequence("query", query, weight.dims()[0], &weight)
    }

    /// Gives the length.
    fn check_key_value(&self, key: &Tensor<3>, value: &Tensor<3>, batch: usize) -> Result<usize, AttentionError> {
        let weight = self.query.weight.val();
        let rows = |linear: &Linear| linear.weight.val().dims()[0];
        let [_, key_len] = check::sequence("key", key, rows(&self.key), &weight)?;
        check::sequence("value", value, rows(self.value.as_ref().unwrap_or(&self.key)), &weight)?;
        for (argument, tensor) in [("key", key), ("value", value)] {
            let [found_batch, found_len, features] = tensor.dims();
            if [found_batch, found_len] != [batch, key_len] {
                let expected = format!("[{batch}, {key_len}, {features}] (batch, key_len, features)");
                return Err(AttentionError::shape(argument, expected, &tensor.dims()));
            }
        }
        Ok(key_len)
    }

    pub(super) fn check_options(
        &self,
        options: &AttentionOptions,
        [batch, query_len, key_len]: [usize; 3],
    ) -> Result<(), AttentionError> {
        let (h, g, d, e) = (self.heads, self.kv_heads, self.head_dim, self.value_dim);
        let dtype = self.query.weight.val().dtype();
        let info = |shape: [usize; 4]| TensorInfo { shape: shape.into(), dtype };
        let (of_query, of_key) = (info([batch, h, query_len, d]), info([batch, g, key_len, d]));
        options.check(&check::device(&self.query), of_query, of_key, info([batch, g, key_len, e]))?;
        options.check_own(self.alibi.is_some(), self.sinks.is_some())
    }

    /// The options of a self-attention over `hidden` with a bias that several layers share.
    pub(super) fn biased(
        &self,
        hidden: &Tensor<3>,
        bias: &RelativeBias,
        options: &AttentionOptions,
    ) -> Result<AttentionOptions, AttentionError> {
        let weight = self.query.weight.val();
        let [batch, length] = self.check_query(hidden)?;
        check::parameter("relative_bias.weight", &bias.weight, [bias.rule().rows(), self.heads], &weight)?;
        self.check_options(options, [batch, length, length])?;
        check_together(hidden, options)?;
        if batch * length == 0 {
            return Ok(options.clone());
        }
        if options.takes_table() {
            return Ok(options.clone().with_own(Own { relative_bias: Some(bias.table()?), ..Own::default() }));
        }
        let [of_query, of_key] = options.positions_of(length, length);
        let bias = bias.between(&of_query, &of_key, [batch, length, length])?;
        Ok(options.clone().with_own(Own { bias: Some(bias), ..Own::default() }))
    }
}

/// In self-attention of a layer with positions a query stands where the key of the same token does.
fn check_together(hidden: &Tensor<3>, options: &AttentionOptions) -> Result<(), AttentionError> {
    match !options.gives_positions() && options.shifts_queries(hidden.dims()[1]) {
        true => Err(AttentionError::value("spec", "top-left alignment, so that kv_lens move no query", "bottom-right")),
        false => Ok(()),
    }
}

/// The heads and rows of a selection, out of all.
pub(super) fn selected(weights: Tensor<4>, selection: &Selection) -> Tensor<4> {
    let pick = |weights: Tensor<4>, axis, indices: &Option<Vec<usize>>| match indices {
        Some(indices) => {
            let indices: Vec<i64> = indices.iter().map(|&index| index as i64).collect();
            let device = weights.device();
            weights.select(axis, Tensor::<1, Int>::from_data(indices.as_slice(), &device))
        }
        None => weights,
    };
    pick(pick(weights, 1, &selection.heads), 2, &selection.rows)
}

/// `input·W + b`. Nothing is computed for an input without elements, which not every backend can multiply.
fn project(linear: &Linear, input: Tensor<3>) -> Tensor<3> {
    let [batch, length, features] = input.dims();
    if batch * length * features == 0 {
        let [_, d_out] = linear.weight.val().dims();
        return Tensor::zeros([batch, length, d_out], (&input.device(), input.dtype()));
    }
    linear.forward(input)
}

impl ModuleDisplay for MultiHeadAttention {
    fn custom_settings(&self) -> Option<DisplaySettings> {
        DisplaySettings::new().with_new_line_after_attribute(false).optional()
    }

    fn custom_content(&self, content: Content) -> Option<Content> {
        content
            .add("heads", &self.heads)
            .add("kv_heads", &self.kv_heads)
            .add("head_dim", &self.head_dim)
            .add("value_dim", &self.value_dim)
            .add("dropout", &self.dropout.prob)
            .optional()
    }
}
