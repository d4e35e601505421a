//! What counting gives: how frequent each byte was after the last few.

use std::collections::HashMap;

/// The most bytes that a number holds beside their count.
const LONGEST: usize = 7;

/// Mean bits a byte of `held`, but for its first, for each order from 0 to `most` (at most 7): under the frequencies in `learned` of each
/// byte after the `order` before it, mixed with those after fewer in the proportions of Witten and Bell (1991).
///
/// ```text
/// P(b | run) = (times b followed the run + kinds · P(b | run without its first byte)) / (times the run was seen + kinds)
/// ```
/// `kinds` is how many different bytes followed the run; below the empty run stands 1/256.
pub fn bits_a_byte(learned: &[u8], held: &[u8], most: usize) -> Vec<f64> {
    let tables: Vec<Table> = (0..=most.min(LONGEST)).map(|order| Table::of(learned, order)).collect();
    let mut bits = vec![0.0; tables.len()];
    for at in 1..held.len() {
        let mut probability: f64 = 1.0 / 256.0;
        for (order, (table, bits)) in tables.iter().zip(&mut bits).enumerate() {
            // Where the text has just begun, what there is of it must do.
            if order <= at {
                probability = table.probability(&held[at - order..at], held[at], probability);
            }
            *bits -= probability.log2();
        }
    }
    bits.iter().map(|sum| sum / held.len().saturating_sub(1).max(1) as f64).collect()
}

/// How often each byte followed each run of bytes.
struct Table(HashMap<u64, Followers>);

/// What followed a run of bytes.
#[derive(Default)]
struct Followers {
    seen: u32,
    /// Each byte that did, and how often.
    kinds: Vec<(u8, u32)>,
}

impl Table {
    fn of(text: &[u8], order: usize) -> Self {
        let mut table: HashMap<u64, Followers> = HashMap::new();
        for run in text.windows(order + 1) {
            let followers = table.entry(number(&run[..order])).or_default();
            followers.seen += 1;
            match followers.kinds.iter_mut().find(|(byte, _)| *byte == run[order]) {
                Some((_, times)) => *times += 1,
                None => followers.kinds.push((run[order], 1)),
            }
        }
        Self(table)
    }

    fn probability(&self, before: &[u8], byte: u8, shorter: f64) -> f64 {
        let Some(Followers { seen, kinds }) = self.0.get(&number(before)) else { return shorter };
        let times = kinds.iter().find(|(kind, _)| *kind == byte).map_or(0, |(_, times)| *times);
        let (seen, kinds) = (f64::from(*seen), kinds.len() as f64);
        (f64::from(times) + kinds * shorter) / (seen + kinds)
    }
}

/// A run of bytes, all of one length, as a number.
fn number(run: &[u8]) -> u64 {
    run.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_of_a_tiny_text_are_those_computed_by_hand() {
        // Of "aab" a byte is a with (2 + 2/256) / 5 and b with (1 + 2/256) / 5; after a, which was followed by a and by b, the chance of
        // b is (1 + 2·P(b)) / 4.
        let (a, b) = ((2.0 + 2.0 / 256.0) / 5.0, (1.0 + 2.0 / 256.0) / 5.0);
        let found = bits_a_byte(b"aab", b"xab", 1);
        let expected = [-(f64::log2(a) + f64::log2(b)) / 2.0, -(f64::log2(a) + f64::log2((1.0 + 2.0 * b) / 4.0)) / 2.0];
        assert!(found.iter().zip(expected).all(|(found, expected)| (found - expected).abs() < 1e-12), "{found:?}");
        assert_eq!(bits_a_byte(b"aab", b"", 1), [0.0, 0.0]);
    }

    #[test]
    fn probabilities_add_up_to_one() {
        let table = Table::of(b"abracadabra", 1);
        let sum: f64 = (0..=255).map(|byte| table.probability(b"a", byte, 1.0 / 256.0)).sum();
        assert!((sum - 1.0).abs() < 1e-12);
        assert_eq!(table.probability(b"z", b'a', 0.25), 0.25);
    }

    #[test]
    fn more_of_the_past_tells_more() {
        let text = b"to be or not to be ".repeat(50);
        let bits = bits_a_byte(&text, &text[..200], 9);
        assert_eq!(bits.len(), LONGEST + 1);
        assert!(bits[0] < 4.0 && bits[..4].windows(2).all(|pair| pair[1] < pair[0]), "{bits:?}");
    }
}
