//! The online softmax of one strip: scores become weights in place, row maxima and sums move on.
//!
//! ```text
//! for each row:
//!     M' = max(M, unit · max(scores))            unit = log₂e, times the scale where nothing else was applied
//!     factor = 2^(M − M')                        by which the row's sum and accumulators are rescaled
//!     weights = 2^(unit · score − M')            one rounding of the exponent: a fused multiplication
//!     sum = factor · sum + Σ weights
//! ```
//! `M` is kept in base 2, so weights of every block refer to exactly the same maximum. A score of −∞ gives a weight of
//! 0; a row that has seen nothing yet keeps `M = −∞` and works with 0 in its place. Dropout takes weights once they are in the sum.

use crate::kernel::ROWS;
use crate::math::{Float, exp2};
use crate::simd::{Job, Simd};

/// Vectors that go through a loop's body: independent chains, and a quarter of the loop's own instructions.
const UNROLL: usize = 4;

/// How weights are written for their product with the values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Written {
    /// As accumulators.
    Wide,
    /// As accumulators rounded to bf16.
    Rounded,
    /// As units of two bf16, from each row's first number on.
    Pairs,
}

/// A strip's scores and the state of its rows.
pub(crate) struct Softmax<S: Simd> {
    /// `[rows, vectors · LANES]`.
    pub scores: *mut S::A,
    pub stride: usize,
    pub rows: usize,
    pub vectors: usize,
    /// How weights are written.
    pub written: Written,
    pub unit: S::A,
    /// `[rows]`: the running maximum `M`.
    pub max: *mut S::A,
    /// `[rows, LANES]`: partial sums, one a lane.
    pub sum: *mut S::A,
    /// `[ROWS]`: out, the factor that rescales what was accumulated so far.
    pub factor: *mut S::A,
    /// Factors of the weights as they are written, laid out as the scores. Null: 1.
    pub kept: *const S::A,
}

impl<S: Simd> Job<S> for Softmax<S> {
    type Out = ();

    #[inline(always)]
    unsafe fn run(self) {
        // SAFETY: the fields' own promises; rows is at most ROWS.
        unsafe {
            let mut base = [S::splat(S::A::ZERO); ROWS];
            for (r, base) in base.iter_mut().enumerate().take(self.rows) {
                *base = S::splat(self.maximum(r));
            }
            for (r, base) in base.iter().enumerate().take(self.rows) {
                match (self.written, self.kept.is_null()) {
                    (Written::Pairs, true) if S::PAIRS => self.weigh::<true, false, false>(r, *base),
                    (Written::Pairs, false) if S::PAIRS => self.weigh::<true, false, true>(r, *base),
                    (Written::Rounded, true) if S::PAIRS => self.weigh::<false, true, false>(r, *base),
                    (Written::Rounded, false) if S::PAIRS => self.weigh::<false, true, true>(r, *base),
                    (_, true) => self.weigh::<false, false, false>(r, *base),
                    (_, false) => self.weigh::<false, false, true>(r, *base),
                }
            }
        }
    }
}

impl<S: Simd> Softmax<S> {
    /// Moves on row `r`'s maximum, sets its factor and returns what its exponents are measured from.
    #[inline(always)]
    unsafe fn maximum(&self, r: usize) -> S::A {
        // SAFETY: `r` is a row, and every vector read lies in it.
        unsafe {
            let row = self.scores.add(r * self.stride);
            let mut top = [S::splat(S::A::NEG_INFINITY); UNROLL];
            let mut at = row;
            for _ in 0..self.vectors / UNROLL {
                for top in &mut top {
                    *top = S::max(S::load(at), *top);
                    at = at.add(S::LANES);
                }
            }
            for _ in 0..self.vectors % UNROLL {
                top[0] = S::max(S::load(at), top[0]);
                at = at.add(S::LANES);
            }
            let top = S::reduce_max(S::max(S::max(top[0], top[1]), S::max(top[2], top[3])));
            let old = *self.max.add(r);
            let top = top * self.unit;
            let new = if top > old { top } else { old };
            if new == old {
                *self.factor.add(r) = S::A::from_f64(1.0);
            } else {
                *self.max.add(r) = new;
                let mut lanes = [S::A::ZERO; 16];
                S::store(lanes.as_mut_ptr(), exp2::<S>(S::sub(S::splat(old), S::splat(new))));
                *self.factor.add(r) = lanes[0];
            }
            if new == S::A::NEG_INFINITY { S::A::ZERO } else { new }
        }
    }

    /// Turns row `r`'s scores into weights and adds them to its sum. With `PAIRS` and with `ROUNDED`, weights are rounded to bf16 after they
    /// were added. With `PAIRS` two vectors of them become one, which never overtakes the scores still to be read.
    #[inline(always)]
    unsafe fn weigh<const PAIRS: bool, const ROUNDED: bool, const DROPS: bool>(&self, r: usize, base: S::V) {
        // SAFETY: `r` is a row, and every vector touched lies in it.
        unsafe {
            let row = self.scores.add(r * self.stride);
            let to = self.sum.add(r * S::LANES);
            let unit = S::splat(self.unit);
            let minus = S::sub(S::splat(S::A::ZERO), base);
            let mut sum = [S::splat(S::A::ZERO); UNROLL];
            sum[0] = S::mul(S::load(to), S::splat(*self.factor.add(r)));
            let mut vector = 0;
            while vector + UNROLL <= self.vectors {
                let mut weights = Self::weights(row.add(vector * S::LANES), UNROLL, (unit, minus), &mut sum);
                if DROPS {
                    self.drop(r, vector, &mut weights);
                }
                Self::write::<PAIRS, ROUNDED>(row, vector, &weights);
                vector += UNROLL;
            }
            if vector < self.vectors {
                let left = self.vectors - vector;
                let mut weights = Self::weights(row.add(vector * S::LANES), left, (unit, minus), &mut sum);
                if DROPS {
                    self.drop(r, vector, &mut weights[..left]);
                }
                Self::write::<PAIRS, ROUNDED>(row, vector, &weights[..left]);
            }
            let sum = S::add(S::add(sum[0], sum[1]), S::add(sum[2], sum[3]));
            S::store(to, sum);
        }
    }

    /// The weights of `count` vectors of scores, added to as many sums.
    #[inline(always)]
    unsafe fn weights(
        from: *const S::A,
        count: usize,
        (unit, minus): (S::V, S::V),
        sum: &mut [S::V; UNROLL],
    ) -> [S::V; UNROLL] {
        // SAFETY: `from` is valid for `count` vectors, which are at most UNROLL.
        unsafe {
            let mut weights = [S::splat(S::A::ZERO); UNROLL];
            for v in 0..count {
                weights[v] = exp2::<S>(S::fma(S::load(from.add(v * S::LANES)), unit, minus));
                sum[v] = S::add(sum[v], weights[v]);
            }
            weights
        }
    }

    /// Multiplies the weights of vectors from `vector` on by their factors.
    #[inline(always)]
    unsafe fn drop(&self, r: usize, vector: usize, weights: &mut [S::V]) {
        // SAFETY: the vectors lie in the row, and the factors as the scores.
        unsafe {
            let kept = self.kept.add(r * self.stride + vector * S::LANES);
            for (v, weight) in weights.iter_mut().enumerate() {
                *weight = S::mul(*weight, S::load(kept.add(v * S::LANES)));
            }
        }
    }

    /// Writes the weights of vectors from `vector` on, as they are or as half as many vectors of units, 0 beside the last of an odd number.
    #[inline(always)]
    unsafe fn write<const PAIRS: bool, const ROUNDED: bool>(row: *mut S::A, vector: usize, weights: &[S::V]) {
        // SAFETY: the vectors lie in the row, and units take half their room.
        unsafe {
            if PAIRS {
                for (i, pair) in weights.chunks(2).enumerate() {
                    let second = pair.get(1).copied().unwrap_or(S::splat(S::A::ZERO));
                    S::store(row.add((vector / 2 + i) * S::LANES), S::narrow_pairs(pair[0], second));
                }
            } else {
                for (i, weight) in weights.iter().enumerate() {
                    let weight = if ROUNDED { S::round_to_half(*weight) } else { *weight };
                    S::store(row.add((vector + i) * S::LANES), weight);
                }
            }
        }
    }
}
