//! The entry points: check the problem, choose the kernel, run it.

use crate::problem::{Attention, Dims};
use crate::schedule::{Call, Layout};
use crate::{CpuError, Element, Isa};

/// Computes attention. See [`Attention`] for the formula.
///
/// `out` is contiguous `[B, H, Sq, E]`, `lse` contiguous `[B, H, Sq]`: the natural logarithm of the sum of the
/// exponentials of a row's visible scores, the sink's logit included. A row that sees nothing gives 0, and −∞ (or its
/// sink) as LSE. The result is the same to the last bit for any number of rayon threads.
///
/// Runs on the current rayon thread pool, or on the calling thread alone where the problem is small.
///
/// # Errors
/// [`CpuError`] when shapes, lengths or values disagree with what [`Attention`] says, or when this machine lacks `isa`.
pub fn forward<T: Element>(
    problem: &Attention<'_, T>,
    isa: Isa,
    out: &mut [T],
    lse: Option<&mut [T::Accum]>,
) -> Result<(), CpuError> {
    let dims = problem.check(out.len(), lse.as_ref().map(|lse| lse.len()))?;
    demand(isa, &Isa::available())?;
    T::run(isa, Call { problem, dims, out, lse });
    Ok(())
}

/// Refuses an instruction set that is not among those available.
fn demand(isa: Isa, available: &[Isa]) -> Result<(), CpuError> {
    if available.contains(&isa) {
        return Ok(());
    }
    let names: Vec<_> = available.iter().map(|isa| isa.name()).collect();
    Err(CpuError::IsaUnavailable { available: names.join(", "), found: isa.name() })
}

/// The most scratch memory in bytes that [`forward`] holds at once on `threads` threads, whatever the instruction set.
///
/// Lengths: `batch` B, `heads` H, `kv_heads` G, `query_len` Sq, `key_len` Sk, `head_dim` D, `value_dim` E.
#[allow(clippy::too_many_arguments, reason = "one number an axis")]
pub fn workspace_bytes<T: Element>(
    batch: usize,
    heads: usize,
    kv_heads: usize,
    query_len: usize,
    key_len: usize,
    head_dim: usize,
    value_dim: usize,
    threads: usize,
) -> u64 {
    let dims = Dims { batch, heads, kv_heads, query_len, key_len, head_dim, value_dim };
    let bytes = |isa| Layout::new(&dims, T::geometry(isa)).bytes(threads);
    Isa::available().into_iter().map(bytes).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instruction_set_that_is_not_there_is_refused() {
        let error = demand(Isa::Avx512, &[Isa::Avx2, Isa::Portable]).expect_err("it is not among them");
        assert!(
            matches!(&error, CpuError::IsaUnavailable { available, found: "avx512" } if available == "avx2, portable")
        );
        assert!(demand(Isa::Portable, &[Isa::Portable]).is_ok());
    }
}
