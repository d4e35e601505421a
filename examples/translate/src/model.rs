//! A recurrent network that reads a sequence and writes another, attending at every step: Bahdanau et al. 2015, or Luong et al. 2015.

use attn::AttentionError;
use attn::nn::generate::{GreedySearch, RecurrentSteps};
use attn::nn::seq2seq::{
    AlignmentScore, AttendingDecoder, AttendingDecoderConfig, AttendingState, AttentionStyle, Direction,
    RecurrentEncoder, RecurrentEncoderConfig, RecurrentKind, StateBridge, StateBridgeConfig, length_padding,
};
use burn::config::Config;
use burn::module::Module;
use burn::nn::{Dropout, DropoutConfig, Embedding, EmbeddingConfig, Linear, LinearConfig};
use burn::tensor::{Device, Int, Tensor};

use crate::text::{BEGIN, END};

/// How a state of the decoder is compared with what was read.
#[derive(Config, Debug, Copy, PartialEq, Eq)]
pub enum Score {
    /// `v·tanh(W q + U k)`, from the state before a step (Bahdanau et al. 2015).
    Additive,
    /// `q·k`, from the state after it (Luong et al. 2015).
    Dot,
}

impl Score {
    /// Its name, for people and folders.
    pub fn name(self) -> &'static str {
        match self {
            Self::Additive => "additive",
            Self::Dot => "dot",
        }
    }
}

/// Sizes of a [`Translator`].
#[derive(Config, Debug)]
pub struct TranslatorConfig {
    /// Tokens of sources.
    pub sources: usize,
    /// Tokens of targets.
    pub targets: usize,
    /// How states are compared.
    pub score: Score,
    /// Features of a state of the decoder, and of what was read of a token: half of them each way.
    pub d_hidden: usize,
    /// Features of an embedded token.
    #[config(default = 32)]
    pub d_token: usize,
    /// Probability of dropping a feature of a token and of an output while training.
    #[config(default = 0.0)]
    pub dropout: f64,
}

impl TranslatorConfig {
    /// Makes the model.
    ///
    /// # Errors
    /// A value error that names the size without a meaning.
    pub fn init(&self, device: &Device) -> Result<Translator, AttentionError> {
        let (each, kind) = (self.d_hidden / 2, RecurrentKind::Gru);
        let (style, score) = match self.score {
            Score::Additive => (AttentionStyle::Bahdanau, AlignmentScore::Additive),
            Score::Dot => (AttentionStyle::Luong, AlignmentScore::Dot),
        };
        Ok(Translator {
            source: EmbeddingConfig::new(self.sources, self.d_token).init(device),
            target: EmbeddingConfig::new(self.targets, self.d_token).init(device),
            encoder: RecurrentEncoderConfig::new(self.d_token, each, kind)
                .with_direction(Direction::Bidirectional)
                .init(device)?,
            bridge: StateBridgeConfig::new(each, 2, self.d_hidden, kind).init(device)?,
            decoder: AttendingDecoderConfig::new(self.d_token, self.d_hidden, 2 * each)
                .with_style(style)
                .with_score(score)
                .init(device)?,
            head: LinearConfig::new(self.d_hidden, self.targets).init(device),
            dropout: DropoutConfig::new(self.dropout).init(),
        })
    }
}

/// Tokens to tokens.
///
/// ```text
/// memory = GRUs over the embedded source, first to last and last to first
/// logits = W · decoder(embedded target, memory) + b        the target one token late
/// ```
#[derive(Module, Debug)]
pub struct Translator {
    source: Embedding,
    target: Embedding,
    encoder: RecurrentEncoder,
    bridge: StateBridge,
    decoder: AttendingDecoder,
    head: Linear,
    dropout: Dropout,
}

impl Translator {
    /// Logits `[batch, target_len, targets]` of the next token after each of `target` `[batch, target_len]`, for sources
    /// `[batch, source_len]` of some lengths. This is teacher forcing: what goes in is the true target.
    ///
    /// # Errors
    /// An error that names what does not fit.
    pub fn logits(
        &self,
        source: Tensor<2, Int>,
        lengths: &[usize],
        target: Tensor<2, Int>,
    ) -> Result<Tensor<3>, AttentionError> {
        let mut state = self.read(source, lengths)?;
        let output = self.decoder.forward(self.dropout.forward(self.target.forward(target)), &mut state)?;
        Ok(self.head.forward(self.dropout.forward(output.out)))
    }

    /// What the model makes of each source by greedy search, at most `longest` tokens, the end included.
    ///
    /// # Errors
    /// An error that names what does not fit.
    pub fn translate(
        &self,
        source: Tensor<2, Int>,
        lengths: &[usize],
        longest: usize,
    ) -> Result<Vec<Vec<usize>>, AttentionError> {
        let state = self.read(source, lengths)?;
        let (embed, project) = (|ids| self.target.forward(ids), |out| self.head.forward(out));
        let steps = RecurrentSteps::new(&self.decoder, state, vec![BEGIN; lengths.len()], embed, project)?;
        let found = GreedySearch::new(END, longest).run(&steps)?;
        Ok(found.into_iter().map(|hypothesis| hypothesis.tokens).collect())
    }

    /// The alignment `[batch, target_len, source_len]`: how much of each source token is read for the token after each of `target`.
    ///
    /// # Errors
    /// An error that names what does not fit.
    pub fn alignment(
        &self,
        source: Tensor<2, Int>,
        lengths: &[usize],
        target: Tensor<2, Int>,
    ) -> Result<Tensor<3>, AttentionError> {
        let mut state = self.read(source, lengths)?.with_weights();
        let output = self.decoder.forward(self.target.forward(target), &mut state)?;
        output.weights.ok_or_else(|| AttentionError::value("weights", "those that were asked for", "none"))
    }

    /// The decoder's state before its first step.
    fn read(&self, source: Tensor<2, Int>, lengths: &[usize]) -> Result<AttendingState, AttentionError> {
        let [_, longest] = source.dims();
        let padding = length_padding(lengths, longest, &source.device())?;
        let output = self.encoder.forward(self.dropout.forward(self.source.forward(source)), Some(padding))?;
        self.decoder.start(&output.memory(), Some(self.bridge.forward(&output.states)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::padded;
    use burn::tensor::Tolerance;

    #[test]
    fn padding_has_no_influence_and_alignments_sum_to_one() {
        let device = Device::default();
        for score in [Score::Additive, Score::Dot] {
            let model = TranslatorConfig::new(9, 7, score, 8).init(&device).unwrap();
            let (target, _) = padded(&[vec![BEGIN, 4, 5]], 3, &device);
            let rows = [vec![4, 5, 6, END]];
            let ((short, lengths), (long, _)) = (padded(&rows, 4, &device), padded(&rows, 6, &device));
            let logits = |source| model.logits(source, &lengths, target.clone()).unwrap().into_data();
            logits(short).assert_approx_eq::<f32>(&logits(long.clone()), Tolerance::absolute(1e-5));
            let alignment = model.alignment(long, &lengths, target.clone()).unwrap();
            assert_eq!(alignment.dims(), [1, 3, 6]);
            for row in alignment.into_data().iter::<f32>().collect::<Vec<_>>().chunks(6) {
                assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-5 && row[4..] == [0.0, 0.0], "{row:?}");
            }
        }
    }

    #[test]
    fn greedy_search_takes_the_greatest_logit_of_every_step() {
        let device = Device::default();
        let model = TranslatorConfig::new(9, 7, Score::Dot, 8).init(&device).unwrap();
        let (source, lengths) = padded(&[vec![4, 5, END], vec![8, END]], 3, &device);
        let found = model.translate(source.clone(), &lengths, 5).unwrap();
        for (row, tokens) in found.iter().enumerate() {
            let fed: Vec<usize> = [vec![BEGIN], tokens[..tokens.len() - 1].to_vec()].concat();
            let (fed, _) = padded(&[fed], tokens.len(), &device);
            let source = source.clone().narrow(0, row, 1);
            let best = model.logits(source, &lengths[row..=row], fed).unwrap().argmax(2);
            assert_eq!(best.into_data().iter::<i64>().map(|token| token as usize).collect::<Vec<_>>(), *tokens);
        }
    }

    #[test]
    fn sizes_without_a_meaning_are_named() {
        let error = TranslatorConfig::new(9, 7, Score::Dot, 1).init(&Device::default()).unwrap_err().to_string();
        assert!(error.contains("d_hidden"), "{error}");
    }
}
