//! Outputs of a few rows straight from the values as they lie, for decoding: each value is read once, from memory.
//!
//! A core's prefetchers follow each run of addresses as a stream of its own, and several streams together keep more lines on their way
//! than one does. So the keys are taken from [`STREAMS`] places by turns, here as in `dot.rs`.

use crate::element::{Kernel, Loads};
use crate::kernel::STRIDE;
use crate::simd::{Job, Simd};

/// Places of a block of keys that are read by turns.
pub(crate) const STREAMS: usize = 4;

/// The operands: `C ← factor · C + A · B`, over keys `k + apart·s` for `k` below `depth` and every stream `s`.
pub(crate) struct Lying<S: Simd, T> {
    /// `[rows, keys]`, rows [`STRIDE`] apart.
    pub a: *const S::A,
    /// `[keys, last + width of a vector]`, the last axis contiguous.
    pub b: *const T,
    pub b_stride: usize,
    /// Where the last vector begins. Where it overlaps the one before, both come to the same in the numbers that they share.
    pub last: usize,
    pub apart: usize,
    pub depth: usize,
    /// `[rows, last + width of a vector]`, the last axis contiguous.
    pub c: *mut S::A,
    pub c_stride: usize,
    /// `[rows]`.
    pub factor: *const S::A,
}

/// Most rows that go through together. More, and their accumulators would leave no room for all dimensions of a value, so that its
/// cache lines would be fetched by halves.
pub(crate) const PAIR: usize = 2;

/// Numbers in a vector of values: two a lane where there are products of pairs.
pub(crate) const fn width<S: Simd>() -> usize {
    if S::PAIRS { 2 * S::LANES } else { S::LANES }
}

/// Most vectors of a value that go through together: twice the accumulators of a row of the packed product, which has three times the
/// rows.
pub(crate) const fn most_vectors<S: Simd>() -> usize {
    2 * S::TILE_VECTORS * S::LANES / width::<S>()
}

/// Runs on one or [`PAIR`] rows and up to [`most_vectors`] vectors, in [`STREAMS`] streams or in one.
///
/// # Safety
/// The CPU has the instruction set of `S`, and the operands are valid for that many rows and vectors.
pub(crate) unsafe fn run<S: Loads<T>, T: Kernel<Wide = S::A> + Copy>(
    rows: usize,
    vectors: usize,
    streams: usize,
    lying: &Lying<S, T>,
) {
    // SAFETY: passed on from the caller.
    unsafe {
        match (rows, streams) {
            (0 | 1, 1) => with_vectors::<S, T, 1, 1>(vectors, lying),
            (0 | 1, _) => with_vectors::<S, T, 1, STREAMS>(vectors, lying),
            (_, 1) => with_vectors::<S, T, PAIR, 1>(vectors, lying),
            _ => with_vectors::<S, T, PAIR, STREAMS>(vectors, lying),
        }
    }
}

unsafe fn with_vectors<S: Loads<T>, T: Kernel<Wide = S::A> + Copy, const R: usize, const K: usize>(
    vectors: usize,
    lying: &Lying<S, T>,
) {
    // SAFETY: passed on from the caller.
    unsafe {
        match vectors {
            0 | 1 if S::PAIRS => S::enter(Paired::<'_, S, T, R, 1, K>(lying)),
            2 if S::PAIRS => S::enter(Paired::<'_, S, T, R, 2, K>(lying)),
            3 if S::PAIRS => S::enter(Paired::<'_, S, T, R, 3, K>(lying)),
            _ if S::PAIRS => S::enter(Paired::<'_, S, T, R, 4, K>(lying)),
            0 | 1 => S::enter(Sized::<'_, S, T, R, 1, K>(lying)),
            2 => S::enter(Sized::<'_, S, T, R, 2, K>(lying)),
            3 => S::enter(Sized::<'_, S, T, R, 3, K>(lying)),
            4 => S::enter(Sized::<'_, S, T, R, 4, K>(lying)),
            5 => S::enter(Sized::<'_, S, T, R, 5, K>(lying)),
            6 => S::enter(Sized::<'_, S, T, R, 6, K>(lying)),
            7 => S::enter(Sized::<'_, S, T, R, 7, K>(lying)),
            _ => S::enter(Sized::<'_, S, T, R, 8, K>(lying)),
        }
    }
}

/// A product whose size the compiler knows.
struct Sized<'a, S: Simd, T, const R: usize, const N: usize, const K: usize>(&'a Lying<S, T>);

impl<S: Loads<T>, T: Kernel<Wide = S::A> + Copy, const R: usize, const N: usize, const K: usize> Job<S>
    for Sized<'_, S, T, R, N, K>
{
    type Out = ();

    #[inline(always)]
    unsafe fn run(self) {
        let t = self.0;
        let at: [usize; N] = std::array::from_fn(|v| if v + 1 < N { v * S::LANES } else { t.last });
        // SAFETY: the operands are valid for R rows, N vectors and all keys, as `run` was promised.
        unsafe {
            let mut acc = [[S::splat(S::A::default()); N]; R];
            for (r, row) in acc.iter_mut().enumerate() {
                let factor = S::splat(*t.factor.add(r));
                for (x, at) in row.iter_mut().zip(at) {
                    *x = S::mul(factor, S::load(t.c.add(r * t.c_stride + at)));
                }
            }
            for key in 0..t.depth {
                for stream in 0..K {
                    let key = key + stream * t.apart;
                    let value = t.b.add(key * t.b_stride);
                    let value: [S::V; N] = std::array::from_fn(|v| S::load_from(value.add(at[v])));
                    for (r, row) in acc.iter_mut().enumerate() {
                        let weight = S::splat(*t.a.add(r * STRIDE + key));
                        for (x, value) in row.iter_mut().zip(value) {
                            *x = S::fma(weight, value, *x);
                        }
                    }
                }
            }
            for (r, row) in acc.iter().enumerate() {
                for (x, at) in row.iter().zip(at) {
                    S::store(t.c.add(r * t.c_stride + at), *x);
                }
            }
        }
    }
}

/// The same for bf16 as they lie: the values of two keys are interleaved to units of two, which a unit of their weights multiplies. Weights
/// are numbers of bf16.
struct Paired<'a, S: Simd, T, const R: usize, const N: usize, const K: usize>(&'a Lying<S, T>);

impl<S: Loads<T>, T: Kernel<Wide = S::A> + Copy, const R: usize, const N: usize, const K: usize> Job<S>
    for Paired<'_, S, T, R, N, K>
{
    type Out = ();

    #[inline(always)]
    unsafe fn run(self) {
        let t = self.0;
        let at: [usize; N] = std::array::from_fn(|v| if v + 1 < N { v * 2 * S::LANES } else { t.last });
        // SAFETY: the operands are valid for R rows, N double vectors and all keys, as `run` was promised.
        unsafe {
            let zero = S::splat(S::A::default());
            let mut acc = [[(zero, zero); N]; R];
            for (r, row) in acc.iter_mut().enumerate() {
                let factor = S::splat(*t.factor.add(r));
                for (x, at) in row.iter_mut().zip(at) {
                    let c = t.c.add(r * t.c_stride + at);
                    let (low, high) = S::split(S::load(c), S::load(c.add(S::LANES)));
                    *x = (S::mul(factor, low), S::mul(factor, high));
                }
            }
            for key in (0..t.depth / 2 * 2).step_by(2) {
                for stream in 0..K {
                    self.keys::<true>(&mut acc, at, key + stream * t.apart);
                }
            }
            if t.depth % 2 == 1 {
                for stream in 0..K {
                    self.keys::<false>(&mut acc, at, t.depth - 1 + stream * t.apart);
                }
            }
            for (r, row) in acc.iter().enumerate() {
                for (x, at) in row.iter().zip(at) {
                    let c = t.c.add(r * t.c_stride + at);
                    let (first, second) = S::join(x.0, x.1);
                    S::store(c, first);
                    S::store(c.add(S::LANES), second);
                }
            }
        }
    }
}

impl<S: Loads<T>, T: Kernel<Wide = S::A> + Copy, const R: usize, const N: usize, const K: usize>
    Paired<'_, S, T, R, N, K>
{
    /// Adds the shares of a key, and with `TWO` of the next.
    #[inline(always)]
    unsafe fn keys<const TWO: bool>(&self, acc: &mut [[(S::V, S::V); N]; R], at: [usize; N], key: usize) {
        let t = self.0;
        // SAFETY: the keys exist, and the operands are valid for R rows and N double vectors.
        unsafe {
            let zero = S::splat(S::A::default());
            let value = t.b.add(key * t.b_stride);
            let next = value.wrapping_add(t.b_stride);
            let units: [(S::V, S::V); N] = std::array::from_fn(|v| {
                let second = if TWO { S::load(next.add(at[v]).cast()) } else { zero };
                S::interleave(S::load(value.add(at[v]).cast()), second)
            });
            for (r, row) in acc.iter_mut().enumerate() {
                let weight = t.a.add(r * STRIDE + key);
                let second = if TWO { S::splat(*weight.add(1)) } else { zero };
                let weights = S::pair(S::splat(*weight), second);
                for (x, unit) in row.iter_mut().zip(units) {
                    *x = (S::mac(unit.0, weights, x.0), S::mac(unit.1, weights, x.1));
                }
            }
        }
    }
}
