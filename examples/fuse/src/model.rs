//! The model: the question's words look at the digits, and think about what they saw, some times in turn.

use attn::nn::{AttentionOptions, NormPlacement, TransformerEncoderLayer, TransformerEncoderLayerConfig};
use attn::{AttentionError, Mask, Selection};
use burn::config::Config;
use burn::module::{Initializer, Module, Param};
use burn::nn::{Embedding, EmbeddingConfig, LayerNorm, LayerNormConfig, Linear, LinearConfig};
use burn::tensor::{Device, Tensor, activation};

use crate::batch::Batch;
use crate::look::{Look, Looks};
use crate::read::{self, Weights};

/// Sizes of a [`Fuse`].
#[derive(Config, Debug)]
pub struct FuseConfig {
    /// How words look at digits.
    pub looks: Looks,
    /// Tokens that there are.
    pub tokens: usize,
    /// Tokens of a question.
    pub length: usize,
    /// Places of a row.
    pub places: usize,
    /// Pixels of a digit.
    pub pixels: usize,
    /// Answers that there are.
    pub answers: usize,
    /// Features of a token.
    #[config(default = 64)]
    pub d_model: usize,
    /// Heads of an attention.
    #[config(default = 4)]
    pub heads: usize,
    /// How often words look; each time they think afterwards.
    #[config(default = 2)]
    pub looks_in_turn: usize,
}

impl FuseConfig {
    /// Makes the model.
    ///
    /// # Errors
    /// A value error that names the size without a meaning.
    pub fn init(&self, device: &Device) -> Result<Fuse, AttentionError> {
        let d_model = self.d_model;
        // Far apart from the start, so that words and places are soon told from each other.
        let apart = Initializer::Normal { mean: 0.0, std: 0.5 };
        let linear = |d_input, d_output| LinearConfig::new(d_input, d_output).init(device);
        let think = TransformerEncoderLayerConfig::new(d_model, self.heads, 2 * d_model).with_norm(NormPlacement::Pre);
        let blocks = (0..self.looks_in_turn).map(|_| {
            Ok(Block { look: Look::init(self.looks, d_model, self.heads, device)?, think: think.init(device)? })
        });
        Ok(Fuse {
            words: EmbeddingConfig::new(self.tokens, d_model).with_initializer(apart.clone()).init(device),
            order: apart.init([self.length, d_model], device),
            eye: linear(self.pixels, 2 * d_model),
            nerve: linear(2 * d_model, d_model),
            clear: LayerNormConfig::new(d_model).init(device),
            places: Initializer::Normal { mean: 0.0, std: 1.0 }.init([self.places, d_model], device),
            blocks: blocks.collect::<Result<_, AttentionError>>()?,
            norm: LayerNormConfig::new(d_model).init(device),
            head: linear(d_model, self.answers),
        })
    }
}

/// Questions and rows to answers.
///
/// ```text
/// w = words + order                                 [answer] and the words of the question
/// d = norm(nerve · gelu(eye · pixels)) + places     the digits, each by itself
/// twice:
///   w ← w + attention(query norm(w), key and value d)
///   w ← layer(w)                                    a transformer's encoder layer over the words
/// logits = head · norm(w at [answer])
/// ```
/// Digits never look at each other: what a word knows of them it has got by looking, by a [`Look`].
#[derive(Module, Debug)]
pub struct Fuse {
    words: Embedding,
    order: Param<Tensor<2>>,
    eye: Linear,
    nerve: Linear,
    clear: LayerNorm,
    places: Param<Tensor<2>>,
    blocks: Vec<Block>,
    norm: LayerNorm,
    head: Linear,
}

/// A look and a thought.
#[derive(Module, Debug)]
struct Block {
    look: Option<Look>,
    think: TransformerEncoderLayer,
}

/// What the model says of some questions.
#[derive(Debug, Clone)]
pub struct Read {
    /// `[batch, answers]`, rows that sum to 1.
    pub probabilities: Tensor<2>,
    /// `[batch, length + places]`: how much the answer took from each word and each digit; see [`read::rollout`].
    pub sources: Tensor<2>,
    /// `[batch, length, places]`: the weight that each word gave each digit, summed over heads and looks; see [`read::looks`].
    pub looks: Option<Tensor<3>>,
}

impl Fuse {
    /// `[batch, answers]`.
    ///
    /// # Errors
    /// An error that names what does not fit.
    pub fn logits(&self, batch: &Batch) -> Result<Tensor<2>, AttentionError> {
        self.forward(batch, &mut None)
    }

    /// The answers' probabilities, and where they come from.
    ///
    /// # Errors
    /// An error that names what does not fit.
    pub fn read(&self, batch: &Batch) -> Result<Read, AttentionError> {
        let mut weights = Some(Vec::new());
        let probabilities = activation::softmax(self.forward(batch, &mut weights)?, 1);
        let weights = weights.unwrap_or_default();
        let sources = read::rollout(&weights, batch.images.dims()[1]);
        let sources = sources.ok_or_else(|| AttentionError::value("looks_in_turn", "at least 1", 0))?;
        Ok(Read { probabilities, sources, looks: read::looks(&weights) })
    }

    /// Appends the weights of every attention to `weights`, if they are wanted.
    fn forward(&self, batch: &Batch, weights: &mut Option<Vec<Weights>>) -> Result<Tensor<2>, AttentionError> {
        let seen = activation::gelu(self.eye.forward(batch.images.clone()));
        let digits = self.clear.forward(self.nerve.forward(seen)) + self.places.val().unsqueeze();
        let mut words = self.words.forward(batch.words.clone()) + self.order.val().unsqueeze();
        let options = |padding, wanted: bool| {
            let options = AttentionOptions::new().key_padding(Mask::keep(padding));
            if wanted { options.with_weights(Selection::all()) } else { options }
        };
        let over_words = options(batch.is_word.clone(), weights.is_some());
        let over_digits = options(batch.is_digit.clone(), weights.is_some());
        let think = |layer: &TransformerEncoderLayer, words, weights: &mut Option<Vec<Weights>>| {
            let thought = layer.forward(words, &over_words)?;
            weights.as_mut().zip(thought.weights).into_iter().for_each(|(all, new)| all.push(Weights::Words(new)));
            Ok::<_, AttentionError>(thought.hidden)
        };
        for block in &self.blocks {
            if let Some(look) = &block.look {
                let (seen, new) = look.forward(words.clone(), digits.clone(), &over_digits)?;
                weights.as_mut().zip(new).into_iter().for_each(|(all, new)| all.push(Weights::Digits(new)));
                words = words + seen;
            }
            words = think(&block.think, words, weights)?;
        }
        let [batch, _, d_model] = words.dims();
        let answer = words.narrow(1, 0, 1).reshape([batch, d_model]);
        Ok(self.head.forward(self.norm.forward(answer)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::question::ANSWERS;
    use crate::scene::MOST;
    use crate::words::Vocabulary;
    use burn::tensor::{Distribution, Int, TensorData};

    fn model(looks: Looks) -> (Fuse, Batch) {
        let (device, vocabulary) = (Device::default(), Vocabulary::new());
        let config = FuseConfig::new(looks, vocabulary.tokens(), vocabulary.length, MOST, 4, ANSWERS.len());
        let tokens = vocabulary.encode("is there a seven");
        let there: Vec<bool> = tokens.iter().map(|&token| Vocabulary::is_there(token)).collect();
        let tokens: Vec<i64> = tokens.iter().map(|&token| token as i64).collect();
        let batch = Batch {
            words: Tensor::<2, Int>::from_data(TensorData::new(tokens, [1, vocabulary.length]), &device),
            is_word: Tensor::from_data(TensorData::new(there, [1, vocabulary.length]), &device),
            images: Tensor::random([1, MOST, 4], Distribution::Default, &device),
            is_digit: Tensor::from_data([[true, true, true, true, false, false]], &device),
            answers: Tensor::from_data([19], &device),
        };
        (config.with_d_model(16).init(&device).unwrap().valid(), batch)
    }

    fn numbers(tensor: Tensor<2>) -> Vec<f64> {
        tensor.into_data().iter::<f64>().collect()
    }

    #[test]
    fn what_an_answer_comes_from_is_words_and_digits_that_are_there() {
        for looks in [Looks::Soft, Looks::Hard] {
            let (model, batch) = model(looks);
            let read = model.read(&batch).unwrap();
            let (probabilities, sources) = (numbers(read.probabilities), numbers(read.sources));
            assert_eq!((probabilities.len(), sources.len()), (21, 18));
            assert!((probabilities.iter().sum::<f64>() - 1.0).abs() < 1e-5);
            // The rest went to sinks.
            assert!((0.5..1.0).contains(&sources.iter().sum::<f64>()), "{sources:?}");
            assert!(sources[..5].iter().all(|&share| share > 0.0));
            assert!(sources[5..12].iter().chain(&sources[16..]).all(|&share| share == 0.0), "{sources:?}");
            assert!(sources[12..16].iter().sum::<f64>() > 0.05);
        }
    }

    #[test]
    fn the_row_matters_unless_the_model_is_blind_and_what_fills_it_up_never_does() {
        for looks in [Looks::Soft, Looks::Hard, Looks::Blind] {
            let (model, batch) = model(looks);
            let changed = |from: usize, to: usize| {
                let images = batch.images.clone().slice_fill([0..1, from..to], 5.0);
                numbers(model.logits(&Batch { images, ..batch.clone() }).unwrap())
            };
            let logits = numbers(model.logits(&batch).unwrap());
            assert_eq!(changed(0, 4) == logits, looks == Looks::Blind, "{looks:?}");
            assert_eq!(changed(4, 6), logits, "{looks:?}");
        }
    }
}
