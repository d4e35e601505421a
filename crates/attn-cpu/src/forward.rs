//! The entry points: check the problem, choose the kernel, run it.

use crate::{Attention, CpuError, Element, Isa};

/// Computes attention. See [`Attention`] for the formula.
///
/// `out` is contiguous `[B, H, Sq, E]`, `lse` contiguous `[B, H, Sq]`: the natural logarithm of the sum of the
/// exponentials of a row's visible scores, the sink's logit included. A row that sees nothing gives 0, and −∞ (or its
/// sink) as LSE. The result is the same to the last bit for any number of rayon threads.
///
/// # Errors
/// [`CpuError`] when shapes, lengths or values disagree with what [`Attention`] says, or when this machine lacks `isa`.
pub fn forward<T: Element>(
    problem: &Attention<'_, T>,
    isa: Isa,
    out: &mut [T],
    mut lse: Option<&mut [T::Accum]>,
) -> Result<(), CpuError> {
    let dims = problem.check(out.len(), lse.as_ref().map(|lse| lse.len()))?;
    if !isa.is_available() {
        let names: Vec<_> = Isa::available().into_iter().map(Isa::name).collect();
        return Err(CpuError::IsaUnavailable {
            available: names.join(", "),
            found: isa.name(),
        });
    }
    let at = |view: &crate::View<'_, T, 4>, index: [usize; 4]| {
        let strides = view.strides();
        view.data()[index.iter().zip(strides).map(|(i, s)| i * s).sum::<usize>()].wide()
    };
    let mut row = 0;
    for b in 0..dims.batch {
        for h in 0..dims.heads {
            let g = h / (dims.heads / dims.kv_heads);
            for i in 0..dims.query_len {
                let (start, end) = problem.bands[b].visible(i);
                let mut seen = Vec::new();
                for j in start..end {
                    if let Some(mask) = &problem.mask {
                        let s = mask.view.strides();
                        let byte = mask.view.data()[b * s[0] + h * s[1] + i * s[2] + j * s[3]];
                        if (byte != 0) != mask.seen_when {
                            continue;
                        }
                    }
                    let mut score: f64 = (0..dims.head_dim)
                        .map(|d| at(&problem.query, [b, h, i, d]) * at(&problem.key, [b, g, j, d]))
                        .sum();
                    score *= problem.scale;
                    if let Some(cap) = problem.softcap {
                        score = cap * (score / cap).tanh();
                    }
                    if let Some(slopes) = problem.alibi_slopes {
                        let distance = (j as f64) - (i as f64 + problem.bands[b].offset as f64);
                        score -= slopes[h].wide() * distance.abs();
                    }
                    if let Some(bias) = &problem.bias {
                        let bias = at(bias, [b, h, i, j]);
                        score = if bias == f64::NEG_INFINITY {
                            bias
                        } else {
                            score + bias
                        };
                    }
                    if score != f64::NEG_INFINITY {
                        seen.push((j, score));
                    }
                }
                let sink = problem
                    .sinks
                    .map_or(f64::NEG_INFINITY, |sinks| sinks[h].wide());
                let top = seen.iter().fold(sink, |top, (_, score)| top.max(*score));
                let base = if top == f64::NEG_INFINITY { 0.0 } else { top };
                let sum = seen
                    .iter()
                    .map(|(_, score)| (score - base).exp())
                    .sum::<f64>()
                    + (sink - base).exp();
                for e in 0..dims.value_dim {
                    let total: f64 = seen
                        .iter()
                        .map(|(j, score)| (score - base).exp() * at(&problem.value, [b, g, *j, e]))
                        .sum();
                    out[row * dims.value_dim + e] =
                        T::narrow(if sum == 0.0 { 0.0 } else { total / sum });
                }
                if let Some(lse) = lse.as_deref_mut() {
                    lse[row] = T::accum(base + sum.ln());
                }
                row += 1;
            }
        }
    }
    Ok(())
}

/// The most scratch memory in bytes that [`forward`] holds at once on `threads` threads.
#[allow(clippy::too_many_arguments, reason = "one number an axis")]
pub fn workspace_bytes<T: Element>(
    _batch: usize,
    _heads: usize,
    _kv_heads: usize,
    _query_len: usize,
    key_len: usize,
    _head_dim: usize,
    _value_dim: usize,
    _threads: usize,
) -> u64 {
    (key_len as u64).saturating_mul(16)
}
