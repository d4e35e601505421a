//! Hard attention: a query takes the values of a few chosen keys, and nothing of the others.

mod choice;
mod gumbel;
mod sampled;
mod top_k;

pub use gumbel::{GumbelAttention, GumbelAttentionConfig, GumbelAttentionOutput};
pub use sampled::{SampledAttention, SampledAttentionConfig, SampledAttentionOutput};
pub use top_k::{TopKAttention, TopKAttentionConfig, TopKAttentionOutput};

/// Why no kernel can be demanded of a layer that chooses keys at random.
const NO_KERNEL: &str = "the keys are chosen by their scores, which are made in memory";
