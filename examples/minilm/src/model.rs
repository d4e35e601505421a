//! The sentence encoder: BERT's embeddings, our transformer encoder, the mean over tokens.

use std::path::Path;

use anyhow::{Context, Result};
use attn::nn::load::{LoadError, Mapping, load_safetensors};
use attn::nn::{AttentionOptions, NormPlacement, TransformerEncoder, TransformerEncoderConfig};
use attn::nn::{EncoderOutput, TransformerEncoderLayerConfig};
use attn::{Mask, Plan, Selection};
use burn::module::Module;
use burn::nn::{Embedding, EmbeddingConfig, LayerNorm, LayerNormConfig};
use burn::tensor::{Bool, Device, Int, Tensor, TensorData};

use crate::config::ModelConfig;
use crate::tokens::Tokens;

/// A BERT encoder (Devlin et al. 2018) that makes one vector of a sentence (Reimers & Gurevych 2019).
///
/// ```text
/// x = norm(word[id] + position[i] + type[0])        [batch, tokens, features]
/// h = encoder(x), padding hidden                    [batch, tokens, features]
/// e = mean of h over the sentence's tokens          [batch, features]
/// embedding = e / ‖e‖
/// ```
#[derive(Module, Debug)]
pub struct SentenceEncoder {
    words: Embedding,
    positions: Embedding,
    types: Embedding,
    norm: LayerNorm,
    encoder: TransformerEncoder,
}

/// Sentences side by side, the shorter ones padded.
pub struct Batch {
    ids: Tensor<2, Int>,
    /// True where there is a token, `[batch, tokens]`; absent where nothing is padded.
    keep: Option<Tensor<2, Bool>>,
}

impl Batch {
    /// Pads sentences to the longest of them.
    pub fn new(sentences: &[&Tokens], device: &Device) -> Self {
        let longest = sentences.iter().map(|tokens| tokens.ids.len()).max().unwrap_or(0);
        let padded = |tokens: &&Tokens| {
            let ids = tokens.ids.iter().map(|&id| i64::from(id));
            ids.chain(std::iter::repeat_n(0, longest - tokens.ids.len())).collect::<Vec<_>>()
        };
        let shape = [sentences.len(), longest];
        let ids = TensorData::new(sentences.iter().flat_map(padded).collect::<Vec<_>>(), shape);
        let is_padded = sentences.iter().any(|tokens| tokens.ids.len() < longest);
        let keep = is_padded.then(|| {
            let kept =
                sentences.iter().flat_map(|tokens| (0..longest).map(|i| i < tokens.ids.len())).collect::<Vec<_>>();
            Tensor::from_data(TensorData::new(kept, shape), device)
        });
        Self { ids: Tensor::from_data(ids, device), keep }
    }

    /// `[batch, tokens]`.
    pub fn dims(&self) -> [usize; 2] {
        self.ids.dims()
    }

    fn options(&self) -> AttentionOptions {
        match &self.keep {
            Some(keep) => AttentionOptions::new().key_padding(Mask::keep(keep.clone())),
            None => AttentionOptions::new(),
        }
    }
}

impl SentenceEncoder {
    /// Builds the model that `config` describes and loads its weights from `folder`.
    ///
    /// # Errors
    /// If the config makes no sense, or the weights are absent or do not fit it.
    pub fn load(folder: &Path, config: &ModelConfig, device: &Device) -> Result<Self> {
        let layer = TransformerEncoderLayerConfig::new(
            config.hidden_size,
            config.num_attention_heads,
            config.intermediate_size,
        )
        .with_norm(NormPlacement::Post)
        .with_activation(config.activation()?)
        .with_layer_norm_epsilon(config.layer_norm_eps);
        let encoder = TransformerEncoderConfig::new(layer, config.num_hidden_layers)
            .init(device)
            .with_context(|| folder.join("config.json").display().to_string())?;
        let embedding = |rows| EmbeddingConfig::new(rows, config.hidden_size).init(device);
        let model = Self {
            words: embedding(config.vocab_size),
            positions: embedding(config.max_position_embeddings),
            types: embedding(config.type_vocab_size),
            norm: LayerNormConfig::new(config.hidden_size).with_epsilon(config.layer_norm_eps).init(device),
            encoder,
        };
        Ok(load_safetensors(model, folder.join("model.safetensors"), &names()?)?)
    }

    /// The vectors of a batch's sentences, `[batch, features]`, each of length 1.
    ///
    /// # Errors
    /// What the attention answers.
    pub fn embed(&self, batch: &Batch) -> Result<Tensor<2>> {
        let hidden = self.encoder.forward(self.enter(batch), &batch.options())?.hidden;
        let [sentences, _, features] = hidden.dims();
        let sum: Tensor<3> = match &batch.keep {
            Some(keep) => {
                let keep: Tensor<3> = keep.clone().float().unsqueeze_dim(2);
                (hidden * keep.clone()).sum_dim(1) / keep.sum_dim(1)
            }
            None => hidden.mean_dim(1),
        };
        let mean: Tensor<2> = sum.reshape([sentences, features]);
        let length = mean.clone().powi_scalar(2).sum_dim(1).sqrt().clamp_min(1e-12);
        Ok(mean / length)
    }

    /// The weights of every layer and head, `[batch, heads, tokens, tokens]` each.
    ///
    /// # Errors
    /// As [`embed`](Self::embed).
    pub fn attend(&self, batch: &Batch) -> Result<Vec<Tensor<4>>> {
        let options = batch.options().with_weights(Selection::all());
        let EncoderOutput { weights, .. } = self.encoder.forward(self.enter(batch), &options)?;
        Ok(weights)
    }

    /// What will serve the attention of one layer, and at what cost.
    ///
    /// # Errors
    /// As [`embed`](Self::embed).
    pub fn plan(&self, batch: &Batch) -> Result<Plan> {
        let layer = self.encoder.layers.first().context("the model has no layer")?;
        Ok(layer.plan(self.enter(batch), &batch.options())?)
    }

    /// Embeddings of tokens, positions and the one segment, `[batch, tokens, features]`.
    fn enter(&self, batch: &Batch) -> Tensor<3> {
        let [_, length] = batch.dims();
        let positions: Tensor<3> = self.positions.weight.val().slice(0..length).unsqueeze();
        let first_type: Tensor<3> = self.types.weight.val().slice(0..1).unsqueeze();
        self.norm.forward(self.words.forward(batch.ids.clone()) + positions + first_type)
    }
}

/// From the names of PyTorch's BERT to ours.
fn names() -> Result<Mapping, LoadError> {
    // Position numbers are implied; the pooler belongs to another task.
    let mapping = Mapping::pytorch().ignore(r"^embeddings\.position_ids$")?.ignore(r"^pooler\.")?;
    let rules = [
        (r"^embeddings\.word_embeddings\.", "words."),
        (r"^embeddings\.position_embeddings\.", "positions."),
        (r"^embeddings\.token_type_embeddings\.", "types."),
        (r"^embeddings\.LayerNorm\.", "norm."),
        (r"^encoder\.layer\.", "encoder.layers."),
        (r"\.attention\.self\.", ".attention."),
        (r"\.attention\.output\.dense\.", ".attention.output."),
        (r"\.attention\.output\.LayerNorm\.", ".attention_norm."),
        (r"\.intermediate\.dense\.", ".linear_inner."),
        (r"\.output\.dense\.", ".linear_outer."),
        (r"\.output\.LayerNorm\.", ".feed_forward_norm."),
    ];
    rules.into_iter().try_fold(mapping, |mapping, (pattern, name)| mapping.rename(pattern, name))
}
