//! Factors of weights that are dropped or kept: Philox4x32-10 (Salmon et al. 2011), sixteen counters side by side.
//!
//! ```text
//! words(b, h, i, g) = Philox4x32-10 at counter (g, i, h, b) under the seed, low half first
//! factor of key j   = kept if word j mod 4 of group g = ⌊j / 4⌋ is at least the threshold, else 0
//! ```
//! Counters are kept as the low halves of u64: the product of two low halves, which is what the generator is made of, is one
//! instruction on every set that has vectors, and what stands in the high halves does not enter the next one.

use crate::math::Float;
use crate::simd::{Job, Simd};

/// Groups of four keys whose words are made side by side.
const GROUPS: usize = 16;

/// The factors of a row's weights for some keys.
pub(crate) struct Factors<A> {
    /// Batch entry, head and query.
    pub place: [usize; 3],
    /// The first key.
    pub key: usize,
    pub count: usize,
    pub seed: u64,
    /// The smallest word that keeps a weight.
    pub threshold: u32,
    /// The factor of a weight that is kept.
    pub kept: A,
    /// `[count]`.
    pub to: *mut A,
}

impl<S: Simd> Job<S> for Factors<S::A> {
    type Out = ();

    #[inline(always)]
    unsafe fn run(self) {
        let [batch, head, query] = self.place.map(|number| number as u32);
        let mut group = self.key / 4;
        // Words before the first key's in its group.
        let mut skipped = self.key % 4;
        let mut done = 0;
        while done < self.count {
            let words = words(group, [query, head, batch], self.seed);
            let now = (4 * GROUPS - skipped).min(self.count - done);
            for (i, word) in words[skipped..skipped + now].iter().enumerate() {
                let factor = if *word < self.threshold { S::A::ZERO } else { self.kept };
                // SAFETY: `done + now` is at most `count`.
                unsafe { *self.to.add(done + i) = factor };
            }
            (group, skipped, done) = (group + GROUPS, 0, done + now);
        }
    }
}

/// The words of [`GROUPS`] groups from one on.
#[inline(always)]
fn words(group: usize, [query, head, batch]: [u32; 3], seed: u64) -> [u32; 4 * GROUPS] {
    let mut a: [u64; GROUPS] = std::array::from_fn(|i| (group + i) as u64);
    let mut b = [u64::from(query); GROUPS];
    let mut c = [u64::from(head); GROUPS];
    let mut d = [u64::from(batch); GROUPS];
    let (mut low, mut high) = (seed as u32, (seed >> 32) as u32);
    for _ in 0..10 {
        for i in 0..GROUPS {
            let (first, second) = ((a[i] & HALF) * 0xD251_1F53, (c[i] & HALF) * 0xCD9E_8D57);
            (a[i], b[i]) = (second >> 32 ^ b[i] ^ u64::from(low), second);
            (c[i], d[i]) = (first >> 32 ^ d[i] ^ u64::from(high), first);
        }
        (low, high) = (low.wrapping_add(0x9E37_79B9), high.wrapping_add(0xBB67_AE85));
    }
    let mut words = [0; 4 * GROUPS];
    for i in 0..GROUPS {
        words[4 * i] = a[i] as u32;
        words[4 * i + 1] = b[i] as u32;
        words[4 * i + 2] = c[i] as u32;
        words[4 * i + 3] = d[i] as u32;
    }
    words
}

/// The low half of a u64.
const HALF: u64 = u32::MAX as u64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_the_published_ones() {
        // Known answers of Random123.
        let zero = words(0, [0; 3], 0);
        assert_eq!(zero[..4], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        let ones = words(u32::MAX as usize - 3, [u32::MAX; 3], u64::MAX);
        assert_eq!(ones[12..16], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        let pi = words(0x243f_6a88 - 15, [0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], 0x299f_31d0_a409_3822);
        assert_eq!(pi[60..], [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]);
    }
}
