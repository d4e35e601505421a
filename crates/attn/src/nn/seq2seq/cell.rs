//! GRU and LSTM cells: one step of a recurrent network.

use attn_core::AttentionError;
use burn::config::Config;
use burn::module::{Initializer, Module};
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Device, Tensor};

use crate::attention::{check_devices, check_dtypes};
use crate::nn::check::{self, positive};
use crate::nn::decoder::cache::picked;
use crate::nn::functions::sigmoid;

/// Which cell.
#[derive(Config, Debug, Copy, PartialEq, Eq)]
pub enum RecurrentKind {
    /// Gated recurrent unit (Cho et al. 2014), the reset gate after the product, as in cuDNN and PyTorch.
    Gru,
    /// Long short-term memory (Hochreiter & Schmidhuber 1997, forget gate by Gers et al. 2000).
    Lstm,
}

impl RecurrentKind {
    /// Blocks of the projections, `hidden` features each.
    fn gates(self) -> usize {
        match self {
            Self::Gru => 3,
            Self::Lstm => 4,
        }
    }
}

/// Sizes of a [`RecurrentCell`]; [`init`](Self::init) makes it.
#[derive(Config, Debug)]
pub struct RecurrentCellConfig {
    /// Features of the input.
    pub d_input: usize,
    /// Features of the state, H.
    pub d_hidden: usize,
    /// Which cell.
    pub kind: RecurrentKind,
    /// Whether both projections have biases.
    #[config(default = true)]
    pub bias: bool,
    /// How the projections begin.
    #[config(default = "Initializer::KaimingUniform{gain:1.0/f64::sqrt(3.0), fan_out_only:false}")]
    pub initializer: Initializer,
}

impl RecurrentCellConfig {
    /// Makes the cell on a device.
    ///
    /// # Errors
    /// A value error that names the size that is 0.
    pub fn init(&self, device: &Device) -> Result<RecurrentCell, AttentionError> {
        let (d_input, d_hidden) = (positive("d_input", self.d_input)?, positive("d_hidden", self.d_hidden)?);
        let d_output = check::features("d_hidden", self.kind.gates(), d_hidden)?;
        let linear = |d_input| {
            let config = LinearConfig::new(d_input, d_output).with_bias(self.bias);
            config.with_initializer(self.initializer.clone()).init(device)
        };
        Ok(RecurrentCell { input: linear(d_input), hidden: linear(d_hidden), kind: self.kind })
    }
}

/// A GRU or LSTM cell.
///
/// ```text
/// GRU    r, z = σ(W x + b + U h + c)           blocks r, z of the projections
///        n = tanh(W x + b + r ⊙ (U h + c))     block n
///        h' = (1 − z) ⊙ n + z ⊙ h
/// LSTM   i, f, o = σ(W x + b + U h + c)        blocks i, f, o
///        g = tanh(W x + b + U h + c)           block g
///        m' = f ⊙ m + i ⊙ g                    the cell
///        h' = o ⊙ tanh(m')
/// ```
///
/// The blocks stand side by side in PyTorch's order: r, z, n and i, f, g, o.
#[derive(Module, Debug)]
pub struct RecurrentCell {
    /// `W [d_input, blocks·H]`, `b`.
    pub input: Linear,
    /// `U [H, blocks·H]`, `c`.
    pub hidden: Linear,
    #[module(skip)]
    kind: RecurrentKind,
}

/// What a [`RecurrentCell`] carries from step to step.
#[derive(Debug, Clone)]
pub struct RecurrentState {
    /// h `[batch, H]`.
    pub hidden: Tensor<2>,
    /// m `[batch, H]`, of an LSTM.
    pub cell: Option<Tensor<2>>,
}

impl RecurrentState {
    /// Rows of the batch, any number of times.
    pub(super) fn picked(self, rows: &[usize]) -> Self {
        Self { hidden: picked(self.hidden, rows), cell: self.cell.map(|cell| picked(cell, rows)) }
    }
}

impl RecurrentCell {
    /// Carries `state` over one `input` `[batch, d_input]`.
    ///
    /// # Errors
    /// Names `input` or `state` whose shape, type or device does not fit.
    pub fn step(&self, input: Tensor<2>, state: &RecurrentState) -> Result<RecurrentState, AttentionError> {
        self.check()?;
        let [batch, features] = input.dims();
        check::sequence(
            "input",
            &check::reshaped(input.clone(), [batch, 1, features]),
            self.d_input(),
            &self.input.weight.val(),
        )?;
        self.check_state("state", state, batch)?;
        Ok(self.advance(self.project(input), state))
    }

    /// The state before the first step: zeros.
    pub fn zero_state(&self, batch: usize) -> RecurrentState {
        let weight = self.hidden.weight.val();
        let zeros = || Tensor::zeros([batch, self.d_hidden()], (&weight.device(), weight.dtype()));
        RecurrentState { hidden: zeros(), cell: (self.kind == RecurrentKind::Lstm).then(zeros) }
    }

    /// Features of the input.
    pub fn d_input(&self) -> usize {
        self.input.weight.val().dims()[0]
    }

    /// Features of the state, H.
    pub fn d_hidden(&self) -> usize {
        self.hidden.weight.val().dims()[0]
    }

    /// Which cell it is.
    pub fn kind(&self) -> RecurrentKind {
        self.kind
    }

    /// The input's part of the gates: `x·W + b`, for one step or for all of them.
    pub(super) fn project<const D: usize>(&self, input: Tensor<D>) -> Tensor<D> {
        let mut dims = input.dims();
        if dims.contains(&0) {
            dims[D - 1] = self.input.weight.val().dims()[1];
            return Tensor::zeros(dims, (&input.device(), input.dtype()));
        }
        self.input.forward(input)
    }

    /// One step, given the input's part of the gates `[batch, blocks·H]`. What it is given must have been checked.
    pub(super) fn advance(&self, of_input: Tensor<2>, state: &RecurrentState) -> RecurrentState {
        if of_input.dims()[0] == 0 {
            return state.clone();
        }
        let size = self.d_hidden();
        let of_hidden = self.hidden.forward(state.hidden.clone());
        let block = |gates: &Tensor<2>, at: usize| gates.clone().narrow(1, at * size, size);
        let both = |at| block(&of_input, at) + block(&of_hidden, at);
        match (self.kind, &state.cell) {
            (RecurrentKind::Lstm, Some(cell)) => {
                let (input, forget, output) = (sigmoid(both(0)), sigmoid(both(1)), sigmoid(both(3)));
                let cell = forget * cell.clone() + input * both(2).tanh();
                RecurrentState { hidden: output * cell.clone().tanh(), cell: Some(cell) }
            }
            _ => {
                let (reset, update) = (sigmoid(both(0)), sigmoid(both(1)));
                let new = (block(&of_input, 2) + reset * block(&of_hidden, 2)).tanh();
                RecurrentState { hidden: new.clone() + update * (state.hidden.clone() - new), cell: None }
            }
        }
    }

    /// The two projections against each other.
    pub(super) fn check(&self) -> Result<(), AttentionError> {
        let [size, _] = check::linear("cell.hidden.weight", &self.hidden, None, None)?;
        check::linear("cell.hidden.weight", &self.hidden, Some(size), Some(self.kind.gates() * size))?;
        check::linear("cell.input.weight", &self.input, None, Some(self.kind.gates() * size)).map(|_| ())
    }

    /// A state for this cell and batch.
    pub(super) fn check_state(
        &self,
        argument: &'static str,
        state: &RecurrentState,
        batch: usize,
    ) -> Result<(), AttentionError> {
        if state.cell.is_some() != (self.kind == RecurrentKind::Lstm) {
            let found = if state.cell.is_some() { "one with" } else { "one without" };
            return Err(AttentionError::value(argument, "a cell exactly for an LSTM", found));
        }
        let (weight, wanted) = (self.hidden.weight.val(), [batch, self.d_hidden()]);
        for tensor in [Some(&state.hidden), state.cell.as_ref()].into_iter().flatten() {
            if tensor.dims() != wanted {
                return Err(AttentionError::shape(argument, format!("{wanted:?} (batch, d_hidden)"), &tensor.dims()));
            }
            check_devices(&weight.device(), &[(argument, Some(tensor.device()))])?;
            check_dtypes(argument, weight.dtype(), &[(argument, tensor.dtype())])?;
        }
        Ok(())
    }
}
