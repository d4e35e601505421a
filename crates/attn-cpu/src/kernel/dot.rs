//! Scores of a few queries straight from the keys as they lie, for decoding: packing would cost more than the products.
//!
//! Four keys at a time, each read once as vectors along its dimensions and multiplied with every query; the vector of
//! partial sums of each pair is added up at the end.

use crate::element::{Kernel, Loads};
use crate::kernel::{BLOCK, ROWS, STRIDE};
use crate::math::Float;
use crate::simd::{Job, Simd};

/// The operands: `scores[r][j] = query[r] · key[j]`.
pub(crate) struct Dot<S: Simd, T> {
    /// Pieces of [`BLOCK`] dimensions, each `[ROWS, STRIDE]`.
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

/// Keys that go through together: enough independent sums to hide the latency of the additions for a single query.
const KEYS: usize = 4;

/// Runs the products for `rows` (rounded up to 1, 2 or 4).
///
/// # Safety
/// The CPU has the instruction set of `S`, and the operands are valid for that many rows.
pub(crate) unsafe fn run<S: Loads<T>, T: Kernel<Wide = S::A> + Copy>(rows: usize, dot: Dot<S, T>) {
    // SAFETY: passed on from the caller.
    unsafe {
        match rows {
            0 | 1 => S::enter(Rows::<S, T, 1>(dot)),
            2 => S::enter(Rows::<S, T, 2>(dot)),
            _ => S::enter(Rows::<S, T, 4>(dot)),
        }
    }
}

/// The products with a number of rows that the compiler knows.
struct Rows<S: Simd, T, const R: usize>(Dot<S, T>);

impl<S: Loads<T>, T: Kernel<Wide = S::A> + Copy, const R: usize> Job<S> for Rows<S, T, R> {
    type Out = ();

    #[inline(always)]
    unsafe fn run(self) {
        let mut key = 0;
        // SAFETY: keys `key..key + KEYS` or the single `key` exist.
        unsafe {
            while key + KEYS <= self.0.count {
                self.keys::<KEYS>(key);
                key += KEYS;
            }
            while key < self.0.count {
                self.keys::<1>(key);
                key += 1;
            }
        }
    }
}

impl<S: Loads<T>, T: Kernel<Wide = S::A> + Copy, const R: usize> Rows<S, T, R> {
    #[inline(always)]
    unsafe fn keys<const K: usize>(&self, first: usize) {
        let d = &self.0;
        // SAFETY: dimensions stay below `dims`, keys below `count`, rows below R.
        unsafe {
            let keys = d.keys.add(first * d.key_stride);
            let mut acc = [[S::splat(S::A::ZERO); K]; R];
            let mut dim = 0;
            while dim + S::LANES <= d.dims {
                let key: [S::V; K] = std::array::from_fn(|k| S::load_from(keys.add(k * d.key_stride + dim)));
                for (r, row) in acc.iter_mut().enumerate() {
                    let query = S::load(d.query.add(at(r, dim)));
                    for (x, key) in row.iter_mut().zip(key) {
                        *x = S::fma(query, key, *x);
                    }
                }
                dim += S::LANES;
            }
            for (r, row) in acc.iter().enumerate() {
                for (k, x) in row.iter().enumerate() {
                    let mut sum = S::reduce_add(*x);
                    for dim in dim..d.dims {
                        let key = (*keys.add(k * d.key_stride + dim)).widen();
                        sum = sum + *d.query.add(at(r, dim)) * key;
                    }
                    *d.scores.add(r * d.stride + first + k) = sum;
                }
            }
        }
    }
}

/// Where row `r`'s dimension `dim` lies in the staged queries.
#[inline(always)]
fn at(r: usize, dim: usize) -> usize {
    dim / BLOCK * ROWS * STRIDE + r * STRIDE + dim % BLOCK
}
