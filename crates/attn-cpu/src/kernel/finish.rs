//! The last step of a row: accumulators times the inverse of the sum, narrowed to elements.

use crate::element::{Kernel, Loads};
use crate::math::Float;
use crate::simd::{Job, Simd};

/// One row of accumulators and where it goes.
pub(crate) struct Finish<S: Simd, T> {
    /// `[count rounded up to vectors]`. Scaled in place.
    pub acc: *mut S::A,
    pub factor: S::A,
    pub count: usize,
    /// `[count]`, contiguous.
    pub out: *mut T,
}

impl<S: Loads<T>, T: Kernel<Wide = S::A> + Copy> Job<S> for Finish<S, T> {
    /// Whether every number was finite.
    type Out = bool;

    #[inline(always)]
    unsafe fn run(self) -> bool {
        // SAFETY: `acc` is valid for whole vectors, `out` for `count` elements.
        unsafe {
            let zero = S::splat(S::A::ZERO);
            let factor = S::splat(self.factor);
            let mut check = zero;
            for v in 0..self.count.div_ceil(S::LANES) {
                let at = self.acc.add(v * S::LANES);
                let x = S::mul(S::load(at), factor);
                check = S::fma(x, zero, check);
                S::store(at, x);
            }
            for i in 0..self.count {
                *self.out.add(i) = T::narrow(*self.acc.add(i));
            }
            S::reduce_add(check) == S::A::ZERO
        }
    }
}

/// One row of accumulators and where it is kept as it is.
pub(crate) struct Keep<S: Simd> {
    /// `[count]`, whole vectors.
    pub acc: *const S::A,
    pub count: usize,
    /// `[count]`.
    pub to: *mut S::A,
}

impl<S: Simd> Job<S> for Keep<S> {
    /// Whether every number was finite.
    type Out = bool;

    #[inline(always)]
    unsafe fn run(self) -> bool {
        // SAFETY: both are valid for whole vectors.
        unsafe {
            let zero = S::splat(S::A::ZERO);
            let mut check = zero;
            for i in (0..self.count).step_by(S::LANES) {
                let x = S::load(self.acc.add(i));
                check = S::fma(x, zero, check);
                S::store(self.to.add(i), x);
            }
            S::reduce_add(check) == S::A::ZERO
        }
    }
}
