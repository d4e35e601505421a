//! Dropout of weights: which of them are dropped, told by a counter-based generator and stored nowhere.

use std::ops::Range;

use crate::AttentionError;

/// Drops each weight with a probability, and scales the others so that every sum keeps its mean (Srivastava et al. 2014).
///
/// ```text
/// out_i = Σ_j keep(i, j) / (1 − probability) · w(i, j) · v_j
/// keep(b, h, i, j) = word j mod 4 of Philox4x32-10 at counter (⌊j / 4⌋, i, h, b) under the key `seed`  ≥  probability · 2³²
/// ```
///
/// The same seed drops the same weights on every backend, in every element type, and again in the backward pass, which therefore stores no
/// mask. Philox4x32-10 is Salmon et al. 2011; the counter's numbers are taken modulo 2³². The LSE and the weights that are asked
/// for are those before dropout. Training takes another seed for every step and layer; to attend without dropout is to give none.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dropout {
    /// The probability with which a weight is dropped, in `[0, 1)`; told apart in steps of 2⁻³².
    pub probability: f64,
    /// Which weights are dropped.
    pub seed: u64,
}

impl Dropout {
    /// Drops each weight with this probability.
    pub fn new(probability: f64, seed: u64) -> Self {
        Self { probability, seed }
    }

    /// The factor of a weight that is kept, `1 / (1 − probability)`.
    pub fn scale(&self) -> f64 {
        1.0 / (1.0 - self.probability)
    }

    /// The smallest word that keeps a weight, `probability · 2³²` rounded.
    pub fn threshold(&self) -> u32 {
        // Saturates: the largest probability below 1 rounds to 2³².
        (self.probability * 2f64.powi(32)).round() as u32
    }

    /// Whether the weight of key `j` for query `i` of head `h` and batch entry `b` is kept, of `[b, h, i, j]`.
    pub fn keeps(&self, [batch, head, query, key]: [usize; 4]) -> bool {
        let counter = [key / 4, query, head, batch].map(|number| number as u32);
        philox(counter, self.seed)[key % 4] >= self.threshold()
    }

    /// The factors of the weights of some keys for query `i` of head `h` and batch entry `b`, of `[b, h, i]`: 0, or [`scale`](Self::scale).
    pub fn factors(&self, [batch, head, query]: [usize; 3], keys: Range<usize>) -> impl Iterator<Item = f64> + use<> {
        let Self { seed, .. } = *self;
        let (scale, threshold, first) = (self.scale(), self.threshold(), keys.start);
        let mut words = [0; 4];
        keys.map(move |key| {
            if key % 4 == 0 || key == first {
                words = philox([key / 4, query, head, batch].map(|number| number as u32), seed);
            }
            if words[key % 4] >= threshold { scale } else { 0.0 }
        })
    }

    /// Whether the probability is one.
    pub(crate) fn check(self) -> Result<Self, AttentionError> {
        match (0.0..1.0).contains(&self.probability) {
            true => Ok(self),
            false => Err(AttentionError::value("dropout", "a probability in [0, 1)", self.probability)),
        }
    }
}

/// Philox4x32-10: four words for a counter and a key, whose low half comes first.
fn philox(counter: [u32; 4], key: u64) -> [u32; 4] {
    let [mut a, mut b, mut c, mut d] = counter;
    let [mut low, mut high] = [key as u32, (key >> 32) as u32];
    for _ in 0..10 {
        let (first, second) = (u64::from(a) * 0xD251_1F53, u64::from(c) * 0xCD9E_8D57);
        [a, b, c, d] = [(second >> 32) as u32 ^ b ^ low, second as u32, (first >> 32) as u32 ^ d ^ high, first as u32];
        (low, high) = (low.wrapping_add(0x9E37_79B9), high.wrapping_add(0xBB67_AE85));
    }
    [a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_gives_its_published_words() {
        // Known answers of Random123, Salmon et al. 2011.
        let known = [
            ([0; 4], 0, [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([u32::MAX; 4], u64::MAX, [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                0x299f_31d0_a409_3822,
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ];
        for (counter, key, words) in known {
            assert_eq!(philox(counter, key), words, "{counter:x?} {key:x}");
        }
    }

    #[test]
    fn a_share_of_the_weights_is_dropped_at_every_place() {
        let dropout = Dropout::new(0.3, 7);
        let share = |places: &mut dyn Iterator<Item = [usize; 4]>| {
            let kept: Vec<bool> = places.map(|place| dropout.keeps(place)).collect();
            kept.iter().filter(|kept| !**kept).count() as f64 / kept.len() as f64
        };
        // Four deviations of 4000 draws are 0.029.
        for axis in 0..4 {
            let found = share(&mut (0..4000).map(|n| std::array::from_fn(|a| if a == axis { n } else { 3 })));
            assert!((found - 0.3).abs() < 0.029, "{found} along axis {axis}");
        }
        let of_seeds = (0..4000).filter(|seed| !Dropout::new(0.3, *seed).keeps([0, 1, 2, 3])).count();
        assert!((of_seeds as f64 / 4000.0 - 0.3).abs() < 0.029, "{of_seeds}");
    }

    #[test]
    fn factors_of_a_row_are_those_of_its_keys() {
        let dropout = Dropout::new(0.5, 3);
        for (start, end) in [(0, 9), (1, 3), (6, 6), (7, 21)] {
            let expected = (start..end).map(|key| if dropout.keeps([1, 2, 3, key]) { 2.0 } else { 0.0 });
            assert!(dropout.factors([1, 2, 3], start..end).eq(expected), "{start}..{end}");
        }
    }

    #[test]
    fn probabilities_are_below_1() {
        for probability in [-0.1, 1.0, 2.0, f64::NAN, f64::INFINITY] {
            assert!(Dropout::new(probability, 0).check().is_err_and(|error| error.to_string().contains("dropout")));
        }
        let most = Dropout::new(1.0 - f64::EPSILON, 0);
        assert_eq!((most.check(), most.threshold()), (Ok(most), u32::MAX));
        assert_eq!(Dropout::new(0.25, 0).threshold(), 1 << 30);
        assert!((0..100).all(|key| Dropout::new(0.0, 1).keeps([0, 0, 0, key])));
    }
}
