//! Sentences as tokens.

use std::path::Path;

use anyhow::{Result, anyhow, bail};
use tokenizers::{Tokenizer, TruncationParams};

use crate::config::ModelConfig;

/// One sentence as the model reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokens {
    /// Rows of the vocabulary, `[CLS]` first and `[SEP]` last.
    pub ids: Vec<u32>,
    /// What stands there; `##` joins a piece to the one before.
    pub pieces: Vec<String>,
    /// Tokens at the end that were cut off.
    pub cut: usize,
}

/// The model's own tokeniser, with the model's own greatest length.
pub struct Reader {
    tokenizer: Tokenizer,
    vocab_size: usize,
}

impl Reader {
    /// Reads `tokenizer.json` of the model in `folder`.
    ///
    /// # Errors
    /// If the file is absent or broken.
    pub fn new(folder: &Path, config: &ModelConfig) -> Result<Self> {
        let path = folder.join("tokenizer.json");
        if !path.is_file() {
            bail!("{}: no such file", path.display());
        }
        let error = |error: tokenizers::Error| {
            let error = error.to_string();
            anyhow!("{}: {}", path.display(), error.lines().next().unwrap_or("not a tokeniser"))
        };
        let mut tokenizer = Tokenizer::from_file(&path).map_err(error)?;
        // The file pads to a fixed length and cuts at another; neither is what the sentences' model says.
        tokenizer.with_padding(None);
        let truncation = TruncationParams { max_length: config.max_tokens, ..TruncationParams::default() };
        tokenizer.with_truncation(Some(truncation)).map_err(error)?;
        Ok(Self { tokenizer, vocab_size: config.vocab_size })
    }

    /// Splits a sentence. What is longer than the model reads is cut, and counted.
    ///
    /// # Errors
    /// If the tokeniser fails, makes nothing of the sentence, or knows tokens that the model does not.
    pub fn read(&self, sentence: &str) -> Result<Tokens> {
        let encoding = self.tokenizer.encode(sentence, true).map_err(|error| anyhow!("tokenizer.json: {error}"))?;
        let ids = encoding.get_ids().to_vec();
        if ids.is_empty() {
            bail!("tokenizer.json: expected at least one token of {sentence:?}, found none");
        }
        if let Some(id) = ids.iter().find(|&&id| id as usize >= self.vocab_size) {
            bail!("tokenizer.json: token {id} is past the model's vocab_size {}", self.vocab_size);
        }
        let own = |mask: &[u32]| mask.iter().filter(|&&special| special == 0).count();
        let cut = encoding.get_overflowing().iter().map(|rest| own(rest.get_special_tokens_mask())).sum();
        Ok(Tokens { ids, pieces: encoding.get_tokens().to_vec(), cut })
    }
}
