//! Elementary functions on vectors: 2ˣ and tanh by polynomials of known error.

use crate::simd::Simd;

/// The type of an accumulator: `f32` or `f64`.
pub(crate) trait Float:
    Copy
    + Default
    + Send
    + Sync
    + PartialOrd
    + std::fmt::Debug
    + std::ops::Neg<Output = Self>
    + std::ops::Mul<Output = Self>
    + std::ops::Add<Output = Self>
    + 'static
{
    /// Coefficients `c₁…cₙ` of `2ᶠ ≈ 1 + c₁f + … + cₙfⁿ` for `|f| ≤ ½`, the relative error's maximum made smallest.
    const EXP2: &'static [Self];
    /// Below this exponent a power of two counts as 0. Just above the smallest normal number, since subnormal numbers
    /// would cost a hundred cycles each, and beside the row's largest weight, 1, they are nothing.
    const EXP2_CUTOFF: f64;
    /// From this argument on tanh rounds to 1.
    const TANH_LIMIT: f64;
    /// −∞.
    const NEG_INFINITY: Self;
    /// 0.
    const ZERO: Self;
    /// Rounds to this type.
    fn from_f64(x: f64) -> Self;
    /// Widens, exactly.
    fn to_f64(self) -> f64;
}

impl Float for f32 {
    // Relative error of the polynomial 2.6e-9; with the rounding of its evaluation the result is within 1 ulp.
    const EXP2: &'static [f32] =
        &[0.693_147_24, 0.240_226_52, 0.055_503_104, 0.009_617_693, 0.001_340_664_3, 0.000_155_946_78];
    const EXP2_CUTOFF: f64 = -125.0;
    const TANH_LIMIT: f64 = 10.0;
    const NEG_INFINITY: f32 = f32::NEG_INFINITY;
    const ZERO: f32 = 0.0;
    #[inline(always)]
    fn from_f64(x: f64) -> f32 {
        x as f32
    }
    #[inline(always)]
    fn to_f64(self) -> f64 {
        f64::from(self)
    }
}

impl Float for f64 {
    // Relative error of the polynomial 8.5e-18.
    const EXP2: &'static [f64] = &[
        std::f64::consts::LN_2,
        0.240_226_506_959_101,
        0.055_504_108_664_821_6,
        0.009_618_129_107_606_888,
        0.001_333_355_814_641_693_6,
        0.000_154_035_304_417_360_5,
        1.525_273_382_983_612e-5,
        1.321_544_258_792_169e-6,
        1.017_806_244_584_574_7e-7,
        7.072_585_949_269_223e-9,
        4.454_960_598_186_519e-10,
    ];
    const EXP2_CUTOFF: f64 = -1021.0;
    const TANH_LIMIT: f64 = 20.0;
    const NEG_INFINITY: f64 = f64::NEG_INFINITY;
    const ZERO: f64 = 0.0;
    #[inline(always)]
    fn from_f64(x: f64) -> f64 {
        x
    }
    #[inline(always)]
    fn to_f64(self) -> f64 {
        self
    }
}

/// `(2ᶠ − 1) / f` for `|f| ≤ ½`.
#[inline(always)]
unsafe fn quotient<S: Simd>(f: S::V) -> S::V {
    let [rest @ .., last] = S::A::EXP2 else { unreachable!() };
    // SAFETY: the caller runs inside the shell of `S`.
    unsafe {
        let mut p = S::splat(*last);
        for c in rest.iter().rev() {
            p = S::fma(p, f, S::splat(*c));
        }
        p
    }
}

/// `2ˣ` for `x` up to 126, within 1 ulp for f32 and 2 for f64; 0 below [`Float::EXP2_CUTOFF`]; NaN for NaN.
///
/// # Safety
/// Only inside the shell of `S`.
#[inline(always)]
pub(crate) unsafe fn exp2<S: Simd>(x: S::V) -> S::V {
    // SAFETY: the caller runs inside the shell of `S`.
    unsafe {
        let seen = S::not_below(x, S::splat(S::A::from_f64(S::A::EXP2_CUTOFF)));
        let (n, t) = S::round(x);
        let f = S::sub(x, n);
        let p = S::fma(quotient::<S>(f), f, S::splat(S::A::from_f64(1.0)));
        S::select(seen, S::scale(p, t), S::splat(S::A::ZERO))
    }
}

/// `tanh x`, within a few ulp everywhere, small arguments included; NaN for NaN.
///
/// With `2x·log₂e = n + f` and `w = 2ᶠ − 1`: `e²ˣ ∓ 1 = 2ⁿ·w + (2ⁿ ∓ 1)`, and tanh is the quotient of the two. Nothing
/// cancels: for small `x`, `n` is 0 and the numerator is `w` itself.
///
/// # Safety
/// Only inside the shell of `S`.
#[inline(always)]
pub(crate) unsafe fn tanh<S: Simd>(x: S::V) -> S::V {
    // SAFETY: the caller runs inside the shell of `S`.
    unsafe {
        let one = S::splat(S::A::from_f64(1.0));
        let limit = S::A::from_f64(S::A::TANH_LIMIT);
        let x = S::min(S::splat(limit), S::max(S::splat(-limit), x));
        let y = S::mul(x, S::splat(S::A::from_f64(2.0 * std::f64::consts::LOG2_E)));
        let (n, t) = S::round(y);
        let f = S::sub(y, n);
        let w = S::mul(quotient::<S>(f), f);
        let power = S::scale(one, t);
        S::div(S::fma(power, w, S::sub(power, one)), S::fma(power, w, S::add(power, one)))
    }
}

#[cfg(test)]
mod tests {
    //! The error of 2ˣ and tanh over their whole ranges, on every instruction set, in units in the last place.

    use super::{Float, exp2, tanh};
    use crate::Isa;
    use crate::simd::{Job, Simd, portable};

    struct Map<'a, S: Simd> {
        numbers: &'a mut [S::A],
        tanh: bool,
    }

    impl<S: Simd> Job<S> for Map<'_, S> {
        type Out = ();

        #[inline(always)]
        unsafe fn run(self) {
            for numbers in self.numbers.chunks_exact_mut(S::LANES) {
                // SAFETY: a chunk has LANES numbers.
                unsafe {
                    let x = S::load(numbers.as_ptr());
                    let y = if self.tanh { tanh::<S>(x) } else { exp2::<S>(x) };
                    S::store(numbers.as_mut_ptr(), y);
                }
            }
        }
    }

    /// The largest error of a function over evenly spaced arguments, in ulp of the exact result.
    fn worst<S: Simd>(isa: Isa, tanh: bool, (low, high): (f64, f64), exact: fn(f64) -> f64, digits: f64) -> f64 {
        if !isa.is_available() {
            return 0.0;
        }
        let count = 1 << 17;
        let arguments: Vec<S::A> =
            (0..count).map(|i| S::A::from_f64(low + (high - low) * f64::from(i) / f64::from(count))).collect();
        let mut numbers = arguments.clone();
        // SAFETY: the instruction set is there.
        unsafe { S::enter(Map::<S> { numbers: &mut numbers, tanh }) };
        let error = |(x, y): (&S::A, &S::A)| {
            let exact = exact(x.to_f64());
            let ulp = (exact.abs().log2().floor() - digits).exp2();
            (y.to_f64() - exact).abs() / ulp
        };
        arguments.iter().zip(&numbers).filter(|(x, _)| x.to_f64() != 0.0).map(error).fold(0.0, f64::max)
    }

    fn check<S: Simd, D: Simd>(isa: Isa) {
        // The exact value is itself only good to an f64's ulp, hence the coarser bound there.
        let single = worst::<S>(isa, false, (-124.9, 1.0), f64::exp2, 23.0);
        let double = worst::<D>(isa, false, (-1020.9, 1.0), f64::exp2, 52.0);
        assert!(single <= 1.5 && double <= 3.0, "{}: 2^x off by {single} and {double} ulp", isa.name());
        let wide = worst::<S>(isa, true, (-12.0, 12.0), f64::tanh, 23.0);
        let narrow = worst::<S>(isa, true, (-1e-3, 1e-3), f64::tanh, 23.0);
        let double = worst::<D>(isa, true, (-25.0, 25.0), f64::tanh, 52.0);
        assert!(
            wide <= 5.0 && narrow <= 5.0 && double <= 8.0,
            "{}: tanh off by {wide}, {narrow}, {double}",
            isa.name()
        );
        special::<S>(isa);
        special::<D>(isa);
    }

    /// −∞ and what underflows give 0, 0 gives exactly 1, NaN stays NaN.
    fn special<S: Simd>(isa: Isa) {
        if !isa.is_available() {
            return;
        }
        let inputs = [f64::NEG_INFINITY, -1e30, -2000.0, 0.0, f64::NAN];
        for (at, x) in inputs.into_iter().enumerate() {
            let mut numbers = vec![S::A::from_f64(x); S::LANES];
            // SAFETY: the instruction set is there.
            unsafe { S::enter(Map::<S> { numbers: &mut numbers, tanh: false }) };
            let y = numbers[S::LANES - 1].to_f64();
            assert!([y == 0.0, y == 0.0, y == 0.0, y == 1.0, y.is_nan()][at], "{}: 2^{x} = {y}", isa.name());
            let mut numbers = vec![S::A::from_f64(x); S::LANES];
            // SAFETY: the instruction set is there.
            unsafe { S::enter(Map::<S> { numbers: &mut numbers, tanh: true }) };
            let y = numbers[0].to_f64();
            assert!([y == -1.0, y == -1.0, y == -1.0, y == 0.0, y.is_nan()][at], "{}: tanh {x} = {y}", isa.name());
        }
    }

    #[test]
    fn errors_stay_below_their_bounds() {
        check::<portable::PortableF32, portable::PortableF64>(Isa::Portable);
        #[cfg(target_arch = "x86_64")]
        {
            check::<crate::simd::avx512::Avx512F32, crate::simd::avx512::Avx512F64>(Isa::Avx512);
            check::<crate::simd::avx2::Avx2F32, crate::simd::avx2::Avx2F64>(Isa::Avx2);
        }
        #[cfg(any(target_arch = "aarch64", feature = "neon-model"))]
        check::<crate::simd::neon::NeonF32, crate::simd::neon::NeonF64>(Isa::Neon);
    }
}
