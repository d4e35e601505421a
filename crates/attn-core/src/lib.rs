//! Attention for the deep-learning framework Burn: one contract, the same on every backend.
//!
//! This crate says what attention means and carries one implementation for any [`Backend`](burn_backend::Backend), so that a
//! project with a backend of its own can use it alone. Faster kernels live in sibling crates that implement
//! [`AttentionKernel`] for their backends.
//!
//! # The contract
//!
//! For query `i` at absolute position `p = i + offset` and key `j`:
//!
//! ```text
//! s(i, j)  = scale · q_i·k_j                                    scale: 1/√head_dim unless given
//! s        ← softcap · tanh(s / softcap)                        if a softcap is given
//! s        ← s − slope_h · |j − p|                              if ALiBi slopes are given
//! s        ← s + table[h, R + clamp(j − p, −R, R)]              if a bias by relative position is given, 2·R + 1 wide
//! s        ← s + bias(i, j)                                     if a bias is given
//! s        ← f(s, pair)                                         if a function of the scores is given
//! s        ← −inf  where causal, window, kv_lens, mask or block mask hide
//! lse(i)   = ln( Σ_j exp s(i, j)  [+ exp sink_h] )
//! w(i, j)  = exp(s(i, j) − lse(i))
//! out(i)   = Σ_j w(i, j) · v_j                                  w times 0 or 1/(1 − p) if weights are dropped
//! ```
//!
//! A row that sees nothing gives output 0 and LSE −inf (with a sink: the sink), and zero gradients. What is hidden has no
//! influence, even NaN or infinity. Accumulation is f32 for f16, bf16 and f32, and f64 for f64.
//!
//! # Where to look
//!
//! | for | see |
//! | --- | --- |
//! | the numbers and switches | [`AttentionSpec`], [`Mask`] |
//! | a function of each score, of the caller's own | [`ScoreMod`] |
//! | which weights are dropped in training | [`Dropout`] |
//! | masks as expressions, whose empty blocks are skipped | [`MaskExpr`], [`BlockMask`] |
//! | the tensors in and out | [`AttentionInputs`], [`AttentionOutputs`] |
//! | what is checked, and the shapes after | [`Problem`], [`AttentionError`] |
//! | which kernel will serve, and its cost | [`plan::plan`], [`Plan`] |
//! | the implementation for any backend | [`composite::Composite`] |
//! | attention weights, for a person to look at | [`composite::weights`] |
//! | joining partial results | [`merge::merge`] |
//! | the answer that every kernel is judged by | [`reference`](mod@reference) |

mod band;
pub mod block_mask;
pub mod composite;
mod dropout;
mod error;
mod inputs;
mod kernel;
mod mask;
mod mask_expr;
pub mod merge;
pub mod plan;
mod problem;
pub mod reference;
mod score_mod;
mod spec;

pub use band::{Band, Coverage};
pub use block_mask::BlockMask;
pub use dropout::Dropout;
pub use error::AttentionError;
pub use inputs::{AttentionInputs, AttentionOutputs, Gradients, Upstream, Wanted};
pub use kernel::{AttentionKernel, Pass};
pub use mask::{Mask, Polarity};
pub use mask_expr::{MaskExpr, MaskShape, Pair, PairFunction};
pub use plan::{KernelChoice, PassPlan, Plan};
pub use problem::{Problem, ProblemInputs, TensorInfo};
pub use score_mod::ScoreMod;
pub use spec::{Alignment, AttentionSpec, Window};
