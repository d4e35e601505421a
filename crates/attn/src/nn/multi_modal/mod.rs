//! Attention between modalities: co-attention, gated cross-attention, Perceiver resampler.

mod co_attention;
mod gated;
mod perceiver;

pub use co_attention::{CoAttention, CoAttentionConfig, CoAttentionOptions, CoAttentionOutput, CoAttentionStream};
pub use gated::{GatedCrossAttention, GatedCrossAttentionConfig, media_mask};
pub use perceiver::{PerceiverBlock, PerceiverResampler, PerceiverResamplerConfig};
