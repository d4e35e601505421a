//! The most alike of the questions learned from, by the words they share.

use std::collections::BTreeSet;

use learn::words::{bare, words};

use crate::data::Questions;

/// The topic of the question that shares most with each held-out one: words in both over words in either (Jaccard). Of equals the
/// first.
pub fn nearest_question(learned: &Questions, held: &Questions) -> Vec<usize> {
    let set = |text: &String| words(text).into_iter().map(bare).collect::<BTreeSet<String>>();
    let known: Vec<BTreeSet<String>> = learned.texts.iter().map(set).collect();
    let topic = |text: &String| {
        let asked = set(text);
        let alike = |known: &BTreeSet<String>| {
            asked.intersection(known).count() as f64 / asked.union(known).count().max(1) as f64
        };
        let best = (0..known.len()).rev().max_by(|&a, &b| alike(&known[a]).total_cmp(&alike(&known[b])));
        best.map_or(0, |at| learned.labels[at])
    };
    held.texts.iter().map(topic).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_shares_the_greatest_part_of_its_words() {
        let questions = |texts: &[&str], labels: &[usize]| Questions {
            topics: vec!["a".into(), "b".into()],
            texts: texts.iter().map(|text| text.to_string()).collect(),
            labels: labels.to_vec(),
        };
        let learned = questions(&["who wrote the book of the dead then", "who wrote it"], &[0, 1]);
        // Two words of eight against two of four.
        let held = questions(&["Who wrote music?", "the dead book", "zzz"], &[0, 0, 0]);
        assert_eq!(nearest_question(&learned, &held), [1, 0, 0]);
    }
}
