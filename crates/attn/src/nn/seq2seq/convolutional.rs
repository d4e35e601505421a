//! Convolutional encoder: gated convolutions in place of recurrence.

use attn_core::{AttentionError, Mask};
use burn::config::Config;
use burn::module::{Initializer, Module, Param};
use burn::nn::conv::{Conv1d, Conv1dConfig};
use burn::nn::{Dropout, DropoutConfig, Linear, LinearConfig, PaddingConfig1d};
use burn::tensor::{Bool, Device, Int, Tensor};

use super::memory::{Memory, cleaned};
use crate::nn::check::{self, positive};
use crate::nn::functions::glu;
use crate::nn::options::seen;

/// Sizes and choices of a [`ConvolutionalEncoder`]; [`init`](Self::init) makes it.
#[derive(Config, Debug)]
pub struct ConvolutionalEncoderConfig {
    /// Features of the input and of the output.
    pub d_input: usize,
    /// Features between the convolutions, H.
    pub d_hidden: usize,
    /// Number of convolutions.
    pub layers: usize,
    /// Width of a convolution, odd: a position sees `(kernel_size − 1) / 2` to each side, and so much more a layer.
    #[config(default = 3)]
    pub kernel_size: usize,
    /// Positions that have an embedding.
    #[config(default = 1024)]
    pub max_length: usize,
    /// Probability of dropping a feature of the embedded input and of a convolution's input while training.
    #[config(default = 0.0)]
    pub dropout: f64,
    /// How convolutions and projections begin.
    #[config(default = "Initializer::KaimingUniform{gain:1.0/f64::sqrt(3.0), fan_out_only:false}")]
    pub initializer: Initializer,
    /// How position embeddings begin.
    #[config(default = "Initializer::Normal{mean:0.0, std:0.1}")]
    pub position_initializer: Initializer,
}

impl ConvolutionalEncoderConfig {
    /// Makes the encoder on a device.
    ///
    /// # Errors
    /// A value error that names the first size or probability without a meaning.
    pub fn init(&self, device: &Device) -> Result<ConvolutionalEncoder, AttentionError> {
        let (d_input, d_hidden) = (positive("d_input", self.d_input)?, positive("d_hidden", self.d_hidden)?);
        if self.kernel_size.is_multiple_of(2) {
            return Err(AttentionError::value("kernel_size", "an odd number", self.kernel_size));
        }
        let max_length = positive("max_length", self.max_length)?;
        let d_gated = check::features("d_hidden", 2, d_hidden)?;
        let convolution = |_| {
            let config = Conv1dConfig::new(d_hidden, d_gated, self.kernel_size).with_padding(PaddingConfig1d::Same);
            config.with_initializer(self.initializer.clone()).init(device)
        };
        let linear = |d_input, d_output| {
            LinearConfig::new(d_input, d_output).with_initializer(self.initializer.clone()).init(device)
        };
        Ok(ConvolutionalEncoder {
            positions: self.position_initializer.init([max_length, d_input], device),
            linear_in: linear(d_input, d_hidden),
            convolutions: (0..positive("layers", self.layers)?).map(convolution).collect(),
            linear_out: linear(d_hidden, d_input),
            dropout: DropoutConfig::new(check::probability("dropout", self.dropout)?).init(),
        })
    }
}

/// The encoder of the convolutional sequence-to-sequence model (Gehring et al. 2017).
///
/// ```text
/// e    = x + P[position]                                             [batch, length, d_input]
/// h_0  = e·W_in + b_in                                               [batch, length, H]
/// h_l  = √½ · (h_{l−1} + a ⊙ σ(g)),   a, g = conv_l(h_{l−1})         gated linear unit (Dauphin et al. 2017)
/// key  = h_L·W_out + b_out            value = √½ · (key + e)         [batch, length, d_input]
/// ```
///
/// A decoder compares itself with the keys and sums the values. Padding is 0 before every convolution, and positions
/// count what is there; so padding on either side changes nothing for the rest. √½ keeps the variance of a sum of two,
/// as in the paper's code; weight normalisation, which trains the same functions, is left to the optimiser. All
/// positions are made at once, in time `length · kernel_size · H²` a layer.
#[derive(Module, Debug)]
pub struct ConvolutionalEncoder {
    /// P `[max_length, d_input]`.
    pub positions: Param<Tensor<2>>,
    /// `W_in [d_input, H]`.
    pub linear_in: Linear,
    /// From H to 2·H channels: a, then g.
    pub convolutions: Vec<Conv1d>,
    /// `W_out [H, d_input]`.
    pub linear_out: Linear,
    /// Of the embedded input and of a convolution's input.
    pub dropout: Dropout,
}

impl ConvolutionalEncoder {
    /// Encodes `input` `[batch, length, d_input]`, of which `padding` `[batch, length]` hides a part, as a memory with
    /// that padding.
    ///
    /// # Errors
    /// Names `input` (also where it is longer than the positions) or `padding`.
    pub fn forward(&self, input: Tensor<3>, padding: Option<Mask<Tensor<2, Bool>>>) -> Result<Memory, AttentionError> {
        self.check(&input, padding.as_ref())?;
        if input.shape().num_elements() == 0 {
            return Ok(Memory::new(input).padding(padding));
        }
        let hidden_where = padding.as_ref();
        let embedded = cleaned(input.clone() + self.embedded(&input, hidden_where), hidden_where);
        let embedded = self.dropout.forward(embedded);
        let half = 0.5f64.sqrt();
        let mut hidden = self.linear_in.forward(embedded.clone());
        for convolution in &self.convolutions {
            let entered = cleaned(self.dropout.forward(hidden.clone()), hidden_where);
            let gated = glu(convolution.forward(entered.swap_dims(1, 2)).swap_dims(1, 2));
            hidden = (hidden + gated).mul_scalar(half);
        }
        let key = self.linear_out.forward(hidden);
        let value = (key.clone() + embedded).mul_scalar(half);
        Ok(Memory::with_values(cleaned(key, hidden_where), cleaned(value, hidden_where)).padding(padding))
    }

    /// The embeddings of the positions, `[1 or batch, length, d_input]`.
    fn embedded(&self, input: &Tensor<3>, padding: Option<&Mask<Tensor<2, Bool>>>) -> Tensor<3> {
        let [batch, length, features] = input.dims();
        let table = self.positions.val();
        let Some(padding) = padding else {
            return table.narrow(0, 0, length).reshape([1, length, features]);
        };
        let counted: Tensor<2, Int> = seen(padding.clone()).int().cumsum(1).sub_scalar(1).clamp_min(0);
        table.select(0, counted.reshape([batch * length])).reshape([batch, length, features])
    }

    fn check(&self, input: &Tensor<3>, padding: Option<&Mask<Tensor<2, Bool>>>) -> Result<(), AttentionError> {
        let [d_input, size] = check::linear("linear_in.weight", &self.linear_in, None, None)?;
        check::linear("linear_out.weight", &self.linear_out, Some(size), Some(d_input))?;
        let [max_length, found] = self.positions.val().dims();
        if found != d_input {
            return Err(AttentionError::shape("positions", format!("[max_length, {d_input}]"), &[max_length, found]));
        }
        for convolution in &self.convolutions {
            let (found, wanted) = (convolution.weight.val().dims(), [2 * size, size, convolution.kernel_size]);
            let bias = convolution.bias.as_ref().map(|bias| bias.val().dims());
            if found != wanted || bias.is_some_and(|bias| bias != [2 * size]) {
                return Err(AttentionError::shape("convolutions", format!("{wanted:?} and a bias for it"), &found));
            }
        }
        let [batch, length] = check::sequence("input", input, d_input, &self.linear_in.weight.val())?;
        if length > max_length {
            return Err(AttentionError::value("input", format!("at most {max_length} positions (max_length)"), length));
        }
        match padding {
            Some(padding) => check::padding("padding", padding, [batch, length], &input.device()),
            None => Ok(()),
        }
    }
}
