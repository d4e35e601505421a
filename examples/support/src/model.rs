//! The reader: words as bags of their pieces, attention pooling (Yang et al. 2016; Lin et al. 2017), a class.

use attn::nn::{AttentionPool, AttentionPoolConfig};
use attn::{AttentionError, Mask};
use burn::config::Config;
use burn::module::Module;
use burn::nn::{Dropout, DropoutConfig, Linear, LinearConfig};
use burn::tensor::{Device, Tensor, activation};
use learn::words::{WordBag, WordBagConfig, WordBatch};

/// Sizes of a [`TopicReader`].
#[derive(Config, Debug)]
pub struct TopicReaderConfig {
    /// Topics to tell apart.
    pub topics: usize,
    /// The words.
    pub words: WordBagConfig,
    /// Features in which words are compared with what the pool looks for.
    #[config(default = 32)]
    pub d_attention: usize,
    /// Things that the pool looks for.
    #[config(default = 4)]
    pub heads: usize,
    /// Probability of dropping a feature of a word, and of the pooled question.
    #[config(default = 0.5)]
    pub dropout: f64,
}

impl TopicReaderConfig {
    /// Makes the model.
    ///
    /// # Errors
    /// A value error that names the size without a meaning.
    pub fn init(&self, device: &Device) -> Result<TopicReader, AttentionError> {
        let pool = AttentionPoolConfig::new(self.words.d_model, self.d_attention).with_heads(self.heads);
        Ok(TopicReader {
            words: self.words.init(device),
            pool: pool.init(device)?,
            dropout: DropoutConfig::new(self.dropout).init(),
            head: LinearConfig::new(pool.d_output(), self.topics).init(device),
        })
    }
}

/// Questions to topics.
///
/// ```text
/// h_t    = bag(word t)
/// a_t    = softmax_t( c · tanh(W·h_t + b) )        one row of weights for each of the contexts c
/// logits = W_head · [Σ_t a_t · h_t] + b_head       the contexts' sums side by side
/// ```
#[derive(Module, Debug)]
pub struct TopicReader {
    words: WordBag,
    pool: AttentionPool,
    dropout: Dropout,
    head: Linear,
}

/// What the model says of some questions.
#[derive(Debug, Clone)]
pub struct Read {
    /// `[batch, topics]`, rows that sum to 1.
    pub probabilities: Tensor<2>,
    /// `[batch, length]`: what each word weighs in the mean of the contexts; rows that sum to 1, and 0 on padding.
    pub weights: Tensor<2>,
}

impl TopicReader {
    /// `[batch, topics]`.
    ///
    /// # Errors
    /// An error that names what does not fit.
    pub fn logits(&self, questions: &WordBatch) -> Result<Tensor<2>, AttentionError> {
        Ok(self.forward(questions)?.0)
    }

    /// The topics' probabilities, and which words they come from.
    ///
    /// # Errors
    /// An error that names what does not fit.
    pub fn read(&self, questions: &WordBatch) -> Result<Read, AttentionError> {
        let (logits, weights) = self.forward(questions)?;
        Ok(Read { probabilities: activation::softmax(logits, 1), weights: weights.mean_dim(1).squeeze_dim(1) })
    }

    fn forward(&self, questions: &WordBatch) -> Result<(Tensor<2>, Tensor<3>), AttentionError> {
        let hidden = self.dropout.forward(self.words.forward(questions));
        let output = self.pool.forward(hidden, Some(Mask::keep(questions.there.clone())))?;
        Ok((self.head.forward(self.dropout.forward(output.pooled)), output.weights))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_and_weights_come_together_and_padding_says_nothing() {
        let device = Device::default();
        let config = TopicReaderConfig::new(3, WordBagConfig::new(8).with_buckets(64));
        let model = config.init(&device).unwrap();
        let texts = [config.words.text(&["what", "is", "it?"]), config.words.text(&["hello"])];
        let read = model.read(&config.words.batch(&texts, 3, &device)).unwrap();
        let [probabilities, weights] =
            [read.probabilities, read.weights].map(|rows| rows.into_data().iter::<f32>().collect::<Vec<f32>>());
        for row in probabilities.chunks(3).chain(weights.chunks(3)) {
            assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-5, "{row:?}");
        }
        assert_eq!(weights[4..], [0.0, 0.0]);
        // However far it is filled up.
        let longer = model.read(&config.words.batch(&texts, 7, &device)).unwrap().probabilities;
        for (found, expected) in longer.into_data().iter::<f32>().zip(probabilities) {
            assert!((found - expected).abs() < 1e-6, "{found} in place of {expected}");
        }
    }
}
