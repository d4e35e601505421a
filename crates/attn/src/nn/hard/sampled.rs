//! Hard attention by sampling, trained by REINFORCE.

use attn_core::AttentionError;
use burn::config::Config;
use burn::module::{Flag, Module, Param, RunningState};
use burn::tensor::{Device, FloatDType, Int, Tensor};

use super::NO_KERNEL;
use super::choice::{greatest, gumbel_noise, taken};
use crate::attention::check_devices;
use crate::nn::AttentionOptions;
use crate::nn::check::positive;
use crate::nn::logits::Logits;
use crate::nn::multi_head::selected;
use crate::nn::normalise::{Normaliser, hidden, wide};

/// Choices of a [`SampledAttention`]; [`init`](Self::init) makes the layer.
#[derive(Config, Debug)]
pub struct SampledAttentionConfig {
    /// Keys that each query draws in training, independently and with replacement, n.
    #[config(default = 1)]
    pub samples: usize,
    /// How much of the baseline stays with each step, in `[0, 1]`; at 1 it stays where it is.
    #[config(default = 0.9)]
    pub baseline_decay: f64,
    /// Weight λ of the entropy in the surrogate loss; finite.
    #[config(default = 0.0)]
    pub entropy_weight: f64,
}

impl SampledAttentionConfig {
    /// Makes the layer; on the device lies its baseline.
    ///
    /// # Errors
    /// A value error that names the first number without a meaning.
    pub fn init(&self, device: &Device) -> Result<SampledAttention, AttentionError> {
        let decay = self.baseline_decay;
        if !(0.0..=1.0).contains(&decay) {
            return Err(AttentionError::value("baseline_decay", "a number in [0, 1]", decay));
        }
        if !self.entropy_weight.is_finite() {
            return Err(AttentionError::value("entropy_weight", "a finite number", self.entropy_weight));
        }
        Ok(SampledAttention {
            baseline: RunningState::new(Tensor::zeros([1], device)),
            training: Param::from_bool(true),
            samples: positive("samples", self.samples)?,
            baseline_decay: decay,
            entropy_weight: self.entropy_weight,
        })
    }
}

/// Each query takes the mean value of n keys drawn from the softmax of its scores (Xu et al. 2015, "hard"), and the
/// scores learn from a reward (REINFORCE: Williams 1992; for attention: Mnih et al. 2014).
///
/// ```text
/// c_1 … c_n  drawn from softmax(s_i)                                     out_i = 1/n · Σ_t v_{c_t}
///
/// loss       = −1/B · Σ_b [ (r_b − r̄) · Σ_{h,i,t} ln p(c_t) + λ · Σ_{h,i} H(p_i) ]           (the surrogate)
/// r̄          ← decay · r̄ + (1 − decay) · 1/B · Σ_b r_b                                       (after the loss)
/// ```
///
/// Axes: query `[B, H, Sq, D]`, key `[B, G, Sk, D]`, value `[B, G, Sk, E]`, out `[B, H, Sq, E]`; r_b is the reward of
/// batch entry b, which nothing differentiates. The expected gradient of the surrogate is that of `−E[r] − λ·H`; the
/// baseline r̄, which begins at 0, changes its variance alone. `out` itself is differentiable by the values and not by
/// the scores, so that the values learn by any loss of the output, which stands beside the surrogate in the sum.
///
/// It draws in training alone: where one of the inputs is on an autodiff device, and the layer not frozen. Else each
/// query takes the key of its greatest score (the first among equals), once, and nothing is drawn. Draws come from the
/// device's generator; seed it by [`Device::seed`](burn::tensor::Device::seed).
///
/// Drawing needs the scores of all keys: they and the noise are in memory, `Sq·Sk`. Values are read for the chosen keys
/// alone, time `Sq·n·E`. A sink is one more logit; where it is drawn, and where a row sees nothing, the choice is −1
/// and its value 0.
#[derive(Module, Debug)]
pub struct SampledAttention {
    /// r̄ `[1]`: a running mean of the rewards, part of records and no optimiser's business.
    pub baseline: RunningState<Tensor<1>>,
    /// Whether to draw, on an autodiff device; cleared by [`freeze`](burn::module::Module::freeze).
    pub training: Param<Flag>,
    samples: usize,
    baseline_decay: f64,
    entropy_weight: f64,
}

/// What a [`SampledAttention`] gives.
#[derive(Debug, Clone)]
pub struct SampledAttentionOutput {
    /// `[B, H, Sq, E]`, in the inputs' element type.
    pub out: Tensor<4>,
    /// The keys that each query chose, `[B, H, Sq, n]` (n is 1 where nothing is drawn); −1 where none.
    pub indices: Tensor<4, Int>,
    /// `ln p` of each choice, `[B, H, Sq, n]`, in f32 (f64 for f64), differentiable by the scores; 0 where there was
    /// nothing to choose from, `−inf` for a hidden key that [`evaluate`](SampledAttention::evaluate) was given.
    pub log_probs: Tensor<4>,
    /// `−Σ p·ln p` of each row, `[B, H, Sq]`, likewise.
    pub entropy: Tensor<3>,
    /// `[B, H, Sq]`, the LSE of the scores; there if it was asked for.
    pub lse: Option<Tensor<3>>,
    /// The softmax that is drawn from, `[B, selected heads, selected rows, Sk]`; there if it was asked for.
    pub weights: Option<Tensor<4>>,
}

impl SampledAttention {
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
    ) -> Result<SampledAttentionOutput, AttentionError> {
        options.refuse_kernels(NO_KERNEL)?;
        let logits = Logits::checked(query, key, value.clone(), options)?;
        let draws = self.training.is_enabled() && (logits.values.is_autodiff() || value.is_autodiff());
        let scores = logits.values.clone().inner();
        let columns = if draws && !logits.is_empty() {
            let draw = |_| greatest(scores.clone() + gumbel_noise(&scores));
            Tensor::cat((0..self.samples).map(draw).collect(), 3)
        } else {
            greatest(scores)
        };
        Ok(outcome(&logits, columns, value, options))
    }

    /// What [`forward`](Self::forward) would give had it chosen these keys: `indices` `[B, H, Sq, n]`, any n. What is
    /// no key counts as −1: the sink where there is one, else nothing.
    ///
    /// # Errors
    /// As [`forward`](Self::forward), and names `indices` where their shape or device does not fit.
    pub fn evaluate(
        &self,
        query: Tensor<4>,
        key: Tensor<4>,
        value: Tensor<4>,
        options: &AttentionOptions,
        indices: Tensor<4, Int>,
    ) -> Result<SampledAttentionOutput, AttentionError> {
        options.refuse_kernels(NO_KERNEL)?;
        let [batch, heads, query_len, _] = query.dims();
        let [found @ .., samples] = indices.dims();
        if found != [batch, heads, query_len] || samples == 0 {
            let expected = format!("[{batch}, {heads}, {query_len}, samples of at least 1]");
            return Err(AttentionError::shape("indices", expected, &indices.dims()));
        }
        check_devices(&query.device(), &[("indices", Some(indices.device()))])?;
        let logits = Logits::checked(query, key, value.clone(), options)?;
        let keys = logits.keys as i64;
        let none = if logits.has_sinks() { keys } else { -1 };
        let outside = indices.clone().lower_elem(0).bool_or(indices.clone().greater_equal_elem(keys));
        Ok(outcome(&logits, indices.inner().mask_fill(outside.inner(), none), value, options))
    }

    /// The loss `[1]` by whose gradient the scores learn from `reward` `[B]`, in the type of the log-probabilities;
    /// then moves the baseline. Minimise it.
    ///
    /// # Errors
    /// Names `reward` where its shape or device does not fit the output.
    pub fn surrogate(&self, output: &SampledAttentionOutput, reward: Tensor<1>) -> Result<Tensor<1>, AttentionError> {
        let [batch, heads, rows, samples] = output.log_probs.dims();
        if reward.dims() != [batch] {
            return Err(AttentionError::shape("reward", format!("[{batch}] (batch)"), &reward.dims()));
        }
        let device = output.log_probs.device();
        check_devices(&device, &[("reward", Some(reward.device()))])?;
        crate::attention::check_dtypes("reward", reward.dtype(), &[])?;
        let dtype = output.log_probs.dtype();
        if batch * heads * rows == 0 {
            return Ok(Tensor::zeros([1], (&device, dtype)));
        }
        let as_log_probs = |tensor: Tensor<1>| tensor.cast(FloatDType::from(dtype));
        let reward = reward.inner();
        let baseline = self.baseline.value_sync().inner().to_device(&reward.device());
        let advantage = as_log_probs(reward.clone()) - as_log_probs(baseline.clone());
        let log_probs: Tensor<1> =
            output.log_probs.clone().reshape([batch, heads * rows * samples]).sum_dim(1).reshape([batch]);
        let gain = (advantage * log_probs).sum() + output.entropy.clone().sum().mul_scalar(self.entropy_weight);

        let stays = self.baseline_decay;
        let mean = wide(reward).mean().cast(FloatDType::from(baseline.dtype()));
        self.baseline.update(baseline.mul_scalar(stays) + mean.mul_scalar(1.0 - stays));
        Ok(gain.div_scalar(-(batch as f64)))
    }

    /// Keys that each query draws in training, n.
    pub fn samples(&self) -> usize {
        self.samples
    }
}

/// The output of the chosen columns `[B, H, Sq, n]` of the logits.
fn outcome(
    logits: &Logits,
    columns: Tensor<4, Int>,
    value: Tensor<4>,
    options: &AttentionOptions,
) -> SampledAttentionOutput {
    let [batch, heads, rows, samples] = columns.dims();
    let value_dim = value.dims()[3];
    let indices = logits.keys_of(columns.clone());
    let narrow = FloatDType::from(value.dtype());
    let taken = wide(taken(value, &indices));
    let out = if samples == 1 { taken } else { taken.sum_dim(3).div_scalar(samples as f64) };
    let out = out.cast(narrow).reshape([batch, heads, rows, value_dim]);
    let (log_probs, entropy) = likelihood(logits, columns);
    SampledAttentionOutput {
        out: logits.with_poison(out),
        indices,
        log_probs,
        entropy,
        lse: options.wants_lse().then(|| logits.row_lse()),
        weights: options.selection().map(|selection| selected(logits.weights(Normaliser::Softmax), selection)),
    }
}

/// `ln p` of the columns, `[B, H, Sq, n]`, and the entropy of the rows, `[B, H, Sq]`.
fn likelihood(logits: &Logits, columns: Tensor<4, Int>) -> (Tensor<4>, Tensor<3>) {
    let shape @ [batch, heads, rows, _] = columns.dims();
    if logits.is_empty() {
        let options = (&logits.values.device(), logits.values.dtype());
        return (Tensor::zeros(shape, options), Tensor::zeros([batch, heads, rows], options));
    }
    let lse = logits.lse();
    let nothing = lse.clone().inner().equal_elem(f64::NEG_INFINITY);
    let log_p = logits.values.clone() - lse.mask_fill(nothing, 0.0);
    let none = columns.clone().lower_elem(0);
    let log_probs = log_p.clone().gather(3, columns.clamp_min(0)).mask_fill(none, 0.0);
    let log_p = log_p.mask_fill(hidden(&logits.values), 0.0);
    let entropy = (Normaliser::Softmax.weights(logits.values.clone()) * log_p).sum_dim(3).neg();
    (log_probs, entropy.reshape([batch, heads, rows]))
}
