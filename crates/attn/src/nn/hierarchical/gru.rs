//! A bidirectional GRU that steps over padding, which Burn's does not.

use attn_core::{AttentionError, Mask};
use burn::config::Config;
use burn::module::{Initializer, Module};
use burn::nn::Linear;
use burn::tensor::{Bool, Device, Tensor};

use crate::nn::check::{self, positive};
use crate::nn::functions::sigmoid;
use crate::nn::parts;

/// Sizes of a [`BidirectionalGru`]; [`init`](Self::init) makes it.
#[derive(Config, Debug)]
pub struct BidirectionalGruConfig {
    /// Features of a position, F.
    pub d_input: usize,
    /// Features of the state of each direction, U; the output has `2·U`.
    pub d_hidden: usize,
    /// Whether the linear layers have biases.
    #[config(default = true)]
    pub bias: bool,
    /// How the linear layers begin.
    #[config(default = "Initializer::XavierNormal{gain:1.0}")]
    pub initializer: Initializer,
}

impl BidirectionalGruConfig {
    /// Makes the layer on a device.
    ///
    /// # Errors
    /// A value error that names the first size without a meaning.
    pub fn init(&self, device: &Device) -> Result<BidirectionalGru, AttentionError> {
        let (d_input, d_hidden) = (positive("d_input", self.d_input)?, positive("d_hidden", self.d_hidden)?);
        let gates = check::features("d_hidden", 3, d_hidden)?;
        let linear = |d_input| parts::new_linear(d_input, gates, self.bias, &self.initializer, device);
        Ok(BidirectionalGru {
            forward_input: linear(d_input),
            forward_hidden: linear(d_hidden),
            backward_input: linear(d_input),
            backward_hidden: linear(d_hidden),
        })
    }
}

/// Gated recurrent units (Cho et al. 2014) in both directions.
///
/// ```text
/// r = σ(W_r·x_t + b_r + V_r·h + c_r)               z = σ(W_z·x_t + b_z + V_z·h + c_z)
/// n = tanh(W_n·x_t + b_n + r ∘ (V_n·h + c_n))      h ← (1 − z) ∘ n + z ∘ h
/// ```
///
/// The reset gate comes after the product, as in Burn and PyTorch; the three gates stand side by side in a weight, in PyTorch's
/// order r, z, n. The state is carried over padding unchanged, in both directions, and the output there is 0. The gates' products
/// with the inputs are one matrix product; the S steps follow one after the other.
#[derive(Module, Debug)]
pub struct BidirectionalGru {
    /// `W [F, 3·U]` and `b`, from first to last.
    pub forward_input: Linear,
    /// `V [U, 3·U]` and `c`, from first to last.
    pub forward_hidden: Linear,
    /// `W` and `b`, from last to first.
    pub backward_input: Linear,
    /// `V` and `c`, from last to first.
    pub backward_hidden: Linear,
}

impl BidirectionalGru {
    /// Gives both directions' states side by side, `[B, S, 2·U]`, for `input` `[B, S, F]`; `padding` `[B, S]` tells which
    /// positions are there.
    ///
    /// # Errors
    /// An [`AttentionError`] that names `input`, `padding` or the weights at fault, before any work starts.
    pub fn forward(
        &self,
        input: Tensor<3>,
        padding: Option<Mask<Tensor<2, Bool>>>,
    ) -> Result<Tensor<3>, AttentionError> {
        let weight = self.forward_input.weight.val();
        let [d_input, gates] = check::linear("forward_input.weight", &self.forward_input, None, None)?;
        let d_hidden = gates / 3;
        for (argument, linear, d_input) in [
            ("forward_hidden.weight", &self.forward_hidden, d_hidden),
            ("backward_input.weight", &self.backward_input, d_input),
            ("backward_hidden.weight", &self.backward_hidden, d_hidden),
        ] {
            check::linear(argument, linear, Some(d_input), Some(3 * d_hidden))?;
        }
        let [batch, length, _] = parts::check_input("input", &input, "batch, length", d_input, &weight)?;
        let check = |mask| parts::check_mask("padding", mask, [batch, length], &weight.device());
        let keep = padding.map(check).transpose()?;
        if batch * length == 0 {
            return Ok(Tensor::zeros([batch, length, 2 * d_hidden], (&weight.device(), weight.dtype())));
        }
        let input = parts::without_padding(input, keep.as_ref());
        let forward = run(&self.forward_input, &self.forward_hidden, input.clone(), keep.as_ref(), false);
        let backward = run(&self.backward_input, &self.backward_hidden, input, keep.as_ref(), true);
        Ok(parts::without_padding(Tensor::cat(vec![forward, backward], 2), keep.as_ref()))
    }

    /// Features of the output, `2·U`.
    pub fn d_output(&self) -> usize {
        2 * self.forward_hidden.weight.val().dims()[0]
    }
}

/// One direction: the states `[B, S, U]`, in the order of the positions.
fn run(
    of_input: &Linear,
    of_hidden: &Linear,
    input: Tensor<3>,
    keep: Option<&Tensor<2, Bool>>,
    reversed: bool,
) -> Tensor<3> {
    let [batch, length, _] = input.dims();
    let [d_hidden, _] = of_hidden.weight.val().dims();
    let (device, dtype) = (input.device(), input.dtype());
    let projected = parts::linear(of_input, input);
    let gate = |tensor: &Tensor<2>, index: usize| tensor.clone().narrow(1, index * d_hidden, d_hidden);
    let mut state = Tensor::<2>::zeros([batch, d_hidden], (&device, dtype));
    let mut states = Vec::with_capacity(length);
    for step in 0..length {
        let at = if reversed { length - 1 - step } else { step };
        let x = projected.clone().narrow(1, at, 1).squeeze_dim::<2>(1);
        let h = parts::linear(of_hidden, state.clone());
        let reset = sigmoid(gate(&x, 0) + gate(&h, 0));
        let update = sigmoid(gate(&x, 1) + gate(&h, 1));
        let new = (gate(&x, 2) + reset * gate(&h, 2)).tanh();
        let next = new.clone() + update * (state.clone() - new);
        state = match keep {
            Some(keep) => state.mask_where(keep.clone().narrow(1, at, 1).expand::<2, _>([batch, d_hidden]), next),
            None => next,
        };
        states.push(state.clone());
    }
    if reversed {
        states.reverse();
    }
    Tensor::stack(states, 1)
}
