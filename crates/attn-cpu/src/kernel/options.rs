//! What the contract does to a raw score before hiding: scale, softcap, ALiBi, biases.

use crate::element::{Kernel, Loads};
use crate::kernel::pack::widen_row;
use crate::math::{Float, tanh};
use crate::simd::{Job, Simd};

/// A head's table of a bias by relative position.
pub(crate) struct Relative<T> {
    /// The number of distance `−reach`, and the stride to the next.
    pub table: *const T,
    pub stride: usize,
    pub reach: i64,
    /// Distance `j − p` of the first key.
    pub distance: i64,
}

/// One row of raw scores `q·k`, from key `first` on.
pub(crate) struct Options<S: Simd, T> {
    /// `[vectors · LANES]`, of which the first `keys` stand for keys.
    pub scores: *mut S::A,
    pub vectors: usize,
    pub keys: usize,
    pub scale: S::A,
    /// Softcap; 0 where there is none.
    pub softcap: S::A,
    /// ALiBi slope and the distance `j − p` of the first key, where there is one.
    pub alibi: Option<(S::A, f64)>,
    /// The bias by relative position, where there is one: valid for `2·reach + 1` elements at its stride.
    pub relative: Option<Relative<T>>,
    /// The bias of the first key and the stride to the next. Null where there is none.
    pub bias: *const T,
    pub bias_stride: usize,
    /// `[vectors · LANES]` of scratch.
    pub addend: *mut S::A,
}

impl<S: Loads<T>, T: Kernel<Wide = S::A> + Copy> Job<S> for Options<S, T> {
    type Out = ();

    #[inline(always)]
    unsafe fn run(self) {
        // SAFETY: the fields' own promises.
        unsafe {
            self.shape();
            if !self.bias.is_null() || self.relative.is_some() {
                self.gather();
                self.add();
            }
        }
    }
}

impl<S: Loads<T>, T: Kernel<Wide = S::A> + Copy> Options<S, T> {
    /// Scale, softcap, ALiBi.
    #[inline(always)]
    unsafe fn shape(&self) {
        // SAFETY: every vector touched lies in the row.
        unsafe {
            let cap = S::splat(self.softcap);
            let inverse = S::div(S::splat(S::A::from_f64(1.0)), cap);
            let (slope, distance) = self.alibi.unwrap_or((S::A::ZERO, 0.0));
            let lanes = lane_numbers::<S>();
            for v in 0..self.vectors {
                let at = self.scores.add(v * S::LANES);
                let mut s = S::mul(S::load(at), S::splat(self.scale));
                if self.softcap > S::A::ZERO {
                    s = S::mul(cap, tanh::<S>(S::mul(s, inverse)));
                }
                if self.alibi.is_some() {
                    let first = S::splat(S::A::from_f64(distance + (v * S::LANES) as f64));
                    s = S::fma(S::splat(-slope), S::abs(S::add(first, lanes)), s);
                }
                S::store(at, s);
            }
        }
    }

    /// Writes what is to be added: the biases, or 0, and −∞ where one of them is that.
    #[inline(always)]
    unsafe fn gather(&self) {
        // SAFETY: `bias` is valid for `keys` elements at its stride, `addend` for the whole row.
        unsafe {
            if self.bias.is_null() {
                std::slice::from_raw_parts_mut(self.addend, self.keys).fill(S::A::ZERO);
            } else if self.bias_stride == 0 {
                std::slice::from_raw_parts_mut(self.addend, self.keys).fill((*self.bias).widen());
            } else {
                widen_row::<S, T>(self.bias, self.bias_stride, self.keys, self.addend);
            }
            if let Some(relative) = &self.relative {
                self.gather_relative(relative);
            }
        }
    }

    /// Puts the bias by relative position onto what is to be added: its first number, a run of the table, its last.
    #[inline(always)]
    unsafe fn gather_relative(&self, relative: &Relative<T>) {
        let &Relative { table, stride, reach, distance } = relative;
        let keys = self.keys as i64;
        let low = (-reach).saturating_sub(distance).clamp(0, keys);
        let high = (reach + 1).saturating_sub(distance).clamp(low, keys);
        // SAFETY: the table is valid for `2·reach + 1` elements at its stride: columns `distance + low + reach` to `distance + high − 1 +
        // reach` lie from 0 to `2·reach` where there are any. `addend` is valid for the whole row.
        unsafe {
            let addend = std::slice::from_raw_parts_mut(self.addend, self.keys);
            let (below, rest) = addend.split_at_mut(low as usize);
            let (inside, above) = rest.split_at_mut((high - low) as usize);
            if !below.is_empty() {
                let first = (*table).widen();
                below.iter_mut().for_each(|x| *x = joined(*x, first));
            }
            if !inside.is_empty() {
                let from = table.add((distance + low + reach) as usize * stride);
                if self.bias.is_null() {
                    widen_row::<S, T>(from, stride, inside.len(), inside.as_mut_ptr());
                } else {
                    for (key, x) in inside.iter_mut().enumerate() {
                        *x = joined(*x, (*from.add(key * stride)).widen());
                    }
                }
            }
            if !above.is_empty() {
                let last = (*table.add(2 * reach as usize * stride)).widen();
                above.iter_mut().for_each(|x| *x = joined(*x, last));
            }
        }
    }

    /// Adds it. −∞ hides whatever the score is, even NaN.
    #[inline(always)]
    unsafe fn add(&self) {
        // SAFETY: every vector touched lies in the row.
        unsafe {
            let hidden = S::splat(S::A::NEG_INFINITY);
            for v in 0..self.vectors {
                let at = self.scores.add(v * S::LANES);
                let addend = S::load(self.addend.add(v * S::LANES));
                let sum = S::add(S::load(at), addend);
                S::store(at, S::select(S::equal(addend, hidden), hidden, sum));
            }
        }
    }
}

/// The sum of two biases, of which each may hide.
#[inline(always)]
fn joined<A: Float>(a: A, b: A) -> A {
    if a == A::NEG_INFINITY || b == A::NEG_INFINITY { A::NEG_INFINITY } else { a + b }
}

/// `0, 1, 2, …`, one a lane.
#[inline(always)]
unsafe fn lane_numbers<S: Simd>() -> S::V {
    let numbers: [S::A; 16] = std::array::from_fn(|lane| S::A::from_f64(lane as f64));
    // SAFETY: no instruction set has more than 16 lanes.
    unsafe { S::load(numbers.as_ptr()) }
}
