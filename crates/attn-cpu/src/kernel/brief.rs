//! Rows that see so few keys that one vector holds a row's scores: queries, keys and values are read as they lie, and outputs written
//! where they go. Nothing is packed, staged or accumulated in between, each of which would cost as much as the products. Jobs are borrowed:
//! copying them right after they were written would stall on store forwarding.

use crate::element::{Kernel, Loads};
use crate::kernel::{ROWS, STRIDE};
use crate::math::{Float, exp2};
use crate::simd::{Job, Simd};

/// Keys multiplied side by side, whose sums are added up together.
const KEYS: usize = 4;

/// Vectors of a row's output that are summed up side by side.
const VECTORS: usize = 4;

/// `scores[r][k] = query[r] · key[k]`. Numbers after the last key, less than [`KEYS`], are written too.
pub(crate) struct Scores<S: Simd, T> {
    /// Each row's query, of `dims` elements.
    pub query: [*const T; ROWS],
    pub rows: usize,
    pub query_stride: usize,
    /// Each row's keys, `[count, dims]`.
    pub keys: [*const T; ROWS],
    pub key_stride: usize,
    pub dim_stride: usize,
    pub count: usize,
    pub dims: usize,
    /// Rows [`STRIDE`] apart.
    pub scores: *mut S::A,
}

impl<S: Loads<T>, T: Kernel<Wide = S::A> + Copy + Default> Job<S> for &Scores<S, T> {
    type Out = ();

    #[inline(always)]
    unsafe fn run(self) {
        // SAFETY: the fields' own promises.
        unsafe {
            match self.query_stride == 1 && self.dim_stride == 1 {
                true => self.all::<true>(),
                false => self.all::<false>(),
            }
        }
    }
}

impl<S: Loads<T>, T: Kernel<Wide = S::A> + Copy + Default> Scores<S, T> {
    /// All rows, neighbours with the same keys together: as many as make six to eight sums at a time, so that none waits for itself.
    /// `LYING`: the dimensions of queries and keys lie side by side.
    #[inline(always)]
    unsafe fn all<const LYING: bool>(&self) {
        let mut row = 0;
        // SAFETY: rows stay below `rows`.
        unsafe {
            while row < self.rows {
                let keys = &self.keys[row..self.rows];
                let same = keys.iter().take_while(|own| **own == keys[0]).count();
                row += match (self.count, same) {
                    (1, 6..) => self.together::<LYING, 6, 1>(row),
                    (1, 3..) => self.together::<LYING, 3, 1>(row),
                    (2, 3..) => self.together::<LYING, 3, 2>(row),
                    (_, 2..) => self.rows::<LYING, 2>(row),
                    _ => self.rows::<LYING, 1>(row),
                };
            }
        }
    }

    /// Rows over all keys, of which there are K. How many rows.
    #[inline(always)]
    unsafe fn together<const LYING: bool, const R: usize, const K: usize>(&self, row: usize) -> usize {
        // SAFETY: the caller's word.
        unsafe { self.keys::<LYING, R, K>(row, 0) };
        R
    }

    /// Rows over any number of keys. How many rows.
    #[inline(always)]
    unsafe fn rows<const LYING: bool, const R: usize>(&self, row: usize) -> usize {
        let mut key = 0;
        // SAFETY: keys stay below `count`.
        unsafe {
            while key + KEYS <= self.count {
                self.keys::<LYING, R, KEYS>(row, key);
                key += KEYS;
            }
            match self.count - key {
                0 => {}
                1 => self.keys::<LYING, R, 1>(row, key),
                2 => self.keys::<LYING, R, 2>(row, key),
                _ => self.keys::<LYING, R, 3>(row, key),
            }
        }
        R
    }

    #[inline(always)]
    unsafe fn keys<const LYING: bool, const R: usize, const K: usize>(&self, row: usize, key: usize) {
        // SAFETY: R rows and K keys from these on are there; what is read of each lies below `dims`.
        unsafe {
            let keys = self.keys[row].add(key * self.key_stride);
            let mut acc = [[S::splat(S::A::ZERO); K]; R];
            let mut dim = 0;
            while dim + S::LANES <= self.dims {
                self.step::<LYING, false, R, K>(row, keys, dim, &mut acc);
                dim += S::LANES;
            }
            if dim < self.dims {
                self.step::<LYING, true, R, K>(row, keys, dim, &mut acc);
            }
            for (r, row) in acc.iter().enumerate().map(|(r, sums)| (row + r, sums)) {
                let to = self.scores.add(r * STRIDE + key);
                match row[..] {
                    [a, b, c, d] => S::sums([a, b, c, d], to),
                    [a, b, c] => S::sums([a, b, c, S::splat(S::A::ZERO)], to),
                    _ => row.iter().enumerate().for_each(|(k, x)| *to.add(k) = S::reduce_add(*x)),
                }
            }
        }
    }

    /// A vector of dimensions, or the last of them.
    #[inline(always)]
    unsafe fn step<const LYING: bool, const LAST: bool, const R: usize, const K: usize>(
        &self,
        row: usize,
        keys: *const T,
        dim: usize,
        acc: &mut [[S::V; K]; R],
    ) {
        let left = if LAST { self.dims - dim } else { S::LANES };
        // SAFETY: `dim + left` is at most `dims`.
        unsafe {
            let key: [S::V; K] = std::array::from_fn(|k| {
                load::<S, T, LYING, LAST>(keys.add(k * self.key_stride), self.dim_stride, dim, left)
            });
            for (r, row) in acc.iter_mut().enumerate().map(|(r, sums)| (row + r, sums)) {
                let query = load::<S, T, LYING, LAST>(self.query[r], self.query_stride, dim, left);
                for (x, key) in row.iter_mut().zip(key) {
                    *x = S::fma(query, key, *x);
                }
            }
        }
    }
}

/// The softmax of rows of a vector each: weights go beside the scores, which stay.
pub(crate) struct Weigh<S: Simd> {
    /// `[rows, 2 · LANES]`, rows [`STRIDE`] apart: scores of `count` keys, and room for as many weights from `LANES` on.
    pub scores: *mut S::A,
    pub rows: usize,
    pub count: usize,
    pub unit: S::A,
    /// Factors of the weights as they are written, a vector a row, rows [`STRIDE`] apart. Null: 1.
    pub kept: *const S::A,
}

impl<S: Simd> Job<S> for Weigh<S> {
    /// Each row's maximum in base 2 and the sum of its weights.
    type Out = [(S::A, S::A); ROWS];

    #[inline(always)]
    unsafe fn run(self) -> Self::Out {
        let mut out = [(S::A::NEG_INFINITY, S::A::ZERO); ROWS];
        let ends: [S::A; 16] = std::array::from_fn(|k| if k < self.count { S::A::ZERO } else { S::A::NEG_INFINITY });
        // SAFETY: the fields' own promises; rows is at most ROWS, and no vector has more than 16 lanes.
        unsafe {
            let hidden = S::splat(S::A::NEG_INFINITY);
            let ends = S::equal(S::load(ends.as_ptr()), hidden);
            let unit = S::splat(self.unit);
            for (r, out) in out.iter_mut().enumerate().take(self.rows) {
                let row = self.scores.add(r * STRIDE);
                let scores = S::select(ends, hidden, S::load(row));
                let max = S::reduce_max(S::max(scores, hidden)) * self.unit;
                let base = if max == S::A::NEG_INFINITY { S::A::ZERO } else { max };
                let weights = exp2::<S>(S::fma(scores, unit, S::splat(-base)));
                let written = match self.kept.is_null() {
                    true => weights,
                    false => S::mul(weights, S::load(self.kept.add(r * STRIDE))),
                };
                S::store(row.add(S::LANES), written);
                *out = (max, S::reduce_add(weights));
            }
        }
        out
    }
}

/// `out[r] = factor[r] · Σ weight[r][k] · value[k]`.
pub(crate) struct Values<S: Simd, T> {
    /// As [`Weigh`] left them.
    pub scores: *const S::A,
    pub rows: usize,
    pub count: usize,
    /// Each row's values, `[count, dims]`.
    pub values: [*const T; ROWS],
    pub value_stride: usize,
    pub dim_stride: usize,
    pub dims: usize,
    pub factor: [S::A; ROWS],
    /// Where each row's `dims` elements go.
    pub out: [*mut T; ROWS],
    /// Leaves out keys whose score is −∞, so that NaN and infinity in their values can't spread.
    pub careful: bool,
}

impl<S: Loads<T>, T: Kernel<Wide = S::A> + Copy + Default> Job<S> for &Values<S, T> {
    /// Whether every number was finite.
    type Out = bool;

    #[inline(always)]
    unsafe fn run(self) -> bool {
        // SAFETY: the fields' own promises.
        unsafe {
            match (self.careful, self.dim_stride == 1 && self.dims >= S::LANES) {
                (false, true) => self.all::<true, false>(),
                (false, false) => self.all::<false, false>(),
                (true, _) => self.all::<false, true>(),
            }
        }
    }
}

impl<S: Loads<T>, T: Kernel<Wide = S::A> + Copy + Default> Values<S, T> {
    /// All rows, neighbours with the same values two by two. `LYING`: a value is a vector or more of dimensions side by side.
    #[inline(always)]
    unsafe fn all<const LYING: bool, const CAREFUL: bool>(&self) -> bool {
        // SAFETY: rows stay below `rows`.
        unsafe {
            let mut check = S::splat(S::A::ZERO);
            let mut row = 0;
            while row < self.rows {
                if !CAREFUL && row + 1 < self.rows && self.values[row] == self.values[row + 1] {
                    self.rows::<LYING, CAREFUL, 2>(row, &mut check);
                    row += 2;
                } else {
                    self.rows::<LYING, CAREFUL, 1>(row, &mut check);
                    row += 1;
                }
            }
            S::reduce_add(check) == S::A::ZERO
        }
    }

    #[inline(always)]
    unsafe fn rows<const LYING: bool, const CAREFUL: bool, const R: usize>(&self, row: usize, check: &mut S::V) {
        let mut dim = 0;
        // SAFETY: each run of vectors begins before the end; the last of them is moved back or cut.
        unsafe {
            while LYING && dim + (VECTORS - 1) * S::LANES < self.dims {
                self.vectors::<LYING, CAREFUL, R, VECTORS>(row, dim, check);
                dim += VECTORS * S::LANES;
            }
            while LYING && dim + S::LANES < self.dims {
                self.vectors::<LYING, CAREFUL, R, 2>(row, dim, check);
                dim += 2 * S::LANES;
            }
            while dim < self.dims {
                self.vectors::<LYING, CAREFUL, R, 1>(row, dim, check);
                dim += S::LANES;
            }
        }
    }

    /// N vectors of an output from a dimension on. A last one that would reach past the end begins earlier where values lie: both then
    /// come to the same in what they share.
    #[inline(always)]
    unsafe fn vectors<const LYING: bool, const CAREFUL: bool, const R: usize, const N: usize>(
        &self,
        row: usize,
        dim: usize,
        check: &mut S::V,
    ) {
        let at: [usize; N] = std::array::from_fn(|v| {
            let at = dim + v * S::LANES;
            if LYING && v + 1 == N { at.min(self.dims - S::LANES) } else { at }
        });
        let left = if LYING { S::LANES } else { (self.dims - dim).min(S::LANES) };
        // SAFETY: R rows from `row` on are there, and `left` dimensions from each of `at` on.
        unsafe {
            let mut acc = [[S::splat(S::A::ZERO); N]; R];
            for key in 0..self.count {
                let scores = self.scores.add(row * STRIDE + key);
                if CAREFUL && *scores == S::A::NEG_INFINITY {
                    continue;
                }
                let value = self.values[row].add(key * self.value_stride);
                let value: [S::V; N] = std::array::from_fn(|v| match LYING {
                    true => S::load_from(value.add(at[v])),
                    false => load::<S, T, false, true>(value, self.dim_stride, at[v], left),
                });
                for (r, row) in acc.iter_mut().enumerate() {
                    let weight = S::splat(*scores.add(r * STRIDE + S::LANES));
                    for (x, value) in row.iter_mut().zip(value) {
                        *x = S::fma(weight, value, *x);
                    }
                }
            }
            for (r, row) in acc.iter().enumerate().map(|(r, sums)| (row + r, sums)) {
                let factor = S::splat(self.factor[r]);
                for (x, at) in row.iter().zip(at) {
                    let x = S::mul(*x, factor);
                    *check = S::fma(x, S::splat(S::A::ZERO), *check);
                    write::<S, T>(x, self.out[r].add(at), left);
                }
            }
        }
    }
}

/// A vector of elements from a dimension on; 0 for those after the last `left` of them where it is the `LAST` one.
#[inline(always)]
unsafe fn load<S: Loads<T>, T: Copy + Default, const LYING: bool, const LAST: bool>(
    from: *const T,
    stride: usize,
    dim: usize,
    left: usize,
) -> S::V {
    // SAFETY: `from` is valid for `dim + left` elements at the stride, as many as a vector has unless it is the last.
    unsafe {
        match (LYING, LAST) {
            (true, false) => S::load_from(from.add(dim)),
            (true, true) => S::load_part_from(from.add(dim), left),
            (false, _) => {
                let mut elements = [T::default(); 16];
                for (i, element) in elements.iter_mut().enumerate().take(left) {
                    *element = *from.add((dim + i) * stride);
                }
                S::load_from(elements.as_ptr())
            }
        }
    }
}

/// Writes the first `count` numbers of a vector as elements.
#[inline(always)]
unsafe fn write<S: Simd, T: Kernel<Wide = S::A> + Copy>(x: S::V, to: *mut T, count: usize) {
    // SAFETY: `to` is valid for so many elements; no vector has more than 16.
    unsafe {
        if T::IS_WIDE && count == S::LANES {
            return S::store(to.cast(), x);
        }
        let mut numbers = [S::A::ZERO; 16];
        S::store(numbers.as_mut_ptr(), x);
        for (i, x) in numbers.iter().enumerate().take(count) {
            *to.add(i) = T::narrow(*x);
        }
    }
}
