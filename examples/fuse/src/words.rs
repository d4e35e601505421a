//! Words as numbers.

use std::collections::BTreeSet;

use crate::question::Asked;
use crate::scene::MOST;

/// The token at which the answer is read; it stands before the words.
pub const ANSWER: usize = 1;
/// What fills a short question up.
const NOTHING: usize = 0;

/// The words of all questions that can be learned from, and the length of the longest question.
#[derive(Debug, Clone)]
pub struct Vocabulary {
    words: Vec<String>,
    /// Tokens of the longest question, with the answer's.
    pub length: usize,
}

impl Vocabulary {
    /// Of the wordings that are learned from, and no other.
    pub fn new() -> Self {
        let (mut words, mut length) = (BTreeSet::new(), 0);
        for asked in Asked::all(MOST) {
            for text in (0..asked.kind().learned_wordings()).map(|wording| asked.text(wording)) {
                length = length.max(1 + text.split(' ').count());
                words.extend(text.split(' ').map(str::to_string));
            }
        }
        Self { words: words.into_iter().collect(), length }
    }

    /// How many tokens there are: the words, the answer's token, and nothing.
    pub fn tokens(&self) -> usize {
        ANSWER + 1 + self.words.len()
    }

    /// A question as [`length`](Self::length) tokens, the answer's first. A word that is not known is passed over.
    pub fn encode(&self, text: &str) -> Vec<usize> {
        let known =
            text.split(' ').filter_map(|word| self.words.binary_search_by(|known| known.as_str().cmp(word)).ok());
        let tokens = [ANSWER].into_iter().chain(known.map(|at| ANSWER + 1 + at));
        tokens.chain(std::iter::repeat(NOTHING)).take(self.length).collect()
    }

    /// Whether a token is a word or the answer's.
    pub fn is_there(token: usize) -> bool {
        token != NOTHING
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_becomes_tokens_and_back() {
        let vocabulary = Vocabulary::new();
        let text = "what is the last digit";
        let tokens = vocabulary.encode(text);
        assert_eq!((tokens.len(), vocabulary.length, tokens[0]), (12, 12, ANSWER));
        let back: Vec<&str> = tokens[1..6].iter().map(|&token| vocabulary.words[token - 2].as_str()).collect();
        assert_eq!(back.join(" "), text);
        assert!(tokens[6..].iter().all(|&token| !Vocabulary::is_there(token)));
        assert!(tokens.iter().all(|&token| token < vocabulary.tokens()));
        assert_eq!(vocabulary.encode("what nonsense is the last digit"), tokens);
    }

    #[test]
    fn wordings_that_are_held_out_are_new_sentences_of_known_words() {
        let vocabulary = Vocabulary::new();
        let asked = Asked::all(MOST);
        let learned: BTreeSet<Vec<usize>> = asked
            .iter()
            .flat_map(|asked| {
                (0..asked.kind().learned_wordings()).map(|wording| vocabulary.encode(&asked.text(wording)))
            })
            .collect();
        for asked in asked {
            let text = asked.text(asked.kind().learned_wordings());
            let tokens = vocabulary.encode(&text);
            assert_eq!(
                tokens.iter().filter(|&&token| Vocabulary::is_there(token)).count(),
                1 + text.split(' ').count()
            );
            assert!(!learned.contains(&tokens), "{text}");
        }
    }
}
