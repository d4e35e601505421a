//! Hard attention to the best-scoring keys.

use attn_core::{AttentionError, Mask};
use burn::config::Config;
use burn::module::Module;
use burn::tensor::{Int, Tensor};

use super::choice::greatest_of;
use crate::Selection;
use crate::nn::AttentionOptions;
use crate::nn::check::positive;
use crate::nn::logits::checked;

/// Choices of a [`TopKAttention`]; [`init`](Self::init) makes the layer.
#[derive(Config, Debug)]
pub struct TopKAttentionConfig {
    /// Keys that each query sees at most.
    pub k: usize,
}

impl TopKAttentionConfig {
    /// Makes the layer. It has no weights, so that it needs no device.
    ///
    /// # Errors
    /// A value error that names `k` if it is 0.
    pub fn init(&self) -> Result<TopKAttention, AttentionError> {
        Ok(TopKAttention { k: positive("k", self.k)? })
    }
}

/// Softmax attention of each query to the k keys that score best for it (Gupta et al. 2021; Zhao et al. 2019).
///
/// ```text
/// T_i    = the k visible keys of the greatest s(i, ·), or all if there are no more
/// out_i  = Σ_{j ∈ T_i} softmax(s(i, T_i))_j · v_j
/// ```
///
/// Axes: query `[B, H, Sq, D]`, key `[B, G, Sk, D]`, value `[B, G, Sk, E]`, out `[B, H, Sq, E]`. With `k ≥ Sk` it is
/// plain attention.
///
/// The scores are made once, without gradients, to choose: `Sq·Sk` in memory while it does. The choice then goes to a
/// fused kernel as a mask (`Sq·Sk` booleans, which stay for the backward pass), with the options' spec, bias, ALiBi and
/// sinks. So gradients are those of softmax over the chosen keys, the choice held still: exact wherever the k-th and
/// the next score differ. Few keys are taken one by one, time `k·Sq·Sk`; for more than 32 the scores are sorted, on a
/// GPU by way of the host.
///
/// A sink is not among the k: it takes its weight beside them.
///
/// ```
/// use attn::nn::{AttentionOptions, TopKAttentionConfig};
/// use burn::tensor::{Device, Distribution, Tensor};
///
/// # fn main() -> Result<(), attn::AttentionError> {
/// let device = Device::default();
/// let x = |length| Tensor::<4>::random([1, 2, length, 8], Distribution::Default, &device); // [B, H, S, D]
/// let attention = TopKAttentionConfig::new(3).init()?;
/// let output = attention.forward(x(5), x(9), x(9), &AttentionOptions::new())?;
/// assert_eq!(output.out.dims(), [1, 2, 5, 8]);
/// assert_eq!(output.indices.dims(), [1, 2, 5, 3]); // the three keys of each query
/// # Ok(())
/// # }
/// ```
#[derive(Module, Debug)]
pub struct TopKAttention {
    /// Keys that each query sees at most.
    pub k: usize,
}

/// What a [`TopKAttention`] gives.
#[derive(Debug, Clone)]
pub struct TopKAttentionOutput {
    /// `[B, H, Sq, E]`, in the inputs' element type.
    pub out: Tensor<4>,
    /// The keys of each query, the best first, `[B, H, Sq, min(k, Sk)]`; −1 where it sees no more.
    pub indices: Tensor<4, Int>,
    /// `[B, H, Sq]`, the LSE of the chosen scores, in f32 (f64 for f64); there if it was asked for.
    pub lse: Option<Tensor<3>>,
    /// `[B, selected heads, selected rows, Sk]`, 0 where not chosen; there if they were asked for.
    pub weights: Option<Tensor<4>>,
}

impl TopKAttention {
    /// Attends from `query` `[B, H, Sq, D]` over `key` `[B, G, Sk, D]` and `value` `[B, G, Sk, E]`.
    ///
    /// # Errors
    /// An [`AttentionError`] that names the input or option at fault, before any work starts.
    pub fn forward(
        &self,
        query: Tensor<4>,
        key: Tensor<4>,
        value: Tensor<4>,
        options: &AttentionOptions,
    ) -> Result<TopKAttentionOutput, AttentionError> {
        let k = positive("k", self.k)?;
        checked(&query, &key, &value, options)?;
        let [resting_query, resting_key, resting_value] = [&query, &key, &value].map(|tensor| tensor.clone().inner());
        let choosing = options.without_kernels().attention(resting_query, resting_key, resting_value);
        let scores = choosing.scores(Selection::all())?.inner();
        let [batch, heads, rows, keys] = scores.dims();
        let mut attention = options.attention(query, key, value);
        let indices = if batch * heads * rows * keys == 0 {
            Tensor::full([batch, heads, rows, k.min(keys)], -1, &scores.device())
        } else {
            let (indices, chosen) = greatest_of(scores, k.min(keys));
            attention = attention.mask(Mask::keep(chosen));
            indices
        };
        if options.wants_lse() {
            attention = attention.with_lse();
        }
        if let Some(selection) = options.selection() {
            attention = attention.with_weights(selection.clone());
        }
        let output = attention.forward()?;
        Ok(TopKAttentionOutput { out: output.out, indices, lse: output.lse, weights: output.weights })
    }
}
