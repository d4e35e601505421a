//! The decoders of this library as models that generate.

use std::fmt;

use attn_core::AttentionError;
use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Int, Tensor, TensorData};

use super::StepModel;
use crate::nn::check;
use crate::nn::seq2seq::{AttendingDecoder, AttendingState};
use crate::nn::{DecoderCache, DecoderOptions, TransformerDecoder};

/// A [`TransformerDecoder`] with its cache, an embedding and a projection to logits.
///
/// `embed` turns tokens `[rows, 1]` and their position into `[rows, 1, d_model]`; `project` turns `[rows, 1, d_model]`
/// into logits `[rows, 1, vocabulary]`. The position is the number of tokens in the cache, padding included.
pub struct TransformerSteps<'a, E, P> {
    decoder: &'a TransformerDecoder,
    cache: DecoderCache,
    first: Vec<usize>,
    options: DecoderOptions,
    embed: E,
    project: P,
}

impl<E, P> fmt::Debug for TransformerSteps<'_, E, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TransformerSteps")
            .field("cache", &self.cache)
            .field("first", &self.first)
            .finish_non_exhaustive()
    }
}

impl<'a, E, P> TransformerSteps<'a, E, P>
where
    E: Fn(Tensor<2, Int>, usize) -> Tensor<3>,
    P: Fn(Tensor<3>) -> Tensor<3>,
{
    /// Generates after what is in the cache and the `first` token of each of its rows. A prompt goes into the cache
    /// beforehand, by [`TransformerDecoder::forward_cached`], all but its last token, which is the first here.
    ///
    /// # Errors
    /// Names `first` where there is not one for each row of the cache.
    pub fn new(
        decoder: &'a TransformerDecoder,
        cache: DecoderCache,
        first: Vec<usize>,
        embed: E,
        project: P,
    ) -> Result<Self, AttentionError> {
        one_a_row(&first, cache.batch())?;
        Ok(Self { decoder, cache, first, options: DecoderOptions::new(), embed, project })
    }

    /// Sets the options of every step, as a window or biases.
    pub fn with_options(mut self, options: DecoderOptions) -> Self {
        self.options = options;
        self
    }
}

impl<E, P> StepModel for TransformerSteps<'_, E, P>
where
    E: Fn(Tensor<2, Int>, usize) -> Tensor<3>,
    P: Fn(Tensor<3>) -> Tensor<3>,
{
    type State = DecoderCache;

    fn start(&self) -> Result<(Vec<usize>, DecoderCache), AttentionError> {
        Ok((self.first.clone(), self.cache.clone()))
    }

    fn step(&self, tokens: &[usize], mut cache: DecoderCache) -> Result<(Tensor<2>, DecoderCache), AttentionError> {
        let device = match self.decoder.layers.first() {
            Some(layer) => check::device(&layer.linear_inner),
            None => return Err(AttentionError::value("layers", "at least 1", 0)),
        };
        let input = (self.embed)(column(tokens, &device), cache.len());
        one_step(&input, tokens.len())?;
        let output = self.decoder.forward_cached(input, &mut cache, &self.options)?;
        Ok((log_probs((self.project)(output.hidden), tokens.len())?, cache))
    }

    fn reorder(&self, mut cache: DecoderCache, rows: &[usize]) -> Result<DecoderCache, AttentionError> {
        cache.reorder(rows)?;
        Ok(cache)
    }
}

/// An [`AttendingDecoder`] with its state, an embedding and a projection to logits.
///
/// `embed` turns tokens `[rows, 1]` into `[rows, 1, d_input]`; `project` turns `[rows, 1, d_out]` into logits
/// `[rows, 1, vocabulary]`.
pub struct RecurrentSteps<'a, E, P> {
    decoder: &'a AttendingDecoder,
    state: AttendingState,
    first: Vec<usize>,
    embed: E,
    project: P,
}

impl<E, P> fmt::Debug for RecurrentSteps<'_, E, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecurrentSteps").field("state", &self.state).field("first", &self.first).finish_non_exhaustive()
    }
}

impl<'a, E, P> RecurrentSteps<'a, E, P>
where
    E: Fn(Tensor<2, Int>) -> Tensor<3>,
    P: Fn(Tensor<3>) -> Tensor<3>,
{
    /// Generates from `state` and the `first` token of each of its rows.
    ///
    /// # Errors
    /// Names `first` where there is not one for each row of the state.
    pub fn new(
        decoder: &'a AttendingDecoder,
        state: AttendingState,
        first: Vec<usize>,
        embed: E,
        project: P,
    ) -> Result<Self, AttentionError> {
        one_a_row(&first, state.batch())?;
        Ok(Self { decoder, state, first, embed, project })
    }
}

impl<E, P> StepModel for RecurrentSteps<'_, E, P>
where
    E: Fn(Tensor<2, Int>) -> Tensor<3>,
    P: Fn(Tensor<3>) -> Tensor<3>,
{
    type State = AttendingState;

    fn start(&self) -> Result<(Vec<usize>, AttendingState), AttentionError> {
        Ok((self.first.clone(), self.state.clone()))
    }

    fn step(&self, tokens: &[usize], mut state: AttendingState) -> Result<(Tensor<2>, AttendingState), AttentionError> {
        let input = (self.embed)(column(tokens, &check::device(&self.decoder.readout)));
        one_step(&input, tokens.len())?;
        let output = self.decoder.forward(input, &mut state)?;
        Ok((log_probs((self.project)(output.out), tokens.len())?, state))
    }

    fn reorder(&self, mut state: AttendingState, rows: &[usize]) -> Result<AttendingState, AttentionError> {
        state.reorder(rows)?;
        Ok(state)
    }
}

fn one_a_row(first: &[usize], rows: usize) -> Result<(), AttentionError> {
    match first.len() == rows {
        true => Ok(()),
        false => Err(AttentionError::value("first", format!("a token for each of the {rows} rows"), first.len())),
    }
}

/// Tokens `[rows, 1]`.
fn column(tokens: &[usize], device: &Device) -> Tensor<2, Int> {
    let tokens: Vec<i64> = tokens.iter().map(|&token| token as i64).collect();
    let shape = [tokens.len(), 1];
    Tensor::from_data(TensorData::new(tokens, shape), device)
}

/// One embedded token a row.
fn one_step(input: &Tensor<3>, rows: usize) -> Result<(), AttentionError> {
    let [found, steps, features] = input.dims();
    match [found, steps] == [rows, 1] {
        true => Ok(()),
        false => Err(AttentionError::shape("embed", format!("[{rows}, 1, {features}] out"), &input.dims())),
    }
}

/// Log-probabilities `[rows, vocabulary]` of logits `[rows, 1, vocabulary]`.
fn log_probs(logits: Tensor<3>, rows: usize) -> Result<Tensor<2>, AttentionError> {
    let [found, steps, vocabulary] = logits.dims();
    if [found, steps] != [rows, 1] || vocabulary == 0 {
        return Err(AttentionError::shape("project", format!("[{rows}, 1, vocabulary] out"), &logits.dims()));
    }
    Ok(log_softmax(logits.reshape([rows, vocabulary]), 1))
}
