//! What the model's folder says of it: `config.json`, and `sentence_bert_config.json` where there is one.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use attn::nn::Activation;
use serde::Deserialize;

/// Length that all-MiniLM-L6-v2 was tuned for, in tokens; its folder says so in `sentence_bert_config.json`.
const DEFAULT_MAX_TOKENS: usize = 256;

/// Sizes of a BERT encoder, as `config.json` names them.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct ModelConfig {
    /// Must be `bert`.
    pub model_type: String,
    /// Features of a token.
    pub hidden_size: usize,
    /// Features between the two linear layers of a block.
    pub intermediate_size: usize,
    /// Heads of a block.
    pub num_attention_heads: usize,
    /// Blocks.
    pub num_hidden_layers: usize,
    /// Token ids.
    pub vocab_size: usize,
    /// Learned positions.
    pub max_position_embeddings: usize,
    /// Learned segment types.
    pub type_vocab_size: usize,
    /// Epsilon of every layer norm.
    pub layer_norm_eps: f64,
    /// Between the two linear layers of a block.
    pub hidden_act: String,
    /// `absolute` where given.
    #[serde(default = "absolute")]
    pub position_embedding_type: String,
    /// Longest sentence in tokens, `[CLS]` and `[SEP]` included; not part of `config.json`.
    #[serde(skip)]
    pub max_tokens: usize,
}

#[derive(Deserialize)]
struct SentenceConfig {
    max_seq_length: usize,
}

fn absolute() -> String {
    "absolute".to_string()
}

impl ModelConfig {
    /// Reads and checks the config of the model in `folder`.
    ///
    /// # Errors
    /// If a file is absent or broken, or the model is not a BERT encoder that this program can build.
    pub fn read(folder: &Path) -> Result<Self> {
        let mut config: Self = json(&folder.join("config.json"))?;
        let sentences = folder.join("sentence_bert_config.json");
        let asked =
            if sentences.exists() { json::<SentenceConfig>(&sentences)?.max_seq_length } else { DEFAULT_MAX_TOKENS };
        config.max_tokens = asked.min(config.max_position_embeddings);
        config.check().with_context(|| folder.join("config.json").display().to_string())?;
        Ok(config)
    }

    /// The activation that `hidden_act` names.
    ///
    /// # Errors
    /// If it is another.
    pub fn activation(&self) -> Result<Activation> {
        Ok(match self.hidden_act.as_str() {
            "gelu" => Activation::Gelu,
            "gelu_new" | "gelu_pytorch_tanh" => Activation::GeluTanh,
            "relu" => Activation::Relu,
            "silu" | "swish" => Activation::Silu,
            other => bail!("hidden_act: expected gelu, gelu_new, relu or silu, found {other:?}"),
        })
    }

    fn check(&self) -> Result<()> {
        if self.model_type != "bert" {
            bail!("model_type: expected \"bert\", found {:?}", self.model_type);
        }
        if self.position_embedding_type != "absolute" {
            bail!("position_embedding_type: expected \"absolute\", found {:?}", self.position_embedding_type);
        }
        if self.type_vocab_size == 0 || self.vocab_size == 0 {
            bail!("type_vocab_size and vocab_size: expected at least 1");
        }
        if self.max_tokens < 3 {
            bail!("max_position_embeddings: expected room for at least 3 tokens, found {}", self.max_tokens);
        }
        self.activation().map(|_| ())
    }
}

fn json<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    serde_json::from_str(&text).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"model_type": "bert", "hidden_size": 8, "intermediate_size": 16, "num_attention_heads": 2,
        "num_hidden_layers": 1, "vocab_size": 30, "max_position_embeddings": 512, "type_vocab_size": 2,
        "layer_norm_eps": 1e-12, "hidden_act": "gelu"}"#;

    fn read(name: &str, files: &[(&str, &str)]) -> Result<ModelConfig> {
        let folder = std::env::temp_dir().join(format!("attn-minilm-config-{}-{name}", std::process::id()));
        fs::create_dir_all(&folder)?;
        for (file, text) in files {
            fs::write(folder.join(file), text)?;
        }
        let config = ModelConfig::read(&folder);
        fs::remove_dir_all(folder)?;
        config
    }

    #[test]
    fn the_longest_sentence_is_the_folders_own_or_256_and_never_past_the_positions() {
        let own = |text| read("own", &[("config.json", GOOD), ("sentence_bert_config.json", text)]).unwrap().max_tokens;
        assert_eq!(own(r#"{"max_seq_length": 128, "do_lower_case": false}"#), 128);
        assert_eq!(own(r#"{"max_seq_length": 4096}"#), 512);
        assert_eq!(read("alone", &[("config.json", GOOD)]).unwrap().max_tokens, 256);
    }

    #[test]
    fn what_cannot_be_built_is_one_line_that_names_it() {
        let cases = [
            ("absent", None, "config.json"),
            ("broken", Some("{".to_string()), "config.json: EOF"),
            ("gpt", Some(GOOD.replace("\"bert\"", "\"gpt2\"")), "model_type"),
            ("act", Some(GOOD.replace("\"gelu\"", "\"tanh\"")), "hidden_act"),
            ("short", Some(GOOD.replace("512", "2")), "max_position_embeddings"),
            ("field", Some(GOOD.replace("hidden_size", "hidden")), "hidden_size"),
        ];
        for (name, text, expected) in cases {
            let files: Vec<_> = text.iter().map(|text| ("config.json", text.as_str())).collect();
            let error = format!("{:#}", read(name, &files).unwrap_err());
            assert!(error.contains(expected) && !error.contains('\n'), "{name}: {error}");
        }
    }
}
