//! The words of a question.

use crate::question::{ANSWERS, Asked, Kind, Place};

impl Kind {
    /// Its wordings; the last one is never learned from. `#` and `@` stand for what is asked.
    fn wordings(self) -> &'static [&'static str] {
        match self {
            Self::At => &[
                "which digit stands in the # place",
                "what is the # digit",
                "tell me the # digit",
                "what digit is in the # place",
                "which is the # digit",
            ],
            Self::Beside => &[
                "what is the digit @ of the #",
                "which digit stands @ of the #",
                "tell me the digit that is @ of the #",
                "what digit is @ of the #",
            ],
            Self::Exists => &[
                "is there @ #",
                "does @ # stand in the row",
                "tell me if there is @ #",
                "can you see @ #",
                "is @ # in the row",
            ],
            Self::Count => &[
                "how many # digits are there",
                "how many digits are #",
                "tell me how many # digits there are",
                "count the # digits",
                "how many of the digits are #",
            ],
            Self::Sum => &[
                "what is the sum of the # and the @ digit",
                "add the # and the @ digit",
                "how much are the # and the @ digit together",
                "what are the # and the @ digit together",
            ],
        }
    }

    /// How many wordings are learned from; they are `0..`, and the one after them is not.
    pub fn learned_wordings(self) -> usize {
        self.wordings().len() - 1
    }
}

impl Place {
    fn word(self) -> &'static str {
        match self {
            Self::At(at) => ["first", "second", "third", "fourth", "fifth", "sixth"].get(at).unwrap_or(&"next"),
            Self::Last => "last",
        }
    }
}

impl Asked {
    /// The question in the words of a wording.
    pub fn text(self, wording: usize) -> String {
        let wordings = self.kind().wordings();
        let (hash, at) = match self {
            Self::At(place) => (place.word(), ""),
            Self::Beside { left, of } => (ANSWERS[of], if left { "left" } else { "right" }),
            Self::Exists(digit) => (ANSWERS[digit], if digit == 8 { "an" } else { "a" }),
            Self::Count { even } => (if even { "even" } else { "odd" }, ""),
            Self::Sum(one, other) => (one.word(), other.word()),
        };
        wordings[wording.min(wordings.len() - 1)].replace('#', hash).replace('@', at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_sentences() {
        assert_eq!(Asked::At(Place::Last).text(1), "what is the last digit");
        assert_eq!(Asked::Beside { left: true, of: 7 }.text(0), "what is the digit left of the seven");
        assert_eq!(Asked::Exists(8).text(0), "is there an eight");
        assert_eq!(Asked::Count { even: false }.text(4), "how many of the digits are odd");
        assert_eq!(Asked::Sum(Place::At(0), Place::Last).text(0), "what is the sum of the first and the last digit");
        for asked in Asked::all(6) {
            let mut texts: Vec<String> = (0..=asked.kind().learned_wordings()).map(|at| asked.text(at)).collect();
            assert!(texts.iter().all(|text| !text.contains(['#', '@'])), "{texts:?}");
            texts.sort_unstable();
            texts.dedup();
            assert_eq!(texts.len(), asked.kind().learned_wordings() + 1, "{texts:?}");
        }
    }
}
