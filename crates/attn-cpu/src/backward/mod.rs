//! The backward pass: gradients by every input from the output, its LSE and what came from above, the scores made again tile by tile.
//!
//! With `P = exp(S − LSE)` and `δᵢ = Σ dOut·out` (Dao et al., FlashAttention, 2022, appendix B.4):
//!
//! ```text
//! for each item: a block of keys of one key/value head, all rows or some        run.rs, in parallel
//!     pack keys and values, transposed and as rows;  dK, dV = 0                  stage.rs
//!     for each block of up to 96 rows that sees any of them:
//!         pack queries and dOut, as strips and as rows;  δ − dLse                stage.rs
//!         for each strip of 6 rows:
//!             S = options(q · kᵀ), −∞ where hidden                               task/, as forward
//!             dP = dOut · vᵀ                                                     products.rs
//!             P = 2^(S·log₂e − LSE·log₂e);  dS = P ∘ (dP − δ + dLse)             kernel/gradient.rs
//!             bias, slopes and tables take their sums of dS                      sums.rs
//!             dS ← dS · (softcap's slope);  dq = dS · k                          products.rs
//!         dV += Pᵀ · dOut;  dK += dSᵀ · q                                        products.rs
//!         wait for the blocks of keys before this one;  dQ += scale · dq         turns.rs
//!     write scale · dK and dV;  where several items share the keys, each adds its part by turns and the last writes
//! ```
//!
//! Five products in place of the forward's two, all by the forward's register tile. What departs from the sketch:
//!
//! - **The same bits for any number of threads.** Nothing is added atomically. An item alone has its block's dK and dV, or adds them in
//!   the order of the rows where keys are few; what several blocks of keys add to one block of rows, they add in the order of the keys, by a
//!   counter each block of rows (`turns.rs`). Items are taken in that order, of several heads by turns, so that a wait is short and never
//!   for an item that nobody has begun.
//! - **Groups of query heads** share their keys' items: their rows are taken together, query by query, and dK and dV are sums over all of
//!   them in that order.
//! - **Transposed products** read weights as they lie: a tile's rows are six neighbouring columns of them, a step is a row. Where products
//!   are of pairs of bf16, weights lie as units of two rows for that, and gradients by scores as units of two keys besides.
//! - **What is hidden never matters.** A weight of 0 times NaN is NaN. Blocks of keys and of rows are looked at for NaN and infinity as they
//!   are packed, if anything may be hidden; tiles of such are multiplied pair by pair, hidden ones left out (`careful.rs`).
//! - **Memory** is one allocation, its size known before ([`backward_bytes`]), linear in the lengths.

mod careful;
mod cut;
mod products;
mod room;
mod run;
mod stage;
mod sums;
mod turns;
mod worker;

pub(crate) use run::{Call, run};

use crate::problem::{Dims, length, shape, value_error};
use crate::{Attention, CpuError, Element, Isa, View};
use cut::Cut;

/// What a backward pass starts from. Axes as in [`Attention`].
#[derive(Debug, Clone, Copy)]
pub struct Upstream<'a, T: Element> {
    /// What [`forward`](crate::forward) gave, `[B, H, Sq, E]`.
    pub out: View<'a, T, 4>,
    /// And its LSE, `[B, H, Sq]`.
    pub lse: View<'a, T::Accum, 3>,
    /// Gradient of the loss by `out`, `[B, H, Sq, E]`; `None` is zero.
    pub grad_out: Option<View<'a, T, 4>>,
    /// Gradient of the loss by `lse`, `[B, H, Sq]`; `None` is zero.
    pub grad_lse: Option<View<'a, T::Accum, 3>>,
}

/// Which gradients to make; the others cost nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wanted {
    /// By the queries.
    pub query: bool,
    /// By the keys.
    pub key: bool,
    /// By the values.
    pub value: bool,
    /// By the bias, in this shape: that of the scores, or 1 along the axes that it is summed over.
    pub bias: Option<[usize; 4]>,
    /// By the ALiBi slopes.
    pub alibi_slopes: bool,
    /// By the table of relative positions, in this shape: `[H or 1, distances]`.
    pub relative_bias: Option<[usize; 2]>,
    /// By the sinks.
    pub sinks: bool,
}

/// Gradients of the loss by each input that was wanted, contiguous, in that input's shape.
#[derive(Debug, Clone, PartialEq)]
pub struct Gradients<T> {
    /// `[B, H, Sq, D]`.
    pub query: Option<Vec<T>>,
    /// `[B, G, Sk, D]`, summed over the query heads of a group.
    pub key: Option<Vec<T>>,
    /// `[B, G, Sk, E]`, likewise.
    pub value: Option<Vec<T>>,
    /// In the shape of [`Wanted::bias`].
    pub bias: Option<Vec<T>>,
    /// `[H]`.
    pub alibi_slopes: Option<Vec<T>>,
    /// In the shape of [`Wanted::relative_bias`].
    pub relative_bias: Option<Vec<T>>,
    /// `[H]`.
    pub sinks: Option<Vec<T>>,
}

/// Computes the gradients that are wanted. They are the same to the last bit for any number of rayon threads.
///
/// Hidden pairs give nothing, even where they hold NaN or infinity, and a row that sees nothing gives 0. Sums are kept in the
/// accumulators' type. With [`Isa::Avx512Bf16`], weights and gradients by scores of bf16 problems are rounded to bf16 as they are
/// multiplied.
///
/// Runs on the current rayon thread pool, or on the calling thread alone where the problem is small.
///
/// # Errors
/// [`CpuError`] when shapes, lengths or values disagree with what [`Attention`], [`Upstream`] and [`Wanted`] say, when a function of the
/// scores has no slope, when this machine lacks `isa`, or when memory has no room for gradients or workspace.
pub fn backward<T: Element>(
    problem: &Attention<'_, T>,
    isa: Isa,
    upstream: &Upstream<'_, T>,
    wanted: Wanted,
) -> Result<Gradients<T>, CpuError> {
    let dims = problem.check_inputs()?;
    check(problem, &dims, upstream, &wanted)?;
    crate::forward::demand(isa)?;
    let Dims { batch, heads, kv_heads, query_len, key_len, head_dim, value_dim } = dims;
    let some = |wanted: bool, shape: &[usize]| wanted.then(|| zeros(shape)).transpose();
    let mut grads = Gradients {
        query: some(wanted.query, &[batch, heads, query_len, head_dim])?,
        key: some(wanted.key, &[batch, kv_heads, key_len, head_dim])?,
        value: some(wanted.value, &[batch, kv_heads, key_len, value_dim])?,
        bias: wanted.bias.map(|shape| zeros(&shape)).transpose()?,
        alibi_slopes: some(wanted.alibi_slopes, &[heads])?,
        relative_bias: wanted.relative_bias.map(|shape| zeros(&shape)).transpose()?,
        sinks: some(wanted.sinks, &[heads])?,
    };
    T::backward(isa, Call { problem, dims, upstream, wanted, grads: &mut grads })?;
    Ok(grads)
}

/// The bytes that [`backward`] allocates besides the gradients that it gives, all of them at once, in a pool of `threads` threads.
///
/// Lengths as for [`workspace_bytes`](crate::workspace_bytes): `[B, H, G, Sq, Sk, D, E]`.
pub fn backward_bytes<T: Element>(isa: Isa, lengths: [usize; 7], wanted: &Wanted, threads: usize) -> u64 {
    let [batch, heads, kv_heads, query_len, key_len, head_dim, value_dim] = lengths;
    let dims = Dims { batch, heads, kv_heads, query_len, key_len, head_dim, value_dim };
    Cut::new(&dims, T::geometry(isa), wanted, T::IS_WIDE).bytes::<T::Accum>(threads) as u64
}

/// A vector of zeros.
fn zeros<T: Element>(shape: &[usize]) -> Result<Vec<T>, CpuError> {
    let count = shape.iter().fold(1_usize, |count, length| count.saturating_mul(*length));
    let mut zeros = crate::forward::room(count)?;
    zeros.resize(count, T::default());
    Ok(zeros)
}

/// Checks what a backward pass takes beyond a problem.
fn check<T: Element>(
    problem: &Attention<'_, T>,
    dims: &Dims,
    upstream: &Upstream<'_, T>,
    wanted: &Wanted,
) -> Result<(), CpuError> {
    let &Dims { batch, heads, query_len, key_len, value_dim, .. } = dims;
    let (rows, outs) = ([batch, heads, query_len], [batch, heads, query_len, value_dim]);
    shape("out", upstream.out.shape(), outs)?;
    shape("lse", upstream.lse.shape(), rows)?;
    upstream.grad_out.map_or(Ok(()), |grad| shape("grad_out", grad.shape(), outs))?;
    upstream.grad_lse.map_or(Ok(()), |grad| shape("grad_lse", grad.shape(), rows))?;
    if let Some(found) = wanted.bias {
        given("bias", problem.bias.is_some())?;
        broadcast("bias", found, [batch, heads, query_len, key_len])?;
    }
    given("alibi_slopes", !wanted.alibi_slopes || problem.alibi_slopes.is_some())?;
    if let Some(found) = wanted.relative_bias {
        let distances = problem.relative_bias.map(|table| table.shape()[1]);
        given("relative_bias", distances.is_some())?;
        broadcast("relative_bias", found, [heads, distances.unwrap_or(0)])?;
        length("relative_bias", found[1], distances.unwrap_or(0))?;
    }
    given("sinks", !wanted.sinks || problem.sinks.is_some())?;
    match &problem.score_mod {
        Some(function) if function.slope().is_none() => {
            Err(value_error("score_mod", "a function with its slope", "one without"))
        }
        _ => Ok(()),
    }
}

/// What a gradient is wanted by must be there.
fn given(argument: &'static str, is: bool) -> Result<(), CpuError> {
    if is { Ok(()) } else { Err(value_error(argument, "one, since its gradient is wanted", "none")) }
}

/// Each axis is whole, or of length 1.
fn broadcast<const N: usize>(argument: &'static str, found: [usize; N], full: [usize; N]) -> Result<(), CpuError> {
    if found.iter().zip(full).all(|(found, full)| *found == full || *found == 1) {
        return Ok(());
    }
    Err(CpuError::Shape { argument, expected: format!("{full:?}, or 1 along some axes"), found: format!("{found:?}") })
}
