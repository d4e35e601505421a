//! Which weights are dropped, pair by pair, from the words of the documentation alone.

use attn_cpu::Dropout;

use super::{Owned, Real};

impl<T: Real> Owned<T> {
    /// What the weight of a pair is multiplied by as it multiplies a value.
    // Inlined, its rounding is hoisted out of the oracle's loops, and reads a probability that is not there where nothing is dropped: of no
    // consequence, but Valgrind reports it.
    #[inline(never)]
    pub fn factor(&self, [b, h, i, j]: [usize; 4]) -> f64 {
        let Some(Dropout { probability, seed }) = self.dropout else { return 1.0 };
        let word = philox([j / 4, i, h, b].map(|number| number as u32), [seed as u32, (seed >> 32) as u32])[j % 4];
        if f64::from(word) < (probability * 4294967296.0).round() { 0.0 } else { 1.0 / (1.0 - probability) }
    }
}

/// Philox4x32-10 (Salmon et al. 2011), whose known answers the crate's own tests hold.
fn philox(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    (0..10).fold(counter, |[a, b, c, d], round: u32| {
        let weyl = [0x9E37_79B9, 0xBB67_AE85].map(|step: u32| step.wrapping_mul(round));
        let key = [key[0].wrapping_add(weyl[0]), key[1].wrapping_add(weyl[1])];
        let wide = |x: u32, by: u64| u64::from(x) * by;
        let (first, second) = (wide(a, 0xD251_1F53), wide(c, 0xCD9E_8D57));
        [(second >> 32) as u32 ^ b ^ key[0], second as u32, (first >> 32) as u32 ^ d ^ key[1], first as u32]
    })
}
