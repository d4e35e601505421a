//! Recurrent encoder: GRU or LSTM over whole sequences.

use attn_core::{AttentionError, Mask};
use burn::config::Config;
use burn::module::{Initializer, Module};
use burn::nn::{Dropout, DropoutConfig};
use burn::tensor::{Bool, Device, Tensor};

use super::cell::{RecurrentCell, RecurrentCellConfig, RecurrentKind, RecurrentState};
use super::memory::{Memory, cleaned};
use crate::nn::check::{self, positive};
use crate::nn::options::seen;

/// Which way an encoder reads.
#[derive(Config, Debug, Copy, PartialEq, Eq)]
pub enum Direction {
    /// First to last.
    Forward,
    /// Last to first.
    Backward,
    /// Both, each with weights of its own, their outputs side by side (Schuster & Paliwal 1997).
    Bidirectional,
}

impl Direction {
    /// Cells of a layer.
    pub(in crate::nn) fn count(self) -> usize {
        if self == Self::Bidirectional { 2 } else { 1 }
    }
}

/// Sizes and choices of a [`RecurrentEncoder`]; [`init`](Self::init) makes it.
#[derive(Config, Debug)]
pub struct RecurrentEncoderConfig {
    /// Features of the input.
    pub d_input: usize,
    /// Features of a state, H.
    pub d_hidden: usize,
    /// Which cell.
    pub kind: RecurrentKind,
    /// Number of layers; each reads the output of the one before.
    #[config(default = 1)]
    pub layers: usize,
    /// Which way each layer reads.
    #[config(default = "Direction::Forward")]
    pub direction: Direction,
    /// Probability of dropping a feature between two layers while training.
    #[config(default = 0.0)]
    pub dropout: f64,
    /// Whether the projections have biases.
    #[config(default = true)]
    pub bias: bool,
    /// How the projections begin.
    #[config(default = "Initializer::KaimingUniform{gain:1.0/f64::sqrt(3.0), fan_out_only:false}")]
    pub initializer: Initializer,
}

impl RecurrentEncoderConfig {
    /// Makes the encoder on a device.
    ///
    /// # Errors
    /// A value error that names the first size or probability without a meaning.
    pub fn init(&self, device: &Device) -> Result<RecurrentEncoder, AttentionError> {
        positive("layers", self.layers)?;
        let (forward, backward) = (self.direction != Direction::Backward, self.direction != Direction::Forward);
        let between = check::features("d_hidden", self.direction.count(), self.d_hidden)?;
        let layer = |at| {
            let d_input = if at == 0 { self.d_input } else { between };
            let config = RecurrentCellConfig::new(d_input, self.d_hidden, self.kind)
                .with_bias(self.bias)
                .with_initializer(self.initializer.clone());
            Ok(RecurrentLayer {
                forward: forward.then(|| config.init(device)).transpose()?,
                backward: backward.then(|| config.init(device)).transpose()?,
            })
        };
        Ok(RecurrentEncoder {
            layers: (0..self.layers).map(layer).collect::<Result<_, AttentionError>>()?,
            dropout: DropoutConfig::new(check::probability("dropout", self.dropout)?).init(),
        })
    }
}

/// One layer of a [`RecurrentEncoder`].
#[derive(Module, Debug)]
pub struct RecurrentLayer {
    /// Reads first to last.
    pub forward: Option<RecurrentCell>,
    /// Reads last to first.
    pub backward: Option<RecurrentCell>,
}

/// GRU or LSTM layers over sequences, either way or both (as the encoder of Bahdanau et al. 2015).
///
/// ```text
/// h_t = cell(x_t, h_{t−1})       from zeros; backward: from h_{t+1}
/// out_t = [h_t forward; h_t backward]
/// ```
///
/// A step of padding does not change the state, and its output is 0; so the last state is that of the last position
/// that is there, and the backward one begins there. Shapes: `[batch, length, d_input]` in, `[batch, length,
/// directions·H]` out. The input's products are made for all steps at once; the steps follow each other, `length` of
/// them a layer.
#[derive(Module, Debug)]
pub struct RecurrentEncoder {
    /// First to last.
    pub layers: Vec<RecurrentLayer>,
    /// Between two layers.
    pub dropout: Dropout,
}

/// What a [`RecurrentEncoder`] gives.
#[derive(Debug, Clone)]
pub struct RecurrentEncoderOutput {
    /// `[batch, length, directions·H]`, of the last layer.
    pub hidden: Tensor<3>,
    /// The last states: layer by layer, in a layer forward before backward.
    pub states: Vec<RecurrentState>,
    padding: Option<Mask<Tensor<2, Bool>>>,
}

impl RecurrentEncoderOutput {
    /// The output as a memory, with the padding of the input.
    pub fn memory(&self) -> Memory {
        Memory::new(self.hidden.clone()).padding(self.padding.clone())
    }
}

impl RecurrentEncoder {
    /// Reads `input` `[batch, length, d_input]`, of which `padding` `[batch, length]` hides a part, anywhere.
    ///
    /// # Errors
    /// Names `input` or `padding` whose shape, type or device does not fit.
    pub fn forward(
        &self,
        input: Tensor<3>,
        padding: Option<Mask<Tensor<2, Bool>>>,
    ) -> Result<RecurrentEncoderOutput, AttentionError> {
        self.check(&input, padding.as_ref())?;
        let hides = padding.clone().map(|padding| seen(padding).bool_not());
        let mut hidden = cleaned(input, padding.as_ref());
        let mut states = vec![];
        for (at, layer) in self.layers.iter().enumerate() {
            if at > 0 {
                hidden = self.dropout.forward(hidden);
            }
            let mut sides = vec![];
            for (cell, back) in [(&layer.forward, false), (&layer.backward, true)] {
                let Some(cell) = cell else { continue };
                let (side, state) = run(cell, hidden.clone(), hides.as_ref(), back);
                sides.push(side);
                states.push(state);
            }
            hidden = if sides.len() == 1 { sides.remove(0) } else { joined(sides) };
        }
        Ok(RecurrentEncoderOutput { hidden, states, padding })
    }

    fn check(&self, input: &Tensor<3>, padding: Option<&Mask<Tensor<2, Bool>>>) -> Result<(), AttentionError> {
        let mut features = None;
        for layer in &self.layers {
            let cells: Vec<&RecurrentCell> = [&layer.forward, &layer.backward].into_iter().flatten().collect();
            let Some(first) = cells.first() else {
                return Err(AttentionError::value("layers", "a cell for a direction in each", "none"));
            };
            let expected = features.unwrap_or(first.d_input());
            for cell in &cells {
                cell.check()?;
                check::linear("cell.input.weight", &cell.input, Some(expected), None)?;
            }
            if features.is_none() {
                check::sequence("input", input, expected, &first.input.weight.val())?;
            }
            features = Some(cells.iter().map(|cell| cell.d_hidden()).sum());
        }
        let [batch, length, _] = input.dims();
        match padding {
            Some(padding) => check::padding("padding", padding, [batch, length], &input.device()),
            None => Ok(()),
        }
    }
}

/// All steps of one cell, and its last state. `hides`: true = padding, `[batch, length]`.
fn run(
    cell: &RecurrentCell,
    input: Tensor<3>,
    hides: Option<&Tensor<2, Bool>>,
    back: bool,
) -> (Tensor<3>, RecurrentState) {
    let [batch, length, _] = input.dims();
    let (mut state, size) = (cell.zero_state(batch), cell.d_hidden());
    if batch * length == 0 {
        return (Tensor::zeros([batch, length, size], (&input.device(), input.dtype())), state);
    }
    let gates = cell.project(input);
    let width = gates.dims()[2];
    let mut steps = Vec::with_capacity(length);
    for step in 0..length {
        let at = if back { length - 1 - step } else { step };
        let mut next = cell.advance(gates.clone().narrow(1, at, 1).reshape([batch, width]), &state);
        let mut out = next.hidden.clone();
        if let Some(hides) = hides {
            let stays = hides.clone().narrow(1, at, 1).expand([batch, size]);
            next = RecurrentState {
                hidden: next.hidden.mask_where(stays.clone(), state.hidden),
                cell: next.cell.zip(state.cell).map(|(new, old)| new.mask_where(stays.clone(), old)),
            };
            out = out.mask_fill(stays, 0.0);
        }
        steps.push(out);
        state = next;
    }
    if back {
        steps.reverse();
    }
    (Tensor::stack(steps, 1), state)
}

/// Outputs side by side.
fn joined(sides: Vec<Tensor<3>>) -> Tensor<3> {
    let [batch, length, _] = sides[0].dims();
    if batch * length == 0 {
        let features = sides.iter().map(|side| side.dims()[2]).sum();
        return Tensor::zeros([batch, length, features], (&sides[0].device(), sides[0].dtype()));
    }
    Tensor::cat(sides, 2)
}
