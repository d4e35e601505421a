//! A baseline: the sum of the valences that people gave to single words, from VADER's lexicon. The model never sees it.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use learn::words::{bare, words};

/// Words and emoticons with their valence, from −4 to 4.
#[derive(Debug)]
pub struct Lexicon(HashMap<String, f64>);

impl Lexicon {
    /// Reads `lexicon.txt`.
    ///
    /// # Errors
    /// If the file is not there or not what it should be.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join("lexicon.txt");
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        Self::parse(&text).with_context(|| path.display().to_string())
    }

    /// A line a word: the word, its mean valence, and more, with tabs between.
    fn parse(text: &str) -> Result<Self> {
        let mut valences = HashMap::new();
        for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let mut parts = line.split('\t');
            let (word, valence) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
            let valence: f64 = valence.trim().parse().with_context(|| format!("line {}: the valence", at + 1))?;
            ensure!(valence.is_finite(), "line {}: {valence} is no valence", at + 1);
            valences.insert(word.to_lowercase(), valence);
        }
        Ok(Self(valences))
    }

    /// The class of a text by the sign of its words' sum; `neither` where the sum is 0.
    pub fn read_class(&self, text: &str, neither: usize) -> usize {
        // Emoticons stand there with their marks, words without.
        let valence = |word: &str| self.0.get(&word.to_lowercase()).or_else(|| self.0.get(&bare(word)));
        let sum: f64 = words(text).into_iter().filter_map(valence).sum();
        if sum == 0.0 { neither } else { usize::from(sum > 0.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_the_sum_of_its_words() {
        let lexicon = Lexicon::parse("good\t1.9\t0.9\t[2, 1]\nBad\t-2.5\t0.6\t[]\n:)\t2.0\t1\t[]\n").unwrap();
        let read = |text| lexicon.read_class(text, 7);
        assert_eq!((read("It is GOOD, :)"), read("good but bad!"), read("nothing")), (1, 0, 7));
        assert!(Lexicon::parse("good\tx\n").unwrap_err().to_string().starts_with("line 1"));
        assert!(Lexicon::parse("good\n").is_err());
    }
}
