//! Text as tokens: characters, or sub-words that are learned by byte-pair encoding (Sennrich et al. 2016).

use anyhow::{Result, anyhow};
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::normalizers::NFC;
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::{DecoderWrapper, PostProcessorWrapper, TokenizerBuilder, TokenizerImpl};

/// Fills short rows up; is not read.
pub const PAD: usize = 0;
/// Begins a target.
pub const BEGIN: usize = 1;
/// Ends a source and a target.
pub const END: usize = 2;
/// A character that no text to learn from has.
pub const UNKNOWN: usize = 3;
/// The first token that stands for a text.
const FIRST: usize = 4;

type SubWords = TokenizerImpl<BPE, NFC, Metaspace, PostProcessorWrapper, DecoderWrapper>;

/// Which texts are which tokens.
pub enum Vocabulary {
    /// A token a character; these, in order.
    Characters(Vec<char>),
    /// Sub-words.
    SubWords(Box<SubWords>),
}

impl Vocabulary {
    /// The characters of some texts.
    pub fn characters<'a>(texts: impl IntoIterator<Item = &'a str>) -> Self {
        let mut all: Vec<char> = texts.into_iter().flat_map(str::chars).collect();
        all.sort_unstable();
        all.dedup();
        Self::Characters(all)
    }

    /// Sub-words of some texts, `size` tokens in all: the pairs of pieces that stand together most often become one.
    ///
    /// # Errors
    /// If the tokenizer refuses the texts.
    pub fn sub_words<'a>(texts: impl IntoIterator<Item = &'a str>, size: usize) -> Result<Self> {
        let special = ["<pad>", "<begin>", "<end>", "<unknown>"];
        let special = special.map(|name| tokenizers::AddedToken::from(name, true)).to_vec();
        let model = BPE::builder().unk_token("<unknown>".into()).build().map_err(plain)?;
        let mut tokenizer: SubWords = TokenizerBuilder::new()
            .with_model(model)
            .with_normalizer(Some(NFC))
            .with_pre_tokenizer(Some(Metaspace::new('▁', PrependScheme::Always, true)))
            .with_post_processor(None)
            .with_decoder(None)
            .build()
            .map_err(plain)?;
        let trainer = BpeTrainerBuilder::new().vocab_size(size).special_tokens(special).show_progress(false);
        let texts: Vec<&str> = texts.into_iter().collect();
        tokenizer.train(&mut trainer.build(), texts.into_iter()).map_err(plain)?;
        Ok(Self::SubWords(Box::new(tokenizer)))
    }

    /// How many tokens there are.
    pub fn size(&self) -> usize {
        match self {
            Self::Characters(characters) => FIRST + characters.len(),
            Self::SubWords(tokenizer) => tokenizer.get_vocab_size(true),
        }
    }

    /// The tokens of a text, [`END`] last.
    ///
    /// # Errors
    /// If the tokenizer refuses the text.
    pub fn encode(&self, text: &str) -> Result<Vec<usize>> {
        let mut tokens: Vec<usize> = match self {
            Self::Characters(all) => {
                let token = |character| all.binary_search(&character).map_or(UNKNOWN, |at| FIRST + at);
                text.chars().map(token).collect()
            }
            Self::SubWords(tokenizer) => {
                tokenizer.encode(text, false).map_err(plain)?.get_ids().iter().map(|&id| id as usize).collect()
            }
        };
        tokens.push(END);
        Ok(tokens)
    }

    /// The piece of text of each token, for people: a space as `▁`, the end as `⏹`.
    pub fn pieces(&self, tokens: &[usize]) -> Vec<String> {
        let piece = |&token: &usize| match (token, self) {
            (END, _) => "⏹".into(),
            (..FIRST, _) => "�".into(),
            (_, Self::Characters(all)) => {
                all.get(token - FIRST).map_or("�".into(), |character| character.to_string())
            }
            (_, Self::SubWords(tokenizer)) => tokenizer.id_to_token(token as u32).unwrap_or_else(|| "�".into()),
        };
        tokens.iter().map(piece).map(|piece| piece.replace(' ', "▁")).collect()
    }

    /// The text of tokens, up to [`END`].
    pub fn decode(&self, tokens: &[usize]) -> String {
        let end = tokens.iter().position(|&token| token == END).unwrap_or(tokens.len());
        self.pieces(&tokens[..end]).concat().replace('▁', " ").trim().to_string()
    }
}

fn plain(error: tokenizers::Error) -> anyhow::Error {
    anyhow!("{error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_come_back_and_strange_ones_are_unknown() {
        let vocabulary = Vocabulary::characters(["ba", "a c"]);
        assert_eq!((vocabulary.size(), vocabulary.encode("cab").unwrap()), (8, vec![7, 5, 6, END]));
        assert_eq!(vocabulary.decode(&vocabulary.encode("b a c").unwrap()), "b a c");
        assert_eq!(vocabulary.encode("é").unwrap(), [UNKNOWN, END]);
        assert_eq!(vocabulary.pieces(&[4, END, 9, PAD]), ["▁", "⏹", "�", "�"]);
    }

    #[test]
    fn sub_words_join_what_stands_together_and_come_back() {
        let texts = ["change the password", "the password of the user", "change user"];
        let learn = |size| Vocabulary::sub_words(texts, size).unwrap();
        let (few, many) = (learn(30), learn(100));
        let count = |vocabulary: &Vocabulary| vocabulary.encode("the password").unwrap().len();
        assert_eq!((count(&many), many.size() <= 100), (3, true), "two words and the end");
        assert!(count(&few) > count(&many));
        assert_eq!(many.decode(&many.encode("change  the user").unwrap()), "change  the user");
        // Another text to learn from is no part of it: x is unknown.
        assert!(many.encode("x").unwrap().contains(&UNKNOWN));
        // The same texts give the same tokens.
        assert_eq!(learn(60).encode(texts[1]).unwrap(), learn(60).encode(texts[1]).unwrap());
    }
}
