//! Attention pooling: a sequence becomes one vector, by learned contexts that say what matters.

use attn_core::{AttentionError, Mask};
use burn::config::Config;
use burn::module::{Initializer, Module, Param};
use burn::nn::Linear;
use burn::tensor::{Bool, Device, Tensor, activation};

use crate::nn::check::{self, positive};
use crate::nn::parts;
use crate::{Attention, Selection};

/// Sizes of an [`AttentionPool`]; [`init`](Self::init) makes it.
#[derive(Config, Debug)]
pub struct AttentionPoolConfig {
    /// Features of a position, F.
    pub d_input: usize,
    /// Features in which positions are compared with the contexts, A.
    pub d_attention: usize,
    /// Contexts, H; each gives F features of the output.
    #[config(default = 1)]
    pub heads: usize,
    /// Whether the projection has a bias.
    #[config(default = true)]
    pub bias: bool,
    /// How projection and contexts begin.
    #[config(default = "Initializer::KaimingUniform{gain:1.0/f64::sqrt(3.0), fan_out_only:false}")]
    pub initializer: Initializer,
}

impl AttentionPoolConfig {
    /// Makes the layer on a device.
    ///
    /// # Errors
    /// A value error that names the first size that is 0.
    pub fn init(&self, device: &Device) -> Result<AttentionPool, AttentionError> {
        let (d_input, d_attention) = (positive("d_input", self.d_input)?, positive("d_attention", self.d_attention)?);
        let heads = positive("heads", self.heads)?;
        check::features("heads", heads, d_input)?;
        let shape = [heads, d_attention];
        Ok(AttentionPool {
            projection: parts::new_linear(d_input, d_attention, self.bias, &self.initializer, device),
            context: self.initializer.init_with(shape, Some(d_attention), Some(heads), device),
        })
    }

    /// Features of the pooled vector, `H·F`.
    pub fn d_output(&self) -> usize {
        self.heads.saturating_mul(self.d_input)
    }
}

/// Attention pooling (Yang et al. 2016), with several contexts as in Lin et al. 2017.
///
/// ```text
/// u_t   = tanh(W·h_t + b)                                   [B, S, A]
/// a_th  = softmax_t(u_t · c_h)   over what is not padding   [B, H, S]
/// out_h = Σ_t a_th · h_t                                    [B, H·F], the heads side by side
/// ```
///
/// It is attention of the H contexts as queries over keys u and values h with scale 1, so the kernel's rules hold: padding has no
/// influence, and a sequence of nothing but padding gives 0. Time and memory `S·(F + A + H)`, weights included.
#[derive(Module, Debug)]
pub struct AttentionPool {
    /// `W [F, A]`, `b`.
    pub projection: Linear,
    /// `c [H, A]`.
    pub context: Param<Tensor<2>>,
}

/// What an [`AttentionPool`] gives.
#[derive(Debug, Clone)]
pub struct AttentionPoolOutput {
    /// `[B, H·F]`.
    pub pooled: Tensor<2>,
    /// `a`, `[B, H, S]`, in f32 (f64 for f64).
    pub weights: Tensor<3>,
}

impl AttentionPool {
    /// Pools `hidden` `[B, S, F]`; `padding` `[B, S]` tells which positions are there.
    ///
    /// # Errors
    /// An [`AttentionError`] that names `hidden`, `padding` or the weights at fault, before any work starts.
    pub fn forward(
        &self,
        hidden: Tensor<3>,
        padding: Option<Mask<Tensor<2, Bool>>>,
    ) -> Result<AttentionPoolOutput, AttentionError> {
        let weight = self.projection.weight.val();
        let [d_input, d_attention] = check::linear("projection.weight", &self.projection, None, None)?;
        let context = self.context.val();
        let [heads, found] = context.dims();
        if found != d_attention {
            return Err(AttentionError::shape("context", format!("[heads, {d_attention}]"), &[heads, found]));
        }
        let [batch, length, _] = parts::check_input("hidden", &hidden, "batch, length", d_input, &weight)?;
        let check = |mask| parts::check_mask("padding", mask, [batch, length], &weight.device());
        let keep = padding.map(check).transpose()?;
        if batch == 0 {
            let options = (&weight.device(), weight.dtype());
            let wide = (&weight.device(), parts::accumulation(weight.dtype()));
            let pooled = Tensor::zeros([0, heads * d_input], options);
            return Ok(AttentionPoolOutput { pooled, weights: Tensor::zeros([0, heads, length], wide) });
        }
        let hidden = parts::without_padding(hidden, keep.as_ref());
        let keys = activation::tanh(parts::linear(&self.projection, hidden.clone()));
        let query = context.reshape([1, 1, heads, d_attention]).expand::<4, _>([batch, 1, heads, d_attention]);
        let keys = parts::reshaped(keys, [batch, 1, length, d_attention]);
        let values = parts::reshaped(hidden, [batch, 1, length, d_input]);
        let mut attention = Attention::new(query, keys, values).scale(1.0);
        if let Some(keep) = keep.filter(|_| length > 0) {
            let keep = keep.reshape([batch, 1, 1, length]);
            attention = attention.mask(Mask::keep(keep));
        }
        let output = attention.with_weights(Selection::all()).forward()?;
        let Some(weights) = output.weights else {
            return Err(AttentionError::value("weights", "weights that were asked for", "none"));
        };
        Ok(AttentionPoolOutput {
            pooled: output.out.reshape([batch, heads * d_input]),
            weights: parts::reshaped(weights, [batch, heads, length]),
        })
    }
}
