//! Bringing inputs into the form that the register tile reads: rows widened to accumulators, keys transposed into panels.

use crate::element::{Kernel, Loads};
use crate::kernel::{BLOCK, ROWS, STRIDE};
use crate::simd::{Job, Simd};

/// Widens `rows × count` elements to rows of `width ≥ count` accumulators, the rest filled with 0.
pub(crate) struct Widen<S: Simd, T> {
    pub from: *const T,
    pub row_stride: usize,
    pub stride: usize,
    pub rows: usize,
    pub count: usize,
    pub to: *mut S::A,
    pub width: usize,
}

impl<S: Loads<T>, T: Kernel<Wide = S::A> + Copy> Job<S> for Widen<S, T> {
    type Out = ();

    #[inline(always)]
    unsafe fn run(self) {
        for row in 0..self.rows {
            // SAFETY: `from` is valid for rows · count elements at its strides, `to` for rows · width accumulators.
            unsafe {
                let from = self.from.add(row * self.row_stride);
                let to = self.to.add(row * self.width);
                widen_row::<S, T>(from, self.stride, self.count, to);
                for i in self.count..self.width {
                    *to.add(i) = S::A::default();
                }
            }
        }
    }
}

/// Widens a strip's rows of `count` elements to accumulators, rows of 0 after the last: pieces of [`BLOCK`] numbers, each
/// `[ROWS, STRIDE]`, as the register tile takes them.
pub(crate) struct Stage<S: Simd, T> {
    pub from: [*const T; ROWS],
    pub rows: usize,
    pub stride: usize,
    pub count: usize,
    pub to: *mut S::A,
}

impl<S: Loads<T>, T: Kernel<Wide = S::A> + Copy> Job<S> for Stage<S, T> {
    type Out = ();

    #[inline(always)]
    unsafe fn run(self) {
        // SAFETY: each pointer is valid for `count` elements at the stride, `to` for ROWS rows of whole pieces.
        unsafe {
            for start in (0..self.count).step_by(BLOCK) {
                let count = BLOCK.min(self.count - start);
                for (r, from) in self.from.iter().enumerate() {
                    let to = self.to.add(start / BLOCK * ROWS * STRIDE + r * STRIDE);
                    if r < self.rows {
                        widen_row::<S, T>(from.wrapping_add(start * self.stride), self.stride, count, to);
                    } else {
                        std::slice::from_raw_parts_mut(to, count).fill(S::A::default());
                    }
                }
            }
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
        if T::IS_WIDE && stride == 1 {
            std::ptr::copy_nonoverlapping(from.cast(), to, count);
            return;
        }
        if stride == 1 {
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
/// filled up with keys of 0. Keys that are no accumulators, or whose dimensions do not lie side by side, are widened into
/// `stage` first.
pub(crate) struct PackKeys<S: Simd, T> {
    pub keys: *const T,
    pub key_stride: usize,
    pub dim_stride: usize,
    pub count: usize,
    pub dims: usize,
    /// `[count rounded up to panels, dims]`.
    pub panels: *mut S::A,
    /// `[LANES, dims]`.
    pub stage: *mut S::A,
}

impl<S: Loads<T>, T: Kernel<Wide = S::A> + Copy> Job<S> for PackKeys<S, T> {
    type Out = ();

    #[inline(always)]
    unsafe fn run(self) {
        let tile = S::TILE_VECTORS * S::LANES;
        let mut key = 0;
        while key < self.count {
            let group = (self.count - key).min(S::LANES);
            // SAFETY: `key + group` is at most `count`; the group's column lies inside its panel.
            unsafe {
                let from = self.keys.add(key * self.key_stride);
                let to = self.panels.add(key / tile * tile * self.dims + key % tile);
                if T::IS_WIDE && self.dim_stride == 1 && group == S::LANES {
                    transpose::<S>(from.cast(), self.key_stride, self.dims, to, tile);
                } else {
                    self.stage(from, group);
                    transpose::<S>(self.stage, self.dims, self.dims, to, tile);
                }
            }
            key += S::LANES;
        }
    }
}

impl<S: Loads<T>, T: Kernel<Wide = S::A> + Copy> PackKeys<S, T> {
    /// Widens a group of keys into `stage`, keys of 0 after the last.
    #[inline(always)]
    unsafe fn stage(&self, from: *const T, group: usize) {
        // SAFETY: `from` is valid for `group` keys, `stage` for LANES keys.
        unsafe {
            for key in 0..group {
                let to = self.stage.add(key * self.dims);
                widen_row::<S, T>(from.add(key * self.key_stride), self.dim_stride, self.dims, to);
            }
            for i in group * self.dims..S::LANES * self.dims {
                *self.stage.add(i) = S::A::default();
            }
        }
    }
}

/// Writes `LANES` keys of `dims` numbers as `dims` vectors that lie `to_stride` apart.
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
                *to.add(dim * to_stride + lane) = *from.add(lane * stride + dim);
            }
            dim += 1;
        }
    }
}
