//! How much the loss depends on each head.

use attn_core::AttentionError;
use burn::tensor::{FloatDType, Gradients, Tensor};

use super::MultiHeadAttention;
use crate::nn::parts::accumulation;

/// The importance of a layer's query heads, a mean over batches (Michel et al. 2019, equation 2).
///
/// ```text
/// I_h = mean over batches of |Σ out_h · ∂L/∂out_h|          out_h: the head's output [B, Sq, E], summed over all of it
/// ```
///
/// That sum is the gradient by a factor of the head at 1. It is had without the factor, from what training computes anyway:
/// `∂L/∂W_o = outᵀ·∂L/∂(out·W_o)`, so `Σ out_h · ∂L/∂out_h = Σ W_o ⊙ ∂L/∂W_o` over the head's rows of `W_o`. The model is not
/// changed, and every layer is judged by the same backward pass, in time and memory of `W_o`.
///
/// The paper's mean is over single examples: give batches of one for that; in a larger batch examples may cancel.
///
/// ```
/// use attn::nn::{AttentionOptions, HeadImportance, MultiHeadAttentionConfig};
/// use burn::tensor::{Device, Distribution, Tensor};
///
/// # fn main() -> Result<(), attn::AttentionError> {
/// let device = Device::default().autodiff();
/// let layer = MultiHeadAttentionConfig::new(32, 4).init(&device)?;
/// let mut importance = HeadImportance::new();
/// for _ in 0..3 {
///     let hidden = Tensor::random([1, 7, 32], Distribution::Default, &device);
///     let loss = layer.self_attention(hidden, &AttentionOptions::new())?.out.powi_scalar(2).mean();
///     importance.update(&layer, &loss.backward())?;
/// }
/// let least = importance.ranked()?[0].0;
/// let smaller = layer.prune_heads(&[least])?;
/// assert_eq!(smaller.heads(), 3);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default)]
pub struct HeadImportance {
    /// `[H]`, without autodiff, in f32 (f64 for f64).
    sum: Option<Tensor<1>>,
    batches: usize,
}

impl HeadImportance {
    /// Of no batch yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a batch: the gradients of its loss, by the layer that computed it. Nothing is read back from the device.
    ///
    /// # Errors
    /// Names `gradients` where they hold none for the weight of the output projection (it is frozen or reparameterised, or the loss
    /// does not depend on it), and `layer` where it has another number of heads than those before.
    pub fn update(&mut self, layer: &MultiHeadAttention, gradients: &Gradients) -> Result<(), AttentionError> {
        layer.check_parameters()?;
        let weight = layer.output.weight.val();
        let Some(gradient) = weight.grad(gradients) else {
            return Err(AttentionError::value("gradients", "the gradient of output.weight", "none"));
        };
        let wide: FloatDType = accumulation(weight.dtype()).into();
        let products = weight.without_autodiff().cast(wide) * gradient.without_autodiff().cast(wide);
        let [rows, d_out] = products.dims();
        let heads = layer.heads();
        let of_batch: Tensor<1> = products.reshape([heads, rows / heads * d_out]).sum_dim(1).reshape([heads]).abs();
        self.sum = Some(match self.sum.take() {
            None => of_batch,
            Some(sum) if sum.dims() == [heads] => sum + of_batch,
            Some(sum) => {
                let error = AttentionError::value("layer", format!("{} heads, as before", sum.dims()[0]), heads);
                self.sum = Some(sum);
                return Err(error);
            }
        });
        self.batches += 1;
        Ok(())
    }

    /// Batches seen.
    pub fn batches(&self) -> usize {
        self.batches
    }

    /// `I_h`, `[H]`, in f32 (f64 for f64).
    ///
    /// # Errors
    /// Names `batches` where there was none.
    pub fn scores(&self) -> Result<Tensor<1>, AttentionError> {
        match &self.sum {
            Some(sum) => Ok(sum.clone().div_scalar(self.batches as f64)),
            None => Err(AttentionError::value("batches", "at least 1", 0)),
        }
    }

    /// `I_h` over the layer's Euclidean norm, `[H]`: what the paper compares between layers. Zeros where all are 0.
    ///
    /// # Errors
    /// As [`scores`](Self::scores).
    pub fn normalised(&self) -> Result<Tensor<1>, AttentionError> {
        let scores = self.scores()?;
        let norm = (scores.clone() * scores.clone()).sum().sqrt();
        let divisor = norm.clone().mask_fill(norm.equal_scalar(0.0), 1.0);
        Ok(scores / divisor)
    }

    /// Heads and their `I_h`, the least important first. This reads them from the device.
    ///
    /// # Errors
    /// As [`scores`](Self::scores), and an execution error where the backend cannot give them.
    pub fn ranked(&self) -> Result<Vec<(usize, f64)>, AttentionError> {
        let failed = |reason: String| AttentionError::Execution { kernel: "read-back".into(), reason };
        let data = self.scores()?.try_into_data().map_err(|error| failed(error.to_string()))?;
        let scores = data.convert::<f64>().try_to_vec::<f64>().map_err(|error| failed(error.to_string()))?;
        let mut ranked: Vec<(usize, f64)> = scores.into_iter().enumerate().collect();
        ranked.sort_by(|a, b| a.1.total_cmp(&b.1));
        Ok(ranked)
    }
}
