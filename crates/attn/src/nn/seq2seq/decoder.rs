//! A recurrent decoder that attends to a memory at every step.

use attn_core::AttentionError;
use burn::config::Config;
use burn::module::{Initializer, Module};
use burn::nn::{Dropout, DropoutConfig, Linear, LinearConfig};
use burn::tensor::{Device, Tensor};

use super::cell::{RecurrentCell, RecurrentCellConfig, RecurrentKind, RecurrentState};
use super::memory::Memory;
use super::score::{AlignmentAttention, AlignmentScore, Prepared, applied};
use crate::nn::check::{self, positive, reshaped};
use crate::nn::decoder::cache::picked;

/// When a decoder attends.
#[derive(Config, Debug, Copy, PartialEq, Eq)]
pub enum AttentionStyle {
    /// From the state before the step, whose input the context is (Bahdanau et al. 2015).
    Bahdanau,
    /// From the state after the step (Luong et al. 2015).
    Luong,
}

/// Sizes and choices of an [`AttendingDecoder`]; [`init`](Self::init) makes it.
#[derive(Config, Debug)]
pub struct AttendingDecoderConfig {
    /// Features of an embedded token.
    pub d_input: usize,
    /// Features of a state, H.
    pub d_hidden: usize,
    /// Features of the memory's keys.
    pub d_memory: usize,
    /// Features of the memory's values; `None`: as its keys.
    pub d_value: Option<usize>,
    /// Features of the output; `None`: as `d_hidden`.
    pub d_out: Option<usize>,
    /// Which cell.
    #[config(default = "RecurrentKind::Gru")]
    pub kind: RecurrentKind,
    /// Number of recurrent layers.
    #[config(default = 1)]
    pub layers: usize,
    /// When it attends.
    #[config(default = "AttentionStyle::Bahdanau")]
    pub style: AttentionStyle,
    /// How the last layer's state is compared with the memory.
    #[config(default = "AlignmentScore::Additive")]
    pub score: AlignmentScore,
    /// Features of the additive score; `None`: as `d_hidden`.
    pub d_score: Option<usize>,
    /// Whether, in Luong's style, the output is part of the next step's input.
    #[config(default = true)]
    pub input_feeding: bool,
    /// Probability of dropping a feature between two layers while training.
    #[config(default = 0.0)]
    pub dropout: f64,
    /// How the projections begin.
    #[config(default = "Initializer::KaimingUniform{gain:1.0/f64::sqrt(3.0), fan_out_only:false}")]
    pub initializer: Initializer,
}

impl AttendingDecoderConfig {
    /// Makes the decoder on a device.
    ///
    /// # Errors
    /// A value error that names the first size or probability without a meaning; `d_memory` where a dot product needs
    /// another.
    pub fn init(&self, device: &Device) -> Result<AttendingDecoder, AttentionError> {
        let (d_input, d_hidden) = (positive("d_input", self.d_input)?, positive("d_hidden", self.d_hidden)?);
        let d_memory = positive("d_memory", self.d_memory)?;
        let d_value = positive("d_value", self.d_value.unwrap_or(d_memory))?;
        let d_out = positive("d_out", self.d_out.unwrap_or(d_hidden))?;
        let d_score = positive("d_score", self.d_score.unwrap_or(d_hidden))?;
        let (d_fed, d_read, d_made) = match (self.style, self.input_feeding) {
            (AttentionStyle::Bahdanau, _) => {
                (d_value, d_hidden + d_input + d_value, check::features("d_out", 2, d_out)?)
            }
            (AttentionStyle::Luong, true) => (d_out, d_value + d_hidden, d_out),
            (AttentionStyle::Luong, false) => (0, d_value + d_hidden, d_out),
        };
        let cell = |at| {
            let d_input = if at == 0 { d_input + d_fed } else { d_hidden };
            let config = RecurrentCellConfig::new(d_input, d_hidden, self.kind);
            config.with_initializer(self.initializer.clone()).init(device)
        };
        let readout = LinearConfig::new(d_read, d_made).with_bias(self.style == AttentionStyle::Bahdanau);
        Ok(AttendingDecoder {
            cells: (0..positive("layers", self.layers)?).map(cell).collect::<Result<_, _>>()?,
            attention: AlignmentAttention::new(self.score, [d_hidden, d_memory, d_score], &self.initializer, device)?,
            readout: readout.with_initializer(self.initializer.clone()).init(device),
            dropout: DropoutConfig::new(check::probability("dropout", self.dropout)?).init(),
            style: self.style,
            feeds: self.input_feeding,
            d_input,
            d_memory,
            d_value,
        })
    }
}

/// GRU or LSTM layers that attend to a memory at every step.
///
/// ```text
/// Bahdanau   c_t = attention(s_{t−1}, memory)          s_t = cells([y_t; c_t], s_{t−1})
///            out_t = max over pairs of W·[s_t; y_t; c_t] + b
/// Luong      s_t = cells([y_t; out_{t−1}], s_{t−1})    c_t = attention(s_t, memory)
///            out_t = tanh(W·[c_t; s_t])
/// ```
///
/// y_t is the embedded token that goes in at step t, the state that attends that of the last layer, and the first
/// output fed back 0. Without input feeding Luong's cells read `y_t` alone, and one call of attention serves all steps.
/// The readout over pairs is Bahdanau's maxout layer (Goodfellow et al. 2013), here of the new state. Embeddings and
/// the projection to logits stand outside.
///
/// The additive score takes, at a step, memory in `length · d_score`; the others run on the kernels. Shapes: input
/// `[batch, target_len, d_input]`, out `[batch, target_len, d_out]`, weights `[batch, target_len, memory_len]`.
#[derive(Module, Debug)]
pub struct AttendingDecoder {
    /// First to last.
    pub cells: Vec<RecurrentCell>,
    /// From the last layer's state to the memory.
    pub attention: AlignmentAttention,
    /// W: `[H + d_input + d_value, 2·d_out]` (Bahdanau) or `[d_value + H, d_out]` (Luong).
    pub readout: Linear,
    /// Between two layers.
    pub dropout: Dropout,
    #[module(skip)]
    style: AttentionStyle,
    feeds: bool,
    d_input: usize,
    d_memory: usize,
    d_value: usize,
}

/// Where an [`AttendingDecoder`] stands: its memory, made ready, and its states. It is a value: a clone goes its own
/// way, and a call that fails leaves it as it was.
#[derive(Debug, Clone)]
pub struct AttendingState {
    memory: Prepared,
    cells: Vec<RecurrentState>,
    fed: Option<Tensor<2>>,
    sources: Vec<usize>,
    weights: bool,
}

impl AttendingState {
    /// Asks for the weights of every step to come.
    pub fn with_weights(mut self) -> Self {
        self.weights = true;
        self
    }

    /// Rows of the batch.
    pub fn batch(&self) -> usize {
        self.sources.len()
    }

    /// The recurrent states, first layer to last.
    pub fn cells(&self) -> &[RecurrentState] {
        &self.cells
    }

    /// Makes row `i` of the batch what row `rows[i]` was; see
    /// [`DecoderCache::reorder`](crate::nn::DecoderCache::reorder).
    ///
    /// # Errors
    /// Names `rows` where one does not exist.
    pub fn reorder(&mut self, rows: &[usize]) -> Result<(), AttentionError> {
        check::rows("rows", rows, self.batch())?;
        let sources: Vec<usize> = rows.iter().map(|&row| self.sources[row]).collect();
        self.cells = self.cells.iter().cloned().map(|state| state.picked(rows)).collect();
        self.fed = self.fed.take().map(|fed| picked(fed, rows));
        if sources != self.sources {
            self.memory = self.memory.clone().picked(rows);
        }
        self.sources = sources;
        Ok(())
    }
}

/// What one step of an [`AttendingDecoder`] gives.
#[derive(Debug, Clone)]
pub struct AttendingStep {
    /// `[batch, d_out]`.
    pub out: Tensor<2>,
    /// `[batch, memory_len]`; there if the state asks for weights.
    pub weights: Option<Tensor<2>>,
}

/// What an [`AttendingDecoder`] gives over several steps.
#[derive(Debug, Clone)]
pub struct AttendingOutput {
    /// `[batch, target_len, d_out]`.
    pub out: Tensor<3>,
    /// The alignment, `[batch, target_len, memory_len]`; there if the state asks for weights.
    pub weights: Option<Tensor<3>>,
}

impl AttendingDecoder {
    /// The state before the first step: over `memory`, from `initial` states of the layers or from zeros.
    ///
    /// # Errors
    /// Names `memory`, `memory_padding` or `initial`.
    pub fn start(
        &self,
        memory: &Memory,
        initial: Option<Vec<RecurrentState>>,
    ) -> Result<AttendingState, AttentionError> {
        self.check()?;
        let weight = self.readout.weight.val();
        let [batch, _] = memory.check(self.d_memory, self.d_value, &weight)?;
        if let Some(states) = &initial {
            if states.len() != self.cells.len() {
                let expected = format!("a state for each of the {} layers", self.cells.len());
                return Err(AttentionError::value("initial", expected, states.len()));
            }
            for (cell, state) in self.cells.iter().zip(states) {
                cell.check_state("initial", state, batch)?;
            }
        }
        let zeros = || self.cells.iter().map(|cell| cell.zero_state(batch)).collect();
        Ok(AttendingState {
            memory: self.attention.prepare(memory),
            cells: initial.unwrap_or_else(zeros),
            fed: self.is_fed().then(|| Tensor::zeros([batch, self.d_out()], (&weight.device(), weight.dtype()))),
            sources: (0..batch).collect(),
            weights: false,
        })
    }

    /// One step over an embedded token a row, `input` `[batch, d_input]`.
    ///
    /// # Errors
    /// Names `input`, or `state` where it is another decoder's.
    pub fn step(&self, input: Tensor<2>, state: &mut AttendingState) -> Result<AttendingStep, AttentionError> {
        let [batch, features] = input.dims();
        self.check_call(&reshaped(input.clone(), [batch, 1, features]), state)?;
        self.advance(input, state)
    }

    /// All steps over an embedded target, `input` `[batch, target_len, d_input]`: teacher forcing, where `input` is the
    /// target one token late.
    ///
    /// # Errors
    /// As [`step`](Self::step).
    pub fn forward(&self, input: Tensor<3>, state: &mut AttendingState) -> Result<AttendingOutput, AttentionError> {
        self.check_call(&input, state)?;
        let [batch, length, features] = input.dims();
        if batch * length == 0 {
            let options = (&input.device(), input.dtype());
            let weights = state.weights.then(|| Tensor::zeros([batch, length, state.memory.length()], options));
            return Ok(AttendingOutput { out: Tensor::zeros([batch, length, self.d_out()], options), weights });
        }
        if self.style == AttentionStyle::Luong && !self.feeds {
            return self.forward_unfed(input, state);
        }
        let mut next = state.clone();
        let (mut out, mut weights) = (Vec::with_capacity(length), vec![]);
        for at in 0..length {
            let made = self.advance(input.clone().narrow(1, at, 1).reshape([batch, features]), &mut next)?;
            out.push(made.out);
            weights.extend(made.weights);
        }
        *state = next;
        Ok(AttendingOutput { out: stacked(out), weights: state.weights.then(|| stacked(weights)) })
    }

    /// Features of the output.
    pub fn d_out(&self) -> usize {
        let [_, made] = self.readout.weight.val().dims();
        if self.style == AttentionStyle::Bahdanau { made / 2 } else { made }
    }

    /// Features of an embedded token.
    pub fn d_input(&self) -> usize {
        self.d_input
    }

    /// One step; the state moves only if it succeeds.
    pub(super) fn advance(
        &self,
        input: Tensor<2>,
        state: &mut AttendingState,
    ) -> Result<AttendingStep, AttentionError> {
        let (context, weights, cells, out);
        match self.style {
            AttentionStyle::Bahdanau => {
                (context, weights) = self.attend(&state.cells, state)?;
                cells = self.cells_step(joined(vec![input.clone(), context.clone()]), &state.cells);
                out = maxout(applied(&self.readout, joined(vec![top(&cells), input, context])));
            }
            AttentionStyle::Luong => {
                let fed = state.fed.iter().cloned();
                cells = self.cells_step(joined(std::iter::once(input).chain(fed).collect()), &state.cells);
                (context, weights) = self.attend(&cells, state)?;
                let read = applied(&self.readout, joined(vec![context, top(&cells)]));
                // Burn's CubeCL backend has no functions of nothing.
                out = if read.shape().num_elements() == 0 { read } else { read.tanh() };
            }
        }
        state.cells = cells;
        state.fed = state.fed.take().map(|_| out.clone());
        Ok(AttendingStep { out, weights })
    }

    /// Luong's style without input feeding: the cells first, then all steps attend at once.
    fn forward_unfed(&self, input: Tensor<3>, state: &mut AttendingState) -> Result<AttendingOutput, AttentionError> {
        let [batch, length, features] = input.dims();
        let (mut cells, mut states) = (state.cells.clone(), Vec::with_capacity(length));
        for at in 0..length {
            cells = self.cells_step(input.clone().narrow(1, at, 1).reshape([batch, features]), &cells);
            states.push(top(&cells));
        }
        let hidden: Tensor<3> = Tensor::stack(states, 1);
        let (context, weights) = self.attention.attend(hidden.clone(), &state.memory, state.weights)?;
        state.cells = cells;
        Ok(AttendingOutput { out: self.readout.forward(Tensor::cat(vec![context, hidden], 2)).tanh(), weights })
    }

    /// Context `[batch, d_value]` and weights `[batch, memory_len]` of the last layer's state.
    #[allow(clippy::type_complexity, reason = "used twice, taken apart at once")]
    fn attend(
        &self,
        cells: &[RecurrentState],
        state: &AttendingState,
    ) -> Result<(Tensor<2>, Option<Tensor<2>>), AttentionError> {
        let query = top(cells);
        let ([batch, size], length) = (query.dims(), state.memory.length());
        let query = reshaped(query, [batch, 1, size]);
        let (context, weights) = self.attention.attend(query, &state.memory, state.weights)?;
        let weights = weights.map(|weights| reshaped(weights, [batch, length]));
        Ok((reshaped(context, [batch, self.d_value]), weights))
    }

    fn cells_step(&self, mut input: Tensor<2>, states: &[RecurrentState]) -> Vec<RecurrentState> {
        let mut next = Vec::with_capacity(states.len());
        for (at, (cell, state)) in self.cells.iter().zip(states).enumerate() {
            if at > 0 {
                input = self.dropout.forward(input);
            }
            let state = cell.advance(cell.project(input), state);
            input = state.hidden.clone();
            next.push(state);
        }
        next
    }

    fn is_fed(&self) -> bool {
        self.style == AttentionStyle::Luong && self.feeds
    }

    /// The weights against each other.
    fn check(&self) -> Result<(), AttentionError> {
        let d_fed = match self.style {
            AttentionStyle::Bahdanau => self.d_value,
            AttentionStyle::Luong => {
                if self.feeds {
                    self.d_out()
                } else {
                    0
                }
            }
        };
        let mut d_input = self.d_input + d_fed;
        for cell in &self.cells {
            cell.check()?;
            check::linear("cells.input.weight", &cell.input, Some(d_input), None)?;
            d_input = cell.d_hidden();
        }
        self.attention.check(d_input, self.d_memory)?;
        let d_read = d_input + self.d_value + if self.style == AttentionStyle::Bahdanau { self.d_input } else { 0 };
        check::linear("readout.weight", &self.readout, Some(d_read), None).map(|_| ())
    }

    /// All that can be wrong with a call.
    pub(super) fn check_call(&self, input: &Tensor<3>, state: &AttendingState) -> Result<(), AttentionError> {
        self.check()?;
        let [batch, length] = check::sequence("input", input, self.d_input, &self.readout.weight.val())?;
        if batch != state.batch() {
            let expected = format!("[{}, {length}, {}] (the state's batch)", state.batch(), self.d_input);
            return Err(AttentionError::shape("input", expected, &input.dims()));
        }
        let ours = state.cells.len() == self.cells.len() && state.memory.d_value() == self.d_value;
        if !ours || state.fed.is_some() != self.is_fed() || state.memory.batch() != batch {
            return Err(AttentionError::value("state", "one that this decoder started", "another's"));
        }
        self.cells.iter().zip(&state.cells).try_for_each(|(cell, kept)| cell.check_state("state", kept, batch))
    }
}

/// The last layer's state.
fn top(cells: &[RecurrentState]) -> Tensor<2> {
    cells[cells.len() - 1].hidden.clone()
}

/// Steps `[batch, features]` as `[batch, steps, features]`, of which there is at least one.
pub(super) fn stacked(steps: Vec<Tensor<2>>) -> Tensor<3> {
    let [batch, features] = steps[0].dims();
    if batch * features == 0 {
        return Tensor::zeros([batch, steps.len(), features], (&steps[0].device(), steps[0].dtype()));
    }
    Tensor::stack(steps, 1)
}

/// Features side by side.
fn joined(parts: Vec<Tensor<2>>) -> Tensor<2> {
    let [batch, _] = parts[0].dims();
    if batch == 0 {
        let features = parts.iter().map(|part| part.dims()[1]).sum::<usize>();
        return Tensor::zeros([0, features], (&parts[0].device(), parts[0].dtype()));
    }
    Tensor::cat(parts, 1)
}

/// The greater of each two neighbours.
fn maxout(input: Tensor<2>) -> Tensor<2> {
    let [batch, features] = input.dims();
    if batch == 0 {
        return Tensor::zeros([0, features / 2], (&input.device(), input.dtype()));
    }
    input.reshape([batch, features / 2, 2]).max_dim(2).reshape([batch, features / 2])
}
