//! Multi-head attention: projections in, attention over heads, projection out.

use attn_core::{AttentionError, Plan, TensorInfo};
use burn::config::Config;
use burn::module::{Content, DisplaySettings, Initializer, Module, ModuleDisplay};
use burn::nn::{Dropout, DropoutConfig, Linear, LinearConfig};
use burn::tensor::{DType, Device, FloatDType, Int, Tensor};

use super::check::{self, positive};
use super::options::AttentionOptions;
use crate::{Selection, apply_weights};

mod projected;

/// Sizes of a [`MultiHeadAttention`]; [`init`](Self::init) makes the layer.
///
/// `MultiHeadAttentionConfig::new(d_query, heads)` is the layer of Vaswani et al. 2017, everything else its default.
#[derive(Config, Debug)]
pub struct MultiHeadAttentionConfig {
    /// Features of the query input.
    pub d_query: usize,
    /// Query heads, H.
    pub heads: usize,
    /// Features of the key input; `None`: as the query's.
    pub d_key: Option<usize>,
    /// Features of the value input; `None`: as the key's.
    pub d_value: Option<usize>,
    /// Features of the output; `None`: as the query's.
    pub d_out: Option<usize>,
    /// Key/value heads, G, a divisor of H; `None`: H. Fewer is grouped-query attention (Ainslie et al. 2023), one is multi-query
    /// attention (Shazeer 2019).
    pub kv_heads: Option<usize>,
    /// Features of one query or key head, D; `None`: `d_query / heads`.
    pub head_dim: Option<usize>,
    /// Features of one value head, E; `None`: as `head_dim`.
    pub value_dim: Option<usize>,
    /// Whether the query projection has a bias.
    #[config(default = true)]
    pub query_bias: bool,
    /// Whether the key projection has a bias.
    #[config(default = true)]
    pub key_bias: bool,
    /// Whether the value projection has a bias.
    #[config(default = true)]
    pub value_bias: bool,
    /// Whether the output projection has a bias.
    #[config(default = true)]
    pub output_bias: bool,
    /// Probability with which a weight is dropped while training; see [`MultiHeadAttention`] for what it costs.
    #[config(default = 0.0)]
    pub dropout: f64,
    /// How the projections begin.
    #[config(default = "Initializer::KaimingUniform{gain:1.0/f64::sqrt(3.0), fan_out_only:false}")]
    pub initializer: Initializer,
}

impl MultiHeadAttentionConfig {
    /// Makes the layer on a device.
    ///
    /// # Errors
    /// A value error that names the first size without a meaning: one that is 0, `heads` that do not divide `d_query` (where
    /// `head_dim` is not given), `kv_heads` that do not divide `heads`, `dropout` outside `[0, 1)`.
    pub fn init(&self, device: &Device) -> Result<MultiHeadAttention, AttentionError> {
        let d_query = positive("d_query", self.d_query)?;
        let heads = positive("heads", self.heads)?;
        let d_key = positive("d_key", self.d_key.unwrap_or(d_query))?;
        let d_value = positive("d_value", self.d_value.unwrap_or(d_key))?;
        let d_out = positive("d_out", self.d_out.unwrap_or(d_query))?;
        let kv_heads = positive("kv_heads", self.kv_heads.unwrap_or(heads))?;
        if heads % kv_heads != 0 {
            return Err(AttentionError::value("kv_heads", format!("a divisor of the {heads} heads"), kv_heads));
        }
        let head_dim = match self.head_dim {
            Some(head_dim) => positive("head_dim", head_dim)?,
            None if d_query % heads == 0 => d_query / heads,
            None => return Err(AttentionError::value("heads", format!("a divisor of d_query = {d_query}"), heads)),
        };
        let value_dim = positive("value_dim", self.value_dim.unwrap_or(head_dim))?;
        let dropout = check::probability("dropout", self.dropout)?;
        let linear = |d_input, d_output, bias| {
            let config = LinearConfig::new(d_input, d_output).with_bias(bias);
            config.with_initializer(self.initializer.clone()).init(device)
        };
        Ok(MultiHeadAttention {
            query: linear(d_query, check::features("head_dim", heads, head_dim)?, self.query_bias),
            key: linear(d_key, check::features("head_dim", kv_heads, head_dim)?, self.key_bias),
            value: linear(d_value, check::features("value_dim", kv_heads, value_dim)?, self.value_bias),
            output: linear(check::features("value_dim", heads, value_dim)?, d_out, self.output_bias),
            dropout: DropoutConfig::new(dropout).init(),
            heads,
            kv_heads,
            head_dim,
            value_dim,
        })
    }
}

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
/// **Dropout on weights** while training (on an autodiff device, if the probability is above 0 and the layer not frozen) needs
/// the weights in memory: they are made, dropped from and applied, which takes memory in `Sq · Sk`. Without it, training takes
/// memory linear in the lengths.
#[derive(Module, Debug)]
#[module(custom_display)]
pub struct MultiHeadAttention {
    /// `W_q [d_query, H·D]`, `b_q`.
    pub query: Linear,
    /// `W_k [d_key, G·D]`, `b_k`.
    pub key: Linear,
    /// `W_v [d_value, G·E]`, `b_v`.
    pub value: Linear,
    /// `W_o [H·E, d_out]`, `b_o`.
    pub output: Linear,
    /// Of the weights.
    pub dropout: Dropout,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    value_dim: usize,
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
        let [query, key, value] = self.project(query, key, value, options)?;
        self.attend_heads(query, key, value, options)
    }

    /// Attends over projected heads, which must have been checked, and projects out.
    fn attend_heads(
        &self,
        query: Tensor<4>,
        key: Tensor<4>,
        value: Tensor<4>,
        options: &AttentionOptions,
    ) -> Result<MultiHeadAttentionOutput, AttentionError> {
        let drops = self.dropout.training.is_enabled() && query.device().is_autodiff() && self.dropout.prob > 0.0;
        let (out, lse, weights) = if drops {
            self.attend_dropping(query, key, value, options)?
        } else {
            let mut attention = options.attention(query, key, value);
            if options.wants_lse() {
                attention = attention.with_lse();
            }
            if let Some(selection) = options.selection() {
                attention = attention.with_weights(selection.clone());
            }
            let output = attention.forward()?;
            (output.out, output.lse, output.weights)
        };
        let [batch, heads, query_len, value_dim] = out.dims();
        let joined = out.swap_dims(1, 2).reshape([batch, query_len, heads * value_dim]);
        Ok(MultiHeadAttentionOutput { out: project(&self.output, joined), lse, weights })
    }

    /// Attends from every position of `hidden` `[B, S, d_query]` to every other: query, key and value are the same.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn self_attention(
        &self,
        hidden: Tensor<3>,
        options: &AttentionOptions,
    ) -> Result<MultiHeadAttentionOutput, AttentionError> {
        self.forward(hidden.clone(), hidden.clone(), hidden, options)
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
        let [query, key, value] = self.project(query, key, value, options)?;
        options.attention(query, key, value).plan()
    }

    /// Query heads, H.
    pub fn heads(&self) -> usize {
        self.heads
    }

    /// Key/value heads, G.
    pub fn kv_heads(&self) -> usize {
        self.kv_heads
    }

    /// Checks everything, then projects: `[B, H, Sq, D]`, `[B, G, Sk, D]`, `[B, G, Sk, E]`.
    fn project(
        &self,
        query: Tensor<3>,
        key: Tensor<3>,
        value: Tensor<3>,
        options: &AttentionOptions,
    ) -> Result<[Tensor<4>; 3], AttentionError> {
        let (h, g, d, e) = (self.heads, self.kv_heads, self.head_dim, self.value_dim);
        let weight = self.query.weight.val();
        let [d_query, _] = check::linear("query.weight", &self.query, None, Some(h * d))?;
        let [d_key, _] = check::linear("key.weight", &self.key, None, Some(g * d))?;
        let [d_value, _] = check::linear("value.weight", &self.value, None, Some(g * e))?;
        check::linear("output.weight", &self.output, Some(h * e), None)?;
        let [batch, query_len] = check::sequence("query", &query, d_query, &weight)?;
        let [_, key_len] = check::sequence("key", &key, d_key, &weight)?;
        check::sequence("value", &value, d_value, &weight)?;
        for (argument, tensor) in [("key", &key), ("value", &value)] {
            let [found_batch, found_len, features] = tensor.dims();
            if [found_batch, found_len] != [batch, key_len] {
                let expected = format!("[{batch}, {key_len}, {features}] (batch, key_len, features)");
                return Err(AttentionError::shape(argument, expected, &tensor.dims()));
            }
        }
        let info = |shape: [usize; 4]| TensorInfo { shape: shape.to_vec(), dtype: weight.dtype() };
        let (of_query, of_key) = (info([batch, h, query_len, d]), info([batch, g, key_len, d]));
        options.check(&check::device(&self.query), of_query, of_key, info([batch, g, key_len, e]))?;
        let heads_of = |tensor: Tensor<3>, linear, heads, dim| {
            let [batch, length, _] = tensor.dims();
            project(linear, tensor).reshape([batch, length, heads, dim]).swap_dims(1, 2)
        };
        Ok([heads_of(query, &self.query, h, d), heads_of(key, &self.key, g, d), heads_of(value, &self.value, g, e)])
    }

    /// Attention with dropout on its weights: out, LSE and the selected weights, the latter before dropout.
    #[allow(clippy::type_complexity, reason = "used once, taken apart at once")]
    fn attend_dropping(
        &self,
        query: Tensor<4>,
        key: Tensor<4>,
        value: Tensor<4>,
        options: &AttentionOptions,
    ) -> Result<(Tensor<4>, Option<Tensor<3>>, Option<Tensor<4>>), AttentionError> {
        let narrow = value.dtype();
        let mut attention = options.attention(query, key, value.clone()).with_weights(Selection::all());
        if options.wants_lse() {
            attention = attention.with_lse();
        }
        let output = attention.forward()?;
        let Some(weights) = output.weights else {
            return Err(AttentionError::value("dropout", "weights to drop from", "none"));
        };
        // The weights are kept in the accumulation type; so is the sum over them.
        let dropped = self.dropout.forward(weights.clone());
        let wide = if weights.dtype() == narrow { value } else { value.cast(float(weights.dtype())) };
        let out = apply_weights(dropped, wide)?;
        let out = if out.dtype() == narrow { out } else { out.cast(float(narrow)) };
        Ok((out, output.lse, options.selection().map(|selection| selected(weights, selection))))
    }
}

/// The heads and rows of a selection, out of all.
fn selected(weights: Tensor<4>, selection: &Selection) -> Tensor<4> {
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

fn float(dtype: DType) -> FloatDType {
    dtype.into()
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
