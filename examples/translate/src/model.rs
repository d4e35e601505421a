//! A recurrent network that reads a sequence and writes another, attending at every step: Bahdanau et al. 2015, or Luong et al. 2015.

use attn::AttentionError;
use attn::nn::generate::{BeamSearch, GreedySearch, LengthPenalty};
use attn::nn::seq2seq::{
    AlignmentScore, AttendingDecoder, AttendingDecoderConfig, AttendingState, AttentionStyle, Direction,
    RecurrentEncoder, RecurrentEncoderConfig, RecurrentKind, StateBridge, StateBridgeConfig, length_padding,
};
use burn::config::Config;
use burn::module::Module;
use burn::nn::{Dropout, DropoutConfig, Embedding, EmbeddingConfig, Linear, LinearConfig};
use burn::tensor::activation::{log_softmax, sigmoid};
use burn::tensor::{Device, Int, Tensor};

use crate::steps::Steps;
use crate::text::END;

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
    /// Whether it may copy what it reads; sources and targets have the same tokens then.
    #[config(default = false)]
    pub copies: bool,
}

impl TranslatorConfig {
    /// Makes the model.
    ///
    /// # Errors
    /// A value error that names the size without a meaning.
    pub fn init(&self, device: &Device) -> Result<Translator, AttentionError> {
        if self.copies && self.sources != self.targets {
            return Err(AttentionError::value("targets", format!("{}, as sources", self.sources), self.targets));
        }
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
            gate: self.copies.then(|| LinearConfig::new(self.d_hidden, 1).init(device)),
            dropout: DropoutConfig::new(self.dropout).init(),
        })
    }
}

/// Tokens to tokens.
///
/// ```text
/// memory = GRUs over the embedded source, first to last and last to first
/// out, a = decoder(embedded target, memory)                the target one token late; a is the alignment
/// p      = softmax(W · out + b)
/// ```
/// One that copies is a pointer-generator (See et al. 2017): it writes a token of its vocabulary, or points at one that it reads.
///
/// ```text
/// p(t)   = g · softmax(W · out + b)(t) + (1 − g) · (sum of a over places where the source is t),   g = σ(w · out + c)
/// ```
#[derive(Module, Debug)]
pub struct Translator {
    source: Embedding,
    target: Embedding,
    encoder: RecurrentEncoder,
    bridge: StateBridge,
    decoder: AttendingDecoder,
    head: Linear,
    gate: Option<Linear>,
    dropout: Dropout,
}

/// A source that was read.
#[derive(Debug, Clone)]
pub struct Reading {
    /// Where the decoder stands.
    pub state: AttendingState,
    /// Which token stands where, `[batch, source_len, sources]`, for one that copies.
    pub places: Option<Tensor<3>>,
}

impl Translator {
    /// Log-probabilities `[batch, target_len, targets]` of the next token after each of `target` `[batch, target_len]`, for sources
    /// `[batch, source_len]` of some lengths. This is teacher forcing: what goes in is the true target.
    ///
    /// # Errors
    /// An error that names what does not fit.
    pub fn log_probs(
        &self,
        source: Tensor<2, Int>,
        lengths: &[usize],
        target: Tensor<2, Int>,
    ) -> Result<Tensor<3>, AttentionError> {
        self.write(target, &mut self.read(source, lengths)?)
    }

    /// What [`log_probs`](Self::log_probs) says after reading; the state goes on.
    ///
    /// # Errors
    /// An error that names what does not fit.
    pub fn write(&self, target: Tensor<2, Int>, reading: &mut Reading) -> Result<Tensor<3>, AttentionError> {
        let target = self.dropout.forward(self.target.forward(target));
        let output = self.decoder.forward(target, &mut reading.state)?;
        let out = self.dropout.forward(output.out);
        let written = log_softmax(self.head.forward(out.clone()), 2);
        let (Some(gate), Some(places), Some(weights)) = (&self.gate, &reading.places, output.weights) else {
            return Ok(written);
        };
        let gate = sigmoid(gate.forward(out));
        let copied = weights.matmul(places.clone()) * (gate.clone().neg() + 1.0);
        // Away from 0, where the logarithm has no gradient.
        Ok((written.exp() * gate + copied).clamp_min(1e-6).log())
    }

    /// What the model makes of each source, at most `longest` tokens, the end included: by greedy search, or by beam search for more than
    /// one beam.
    ///
    /// # Errors
    /// An error that names what does not fit.
    pub fn translate(
        &self,
        source: Tensor<2, Int>,
        lengths: &[usize],
        longest: usize,
        beams: usize,
    ) -> Result<Vec<Vec<usize>>, AttentionError> {
        let steps = Steps { model: self, reading: self.read(source, lengths)?, rows: lengths.len() };
        if beams == 1 {
            let found = GreedySearch::new(END, longest).run(&steps)?;
            return Ok(found.into_iter().map(|hypothesis| hypothesis.tokens).collect());
        }
        // By the mean of a token, so that leaving out does not pay.
        let search = BeamSearch::new(END, longest, beams).with_penalty(LengthPenalty::Power { alpha: 1.0 });
        let best = search.run(&steps)?.into_iter().map(|found| found.into_iter().next().map(|best| best.tokens));
        Ok(best.map(Option::unwrap_or_default).collect())
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
        let mut state = self.read(source, lengths)?.state.with_weights();
        let output = self.decoder.forward(self.target.forward(target), &mut state)?;
        output.weights.ok_or_else(|| AttentionError::value("weights", "those that were asked for", "none"))
    }

    /// Where it lies.
    pub fn device(&self) -> Device {
        self.head.weight.val().device()
    }

    /// The decoder's state before its first step.
    fn read(&self, source: Tensor<2, Int>, lengths: &[usize]) -> Result<Reading, AttentionError> {
        let [_, longest] = source.dims();
        let padding = length_padding(lengths, longest, &source.device())?;
        let embedded = self.dropout.forward(self.source.forward(source.clone()));
        let output = self.encoder.forward(embedded, Some(padding))?;
        let state = self.decoder.start(&output.memory(), Some(self.bridge.forward(&output.states)?))?;
        let [tokens, _] = self.source.weight.val().dims();
        Ok(match self.gate {
            Some(_) => Reading { state: state.with_weights(), places: Some(source.one_hot::<3>(tokens).float()) },
            None => Reading { state, places: None },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::padded;
    use crate::text::BEGIN;
    use burn::tensor::Tolerance;

    #[test]
    fn padding_has_no_influence_and_alignments_sum_to_one() {
        let device = Device::default();
        for score in [Score::Additive, Score::Dot] {
            let model = TranslatorConfig::new(9, 7, score, 8).init(&device).unwrap();
            let (target, _) = padded(&[vec![BEGIN, 4, 5]], 3, &device);
            let rows = [vec![4, 5, 6, END]];
            let ((short, lengths), (long, _)) = (padded(&rows, 4, &device), padded(&rows, 6, &device));
            let logits = |source| model.log_probs(source, &lengths, target.clone()).unwrap().into_data();
            logits(short).assert_approx_eq::<f32>(&logits(long.clone()), Tolerance::absolute(1e-5));
            let alignment = model.alignment(long, &lengths, target.clone()).unwrap();
            assert_eq!(alignment.dims(), [1, 3, 6]);
            for row in alignment.into_data().iter::<f32>().collect::<Vec<_>>().chunks(6) {
                assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-5 && row[4..] == [0.0, 0.0], "{row:?}");
            }
        }
    }

    #[test]
    fn greedy_search_takes_the_most_probable_token_of_every_step() {
        let device = Device::default();
        for (score, copies) in [(Score::Dot, false), (Score::Additive, true)] {
            let model = TranslatorConfig::new(9, 9, score, 8).with_copies(copies).init(&device).unwrap();
            let (source, lengths) = padded(&[vec![4, 5, END], vec![END], vec![8, END]], 3, &device);
            let found = model.translate(source.clone(), &lengths, 5, 1).unwrap();
            assert_eq!(model.translate(source.clone(), &lengths, 5, 2).unwrap().len(), 3);
            for (row, tokens) in found.iter().enumerate() {
                let fed: Vec<usize> = [vec![BEGIN], tokens[..tokens.len() - 1].to_vec()].concat();
                let (fed, _) = padded(&[fed], tokens.len(), &device);
                let source = source.clone().narrow(0, row, 1);
                let best = model.log_probs(source, &lengths[row..=row], fed).unwrap().argmax(2);
                assert_eq!(best.into_data().iter::<i64>().map(|token| token as usize).collect::<Vec<_>>(), *tokens);
            }
        }
    }

    #[test]
    fn one_that_copies_writes_or_points() {
        let device = Device::default();
        let mut model = TranslatorConfig::new(9, 9, Score::Additive, 8).with_copies(true).init(&device).unwrap();
        let (source, lengths) = padded(&[vec![7, 8, 7, END]], 4, &device);
        let (target, _) = padded(&[vec![BEGIN, 4]], 2, &device);
        let probabilities = |model: &Translator| {
            let log_probs = model.log_probs(source.clone(), &lengths, target.clone()).unwrap();
            log_probs.exp().into_data().iter::<f32>().collect::<Vec<_>>()
        };
        for row in probabilities(&model).chunks(9) {
            assert!((row.iter().sum::<f32>() - 1.0).abs() < 2e-5, "{row:?}");
        }
        // With the gate shut it points, and 7 stands in two places.
        let alignment = model.alignment(source.clone(), &lengths, target.clone()).unwrap();
        let alignment: Vec<f32> = alignment.into_data().iter::<f32>().collect();
        if let Some(bias) = model.gate.as_mut().and_then(|gate| gate.bias.as_mut()) {
            *bias = burn::module::Param::from_tensor(Tensor::from_floats([-50.0], &device));
        }
        for (row, weights) in probabilities(&model).chunks(9).zip(alignment.chunks(4)) {
            for (token, expected) in [(7, weights[0] + weights[2]), (8, weights[1]), (END, weights[3]), (4, 0.0)] {
                assert!((row[token] - expected).abs() < 2e-6, "{token}: {row:?}, {weights:?}");
            }
        }
    }

    #[test]
    fn sizes_without_a_meaning_are_named() {
        let error = TranslatorConfig::new(9, 7, Score::Dot, 1).init(&Device::default()).unwrap_err().to_string();
        assert!(error.contains("d_hidden"), "{error}");
        let apart = TranslatorConfig::new(9, 7, Score::Dot, 8).with_copies(true).init(&Device::default());
        assert!(apart.unwrap_err().to_string().contains("targets"));
    }
}
