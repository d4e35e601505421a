//! What a model reads of snippets, and how far that moves when they are damaged.

use anyhow::Result;
use burn::tensor::Device;
use learn::classes::{accuracy, macro_f1};
use learn::order::{Purpose, generator};
use learn::words::{HashedText, words};

use crate::LENGTH;
use crate::damage::{left, typos};
use crate::model::{SentimentReader, SentimentReaderConfig};

/// Snippets that go through the model together.
const TOGETHER: usize = 128;
/// Of the words of four letters or more, how many get a typo.
pub const TYPOS: f64 = 0.3;
/// How many words go missing.
pub const MISSING: f64 = 0.2;

/// What was read of each snippet.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Reading {
    /// The more probable class.
    pub classes: Vec<usize>,
    /// Its probability.
    pub probabilities: Vec<f32>,
    /// The weights of its words, snippet by snippet.
    pub weights: Vec<Vec<f64>>,
}

impl Reading {
    /// Reads snippets given as their words.
    ///
    /// # Errors
    /// If the model refuses them.
    pub fn of<'a>(
        model: &SentimentReader,
        config: &SentimentReaderConfig,
        texts: impl IntoIterator<Item = Vec<&'a str>>,
        device: &Device,
    ) -> Result<Self> {
        let texts: Vec<HashedText> = texts.into_iter().map(|text| config.words.text(&text)).collect();
        let mut reading = Self::default();
        for texts in texts.chunks(TOGETHER) {
            let read = model.read(&config.words.batch(texts, LENGTH, device))?;
            for row in read.probabilities.try_into_data()?.iter::<f32>().collect::<Vec<_>>().chunks(2) {
                let class = usize::from(row[1] > row[0]);
                reading.classes.push(class);
                reading.probabilities.push(row[class]);
            }
            let weights: Vec<f64> = read.weights.try_into_data()?.iter::<f64>().collect();
            let rows = weights.chunks(LENGTH).zip(texts);
            reading.weights.extend(rows.map(|(row, text)| row[..text.len().min(LENGTH)].to_vec()));
        }
        Ok(reading)
    }

    /// Means over the snippets: of the words, how many there are; how many weigh anything at all; and how many of equal weights would be as
    /// spread as these, `1 / Σ a²`.
    pub fn words_read(&self) -> [f64; 3] {
        let mean = |count: &dyn Fn(&[f64]) -> f64| {
            self.weights.iter().map(|row| count(row)).sum::<f64>() / self.weights.len().max(1) as f64
        };
        let weigh = |row: &[f64]| row.iter().filter(|&&weight| weight > 0.0).count() as f64;
        let spread = |row: &[f64]| 1.0 / row.iter().map(|weight| weight * weight).sum::<f64>().max(f64::MIN_POSITIVE);
        [mean(&|row| row.len() as f64), mean(&weigh), mean(&spread)]
    }
}

/// What damage does.
#[derive(Debug, Clone, PartialEq)]
pub struct Damaged {
    /// What was done to the snippets.
    pub what: &'static str,
    /// What was read of them then.
    pub reading: Reading,
    /// The share read right.
    pub accuracy: f64,
    /// Macro F1.
    pub f1: f64,
    /// The share of snippets that are read as the other class now.
    pub turned: f64,
    /// The mean over snippets of how far the weights moved; see [`moved`].
    pub moved: f64,
}

/// A model's reading of snippets as they are, with typos, and with words missing.
///
/// # Errors
/// If the model refuses them.
pub fn read(
    model: &SentimentReader,
    config: &SentimentReaderConfig,
    (texts, labels): (&[String], &[usize]),
    seed: u64,
    device: &Device,
) -> Result<(Reading, [Damaged; 2])> {
    let all: Vec<Vec<&str>> = texts.iter().map(|text| words(text)).collect();
    let clean = Reading::of(model, config, all.iter().cloned(), device)?;
    let damaged = |what, reading: Reading, kept: &dyn Fn(usize) -> Vec<usize>| {
        let turned = clean.classes.iter().zip(&reading.classes).filter(|(before, after)| before != after).count();
        let pairs = clean.weights.iter().zip(&reading.weights).enumerate();
        let moves = pairs.filter_map(|(at, (before, after))| moved(before, after, &kept(at)));
        let moves: Vec<f64> = moves.collect();
        Damaged {
            what,
            accuracy: accuracy(labels, &reading.classes),
            f1: macro_f1(labels, &reading.classes),
            turned: turned as f64 / labels.len().max(1) as f64,
            moved: moves.iter().sum::<f64>() / moves.len().max(1) as f64,
            reading,
        }
    };
    let with_typos = with_typos(texts, seed);
    let kept: Vec<Vec<usize>> = (0..all.len())
        .map(|at| left(all[at].len(), MISSING, &mut generator(seed, Purpose::Trial, 2 * at as u64 + 1)))
        .collect();
    let fewer = all.iter().zip(&kept).map(|(text, kept)| kept.iter().map(|&word| text[word]).collect());
    let misspelt = with_typos.iter().map(|text| text.iter().map(String::as_str).collect());
    let (misspelt, fewer) = (Reading::of(model, config, misspelt, device)?, Reading::of(model, config, fewer, device)?);
    let every = |at: usize| (0..all[at].len()).collect();
    Ok((clean.clone(), [damaged("typos", misspelt, &every), damaged("missing words", fewer, &|at| kept[at].clone())]))
}

/// The snippets' words with typos, the same for every model.
pub fn with_typos(texts: &[String], seed: u64) -> Vec<Vec<String>> {
    let damaged =
        |(at, text): (usize, &String)| typos(&words(text), TYPOS, &mut generator(seed, Purpose::Trial, 2 * at as u64));
    texts.iter().enumerate().map(damaged).collect()
}

/// How far weights moved, from 0 to 1: the total variation `½ Σ |p − q|` between the weights after and those before, of the words that are
/// left, `kept[n]` being where the n-th stood before, and made to sum to 1 again. 1 where all that weighed something went missing.
/// `None` where a word was not read before or after: a snippet longer than what is read.
fn moved(before: &[f64], after: &[f64], kept: &[usize]) -> Option<f64> {
    if kept.len() != after.len() || kept.iter().any(|&word| word >= before.len()) {
        return None;
    }
    let sum: f64 = kept.iter().map(|&word| before[word]).sum();
    if sum <= 0.0 {
        return Some(1.0);
    }
    Some(kept.iter().zip(after).map(|(&word, after)| (before[word] / sum - after).abs()).sum::<f64>() / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use attn::nn::Normaliser;
    use burn::module::Module;
    use learn::words::WordBagConfig;

    #[test]
    fn words_are_counted_that_weigh_anything_and_as_if_they_weighed_the_same() {
        let weights = vec![vec![0.5, 0.5, 0.0, 0.0], vec![1.0], vec![0.8, 0.2]];
        let [all, weigh, alike] = Reading { weights, ..Reading::default() }.words_read();
        assert!((all - 7.0 / 3.0).abs() < 1e-12 && (weigh - 5.0 / 3.0).abs() < 1e-12);
        assert!((alike - (2.0 + 1.0 + 1.0 / 0.68) / 3.0).abs() < 1e-12, "{alike}");
    }

    #[test]
    fn weights_move_by_the_variation_between_aligned_words() {
        assert_eq!(moved(&[0.5, 0.5], &[0.5, 0.5], &[0, 1]), Some(0.0));
        assert_eq!(moved(&[1.0, 0.0], &[0.0, 1.0], &[0, 1]), Some(1.0));
        // Half of the weight went with the first word; what is left was ½ and ½ of itself.
        assert_eq!(moved(&[0.5, 0.25, 0.25], &[0.625, 0.375], &[1, 2]), Some(0.125));
        assert_eq!(moved(&[1.0, 0.0], &[1.0], &[1]), Some(1.0));
        assert_eq!((moved(&[1.0], &[0.5, 0.5], &[0, 1]), moved(&[1.0], &[0.5], &[0, 1])), (None, None));
    }

    #[test]
    fn every_snippet_is_read_with_a_weight_for_each_of_its_words() {
        let device = Device::default();
        let config = SentimentReaderConfig::new(Normaliser::Softmax, WordBagConfig::new(8)).with_heads(2);
        let model = config.init(&device).unwrap().valid();
        let texts: Vec<String> =
            (0..130).map(|at| format!("snippet {at} is quite {}", "long ".repeat(at % 50))).collect();
        let (clean, damaged) = read(&model, &config, (&texts, &[1; 130]), 3, &device).unwrap();
        assert_eq!((clean.classes.len(), damaged[1].reading.classes.len()), (130, 130));
        assert_eq!((clean.weights[5].len(), clean.weights[49].len()), (9, LENGTH));
        let right = clean.classes.iter().sum::<usize>() as f64;
        assert_eq!(accuracy(&[1; 130], &clean.classes), right / 130.0);
        assert!(
            damaged.iter().all(|damaged| damaged.moved > 0.0 && damaged.moved < 1.0),
            "they move, but not all the way"
        );
        assert_eq!(read(&model, &config, (&texts, &[1; 130]), 3, &device).unwrap().1, damaged);
    }
}
