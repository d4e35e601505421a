//! Outputs of a few rows straight from the values as they lie, for decoding: each value is read once, from memory.
//!
//! A core's prefetchers follow each run of addresses as a stream of its own, and several streams together keep more lines on their way
//! than one does. So the keys are taken from [`STREAMS`] places by turns, here as in `dot.rs`.

use crate::element::{Kernel, Loads};
use crate::kernel::{STRIDE, tile};
use crate::simd::{Job, Simd};

/// Places of a block of keys that are read by turns.
pub(crate) const STREAMS: usize = 4;

/// The operands: `C ← factor · C + A · B`, over keys `k + apart·s` for `k` below `depth` and every stream `s`.
pub(crate) struct Lying<S: Simd, T> {
    /// `[rows, keys]`, rows [`STRIDE`] apart.
    pub a: *const S::A,
    /// `[keys, (vectors − 1) · LANES + last]`, the last axis contiguous.
    pub b: *const T,
    pub b_stride: usize,
    /// Numbers of the last vector that there are; the others count as 0.
    pub last: usize,
    pub apart: usize,
    pub depth: usize,
    /// `[rows, vectors · LANES]`, the last axis contiguous.
    pub c: *mut S::A,
    pub c_stride: usize,
    /// `[rows]`.
    pub factor: *const S::A,
}

/// Most rows that go through together. More, and their accumulators would leave no room for all dimensions of a value, so that its
/// cache lines would be fetched by halves.
pub(crate) const PAIR: usize = 2;

/// Most numbers of a value that go through together: twice those of the packed product, which has three times the rows.
pub(crate) const fn most_numbers<S: Simd>() -> usize {
    2 * S::TILE_VECTORS * S::LANES
}

/// Runs on one or [`PAIR`] rows and up to [`most_numbers`] numbers, in [`STREAMS`] streams or in one.
///
/// # Safety
/// The CPU has the instruction set of `S`, and the operands are valid for that many rows and vectors.
pub(crate) unsafe fn run<S: Loads<T>, T: Kernel<Wide = S::A> + Copy + Default>(
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

unsafe fn with_vectors<S: Loads<T>, T: Kernel<Wide = S::A> + Copy + Default, const R: usize, const K: usize>(
    vectors: usize,
    lying: &Lying<S, T>,
) {
    // SAFETY: passed on from the caller.
    unsafe {
        match vectors {
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

impl<S: Loads<T>, T: Kernel<Wide = S::A> + Copy + Default, const R: usize, const N: usize, const K: usize> Job<S>
    for Sized<'_, S, T, R, N, K>
{
    type Out = ();

    #[inline(always)]
    unsafe fn run(self) {
        let t = self.0;
        // SAFETY: the operands are valid for R rows, N vectors and all keys, as `run` was promised.
        unsafe {
            let mut acc = [[S::splat(S::A::default()); N]; R];
            tile::rescale::<S, R, N>(&mut acc, t.c, t.c_stride, t.factor);
            let whole = t.last == S::LANES;
            for key in 0..t.depth {
                for stream in 0..K {
                    let key = key + stream * t.apart;
                    let value = t.b.add(key * t.b_stride);
                    let value: [S::V; N] = std::array::from_fn(|v| {
                        let from = value.add(v * S::LANES);
                        match v + 1 < N || whole {
                            true => S::load_from(from),
                            false => S::load_part_from(from, t.last),
                        }
                    });
                    for (r, row) in acc.iter_mut().enumerate() {
                        let weight = S::splat(*t.a.add(r * STRIDE + key));
                        for (x, value) in row.iter_mut().zip(value) {
                            *x = S::fma(weight, value, *x);
                        }
                    }
                }
            }
            tile::write::<S, R, N>(&acc, t.c, t.c_stride);
        }
    }
}
