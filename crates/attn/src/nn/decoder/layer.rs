//! One block of a transformer decoder.

use attn_core::AttentionError;
use burn::config::Config;
use burn::module::{Initializer, Module};
use burn::nn::{Dropout, DropoutConfig, LayerNorm, LayerNormConfig, Linear, LinearConfig};
use burn::tensor::{Device, Tensor};

use super::cache::LayerCache;
use super::options::DecoderOptions;
use crate::nn::check::{self, positive};
use crate::nn::encoder::{Activation, NormPlacement, normalise};
use crate::nn::{AttentionOptions, MultiHeadAttention, MultiHeadAttentionConfig, MultiHeadAttentionOutput};

/// What the errors of the two attentions call their arguments, and what they are called here.
const OWN: &[(&str, &str)] =
    &[("query", "target"), ("key", "target"), ("value", "target"), ("key_padding", "target_padding")];
const CROSS: &[(&str, &str)] =
    &[("query", "target"), ("key", "memory"), ("value", "memory"), ("key_padding", "memory_padding")];

/// Sizes and choices of a [`TransformerDecoderLayer`]; [`init`](Self::init) makes it.
#[derive(Config, Debug)]
pub struct TransformerDecoderLayerConfig {
    /// Features of a position.
    pub d_model: usize,
    /// Query heads of both attentions.
    pub heads: usize,
    /// Features between the two linear layers; four times `d_model` is usual.
    pub d_ff: usize,
    /// Key/value heads of both attentions; `None`: as `heads`.
    pub kv_heads: Option<usize>,
    /// Features of the memory; `None`: as `d_model`.
    pub d_memory: Option<usize>,
    /// Whether the block attends to a memory. Without, it is the block of a language model (Radford et al. 2018).
    #[config(default = true)]
    pub cross_attention: bool,
    /// Where the block normalises.
    #[config(default = "NormPlacement::Post")]
    pub norm: NormPlacement,
    /// Between the two linear layers.
    #[config(default = "Activation::Gelu")]
    pub activation: Activation,
    /// Probability of dropping a feature of a sublayer's output while training, before the residual sum.
    #[config(default = 0.0)]
    pub dropout: f64,
    /// Probability of dropping an attention weight while training; see [`MultiHeadAttention`] for what it costs.
    #[config(default = 0.0)]
    pub attention_dropout: f64,
    /// Added to the variance under the root of a layer norm.
    #[config(default = 1e-5)]
    pub layer_norm_epsilon: f64,
    /// Whether the linear layers have biases.
    #[config(default = true)]
    pub bias: bool,
    /// How the linear layers begin.
    #[config(default = "Initializer::KaimingUniform{gain:1.0/f64::sqrt(3.0), fan_out_only:false}")]
    pub initializer: Initializer,
    /// The self-attention with all its options: positions, norms, sinks and others. Begin with
    /// [`attention_config`](Self::attention_config), which `None` stands for. Its `heads`, its inputs and output must be the block's;
    /// `kv_heads` and `attention_dropout` here must be as there, or left out. The cross-attention is that of the fields.
    pub attention: Option<MultiHeadAttentionConfig>,
}

impl TransformerDecoderLayerConfig {
    /// The self-attention that the fields describe, where `attention` is not given; to be changed and given there.
    ///
    /// ```
    /// use attn::nn::{RotaryConfig, RotaryLayout, TransformerDecoderLayerConfig};
    /// use burn::tensor::Device;
    ///
    /// # fn main() -> Result<(), attn::AttentionError> {
    /// let config = TransformerDecoderLayerConfig::new(64, 4, 256).with_cross_attention(false);
    /// let attention = config.attention_config().with_rotary(Some(RotaryConfig::new(16, RotaryLayout::Half)));
    /// let layer = config.with_attention(Some(attention)).init(&Device::default())?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn attention_config(&self) -> MultiHeadAttentionConfig {
        MultiHeadAttentionConfig::new(self.d_model, self.heads)
            .with_kv_heads(self.kv_heads)
            .with_biases(self.bias)
            .with_dropout(self.attention_dropout)
            .with_initializer(self.initializer.clone())
    }

    /// Makes the block on a device.
    ///
    /// # Errors
    /// A value error that names the first size or probability without a meaning, or `attention` where it does not fit the block.
    pub fn init(&self, device: &Device) -> Result<TransformerDecoderLayer, AttentionError> {
        let (d_model, d_ff) = (positive("d_model", self.d_model)?, positive("d_ff", self.d_ff)?);
        let d_memory = positive("d_memory", self.d_memory.unwrap_or(d_model))?;
        let epsilon = check::epsilon("layer_norm_epsilon", self.layer_norm_epsilon)?;
        check::probability("attention_dropout", self.attention_dropout)?;
        let attention = MultiHeadAttentionConfig::of_block(self.attention.as_ref(), self.attention_config())?;
        let cross = self.attention_config().with_d_key(Some(d_memory));
        let cross = self.cross_attention.then(|| cross.init(device));
        let norm = || LayerNormConfig::new(d_model).with_epsilon(epsilon).init(device);
        let linear = |d_input, d_output| {
            let config = LinearConfig::new(d_input, d_output).with_bias(self.bias);
            config.with_initializer(self.initializer.clone()).init(device)
        };
        Ok(TransformerDecoderLayer {
            attention: attention.init(device)?,
            attention_norm: norm(),
            cross_attention: cross.transpose()?,
            cross_attention_norm: self.cross_attention.then(norm),
            linear_inner: linear(d_model, d_ff),
            linear_outer: linear(d_ff, d_model),
            feed_forward_norm: norm(),
            dropout: DropoutConfig::new(check::probability("dropout", self.dropout)?).init(),
            placement: self.norm,
            activation: self.activation,
        })
    }
}

/// One block of a transformer decoder (Vaswani et al. 2017): causal self-attention, attention to a memory, two linear
/// layers, each with a residual sum.
///
/// ```text
/// ff(x)      = W_outer · activation(W_inner · x + b_inner) + b_outer
/// post-norm:   y = norm_a(x + attention(x))     z = norm_c(y + cross(y, memory))     out = norm_f(z + ff(z))
/// pre-norm:    y = x + attention(norm_a(x))     z = y + cross(norm_c(y), memory)     out = z + ff(norm_f(z))
/// ```
///
/// Shapes: target `[batch, target_len, d_model]`, memory `[batch, memory_len, d_memory]`, out as the target. Without
/// cross-attention `z = y`. Time grows with `target_len · (target_len + memory_len)`, memory with their sum.
#[derive(Module, Debug)]
pub struct TransformerDecoderLayer {
    /// Self-attention.
    pub attention: MultiHeadAttention,
    /// `norm_a`.
    pub attention_norm: LayerNorm,
    /// From the target to the memory.
    pub cross_attention: Option<MultiHeadAttention>,
    /// `norm_c`.
    pub cross_attention_norm: Option<LayerNorm>,
    /// `W_inner [d_model, d_ff]`.
    pub linear_inner: Linear,
    /// `W_outer [d_ff, d_model]`.
    pub linear_outer: Linear,
    /// `norm_f`.
    pub feed_forward_norm: LayerNorm,
    /// Of a sublayer's output.
    pub dropout: Dropout,
    #[module(skip)]
    placement: NormPlacement,
    #[module(skip)]
    activation: Activation,
}

/// What a [`TransformerDecoderLayer`] gives.
#[derive(Debug, Clone)]
pub struct DecoderLayerOutput {
    /// `[batch, target_len, d_model]`.
    pub hidden: Tensor<3>,
    /// `[batch, heads, target_len]`, the LSE of the self-attention's scores; there if it was asked for.
    pub lse: Option<Tensor<3>>,
    /// `[batch, selected heads, selected rows, target_len]`, of the self-attention; there if they were asked for.
    pub weights: Option<Tensor<4>>,
    /// `[batch, heads, target_len]`, the LSE of the cross-attention's scores; there if it was asked for.
    pub cross_lse: Option<Tensor<3>>,
    /// `[batch, selected heads, selected rows, memory_len]`, of the cross-attention; there if they were asked for.
    pub cross_weights: Option<Tensor<4>>,
}

impl TransformerDecoderLayer {
    /// Carries `target` `[batch, target_len, d_model]` through the block, with `memory` `[batch, memory_len, d_memory]`
    /// where it attends to one.
    ///
    /// # Errors
    /// An [`AttentionError`] that names `target`, `memory` or the option at fault, before any work starts.
    pub fn forward(
        &self,
        target: Tensor<3>,
        memory: Option<Tensor<3>>,
        options: &DecoderOptions,
    ) -> Result<DecoderLayerOutput, AttentionError> {
        let [batch, length] = self.check(&target)?;
        let own = options.own_at(0);
        self.attention.check_call(&own, [batch, length, length]).map_err(|error| check::renamed(error, OWN))?;
        if let Some(memory) = self.expect_memory(memory.as_ref())? {
            let memory_len = self.check_memory(memory, Some(batch))?;
            self.check_cross(batch, length, memory_len, options.cross())?;
        }
        self.carry(
            target,
            |hidden| self.attention.self_attention(hidden, &own),
            |cross, hidden| {
                let memory = memory.unwrap_or_else(|| hidden.clone());
                cross.forward(hidden, memory.clone(), memory, options.cross())
            },
        )
    }

    /// The block over new tokens alone: keys and values of the earlier ones, and of the memory, come from the cache, to
    /// which those of the new ones are added. What it is given must have been checked.
    pub(super) fn forward_cached(
        &self,
        target: Tensor<3>,
        cache: &mut LayerCache,
        len: usize,
        reserved: usize,
        own: &AttentionOptions,
        cross_options: &AttentionOptions,
    ) -> Result<DecoderLayerOutput, AttentionError> {
        let LayerCache { key, value, memory } = cache;
        self.carry(
            target,
            |hidden| {
                let query = self.attention.project_query(hidden.clone())?;
                let (new_key, new_value) = self.attention.project_key_value(hidden.clone(), hidden)?;
                let (key, value) = (key.extend(len, reserved, new_key), value.extend(len, reserved, new_value));
                self.attention.attend_projected(query, key, value, own)
            },
            |cross, hidden| {
                let query = cross.project_query(hidden)?;
                match memory {
                    Some([key, value]) => cross.attend_projected(query, key.clone(), value.clone(), cross_options),
                    None => Err(AttentionError::value("cache", "one made with a memory", "one without")),
                }
            },
        )
    }

    /// The sums and norms around the sublayers.
    fn carry(
        &self,
        hidden: Tensor<3>,
        attend: impl FnOnce(Tensor<3>) -> Result<MultiHeadAttentionOutput, AttentionError>,
        attend_cross: impl FnOnce(&MultiHeadAttention, Tensor<3>) -> Result<MultiHeadAttentionOutput, AttentionError>,
    ) -> Result<DecoderLayerOutput, AttentionError> {
        let pre = self.placement == NormPlacement::Pre;
        let before = |norm: &LayerNorm, x: Tensor<3>| if pre { normalise(norm, x) } else { x };
        let after = |norm: &LayerNorm, x: Tensor<3>| if pre { x } else { normalise(norm, x) };

        let attended =
            attend(before(&self.attention_norm, hidden.clone())).map_err(|error| check::renamed(error, OWN))?;
        let mut hidden = after(&self.attention_norm, hidden + self.dropout.forward(attended.out));
        let (mut cross_lse, mut cross_weights) = (None, None);
        if let (Some(cross), Some(norm)) = (&self.cross_attention, &self.cross_attention_norm) {
            let seen =
                attend_cross(cross, before(norm, hidden.clone())).map_err(|error| check::renamed(error, CROSS))?;
            hidden = after(norm, hidden + self.dropout.forward(seen.out));
            (cross_lse, cross_weights) = (seen.lse, seen.weights);
        }
        let fed = self.activation.feed_forward(
            &self.linear_inner,
            &self.linear_outer,
            before(&self.feed_forward_norm, hidden.clone()),
        );
        let hidden = after(&self.feed_forward_norm, hidden + self.dropout.forward(fed));
        Ok(DecoderLayerOutput { hidden, lse: attended.lse, weights: attended.weights, cross_lse, cross_weights })
    }

    /// The target against the weights, and the weights against each other; gives batch and length.
    pub(in crate::nn) fn check(&self, target: &Tensor<3>) -> Result<[usize; 2], AttentionError> {
        let [d_model, d_ff] = check::linear("linear_inner.weight", &self.linear_inner, None, None)?;
        check::linear("linear_outer.weight", &self.linear_outer, Some(d_ff), Some(d_model))?;
        check::linear("attention.output.weight", &self.attention.output, None, Some(d_model))?;
        check::norm("attention_norm", &self.attention_norm, d_model)?;
        check::norm("feed_forward_norm", &self.feed_forward_norm, d_model)?;
        match (&self.cross_attention, &self.cross_attention_norm) {
            (Some(cross), Some(norm)) => {
                check::linear("cross_attention.output.weight", &cross.output, None, Some(d_model))?;
                check::norm("cross_attention_norm", norm, d_model)?;
            }
            (None, None) => {}
            (found, _) => {
                let found = if found.is_some() { "none" } else { "a norm without cross-attention" };
                return Err(AttentionError::value("cross_attention_norm", "one with cross-attention alone", found));
            }
        }
        check::sequence("target", target, d_model, &self.linear_inner.weight.val())
    }

    /// A memory is there exactly where the block attends to one.
    pub(super) fn expect_memory<'a>(
        &self,
        memory: Option<&'a Tensor<3>>,
    ) -> Result<Option<&'a Tensor<3>>, AttentionError> {
        match (self.cross_attention.is_some(), memory) {
            (true, None) => Err(AttentionError::value("memory", "one, for the cross-attention", "none")),
            (false, Some(_)) => Err(AttentionError::value("memory", "none, without cross-attention", "a memory")),
            (_, memory) => Ok(memory),
        }
    }

    /// A memory that fits the cross-attention and, where given, the batch; gives its length.
    pub(super) fn check_memory(&self, memory: &Tensor<3>, batch: Option<usize>) -> Result<usize, AttentionError> {
        let [found, length, features] = memory.dims();
        if let Some(cross) = &self.cross_attention {
            let [d_memory, _] = check::linear("cross_attention.key.weight", &cross.key, None, None)?;
            if let Some(value) = &cross.value {
                check::linear("cross_attention.value.weight", value, Some(d_memory), None)?;
            }
            check::sequence("memory", memory, d_memory, &cross.key.weight.val())?;
        }
        match batch {
            Some(batch) if batch != found => {
                let expected = format!("[{batch}, {length}, {features}] (batch, memory_len, features)");
                Err(AttentionError::shape("memory", expected, &memory.dims()))
            }
            _ => Ok(length),
        }
    }

    /// The options of the cross-attention against a call of these sizes.
    pub(super) fn check_cross(
        &self,
        batch: usize,
        target_len: usize,
        memory_len: usize,
        options: &AttentionOptions,
    ) -> Result<(), AttentionError> {
        let Some(cross) = &self.cross_attention else { return Ok(()) };
        let checked = cross.check_call(options, [batch, target_len, memory_len]);
        checked.map_err(|error| check::renamed(error, CROSS))
    }

    /// The options of the self-attention against a call of these sizes.
    pub(super) fn check_own(
        &self,
        batch: usize,
        target_len: usize,
        key_len: usize,
        options: &AttentionOptions,
    ) -> Result<(), AttentionError> {
        let checked = self.attention.check_call(options, [batch, target_len, key_len]);
        checked.map_err(|error| check::renamed(error, OWN))
    }

    /// Keys and values of a memory for every call to come.
    pub(super) fn project_memory(&self, memory: Option<&Tensor<3>>) -> Result<Option<[Tensor<4>; 2]>, AttentionError> {
        let (Some(cross), Some(memory)) = (&self.cross_attention, memory) else { return Ok(None) };
        let projected = cross.project_key_value(memory.clone(), memory.clone());
        let (key, value) = projected.map_err(|error| check::renamed(error, CROSS))?;
        Ok(Some([key, value]))
    }
}
