//! AVX2 with FMA and F16C: vectors of 8 f32 or 4 f64, 16 registers.
#![allow(clippy::undocumented_unsafe_blocks, reason = "one reason for the whole file, given below")]
// SAFETY of every block here: `Isa::is_available` found the features before this kernel was chosen, and the caller of
// each function vouches for its pointers, as the trait says.

use std::arch::x86_64::*;

use half::{bf16, f16};

use super::{Job, Load, Simd};

/// AVX2 on f32 accumulators.
#[derive(Clone, Copy)]
pub(crate) struct Avx2F32;

/// AVX2 on f64 accumulators.
#[derive(Clone, Copy)]
pub(crate) struct Avx2F64;

#[target_feature(enable = "avx2,fma,f16c")]
#[inline(never)]
unsafe fn shell<S: Simd, J: Job<S>>(job: J) -> J::Out {
    unsafe { job.run() }
}

/// Added to a small number, this leaves the nearest whole number in the low bits of the mantissa: 1.5·2²³.
const MAGIC_F32: f32 = 12_582_912.0;
/// The same for f64: 1.5·2⁵².
const MAGIC_F64: f64 = 6_755_399_441_055_744.0;

impl Simd for Avx2F32 {
    type A = f32;
    type V = __m256;
    type M = __m256;
    const LANES: usize = 8;
    const TILE_VECTORS: usize = 2;
    const CHUNK: usize = 4;

    #[inline(always)]
    unsafe fn enter<J: Job<Self>>(job: J) -> J::Out {
        unsafe { shell::<Self, J>(job) }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> __m256 {
        unsafe { _mm256_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m256 {
        unsafe { _mm256_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, v: __m256) {
        unsafe { _mm256_storeu_ps(to, v) }
    }
    #[inline(always)]
    unsafe fn add(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_add_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_sub_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn div(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_div_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn fma(a: __m256, b: __m256, c: __m256) -> __m256 {
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn max(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_max_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn min(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_min_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn abs(a: __m256) -> __m256 {
        unsafe { _mm256_andnot_ps(_mm256_set1_ps(-0.0), a) }
    }
    #[inline(always)]
    unsafe fn not_below(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_cmp_ps::<_CMP_NLT_UQ>(a, b) }
    }
    #[inline(always)]
    unsafe fn equal(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_cmp_ps::<_CMP_EQ_OQ>(a, b) }
    }
    #[inline(always)]
    unsafe fn select(m: __m256, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_blendv_ps(b, a, m) }
    }
    #[inline(always)]
    unsafe fn round(x: __m256) -> (__m256, __m256) {
        unsafe {
            let magic = _mm256_set1_ps(MAGIC_F32);
            let t = _mm256_add_ps(x, magic);
            (_mm256_sub_ps(t, magic), t)
        }
    }
    #[inline(always)]
    unsafe fn scale(p: __m256, t: __m256) -> __m256 {
        unsafe {
            let exponent = _mm256_slli_epi32::<23>(_mm256_castps_si256(t));
            let power = _mm256_add_epi32(exponent, _mm256_set1_epi32(127 << 23));
            _mm256_mul_ps(p, _mm256_castsi256_ps(power))
        }
    }
    #[inline(always)]
    unsafe fn reduce_add(v: __m256) -> f32 {
        unsafe {
            let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)))
        }
    }
    #[inline(always)]
    unsafe fn reduce_max(v: __m256) -> f32 {
        unsafe {
            let v = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let v = _mm_max_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_max_ss(v, _mm_movehdup_ps(v)))
        }
    }
    #[inline(always)]
    unsafe fn sums(v: [__m256; 4], to: *mut f32) {
        unsafe {
            let two = _mm256_hadd_ps(_mm256_hadd_ps(v[0], v[1]), _mm256_hadd_ps(v[2], v[3]));
            _mm_storeu_ps(to, _mm_add_ps(_mm256_castps256_ps128(two), _mm256_extractf128_ps::<1>(two)));
        }
    }
    #[inline(always)]
    unsafe fn load_chunks(from: *const f32, stride: usize) -> __m256 {
        unsafe { _mm256_loadu2_m128(from.add(stride), from) }
    }
    #[inline(always)]
    unsafe fn transpose_chunks(v: &mut [__m256; 4]) {
        unsafe {
            let a = _mm256_castps_pd(_mm256_unpacklo_ps(v[0], v[1]));
            let b = _mm256_castps_pd(_mm256_unpackhi_ps(v[0], v[1]));
            let c = _mm256_castps_pd(_mm256_unpacklo_ps(v[2], v[3]));
            let d = _mm256_castps_pd(_mm256_unpackhi_ps(v[2], v[3]));
            v[0] = _mm256_castpd_ps(_mm256_unpacklo_pd(a, c));
            v[1] = _mm256_castpd_ps(_mm256_unpackhi_pd(a, c));
            v[2] = _mm256_castpd_ps(_mm256_unpacklo_pd(b, d));
            v[3] = _mm256_castpd_ps(_mm256_unpackhi_pd(b, d));
        }
    }
}

impl Load<f32> for Avx2F32 {
    #[inline(always)]
    unsafe fn load_from(from: *const f32) -> __m256 {
        unsafe { _mm256_loadu_ps(from) }
    }
}

impl Load<f16> for Avx2F32 {
    #[inline(always)]
    unsafe fn load_from(from: *const f16) -> __m256 {
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.cast())) }
    }
}

impl Load<bf16> for Avx2F32 {
    #[inline(always)]
    unsafe fn load_from(from: *const bf16) -> __m256 {
        unsafe {
            let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
        }
    }
}

impl Simd for Avx2F64 {
    type A = f64;
    type V = __m256d;
    type M = __m256d;
    const LANES: usize = 4;
    const TILE_VECTORS: usize = 2;
    const CHUNK: usize = 2;

    #[inline(always)]
    unsafe fn enter<J: Job<Self>>(job: J) -> J::Out {
        unsafe { shell::<Self, J>(job) }
    }
    #[inline(always)]
    unsafe fn splat(x: f64) -> __m256d {
        unsafe { _mm256_set1_pd(x) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f64) -> __m256d {
        unsafe { _mm256_loadu_pd(from) }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f64, v: __m256d) {
        unsafe { _mm256_storeu_pd(to, v) }
    }
    #[inline(always)]
    unsafe fn add(a: __m256d, b: __m256d) -> __m256d {
        unsafe { _mm256_add_pd(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: __m256d, b: __m256d) -> __m256d {
        unsafe { _mm256_sub_pd(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: __m256d, b: __m256d) -> __m256d {
        unsafe { _mm256_mul_pd(a, b) }
    }
    #[inline(always)]
    unsafe fn div(a: __m256d, b: __m256d) -> __m256d {
        unsafe { _mm256_div_pd(a, b) }
    }
    #[inline(always)]
    unsafe fn fma(a: __m256d, b: __m256d, c: __m256d) -> __m256d {
        unsafe { _mm256_fmadd_pd(a, b, c) }
    }
    #[inline(always)]
    unsafe fn max(a: __m256d, b: __m256d) -> __m256d {
        unsafe { _mm256_max_pd(a, b) }
    }
    #[inline(always)]
    unsafe fn min(a: __m256d, b: __m256d) -> __m256d {
        unsafe { _mm256_min_pd(a, b) }
    }
    #[inline(always)]
    unsafe fn abs(a: __m256d) -> __m256d {
        unsafe { _mm256_andnot_pd(_mm256_set1_pd(-0.0), a) }
    }
    #[inline(always)]
    unsafe fn not_below(a: __m256d, b: __m256d) -> __m256d {
        unsafe { _mm256_cmp_pd::<_CMP_NLT_UQ>(a, b) }
    }
    #[inline(always)]
    unsafe fn equal(a: __m256d, b: __m256d) -> __m256d {
        unsafe { _mm256_cmp_pd::<_CMP_EQ_OQ>(a, b) }
    }
    #[inline(always)]
    unsafe fn select(m: __m256d, a: __m256d, b: __m256d) -> __m256d {
        unsafe { _mm256_blendv_pd(b, a, m) }
    }
    #[inline(always)]
    unsafe fn round(x: __m256d) -> (__m256d, __m256d) {
        unsafe {
            let magic = _mm256_set1_pd(MAGIC_F64);
            let t = _mm256_add_pd(x, magic);
            (_mm256_sub_pd(t, magic), t)
        }
    }
    #[inline(always)]
    unsafe fn scale(p: __m256d, t: __m256d) -> __m256d {
        unsafe {
            let exponent = _mm256_slli_epi64::<52>(_mm256_castpd_si256(t));
            let power = _mm256_add_epi64(exponent, _mm256_set1_epi64x(1023 << 52));
            _mm256_mul_pd(p, _mm256_castsi256_pd(power))
        }
    }
    #[inline(always)]
    unsafe fn reduce_add(v: __m256d) -> f64 {
        unsafe {
            let v = _mm_add_pd(_mm256_castpd256_pd128(v), _mm256_extractf128_pd::<1>(v));
            _mm_cvtsd_f64(_mm_add_sd(v, _mm_unpackhi_pd(v, v)))
        }
    }
    #[inline(always)]
    unsafe fn reduce_max(v: __m256d) -> f64 {
        unsafe {
            let v = _mm_max_pd(_mm256_castpd256_pd128(v), _mm256_extractf128_pd::<1>(v));
            _mm_cvtsd_f64(_mm_max_sd(v, _mm_unpackhi_pd(v, v)))
        }
    }
    #[inline(always)]
    unsafe fn load_chunks(from: *const f64, stride: usize) -> __m256d {
        unsafe { _mm256_loadu2_m128d(from.add(stride), from) }
    }
    #[inline(always)]
    unsafe fn transpose_chunks(v: &mut [__m256d; 4]) {
        unsafe { (v[0], v[1]) = (_mm256_unpacklo_pd(v[0], v[1]), _mm256_unpackhi_pd(v[0], v[1])) }
    }
}

impl Load<f64> for Avx2F64 {
    #[inline(always)]
    unsafe fn load_from(from: *const f64) -> __m256d {
        unsafe { _mm256_loadu_pd(from) }
    }
}
