//! NEON's instructions in plain Rust, by the names and meanings of Arm's intrinsics: those that `neon.rs` uses, no others.
//!
//! With the feature `neon-model` the kernel written for NEON runs on any CPU, slowly, so that every case and property is
//! tried on it where there is no Arm machine. What a compiler makes of the real intrinsics is for a test on Arm to show.
//!
//! Where Arm's rules differ from those of Rust's operators, the difference is kept: maximum and minimum give NaN if either
//! operand is NaN, a true lane is all ones, selection goes bit by bit, sums across a vector are taken in pairs.
#![allow(non_camel_case_types, clippy::missing_safety_doc, reason = "Arm's names, and Arm's signatures")]
// SAFETY of every block here: pointers alone are dereferenced, and the caller vouches for them, as for the intrinsics.

use std::array::from_fn;

macro_rules! vectors {
    ($($name:ident = [$lane:ty; $lanes:literal]),* $(,)?) => {$(
        #[derive(Debug, Clone, Copy, PartialEq)]
        #[repr(transparent)]
        pub(crate) struct $name([$lane; $lanes]);
    )*};
}

vectors!(
    float32x4_t = [f32; 4],
    float64x2_t = [f64; 2],
    uint16x4_t = [u16; 4],
    uint32x4_t = [u32; 4],
    uint64x2_t = [u64; 2],
    int32x4_t = [i32; 4],
    int64x2_t = [i64; 2],
);

/// `fn name(a, b, …) -> V`, lane by lane.
macro_rules! lanes {
    ($($name:ident($($arg:ident: $type:ty),*) -> $out:ident = $lane:expr;)*) => {$(
        #[inline(always)]
        pub(crate) unsafe fn $name($($arg: $type),*) -> $out {
            #[allow(clippy::redundant_closure_call, reason = "the closure names the lanes")]
            $out(from_fn(|i| ($lane)($($arg.0[i]),*)))
        }
    )*};
}

/// All ones where true.
fn ones32(truth: bool) -> u32 {
    if truth { u32::MAX } else { 0 }
}

/// All ones where true.
fn ones64(truth: bool) -> u64 {
    if truth { u64::MAX } else { 0 }
}

/// FMAX and FMIN: NaN if either is NaN; of the zeros, +0 is the larger.
macro_rules! extreme {
    ($name:ident, $float:ty, $keep:tt, $sign:ident) => {
        fn $name(a: $float, b: $float) -> $float {
            if a.is_nan() || b.is_nan() {
                <$float>::NAN
            } else if a == b {
                if a.$sign() { a } else { b }
            } else if a $keep b {
                a
            } else {
                b
            }
        }
    };
}

extreme!(max32, f32, >, is_sign_positive);
extreme!(max64, f64, >, is_sign_positive);
extreme!(min32, f32, <, is_sign_negative);
extreme!(min64, f64, <, is_sign_negative);

lanes! {
    vaddq_f32(a: float32x4_t, b: float32x4_t) -> float32x4_t = |a: f32, b: f32| a + b;
    vsubq_f32(a: float32x4_t, b: float32x4_t) -> float32x4_t = |a: f32, b: f32| a - b;
    vmulq_f32(a: float32x4_t, b: float32x4_t) -> float32x4_t = |a: f32, b: f32| a * b;
    vdivq_f32(a: float32x4_t, b: float32x4_t) -> float32x4_t = |a: f32, b: f32| a / b;
    vfmaq_f32(c: float32x4_t, a: float32x4_t, b: float32x4_t) -> float32x4_t = |c: f32, a: f32, b: f32| a.mul_add(b, c);
    vmaxq_f32(a: float32x4_t, b: float32x4_t) -> float32x4_t = max32;
    vminq_f32(a: float32x4_t, b: float32x4_t) -> float32x4_t = min32;
    vabsq_f32(a: float32x4_t) -> float32x4_t = f32::abs;
    vrndnq_f32(a: float32x4_t) -> float32x4_t = f32::round_ties_even;
    vcltq_f32(a: float32x4_t, b: float32x4_t) -> uint32x4_t = |a: f32, b: f32| ones32(a < b);
    vceqq_f32(a: float32x4_t, b: float32x4_t) -> uint32x4_t = |a: f32, b: f32| ones32(a == b);
    vbslq_f32(m: uint32x4_t, a: float32x4_t, b: float32x4_t) -> float32x4_t =
        |m: u32, a: f32, b: f32| f32::from_bits((a.to_bits() & m) | (b.to_bits() & !m));
    vcvtq_s32_f32(a: float32x4_t) -> int32x4_t = |a: f32| a as i32;
    vaddq_s32(a: int32x4_t, b: int32x4_t) -> int32x4_t = i32::wrapping_add;
    vreinterpretq_f32_s32(a: int32x4_t) -> float32x4_t = |a: i32| f32::from_bits(a as u32);
    vreinterpretq_f32_u32(a: uint32x4_t) -> float32x4_t = f32::from_bits;
    vmvnq_u32(a: uint32x4_t) -> uint32x4_t = |a: u32| !a;

    vaddq_f64(a: float64x2_t, b: float64x2_t) -> float64x2_t = |a: f64, b: f64| a + b;
    vsubq_f64(a: float64x2_t, b: float64x2_t) -> float64x2_t = |a: f64, b: f64| a - b;
    vmulq_f64(a: float64x2_t, b: float64x2_t) -> float64x2_t = |a: f64, b: f64| a * b;
    vdivq_f64(a: float64x2_t, b: float64x2_t) -> float64x2_t = |a: f64, b: f64| a / b;
    vfmaq_f64(c: float64x2_t, a: float64x2_t, b: float64x2_t) -> float64x2_t = |c: f64, a: f64, b: f64| a.mul_add(b, c);
    vmaxq_f64(a: float64x2_t, b: float64x2_t) -> float64x2_t = max64;
    vminq_f64(a: float64x2_t, b: float64x2_t) -> float64x2_t = min64;
    vabsq_f64(a: float64x2_t) -> float64x2_t = f64::abs;
    vrndnq_f64(a: float64x2_t) -> float64x2_t = f64::round_ties_even;
    vcltq_f64(a: float64x2_t, b: float64x2_t) -> uint64x2_t = |a: f64, b: f64| ones64(a < b);
    vceqq_f64(a: float64x2_t, b: float64x2_t) -> uint64x2_t = |a: f64, b: f64| ones64(a == b);
    vbslq_f64(m: uint64x2_t, a: float64x2_t, b: float64x2_t) -> float64x2_t =
        |m: u64, a: f64, b: f64| f64::from_bits((a.to_bits() & m) | (b.to_bits() & !m));
    vcvtq_s64_f64(a: float64x2_t) -> int64x2_t = |a: f64| a as i64;
    vaddq_s64(a: int64x2_t, b: int64x2_t) -> int64x2_t = i64::wrapping_add;
    vreinterpretq_f64_s64(a: int64x2_t) -> float64x2_t = |a: i64| f64::from_bits(a as u64);
}

#[inline(always)]
pub(crate) unsafe fn vdupq_n_f32(x: f32) -> float32x4_t {
    float32x4_t([x; 4])
}
#[inline(always)]
pub(crate) unsafe fn vdupq_n_f64(x: f64) -> float64x2_t {
    float64x2_t([x; 2])
}
#[inline(always)]
pub(crate) unsafe fn vdupq_n_s32(x: i32) -> int32x4_t {
    int32x4_t([x; 4])
}
#[inline(always)]
pub(crate) unsafe fn vdupq_n_s64(x: i64) -> int64x2_t {
    int64x2_t([x; 2])
}

#[inline(always)]
pub(crate) unsafe fn vld1q_f32(from: *const f32) -> float32x4_t {
    // SAFETY: as said above.
    float32x4_t(unsafe { from.cast::<[f32; 4]>().read_unaligned() })
}
#[inline(always)]
pub(crate) unsafe fn vld1q_f64(from: *const f64) -> float64x2_t {
    // SAFETY: as said above.
    float64x2_t(unsafe { from.cast::<[f64; 2]>().read_unaligned() })
}
#[inline(always)]
pub(crate) unsafe fn vld1_u16(from: *const u16) -> uint16x4_t {
    // SAFETY: as said above.
    uint16x4_t(unsafe { from.cast::<[u16; 4]>().read_unaligned() })
}
#[inline(always)]
pub(crate) unsafe fn vst1q_f32(to: *mut f32, v: float32x4_t) {
    // SAFETY: as said above.
    unsafe { to.cast::<[f32; 4]>().write_unaligned(v.0) }
}
#[inline(always)]
pub(crate) unsafe fn vst1q_f64(to: *mut f64, v: float64x2_t) {
    // SAFETY: as said above.
    unsafe { to.cast::<[f64; 2]>().write_unaligned(v.0) }
}

#[inline(always)]
pub(crate) unsafe fn vshll_n_u16<const N: i32>(a: uint16x4_t) -> uint32x4_t {
    uint32x4_t(from_fn(|i| u32::from(a.0[i]) << N))
}
#[inline(always)]
pub(crate) unsafe fn vshlq_n_s32<const N: i32>(a: int32x4_t) -> int32x4_t {
    int32x4_t(from_fn(|i| a.0[i] << N))
}
#[inline(always)]
pub(crate) unsafe fn vshlq_n_s64<const N: i32>(a: int64x2_t) -> int64x2_t {
    int64x2_t(from_fn(|i| a.0[i] << N))
}

#[inline(always)]
pub(crate) unsafe fn vaddvq_f32(v: float32x4_t) -> f32 {
    (v.0[0] + v.0[1]) + (v.0[2] + v.0[3])
}
#[inline(always)]
pub(crate) unsafe fn vaddvq_f64(v: float64x2_t) -> f64 {
    v.0[0] + v.0[1]
}
#[inline(always)]
pub(crate) unsafe fn vmaxvq_f32(v: float32x4_t) -> f32 {
    max32(max32(v.0[0], v.0[1]), max32(v.0[2], v.0[3]))
}
#[inline(always)]
pub(crate) unsafe fn vmaxvq_f64(v: float64x2_t) -> f64 {
    max64(v.0[0], v.0[1])
}

/// Lanes 0 and 2 of each: `a0 b0 a2 b2`.
#[inline(always)]
pub(crate) unsafe fn vtrn1q_f32(a: float32x4_t, b: float32x4_t) -> float32x4_t {
    float32x4_t([a.0[0], b.0[0], a.0[2], b.0[2]])
}
/// Lanes 1 and 3 of each: `a1 b1 a3 b3`.
#[inline(always)]
pub(crate) unsafe fn vtrn2q_f32(a: float32x4_t, b: float32x4_t) -> float32x4_t {
    float32x4_t([a.0[1], b.0[1], a.0[3], b.0[3]])
}
#[inline(always)]
pub(crate) unsafe fn vtrn1q_f64(a: float64x2_t, b: float64x2_t) -> float64x2_t {
    float64x2_t([a.0[0], b.0[0]])
}
#[inline(always)]
pub(crate) unsafe fn vtrn2q_f64(a: float64x2_t, b: float64x2_t) -> float64x2_t {
    float64x2_t([a.0[1], b.0[1]])
}

/// The lower lane stands first: lanes are numbered from the least significant bits.
#[inline(always)]
pub(crate) unsafe fn vreinterpretq_f64_f32(a: float32x4_t) -> float64x2_t {
    let bits = a.0.map(|lane| u64::from(lane.to_bits()));
    float64x2_t(from_fn(|i| f64::from_bits(bits[2 * i] | bits[2 * i + 1] << 32)))
}
#[inline(always)]
pub(crate) unsafe fn vreinterpretq_f32_f64(a: float64x2_t) -> float32x4_t {
    float32x4_t(from_fn(|i| f32::from_bits((a.0[i / 2].to_bits() >> (32 * (i % 2))) as u32)))
}
#[inline(always)]
pub(crate) unsafe fn vreinterpretq_u32_u64(a: uint64x2_t) -> uint32x4_t {
    uint32x4_t(from_fn(|i| (a.0[i / 2] >> (32 * (i % 2))) as u32))
}
#[inline(always)]
pub(crate) unsafe fn vreinterpretq_u64_u32(a: uint32x4_t) -> uint64x2_t {
    uint64x2_t(from_fn(|i| u64::from(a.0[2 * i]) | u64::from(a.0[2 * i + 1]) << 32))
}
