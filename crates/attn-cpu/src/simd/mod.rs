//! The vector operations that the kernel is written in, and the one shell that each instruction set adds around them.
//!
//! The kernel is generic over [`Simd`]. Its inner loops are [`Job`]s: plain structs whose `run` is inlined into the
//! shell `Simd::enter` of an instruction set, the only place where `#[target_feature]` stands. What runs inside a shell
//! is compiled with that instruction set's features; everything else with the target's base features. What a job calls is therefore
//! `#[inline(always)]`; a closure called from two places is not inlined, and made the softmax five times as slow.

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
#[cfg(any(target_arch = "aarch64", feature = "neon-model"))]
pub(crate) mod neon;
#[cfg(all(not(target_arch = "aarch64"), feature = "neon-model"))]
mod neon_model;
pub(crate) mod portable;

use half::{bf16, f16};

use crate::math::Float;

/// Work that runs inside the shell of an instruction set.
pub(crate) trait Job<S: Simd> {
    /// What it gives.
    type Out;
    /// Does the work. Implementations are `#[inline(always)]`, so that they take on the shell's features.
    ///
    /// # Safety
    /// Called by [`Simd::enter`] alone. Pointers that the job holds must be valid as the job's own fields say.
    unsafe fn run(self) -> Self::Out;
}

/// One instruction set with one type of accumulator: vectors of [`Simd::LANES`] numbers.
///
/// # Safety
/// All functions are unsafe for two reasons: the CPU must have the instruction set (checked once by
/// [`Isa::is_available`](crate::Isa::is_available) before a kernel is chosen), and pointers must be valid for as many
/// elements as the function says. They need no alignment beyond the element's.
pub(crate) trait Simd: Copy + Send + Sync + 'static {
    /// The type of scores, sums and accumulators.
    type A: Float;
    /// A vector.
    type V: Copy;
    /// A truth value a lane.
    type M: Copy;
    /// Numbers in a vector.
    const LANES: usize;
    /// Vectors in a row of a register tile. Six rows of them, and what feeds them, fill the register file.
    const TILE_VECTORS: usize;
    /// Numbers in a 128-bit chunk of a vector.
    const CHUNK: usize;
    /// Whether packed operands are units of two bf16, of which [`Simd::mac`] multiplies pair by pair. A unit is as wide as an
    /// accumulator, so that packed operands of either kind are moved by the same loads, broadcasts and transpositions.
    const PAIRS: bool = false;

    /// Runs a job with this instruction set's features turned on.
    unsafe fn enter<J: Job<Self>>(job: J) -> J::Out;

    unsafe fn splat(x: Self::A) -> Self::V;
    unsafe fn load(from: *const Self::A) -> Self::V;
    unsafe fn store(to: *mut Self::A, v: Self::V);
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V;
    /// `a·b + c`, rounded once where the instruction set can.
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The product of packed operands: `a·b + c`, or `a₀·b₀ + a₁·b₁ + c` where they are units of pairs.
    #[inline(always)]
    unsafe fn mac(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // SAFETY: passed on from the caller.
        unsafe { Self::fma(a, b, c) }
    }
    /// Units `(low, high)` of two vectors of widened bf16, lane by lane. Only where there are pairs.
    #[inline(always)]
    unsafe fn pair(_low: Self::V, _high: Self::V) -> Self::V {
        unreachable!("this instruction set has no products of pairs")
    }
    /// Two vectors rounded to bf16, the elements of `first` before those of `second`: units of neighbours. Only where there are
    /// pairs.
    #[inline(always)]
    unsafe fn narrow_pairs(_first: Self::V, _second: Self::V) -> Self::V {
        unreachable!("this instruction set has no products of pairs")
    }
    /// Numbers rounded to bf16, each as a unit `(0, x)`, which is the number itself. Only where there are pairs.
    #[inline(always)]
    unsafe fn round_to_half(_v: Self::V) -> Self::V {
        unreachable!("this instruction set has no products of pairs")
    }
    /// Units `(a, b)` of two vectors of bf16 as they lie, number by number: those of the first four numbers of every chunk of 128 bits, then
    /// those of the last four. Only where there are pairs.
    #[inline(always)]
    unsafe fn interleave(_a: Self::V, _b: Self::V) -> (Self::V, Self::V) {
        unreachable!("this instruction set has no products of pairs")
    }
    /// Two vectors of numbers in the order of [`Simd::interleave`]: of every eight the first four, then the last four. Only where there are
    /// pairs.
    #[inline(always)]
    unsafe fn split(_first: Self::V, _second: Self::V) -> (Self::V, Self::V) {
        unreachable!("this instruction set has no products of pairs")
    }
    /// Undoes [`Simd::split`]. Only where there are pairs.
    #[inline(always)]
    unsafe fn join(_low: Self::V, _high: Self::V) -> (Self::V, Self::V) {
        unreachable!("this instruction set has no products of pairs")
    }
    /// The larger. Where a lane of `b` is NaN, NaN.
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    /// The smaller. Where a lane of `b` is NaN, NaN.
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn abs(a: Self::V) -> Self::V;
    /// `!(a < b)`: true where a lane is NaN.
    unsafe fn not_below(a: Self::V, b: Self::V) -> Self::M;
    unsafe fn equal(a: Self::V, b: Self::V) -> Self::M;
    /// `a` where true, `b` elsewhere.
    unsafe fn select(m: Self::M, a: Self::V, b: Self::V) -> Self::V;
    /// `(n, t)`: `x` rounded to the nearest whole number, and the same in the form that [`Simd::scale`] takes.
    unsafe fn round(x: Self::V) -> (Self::V, Self::V);
    /// `p · 2ⁿ` for the `t` of [`Simd::round`], where `|n|` is at most the type's largest exponent less one.
    unsafe fn scale(p: Self::V, t: Self::V) -> Self::V;
    unsafe fn reduce_add(v: Self::V) -> Self::A;
    unsafe fn reduce_max(v: Self::V) -> Self::A;
    /// Writes the sum of each of four vectors.
    #[inline(always)]
    unsafe fn sums(v: [Self::V; 4], to: *mut Self::A) {
        for (i, v) in v.into_iter().enumerate() {
            // SAFETY: `to` is valid for four numbers.
            unsafe { *to.add(i) = Self::reduce_add(v) };
        }
    }
    /// Reads the first `count` numbers of a vector, at most [`Simd::LANES`], and 0 for the others.
    #[inline(always)]
    unsafe fn load_part(from: *const Self::A, count: usize) -> Self::V {
        let mut numbers = [Self::A::ZERO; 16];
        // SAFETY: `from` is valid for `count` numbers, at any address; no vector has more than 16.
        unsafe {
            std::ptr::copy_nonoverlapping(from.cast::<u8>(), numbers.as_mut_ptr().cast(), count * size_of::<Self::A>());
            Self::load(numbers.as_ptr())
        }
    }
    /// A vector whose 128-bit chunk `c` is read from `from + c·stride`.
    unsafe fn load_chunks(from: *const Self::A, stride: usize) -> Self::V;
    /// Transposes, in each 128-bit chunk alone, the [`Simd::CHUNK`] vectors at `v`.
    unsafe fn transpose_chunks(v: &mut [Self::V; 4]);
}

/// Reading elements of type `T` as vectors of accumulators.
pub(crate) trait Load<T>: Simd {
    /// Reads [`Simd::LANES`] elements.
    ///
    /// # Safety
    /// As [`Simd`]; `from` is valid for that many elements.
    unsafe fn load_from(from: *const T) -> Self::V;
    /// Reads the first `count` elements of a vector, at most [`Simd::LANES`], and 0 for the others.
    ///
    /// # Safety
    /// As [`Simd`]; `from` is valid for that many elements.
    #[inline(always)]
    unsafe fn load_part_from(from: *const T, count: usize) -> Self::V
    where
        T: Copy + Default,
    {
        let mut elements = [T::default(); 16];
        // SAFETY: `from` is valid for `count` elements; no vector has more than 16.
        unsafe {
            std::ptr::copy_nonoverlapping(from, elements.as_mut_ptr(), count);
            Self::load_from(elements.as_ptr())
        }
    }
}

/// Widens a half by integer arithmetic that every compiler vectorises. Exact, subnormals, infinities and NaN included.
#[inline(always)]
pub(crate) fn widen_f16(x: f16) -> f32 {
    let bits = u32::from(x.to_bits());
    let sign = (bits & 0x8000) << 16;
    let magnitude = (bits & 0x7fff) << 13;
    // The exponent moves from bias 15 to bias 127: a multiplication by 2^112, which also normalises subnormals.
    let scaled = (f32::from_bits(magnitude) * f32::from_bits(0x7780_0000)).to_bits();
    let special = if magnitude >= 0x0f80_0000 { magnitude | 0x7f80_0000 } else { scaled };
    f32::from_bits(sign | special)
}

/// Widens a bfloat16: its bits are the upper half of an f32's.
#[inline(always)]
pub(crate) fn widen_bf16(x: bf16) -> f32 {
    f32::from_bits(u32::from(x.to_bits()) << 16)
}
