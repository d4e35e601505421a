//! Reading texts as one of some classes: how well it was done, and what naive Bayes makes of the words.

use std::collections::HashMap;

use crate::words::{bare, words};

/// The share of samples that were read right.
pub fn accuracy(labels: &[usize], read: &[usize]) -> f64 {
    let right = labels.iter().zip(read).filter(|(label, read)| label == read).count();
    right as f64 / labels.len().max(1) as f64
}

/// The mean over classes of `F1 = 2·TP / (2·TP + FP + FN)`, over those that are a label at all or were read.
pub fn macro_f1(labels: &[usize], read: &[usize]) -> f64 {
    let classes = labels.iter().chain(read).max().map_or(0, |most| most + 1);
    let of_class = |class: usize| {
        let count = |of: &[usize]| of.iter().filter(|&&x| x == class).count();
        let right = labels.iter().zip(read).filter(|&(&label, &read)| label == class && read == class).count();
        let all = count(labels) + count(read);
        (all > 0).then(|| 2.0 * right as f64 / all as f64)
    };
    let scores: Vec<f64> = (0..classes).filter_map(of_class).collect();
    scores.iter().sum::<f64>() / scores.len().max(1) as f64
}

/// The label that most samples have; of equals the least.
pub fn most_frequent(labels: &[usize]) -> usize {
    let mut counts = vec![0usize; labels.iter().max().map_or(1, |most| most + 1)];
    labels.iter().for_each(|&label| counts[label] += 1);
    (0..counts.len()).max_by_key(|&label| (counts[label], std::cmp::Reverse(label))).unwrap_or(0)
}

/// Multinomial naive Bayes on bare words.
///
/// ```text
/// score(class) = ln share(class) + Σ_words ln( (count(word, class) + a) / (words(class) + a·vocabulary) )
/// ```
/// Words that were never learned from say nothing.
#[derive(Debug, Clone)]
pub struct NaiveBayes {
    /// Of each class the logarithm of its share.
    shares: Vec<f64>,
    /// Of each word the logarithm of its probability in each class.
    words: HashMap<String, Vec<f64>>,
}

impl NaiveBayes {
    /// Counts words of texts with their labels; `smoothing` is `a`, positive.
    pub fn learned<'a>(texts: impl IntoIterator<Item = (&'a str, usize)>, classes: usize, smoothing: f64) -> Self {
        let mut counts: HashMap<String, Vec<f64>> = HashMap::new();
        let (mut of_class, mut sums) = (vec![0.0; classes], vec![0.0; classes]);
        for (text, label) in texts {
            of_class[label] += 1.0;
            for word in words(text) {
                counts.entry(bare(word)).or_insert_with(|| vec![0.0; classes])[label] += 1.0;
                sums[label] += 1.0;
            }
        }
        let extra = smoothing * counts.len() as f64;
        for of_word in counts.values_mut() {
            of_word.iter_mut().zip(&sums).for_each(|(count, sum)| *count = ((*count + smoothing) / (sum + extra)).ln());
        }
        let all: f64 = of_class.iter().sum();
        Self { shares: of_class.iter().map(|count| (count / all).ln()).collect(), words: counts }
    }

    /// The most probable class of a text; of equals the first.
    pub fn read(&self, text: &str) -> usize {
        let mut scores = self.shares.clone();
        for of_word in words(text).into_iter().filter_map(|word| self.words.get(&bare(word))) {
            scores.iter_mut().zip(of_word).for_each(|(score, word)| *score += word);
        }
        (0..scores.len()).rev().max_by(|&a, &b| scores[a].total_cmp(&scores[b])).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn macro_f1_counts_small_classes_as_much_as_great_ones() {
        let labels = [0, 0, 0, 1];
        assert_eq!((accuracy(&labels, &[0; 4]), macro_f1(&labels, &[0; 4])), (0.75, (6.0 / 7.0 + 0.0) / 2.0));
        assert_eq!((accuracy(&labels, &labels), macro_f1(&labels, &labels)), (1.0, 1.0));
        // Class 0: 2·2/(3+2); class 1: 2·1/(1+1); class 2 is read once and never right.
        assert!((macro_f1(&labels, &[0, 2, 0, 1]) - (0.8 + 1.0 + 0.0) / 3.0).abs() < 1e-12);
        assert_eq!((accuracy(&[], &[]), macro_f1(&[], &[])), (0.0, 0.0));
        assert_eq!((most_frequent(&[2, 1, 1, 2, 0]), most_frequent(&[])), (1, 0));
    }

    #[test]
    fn naive_bayes_is_its_formula() {
        let bayes = NaiveBayes::learned([("good Good film", 1), ("bad film!", 0), ("bad, bad", 0)], 2, 1.0);
        // Three words; class 0 has 4 of them, class 1 has 3.
        let expected = [(1.0f64 / 7.0).ln(), (3.0f64 / 6.0).ln()];
        assert!(bayes.words["good"].iter().zip(expected).all(|(found, expected)| (found - expected).abs() < 1e-12));
        assert!((bayes.shares[0] - (2.0f64 / 3.0).ln()).abs() < 1e-12);
        assert_eq!((bayes.read("GOOD"), bayes.read("a bad one"), bayes.read("never seen")), (1, 0, 0));
    }
}
