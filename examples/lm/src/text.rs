//! The text: a novel by chapters, of which the last tenth is held out.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// Its name in the cache.
pub const SET: &str = "moby-dick";

/// Chapters there are.
const CHAPTERS: usize = 135;
/// One byte in so many, at the end, is held out.
const HELD_OUT: usize = 10;

/// A book as bytes.
#[derive(Debug, Clone)]
pub struct Book {
    bytes: Vec<u8>,
    chapters: usize,
}

impl Book {
    /// Reads `chapters/chapter_1.json` and so on, each an object with `title` and `text`.
    ///
    /// # Errors
    /// If a file is not there or not what it should be.
    pub fn read(folder: &Path) -> Result<Self> {
        let mut bytes = Vec::new();
        for chapter in 1..=CHAPTERS {
            let path = folder.join(format!("chapters/chapter_{chapter}.json"));
            let place = || path.display().to_string();
            let file: Value = serde_json::from_slice(&fs::read(&path).with_context(place)?).with_context(place)?;
            let part = |name: &str| {
                file[name].as_str().with_context(|| format!("{}: expected a text {name:?}, found none", place()))
            };
            bytes.extend(format!("CHAPTER {chapter}. {}\n\n{}\n\n", part("title")?, part("text")?).bytes());
        }
        Ok(Self { bytes, chapters: CHAPTERS })
    }

    /// How many chapters were read.
    pub fn chapters(&self) -> usize {
        self.chapters
    }

    /// What to learn from and what is held out, each of more than `context` bytes.
    ///
    /// # Errors
    /// If the book is too short for that; names `--context`.
    pub fn parts(&self, context: usize) -> Result<(&[u8], &[u8])> {
        let (learned, held) = self.bytes.split_at(self.bytes.len() - self.bytes.len() / HELD_OUT);
        let longest = held.len().min(learned.len()).saturating_sub(1);
        ensure!((2..=longest).contains(&context), "--context: expected 2 to {longest}, found {context}");
        Ok((learned, held))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chapters_follow_each_other_under_their_titles() {
        let folder = std::env::temp_dir().join(format!("attn-lm-text-{}", std::process::id()));
        fs::create_dir_all(folder.join("chapters")).unwrap();
        for chapter in 1..=CHAPTERS {
            let text = format!("{{\"title\": \"The {chapter}th\", \"text\": \"“So…”\"}}");
            fs::write(folder.join(format!("chapters/chapter_{chapter}.json")), text).unwrap();
        }
        let book = Book::read(&folder).unwrap();
        assert!(book.bytes.starts_with("CHAPTER 1. The 1th\n\n“So…”\n\nCHAPTER 2. The 2th\n\n“So…”\n\n".as_bytes()));
        assert!(book.bytes.ends_with("CHAPTER 135. The 135th\n\n“So…”\n\n".as_bytes()));
        fs::write(folder.join("chapters/chapter_7.json"), "{\"title\": \"T\"}").unwrap();
        let error = format!("{:#}", Book::read(&folder).unwrap_err());
        assert!(error.contains("chapter_7.json: expected a text \"text\", found none"), "{error}");
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn what_is_missing_is_named() {
        let error = Book::read(Path::new("no/such/folder")).unwrap_err();
        assert!(format!("{error:#}").contains("chapter_1.json"), "{error:#}");
    }

    #[test]
    fn the_end_is_held_out() {
        let book = Book { bytes: (0..=99).collect(), chapters: 1 };
        let (learned, held) = book.parts(9).unwrap();
        assert_eq!((learned.len(), held[0], held.len()), (90, 90, 10));
        for context in [0, 1, 10] {
            let error = book.parts(context).unwrap_err().to_string();
            assert_eq!(error, format!("--context: expected 2 to 9, found {context}"));
        }
    }
}
