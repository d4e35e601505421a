//! The f32 multiply-add loop of the machine's widest vectors.
//!
//! for each iteration: for each accumulator a: a ← a·x + y
//!
//! A fused multiply-add takes 4 cycles and a core starts two a cycle, so 8 independent accumulators would do; there are
//! more, to ride over a cycle lost here and there, and few enough to stay in registers. x < 1 keeps the values finite.

use super::Arithmetic;

/// A factor just under 1 and a summand: the accumulators converge to y / (1 − x).
const FACTOR: f32 = 0.999_9;
const SUMMAND: f32 = 1e-4;

/// The loop for this CPU.
pub fn kernel() -> Arithmetic {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            return x86::AVX512;
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            return x86::AVX2;
        }
    }
    PORTABLE
}

const PORTABLE: Arithmetic = Arithmetic { run: portable, flops: 2.0 * 16.0 * 4.0 };

/// 16 vectors of 4, left to the compiler; fused where the target's baseline has it (AArch64 does).
fn portable(iterations: u64) -> f32 {
    let mut sums = [[1f32; 4]; 16];
    let [x, y] = std::hint::black_box([FACTOR, SUMMAND]);
    for _ in 0..iterations {
        for vector in &mut sums {
            for lane in vector {
                *lane = if cfg!(any(target_arch = "aarch64", target_feature = "fma")) {
                    lane.mul_add(x, y)
                } else {
                    *lane * x + y
                };
            }
        }
    }
    sums.iter().flatten().sum()
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Arithmetic, FACTOR, SUMMAND};
    use std::arch::x86_64::{
        _mm_cvtss_f32, _mm256_add_ps, _mm256_castps256_ps128, _mm256_fmadd_ps, _mm256_set1_ps, _mm256_setzero_ps,
        _mm512_add_ps, _mm512_fmadd_ps, _mm512_reduce_add_ps, _mm512_set1_ps, _mm512_setzero_ps,
    };
    use std::hint::black_box;

    pub const AVX512: Arithmetic = Arithmetic {
        // SAFETY: `kernel` hands this out only after detecting avx512f.
        run: |iterations| unsafe { avx512(iterations) },
        flops: 2.0 * 16.0 * 16.0,
    };

    pub const AVX2: Arithmetic = Arithmetic {
        // SAFETY: `kernel` hands this out only after detecting avx2 and fma.
        run: |iterations| unsafe { avx2(iterations) },
        flops: 2.0 * 8.0 * 12.0,
    };

    #[target_feature(enable = "avx512f")]
    fn avx512(iterations: u64) -> f32 {
        let x = _mm512_set1_ps(black_box(FACTOR));
        let y = _mm512_set1_ps(black_box(SUMMAND));
        let mut sums = [_mm512_set1_ps(1.0); 16];
        for _ in 0..iterations {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(*sum, x, y);
            }
        }
        let total = sums.into_iter().fold(_mm512_setzero_ps(), |a, b| _mm512_add_ps(a, b));
        _mm512_reduce_add_ps(total)
    }

    #[target_feature(enable = "avx2,fma")]
    fn avx2(iterations: u64) -> f32 {
        let x = _mm256_set1_ps(black_box(FACTOR));
        let y = _mm256_set1_ps(black_box(SUMMAND));
        let mut sums = [_mm256_set1_ps(1.0); 12];
        for _ in 0..iterations {
            for sum in &mut sums {
                *sum = _mm256_fmadd_ps(*sum, x, y);
            }
        }
        let total = sums.into_iter().fold(_mm256_setzero_ps(), |a, b| _mm256_add_ps(a, b));
        // All lanes are alike: one of them depends on every iteration.
        _mm_cvtss_f32(_mm256_castps256_ps128(total))
    }
}
