//! Text as tokens: characters, or words with places for those that are not known.

use crate::words;

/// Fills short rows up; is not read.
pub const PAD: usize = 0;
/// Begins a target.
pub const BEGIN: usize = 1;
/// Ends a source and a target.
pub const END: usize = 2;
/// What is not known and has no place.
pub const UNKNOWN: usize = 3;
/// The first token that stands for a text.
const FIRST: usize = 4;
/// Words of one source that are not known and yet told apart: the first of them is token [`FIRST`].
const PLACES: usize = 8;

/// Which texts are which tokens.
#[derive(Clone, Debug)]
pub enum Vocabulary {
    /// A token a character; these, in order.
    Characters(Vec<char>),
    /// A token a word or sign; these, in order.
    Words(Vec<String>),
}

/// Words of a source that are not known, in order. So a target can have them, too, as tokens of [`Vocabulary::Words`].
pub type Strange = Vec<String>;

impl Vocabulary {
    /// The characters of some texts.
    pub fn characters<'a>(texts: impl IntoIterator<Item = &'a str>) -> Self {
        Self::Characters(in_order(texts.into_iter().flat_map(str::chars)))
    }

    /// The words and signs that some texts have at least twice: of the others too little is known.
    pub fn words<'a>(texts: impl IntoIterator<Item = &'a str>) -> Self {
        let mut all: Vec<String> = texts.into_iter().flat_map(words::split).collect();
        all.sort_unstable();
        Self::Words(in_order(all.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0].clone())))
    }

    /// How many tokens there are.
    pub fn size(&self) -> usize {
        match self {
            Self::Characters(all) => FIRST + all.len(),
            Self::Words(all) => FIRST + PLACES + all.len(),
        }
    }

    /// The tokens of a source, [`END`] last, and its strange words.
    pub fn read(&self, text: &str) -> (Vec<usize>, Strange) {
        let mut strange = Strange::new();
        if let Self::Words(all) = self {
            for word in words::split(text).into_iter().filter(|word| all.binary_search(word).is_err()) {
                if strange.len() < PLACES && !strange.contains(&word) {
                    strange.push(word);
                }
            }
        }
        (self.write(text, &strange), strange)
    }

    /// The tokens of a target, [`END`] last, of whose source some words are strange.
    pub fn write(&self, text: &str, strange: &Strange) -> Vec<usize> {
        let mut tokens: Vec<usize> = match self {
            Self::Characters(all) => {
                let token = |character| all.binary_search(&character).map_or(UNKNOWN, |at| FIRST + at);
                text.chars().map(token).collect()
            }
            Self::Words(all) => {
                let place = |word| strange.iter().position(|other| other == word).map_or(UNKNOWN, |at| FIRST + at);
                let token = |word| all.binary_search(word).map_or_else(|_| place(word), |at| FIRST + PLACES + at);
                words::split(text).iter().map(token).collect()
            }
        };
        tokens.push(END);
        tokens
    }

    /// The piece of text of each token, for people: a blank as `▁`, the end as `↵`.
    pub fn pieces(&self, tokens: &[usize], strange: &Strange) -> Vec<String> {
        let piece = |&token: &usize| match (token, self) {
            (END, _) => Some("↵".into()),
            (..FIRST, _) => None,
            (_, Self::Characters(all)) => {
                all.get(token - FIRST).map(|character| character.to_string().replace(' ', "▁"))
            }
            (_, Self::Words(_)) if token < FIRST + PLACES => strange.get(token - FIRST).cloned(),
            (_, Self::Words(all)) => all.get(token - FIRST - PLACES).cloned(),
        };
        tokens.iter().map(|token| piece(token).unwrap_or_else(|| "�".into())).collect()
    }

    /// The text of tokens, up to [`END`].
    pub fn text(&self, tokens: &[usize], strange: &Strange) -> String {
        let end = tokens.iter().position(|&token| token == END).unwrap_or(tokens.len());
        let pieces = self.pieces(&tokens[..end], strange);
        match self {
            Self::Characters(_) => pieces.concat().replace('▁', " "),
            Self::Words(_) => words::join(pieces.iter().map(String::as_str).filter(|piece| *piece != "�")),
        }
    }
}

fn in_order<T: Ord>(all: impl Iterator<Item = T>) -> Vec<T> {
    let mut all: Vec<T> = all.collect();
    all.sort_unstable();
    all.dedup();
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_come_back_and_strange_ones_are_unknown() {
        let vocabulary = Vocabulary::characters(["ba", "a c"]);
        assert_eq!((vocabulary.size(), vocabulary.read("cab")), (8, (vec![7, 5, 6, END], vec![])));
        let (tokens, strange) = vocabulary.read("b a c");
        assert_eq!(vocabulary.text(&tokens, &strange), "b a c");
        assert_eq!(vocabulary.read("é").0, [UNKNOWN, END]);
        assert_eq!(vocabulary.pieces(&[4, END, 9, PAD], &vec![]), ["▁", "↵", "�", "�"]);
    }

    #[test]
    fn strange_words_of_a_source_can_be_written() {
        let texts = ["Enter the name.", "Saisissez le nom."];
        let vocabulary = Vocabulary::words(texts.into_iter().chain(texts).chain(["Enter once"]));
        assert_eq!(vocabulary.read("once").1, ["once"], "seen once");
        let (tokens, strange) = vocabulary.read("Enter the Xyz name, xyz or abc.");
        assert_eq!(strange, ["xyz", ",▁", "or", "abc"]);
        assert_eq!(tokens.iter().filter(|&&token| token == FIRST).count(), 2, "xyz has one place");
        assert_eq!(vocabulary.text(&tokens, &strange), "Enter the Xyz name, xyz or abc.");
        let written = vocabulary.write("Saisissez le abc autre", &strange);
        assert_eq!(written[3..], [FIRST + 3, UNKNOWN, END]);
        assert_eq!(vocabulary.text(&written, &strange), "Saisissez le abc");
        // More than there are places for.
        let many = (0..PLACES + 2).map(|at| format!("w{at}")).collect::<Vec<_>>().join(" ");
        let (tokens, strange) = vocabulary.read(&many);
        assert_eq!((strange.len(), tokens[PLACES - 1], tokens[PLACES]), (PLACES, FIRST + PLACES - 1, UNKNOWN));
    }
}
