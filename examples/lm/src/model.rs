//! The model: bytes to the probabilities of the next, through blocks of causal attention.

#[cfg(test)]
mod tests;

use anyhow::Result;
use attn::nn::{
    AttentionOptions, DecoderCache, DecoderOptions, NormPlacement, RotaryConfig, RotaryLayout, TransformerDecoder,
    TransformerDecoderConfig, TransformerDecoderLayerConfig,
};
use attn::{AttentionError, Selection};
use burn::config::Config;
use burn::module::Module;
use burn::nn::{Embedding, EmbeddingConfig, Linear, LinearConfig};
use burn::tensor::{Device, Int, Tensor, TensorData, activation};

use crate::burns::{BurnDecoder, BurnDecoderConfig};

/// Tokens: bytes.
pub const TOKENS: usize = 256;

/// Sizes of a [`LanguageModel`].
#[derive(Config, Debug)]
pub struct LanguageModelConfig {
    /// Whether the blocks are made of Burn's own modules.
    pub of_burn: bool,
    /// The longest text.
    pub context: usize,
    /// Features of a token.
    #[config(default = 128)]
    pub d_model: usize,
    /// Query heads of a block.
    #[config(default = 4)]
    pub heads: usize,
    /// Key/value heads of a block.
    #[config(default = 2)]
    pub kv_heads: usize,
    /// Blocks.
    #[config(default = 3)]
    pub layers: usize,
}

impl LanguageModelConfig {
    /// Makes the model.
    ///
    /// # Errors
    /// A value error that names the size without a meaning.
    pub fn init(&self, device: &Device) -> Result<LanguageModel, AttentionError> {
        let body = match self.of_burn {
            true => Body::Burns(self.burns().init(device)?),
            false => Body::Ours(self.ours().init(device)?),
        };
        Ok(LanguageModel {
            tokens: EmbeddingConfig::new(TOKENS, self.d_model).init(device),
            body,
            next: LinearConfig::new(self.d_model, TOKENS).with_bias(false).init(device),
            context: self.context,
        })
    }

    fn ours(&self) -> TransformerDecoderConfig {
        // No biases: softmax does not feel that of a key, so its gradient is rounding, of which AdamW makes steps as long as any.
        let layer = TransformerDecoderLayerConfig::new(self.d_model, self.heads, 4 * self.d_model)
            .with_kv_heads(Some(self.kv_heads))
            .with_cross_attention(false)
            .with_norm(NormPlacement::Pre)
            .with_bias(false);
        // The layout of Burn's rotation.
        let rotary = RotaryConfig::new(self.d_model / self.heads.max(1), RotaryLayout::Interleaved);
        let attention = layer.attention_config().with_rotary(Some(rotary));
        TransformerDecoderConfig::new(layer.with_attention(Some(attention)), self.layers)
    }

    fn burns(&self) -> BurnDecoderConfig {
        let d_ff = 4 * self.d_model;
        BurnDecoderConfig::new(self.d_model, self.heads, self.kv_heads, d_ff, self.layers, self.context)
    }
}

/// Text to the next byte (Radford et al. 2018), with rotary positions and grouped query heads.
///
/// ```text
/// h_t          = embedding of byte t
/// h            = blocks(h)                   each position reads itself and those before
/// P(next byte) = softmax(W · norm(h_t))
/// ```
#[derive(Module, Debug)]
pub struct LanguageModel {
    tokens: Embedding,
    body: Body,
    next: Linear,
    context: usize,
}

/// The blocks.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant, reason = "a model has one, and holds parameters beside which it is small")]
pub enum Body {
    /// This library's.
    Ours(TransformerDecoder),
    /// Of Burn's own modules.
    Burns(BurnDecoder),
}

/// What a head reads of a text: a row for each byte that reads, a weight for each that is read.
pub type Head = Vec<Vec<f64>>;

/// A text that a model reads as it grows.
#[derive(Debug, Clone, Default)]
pub struct Reading {
    text: Vec<u8>,
    cache: Option<DecoderCache>,
}

impl LanguageModel {
    /// The longest text.
    pub fn context(&self) -> usize {
        self.context
    }

    /// `[batch, length]` of bytes to the logits of the next after each, `[batch, length, 256]`.
    ///
    /// # Errors
    /// An error that names what does not fit.
    pub fn logits(&self, text: Tensor<2, Int>) -> Result<Tensor<3>, AttentionError> {
        let hidden = self.tokens.forward(text);
        let hidden = match &self.body {
            Body::Ours(decoder) => decoder.forward(hidden, None, &DecoderOptions::new())?.hidden,
            Body::Burns(decoder) => decoder.forward(hidden)?,
        };
        Ok(self.next.forward(hidden))
    }

    /// The surprise `−ln P(byte)` at each byte but the first of `text` `[batch, length + 1]`, `[batch, length]`.
    ///
    /// # Errors
    /// An error that names what does not fit.
    pub fn surprise(&self, text: Tensor<2, Int>) -> Result<Tensor<2>, AttentionError> {
        let [batch, all] = text.dims();
        let length = all.saturating_sub(1);
        if length == 0 {
            return Err(AttentionError::value("text", "2 tokens or more", all));
        }
        let next = text.clone().narrow(1, 1, length).reshape([batch, length, 1]);
        let log_probabilities = activation::log_softmax(self.logits(text.narrow(1, 0, length))?, 2);
        Ok(log_probabilities.gather(2, next).neg().reshape([batch, length]))
    }

    /// The logits of the next byte after `new` more ones of a text, 256 of them. Ours keeps keys and values of those before; Burn's
    /// blocks read them again.
    ///
    /// A text that would outgrow the context is cut to its last half first, as if it began there.
    ///
    /// # Errors
    /// An error that names what does not fit.
    pub fn go_on(&self, reading: &mut Reading, new: &[u8]) -> Result<Vec<f64>> {
        let mut text = [&reading.text[..], new].concat();
        let mut cache = reading.cache.take();
        if text.len() > self.context {
            text.drain(..text.len() - (self.context / 2).max(1));
            cache = None;
        }
        let device = self.next.weight.val().device();
        let logits = match &self.body {
            Body::Ours(decoder) => {
                let mut kept = cache.map_or_else(|| decoder.cache(1), Ok)?;
                let hidden = self.tokens.forward(tensor(&[&text[kept.len()..]], &device));
                let hidden = decoder.forward_cached(hidden, &mut kept, &DecoderOptions::new())?.hidden;
                cache = Some(kept);
                self.next.forward(hidden)
            }
            Body::Burns(_) => self.logits(tensor(&[&text], &device))?,
        };
        *reading = Reading { text, cache };
        let [_, length, tokens] = logits.dims();
        let last = logits.narrow(1, length - 1, 1).reshape([tokens]);
        Ok(last.try_into_data()?.iter::<f64>().collect())
    }

    /// What each head of each block reads of a text. No block where they are Burn's, which do not tell.
    ///
    /// # Errors
    /// An error that names what does not fit.
    pub fn weights(&self, text: &[u8]) -> Result<Vec<Vec<Head>>> {
        let Body::Ours(decoder) = &self.body else { return Ok(Vec::new()) };
        let hidden = self.tokens.forward(tensor(&[text], &self.next.weight.val().device()));
        let options = DecoderOptions::new().self_attention(AttentionOptions::new().with_weights(Selection::all()));
        let mut blocks = Vec::new();
        for weights in decoder.forward(hidden, None, &options)?.weights {
            let numbers: Vec<f64> = weights.try_into_data()?.iter::<f64>().collect();
            let rows: Vec<Vec<f64>> = numbers.chunks(text.len().max(1)).map(<[f64]>::to_vec).collect();
            blocks.push(rows.chunks(text.len().max(1)).map(<[Vec<f64>]>::to_vec).collect());
        }
        Ok(blocks)
    }
}

/// Pieces of equal length as tokens, `[batch, length]`.
pub fn tensor(pieces: &[&[u8]], device: &Device) -> Tensor<2, Int> {
    let tokens: Vec<i64> = pieces.iter().copied().flatten().map(|byte| i64::from(*byte)).collect();
    let length = pieces.first().map_or(0, |piece| piece.len());
    Tensor::from_data(TensorData::new(tokens, [pieces.len(), length]), device)
}
