//! Hierarchical attention: words make sentences, sentences a document, each level by an encoder and attention pooling.

mod pool;

use attn_core::{AttentionError, Mask};
use burn::config::Config;
use burn::module::Module;
use burn::tensor::{Bool, Device, Tensor};

use super::encoder::{TransformerEncoder, TransformerEncoderConfig};
use super::options::AttentionOptions;
use super::parts;
use super::seq2seq::{Direction, RecurrentEncoder, RecurrentEncoderConfig, RecurrentKind};

pub use pool::{AttentionPool, AttentionPoolConfig, AttentionPoolOutput};

/// What makes the positions of one level know of each other.
#[derive(Config, Debug)]
pub enum SequenceEncoderConfig {
    /// A recurrent network; a bidirectional GRU in the paper.
    Recurrent(RecurrentEncoderConfig),
    /// A transformer encoder. It knows no positions: add them to its inputs.
    Transformer(Box<TransformerEncoderConfig>),
}

impl SequenceEncoderConfig {
    /// Makes the encoder on a device.
    ///
    /// # Errors
    /// As the config inside.
    pub fn init(&self, device: &Device) -> Result<SequenceEncoder, AttentionError> {
        Ok(match self {
            Self::Recurrent(config) => SequenceEncoder::Recurrent(config.init(device)?),
            Self::Transformer(config) => SequenceEncoder::Transformer(config.init(device)?),
        })
    }

    /// Features in and out.
    fn sizes(&self) -> [usize; 2] {
        match self {
            Self::Recurrent(config) => [config.d_input, config.d_hidden.saturating_mul(config.direction.count())],
            Self::Transformer(config) => [config.layer.d_model; 2],
        }
    }
}

/// An encoder of one level.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant, reason = "a module holds two of them, not many")]
pub enum SequenceEncoder {
    /// A recurrent network.
    Recurrent(RecurrentEncoder),
    /// A transformer encoder.
    Transformer(TransformerEncoder),
}

impl SequenceEncoder {
    /// Carries `input` `[B, S, F]` through the encoder; `padding` `[B, S]` tells which positions are there.
    ///
    /// # Errors
    /// As the encoder inside.
    pub fn forward(
        &self,
        input: Tensor<3>,
        padding: Option<Mask<Tensor<2, Bool>>>,
    ) -> Result<Tensor<3>, AttentionError> {
        match self {
            Self::Recurrent(encoder) => Ok(encoder.forward(input, padding)?.hidden),
            Self::Transformer(encoder) => {
                let options = AttentionOptions::new();
                let options = padding.map_or(options.clone(), |padding| options.key_padding(padding));
                Ok(encoder.forward(input, &options)?.hidden)
            }
        }
    }
}

/// Encoders and poolings of a [`HierarchicalAttention`]; [`init`](Self::init) makes it.
///
/// [`gru`](Self::gru) gives the one of the paper.
#[derive(Config, Debug)]
pub struct HierarchicalAttentionConfig {
    /// Over the words of a sentence.
    pub word_encoder: SequenceEncoderConfig,
    /// Of words into a sentence; takes what the word encoder gives.
    pub word_pool: AttentionPoolConfig,
    /// Over the sentences of a document; takes what the word pooling gives.
    pub sentence_encoder: SequenceEncoderConfig,
    /// Of sentences into the document; takes what the sentence encoder gives.
    pub sentence_pool: AttentionPoolConfig,
}

impl HierarchicalAttentionConfig {
    /// The network of Yang et al. 2016: words of `d_input` features, GRUs of `d_hidden` features in each direction, contexts of
    /// `d_attention`. (They took 200, 50 and 100.)
    pub fn gru(d_input: usize, d_hidden: usize, d_attention: usize) -> Self {
        let both = d_hidden.saturating_mul(2);
        let encoder = |d_input| {
            let config = RecurrentEncoderConfig::new(d_input, d_hidden, RecurrentKind::Gru);
            SequenceEncoderConfig::Recurrent(config.with_direction(Direction::Bidirectional))
        };
        let pool = AttentionPoolConfig::new(both, d_attention);
        Self::new(encoder(d_input), pool.clone(), encoder(both), pool)
    }

    /// Makes the network on a device.
    ///
    /// # Errors
    /// As the four configs; and a value error that names `word_pool`, `sentence_encoder` or `sentence_pool` where it does not take
    /// what comes before it.
    pub fn init(&self, device: &Device) -> Result<HierarchicalAttention, AttentionError> {
        let [_, words] = self.word_encoder.sizes();
        let [sentence, sentences] = self.sentence_encoder.sizes();
        for (argument, expected, found) in [
            ("word_pool", words, self.word_pool.d_input),
            ("sentence_encoder", self.word_pool.d_output(), sentence),
            ("sentence_pool", sentences, self.sentence_pool.d_input),
        ] {
            if found != expected {
                return Err(AttentionError::value(argument, format!("an input of {expected} features"), found));
            }
        }
        Ok(HierarchicalAttention {
            word_encoder: self.word_encoder.init(device)?,
            word_pool: self.word_pool.init(device)?,
            sentence_encoder: self.sentence_encoder.init(device)?,
            sentence_pool: self.sentence_pool.init(device)?,
        })
    }
}

/// Hierarchical attention network (Yang et al. 2016).
///
/// Axes: B documents, L sentences, T words, F features of a word.
///
/// ```text
/// s_l = pool_words( encoder_words( words of sentence l ) )       [B, L, _]
/// d   = pool_sentences( encoder_sentences( s_1 … s_L ) )         [B, _]
/// ```
///
/// A sentence without words is padding of the upper level: weight 0, no influence. A document without sentences is 0. All B·L
/// sentences are one batch; each level costs what its encoder and its [`AttentionPool`] cost.
///
/// ```
/// use attn::nn::HierarchicalAttentionConfig;
/// use burn::tensor::{Device, Distribution, Tensor};
///
/// # fn main() -> Result<(), attn::AttentionError> {
/// let device = Device::default();
/// let network = HierarchicalAttentionConfig::gru(16, 8, 12).init(&device)?;
/// // [batch, sentences, words, features]
/// let words = Tensor::<4>::random([2, 3, 7, 16], Distribution::Default, &device);
/// let output = network.forward(words, None)?;
/// assert_eq!(output.document.dims(), [2, 16]); // 8 features from either direction
/// assert_eq!(output.word_weights.dims(), [2, 3, 1, 7]);
/// # Ok(())
/// # }
/// ```
#[derive(Module, Debug)]
pub struct HierarchicalAttention {
    /// Over the words of a sentence.
    pub word_encoder: SequenceEncoder,
    /// Of words into a sentence.
    pub word_pool: AttentionPool,
    /// Over the sentences of a document.
    pub sentence_encoder: SequenceEncoder,
    /// Of sentences into the document.
    pub sentence_pool: AttentionPool,
}

/// What a [`HierarchicalAttention`] gives.
#[derive(Debug, Clone)]
pub struct HierarchicalAttentionOutput {
    /// `d`, `[B, features]`.
    pub document: Tensor<2>,
    /// `s`, `[B, L, features]`.
    pub sentences: Tensor<3>,
    /// What each word weighs in its sentence, `[B, L, heads, T]`.
    pub word_weights: Tensor<4>,
    /// What each sentence weighs in the document, `[B, heads, L]`.
    pub sentence_weights: Tensor<3>,
}

impl HierarchicalAttention {
    /// Reads `words` `[B, L, T, F]`; `padding` `[B, L, T]` tells which words are there.
    ///
    /// # Errors
    /// An [`AttentionError`] that names `words`, `padding` or the weights at fault.
    pub fn forward(
        &self,
        words: Tensor<4>,
        padding: Option<Mask<Tensor<3, Bool>>>,
    ) -> Result<HierarchicalAttentionOutput, AttentionError> {
        let [batch, lines, length, features] = words.dims();
        let device = self.word_pool.context.val().device();
        self.check(&words)?;
        let check = |mask| parts::check_mask("padding", mask, [batch, lines, length], &device);
        let keep = padding.map(check).transpose()?;
        let words = parts::without_padding(words, keep.as_ref());
        let words = parts::reshaped(words, [batch * lines, length, features]);
        let seen = keep.clone().filter(|_| batch * lines * length > 0);
        let seen = seen.map(|keep| Mask::keep(keep.reshape([batch * lines, length])));

        let encoded = self.word_encoder.forward(words, seen.clone())?;
        let pooled = self.word_pool.forward(encoded, seen)?;
        let [_, heads, _] = pooled.weights.dims();
        let [_, d_sentence] = pooled.pooled.dims();
        let sentences = parts::reshaped(pooled.pooled, [batch, lines, d_sentence]);

        let there = match keep {
            _ if batch * lines == 0 => None,
            _ if length == 0 => Some(Tensor::<2>::zeros([batch, lines], &device).greater_elem(0.0)),
            keep => keep.map(|keep| keep.any_dim(2).reshape([batch, lines])),
        };
        let there = there.map(Mask::keep);
        let encoded = self.sentence_encoder.forward(sentences.clone(), there.clone())?;
        let document = self.sentence_pool.forward(encoded, there)?;
        Ok(HierarchicalAttentionOutput {
            document: document.pooled,
            sentences,
            word_weights: parts::reshaped(pooled.weights, [batch, lines, heads, length]),
            sentence_weights: document.weights,
        })
    }

    /// The words against the first weights that take them, so that an error says `words`.
    fn check(&self, words: &Tensor<4>) -> Result<(), AttentionError> {
        let linear = match &self.word_encoder {
            SequenceEncoder::Recurrent(encoder) => {
                let cells = encoder.layers.first().map(|layer| layer.forward.as_ref().or(layer.backward.as_ref()));
                cells.flatten().map(|cell| &cell.input)
            }
            SequenceEncoder::Transformer(encoder) => encoder.layers.first().map(|layer| &layer.linear_inner),
        };
        // Without a layer it takes anything.
        let Some(linear) = linear else { return Ok(()) };
        let weight = linear.weight.val();
        let [features, _] = weight.dims();
        parts::check_input("words", words, "batch, sentences, words", features, &weight).map(|_| ())
    }
}
