//! Gated cross-attention: a frozen language model learns to look at something else, and begins as it was.

use attn_core::{AttentionError, Mask};
use burn::config::Config;
use burn::module::{Initializer, Module, Param};
use burn::nn::{LayerNorm, LayerNormConfig, Linear};
use burn::tensor::{Bool, Device, Int, Tensor};

use crate::nn::check::{self, positive};
use crate::nn::encoder::Activation;
use crate::nn::multi_head::{MultiHeadAttention, MultiHeadAttentionConfig, MultiHeadAttentionOutput};
use crate::nn::options::AttentionOptions;
use crate::nn::parts;

/// Sizes and choices of a [`GatedCrossAttention`]; [`init`](Self::init) makes it.
#[derive(Config, Debug)]
pub struct GatedCrossAttentionConfig {
    /// Features of the stream that attends.
    pub d_model: usize,
    /// Features of the media.
    pub d_media: usize,
    /// Query heads.
    pub heads: usize,
    /// Features of a head; `None`: `d_model / heads`.
    pub head_dim: Option<usize>,
    /// Features between the two linear layers; `None`: four times `d_model`.
    pub d_ff: Option<usize>,
    /// Between the two linear layers.
    #[config(default = "Activation::Gelu")]
    pub activation: Activation,
    /// Whether the linear layers have biases. Without them, as in the paper, a query that sees no media stays as it is.
    #[config(default = false)]
    pub bias: bool,
    /// Added to the variance under the root of a layer norm.
    #[config(default = 1e-5)]
    pub layer_norm_epsilon: f64,
    /// How the linear layers begin.
    #[config(default = "Initializer::KaimingUniform{gain:1.0/f64::sqrt(3.0), fan_out_only:false}")]
    pub initializer: Initializer,
}

impl GatedCrossAttentionConfig {
    /// Makes the block on a device, both gates closed.
    ///
    /// # Errors
    /// A value error that names the first size without a meaning.
    pub fn init(&self, device: &Device) -> Result<GatedCrossAttention, AttentionError> {
        let (d_model, d_media) = (positive("d_model", self.d_model)?, positive("d_media", self.d_media)?);
        let d_ff = match self.d_ff {
            Some(d_ff) => positive("d_ff", d_ff)?,
            None => check::features("d_ff", 4, d_model)?,
        };
        let epsilon = check::epsilon("layer_norm_epsilon", self.layer_norm_epsilon)?;
        let norm = || LayerNormConfig::new(d_model).with_epsilon(epsilon).init(device);
        let attention = MultiHeadAttentionConfig::new(d_model, self.heads)
            .with_d_key(Some(d_media))
            .with_head_dim(self.head_dim)
            .with_biases(self.bias)
            .with_initializer(self.initializer.clone());
        Ok(GatedCrossAttention {
            attention: attention.init(device)?,
            attention_norm: norm(),
            attention_gate: Initializer::Zeros.init([1], device),
            linear_inner: parts::new_linear(d_model, d_ff, self.bias, &self.initializer, device),
            linear_outer: parts::new_linear(d_ff, d_model, self.bias, &self.initializer, device),
            feed_forward_norm: norm(),
            feed_forward_gate: Initializer::Zeros.init([1], device),
            activation: self.activation,
        })
    }
}

/// Gated cross-attention block (Flamingo, Alayrac et al. 2022).
///
/// ```text
/// y   = x + tanh(α) · attention(query norm_a(x), key and value media)
/// out = y + tanh(β) · W_outer · activation(W_inner · norm_f(y))
/// ```
///
/// α and β begin at 0, so that the block begins as the identity, put between the blocks of a model that stays frozen.
/// x `[B, S, d_model]`, media `[B, M, d_media]`; time in `S·M`, memory linear in `S + M` beside the mask, if there is one:
/// the attention is a [`MultiHeadAttention`]. [`media_mask`] makes the mask of interleaved text and media.
///
/// ```
/// use attn::nn::{AttentionOptions, GatedCrossAttentionConfig};
/// use burn::tensor::{Device, Distribution, Tensor};
///
/// # fn main() -> Result<(), attn::AttentionError> {
/// let device = Device::default();
/// let block = GatedCrossAttentionConfig::new(16, 24, 4).init(&device)?;
/// let text = Tensor::<3>::random([2, 7, 16], Distribution::Default, &device);
/// let media = Tensor::<3>::random([2, 8, 24], Distribution::Default, &device);
/// // The gates begin closed: what comes out is the text.
/// let out = block.forward(text.clone(), media, &AttentionOptions::new())?.out;
/// assert!((out - text).abs().max().into_scalar::<f32>() < 1e-6);
/// # Ok(())
/// # }
/// ```
#[derive(Module, Debug)]
pub struct GatedCrossAttention {
    /// From the stream to the media.
    pub attention: MultiHeadAttention,
    /// `norm_a`.
    pub attention_norm: LayerNorm,
    /// `α [1]`.
    pub attention_gate: Param<Tensor<1>>,
    /// `W_inner [d_model, d_ff]`.
    pub linear_inner: Linear,
    /// `W_outer [d_ff, d_model]`.
    pub linear_outer: Linear,
    /// `norm_f`.
    pub feed_forward_norm: LayerNorm,
    /// `β [1]`.
    pub feed_forward_gate: Param<Tensor<1>>,
    #[module(skip)]
    activation: Activation,
}

impl GatedCrossAttention {
    /// Carries `hidden` `[B, S, d_model]` through the block, looking at `media` `[B, M, d_media]`; `out`, LSE and weights as in
    /// [`MultiHeadAttention`], LSE and weights before the gate.
    ///
    /// # Errors
    /// An [`AttentionError`] that names `hidden`, `media` or the option at fault.
    pub fn forward(
        &self,
        hidden: Tensor<3>,
        media: Tensor<3>,
        options: &AttentionOptions,
    ) -> Result<MultiHeadAttentionOutput, AttentionError> {
        self.check(&hidden, &media)?;
        let gate = |gate: &Param<Tensor<1>>, x: Tensor<3>| x * gate.val().tanh().reshape([1, 1, 1]);
        let query = parts::norm(&self.attention_norm, hidden.clone());
        let attended = self.attention.forward(query, media.clone(), media, options)?;
        let hidden = hidden + gate(&self.attention_gate, attended.out);
        let normed = parts::norm(&self.feed_forward_norm, hidden.clone());
        let fed = parts::feed_forward(&self.linear_inner, &self.linear_outer, self.activation, normed);
        Ok(MultiHeadAttentionOutput {
            out: hidden + gate(&self.feed_forward_gate, fed),
            lse: attended.lse,
            weights: attended.weights,
        })
    }

    fn check(&self, hidden: &Tensor<3>, media: &Tensor<3>) -> Result<(), AttentionError> {
        let [d_model, d_ff] = check::linear("linear_inner.weight", &self.linear_inner, None, None)?;
        check::linear("linear_outer.weight", &self.linear_outer, Some(d_ff), Some(d_model))?;
        check::linear("output.weight", &self.attention.output, None, Some(d_model))?;
        check::norm("attention_norm", &self.attention_norm, d_model)?;
        check::norm("feed_forward_norm", &self.feed_forward_norm, d_model)?;
        for (argument, gate) in
            [("attention_gate", &self.attention_gate), ("feed_forward_gate", &self.feed_forward_gate)]
        {
            parts::check_shape(argument, &gate.val().dims(), &[1])?;
        }
        let weight = self.linear_inner.weight.val();
        let [d_media, _] = self.attention.key.weight.val().dims();
        let [batch, ..] = parts::check_input("hidden", hidden, "batch, length", d_model, &weight)?;
        let [found, ..] = parts::check_input("media", media, "batch, media_len", d_media, &weight)?;
        if found != batch {
            let expected = format!("[{batch}, media_len, {d_media}] (batch of hidden)");
            return Err(AttentionError::shape("media", expected, &media.dims()));
        }
        Ok(())
    }
}

/// The mask of a text with media in it: a token sees the medium that came last before it, or at it, and no other (Flamingo,
/// section 2.4).
///
/// `starts` `[B, S]`: true at the tokens that stand for a medium. `media` media of `tokens` positions each lie one after the other
/// on the key axis. Gives `[B, 1, S, media·tokens]`; a token before the first medium, or after one past the last, sees nothing.
///
/// # Errors
/// A value error that names `tokens` if `media · tokens` does not fit.
pub fn media_mask(
    starts: Tensor<2, Bool>,
    media: usize,
    tokens: usize,
) -> Result<Mask<Tensor<4, Bool>>, AttentionError> {
    let [batch, length] = starts.dims();
    let keys = check::features("tokens", media, tokens)?;
    let shape = [batch, 1, length, keys];
    if shape.contains(&0) {
        return Ok(Mask::keep(Tensor::<4>::zeros(shape, &starts.device()).greater_elem(0.0)));
    }
    let owner = (0..keys).map(|key| (key / tokens) as i64 + 1).collect::<Vec<_>>();
    let owner = Tensor::<1, Int>::from_data(owner.as_slice(), &starts.device());
    let last = starts.int().cumsum(1).reshape([batch, 1, length, 1]).expand::<4, _>(shape);
    Ok(Mask::keep(last.equal(owner.reshape([1, 1, 1, keys]).expand::<4, _>(shape))))
}
