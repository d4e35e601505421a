//! The snippets: tweets, reviews of products and of films, and editorials, each rated by twenty people or more (Hutto & Gilbert 2014).

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use learn::order::held_out;
use learn::words::{bare, words};

/// The files, and what each holds.
const SOURCES: [(&str, &str); 4] = [
    ("tweets.txt", "tweets"),
    ("amazon.txt", "product reviews"),
    ("movies.txt", "film reviews"),
    ("nyt.txt", "editorials"),
];

/// Mean ratings run from −4 to 4; a snippet nearer to 0 than this is neither positive nor negative, and left out.
pub const LEAST_RATING: f64 = 0.5;

/// The two classes.
pub const CLASSES: [&str; 2] = ["negative", "positive"];

/// What the snippets of each source are called.
pub fn source_names() -> [&'static str; 4] {
    SOURCES.map(|(_, name)| name)
}

/// Snippets with their classes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snippets {
    /// The texts.
    pub texts: Vec<String>,
    /// 0 is negative, 1 positive.
    pub labels: Vec<usize>,
    /// Which of [`source_names`] each comes from.
    pub sources: Vec<usize>,
    /// Which document each is a part of.
    documents: Vec<usize>,
}

impl Snippets {
    /// Reads all files of a folder. Of snippets that differ in nothing but case and marks the first counts.
    ///
    /// # Errors
    /// If a file is not there or not what it should be.
    pub fn read(folder: &Path) -> Result<Self> {
        let (mut snippets, mut seen) = (Self::default(), HashSet::new());
        for (source, (file, _)) in SOURCES.iter().enumerate() {
            let path = folder.join(file);
            let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            snippets.add(source, &text, &mut seen).with_context(|| path.display().to_string())?;
        }
        Ok(snippets)
    }

    /// A line a snippet: its id, its mean rating, its text, with tabs between. An id is `document_sentence` where the documents are
    /// known, else each snippet is one of its own.
    fn add(&mut self, source: usize, text: &str, seen: &mut HashSet<String>) -> Result<()> {
        let mut documents: HashMap<&str, usize> = HashMap::new();
        let first = self.documents.iter().max().map_or(0, |most| most + 1);
        for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let parts: Vec<&str> = line.splitn(3, '\t').collect();
            ensure!(parts.len() == 3, "line {}: expected an id, a rating and a text with tabs between", at + 1);
            let rating: f64 = parts[1].trim().parse().with_context(|| format!("line {}: the rating", at + 1))?;
            ensure!((-4.0..=4.0).contains(&rating), "line {}: {rating} is no rating from -4 to 4", at + 1);
            let text = parts[2].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
            let key = words(&text).into_iter().map(bare).filter(|word| word.contains(char::is_alphanumeric));
            let key = key.collect::<Vec<_>>().join(" ");
            let is_new = !words(&text).is_empty() && (key.is_empty() || seen.insert(key));
            if rating.abs() >= LEAST_RATING && is_new {
                let document = parts[0].split('_').next().unwrap_or_default();
                let next = first + documents.len();
                self.documents.push(*documents.entry(document).or_insert(next));
                self.texts.push(text);
                self.labels.push(usize::from(rating > 0.0));
                self.sources.push(source);
            }
        }
        Ok(())
    }

    /// Those to learn from and those held out: of the documents of every source one in `every`, drawn by seed, with all its snippets.
    pub fn split(&self, every: usize, seed: u64) -> (Self, Self) {
        let mut source_of: Vec<usize> = Vec::new();
        for (&document, &source) in self.documents.iter().zip(&self.sources) {
            source_of.resize(source_of.len().max(document + 1), source);
        }
        let (_, held) = held_out(&source_of, every, seed);
        let held: HashSet<usize> = held.into_iter().collect();
        let (learned, held): (Vec<usize>, Vec<usize>) =
            (0..self.texts.len()).partition(|&at| !held.contains(&self.documents[at]));
        (self.some(&learned), self.some(&held))
    }

    fn some(&self, indices: &[usize]) -> Self {
        let pick = |of: &[usize]| indices.iter().map(|&at| of[at]).collect();
        Self {
            texts: indices.iter().map(|&at| self.texts[at].clone()).collect(),
            labels: pick(&self.labels),
            sources: pick(&self.sources),
            documents: pick(&self.documents),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(texts: &[&str]) -> Result<Snippets> {
        let (mut snippets, mut seen) = (Snippets::default(), HashSet::new());
        for (source, text) in texts.iter().enumerate() {
            snippets.add(source, text, &mut seen)?;
        }
        Ok(snippets)
    }

    #[test]
    fn lines_become_snippets_without_doubles_and_without_the_neutral() {
        let found = read(&[
            "1\t2.5\tI &lt;3 it &amp; you\n2\t-0.4\tWell.\n3\t-0.5\tBad!\n",
            "1_1\t1\tA tab\tin it\n1_2\t3\tBAD\n2_1\t-3\t:(\n1_3\t-1\tPoor.\n",
        ]);
        let found = found.unwrap();
        assert_eq!(found.texts, ["I <3 it & you", "Bad!", "A tab\tin it", ":(", "Poor."]);
        assert_eq!((found.labels, found.sources), (vec![1, 0, 1, 0, 0], vec![0, 0, 1, 1, 1]));
        assert_eq!(found.documents, [0, 1, 2, 3, 2]);
        for odd in ["1\t2.0", "1\tx\ttext", "1\t4.5\ttext", "1\tNaN\ttext"] {
            assert!(read(&[odd]).unwrap_err().to_string().starts_with("line 1"), "{odd}");
        }
    }

    #[test]
    fn a_document_is_held_out_as_a_whole() {
        let lines: String = (0..60).map(|at| format!("{}_{at}\t1\ttext {at}\n", at / 3)).collect();
        let tweets: String = (0..10).map(|at| format!("{at}\t-1\ttweet {at}\n")).collect();
        let all = read(&[&lines, &tweets]).unwrap();
        let (learned, held) = all.split(5, 1);
        assert_eq!((learned.texts.len(), held.texts.len()), (56, 14));
        assert_eq!(held.sources.iter().filter(|&&source| source == 0).count(), 12);
        assert!(held.documents.iter().all(|document| !learned.documents.contains(document)));
        assert_ne!(all.split(5, 2).1, held);
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = Snippets::read(Path::new("no/such")).unwrap_err();
        assert!(format!("{error:#}").starts_with("no/such/tweets.txt"), "{error:#}");
    }
}
