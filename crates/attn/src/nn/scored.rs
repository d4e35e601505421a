//! Attention with a choice of score and of what makes weights of scores.

use attn_core::{AttentionError, Plan};
use burn::config::Config;
use burn::module::Module;
use burn::tensor::{Device, Tensor, activation};

use super::logits::{Logits, applied};
use super::multi_head::selected;
use super::normalise::Normaliser;
use super::options::AttentionOptions;
use super::score::{Score, ScoreConfig};
use crate::{Attention, AttentionOutput, Selection};

/// Choices of a [`ScoredAttention`]; [`init`](Self::init) makes the layer.
#[derive(Config, Debug)]
pub struct ScoredAttentionConfig {
    /// Sizes and the score function.
    pub score: ScoreConfig,
    /// What makes weights of scores.
    #[config(default = "Normaliser::Softmax")]
    pub normaliser: Normaliser,
}

impl ScoredAttentionConfig {
    /// Makes the layer on a device.
    ///
    /// # Errors
    /// As [`ScoreConfig::init`].
    pub fn init(&self, device: &Device) -> Result<ScoredAttention, AttentionError> {
        Ok(ScoredAttention { score: self.score.init(device)?, normaliser: self.normaliser })
    }
}

/// Attention over heads with any [score](Score) and any [normaliser](Normaliser); no projections.
///
/// ```text
/// s(i, j) = score(q_i, k_j), then softcap, ALiBi, bias, hiding
/// p(i, ·) = normaliser(s(i, ·))
/// out_i   = Σ_j p(i, j) · v_j
/// ```
///
/// Axes: query `[B, H, Sq, D]`, key `[B, G, Sk, C]`, value `[B, G, Sk, E]`, out `[B, H, Sq, E]`; a key/value head
/// serves H/G query heads.
///
/// | normaliser | runs on | memory |
/// | --- | --- | --- |
/// | softmax | the kernel that [`plan`](Self::plan) names | that of the kernel and the [score](Score) |
/// | quiet softmax | the same kernel, with a sink of 0 | the same |
/// | sparsemax, 1.5-entmax | scores and weights in memory: which keys weigh anything depends on all scores of a row | `Sq·Sk` |
///
/// Sinks of the options are one more logit of any normaliser. With quiet softmax a sink s and the 0 are one sink, `ln(1
/// + exp(s))`.
///
/// ```
/// use attn::nn::{AttentionOptions, Normaliser, ScoreConfig, ScoreKind, ScoredAttentionConfig};
/// use burn::tensor::{Device, Distribution, Tensor};
///
/// # fn main() -> Result<(), attn::AttentionError> {
/// let device = Device::default();
/// let x = |length| Tensor::<4>::random([1, 2, length, 8], Distribution::Default, &device); // [B, H, S, D]
/// // Cosine scores, weights that can be exactly 0.
/// let score = ScoreConfig::new(2, 8).with_kind(ScoreKind::Cosine { initial_scale: 10.0, max_scale: 100.0 });
/// let attention = ScoredAttentionConfig::new(score).with_normaliser(Normaliser::Sparsemax).init(&device)?;
/// let output = attention.forward(x(5), x(9), x(9), &AttentionOptions::new())?;
/// assert_eq!(output.out.dims(), [1, 2, 5, 8]);
/// # Ok(())
/// # }
/// ```
#[derive(Module, Debug)]
pub struct ScoredAttention {
    /// The score and its parameters.
    pub score: Score,
    #[module(skip)]
    normaliser: Normaliser,
}

impl ScoredAttention {
    /// Attends from `query` `[B, H, Sq, D]` over `key` `[B, G, Sk, C]` and `value` `[B, G, Sk, E]`.
    ///
    /// The LSE exists for softmax and quiet softmax alone; for the latter it includes the 0.
    ///
    /// # Errors
    /// An [`AttentionError`] that names the input or option at fault, before any work starts: with sparsemax and entmax
    /// `lse` where it was asked for, and a demanded kernel, since none makes those weights.
    pub fn forward(
        &self,
        query: Tensor<4>,
        key: Tensor<4>,
        value: Tensor<4>,
        options: &AttentionOptions,
    ) -> Result<AttentionOutput, AttentionError> {
        if matches!(self.normaliser, Normaliser::Sparsemax | Normaliser::Entmax15) {
            return self.attend_sparsely(query, key, value, options);
        }
        let mut attention = self.fused(query, key, value, options)?;
        if options.wants_lse() {
            attention = attention.with_lse();
        }
        if let Some(selection) = options.selection() {
            attention = attention.with_weights(selection.clone());
        }
        attention.forward()
    }

    /// The scores that the normaliser takes, after softcap, ALiBi, bias and hiding: `[B, H, Sq, Sk]` in f32 (f64 for
    /// f64), `−inf` where hidden. Sinks are no part of them.
    ///
    /// # Errors
    /// As [`forward`](Self::forward); a demanded kernel is refused.
    pub fn scores(
        &self,
        query: Tensor<4>,
        key: Tensor<4>,
        options: &AttentionOptions,
    ) -> Result<Tensor<4>, AttentionError> {
        // Of the values nothing but their length is looked at.
        let value = key.clone();
        self.score.attention(query, key, value, options)?.scores(Selection::all())
    }

    /// Tells which kernels will serve a call and at what cost. Additive scores are made for it; nothing else runs.
    ///
    /// # Errors
    /// As [`forward`](Self::forward); with sparsemax and entmax that no kernel serves.
    pub fn plan(
        &self,
        query: Tensor<4>,
        key: Tensor<4>,
        value: Tensor<4>,
        options: &AttentionOptions,
    ) -> Result<Plan, AttentionError> {
        let attention = self.fused(query, key, value, options)?;
        if matches!(self.normaliser, Normaliser::Sparsemax | Normaliser::Entmax15) {
            let kernel = format!("{:?}", self.normaliser);
            return Err(AttentionError::Unsupported { kernel, reason: NO_KERNEL.to_string() });
        }
        attention.plan()
    }

    /// What makes weights of scores.
    pub fn normaliser(&self) -> Normaliser {
        self.normaliser
    }

    /// The attention of a kernel's softmax, its sinks as the normaliser has them.
    fn fused(
        &self,
        query: Tensor<4>,
        key: Tensor<4>,
        value: Tensor<4>,
        options: &AttentionOptions,
    ) -> Result<Attention, AttentionError> {
        let (device, dtype) = (query.device(), query.dtype());
        let attention = self.score.attention(query, key, value, options)?;
        if self.normaliser != Normaliser::QuietSoftmax {
            return Ok(attention);
        }
        let (_, _, sinks) = options.given();
        Ok(attention.sinks(match sinks {
            Some(sinks) => activation::softplus(sinks.clone(), 1.0),
            None => Tensor::zeros([self.score.heads()], (&device, dtype)),
        }))
    }

    fn attend_sparsely(
        &self,
        query: Tensor<4>,
        key: Tensor<4>,
        value: Tensor<4>,
        options: &AttentionOptions,
    ) -> Result<AttentionOutput, AttentionError> {
        options.refuse_kernels(NO_KERNEL)?;
        if options.wants_lse() {
            return Err(AttentionError::value("lse", "softmax or quiet softmax", format!("{:?}", self.normaliser)));
        }
        let (_, _, sinks) = options.given();
        let attention = self.score.attention(query, key, value.clone(), options)?;
        let weights = Logits::new(attention, sinks)?.weights(self.normaliser);
        let out = applied(weights.clone(), value)?;
        let weights = options.selection().map(|selection| selected(weights, selection));
        Ok(AttentionOutput { out, lse: None, weights })
    }
}

const NO_KERNEL: &str =
    "which keys weigh anything depends on all scores of a row: scores and weights are made in memory";
