//! Perceiver resampler: any number of inputs become a fixed number of latents.

use attn_core::{AttentionError, Mask};
use burn::config::Config;
use burn::module::{Initializer, Module, Param};
use burn::nn::{LayerNorm, LayerNormConfig, Linear};
use burn::tensor::{Bool, Device, Tensor};

use crate::nn::check::{self, positive};
use crate::nn::encoder::{
    Activation, NormPlacement, TransformerEncoder, TransformerEncoderConfig, TransformerEncoderLayerConfig,
};
use crate::nn::multi_head::{MultiHeadAttention, MultiHeadAttentionConfig};
use crate::nn::options::AttentionOptions;
use crate::nn::parts;

/// Sizes and choices of a [`PerceiverResampler`]; [`init`](Self::init) makes it.
#[derive(Config, Debug)]
pub struct PerceiverResamplerConfig {
    /// Features of a latent, and of the output.
    pub d_model: usize,
    /// Number of latents, L.
    pub latents: usize,
    /// Query heads.
    pub heads: usize,
    /// Blocks, one after the other.
    pub blocks: usize,
    /// Features of an input; `None`: `d_model`. Others are projected to `d_model` first.
    pub d_input: Option<usize>,
    /// Features of a head; `None`: `d_model / heads`.
    pub head_dim: Option<usize>,
    /// Features between the two linear layers; `None`: four times `d_model`.
    pub d_ff: Option<usize>,
    /// Whether latents are keys, too, beside the inputs: as in Flamingo yes, as in the Perceiver no.
    #[config(default = true)]
    pub latent_keys: bool,
    /// Transformer layers over the latents at the end of each block: as in Flamingo none, as in the Perceiver some.
    #[config(default = 0)]
    pub latent_layers: usize,
    /// Between the two linear layers.
    #[config(default = "Activation::Gelu")]
    pub activation: Activation,
    /// Added to the variance under the root of a layer norm.
    #[config(default = 1e-5)]
    pub layer_norm_epsilon: f64,
    /// How the linear layers begin.
    #[config(default = "Initializer::KaimingUniform{gain:1.0/f64::sqrt(3.0), fan_out_only:false}")]
    pub initializer: Initializer,
}

impl PerceiverResamplerConfig {
    /// Makes the resampler on a device. Latents begin normally distributed with a deviation of 0.02.
    ///
    /// # Errors
    /// A value error that names the first size without a meaning.
    pub fn init(&self, device: &Device) -> Result<PerceiverResampler, AttentionError> {
        let d_model = positive("d_model", self.d_model)?;
        let d_input = positive("d_input", self.d_input.unwrap_or(d_model))?;
        let latents = positive("latents", self.latents)?;
        let d_ff = match self.d_ff {
            Some(d_ff) => positive("d_ff", d_ff)?,
            None => check::features("d_ff", 4, d_model)?,
        };
        let epsilon = check::epsilon("layer_norm_epsilon", self.layer_norm_epsilon)?;
        let norm = || LayerNormConfig::new(d_model).with_epsilon(epsilon).init(device);
        let attention = MultiHeadAttentionConfig::new(d_model, self.heads)
            .with_head_dim(self.head_dim)
            .with_initializer(self.initializer.clone());
        let layer = TransformerEncoderLayerConfig::new(d_model, self.heads, d_ff)
            .with_norm(NormPlacement::Pre)
            .with_activation(self.activation)
            .with_layer_norm_epsilon(epsilon)
            .with_initializer(self.initializer.clone());
        let own = TransformerEncoderConfig::new(layer, self.latent_layers).with_final_norm(Some(false));
        let block = |_| -> Result<PerceiverBlock, AttentionError> {
            Ok(PerceiverBlock {
                attention: attention.init(device)?,
                latent_norm: norm(),
                input_norm: norm(),
                linear_inner: parts::new_linear(d_model, d_ff, true, &self.initializer, device),
                linear_outer: parts::new_linear(d_ff, d_model, true, &self.initializer, device),
                feed_forward_norm: norm(),
                encoder: (self.latent_layers > 0).then(|| own.init(device)).transpose()?,
                activation: self.activation,
                latent_keys: self.latent_keys,
            })
        };
        Ok(PerceiverResampler {
            latents: Initializer::Normal { mean: 0.0, std: 0.02 }.init([latents, d_model], device),
            input: (d_input != d_model).then(|| parts::new_linear(d_input, d_model, true, &self.initializer, device)),
            blocks: (0..positive("blocks", self.blocks)?).map(block).collect::<Result<_, _>>()?,
            norm: norm(),
        })
    }
}

/// A block of a [`PerceiverResampler`].
#[derive(Module, Debug)]
pub struct PerceiverBlock {
    /// From the latents to the inputs (and the latents).
    pub attention: MultiHeadAttention,
    /// `norm_l`.
    pub latent_norm: LayerNorm,
    /// `norm_x`.
    pub input_norm: LayerNorm,
    /// `W_inner [d_model, d_ff]`.
    pub linear_inner: Linear,
    /// `W_outer [d_ff, d_model]`.
    pub linear_outer: Linear,
    /// `norm_f`.
    pub feed_forward_norm: LayerNorm,
    /// Over the latents alone, where the config asks for it.
    pub encoder: Option<TransformerEncoder>,
    #[module(skip)]
    activation: Activation,
    latent_keys: bool,
}

/// Perceiver resampler (Perceiver, Jaegle et al. 2021; as in Flamingo, Alayrac et al. 2022).
///
/// ```text
/// l = the learned latents                            [B, L, d_model]
/// x = inputs, projected where their width differs    [B, M, d_model]
/// in every block:
///   k = [norm_x(x) ; norm_l(l)]    or norm_x(x) alone
///   l ← l + attention(query norm_l(l), key and value k)
///   l ← l + W_outer · activation(W_inner · norm_f(l) + b) + b
///   l ← transformer layers over l, if there are any
/// out = norm(l)
/// ```
///
/// Time in `blocks·L·(M + L)`, memory linear in `L + M`: the attentions are [`MultiHeadAttention`]s. The resampler knows no
/// positions: add them to the inputs.
///
/// ```
/// use attn::nn::PerceiverResamplerConfig;
/// use burn::tensor::{Device, Distribution, Tensor};
///
/// # fn main() -> Result<(), attn::AttentionError> {
/// let device = Device::default();
/// // Whatever the length, 8 latents read it.
/// let resampler = PerceiverResamplerConfig::new(16, 8, 4, 2).init(&device)?;
/// let frames = Tensor::<3>::random([2, 300, 16], Distribution::Default, &device); // [batch, length, features]
/// assert_eq!(resampler.forward(frames, None)?.dims(), [2, 8, 16]);
/// # Ok(())
/// # }
/// ```
#[derive(Module, Debug)]
pub struct PerceiverResampler {
    /// `[L, d_model]`.
    pub latents: Param<Tensor<2>>,
    /// `[d_input, d_model]`, where these differ.
    pub input: Option<Linear>,
    /// First to last.
    pub blocks: Vec<PerceiverBlock>,
    /// Ends the stack.
    pub norm: LayerNorm,
}

impl PerceiverResampler {
    /// Gives `[B, L, d_model]` for `inputs` `[B, M, d_input]`; `padding` `[B, M]` tells which inputs are there.
    ///
    /// # Errors
    /// An [`AttentionError`] that names `inputs`, `padding` or the weights at fault.
    pub fn forward(
        &self,
        inputs: Tensor<3>,
        padding: Option<Mask<Tensor<2, Bool>>>,
    ) -> Result<Tensor<3>, AttentionError> {
        let latents = self.latents.val();
        let [count, d_model] = latents.dims();
        let d_input = match &self.input {
            Some(linear) => check::linear("input.weight", linear, None, Some(d_model))?[0],
            None => d_model,
        };
        self.blocks.iter().try_for_each(|block| block.check(d_model))?;
        check::norm("norm", &self.norm, d_model)?;
        let [batch, length, _] = parts::check_input("inputs", &inputs, "batch, length", d_input, &latents)?;
        let check = |mask| parts::check_mask("padding", mask, [batch, length], &latents.device());
        let keep = padding.map(check).transpose()?;
        if batch == 0 {
            return Ok(Tensor::zeros([0, count, d_model], (&latents.device(), latents.dtype())));
        }
        let inputs = parts::without_padding(inputs, keep.as_ref());
        let inputs = match &self.input {
            Some(linear) => parts::linear(linear, inputs),
            None => inputs,
        };
        let mut hidden = latents.unsqueeze_dim::<3>(0).expand::<3, _>([batch, count, d_model]);
        for block in &self.blocks {
            hidden = block.forward(hidden, inputs.clone(), keep.clone())?;
        }
        Ok(parts::norm(&self.norm, hidden))
    }
}

impl PerceiverBlock {
    fn forward(
        &self,
        latents: Tensor<3>,
        inputs: Tensor<3>,
        keep: Option<Tensor<2, Bool>>,
    ) -> Result<Tensor<3>, AttentionError> {
        let [batch, count, _] = latents.dims();
        let [_, length, _] = inputs.dims();
        let query = parts::norm(&self.latent_norm, latents.clone());
        let mut keys = parts::norm(&self.input_norm, inputs);
        let mut keep = keep;
        if self.latent_keys {
            keys = if length == 0 { query.clone() } else { Tensor::cat(vec![keys, query.clone()], 1) };
            keep = keep.filter(|_| length > 0).map(|keep| {
                let all = Tensor::<2>::zeros([batch, count], &keep.device()).equal_elem(0.0);
                Tensor::cat(vec![keep, all], 1)
            });
        }
        let options = AttentionOptions::new();
        let options = keep.map_or(options.clone(), |keep| options.key_padding(Mask::keep(keep)));
        let hidden = latents + self.attention.forward(query, keys.clone(), keys, &options)?.out;
        let normed = parts::norm(&self.feed_forward_norm, hidden.clone());
        let hidden = hidden + parts::feed_forward(&self.linear_inner, &self.linear_outer, self.activation, normed);
        match &self.encoder {
            Some(encoder) => Ok(encoder.forward(hidden, &AttentionOptions::new())?.hidden),
            None => Ok(hidden),
        }
    }

    fn check(&self, d_model: usize) -> Result<(), AttentionError> {
        let [_, d_ff] = check::linear("linear_inner.weight", &self.linear_inner, Some(d_model), None)?;
        check::linear("linear_outer.weight", &self.linear_outer, Some(d_ff), Some(d_model))?;
        check::linear("output.weight", &self.attention.output, None, Some(d_model))?;
        check::norm("latent_norm", &self.latent_norm, d_model)?;
        check::norm("input_norm", &self.input_norm, d_model)?;
        check::norm("feed_forward_norm", &self.feed_forward_norm, d_model)
    }
}
