//! What LibTorch's fused kernels and the work around them allocate.

use attn_core::{Pass, Problem};
use burn_backend::FloatDType;

use crate::parts::cut;

/// Queries and keys of a tile of LibTorch's CPU kernel at most.
const TILE: (u64, u64) = (256, 512);

/// An upper bound of the bytes beyond inputs and outputs.
pub fn bytes(problem: &Problem, pass: Pass) -> u64 {
    let (element, wide): (u64, u64) = match problem.dtype {
        FloatDType::F64 => (8, 8),
        FloatDType::F32 | FloatDType::Flex32 => (4, 4),
        FloatDType::F16 | FloatDType::BF16 => (2, 4),
    };
    let (batch, heads, kv_heads) = (problem.batch as u64, problem.heads as u64, problem.kv_heads as u64);
    let (queries, keys, dim) = (problem.query_len as u64, problem.key_len as u64, problem.head_dim as u64);
    let threads = tch::get_num_threads().max(1) as u64;
    // A thread's scores, their copy in a narrow type, maxima, sums, and its rows of the output; twice that backward.
    let tile = threads * (TILE.0 * TILE.1 * (wide + element) + TILE.0 * (2 + dim) * wide);
    let rows = batch * heads * queries;
    let lse = rows * wide;
    let out = rows * dim * element;
    // Narrow types run on wide copies of what goes in.
    let copies = if element < wide { (rows + 2 * batch * kv_heads * keys) * dim * wide } else { 0 };
    let added = problem.mask.or(problem.bias).map_or(0, |_| added(problem) * wide);
    // One call for everything writes the output itself; else there are parts, their sum, and their places.
    let whole = cut(problem).is_ok_and(|groups| matches!(&groups[..], [group] if group.parts.len() == 1));
    let apart = if whole && !problem.sinks && heads == kv_heads && element == wide { 0 } else { 3 * rows * dim * wide };
    match pass {
        Pass::Forward => tile + copies + added + 3 * lse + apart,
        // Gradients of the parts, and of each query head's keys and values before they are summed over a group.
        Pass::Backward => {
            let per_head = if heads > kv_heads { 2 * batch * heads * keys * dim * (element + wide) } else { 0 };
            let parts = rows * dim * element + 2 * batch * kv_heads * keys * dim * element;
            2 * tile + copies + added + 3 * lse + 2 * out + parts + per_head
        }
    }
}

/// Elements of what is added to the scores.
fn added(problem: &Problem) -> u64 {
    let elements = |shape: Option<[usize; 4]>| shape.map_or(0, |shape| shape.iter().map(|&axis| axis as u64).product());
    let (mask, bias): (u64, u64) = (elements(problem.mask), elements(problem.bias));
    // The sum, its inverted mask, and where it hides whole rows.
    2 * mask.max(bias)
}
