//! The entry points: check the problem, choose the kernel, run it.

use crate::problem::{Attention, Dims};
use crate::schedule::{Call, Layout, Output};
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
/// [`CpuError`] when shapes, lengths or values disagree with what [`Attention`] says, when this machine lacks `isa`, or when memory has no
/// room for the workspace.
pub fn forward<T: Element>(
    problem: &Attention<'_, T>,
    isa: Isa,
    out: &mut [T],
    lse: Option<&mut [T::Accum]>,
) -> Result<(), CpuError> {
    let dims = problem.check(out.len(), lse.as_ref().map(|lse| lse.len()))?;
    demand(isa)?;
    let out = Output { out: out.as_mut_ptr(), lse: lse.map(<[_]>::as_mut_ptr) };
    T::run(isa, Call { problem, dims, out })
}

/// [`forward`] into new vectors, which need not be cleared first: the output `[B, H, Sq, E]` and, where `lse` asks for it, the LSE
/// `[B, H, Sq]`.
///
/// # Errors
/// As [`forward`].
pub fn compute<T: Element>(problem: &Attention<'_, T>, isa: Isa, lse: bool) -> Result<Computed<T>, CpuError> {
    let dims = problem.check_inputs()?;
    demand(isa)?;
    let rows = dims.batch.saturating_mul(dims.heads).saturating_mul(dims.query_len);
    let mut out = room(rows.saturating_mul(dims.value_dim))?;
    let mut row_lse = lse.then(|| room(rows)).transpose()?;
    let pointers = Output { out: out.as_mut_ptr(), lse: row_lse.as_mut().map(Vec::as_mut_ptr) };
    T::run(isa, Call { problem, dims, out: pointers })?;
    // SAFETY: both have room for that many, and the tasks have written every row of both.
    unsafe {
        out.set_len(rows * dims.value_dim);
        if let Some(lse) = &mut row_lse {
            lse.set_len(rows);
        }
    }
    Ok((out, row_lse))
}

/// A vector with room for so many numbers.
pub(crate) fn room<T>(numbers: usize) -> Result<Vec<T>, CpuError> {
    let mut room = Vec::new();
    let expected = || "as many elements as memory has room for".to_string();
    match room.try_reserve_exact(numbers) {
        Ok(()) => Ok(room),
        Err(_) => Err(CpuError::Length { argument: "out", expected: expected(), found: numbers }),
    }
}

/// An output and its LSE.
pub type Computed<T> = (Vec<T>, Option<Vec<<T as Element>::Accum>>);

/// Refuses an instruction set that this machine lacks.
pub(crate) fn demand(isa: Isa) -> Result<(), CpuError> {
    if isa.is_available() { Ok(()) } else { Err(refusal(isa, &Isa::available())) }
}

fn refusal(isa: Isa, available: &[Isa]) -> CpuError {
    let names: Vec<_> = available.iter().map(|isa| isa.name()).collect();
    CpuError::IsaUnavailable { available: names.join(", "), found: isa.name() }
}

/// The bytes that [`forward`] allocates, all of them at once, in a pool of `threads` threads with an instruction set: its scratch memory,
/// to the byte; 0 where one thread does all and has room for it on its stack. [`compute`] allocates what it returns besides, and a short call by a thread that is not the pool's some hundred bytes to hand work
/// to the pool.
///
/// Lengths: `batch` B, `heads` H, `kv_heads` G, `query_len` Sq, `key_len` Sk, `head_dim` D, `value_dim` E.
#[allow(clippy::too_many_arguments, reason = "one number an axis")]
pub fn workspace_bytes<T: Element>(
    isa: Isa,
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
    Layout::new(&dims, T::geometry(isa)).bytes::<T::Accum>(threads) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_output_beyond_all_memory_is_an_error() {
        assert!(matches!(room::<f64>(usize::MAX / 2), Err(CpuError::Length { argument: "out", .. })));
    }

    #[test]
    fn an_instruction_set_that_is_not_there_is_refused() {
        let error = refusal(Isa::Avx512, &[Isa::Avx2, Isa::Portable]);
        assert!(
            matches!(&error, CpuError::IsaUnavailable { available, found: "avx512" } if available == "avx2, portable")
        );
        assert!(demand(Isa::Portable).is_ok());
        assert_eq!(demand(Isa::Neon).is_ok(), Isa::Neon.is_available());
    }
}
