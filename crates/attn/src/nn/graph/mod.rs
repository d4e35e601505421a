//! Attention over graphs: GATv2, and Graphormer's bias and centrality encoding.

mod gat;
mod graphormer;
mod paths;

pub use gat::{Graph, GraphAttention, GraphAttentionConfig, GraphAttentionOutput};
pub use graphormer::{CentralityEncoding, CentralityEncodingConfig, GraphormerBias, GraphormerBiasConfig};
pub use paths::{ShortestPaths, shortest_paths};
