//! Bringing inputs into the form that the register tile reads: rows of units, keys transposed into panels of them.
//!
//! A unit is one number widened to an accumulator, or two bf16 side by side where the instruction set multiplies pairs: two
//! dimensions of a query or key, two keys of a weight or value.

use crate::element::{Kernel, Loads};
use crate::kernel::{PIECE, ROWS, whole_rows};
use crate::simd::{Job, Simd};

/// Packs `rows × count` elements as rows of `width ≥ count` units, the rest filled with 0: each row widened to accumulators, or two
/// rows of bf16 interleaved, a row of 0 after the last.
pub(crate) struct PackValues<S: Simd, T> {
    pub from: *const T,
    pub row_stride: usize,
    pub stride: usize,
    pub rows: usize,
    pub count: usize,
    pub to: *mut S::A,
    pub width: usize,
}

impl<S: Loads<T>, T: Kernel<Wide = S::A> + Copy + Default> Job<S> for PackValues<S, T> {
    type Out = ();

    #[inline(always)]
    unsafe fn run(self) {
        // SAFETY: `from` is valid for rows · count elements at its strides, `to` for whole rows of units.
        unsafe {
            for row in (0..self.rows).step_by(if S::PAIRS { 2 } else { 1 }) {
                let from = self.from.add(row * self.row_stride);
                if S::PAIRS {
                    let next = if row + 1 < self.rows { Some(from.add(self.row_stride)) } else { None };
                    let to = (self.to.add(row / 2 * self.width), self.width);
                    interleave::<S, T>(from, next, self.stride, self.count, to);
                } else {
                    whole_row::<S, T>(from, self.stride, self.count, (self.to.add(row * self.width), self.width));
                }
            }
        }
    }
}

/// Brings rows of `count` elements into rows of `width` units: each widened, or two rows of bf16 interleaved, 0 beside the last of an odd
/// number. What follows the last element of a row is 0.
pub(crate) struct PackRows<'a, S: Simd, T> {
    pub rows: &'a [*const T],
    pub stride: usize,
    pub count: usize,
    pub to: *mut S::A,
    pub width: usize,
}

impl<S: Loads<T>, T: Kernel<Wide = S::A> + Copy + Default> Job<S> for PackRows<'_, S, T> {
    type Out = ();

    #[inline(always)]
    unsafe fn run(self) {
        // SAFETY: each row is valid for `count` elements at the stride, `to` for whole rows of units.
        unsafe {
            if S::PAIRS {
                for (unit, pair) in self.rows.chunks(2).enumerate() {
                    let to = self.to.add(unit * self.width);
                    interleave::<S, T>(pair[0], pair.get(1).copied(), self.stride, self.count, (to, self.width));
                }
                return;
            }
            for (row, from) in self.rows.iter().enumerate() {
                whole_row::<S, T>(*from, self.stride, self.count, (self.to.add(row * self.width), self.width));
            }
        }
    }
}

/// Two rows of bf16 as one of units.
#[inline(always)]
unsafe fn interleave<S: Loads<T>, T: Kernel<Wide = S::A> + Copy + Default>(
    from: *const T,
    next: Option<*const T>,
    stride: usize,
    count: usize,
    (to, width): (*mut S::A, usize),
) {
    // SAFETY: the rows are valid for `count` elements at the stride, `to` for `width` units, each of two elements.
    unsafe {
        let zero = S::splat(S::A::default());
        let mut i = 0;
        if stride == 1 {
            while i + S::LANES <= count {
                let high = match next {
                    Some(next) => S::load_from(next.add(i)),
                    None => zero,
                };
                S::store(to.add(i), S::pair(S::load_from(from.add(i)), high));
                i += S::LANES;
            }
        }
        for i in i..width {
            let unit = to.add(i).cast::<T>();
            let (mut low, mut high) = (T::default(), T::default());
            if i < count {
                low = *from.add(i * stride);
                if let Some(next) = next {
                    high = *next.add(i * stride);
                }
            }
            *unit = low;
            *unit.add(1) = high;
        }
    }
}

/// One row widened, and 0 after its last element.
#[inline(always)]
unsafe fn whole_row<S: Loads<T>, T: Kernel<Wide = S::A> + Copy>(
    from: *const T,
    stride: usize,
    count: usize,
    (to, width): (*mut S::A, usize),
) {
    // SAFETY: `from` is valid for `count` elements at the stride, `to` for `width` accumulators.
    unsafe {
        widen_row::<S, T>(from, stride, count, to);
        for i in count..width {
            *to.add(i) = S::A::default();
        }
    }
}

/// Brings a strip's rows of `count` elements into units, rows of 0 after the last where products go through more: pieces of [`PIECE`], each `[ROWS, PIECE]` and
/// filled up with 0, as the register tile takes them.
pub(crate) struct Stage<S: Simd, T> {
    pub from: [*const T; ROWS],
    pub rows: usize,
    pub stride: usize,
    pub count: usize,
    pub to: *mut S::A,
}

impl<S: Loads<T>, T: Kernel<Wide = S::A> + Copy + Default> Job<S> for Stage<S, T> {
    type Out = ();

    #[inline(always)]
    unsafe fn run(self) {
        // SAFETY: each pointer is valid for `count` elements at the stride, `to` for ROWS rows of whole pieces.
        unsafe {
            let wide = !S::PAIRS;
            let piece = if wide { PIECE } else { 2 * PIECE };
            for start in (0..self.count).step_by(piece) {
                let count = piece.min(self.count - start);
                for (r, from) in self.from.iter().enumerate().take(whole_rows(self.rows)) {
                    let to = self.to.add(start / piece * ROWS * PIECE + r * PIECE);
                    let from = from.wrapping_add(start * self.stride);
                    if r >= self.rows {
                        std::slice::from_raw_parts_mut(to, PIECE).fill(S::A::default());
                    } else if wide {
                        widen_row::<S, T>(from, self.stride, count, to);
                        std::slice::from_raw_parts_mut(to.add(count), PIECE - count).fill(S::A::default());
                    } else {
                        copy_row::<T>(from, self.stride, count, to.cast());
                        let units = count.div_ceil(2);
                        std::slice::from_raw_parts_mut(to.add(units), PIECE - units).fill(S::A::default());
                    }
                }
            }
        }
    }
}

/// Copies `count` elements that lie `stride` apart, and fills up a unit of two with 0.
///
/// # Safety
/// Both pointers are valid for `count` elements, `to` for whole units.
#[inline(always)]
unsafe fn copy_row<T: Copy + Default>(from: *const T, stride: usize, count: usize, to: *mut T) {
    // SAFETY: every index is less than `count`, or the second of the last unit.
    unsafe {
        if stride == 1 {
            std::ptr::copy_nonoverlapping(from, to, count);
        } else {
            for i in 0..count {
                *to.add(i) = *from.add(i * stride);
            }
        }
        if count % 2 == 1 {
            *to.add(count) = T::default();
        }
    }
}

/// Widens `count` elements that lie `stride` apart.
///
/// # Safety
/// Only inside the shell of `S`; both pointers are valid for `count` elements at their strides.
#[inline(always)]
pub(crate) unsafe fn widen_row<S: Loads<T>, T: Kernel<Wide = S::A> + Copy>(
    from: *const T,
    stride: usize,
    count: usize,
    to: *mut S::A,
) {
    // SAFETY: every index below is less than `count`.
    unsafe {
        let mut i = 0;
        if stride == 1 {
            // A call to copy a row of a hundred bytes would cost as much as copying it.
            while i + S::LANES <= count {
                S::store(to.add(i), S::load_from(from.add(i)));
                i += S::LANES;
            }
        }
        while i < count {
            *to.add(i) = (*from.add(i * stride)).widen();
            i += 1;
        }
    }
}

/// Packs keys `[count, dims]` into panels of `TILE_VECTORS · LANES` keys, each `[dims, keys]`.
///
/// `LANES` keys at a time: 128-bit chunks of them are gathered into vectors and transposed in registers. The last group is
/// filled up with keys of 0. Keys that do not lie as units, dimension by dimension, are brought into `stage` first.
pub(crate) struct PackKeys<S: Simd, T> {
    pub keys: *const T,
    pub key_stride: usize,
    pub dim_stride: usize,
    pub count: usize,
    pub dims: usize,
    /// Units of a key: `dims`, or half of it, rounded up, where a unit is two bf16.
    pub units: usize,
    /// `[count rounded up to panels, units]`.
    pub panels: *mut S::A,
    /// `[LANES, units]`.
    pub stage: *mut S::A,
}

impl<S: Loads<T>, T: Kernel<Wide = S::A> + Copy + Default> Job<S> for PackKeys<S, T> {
    type Out = ();

    #[inline(always)]
    unsafe fn run(self) {
        let tile = S::TILE_VECTORS * S::LANES;
        let whole = match S::PAIRS {
            true => self.dims.is_multiple_of(2) && self.key_stride.is_multiple_of(2),
            false => T::IS_WIDE,
        };
        let unit_stride = if S::PAIRS { self.key_stride / 2 } else { self.key_stride };
        let mut key = 0;
        while key < self.count {
            let group = (self.count - key).min(S::LANES);
            // SAFETY: `key + group` is at most `count`; the group's column lies inside its panel.
            unsafe {
                let from = self.keys.add(key * self.key_stride);
                let to = self.panels.add(key / tile * tile * self.units + key % tile);
                if whole && self.dim_stride == 1 && group == S::LANES {
                    transpose::<S>(from.cast(), unit_stride, self.units, to, tile);
                } else {
                    self.stage(from, group);
                    transpose::<S>(self.stage, self.units, self.units, to, tile);
                }
            }
            key += S::LANES;
        }
    }
}

impl<S: Loads<T>, T: Kernel<Wide = S::A> + Copy + Default> PackKeys<S, T> {
    /// Brings a group of keys into `stage`, keys of 0 after the last.
    #[inline(always)]
    unsafe fn stage(&self, from: *const T, group: usize) {
        // SAFETY: `from` is valid for `group` keys, `stage` for LANES keys.
        unsafe {
            for key in 0..group {
                let to = self.stage.add(key * self.units);
                let from = from.add(key * self.key_stride);
                if S::PAIRS {
                    copy_row::<T>(from, self.dim_stride, self.dims, to.cast());
                } else {
                    widen_row::<S, T>(from, self.dim_stride, self.dims, to);
                }
            }
            for i in group * self.units..S::LANES * self.units {
                *self.stage.add(i) = S::A::default();
            }
        }
    }
}

/// Writes `LANES` keys of `dims` units as `dims` vectors that lie `to_stride` apart.
#[inline(always)]
unsafe fn transpose<S: Simd>(from: *const S::A, stride: usize, dims: usize, to: *mut S::A, to_stride: usize) {
    let chunk = S::CHUNK;
    let mut dim = 0;
    // SAFETY: `from` is valid for LANES rows of `dims`, `to` for `dims` vectors.
    unsafe {
        while dim + chunk <= dims {
            let mut v = [S::splat(S::A::default()); 4];
            for (t, v) in v.iter_mut().enumerate().take(chunk) {
                *v = S::load_chunks(from.add(t * stride + dim), chunk * stride);
            }
            S::transpose_chunks(&mut v);
            for (u, v) in v.iter().enumerate().take(chunk) {
                S::store(to.add((dim + u) * to_stride), *v);
            }
            dim += chunk;
        }
        while dim < dims {
            for lane in 0..S::LANES {
                *to.add(dim * to_stride + lane) = from.add(lane * stride + dim).read_unaligned();
            }
            dim += 1;
        }
    }
}
