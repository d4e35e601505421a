//! Layers that attend: [`MultiHeadAttention`], the [`TransformerEncoder`] and its layer, and loading of pretrained weights.
//!
//! ```
//! use attn::nn::{AttentionOptions, MultiHeadAttentionConfig};
//! use attn::{AttentionSpec, Selection};
//! use burn::tensor::{Device, Distribution, Tensor};
//!
//! # fn main() -> Result<(), attn::AttentionError> {
//! let device = Device::default();
//! // 8 query heads share 2 key/value heads.
//! let layer = MultiHeadAttentionConfig::new(64, 8).with_kv_heads(Some(2)).init(&device)?;
//! let hidden = Tensor::<3>::random([2, 10, 64], Distribution::Default, &device); // [batch, sequence, features]
//!
//! let options = AttentionOptions::new().spec(AttentionSpec::new().with_causal(true)).with_weights(Selection::all());
//! let output = layer.self_attention(hidden, &options)?;
//! assert_eq!(output.out.dims(), [2, 10, 64]);
//! assert_eq!(output.weights.unwrap().dims(), [2, 8, 10, 10]);
//! # Ok(())
//! # }
//! ```
//!
//! | for | see |
//! | --- | --- |
//! | projections around one attention, self or cross | [`MultiHeadAttention`], [`MultiHeadAttentionConfig`] |
//! | masks, biases, windows, lengths, weights of a call | [`AttentionOptions`] |
//! | an encoder block, pre- or post-norm, and a stack of them | [`TransformerEncoderLayer`], [`TransformerEncoder`] |
//! | a decoder block, with or without a memory, and a stack | [`TransformerDecoderLayer`], [`TransformerDecoder`] |
//! | keys and values of earlier tokens, for one token at a time | [`DecoderCache`] |
//! | encoder and decoder together | [`Transformer`] |
//! | recurrent and convolutional encoders, a recurrent decoder with attention | [`seq2seq`] |
//! | greedy and beam search with any of these decoders | [`generate`] |
//! | weights from a safetensors file, by name (feature `safetensors`) | `load` |
//!
//! Layers are plain Burn modules: records, optimisers, visitors and `valid` work on them. Wrong input is an
//! [`AttentionError`](crate::AttentionError) that names the argument; nothing panics.

mod check;
mod decoder;
mod encoder;
pub mod generate;
#[cfg(feature = "safetensors")]
pub mod load;
mod multi_head;
mod options;
pub mod seq2seq;
#[cfg(test)]
mod tests;
mod transformer;

pub use decoder::{
    DecoderCache, DecoderLayerOutput, DecoderOptions, DecoderOutput, TransformerDecoder, TransformerDecoderConfig,
    TransformerDecoderLayer, TransformerDecoderLayerConfig,
};
pub use encoder::{
    Activation, EncoderLayerOutput, EncoderOutput, NormPlacement, TransformerEncoder, TransformerEncoderConfig,
    TransformerEncoderLayer, TransformerEncoderLayerConfig,
};
pub use multi_head::{MultiHeadAttention, MultiHeadAttentionConfig, MultiHeadAttentionOutput};
pub use options::AttentionOptions;
pub use transformer::{Transformer, TransformerConfig, TransformerOptions, TransformerOutput};
