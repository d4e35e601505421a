//! Hard attention by the straight-through Gumbel-softmax.

use attn_core::AttentionError;
use burn::config::Config;
use burn::module::{Flag, Module, Param};
use burn::tensor::{Int, Tensor};

use super::NO_KERNEL;
use super::choice::{chosen, greatest, gumbel_noise, taken};
use crate::Selection;
use crate::nn::AttentionOptions;
use crate::nn::logits::{Logits, applied};
use crate::nn::multi_head::selected;
use crate::nn::normalise::Normaliser;

/// Choices of a [`GumbelAttention`]; [`init`](Self::init) makes the layer.
#[derive(Config, Debug)]
pub struct GumbelAttentionConfig {
    /// Temperature τ of the soft weights that gradients take; positive.
    #[config(default = 1.0)]
    pub temperature: f64,
}

impl GumbelAttentionConfig {
    /// Makes the layer. It has no weights, so that it needs no device.
    ///
    /// # Errors
    /// A value error that names `temperature` unless it is positive and finite.
    pub fn init(&self) -> Result<GumbelAttention, AttentionError> {
        check_temperature(self.temperature)?;
        Ok(GumbelAttention { temperature: self.temperature, training: Param::from_bool(true) })
    }
}

fn check_temperature(temperature: f64) -> Result<(), AttentionError> {
    match temperature > 0.0 && temperature.is_finite() {
        true => Ok(()),
        false => Err(AttentionError::value("temperature", "a positive finite number", temperature)),
    }
}

/// Each query takes the value of one key, drawn from the softmax of its scores; gradients take the soft weights in its
/// place (Jang et al. 2017; Maddison et al. 2017; straight-through: Bengio et al. 2013).
///
/// ```text
/// g(i, j) = −ln(−ln u),  u uniform in (0, 1)
/// c_i     = argmax_j s(i, j) + g(i, j)                 key j with probability softmax(s_i)_j
/// y(i, ·) = softmax((s_i + g_i) / τ)
/// out_i   = v_{c_i}                                    d out_i = Σ_j dy(i, j)·v_j + Σ_j [j = c_i]·dv_j
/// ```
///
/// Axes: query `[B, H, Sq, D]`, key `[B, G, Sk, D]`, value `[B, G, Sk, E]`, out `[B, H, Sq, E]`. The gradient is
/// biased; its variance grows as τ falls, its bias as τ rises. Anneal by setting [`temperature`](Self::temperature).
///
/// It draws in training alone: where one of the inputs is on an autodiff device, and the layer not frozen. Else `c_i`
/// is the key of the greatest score (the first among equals), and nothing is drawn. Draws come from the device's
/// generator; seed it by [`Device::seed`](burn::tensor::Device::seed).
///
/// The choice depends on the scores of all keys: they are in memory, `Sq·Sk`, in training with noise and weights. A
/// sink is one more logit; where it is drawn, and where a row sees nothing, the choice is −1 and the output 0.
///
/// ```
/// use attn::nn::{AttentionOptions, GumbelAttentionConfig};
/// use burn::tensor::{Device, Distribution, Tensor};
///
/// # fn main() -> Result<(), attn::AttentionError> {
/// let device = Device::default();
/// let x = |length| Tensor::<4>::random([1, 2, length, 8], Distribution::Default, &device); // [B, H, S, D]
/// let attention = GumbelAttentionConfig::new().with_temperature(0.5).init()?;
/// let output = attention.forward(x(5), x(9), x(9), &AttentionOptions::new())?;
/// assert_eq!(output.out.dims(), [1, 2, 5, 8]);
/// # Ok(())
/// # }
/// ```
#[derive(Module, Debug)]
pub struct GumbelAttention {
    /// τ; positive and finite.
    pub temperature: f64,
    /// Whether to draw, on an autodiff device; cleared by [`freeze`](burn::module::Module::freeze).
    pub training: Param<Flag>,
}

/// What a [`GumbelAttention`] gives.
#[derive(Debug, Clone)]
pub struct GumbelAttentionOutput {
    /// `[B, H, Sq, E]`, in the inputs' element type.
    pub out: Tensor<4>,
    /// The key that each query chose, `[B, H, Sq, 1]`; −1 where none.
    pub indices: Tensor<4, Int>,
    /// `[B, H, Sq]`, the LSE of the scores, in f32 (f64 for f64); there if it was asked for.
    pub lse: Option<Tensor<3>>,
    /// The softmax of the scores, without noise and temperature, `[B, selected heads, selected rows, Sk]`; there if it
    /// was asked for.
    pub weights: Option<Tensor<4>>,
}

impl GumbelAttention {
    /// Attends from `query` `[B, H, Sq, D]` over `key` `[B, G, Sk, D]` and `value` `[B, G, Sk, E]`.
    ///
    /// # Errors
    /// An [`AttentionError`] that names the input or option at fault, before any work starts; a demanded kernel is
    /// refused.
    pub fn forward(
        &self,
        query: Tensor<4>,
        key: Tensor<4>,
        value: Tensor<4>,
        options: &AttentionOptions,
    ) -> Result<GumbelAttentionOutput, AttentionError> {
        check_temperature(self.temperature)?;
        options.refuse_kernels(NO_KERNEL)?;
        let logits = Logits::checked(query, key, value.clone(), options)?;
        let draws = self.training.is_enabled() && (logits.values.is_autodiff() || value.is_autodiff());
        let (out, index) = if draws && !logits.is_empty() {
            let noisy = logits.values.clone() + gumbel_noise(&logits.values);
            let index = greatest(noisy.clone().inner());
            let soft = Normaliser::Softmax.weights(noisy.div_scalar(self.temperature));
            // The soft weights less themselves: 0 exactly, with their gradient.
            let gradient = soft.clone() - soft.clone().inner();
            let hard = gradient.clone().inner().mask_fill(chosen(&index, soft.dims()), 1.0);
            (applied(logits.without_sinks(hard + gradient), value)?, index)
        } else {
            let index = greatest(logits.values.clone().inner());
            let key = logits.keys_of(index.clone());
            let [batch, heads, rows, _] = key.dims();
            let value_dim = value.dims()[3];
            (taken(value, &key).reshape([batch, heads, rows, value_dim]), index)
        };
        let weights = |selection: &Selection| selected(logits.weights(Normaliser::Softmax), selection);
        Ok(GumbelAttentionOutput {
            out: logits.with_poison(out),
            indices: logits.keys_of(index),
            lse: options.wants_lse().then(|| logits.row_lse()),
            weights: options.selection().map(weights),
        })
    }
}
