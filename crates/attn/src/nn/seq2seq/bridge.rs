//! From an encoder's last states to a decoder's first.

use attn_core::AttentionError;
use burn::config::Config;
use burn::module::{Initializer, Module};
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Device, Tensor};

use super::cell::{RecurrentKind, RecurrentState};
use crate::attention::{check_devices, check_dtypes};
use crate::nn::check::{self, positive};

/// Sizes of a [`StateBridge`]; [`init`](Self::init) makes it.
#[derive(Config, Debug)]
pub struct StateBridgeConfig {
    /// Features of a state of the encoder.
    pub d_encoder: usize,
    /// States of the encoder: its layers times its directions.
    pub states: usize,
    /// Features of a state of the decoder, H.
    pub d_hidden: usize,
    /// Cell of the decoder.
    pub kind: RecurrentKind,
    /// Layers of the decoder.
    #[config(default = 1)]
    pub layers: usize,
    /// How the projections begin.
    #[config(default = "Initializer::KaimingUniform{gain:1.0/f64::sqrt(3.0), fan_out_only:false}")]
    pub initializer: Initializer,
}

impl StateBridgeConfig {
    /// Makes the bridge on a device.
    ///
    /// # Errors
    /// A value error that names the size that is 0.
    pub fn init(&self, device: &Device) -> Result<StateBridge, AttentionError> {
        let (states, d_encoder) = (positive("states", self.states)?, positive("d_encoder", self.d_encoder)?);
        let (layers, d_hidden) = (positive("layers", self.layers)?, positive("d_hidden", self.d_hidden)?);
        let d_input = check::features("d_encoder", states, d_encoder)?;
        let d_output = check::features("d_hidden", layers, d_hidden)?;
        let linear = || LinearConfig::new(d_input, d_output).with_initializer(self.initializer.clone()).init(device);
        Ok(StateBridge { hidden: linear(), cell: (self.kind == RecurrentKind::Lstm).then(linear), layers, states })
    }
}

/// Makes a decoder's first states of an encoder's last ones (Bahdanau et al. 2015, where it is `tanh(W_s · h_1)` of the
/// backward encoder alone).
///
/// ```text
/// [h_1; …; h_layers] = tanh(W · [encoder's h, all states] + b)
/// [m_1; …; m_layers] = V · [encoder's m, or h where it has none] + c         for an LSTM
/// ```
#[derive(Module, Debug)]
pub struct StateBridge {
    /// `W [states·d_encoder, layers·H]`, `b`.
    pub hidden: Linear,
    /// `V [states·d_encoder, layers·H]`, `c`, of an LSTM.
    pub cell: Option<Linear>,
    layers: usize,
    states: usize,
}

impl StateBridge {
    /// The decoder's states, first layer to last, of the encoder's.
    ///
    /// # Errors
    /// Names `states` whose number, shape, type or device does not fit.
    pub fn forward(&self, states: &[RecurrentState]) -> Result<Vec<RecurrentState>, AttentionError> {
        if states.len() != self.states {
            return Err(AttentionError::value("states", format!("{} of them", self.states), states.len()));
        }
        let joined =
            |pick: fn(&RecurrentState) -> &Tensor<2>| Tensor::cat(states.iter().map(pick).cloned().collect(), 1);
        self.check(states)?;
        if states[0].hidden.dims()[0] == 0 {
            return Ok(self.empty(&states[0].hidden));
        }
        let hidden = self.hidden.forward(joined(|state| &state.hidden)).tanh();
        let cell = self
            .cell
            .as_ref()
            .map(|linear| linear.forward(joined(|state| state.cell.as_ref().unwrap_or(&state.hidden))));
        let size = hidden.dims()[1] / self.layers;
        let part = |tensor: &Tensor<2>, at: usize| tensor.clone().narrow(1, at * size, size);
        let state = |at| RecurrentState { hidden: part(&hidden, at), cell: cell.as_ref().map(|cell| part(cell, at)) };
        Ok((0..self.layers).map(state).collect())
    }

    /// The states of an empty batch.
    fn empty(&self, like: &Tensor<2>) -> Vec<RecurrentState> {
        let size = self.hidden.weight.val().dims()[1] / self.layers;
        let zeros = || Tensor::zeros([0, size], (&like.device(), like.dtype()));
        (0..self.layers)
            .map(|_| RecurrentState { hidden: zeros(), cell: self.cell.as_ref().map(|_| zeros()) })
            .collect()
    }

    fn check(&self, states: &[RecurrentState]) -> Result<(), AttentionError> {
        let [d_input, d_output] = check::linear("hidden.weight", &self.hidden, None, None)?;
        if let Some(cell) = &self.cell {
            check::linear("cell.weight", cell, Some(d_input), Some(d_output))?;
        }
        let weight = self.hidden.weight.val();
        let wanted = [states[0].hidden.dims()[0], d_input / self.states];
        for tensor in states.iter().flat_map(|state| [Some(&state.hidden), state.cell.as_ref()]).flatten() {
            if tensor.dims() != wanted {
                return Err(AttentionError::shape("states", format!("{wanted:?} (batch, d_encoder)"), &tensor.dims()));
            }
            check_devices(&weight.device(), &[("states", Some(tensor.device()))])?;
            check_dtypes("states", weight.dtype(), &[("states", tensor.dtype())])?;
        }
        Ok(())
    }
}
