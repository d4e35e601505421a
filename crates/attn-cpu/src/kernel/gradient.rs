//! The elementwise part of the backward pass: from scores to weights and to the gradient by each score, strip by strip.
//!
//! ```text
//! P  = 2^(unit · S − base)                       base = LSE · log₂e
//! dS = P ∘ (dP − shift), 0 where S is −∞         shift = Σ dOut·out − dLse, a number each row
//! ```
//! Where a strip's part of a tile is all that a row sees, the LSE, rounded as it is, need not be relied on, nor the output: weights are
//! divided by their own sum, and `shift = Σ P·dP − dLse` (`Exponents`, `Divide`). An LSE of 1000 in f32 is off by 3e-5, and so
//! would be each weight.
//!
//! Dropout multiplies `dP` by its factors before all this (`Drop`), and sets `P` to 0 as it is written where they are 0.
//!
//! Where products are of pairs of bf16, both are rounded to units of two rows, and dS to units of two keys besides: as the products of
//! this pass take them.

use crate::element::{Kernel, Loads};
use crate::kernel::{ROWS, STRIDE};
use crate::math::{Float, exp2};
use crate::simd::{Job, Simd};

/// What stands for the weight of a hidden pair where hidden pairs are told apart from weights of 0. No weight is negative.
pub(crate) const HIDDEN: f64 = -1.0;

/// One row of scores becomes one of weights before they are divided by their sum: `2^(unit · S − base)`, or [`HIDDEN`].
pub(crate) struct Exponents<S: Simd> {
    /// `[vectors · LANES]`, hidden ones −∞.
    pub scores: *mut S::A,
    pub vectors: usize,
    pub unit: S::A,
    pub base: S::A,
}

impl<S: Simd> Job<S> for Exponents<S> {
    /// Their sum.
    type Out = S::A;

    #[inline(always)]
    unsafe fn run(self) -> S::A {
        // SAFETY: the vectors lie in the row.
        unsafe {
            let zero = S::splat(S::A::ZERO);
            let minus = S::sub(zero, S::splat(self.base));
            let mut sum = zero;
            for v in 0..self.vectors {
                let at = self.scores.add(v * S::LANES);
                let score = S::load(at);
                let weight = exp2::<S>(S::fma(score, S::splat(self.unit), minus));
                let hidden = S::equal(score, S::splat(S::A::NEG_INFINITY));
                sum = S::add(sum, S::select(hidden, zero, weight));
                S::store(at, S::select(hidden, S::splat(S::A::from_f64(HIDDEN)), weight));
            }
            S::reduce_add(sum)
        }
    }
}

/// One row of weights is divided by their sum.
pub(crate) struct Divide<S: Simd> {
    /// `[vectors · LANES]`, hidden ones [`HIDDEN`].
    pub weights: *mut S::A,
    /// `dP`, likewise. Null: 0.
    pub by_out: *const S::A,
    pub vectors: usize,
    pub sum: S::A,
}

impl<S: Simd> Job<S> for Divide<S> {
    /// `Σ P·dP`.
    type Out = S::A;

    #[inline(always)]
    unsafe fn run(self) -> S::A {
        // SAFETY: the vectors lie in the rows.
        unsafe {
            let zero = S::splat(S::A::ZERO);
            let mark = S::splat(S::A::from_f64(HIDDEN));
            let mut sum = zero;
            for v in 0..self.vectors {
                let at = self.weights.add(v * S::LANES);
                let weight = S::load(at);
                let hidden = S::equal(weight, mark);
                let weight = S::div(weight, S::splat(self.sum));
                let by_out = if self.by_out.is_null() { zero } else { S::load(self.by_out.add(v * S::LANES)) };
                sum = S::add(sum, S::select(hidden, zero, S::mul(weight, by_out)));
                S::store(at, S::select(hidden, mark, weight));
            }
            S::reduce_add(sum)
        }
    }
}

/// `dP` times the factors of dropout.
pub(crate) struct Drop<S: Simd> {
    /// `[rows, vectors · LANES]`, rows [`STRIDE`] apart.
    pub by_out: *mut S::A,
    /// Likewise.
    pub kept: *const S::A,
    pub rows: usize,
    pub vectors: usize,
}

impl<S: Simd> Job<S> for Drop<S> {
    type Out = ();

    #[inline(always)]
    unsafe fn run(self) {
        // SAFETY: the fields' own promises.
        unsafe {
            for r in 0..self.rows {
                for v in 0..self.vectors {
                    let at = r * STRIDE + v * S::LANES;
                    let to = self.by_out.add(at);
                    S::store(to, S::mul(S::load(to), S::load(self.kept.add(at))));
                }
            }
        }
    }
}

/// A strip's scores and what comes of them. Rows of everything are [`STRIDE`] apart.
pub(crate) struct Weigh<S: Simd> {
    /// `[rows, vectors · LANES]`, hidden ones −∞; weights, hidden ones [`HIDDEN`], in rows that are ready.
    pub scores: *const S::A,
    /// Rows that hold weights already.
    pub ready: [bool; ROWS],
    /// `dP = dOut · value`, likewise. Null: 0.
    pub by_out: *const S::A,
    pub rows: usize,
    pub vectors: usize,
    pub unit: S::A,
    /// `[rows]`.
    pub base: *const S::A,
    /// `[rows]`.
    pub shift: *const S::A,
    /// Weights: `[rows, vectors · LANES]`, or half as many rows of units of two rows.
    pub weights: *mut S::A,
    /// Gradients by the scores, `[rows, vectors · LANES]`. May be where `by_out` is.
    pub changes: *mut S::A,
    /// Whether hidden weights are to be [`HIDDEN`].
    pub mark: bool,
    /// Factors of dropout, laid out as the scores: weights whose factor is 0 are written as 0. Null: all are kept.
    pub kept: *const S::A,
}

impl<S: Simd> Job<S> for Weigh<S> {
    type Out = ();

    #[inline(always)]
    unsafe fn run(self) {
        // SAFETY: the fields' own promises.
        unsafe {
            if S::PAIRS {
                for r in (0..self.rows).step_by(2) {
                    match (self.ready[r], self.ready[r + 1]) {
                        (false, false) => self.pair::<false, false>(r),
                        (false, true) => self.pair::<false, true>(r),
                        (true, false) => self.pair::<true, false>(r),
                        (true, true) => self.pair::<true, true>(r),
                    }
                }
            } else {
                for r in 0..self.rows {
                    if self.ready[r] { self.row::<true>(r) } else { self.row::<false>(r) }
                }
            }
        }
    }
}

impl<S: Simd> Weigh<S> {
    /// One row of weights.
    #[inline(always)]
    unsafe fn row<const READY: bool>(&self, r: usize) {
        // SAFETY: the vectors lie in the row.
        unsafe {
            let to = self.weights.add(r * STRIDE);
            for v in 0..self.vectors {
                S::store(to.add(v * S::LANES), self.vector::<READY>(r, v));
            }
        }
    }

    /// Two rows of weights as one of units, 0 beside the last of an odd number.
    #[inline(always)]
    unsafe fn pair<const FIRST: bool, const SECOND: bool>(&self, r: usize) {
        // SAFETY: rows `r` and, where there is one, `r + 1` are read.
        unsafe {
            let to = self.weights.add(r / 2 * STRIDE);
            let alone = r + 1 == self.rows;
            for v in 0..self.vectors {
                let first = S::round_to_half(self.vector::<FIRST>(r, v));
                let second =
                    if alone { S::splat(S::A::ZERO) } else { S::round_to_half(self.vector::<SECOND>(r + 1, v)) };
                S::store(to.add(v * S::LANES), S::pair(first, second));
            }
        }
    }

    /// Writes a vector of gradients and gives the weights.
    #[inline(always)]
    unsafe fn vector<const READY: bool>(&self, r: usize, v: usize) -> S::V {
        // SAFETY: the vector lies in the row.
        unsafe {
            let at = r * STRIDE + v * S::LANES;
            let zero = S::splat(S::A::ZERO);
            let score = S::load(self.scores.add(at));
            let (weight, hidden) = if READY {
                (score, S::equal(score, S::splat(S::A::from_f64(HIDDEN))))
            } else {
                let minus = S::sub(zero, S::splat(*self.base.add(r)));
                let hidden = S::equal(score, S::splat(S::A::NEG_INFINITY));
                (exp2::<S>(S::fma(score, S::splat(self.unit), minus)), hidden)
            };
            let by_out = if self.by_out.is_null() { zero } else { S::load(self.by_out.add(at)) };
            let change = S::mul(weight, S::sub(by_out, S::splat(*self.shift.add(r))));
            S::store(self.changes.add(at), S::select(hidden, zero, change));
            let weight = if self.kept.is_null() {
                weight
            } else {
                S::select(S::equal(S::load(self.kept.add(at)), zero), zero, weight)
            };
            let other = if self.mark { S::splat(S::A::from_f64(HIDDEN)) } else { zero };
            S::select(hidden, other, weight)
        }
    }
}

/// `dS ← dS · (1 − (s / softcap)²)`, where s is the score after the softcap: the derivative of the softcap. 0 stays 0.
pub(crate) struct Uncap<S: Simd> {
    /// `[rows, vectors · LANES]`, rows [`STRIDE`] apart, here and below.
    pub changes: *mut S::A,
    pub capped: *const S::A,
    pub rows: usize,
    pub vectors: usize,
    /// 1 / softcap.
    pub inverse: S::A,
}

impl<S: Simd> Job<S> for Uncap<S> {
    type Out = ();

    #[inline(always)]
    unsafe fn run(self) {
        // SAFETY: the fields' own promises.
        unsafe {
            let (zero, one) = (S::splat(S::A::ZERO), S::splat(S::A::from_f64(1.0)));
            for r in 0..self.rows {
                for v in 0..self.vectors {
                    let at = r * STRIDE + v * S::LANES;
                    let change = S::load(self.changes.add(at));
                    let tanh = S::mul(S::load(self.capped.add(at)), S::splat(self.inverse));
                    let slope = S::sub(one, S::mul(tanh, tanh));
                    let through = S::mul(change, slope);
                    S::store(self.changes.add(at), S::select(S::equal(change, zero), zero, through));
                }
            }
        }
    }
}

/// Gradients by the scores rounded to units of two bf16, both ways.
pub(crate) struct Narrow<S: Simd> {
    /// `[rows, vectors · LANES]`, rows [`STRIDE`] apart, here and below.
    pub changes: *const S::A,
    pub rows: usize,
    pub vectors: usize,
    /// Units of two rows, half as many rows.
    pub by_rows: *mut S::A,
    /// Units of two keys, half as many vectors.
    pub by_keys: *mut S::A,
}

impl<S: Simd> Job<S> for Narrow<S> {
    type Out = ();

    #[inline(always)]
    unsafe fn run(self) {
        // SAFETY: the fields' own promises; a row or a vector beyond the last is not read.
        unsafe {
            let zero = S::splat(S::A::ZERO);
            for r in 0..self.rows {
                for v in (0..self.vectors).step_by(2) {
                    let at = self.changes.add(r * STRIDE + v * S::LANES);
                    let second = if v + 1 < self.vectors { S::load(at.add(S::LANES)) } else { zero };
                    S::store(self.by_keys.add(r * STRIDE + v / 2 * S::LANES), S::narrow_pairs(S::load(at), second));
                }
            }
            for r in (0..self.rows).step_by(2) {
                for v in 0..self.vectors {
                    let at = self.changes.add(r * STRIDE + v * S::LANES);
                    let first = S::round_to_half(S::load(at));
                    let second = if r + 1 < self.rows { S::round_to_half(S::load(at.add(STRIDE))) } else { zero };
                    S::store(self.by_rows.add(r / 2 * STRIDE + v * S::LANES), S::pair(first, second));
                }
            }
        }
    }
}

/// `to ← to + factor · from`, for `count` numbers side by side.
pub(crate) struct AddTo<S: Simd> {
    pub from: *const S::A,
    pub to: *mut S::A,
    pub count: usize,
    pub factor: S::A,
}

impl<S: Simd> Job<S> for AddTo<S> {
    type Out = ();

    #[inline(always)]
    unsafe fn run(self) {
        // SAFETY: both are valid for `count` numbers.
        unsafe {
            let factor = S::splat(self.factor);
            let mut i = 0;
            while i + S::LANES <= self.count {
                let to = self.to.add(i);
                S::store(to, S::fma(S::load(self.from.add(i)), factor, S::load(to)));
                i += S::LANES;
            }
            for i in i..self.count {
                let to = self.to.add(i);
                *to = *to + self.factor * *self.from.add(i);
            }
        }
    }
}

/// The sum of `count` numbers side by side.
pub(crate) struct Sum<S: Simd> {
    pub from: *const S::A,
    pub count: usize,
}

impl<S: Simd> Job<S> for Sum<S> {
    type Out = S::A;

    #[inline(always)]
    unsafe fn run(self) -> S::A {
        // SAFETY: `from` is valid for `count` numbers.
        unsafe {
            let mut sum = S::splat(S::A::ZERO);
            let mut i = 0;
            while i + S::LANES <= self.count {
                sum = S::add(sum, S::load(self.from.add(i)));
                i += S::LANES;
            }
            (i..self.count).fold(S::reduce_add(sum), |sum, i| sum + *self.from.add(i))
        }
    }
}

/// `Σ a·b` of two rows of elements.
pub(crate) struct Inner<T> {
    pub a: *const T,
    pub a_stride: usize,
    pub b: *const T,
    pub b_stride: usize,
    pub count: usize,
}

impl<S: Loads<T>, T: Kernel<Wide = S::A> + Copy> Job<S> for Inner<T> {
    type Out = S::A;

    #[inline(always)]
    unsafe fn run(self) -> S::A {
        // SAFETY: both are valid for `count` elements at their strides.
        unsafe {
            let mut sum = S::splat(S::A::ZERO);
            let mut i = 0;
            if self.a_stride == 1 && self.b_stride == 1 {
                while i + S::LANES <= self.count {
                    sum = S::fma(S::load_from(self.a.add(i)), S::load_from(self.b.add(i)), sum);
                    i += S::LANES;
                }
            }
            (i..self.count).fold(S::reduce_add(sum), |sum, i| {
                sum + (*self.a.add(i * self.a_stride)).widen() * (*self.b.add(i * self.b_stride)).widen()
            })
        }
    }
}

/// Whether all of `rows × count` elements are finite.
pub(crate) struct Finite<T> {
    pub from: *const T,
    pub row_stride: usize,
    pub stride: usize,
    pub rows: usize,
    pub count: usize,
}

impl<S: Loads<T>, T: Kernel<Wide = S::A> + Copy> Job<S> for Finite<T> {
    type Out = bool;

    #[inline(always)]
    unsafe fn run(self) -> bool {
        // SAFETY: `from` is valid for rows · count elements at its strides.
        unsafe {
            // 0 · x is NaN where x is NaN or infinite, and stays that in a sum.
            let zero = S::splat(S::A::ZERO);
            let mut check = zero;
            let mut rest = S::A::ZERO;
            for row in 0..self.rows {
                let from = self.from.add(row * self.row_stride);
                let mut i = 0;
                if self.stride == 1 {
                    while i + S::LANES <= self.count {
                        check = S::fma(S::load_from(from.add(i)), zero, check);
                        i += S::LANES;
                    }
                }
                for i in i..self.count {
                    rest = rest + (*from.add(i * self.stride)).widen() * S::A::ZERO;
                }
            }
            S::reduce_add(check) + rest == S::A::ZERO
        }
    }
}

const _: () = assert!(ROWS.is_multiple_of(2), "strips are whole units of two rows");
