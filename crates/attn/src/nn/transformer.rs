//! The transformer: encoder and decoder together.

use attn_core::{AttentionError, Mask};
use burn::config::Config;
use burn::module::{Initializer, Module};
use burn::tensor::{Bool, Device, Tensor};

use super::check;
use super::decoder::{
    DecoderCache, DecoderOptions, DecoderOutput, TransformerDecoder, TransformerDecoderConfig,
    TransformerDecoderLayerConfig,
};
use super::encoder::{
    Activation, EncoderOutput, NormPlacement, TransformerEncoder, TransformerEncoderConfig,
    TransformerEncoderLayerConfig,
};
use super::options::AttentionOptions;

/// Sizes and choices of a [`Transformer`]; [`init`](Self::init) makes it.
///
/// `TransformerConfig::new(512, 8, 2048)` with `Activation::Relu` is the base model of Vaswani et al. 2017; PyTorch's
/// `nn.Transformer` ends both stacks with a norm on top, `with_final_norm(Some(true))`.
#[derive(Config, Debug)]
pub struct TransformerConfig {
    /// Features of a position, in source and target.
    pub d_model: usize,
    /// Query heads of every attention.
    pub heads: usize,
    /// Features between the two linear layers of a block.
    pub d_ff: usize,
    /// Blocks of the encoder.
    #[config(default = 6)]
    pub encoder_layers: usize,
    /// Blocks of the decoder.
    #[config(default = 6)]
    pub decoder_layers: usize,
    /// Key/value heads of every attention; `None`: as `heads`.
    pub kv_heads: Option<usize>,
    /// Where a block normalises.
    #[config(default = "NormPlacement::Post")]
    pub norm: NormPlacement,
    /// Whether one more layer norm ends each stack; `None`: with pre-norm yes, with post-norm no, as in their papers.
    pub final_norm: Option<bool>,
    /// Between the two linear layers.
    #[config(default = "Activation::Relu")]
    pub activation: Activation,
    /// Probability of dropping a feature of a sublayer's output while training, before the residual sum.
    #[config(default = 0.1)]
    pub dropout: f64,
    /// Probability of dropping an attention weight while training; see
    /// [`MultiHeadAttention`](super::MultiHeadAttention) for what it costs.
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
}

impl TransformerConfig {
    /// Makes both stacks on a device.
    ///
    /// # Errors
    /// A value error that names the first size or probability without a meaning.
    pub fn init(&self, device: &Device) -> Result<Transformer, AttentionError> {
        let encoder = TransformerEncoderLayerConfig::new(self.d_model, self.heads, self.d_ff)
            .with_kv_heads(self.kv_heads)
            .with_norm(self.norm)
            .with_activation(self.activation)
            .with_dropout(self.dropout)
            .with_attention_dropout(self.attention_dropout)
            .with_layer_norm_epsilon(self.layer_norm_epsilon)
            .with_bias(self.bias)
            .with_initializer(self.initializer.clone());
        let decoder = TransformerDecoderLayerConfig::new(self.d_model, self.heads, self.d_ff)
            .with_kv_heads(self.kv_heads)
            .with_norm(self.norm)
            .with_activation(self.activation)
            .with_dropout(self.dropout)
            .with_attention_dropout(self.attention_dropout)
            .with_layer_norm_epsilon(self.layer_norm_epsilon)
            .with_bias(self.bias)
            .with_initializer(self.initializer.clone());
        let encoder_layers = check::positive("encoder_layers", self.encoder_layers)?;
        let decoder_layers = check::positive("decoder_layers", self.decoder_layers)?;
        Ok(Transformer {
            encoder: TransformerEncoderConfig::new(encoder, encoder_layers)
                .with_final_norm(self.final_norm)
                .init(device)?,
            decoder: TransformerDecoderConfig::new(decoder, decoder_layers)
                .with_final_norm(self.final_norm)
                .init(device)?,
        })
    }
}

/// Encoder and decoder (Vaswani et al. 2017).
///
/// ```text
/// memory = encoder(source)             [batch, source_len, d_model]
/// out    = decoder(target, memory)     [batch, target_len, d_model]
/// ```
///
/// Source and target are embedded already, positions included; what turns the output into logits stands outside, too.
/// The decoder may be fed token by token: [`encode`](Self::encode) once, [`cache`](Self::cache) of its memory, then
/// [`TransformerDecoder::forward_cached`].
#[derive(Module, Debug)]
pub struct Transformer {
    /// Makes the memory.
    pub encoder: TransformerEncoder,
    /// Attends to it.
    pub decoder: TransformerDecoder,
}

/// What one call of a [`Transformer`] asks of its attentions.
///
/// The default sees the whole source, and of the target what is not later.
#[derive(Debug, Clone, Default)]
pub struct TransformerOptions {
    encoder: AttentionOptions,
    decoder: DecoderOptions,
}

impl TransformerOptions {
    /// Everything seen, the target causally; the same as `default()`.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the options of the encoder.
    pub fn encoder(mut self, options: AttentionOptions) -> Self {
        self.encoder = options;
        self
    }

    /// Sets the options of the decoder.
    pub fn decoder(mut self, options: DecoderOptions) -> Self {
        self.decoder = options;
        self
    }

    /// Hides positions of the source that are padding, `[batch, source_len]`, from the encoder and, in its memory, from
    /// the decoder.
    pub fn source_padding(mut self, mask: Mask<Tensor<2, Bool>>) -> Self {
        self.encoder = self.encoder.key_padding(mask.clone());
        self.decoder = self.decoder.memory_padding(mask);
        self
    }

    /// Hides tokens of the target that are padding, `[batch, target_len]`.
    pub fn target_padding(mut self, mask: Mask<Tensor<2, Bool>>) -> Self {
        self.decoder = self.decoder.target_padding(mask);
        self
    }
}

/// What a [`Transformer`] gives.
#[derive(Debug, Clone)]
pub struct TransformerOutput {
    /// Of the encoder; its `hidden` is the memory.
    pub encoder: EncoderOutput,
    /// Of the decoder; its `hidden` is the output.
    pub decoder: DecoderOutput,
}

/// What the encoder's errors call their arguments, and what they are called here.
const SOURCE: &[(&str, &str)] = &[
    ("hidden", "source"),
    ("query", "source"),
    ("key", "source"),
    ("value", "source"),
    ("key_padding", "source_padding"),
];

impl Transformer {
    /// Encodes `source` `[batch, source_len, d_model]` and decodes `target` `[batch, target_len, d_model]`.
    ///
    /// # Errors
    /// Names `source`, `target` or the option at fault.
    pub fn forward(
        &self,
        source: Tensor<3>,
        target: Tensor<3>,
        options: &TransformerOptions,
    ) -> Result<TransformerOutput, AttentionError> {
        if source.dims()[0] != target.dims()[0] {
            let [_, length, features] = target.dims();
            let expected = format!("[{}, {length}, {features}] (the source's batch)", source.dims()[0]);
            return Err(AttentionError::shape("target", expected, &target.dims()));
        }
        if let Some(first) = self.decoder.layers.first() {
            first.check(&target)?;
        }
        let encoder = self.encode(source, &options.encoder)?;
        let decoder = self.decoder.forward(target, Some(encoder.hidden.clone()), &options.decoder)?;
        Ok(TransformerOutput { encoder, decoder })
    }

    /// The memory of `source` `[batch, source_len, d_model]`.
    ///
    /// # Errors
    /// Names `source` or the option at fault.
    pub fn encode(&self, source: Tensor<3>, options: &AttentionOptions) -> Result<EncoderOutput, AttentionError> {
        self.encoder.forward(source, options).map_err(|error| check::renamed(error, SOURCE))
    }

    /// An empty cache of the decoder over `memory` `[batch, source_len, d_model]`, of which `padding` `[batch,
    /// source_len]` hides a part.
    ///
    /// # Errors
    /// As [`TransformerDecoder::cache_with_memory`].
    pub fn cache(
        &self,
        memory: Tensor<3>,
        padding: Option<Mask<Tensor<2, Bool>>>,
    ) -> Result<DecoderCache, AttentionError> {
        self.decoder.cache_with_memory(memory, padding)
    }
}
