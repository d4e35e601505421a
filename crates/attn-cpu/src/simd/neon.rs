//! NEON of AArch64: vectors of 4 f32 or 2 f64, 32 registers.
#![allow(clippy::undocumented_unsafe_blocks, reason = "one reason for the whole file, given below")]
// SAFETY of every block here: `Isa::is_available` found the feature before this kernel was chosen, and the caller of
// each function vouches for its pointers, as the trait says.

#[cfg(target_arch = "aarch64")]
use std::arch::aarch64::*;

use half::{bf16, f16};

#[cfg(not(target_arch = "aarch64"))]
use super::neon_model::*;
use super::{Job, Load, Simd, widen_f16};

/// NEON on f32 accumulators.
#[derive(Clone, Copy)]
pub(crate) struct NeonF32;

/// NEON on f64 accumulators.
#[derive(Clone, Copy)]
pub(crate) struct NeonF64;

#[cfg_attr(target_arch = "aarch64", target_feature(enable = "neon"))]
#[inline(never)]
unsafe fn shell<S: Simd, J: Job<S>>(job: J) -> J::Out {
    unsafe { job.run() }
}

impl Simd for NeonF32 {
    type A = f32;
    type V = float32x4_t;
    type M = uint32x4_t;
    const LANES: usize = 4;
    const TILE_VECTORS: usize = 4;
    const CHUNK: usize = 4;

    #[inline(always)]
    unsafe fn enter<J: Job<Self>>(job: J) -> J::Out {
        unsafe { shell::<Self, J>(job) }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> float32x4_t {
        unsafe { vdupq_n_f32(x) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> float32x4_t {
        unsafe { vld1q_f32(from) }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, v: float32x4_t) {
        unsafe { vst1q_f32(to, v) }
    }
    #[inline(always)]
    unsafe fn add(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        unsafe { vaddq_f32(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        unsafe { vsubq_f32(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        unsafe { vmulq_f32(a, b) }
    }
    #[inline(always)]
    unsafe fn div(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        unsafe { vdivq_f32(a, b) }
    }
    #[inline(always)]
    unsafe fn fma(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        unsafe { vfmaq_f32(c, a, b) }
    }
    #[inline(always)]
    unsafe fn max(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        unsafe { vmaxq_f32(a, b) }
    }
    #[inline(always)]
    unsafe fn min(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        unsafe { vminq_f32(a, b) }
    }
    #[inline(always)]
    unsafe fn abs(a: float32x4_t) -> float32x4_t {
        unsafe { vabsq_f32(a) }
    }
    #[inline(always)]
    unsafe fn not_below(a: float32x4_t, b: float32x4_t) -> uint32x4_t {
        unsafe { vmvnq_u32(vcltq_f32(a, b)) }
    }
    #[inline(always)]
    unsafe fn equal(a: float32x4_t, b: float32x4_t) -> uint32x4_t {
        unsafe { vceqq_f32(a, b) }
    }
    #[inline(always)]
    unsafe fn select(m: uint32x4_t, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        unsafe { vbslq_f32(m, a, b) }
    }
    #[inline(always)]
    unsafe fn round(x: float32x4_t) -> (float32x4_t, float32x4_t) {
        let n = unsafe { vrndnq_f32(x) };
        (n, n)
    }
    #[inline(always)]
    unsafe fn scale(p: float32x4_t, t: float32x4_t) -> float32x4_t {
        unsafe {
            let exponent = vshlq_n_s32::<23>(vaddq_s32(vcvtq_s32_f32(t), vdupq_n_s32(127)));
            vmulq_f32(p, vreinterpretq_f32_s32(exponent))
        }
    }
    #[inline(always)]
    unsafe fn reduce_add(v: float32x4_t) -> f32 {
        unsafe { vaddvq_f32(v) }
    }
    #[inline(always)]
    unsafe fn reduce_max(v: float32x4_t) -> f32 {
        unsafe { vmaxvq_f32(v) }
    }
    #[inline(always)]
    unsafe fn load_chunks(from: *const f32, _stride: usize) -> float32x4_t {
        unsafe { vld1q_f32(from) }
    }
    #[inline(always)]
    unsafe fn transpose_chunks(v: &mut [float32x4_t; 4]) {
        unsafe {
            let a = vreinterpretq_f64_f32(vtrn1q_f32(v[0], v[1]));
            let b = vreinterpretq_f64_f32(vtrn2q_f32(v[0], v[1]));
            let c = vreinterpretq_f64_f32(vtrn1q_f32(v[2], v[3]));
            let d = vreinterpretq_f64_f32(vtrn2q_f32(v[2], v[3]));
            v[0] = vreinterpretq_f32_f64(vtrn1q_f64(a, c));
            v[1] = vreinterpretq_f32_f64(vtrn1q_f64(b, d));
            v[2] = vreinterpretq_f32_f64(vtrn2q_f64(a, c));
            v[3] = vreinterpretq_f32_f64(vtrn2q_f64(b, d));
        }
    }
}

impl Load<f32> for NeonF32 {
    #[inline(always)]
    unsafe fn load_from(from: *const f32) -> float32x4_t {
        unsafe { vld1q_f32(from) }
    }
}

impl Load<f16> for NeonF32 {
    /// By integer arithmetic: the intrinsics for halves are not stable.
    #[inline(always)]
    unsafe fn load_from(from: *const f16) -> float32x4_t {
        let wide: [f32; 4] = std::array::from_fn(|i| widen_f16(unsafe { *from.add(i) }));
        unsafe { vld1q_f32(wide.as_ptr()) }
    }
}

impl Load<bf16> for NeonF32 {
    #[inline(always)]
    unsafe fn load_from(from: *const bf16) -> float32x4_t {
        unsafe { vreinterpretq_f32_u32(vshll_n_u16::<16>(vld1_u16(from.cast()))) }
    }
}

impl Simd for NeonF64 {
    type A = f64;
    type V = float64x2_t;
    type M = uint64x2_t;
    const LANES: usize = 2;
    const TILE_VECTORS: usize = 4;
    const CHUNK: usize = 2;

    #[inline(always)]
    unsafe fn enter<J: Job<Self>>(job: J) -> J::Out {
        unsafe { shell::<Self, J>(job) }
    }
    #[inline(always)]
    unsafe fn splat(x: f64) -> float64x2_t {
        unsafe { vdupq_n_f64(x) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f64) -> float64x2_t {
        unsafe { vld1q_f64(from) }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f64, v: float64x2_t) {
        unsafe { vst1q_f64(to, v) }
    }
    #[inline(always)]
    unsafe fn add(a: float64x2_t, b: float64x2_t) -> float64x2_t {
        unsafe { vaddq_f64(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: float64x2_t, b: float64x2_t) -> float64x2_t {
        unsafe { vsubq_f64(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: float64x2_t, b: float64x2_t) -> float64x2_t {
        unsafe { vmulq_f64(a, b) }
    }
    #[inline(always)]
    unsafe fn div(a: float64x2_t, b: float64x2_t) -> float64x2_t {
        unsafe { vdivq_f64(a, b) }
    }
    #[inline(always)]
    unsafe fn fma(a: float64x2_t, b: float64x2_t, c: float64x2_t) -> float64x2_t {
        unsafe { vfmaq_f64(c, a, b) }
    }
    #[inline(always)]
    unsafe fn max(a: float64x2_t, b: float64x2_t) -> float64x2_t {
        unsafe { vmaxq_f64(a, b) }
    }
    #[inline(always)]
    unsafe fn min(a: float64x2_t, b: float64x2_t) -> float64x2_t {
        unsafe { vminq_f64(a, b) }
    }
    #[inline(always)]
    unsafe fn abs(a: float64x2_t) -> float64x2_t {
        unsafe { vabsq_f64(a) }
    }
    #[inline(always)]
    unsafe fn not_below(a: float64x2_t, b: float64x2_t) -> uint64x2_t {
        unsafe { vreinterpretq_u64_u32(vmvnq_u32(vreinterpretq_u32_u64(vcltq_f64(a, b)))) }
    }
    #[inline(always)]
    unsafe fn equal(a: float64x2_t, b: float64x2_t) -> uint64x2_t {
        unsafe { vceqq_f64(a, b) }
    }
    #[inline(always)]
    unsafe fn select(m: uint64x2_t, a: float64x2_t, b: float64x2_t) -> float64x2_t {
        unsafe { vbslq_f64(m, a, b) }
    }
    #[inline(always)]
    unsafe fn round(x: float64x2_t) -> (float64x2_t, float64x2_t) {
        let n = unsafe { vrndnq_f64(x) };
        (n, n)
    }
    #[inline(always)]
    unsafe fn scale(p: float64x2_t, t: float64x2_t) -> float64x2_t {
        unsafe {
            let exponent = vshlq_n_s64::<52>(vaddq_s64(vcvtq_s64_f64(t), vdupq_n_s64(1023)));
            vmulq_f64(p, vreinterpretq_f64_s64(exponent))
        }
    }
    #[inline(always)]
    unsafe fn reduce_add(v: float64x2_t) -> f64 {
        unsafe { vaddvq_f64(v) }
    }
    #[inline(always)]
    unsafe fn reduce_max(v: float64x2_t) -> f64 {
        unsafe { vmaxvq_f64(v) }
    }
    #[inline(always)]
    unsafe fn load_chunks(from: *const f64, _stride: usize) -> float64x2_t {
        unsafe { vld1q_f64(from) }
    }
    #[inline(always)]
    unsafe fn transpose_chunks(v: &mut [float64x2_t; 4]) {
        unsafe { (v[0], v[1]) = (vtrn1q_f64(v[0], v[1]), vtrn2q_f64(v[0], v[1])) }
    }
}

impl Load<f64> for NeonF64 {
    #[inline(always)]
    unsafe fn load_from(from: *const f64) -> float64x2_t {
        unsafe { vld1q_f64(from) }
    }
}
