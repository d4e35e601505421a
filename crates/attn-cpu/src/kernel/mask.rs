//! Masks of bytes, read as they lie: what a row sees of groups of keys, and hiding what it does not see.

use crate::math::Float;
use crate::problem::MASK_BLOCK;
use crate::simd::{Job, Simd};

/// One row of a mask over some keys of a block.
pub(crate) struct Look {
    /// The byte of the first key, valid for `keys` bytes at the stride.
    pub mask: *const u8,
    pub stride: usize,
    pub keys: usize,
    /// Place of the first key in its block.
    pub first_key: usize,
    pub seen_when: bool,
}

impl<S: Simd> Job<S> for Look {
    /// Bit by bit, groups of [`MASK_BLOCK`] keys of the block: those of which any key is seen, and those of which all are. A group of which
    /// no key was looked at is seen whole.
    type Out = (u16, u16);

    #[inline(always)]
    unsafe fn run(self) -> (u16, u16) {
        let (mut some, mut all) = (0, u16::MAX);
        let mut key = 0;
        while key < self.keys {
            let group = (self.first_key + key) / MASK_BLOCK;
            let count = ((group + 1) * MASK_BLOCK - self.first_key - key).min(self.keys - key);
            // SAFETY: keys `key..key + count` are of the row.
            let (any, every) = unsafe { self.group(key, count) };
            some |= u16::from(any) << group;
            all &= !(u16::from(!every) << group);
            key += count;
        }
        (some, all)
    }
}

impl Look {
    /// Whether any, and whether all of a few keys are seen.
    #[inline(always)]
    unsafe fn group(&self, key: usize, count: usize) -> (bool, bool) {
        // SAFETY: the caller's keys are of the row.
        let (any, every) = unsafe {
            if self.stride == 1 {
                let bytes = std::slice::from_raw_parts(self.mask.add(key), count);
                bytes.iter().fold((false, true), |(any, every), byte| (any | (*byte != 0), every & (*byte != 0)))
            } else {
                (0..count).fold((false, true), |(any, every), i| {
                    let set = *self.mask.add((key + i) * self.stride) != 0;
                    (any | set, every & set)
                })
            }
        };
        if self.seen_when { (any, every) } else { (!every, !any) }
    }
}

/// One row of scores and its row of a mask.
pub(crate) struct Hide<S: Simd> {
    /// `[keys]`.
    pub scores: *mut S::A,
    /// The byte of the first key, valid for `keys` bytes at the stride.
    pub mask: *const u8,
    pub stride: usize,
    pub keys: usize,
    pub seen_when: bool,
}

impl<S: Simd> Job<S> for Hide<S> {
    type Out = ();

    #[inline(always)]
    unsafe fn run(self) {
        // SAFETY: the fields' own promises.
        unsafe {
            let scores = std::slice::from_raw_parts_mut(self.scores, self.keys);
            if self.stride == 1 {
                let mask = std::slice::from_raw_parts(self.mask, self.keys);
                for (x, byte) in scores.iter_mut().zip(mask) {
                    *x = if (*byte != 0) == self.seen_when { *x } else { S::A::NEG_INFINITY };
                }
            } else {
                for (key, x) in scores.iter_mut().enumerate() {
                    if (*self.mask.add(key * self.stride) != 0) != self.seen_when {
                        *x = S::A::NEG_INFINITY;
                    }
                }
            }
        }
    }
}
