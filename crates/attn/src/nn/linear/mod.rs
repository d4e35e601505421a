//! Linear-time attention: kernelised weights, parallel, chunked and recurrent, and a multi-head layer around them.

mod kernel;

use attn_core::{AttentionError, Mask};
use burn::config::Config;
use burn::module::{Initializer, Module};
use burn::nn::Linear;
use burn::tensor::{Bool, Device, Tensor};

use super::check::{self, positive};
use super::parts;

pub use kernel::{FeatureMap, LinearState, linear_attention};

/// Sizes of a [`LinearAttention`]; [`init`](Self::init) makes it.
#[derive(Config, Debug)]
pub struct LinearAttentionConfig {
    /// Features of a position, in and out.
    pub d_model: usize,
    /// Heads, H.
    pub heads: usize,
    /// Features of a key position; `None`: `d_model`.
    pub d_key: Option<usize>,
    /// Features of one query or key head, D; `None`: `d_model / heads`.
    pub head_dim: Option<usize>,
    /// Features of one value head, E; `None`: as `head_dim`.
    pub value_dim: Option<usize>,
    /// φ.
    #[config(default = "FeatureMap::EluPlusOne")]
    pub feature_map: FeatureMap,
    /// Whether keys after a query's position are hidden.
    #[config(default = false)]
    pub causal: bool,
    /// Whether the projections have biases.
    #[config(default = true)]
    pub bias: bool,
    /// How the projections begin.
    #[config(default = "Initializer::KaimingUniform{gain:1.0/f64::sqrt(3.0), fan_out_only:false}")]
    pub initializer: Initializer,
}

impl LinearAttentionConfig {
    /// Makes the layer on a device.
    ///
    /// # Errors
    /// A value error that names the first size without a meaning.
    pub fn init(&self, device: &Device) -> Result<LinearAttention, AttentionError> {
        let (d_model, heads) = (positive("d_model", self.d_model)?, positive("heads", self.heads)?);
        let d_key = positive("d_key", self.d_key.unwrap_or(d_model))?;
        let head_dim = match self.head_dim {
            Some(head_dim) => positive("head_dim", head_dim)?,
            None if d_model.is_multiple_of(heads) => d_model / heads,
            None => return Err(AttentionError::value("heads", format!("a divisor of d_model = {d_model}"), heads)),
        };
        let value_dim = positive("value_dim", self.value_dim.unwrap_or(head_dim))?;
        let keys = check::features("head_dim", heads, head_dim)?;
        let values = check::features("value_dim", heads, value_dim)?;
        let linear = |d_input, d_output| parts::new_linear(d_input, d_output, self.bias, &self.initializer, device);
        Ok(LinearAttention {
            query: linear(d_model, keys),
            key: linear(d_key, keys),
            value: linear(d_key, values),
            output: linear(values, d_model),
            heads,
            feature_map: self.feature_map,
            causal: self.causal,
        })
    }
}

/// Multi-head linear attention (Katharopoulos et al. 2020): [`linear_attention`] between projections.
///
/// ```text
/// Q = query·W_q + b_q   [B, Sq, H·D]      K = key·W_k + b_k   [B, Sk, H·D]      V = key·W_v + b_v   [B, Sk, H·E]
/// out = concat(linear attention of the heads)·W_o + b_o                         [B, Sq, d_model]
/// ```
///
/// Time and memory linear in the lengths, see there. [`step`](Self::step) goes on from a [`LinearState`] of constant size.
///
/// ```
/// use attn::nn::LinearAttentionConfig;
/// use burn::tensor::{Device, Distribution, Tensor};
///
/// # fn main() -> Result<(), attn::AttentionError> {
/// let device = Device::default();
/// let layer = LinearAttentionConfig::new(16, 4).with_causal(true).init(&device)?;
/// let hidden = Tensor::<3>::random([2, 500, 16], Distribution::Default, &device); // [batch, length, features]
/// let out = layer.forward(hidden.clone(), hidden, None)?;
/// assert_eq!(out.dims(), [2, 500, 16]);
/// # Ok(())
/// # }
/// ```
#[derive(Module, Debug)]
pub struct LinearAttention {
    /// `W_q [d_model, H·D]`, `b_q`.
    pub query: Linear,
    /// `W_k [d_key, H·D]`, `b_k`.
    pub key: Linear,
    /// `W_v [d_key, H·E]`, `b_v`.
    pub value: Linear,
    /// `W_o [H·E, d_model]`, `b_o`.
    pub output: Linear,
    heads: usize,
    #[module(skip)]
    feature_map: FeatureMap,
    causal: bool,
}

impl LinearAttention {
    /// Attends from `query` `[B, Sq, d_model]` to `key` `[B, Sk, d_key]`, from which values come, too; `key_padding` `[B, Sk]`
    /// tells which keys are there.
    ///
    /// # Errors
    /// An [`AttentionError`] that names `query`, `key`, `key_padding` or the weights at fault, before any work starts.
    pub fn forward(
        &self,
        query: Tensor<3>,
        key: Tensor<3>,
        key_padding: Option<Mask<Tensor<2, Bool>>>,
    ) -> Result<Tensor<3>, AttentionError> {
        let keep = self.check(&query, &key, key_padding)?;
        let [query, key, value] = self.project(query, parts::without_padding(key, keep.as_ref()));
        let keep = keep.map(Mask::keep);
        let out = linear_attention(query, key, value, keep, self.feature_map, self.causal)?;
        Ok(parts::linear(&self.output, parts::joined(out)))
    }

    /// Attends from every position of `hidden` `[B, S, d_model]` to every other, or with `causal` to those up to it. What comes
    /// out at padding has no meaning.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn self_attention(
        &self,
        hidden: Tensor<3>,
        key_padding: Option<Mask<Tensor<2, Bool>>>,
    ) -> Result<Tensor<3>, AttentionError> {
        self.forward(hidden.clone(), hidden, key_padding)
    }

    /// Goes on by the n positions of `hidden` `[B, n, d_model]`, causally, from a state or from nothing; gives their output and
    /// the state after them. Steps one after the other give what one causal self-attention over all of them gives.
    ///
    /// # Errors
    /// As [`forward`](Self::forward); a value error that names `causal` where the layer is not; and names `query` or `value` where
    /// the state is of other sizes.
    pub fn step(
        &self,
        hidden: Tensor<3>,
        state: Option<LinearState>,
    ) -> Result<(Tensor<3>, LinearState), AttentionError> {
        if !self.causal {
            return Err(AttentionError::value("causal", "a causal layer", false));
        }
        self.check(&hidden, &hidden, None)?;
        let [batch, ..] = hidden.dims();
        let (device, dtype) = (hidden.device(), hidden.dtype());
        let [query, key, value] = self.project(hidden.clone(), hidden);
        let sizes = [batch, self.heads, query.dims()[3], value.dims()[3]];
        let state = match state {
            Some(state) => state,
            None => LinearState::new(sizes, self.feature_map, (&device, dtype))?,
        };
        let (out, state) = state.step(query, key, value, None)?;
        Ok((parts::linear(&self.output, parts::joined(out)), state))
    }

    fn project(&self, query: Tensor<3>, key: Tensor<3>) -> [Tensor<4>; 3] {
        let heads = |linear, input| parts::heads(parts::linear(linear, input), self.heads);
        [heads(&self.query, query), heads(&self.key, key.clone()), heads(&self.value, key)]
    }

    fn check(
        &self,
        query: &Tensor<3>,
        key: &Tensor<3>,
        key_padding: Option<Mask<Tensor<2, Bool>>>,
    ) -> Result<Option<Tensor<2, Bool>>, AttentionError> {
        let [d_model, keys] = check::linear("query.weight", &self.query, None, None)?;
        let [d_key, _] = check::linear("key.weight", &self.key, None, Some(keys))?;
        let [_, values] = check::linear("value.weight", &self.value, Some(d_key), None)?;
        check::linear("output.weight", &self.output, Some(values), Some(d_model))?;
        for (argument, features) in [("query.weight", keys), ("value.weight", values)] {
            if features == 0 || !features.is_multiple_of(self.heads) {
                return Err(AttentionError::value(argument, format!("features of {} heads", self.heads), features));
            }
        }
        let weight = self.query.weight.val();
        let [batch, ..] = parts::check_input("query", query, "batch, query_len", d_model, &weight)?;
        let [found, key_len, _] = parts::check_input("key", key, "batch, key_len", d_key, &weight)?;
        if found != batch {
            let expected = format!("[{batch}, key_len, {d_key}] (batch of query)");
            return Err(AttentionError::shape("key", expected, &key.dims()));
        }
        let check = |mask| parts::check_mask("key_padding", mask, [batch, key_len], &weight.device());
        key_padding.map(check).transpose()
    }
}
