//! AVX-512F: vectors of 16 f32 or 8 f64, 32 registers; with AVX512-BF16, products of pairs of bf16.
#![allow(clippy::undocumented_unsafe_blocks, reason = "one reason for the whole file, given below")]
// SAFETY of every block here: `Isa::is_available` found the features before this kernel was chosen, and the caller of
// each function vouches for its pointers, as the trait says.

use std::arch::x86_64::*;
use std::mem::transmute;

use half::{bf16, f16};

use super::{Job, Load, Simd};

/// AVX-512 on f32 accumulators; `PAIRS`: with BF16's dot products.
#[derive(Clone, Copy)]
pub(crate) struct Avx512<const PAIRS: bool>;

/// AVX-512 on f32 accumulators.
pub(crate) type Avx512F32 = Avx512<false>;

/// AVX-512 on f32 accumulators and units of two bf16.
pub(crate) type Avx512Bf16 = Avx512<true>;

/// AVX-512 on f64 accumulators.
#[derive(Clone, Copy)]
pub(crate) struct Avx512F64;

#[target_feature(enable = "avx512f,avx2,fma,f16c")]
#[inline(never)]
unsafe fn shell<S: Simd, J: Job<S>>(job: J) -> J::Out {
    unsafe { job.run() }
}

#[target_feature(enable = "avx512f,avx512bf16,avx512bw,avx2,fma,f16c")]
#[inline(never)]
unsafe fn shell_of_pairs<S: Simd, J: Job<S>>(job: J) -> J::Out {
    unsafe { job.run() }
}

const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;

impl<const PAIRS: bool> Simd for Avx512<PAIRS> {
    type A = f32;
    type V = __m512;
    type M = __mmask16;
    const LANES: usize = 16;
    const TILE_VECTORS: usize = 4;
    const CHUNK: usize = 4;
    const PAIRS: bool = PAIRS;

    #[inline(always)]
    unsafe fn enter<J: Job<Self>>(job: J) -> J::Out {
        unsafe { if PAIRS { shell_of_pairs::<Self, J>(job) } else { shell::<Self, J>(job) } }
    }
    #[inline(always)]
    unsafe fn mac(a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe {
            if PAIRS {
                _mm512_dpbf16_ps(c, transmute::<__m512, __m512bh>(a), transmute::<__m512, __m512bh>(b))
            } else {
                _mm512_fmadd_ps(a, b, c)
            }
        }
    }
    #[inline(always)]
    unsafe fn pair(low: __m512, high: __m512) -> __m512 {
        unsafe {
            let low = _mm512_srli_epi32::<16>(_mm512_castps_si512(low));
            _mm512_castsi512_ps(_mm512_or_si512(low, _mm512_castps_si512(high)))
        }
    }
    #[inline(always)]
    unsafe fn narrow_pairs(first: __m512, second: __m512) -> __m512 {
        unsafe { transmute::<__m512bh, __m512>(_mm512_cvtne2ps_pbh(second, first)) }
    }
    #[inline(always)]
    unsafe fn round_to_half(v: __m512) -> __m512 {
        unsafe {
            let half = transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(v));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(half)))
        }
    }
    #[inline(always)]
    unsafe fn interleave(a: __m512, b: __m512) -> (__m512, __m512) {
        if !PAIRS {
            unreachable!("this instruction set has no products of pairs");
        }
        unsafe {
            let (a, b) = (_mm512_castps_si512(a), _mm512_castps_si512(b));
            (_mm512_castsi512_ps(_mm512_unpacklo_epi16(a, b)), _mm512_castsi512_ps(_mm512_unpackhi_epi16(a, b)))
        }
    }
    #[inline(always)]
    unsafe fn split(first: __m512, second: __m512) -> (__m512, __m512) {
        unsafe {
            let low = _mm512_setr_epi32(0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27);
            let high = _mm512_add_epi32(low, _mm512_set1_epi32(4));
            (_mm512_permutex2var_ps(first, low, second), _mm512_permutex2var_ps(first, high, second))
        }
    }
    #[inline(always)]
    unsafe fn join(low: __m512, high: __m512) -> (__m512, __m512) {
        unsafe {
            let first = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
            let second = _mm512_add_epi32(first, _mm512_set1_epi32(8));
            (_mm512_permutex2var_ps(low, first, high), _mm512_permutex2var_ps(low, second, high))
        }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> __m512 {
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m512 {
        unsafe { _mm512_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, v: __m512) {
        unsafe { _mm512_storeu_ps(to, v) }
    }
    #[inline(always)]
    unsafe fn add(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn div(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_div_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn max(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn min(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_min_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn abs(a: __m512) -> __m512 {
        unsafe { _mm512_abs_ps(a) }
    }
    #[inline(always)]
    unsafe fn not_below(a: __m512, b: __m512) -> __mmask16 {
        unsafe { _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(a, b) }
    }
    #[inline(always)]
    unsafe fn equal(a: __m512, b: __m512) -> __mmask16 {
        unsafe { _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(a, b) }
    }
    #[inline(always)]
    unsafe fn select(m: __mmask16, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_mask_blend_ps(m, b, a) }
    }
    #[inline(always)]
    unsafe fn round(x: __m512) -> (__m512, __m512) {
        let n = unsafe { _mm512_roundscale_ps::<NEAREST>(x) };
        (n, n)
    }
    #[inline(always)]
    unsafe fn scale(p: __m512, t: __m512) -> __m512 {
        unsafe { _mm512_scalef_ps(p, t) }
    }
    #[inline(always)]
    unsafe fn reduce_add(v: __m512) -> f32 {
        unsafe { _mm512_reduce_add_ps(v) }
    }
    #[inline(always)]
    unsafe fn reduce_max(v: __m512) -> f32 {
        unsafe { _mm512_reduce_max_ps(v) }
    }
    #[inline(always)]
    unsafe fn sums(v: [__m512; 4], to: *mut f32) {
        unsafe {
            let ab = _mm512_add_ps(_mm512_unpacklo_ps(v[0], v[1]), _mm512_unpackhi_ps(v[0], v[1]));
            let cd = _mm512_add_ps(_mm512_unpacklo_ps(v[2], v[3]), _mm512_unpackhi_ps(v[2], v[3]));
            let (ab, cd) = (_mm512_castps_pd(ab), _mm512_castps_pd(cd));
            let low = _mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd));
            let high = _mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd));
            let four = _mm512_add_ps(low, high);
            let upper = _mm256_castpd_ps(_mm512_extractf64x4_pd::<1>(_mm512_castps_pd(four)));
            let two = _mm256_add_ps(_mm512_castps512_ps256(four), upper);
            _mm_storeu_ps(to, _mm_add_ps(_mm256_castps256_ps128(two), _mm256_extractf128_ps::<1>(two)));
        }
    }
    #[inline(always)]
    unsafe fn load_part(from: *const f32, count: usize) -> __m512 {
        unsafe { _mm512_maskz_loadu_ps(((1u32 << count) - 1) as __mmask16, from) }
    }
    #[inline(always)]
    unsafe fn load_chunks(from: *const f32, stride: usize) -> __m512 {
        unsafe {
            let v = _mm512_castps128_ps512(_mm_loadu_ps(from));
            let v = _mm512_insertf32x4::<1>(v, _mm_loadu_ps(from.add(stride)));
            let v = _mm512_insertf32x4::<2>(v, _mm_loadu_ps(from.add(2 * stride)));
            _mm512_insertf32x4::<3>(v, _mm_loadu_ps(from.add(3 * stride)))
        }
    }
    #[inline(always)]
    unsafe fn transpose_chunks(v: &mut [__m512; 4]) {
        unsafe {
            let a = _mm512_castps_pd(_mm512_unpacklo_ps(v[0], v[1]));
            let b = _mm512_castps_pd(_mm512_unpackhi_ps(v[0], v[1]));
            let c = _mm512_castps_pd(_mm512_unpacklo_ps(v[2], v[3]));
            let d = _mm512_castps_pd(_mm512_unpackhi_ps(v[2], v[3]));
            v[0] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, c));
            v[1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, c));
            v[2] = _mm512_castpd_ps(_mm512_unpacklo_pd(b, d));
            v[3] = _mm512_castpd_ps(_mm512_unpackhi_pd(b, d));
        }
    }
}

impl<const PAIRS: bool> Load<f32> for Avx512<PAIRS> {
    #[inline(always)]
    unsafe fn load_from(from: *const f32) -> __m512 {
        unsafe { _mm512_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn load_part_from(from: *const f32, count: usize) -> __m512 {
        unsafe { Self::load_part(from, count) }
    }
}

impl<const PAIRS: bool> Load<f16> for Avx512<PAIRS> {
    #[inline(always)]
    unsafe fn load_from(from: *const f16) -> __m512 {
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) }
    }
}

impl<const PAIRS: bool> Load<bf16> for Avx512<PAIRS> {
    #[inline(always)]
    unsafe fn load_from(from: *const bf16) -> __m512 {
        unsafe {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        }
    }
}

impl Simd for Avx512F64 {
    type A = f64;
    type V = __m512d;
    type M = __mmask8;
    const LANES: usize = 8;
    const TILE_VECTORS: usize = 4;
    const CHUNK: usize = 2;

    #[inline(always)]
    unsafe fn enter<J: Job<Self>>(job: J) -> J::Out {
        unsafe { shell::<Self, J>(job) }
    }
    #[inline(always)]
    unsafe fn splat(x: f64) -> __m512d {
        unsafe { _mm512_set1_pd(x) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f64) -> __m512d {
        unsafe { _mm512_loadu_pd(from) }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f64, v: __m512d) {
        unsafe { _mm512_storeu_pd(to, v) }
    }
    #[inline(always)]
    unsafe fn add(a: __m512d, b: __m512d) -> __m512d {
        unsafe { _mm512_add_pd(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: __m512d, b: __m512d) -> __m512d {
        unsafe { _mm512_sub_pd(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: __m512d, b: __m512d) -> __m512d {
        unsafe { _mm512_mul_pd(a, b) }
    }
    #[inline(always)]
    unsafe fn div(a: __m512d, b: __m512d) -> __m512d {
        unsafe { _mm512_div_pd(a, b) }
    }
    #[inline(always)]
    unsafe fn fma(a: __m512d, b: __m512d, c: __m512d) -> __m512d {
        unsafe { _mm512_fmadd_pd(a, b, c) }
    }
    #[inline(always)]
    unsafe fn max(a: __m512d, b: __m512d) -> __m512d {
        unsafe { _mm512_max_pd(a, b) }
    }
    #[inline(always)]
    unsafe fn min(a: __m512d, b: __m512d) -> __m512d {
        unsafe { _mm512_min_pd(a, b) }
    }
    #[inline(always)]
    unsafe fn abs(a: __m512d) -> __m512d {
        unsafe { _mm512_abs_pd(a) }
    }
    #[inline(always)]
    unsafe fn not_below(a: __m512d, b: __m512d) -> __mmask8 {
        unsafe { _mm512_cmp_pd_mask::<_CMP_NLT_UQ>(a, b) }
    }
    #[inline(always)]
    unsafe fn equal(a: __m512d, b: __m512d) -> __mmask8 {
        unsafe { _mm512_cmp_pd_mask::<_CMP_EQ_OQ>(a, b) }
    }
    #[inline(always)]
    unsafe fn select(m: __mmask8, a: __m512d, b: __m512d) -> __m512d {
        unsafe { _mm512_mask_blend_pd(m, b, a) }
    }
    #[inline(always)]
    unsafe fn round(x: __m512d) -> (__m512d, __m512d) {
        let n = unsafe { _mm512_roundscale_pd::<NEAREST>(x) };
        (n, n)
    }
    #[inline(always)]
    unsafe fn scale(p: __m512d, t: __m512d) -> __m512d {
        unsafe { _mm512_scalef_pd(p, t) }
    }
    #[inline(always)]
    unsafe fn reduce_add(v: __m512d) -> f64 {
        unsafe { _mm512_reduce_add_pd(v) }
    }
    #[inline(always)]
    unsafe fn reduce_max(v: __m512d) -> f64 {
        unsafe { _mm512_reduce_max_pd(v) }
    }
    #[inline(always)]
    unsafe fn load_chunks(from: *const f64, stride: usize) -> __m512d {
        unsafe {
            let low = _mm256_loadu2_m128d(from.add(stride), from);
            let high = _mm256_loadu2_m128d(from.add(3 * stride), from.add(2 * stride));
            _mm512_insertf64x4::<1>(_mm512_castpd256_pd512(low), high)
        }
    }
    #[inline(always)]
    unsafe fn transpose_chunks(v: &mut [__m512d; 4]) {
        unsafe { (v[0], v[1]) = (_mm512_unpacklo_pd(v[0], v[1]), _mm512_unpackhi_pd(v[0], v[1])) }
    }
}

impl Load<f64> for Avx512F64 {
    #[inline(always)]
    unsafe fn load_from(from: *const f64) -> __m512d {
        unsafe { _mm512_loadu_pd(from) }
    }
}
