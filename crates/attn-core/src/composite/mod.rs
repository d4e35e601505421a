//! Attention for any backend, made of Burn's own tensor operations: chunked over queries and keys with an online softmax, so
//! that memory is linear in the lengths; the backward recomputes the scores.
//!
//! # Forward
//!
//! ```text
//! for each tile of queries:
//!     m, l, acc = sink or −inf, exp(sink − m) or 0, 0
//!     for each tile of keys that some query of the tile may see:
//!         s     = scores(tile), hidden ones −inf
//!         m'    = max(m, row max of s)
//!         p     = exp(s − m')
//!         l     = l · exp(m − m') + row sum of p
//!         acc   = acc · exp(m − m') + p · V
//!         m     = m'
//!     out = acc / l (0 where l = 0);  lse = m + ln l
//! ```
//!
//! (Milakov and Gimelshein 2018; Rabe and Staats 2021; Dao et al. 2022.)
//!
//! # Backward
//!
//! With `p = exp(s − lse)`, `δ_i = Σ_e dOut·out`, for each tile again (where one tile holds all that its rows see, `p` is normalised
//! anew and `δ_i = Σ_j p·(dOut·Vᵀ)`, which loses less):
//! `dS = p ∘ (dOut·Vᵀ − δ + dLse)`, `dV += pᵀ·dOut`, then through bias, ALiBi, softcap and scale,
//! `dQ += dS·K`, `dK += dSᵀ·Q`.
//!
//! # Dropout
//!
//! Its factors are made on the host, a tile at a time, and multiply `p` as it meets `V` and `dOut`, and `dOut·Vᵀ`.
//!
//! # Products in f32
//!
//! Burn's CUDA backend multiplies f32 with 11 of its 24 bits. There a product is the sum of three, of factors cut in two
//! ([`product_in_parts`]).
//!
//! # What is hidden never matters
//!
//! Scores are replaced, not multiplied, where they are hidden. In products a hidden pair has weight 0, but `0 · NaN` is NaN: so
//! where something may be hidden and a tensor holds NaN or infinity (read back once a call), the product runs on a cleaned tensor
//! and the visible non-finite terms are added after it.

mod additive;
mod backward;
mod context;
mod finite;
mod forward;
mod modified;
mod ops;
mod product;
mod relative;
mod weights;

use burn_backend::tensor::Device;
use burn_backend::{Backend, FloatDType};

use crate::{
    AttentionError, AttentionInputs, AttentionKernel, AttentionOutputs, Gradients, Pass, Problem, Upstream, Wanted,
};

pub use additive::{additive_gradients, additive_scores};
pub use product::product_in_parts;
pub use weights::{Selection, apply_weights, scores, weights};

/// The kernel named `composite`: serves every problem in both directions on every backend.
#[derive(Debug, Clone, Copy, Default)]
pub struct Composite;

/// Name of the [`Composite`] kernel.
pub const NAME: &str = "composite";

impl<B: Backend> AttentionKernel<B> for Composite {
    fn name(&self) -> &'static str {
        NAME
    }

    fn supports(&self, _device: &Device<B>, problem: &Problem, pass: Pass) -> Result<(), String> {
        match pass {
            Pass::Forward => Ok(()),
            Pass::Backward => problem.check_differentiable().map_err(|error| error.to_string()),
        }
    }

    fn workspace_bytes(&self, _device: &Device<B>, problem: &Problem, pass: Pass) -> u64 {
        workspace_bytes(problem, pass)
    }

    fn forward(
        &self,
        problem: &Problem,
        inputs: AttentionInputs<B>,
        lse: bool,
    ) -> Result<AttentionOutputs<B>, AttentionError> {
        forward::forward(problem, &inputs, lse)
    }

    fn backward(
        &self,
        problem: &Problem,
        inputs: AttentionInputs<B>,
        upstream: Upstream<B>,
        wanted: Wanted,
    ) -> Result<Gradients<B>, AttentionError> {
        problem.check_differentiable()?;
        backward::backward(problem, &inputs, upstream, wanted)
    }
}

/// Elements of one tile of scores over all heads and batch entries: 4 Mi, 16 MiB in f32. Large enough that a tile's matrix
/// products outweigh the calls around them, small enough that a handful of temporaries stay below 100 MiB.
const TILE_ELEMENTS: usize = 1 << 22;
/// Keys of a tile: long inner products and few rescalings of the accumulator.
const TILE_KEYS: usize = 1024;
/// Queries of a tile at least, however many heads there are.
const TILE_MIN_ROWS: usize = 16;
/// Temporaries of a tile's size alive at once, forward and backward (scores, mask, softmax, products and their copies).
const TILE_COPIES: (u64, u64) = (6, 10);
/// More of them where scores go to the host and back, as f64: by their function, and its slope.
const HOST_COPIES: u64 = 8;
/// More of them where weights are dropped: factors on the host as f64, on the device, and what they multiply.
const DROPOUT_COPIES: u64 = 4;
/// More of them where there is a bias by relative position: the diagonals' copies, sheared and cut.
const RELATIVE_COPIES: u64 = 3;

/// Queries and keys of a tile.
pub(crate) fn tile_shape(problem: &Problem) -> (usize, usize) {
    let keys = problem.key_len.clamp(1, TILE_KEYS);
    let heads = (problem.batch * problem.heads).max(1);
    let rows = (TILE_ELEMENTS / (heads * keys)).max(TILE_MIN_ROWS);
    (rows.min(problem.query_len.max(1)), keys)
}

fn workspace_bytes(problem: &Problem, pass: Pass) -> u64 {
    let element = match problem.accumulation() {
        FloatDType::F64 => 8,
        _ => 4,
    };
    let (rows, keys) = tile_shape(problem);
    let (heads, kv_heads) = (problem.batch * problem.heads, problem.batch * problem.kv_heads);
    let dims = problem.head_dim + problem.value_dim;
    let tile = (heads * rows * keys) as u64;
    let rows_copies = (heads * rows * (dims + 4)) as u64 * 3;
    let keys_copies = (kv_heads * keys * dims) as u64 * 2;
    let query_side = (heads * problem.query_len * problem.value_dim) as u64;
    let (copies, whole) = match pass {
        // The tiles of the output, before they are joined.
        Pass::Forward => (TILE_COPIES.0, query_side),
        // δ and the gradients in the accumulation type, before they are joined and cast.
        Pass::Backward => (
            TILE_COPIES.1,
            (heads * problem.query_len * (problem.head_dim + 2)) as u64 * 2
                + (kv_heads * problem.key_len * dims) as u64 * 2
                + problem.bias.map_or(0, |shape| shape.iter().product::<usize>() as u64 * 2),
        ),
    };
    let copies = if problem.score_mod.is_some() { copies + HOST_COPIES } else { copies };
    let copies = if problem.relative_bias.is_some() { copies + RELATIVE_COPIES } else { copies };
    let copies = if problem.dropout.is_some() { copies + DROPOUT_COPIES } else { copies };
    element * (tile * copies + rows_copies + keys_copies + whole)
}
