//! The last step of a row: accumulators times the inverse of the sum, narrowed to elements.

use crate::element::{Kernel, Loads};
use crate::math::Float;
use crate::simd::{Job, Simd};

/// One row of accumulators and where it goes.
pub(crate) struct Finish<S: Simd, T> {
    /// `[count rounded up to vectors]`. Scaled in place where the elements are narrower.
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
            let mut i = 0;
            while i < self.count {
                let at = self.acc.add(i);
                let x = S::mul(S::load(at), factor);
                check = S::fma(x, zero, check);
                if T::IS_WIDE && i + S::LANES <= self.count {
                    S::store(self.out.add(i).cast(), x);
                } else {
                    S::store(at, x);
                    for j in i..self.count.min(i + S::LANES) {
                        *self.out.add(j) = T::narrow(*self.acc.add(j));
                    }
                }
                i += S::LANES;
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
