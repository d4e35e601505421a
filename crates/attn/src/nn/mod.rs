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
//! | rotary positions (RoPE) and their scaling | [`Rotary`], [`RotaryConfig`], [`RotaryScaling`], [`Positions`] |
//! | biases by distance: ALiBi, T5, clipped | [`alibi_slopes`], [`RelativeBias`], [`DistanceRule`] |
//! | absolute positions: sinusoids, a learned table | [`SinusoidalPositions`], [`LearnedPositions`] |
//! | norms of queries and keys | [`QkNormConfig`], [`QkNormKind`] |
//! | which heads matter, and a layer without the others | [`HeadImportance`], [`MultiHeadAttention::prune_heads`] |
//! | masks, biases, windows, lengths, weights of a call | [`AttentionOptions`] |
//! | an encoder block, pre- or post-norm, and a stack of them | [`TransformerEncoderLayer`], [`TransformerEncoder`] |
//! | documents of sentences of words; pooling | [`HierarchicalAttention`], [`AttentionPool`] |
//! | grids: axial, divided, joint space-time attention | [`AxialAttention`], [`SpaceTimeBlock`] |
//! | between modalities | [`CoAttention`], [`GatedCrossAttention`], [`PerceiverResampler`] |
//! | graphs: GATv2, Graphormer's bias and centrality | [`GraphAttention`], [`GraphormerBias`], [`CentralityEncoding`] |
//! | time linear in the length, and a state to go on from | [`LinearAttention`], [`linear_attention`], [`LinearState`] |
//! | spans that heads learn; stopping once the rest cannot matter | [`AdaptiveSpanAttention`], [`halting_attention`] |
//! | a choice of score: scaled dot, dot, bilinear, additive, cosine | [`Score`], [`ScoreKind`], [`ScoredAttention`] |
//! | weights from scores: softmax, quiet softmax, sparsemax, 1.5-entmax | [`Normaliser`], [`sparsemax`], [`entmax15`] |
//! | hard attention: sampled (REINFORCE), Gumbel straight-through, top-k | [`SampledAttention`], [`GumbelAttention`], [`TopKAttention`] |
//! | a decoder block with or without a memory, and a stack of them | [`TransformerDecoderLayer`], [`TransformerDecoder`] |
//! | keys and values of earlier tokens, for one token at a time | [`DecoderCache`] |
//! | encoder and decoder together | [`Transformer`] |
//! | recurrent and convolutional encoders, a recurrent decoder with attention | [`seq2seq`] |
//! | greedy and beam search with any of these decoders | [`generate`] |
//! | weights from a safetensors file, by name (feature `safetensors`) | `load` |
//!
//! Layers are plain Burn modules: records, optimisers, visitors and `valid` work on them. Wrong input is an
//! [`AttentionError`](crate::AttentionError) that names the argument; nothing panics.

mod adaptive;
mod check;
mod decoder;
mod encoder;
mod functions;
pub mod generate;
mod graph;
mod halting;
mod hard;
mod hierarchical;
mod linear;
#[cfg(feature = "safetensors")]
pub mod load;
mod logits;
mod multi_head;
mod multi_modal;
mod normalise;
mod options;
mod parts;
mod position;
mod score;
mod scored;
pub mod seq2seq;
mod space_time;
#[cfg(test)]
mod tests;
mod transformer;

pub use adaptive::{AdaptiveSpanAttention, AdaptiveSpanAttentionConfig};
pub use decoder::{
    DecoderCache, DecoderLayerOutput, DecoderOptions, DecoderOutput, TransformerDecoder, TransformerDecoderConfig,
    TransformerDecoderLayer, TransformerDecoderLayerConfig,
};
pub use encoder::{
    Activation, EncoderLayerOutput, EncoderOutput, NormPlacement, TransformerEncoder, TransformerEncoderConfig,
    TransformerEncoderLayer, TransformerEncoderLayerConfig,
};
pub use graph::{
    CentralityEncoding, CentralityEncodingConfig, Graph, GraphAttention, GraphAttentionConfig, GraphAttentionOutput,
    GraphormerBias, GraphormerBiasConfig, ShortestPaths, shortest_paths,
};
pub use halting::{ChunkOrder, HaltingConfig, HaltingOutput, halting_attention};
pub use hard::{
    GumbelAttention, GumbelAttentionConfig, GumbelAttentionOutput, SampledAttention, SampledAttentionConfig,
    SampledAttentionOutput, TopKAttention, TopKAttentionConfig, TopKAttentionOutput,
};
pub use hierarchical::{
    AttentionPool, AttentionPoolConfig, AttentionPoolOutput, HierarchicalAttention, HierarchicalAttentionConfig,
    HierarchicalAttentionOutput, SequenceEncoder, SequenceEncoderConfig,
};
pub use linear::{FeatureMap, LinearAttention, LinearAttentionConfig, LinearState, linear_attention};
pub use multi_head::{
    HeadImportance, HeadNorm, MultiHeadAttention, MultiHeadAttentionConfig, MultiHeadAttentionOutput, QkNormConfig,
    QkNormKind,
};
pub use multi_modal::{
    CoAttention, CoAttentionConfig, CoAttentionOptions, CoAttentionOutput, CoAttentionStream, GatedCrossAttention,
    GatedCrossAttentionConfig, PerceiverBlock, PerceiverResampler, PerceiverResamplerConfig, media_mask,
};
pub use normalise::{Normaliser, entmax15, quiet_softmax, sparsemax};
pub use options::AttentionOptions;
pub use position::{
    AlibiSlopes, DistanceRule, LearnedPositions, LearnedPositionsConfig, Positions, RelativeBias, RelativeBiasConfig,
    Rotary, RotaryConfig, RotaryLayout, RotaryScaling, SinusoidalPositions, SinusoidalPositionsConfig, alibi_slopes,
};
pub use score::{AdditiveScore, BilinearScore, CosineScore, DotScore, Score, ScoreConfig, ScoreFunction, ScoreKind};
pub use scored::{ScoredAttention, ScoredAttentionConfig};
pub use space_time::{
    AxialAttention, AxialAttentionConfig, AxialAttentionOutput, Axis, AxisConfig, SpaceTimeBlock, SpaceTimeBlockConfig,
    SpaceTimeScheme,
};
pub use transformer::{Transformer, TransformerConfig, TransformerOptions, TransformerOutput};
