//! Plain Rust on small arrays, written so that the compiler vectorises it for the target's base instruction set.
#![allow(clippy::undocumented_unsafe_blocks, reason = "one reason for the whole file, given below")]
// SAFETY of every block here: only pointers are dereferenced, and the caller of each function vouches for its pointers,
// as the trait says. No instruction beyond the target's base set is used.

use std::array::from_fn;

use half::{bf16, f16};

use super::{Job, Load, Simd, widen_bf16, widen_f16};

/// Plain Rust on f32 accumulators.
#[derive(Clone, Copy)]
pub(crate) struct PortableF32;

/// Plain Rust on f64 accumulators.
#[derive(Clone, Copy)]
pub(crate) struct PortableF64;

/// Vectors of 128 bits, the width that base instruction sets have.
macro_rules! portable {
    ($name:ident, $float:ty, $lanes:literal, $chunk:literal, $magic:literal, $shift:literal, $bias:literal) => {
        impl Simd for $name {
            type A = $float;
            type V = [$float; $lanes];
            type M = [bool; $lanes];
            const LANES: usize = $lanes;
            const TILE_VECTORS: usize = 2;
            const CHUNK: usize = $chunk;

            #[inline(never)]
            unsafe fn enter<J: Job<Self>>(job: J) -> J::Out {
                unsafe { job.run() }
            }
            #[inline(always)]
            unsafe fn splat(x: $float) -> Self::V {
                [x; $lanes]
            }
            #[inline(always)]
            unsafe fn load(from: *const $float) -> Self::V {
                unsafe { from.cast::<Self::V>().read_unaligned() }
            }
            #[inline(always)]
            unsafe fn store(to: *mut $float, v: Self::V) {
                unsafe { to.cast::<Self::V>().write_unaligned(v) }
            }
            #[inline(always)]
            unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
                from_fn(|i| a[i] + b[i])
            }
            #[inline(always)]
            unsafe fn sub(a: Self::V, b: Self::V) -> Self::V {
                from_fn(|i| a[i] - b[i])
            }
            #[inline(always)]
            unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
                from_fn(|i| a[i] * b[i])
            }
            #[inline(always)]
            unsafe fn div(a: Self::V, b: Self::V) -> Self::V {
                from_fn(|i| a[i] / b[i])
            }
            #[inline(always)]
            unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
                from_fn(|i| a[i] * b[i] + c[i])
            }
            #[inline(always)]
            unsafe fn max(a: Self::V, b: Self::V) -> Self::V {
                from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
            }
            #[inline(always)]
            unsafe fn min(a: Self::V, b: Self::V) -> Self::V {
                from_fn(|i| if a[i] < b[i] { a[i] } else { b[i] })
            }
            #[inline(always)]
            unsafe fn abs(a: Self::V) -> Self::V {
                from_fn(|i| a[i].abs())
            }
            #[inline(always)]
            #[allow(clippy::neg_cmp_op_on_partial_ord, reason = "NaN is not below")]
            unsafe fn not_below(a: Self::V, b: Self::V) -> Self::M {
                from_fn(|i| !(a[i] < b[i]))
            }
            #[inline(always)]
            unsafe fn equal(a: Self::V, b: Self::V) -> Self::M {
                from_fn(|i| a[i] == b[i])
            }
            #[inline(always)]
            unsafe fn select(m: Self::M, a: Self::V, b: Self::V) -> Self::V {
                from_fn(|i| if m[i] { a[i] } else { b[i] })
            }
            #[inline(always)]
            unsafe fn round(x: Self::V) -> (Self::V, Self::V) {
                // Added to a small number, this leaves the nearest whole number in the low bits of the mantissa.
                let t: Self::V = from_fn(|i| x[i] + $magic);
                (from_fn(|i| t[i] - $magic), t)
            }
            #[inline(always)]
            unsafe fn scale(p: Self::V, t: Self::V) -> Self::V {
                from_fn(|i| {
                    let exponent = t[i].to_bits() << $shift;
                    p[i] * <$float>::from_bits(exponent.wrapping_add($bias << $shift))
                })
            }
            #[inline(always)]
            unsafe fn reduce_add(v: Self::V) -> $float {
                v.iter().sum()
            }
            #[inline(always)]
            unsafe fn reduce_max(v: Self::V) -> $float {
                v.iter().fold(<$float>::NEG_INFINITY, |a, &b| if a > b { a } else { b })
            }
            #[inline(always)]
            unsafe fn load_chunks(from: *const $float, _stride: usize) -> Self::V {
                unsafe { Self::load(from) }
            }
            #[inline(always)]
            unsafe fn transpose_chunks(v: &mut [Self::V; 4]) {
                for i in 0..$chunk {
                    for j in 0..i {
                        (v[i][j], v[j][i]) = (v[j][i], v[i][j]);
                    }
                }
            }
        }
    };
}

portable!(PortableF32, f32, 4, 4, 12_582_912.0, 23, 127);
portable!(PortableF64, f64, 2, 2, 6_755_399_441_055_744.0, 52, 1023);

impl Load<f32> for PortableF32 {
    #[inline(always)]
    unsafe fn load_from(from: *const f32) -> [f32; 4] {
        unsafe { Self::load(from) }
    }
}

impl Load<f16> for PortableF32 {
    #[inline(always)]
    unsafe fn load_from(from: *const f16) -> [f32; 4] {
        from_fn(|i| widen_f16(unsafe { *from.add(i) }))
    }
}

impl Load<bf16> for PortableF32 {
    #[inline(always)]
    unsafe fn load_from(from: *const bf16) -> [f32; 4] {
        from_fn(|i| widen_bf16(unsafe { *from.add(i) }))
    }
}

impl Load<f64> for PortableF64 {
    #[inline(always)]
    unsafe fn load_from(from: *const f64) -> [f64; 2] {
        unsafe { Self::load(from) }
    }
}
