//! The bf16 dot-product loop (AVX512-BF16): each of 16 f32 lanes adds two products of bf16 numbers.
//!
//! for each iteration: for each accumulator a: a ← a + x₀·y₀ + x₁·y₁

use super::Arithmetic;

/// The loop for this CPU, if it has the instruction.
pub fn kernel() -> Option<Arithmetic> {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bf16") {
        return Some(x86::DOT);
    }
    None
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Arithmetic;
    use std::arch::x86_64::{
        _mm512_add_ps, _mm512_cvtne2ps_pbh, _mm512_dpbf16_ps, _mm512_reduce_add_ps, _mm512_set1_ps, _mm512_setzero_ps,
    };
    use std::hint::black_box;

    pub const DOT: Arithmetic = Arithmetic {
        // SAFETY: `kernel` hands this out only after detecting avx512f and avx512bf16.
        run: |iterations| unsafe { dot(iterations) },
        flops: 4.0 * 16.0 * 16.0,
    };

    #[target_feature(enable = "avx512f,avx512bf16")]
    fn dot(iterations: u64) -> f32 {
        // Products of 2⁻¹⁰⁰ leave the sums at 1: neither growth nor denormals, whatever the number of iterations.
        let small = _mm512_set1_ps(black_box(2f32.powi(-50)));
        let x = _mm512_cvtne2ps_pbh(small, small);
        let mut sums = [_mm512_set1_ps(1.0); 16];
        for _ in 0..iterations {
            for sum in &mut sums {
                *sum = _mm512_dpbf16_ps(*sum, x, x);
            }
        }
        let total = sums.into_iter().fold(_mm512_setzero_ps(), |a, b| _mm512_add_ps(a, b));
        _mm512_reduce_add_ps(total)
    }
}
