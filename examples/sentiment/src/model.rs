//! The reader: words as bags of their pieces, a transformer block that sees their neighbours, attention pooling, a class.

use attn::nn::{
    AttentionOptions, NormPlacement, Normaliser, RotaryConfig, RotaryLayout, ScoreConfig, ScoreKind, ScoredAttention,
    ScoredAttentionConfig, TransformerEncoder, TransformerEncoderConfig, TransformerEncoderLayerConfig,
};
use attn::{AttentionError, AttentionSpec, Mask, Selection};
use burn::config::Config;
use burn::module::{Initializer, Module, Param};
use burn::nn::{Dropout, DropoutConfig, Linear, LinearConfig};
use burn::tensor::{Bool, Device, Tensor, activation};
use learn::words::{WordBag, WordBagConfig, WordBatch};

/// Sizes and choice of a [`SentimentReader`].
#[derive(Config, Debug)]
pub struct SentimentReaderConfig {
    /// What makes the pool's weights of its scores.
    pub normaliser: Normaliser,
    /// The words.
    pub words: WordBagConfig,
    /// Heads of the block.
    #[config(default = 4)]
    pub heads: usize,
    /// Blocks.
    #[config(default = 1)]
    pub layers: usize,
    /// A factor of the pool's scores: the greater, the sooner the context tells words apart.
    #[config(default = 4.0)]
    pub scale: f64,
    /// Words to each side that a word sees in the block.
    #[config(default = 2)]
    pub neighbours: usize,
    /// Probability of dropping a feature of a word, of a sublayer's output, of the pooled snippet.
    #[config(default = 0.3)]
    pub dropout: f64,
}

impl SentimentReaderConfig {
    /// Makes the model.
    ///
    /// # Errors
    /// A value error that names the size without a meaning.
    pub fn init(&self, device: &Device) -> Result<SentimentReader, AttentionError> {
        let d_model = self.words.d_model;
        let layer = TransformerEncoderLayerConfig::new(d_model, self.heads, 2 * d_model)
            .with_norm(NormPlacement::Pre)
            .with_dropout(self.dropout);
        let rotary = RotaryConfig::new(d_model / self.heads.max(1), RotaryLayout::Half);
        let attention = layer.attention_config().with_rotary(Some(rotary));
        let score = ScoreConfig::new(1, d_model).with_kind(ScoreKind::Dot);
        // Small: all words weigh about the same until something is known of them.
        let context = Initializer::Normal { mean: 0.0, std: 0.05 };
        Ok(SentimentReader {
            words: self.words.init(device),
            encoder: TransformerEncoderConfig::new(layer.with_attention(Some(attention)), self.layers).init(device)?,
            projection: LinearConfig::new(d_model, d_model).init(device),
            context: context.init([1, d_model], device),
            pool: ScoredAttentionConfig::new(score).with_normaliser(self.normaliser).init(device)?,
            dropout: DropoutConfig::new(self.dropout).init(),
            head: LinearConfig::new(d_model, 2).init(device),
            neighbours: self.neighbours,
            scale: self.scale,
        })
    }
}

/// Snippets to negative and positive.
///
/// ```text
/// h      = encoder(bags of the words)              each word sees some neighbours
/// a      = normaliser_t( scale · c · tanh(W·h_t + b) )   softmax: attention pooling (Yang et al. 2016); sparsemax: many weights are 0
/// logits = W_head · Σ_t a_t · h_t + b_head
/// ```
#[derive(Module, Debug)]
pub struct SentimentReader {
    words: WordBag,
    encoder: TransformerEncoder,
    projection: Linear,
    context: Param<Tensor<2>>,
    pool: ScoredAttention,
    dropout: Dropout,
    head: Linear,
    neighbours: usize,
    scale: f64,
}

/// What the model says of some snippets.
#[derive(Debug, Clone)]
pub struct Read {
    /// `[batch, 2]`, rows that sum to 1.
    pub probabilities: Tensor<2>,
    /// `[batch, length]`: the pool's weights, rows that sum to 1; 0 on padding.
    pub weights: Tensor<2>,
}

impl SentimentReader {
    /// The probabilities, and what each word weighed.
    ///
    /// # Errors
    /// An error that names what does not fit.
    pub fn read(&self, snippets: &WordBatch) -> Result<Read, AttentionError> {
        let (logits, weights) = self.forward(snippets)?;
        Ok(Read { probabilities: activation::softmax(logits, 1), weights })
    }

    /// The logits, `[batch, 2]`, and the pool's weights, `[batch, length]`.
    ///
    /// # Errors
    /// An error that names what does not fit.
    pub fn forward(&self, snippets: &WordBatch) -> Result<(Tensor<2>, Tensor<2>), AttentionError> {
        let there = || Mask::keep(snippets.there.clone());
        let near = AttentionSpec::new().with_window(Some(self.neighbours), Some(self.neighbours));
        let words = self.dropout.forward(self.words.forward(snippets));
        let hidden = self.encoder.forward(words, &AttentionOptions::new().spec(near).key_padding(there()))?.hidden;
        let (pooled, weights) = self.pooled(hidden, there())?;
        Ok((self.head.forward(self.dropout.forward(pooled)), weights))
    }

    /// One query, the context, over all words: `[batch, d_model]`, and the weights, `[batch, length]`.
    fn pooled(
        &self,
        hidden: Tensor<3>,
        there: Mask<Tensor<2, Bool>>,
    ) -> Result<(Tensor<2>, Tensor<2>), AttentionError> {
        let [batch, length, d_model] = hidden.dims();
        let keys = activation::tanh(self.projection.forward(hidden.clone())).unsqueeze_dim(1);
        let query = self.context.val().reshape([1, 1, 1, d_model]).expand([batch, 1, 1, d_model]);
        let scale = AttentionSpec::new().with_scale(self.scale);
        let options = AttentionOptions::new().spec(scale).key_padding(there).with_weights(Selection::all());
        let output = self.pool.forward(query, keys, hidden.unsqueeze_dim(1), &options)?;
        let Some(weights) = output.weights else {
            return Err(AttentionError::value("weights", "weights that were asked for", "none"));
        };
        Ok((output.out.reshape([batch, d_model]), weights.reshape([batch, length])))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use attn::nn::AttentionPoolConfig;

    fn words() -> WordBagConfig {
        WordBagConfig::new(8).with_buckets(64)
    }

    #[test]
    fn rows_sum_to_1_and_padding_weighs_nothing_with_either_normaliser() {
        let device = Device::default();
        let texts = [words().text(&["not", "a", "good", "film"]), words().text(&["bad!"])];
        for normaliser in [Normaliser::Softmax, Normaliser::Sparsemax] {
            let model = SentimentReaderConfig::new(normaliser, words()).with_heads(2).init(&device).unwrap().valid();
            let read = |length| model.read(&words().batch(&texts, length, &device)).unwrap();
            let [short, long] = [read(4), read(6)];
            let list = |tensor: Tensor<2>| tensor.into_data().iter::<f32>().collect::<Vec<f32>>();
            let (probabilities, weights) = (list(short.probabilities), list(short.weights));
            for row in probabilities.chunks(2).chain(weights.chunks(4)) {
                assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-5, "{row:?}");
            }
            assert_eq!(weights[5..], [0.0; 3]);
            // However far it is filled up.
            for (found, expected) in list(long.probabilities).iter().zip(probabilities) {
                assert!((found - expected).abs() < 1e-5, "{found} in place of {expected}");
            }
        }
    }

    #[test]
    fn with_softmax_the_pool_is_the_one_of_the_literature() {
        let device = Device::default();
        let model = SentimentReaderConfig::new(Normaliser::Softmax, words()).with_heads(2).init(&device).unwrap();
        let mut pool = AttentionPoolConfig::new(8, 8).init(&device).unwrap();
        pool.projection = model.projection.clone();
        pool.context = Param::from_tensor(model.context.val().mul_scalar(model.scale));
        let hidden = Tensor::<3>::random([3, 5, 8], burn::tensor::Distribution::Default, &device);
        let there = || Mask::keep(Tensor::<2>::ones([3, 5], &device).equal_elem(1.0));
        let (found, _) = model.pooled(hidden.clone(), there()).unwrap();
        let expected = pool.forward(hidden, Some(there())).unwrap().pooled;
        let difference: f32 = (found - expected).abs().max().into_data().iter::<f32>().sum();
        assert!(difference < 1e-5, "{difference}");
    }
}
