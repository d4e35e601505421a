//! The backward pass: gradients by every input, the scores made again block by block, so that memory is linear in the lengths.
//!
//! With `P = exp(S − LSE)` and `δᵢ = Σ dOut·out` (Dao et al., FlashAttention, 2022, appendix B.4):
//!
//! ```text
//! δᵢ and the LSE, row by row                                                          delta.rs
//! where the LSE of a tile is large:  max, sum and Σ P·dP of its rows anew             rows.rs, `refine`
//! for each tile of rows:   dS = P ∘ (dP − δ + dLse),  dQ = scale · Σ dS'·k            rows.rs
//! for each tile of keys:   dK = scale · Σ dS'·q,  dV = Σ P·dOut, over the group       keys.rs
//! for each number of a bias, or of a table by relative position:  Σ dS of its pairs   pairs.rs
//! for each slope, sink, and end of a table:  the sum of what its rows gave            totals.rs
//! ```
//!
//! dP is `dOut·v`, and dS' is dS times the softcap's slope.
//!
//! **The same bits each time.** Whatever is a sum over units is a sum of one unit, in an order that the lengths alone decide: a unit
//! has rows or keys of its own and goes over all that concern them. That makes scores twice, by rows and by keys, and is what the
//! absence of atomics costs: seven products where five would do.
//!
//! **Large scores.** An LSE of 1000 in f32 is off by 3·10⁻⁵, and so would be each weight. A row whose weight is all on one key has
//! gradients of exactly 0, but of a rounding error times a large key where δ comes from the output. So tiles of rows with an LSE beyond
//! [`LARGE`](rows::LARGE) take their maximum, sum and δ from the very products that the other kernels will make again, to the bit.
//!
//! **What is hidden never matters.** Scores are replaced where hidden, and rows and keys whose weight or gradient is 0 are not taken.

pub mod delta;
pub mod keys;
pub mod pairs;
pub mod rows;
pub mod totals;

/// Numbers of a row's statistics: what is taken from its scores before `exp`, the factor of that, δ − dLse, and dLse.
///
/// `P = exp(S − base) · factor`: the base is the LSE and the factor 1, or the base is the largest score, and the factor makes the sum 1.
/// Rows that see nothing have 0 for a base.
pub const STATISTICS: usize = 4;
/// Where the factor is.
const FACTOR: usize = 1;
/// Where δ − dLse is.
const SHIFT: usize = 2;
/// Where dLse is.
const GRAD_LSE: usize = 3;

/// Numbers of a row's sums of dS: by the slope, −Σ dS·|j − p|, and of the keys at and past either end of a table by relative position.
pub const SUMS: usize = 3;

/// How a kernel's units go over a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Block {
    /// Rows, or keys, that are a unit's own.
    pub own: usize,
    /// Keys, or rows, that it takes at a time.
    pub block: usize,
    /// The same where some pairs are hidden, or not all are there.
    pub edge: usize,
    /// Units that load together and tell each other what they loaded; 0 where each loads for itself.
    pub plane: usize,
}
