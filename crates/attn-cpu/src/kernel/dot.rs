//! Scores of a few queries straight from the keys as they lie, for decoding: packing would cost more than the products.
//!
//! Four keys at a time, each read once as vectors along its dimensions and multiplied with every query; the vectors of
//! partial sums of four pairs are added up together at the end. The four keys are those of four streams (`lying.rs`).

use crate::element::{Kernel, Loads};
use crate::kernel::lying::STREAMS;
use crate::kernel::{PIECE, ROWS, whole_rows};
use crate::math::Float;
use crate::simd::{Job, Simd};

/// The operands: `scores[r][j] = query[r] · key[j]`.
pub(crate) struct Dot<S: Simd, T> {
    /// Pieces of [`PIECE`] units, each `[ROWS, PIECE]`, filled up with 0.
    pub query: *const S::A,
    pub dims: usize,
    /// `[count, dims]`, the last axis contiguous.
    pub keys: *const T,
    pub key_stride: usize,
    pub count: usize,
    /// `[rows, count]`.
    pub scores: *mut S::A,
    pub stride: usize,
}

/// Runs the products for `rows` (rounded up to [`whole_rows`]).
///
/// # Safety
/// The CPU has the instruction set of `S`, and the operands are valid for that many rows.
pub(crate) unsafe fn run<S: Loads<T>, T: Kernel<Wide = S::A> + Copy + Default>(rows: usize, dot: Dot<S, T>) {
    // SAFETY: passed on from the caller.
    unsafe {
        match whole_rows(rows) {
            1 => S::enter(Rows::<S, T, 1>(dot)),
            2 => S::enter(Rows::<S, T, 2>(dot)),
            4 => S::enter(Rows::<S, T, 4>(dot)),
            _ => S::enter(Rows::<S, T, 6>(dot)),
        }
    }
}

/// The products with a number of rows that the compiler knows.
struct Rows<S: Simd, T, const R: usize>(Dot<S, T>);

impl<S: Loads<T>, T: Kernel<Wide = S::A> + Copy + Default, const R: usize> Job<S> for Rows<S, T, R> {
    type Out = ();

    #[inline(always)]
    unsafe fn run(self) {
        let part = self.0.count / STREAMS;
        // SAFETY: the keys `key + part·k` for k below STREAMS, and the last few, exist.
        unsafe {
            for key in 0..part {
                self.keys::<STREAMS>(key, part);
            }
            for key in part * STREAMS..self.0.count {
                self.keys::<1>(key, 0);
            }
        }
    }
}

impl<S: Loads<T>, T: Kernel<Wide = S::A> + Copy + Default, const R: usize> Rows<S, T, R> {
    #[inline(always)]
    unsafe fn keys<const K: usize>(&self, first: usize, apart: usize) {
        let d = &self.0;
        let per_unit = if S::PAIRS { 2 } else { 1 };
        let units = d.dims / per_unit;
        // SAFETY: whole units of dimensions stay below `dims`, keys below `count`, rows below R.
        unsafe {
            let keys = d.keys.add(first * d.key_stride);
            let mut acc = [[S::splat(S::A::ZERO); K]; R];
            let mut unit = 0;
            while unit < units {
                let left = units - unit;
                let key: [S::V; K] = std::array::from_fn(|k| {
                    let from = keys.add(k * apart * d.key_stride + unit * per_unit);
                    load_units::<S, T>(from, left)
                });
                for (r, row) in acc.iter_mut().enumerate() {
                    let query = S::load(d.query.add(at(r, unit)));
                    for (x, key) in row.iter_mut().zip(key) {
                        *x = S::mac(query, key, *x);
                    }
                }
                unit += S::LANES;
            }
            for (r, row) in acc.iter().enumerate() {
                let to = d.scores.add(r * d.stride + first);
                if let [one, two, three, four] = row[..] {
                    let mut sums = [S::A::ZERO; 4];
                    S::sums([one, two, three, four], sums.as_mut_ptr());
                    sums.into_iter().enumerate().for_each(|(k, sum)| *to.add(k * apart) = sum);
                } else {
                    row.iter().enumerate().for_each(|(k, x)| *to.add(k * apart) = S::reduce_add(*x));
                }
                if units * per_unit < d.dims {
                    // The last dimension of an odd number, half a unit.
                    let query = (*d.query.add(at(r, units)).cast::<T>()).widen();
                    for k in 0..K {
                        let to = to.add(k * apart);
                        *to = *to + query * (*keys.add(k * apart * d.key_stride + d.dims - 1)).widen();
                    }
                }
            }
        }
    }
}

/// A vector of units, or what is left of them and 0.
#[inline(always)]
unsafe fn load_units<S: Loads<T>, T: Copy + Default>(from: *const T, left: usize) -> S::V {
    // SAFETY: `from` is valid for `left` units.
    unsafe {
        match (S::PAIRS, left >= S::LANES) {
            (true, true) => S::load(from.cast()),
            (true, false) => S::load_part(from.cast(), left),
            (false, true) => S::load_from(from),
            (false, false) => S::load_part_from(from, left),
        }
    }
}

/// Where row `r`'s unit `unit` lies in the staged queries.
#[inline(always)]
fn at(r: usize, unit: usize) -> usize {
    unit / PIECE * ROWS * PIECE + r * PIECE + unit % PIECE
}
