//! Transformer encoder: one block, pre- or post-norm, and a stack of blocks.

use attn_core::{AttentionError, Plan};
use burn::config::Config;
use burn::module::{Initializer, Module};
use burn::nn::{Dropout, DropoutConfig, LayerNorm, LayerNormConfig, Linear, LinearConfig};
use burn::tensor::{Device, Tensor, activation};

use super::check::{self, positive};
use super::functions;
use super::multi_head::{MultiHeadAttention, MultiHeadAttentionConfig};
use super::options::AttentionOptions;
use super::position::{DistanceRule, RelativeBias, RelativeBiasConfig};

/// Where a block normalises.
#[derive(Config, Debug, Copy, PartialEq, Eq)]
pub enum NormPlacement {
    /// Before each sublayer, `x + f(norm(x))`: trains without warm-up (Xiong et al. 2020).
    Pre,
    /// After each residual sum, `norm(x + f(x))`: the original (Vaswani et al. 2017), and BERT.
    Post,
}

/// The function between the two linear layers of a block.
#[derive(Config, Debug, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x · Φ(x)` with the exact normal distribution function (Hendrycks & Gimpel 2016).
    Gelu,
    /// GELU by its tanh approximation, as in GPT-2.
    GeluTanh,
    /// `max(x, 0)`.
    Relu,
    /// `x · σ(x)`, also called swish.
    Silu,
}

impl Activation {
    /// The two linear layers of a block and this between them. An input without elements comes back as it is.
    pub(super) fn feed_forward(self, inner: &Linear, outer: &Linear, hidden: Tensor<3>) -> Tensor<3> {
        match hidden.shape().num_elements() {
            0 => hidden,
            _ => outer.forward(self.apply(inner.forward(hidden))),
        }
    }

    pub(super) fn apply<const D: usize>(self, input: Tensor<D>) -> Tensor<D> {
        match self {
            Self::Gelu => functions::gelu(input),
            Self::GeluTanh => activation::gelu_approximate(input),
            Self::Relu => activation::relu(input),
            Self::Silu => functions::silu(input),
        }
    }
}

/// Sizes and choices of a [`TransformerEncoderLayer`]; [`init`](Self::init) makes it.
#[derive(Config, Debug)]
pub struct TransformerEncoderLayerConfig {
    /// Features of a position.
    pub d_model: usize,
    /// Query heads.
    pub heads: usize,
    /// Features between the two linear layers; four times `d_model` is usual.
    pub d_ff: usize,
    /// Key/value heads; `None`: as `heads`.
    pub kv_heads: Option<usize>,
    /// Where the block normalises.
    #[config(default = "NormPlacement::Post")]
    pub norm: NormPlacement,
    /// Between the two linear layers.
    #[config(default = "Activation::Gelu")]
    pub activation: Activation,
    /// Probability of dropping a feature of a sublayer's output while training, before the residual sum.
    #[config(default = 0.0)]
    pub dropout: f64,
    /// Probability of dropping an attention weight while training; see [`MultiHeadAttention`] for what it costs.
    #[config(default = 0.0)]
    pub attention_dropout: f64,
    /// Added to the variance under the root of a layer norm.
    #[config(default = 1e-5)]
    pub layer_norm_epsilon: f64,
    /// Whether the linear layers have biases.
    #[config(default = true)]
    pub bias: bool,
    /// How the linear layers begin.
    #[config(default = "Initializer::KaimingUniform{gain:1.0/f64::sqrt(3.0), fan_out_only:false}")]
    pub initializer: Initializer,
    /// The attention with all its options: positions, norms, sinks and others. Begin with
    /// [`attention_config`](Self::attention_config), which `None` stands for. Its `heads`, its inputs and output must be the block's;
    /// `kv_heads` and `attention_dropout` here must be as there, or left out.
    pub attention: Option<MultiHeadAttentionConfig>,
}

impl TransformerEncoderLayerConfig {
    /// The attention that the fields describe, where `attention` is not given; to be changed and given there.
    ///
    /// ```
    /// use attn::nn::{RotaryConfig, RotaryLayout, TransformerEncoderLayerConfig};
    /// use burn::tensor::Device;
    ///
    /// # fn main() -> Result<(), attn::AttentionError> {
    /// let config = TransformerEncoderLayerConfig::new(64, 4, 256);
    /// let attention = config.attention_config().with_rotary(Some(RotaryConfig::new(16, RotaryLayout::Half)));
    /// let layer = config.with_attention(Some(attention)).init(&Device::default())?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn attention_config(&self) -> MultiHeadAttentionConfig {
        MultiHeadAttentionConfig::new(self.d_model, self.heads)
            .with_kv_heads(self.kv_heads)
            .with_biases(self.bias)
            .with_dropout(self.attention_dropout)
            .with_initializer(self.initializer.clone())
    }

    /// Makes the block on a device.
    ///
    /// # Errors
    /// A value error that names the first size or probability without a meaning, or `attention` where it does not fit the block.
    pub fn init(&self, device: &Device) -> Result<TransformerEncoderLayer, AttentionError> {
        let (d_model, d_ff) = (positive("d_model", self.d_model)?, positive("d_ff", self.d_ff)?);
        let epsilon = check::epsilon("layer_norm_epsilon", self.layer_norm_epsilon)?;
        check::probability("attention_dropout", self.attention_dropout)?;
        let attention =
            MultiHeadAttentionConfig::of_block(self.attention.as_ref(), self.attention_config())?.init(device)?;
        let norm = || LayerNormConfig::new(d_model).with_epsilon(epsilon).init(device);
        let linear = |d_input, d_output| {
            let config = LinearConfig::new(d_input, d_output).with_bias(self.bias);
            config.with_initializer(self.initializer.clone()).init(device)
        };
        Ok(TransformerEncoderLayer {
            attention,
            attention_norm: norm(),
            linear_inner: linear(d_model, d_ff),
            linear_outer: linear(d_ff, d_model),
            feed_forward_norm: norm(),
            dropout: DropoutConfig::new(check::probability("dropout", self.dropout)?).init(),
            placement: self.norm,
            activation: self.activation,
        })
    }
}

/// One block of a transformer encoder: self-attention, then two linear layers, each with a residual sum.
///
/// ```text
/// ff(x)      = W_outer · activation(W_inner · x + b_inner) + b_outer
/// post-norm:   y = norm_a(x + attention(x))         out = norm_f(y + ff(y))
/// pre-norm:    y = x + attention(norm_a(x))         out = y + ff(norm_f(y))
/// ```
///
/// Shapes: `[batch, length, d_model]` in and out.
#[derive(Module, Debug)]
pub struct TransformerEncoderLayer {
    /// Self-attention.
    pub attention: MultiHeadAttention,
    /// `norm_a`.
    pub attention_norm: LayerNorm,
    /// `W_inner [d_model, d_ff]`.
    pub linear_inner: Linear,
    /// `W_outer [d_ff, d_model]`.
    pub linear_outer: Linear,
    /// `norm_f`.
    pub feed_forward_norm: LayerNorm,
    /// Of a sublayer's output.
    pub dropout: Dropout,
    #[module(skip)]
    placement: NormPlacement,
    #[module(skip)]
    activation: Activation,
}

/// What a [`TransformerEncoderLayer`] gives.
#[derive(Debug, Clone)]
pub struct EncoderLayerOutput {
    /// `[batch, length, d_model]`.
    pub hidden: Tensor<3>,
    /// `[batch, heads, length]`, the LSE of the attention's scores; there if it was asked for.
    pub lse: Option<Tensor<3>>,
    /// `[batch, selected heads, selected rows, length]`; there if they were asked for.
    pub weights: Option<Tensor<4>>,
}

impl TransformerEncoderLayer {
    /// Carries `hidden` `[batch, length, d_model]` through the block.
    ///
    /// # Errors
    /// An [`AttentionError`] that names `hidden` or the option at fault, before any work starts.
    pub fn forward(&self, hidden: Tensor<3>, options: &AttentionOptions) -> Result<EncoderLayerOutput, AttentionError> {
        self.check(&hidden)?;
        let pre = self.placement == NormPlacement::Pre;
        let before = |norm: &LayerNorm, x: Tensor<3>| if pre { normalise(norm, x) } else { x };
        let after = |norm: &LayerNorm, x: Tensor<3>| if pre { x } else { normalise(norm, x) };

        let attended = self.attention.self_attention(before(&self.attention_norm, hidden.clone()), options)?;
        let hidden = after(&self.attention_norm, hidden + self.dropout.forward(attended.out));
        let fed = self.activation.feed_forward(
            &self.linear_inner,
            &self.linear_outer,
            before(&self.feed_forward_norm, hidden.clone()),
        );
        let hidden = after(&self.feed_forward_norm, hidden + self.dropout.forward(fed));
        Ok(EncoderLayerOutput { hidden, lse: attended.lse, weights: attended.weights })
    }

    /// Tells which kernels will serve the block's attention on `hidden`, and at what cost. Only its projections run.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn plan(&self, hidden: Tensor<3>, options: &AttentionOptions) -> Result<Plan, AttentionError> {
        self.check(&hidden)?;
        self.attention.plan_self_attention(hidden, options)
    }

    /// The input against the weights, and the weights against each other.
    fn check(&self, hidden: &Tensor<3>) -> Result<(), AttentionError> {
        let [d_model, d_ff] = check::linear("linear_inner.weight", &self.linear_inner, None, None)?;
        check::linear("linear_outer.weight", &self.linear_outer, Some(d_ff), Some(d_model))?;
        check::linear("output.weight", &self.attention.output, None, Some(d_model))?;
        check::norm("attention_norm", &self.attention_norm, d_model)?;
        check::norm("feed_forward_norm", &self.feed_forward_norm, d_model)?;
        check::sequence("hidden", hidden, d_model, &self.linear_inner.weight.val())?;
        Ok(())
    }
}

/// Sizes and choices of a [`TransformerEncoder`]; [`init`](Self::init) makes it.
#[derive(Config, Debug)]
pub struct TransformerEncoderConfig {
    /// Every block is made alike.
    pub layer: TransformerEncoderLayerConfig,
    /// Number of blocks.
    pub layers: usize,
    /// Whether one more layer norm ends the stack; `None`: with pre-norm yes, with post-norm no, as in their papers.
    pub final_norm: Option<bool>,
    /// Sets of parameters, a divisor of `layers`: so many blocks in a row share a set. `None`: each block has its own; 1 is
    /// ALBERT (Lan et al. 2020).
    pub groups: Option<usize>,
    /// One table of biases by distance for all blocks, as in T5, where `layer.attention` has none of its own.
    pub relative_bias: Option<DistanceRule>,
}

impl TransformerEncoderConfig {
    /// Makes the stack on a device.
    ///
    /// # Errors
    /// As [`TransformerEncoderLayerConfig::init`], and a value error that names `layers` if there are none, `groups` if they do not
    /// divide them, or what the relative bias names.
    pub fn init(&self, device: &Device) -> Result<TransformerEncoder, AttentionError> {
        let layers = positive("layers", self.layers)?;
        let groups = positive("groups", self.groups.unwrap_or(layers))?;
        if layers % groups != 0 {
            return Err(AttentionError::value("groups", format!("a divisor of the {layers} layers"), groups));
        }
        if self.relative_bias.is_some() && self.layer.attention.as_ref().is_some_and(|a| a.relative_bias.is_some()) {
            return Err(AttentionError::value("relative_bias", "none beside that of layer.attention", "some"));
        }
        let bias = |rule| RelativeBiasConfig::new(self.layer.heads, rule).init(device);
        let relative_bias = self.relative_bias.map(bias).transpose()?;
        let repeats = layers / groups;
        let mut layers = (0..groups).map(|_| self.layer.init(device)).collect::<Result<Vec<_>, _>>()?;
        // Clones share the tables of rotary positions.
        let rotary = layers[0].attention.rotary.clone();
        layers.iter_mut().for_each(|layer| layer.attention.rotary.clone_from(&rotary));
        let ends_with_norm = self.final_norm.unwrap_or(self.layer.norm == NormPlacement::Pre);
        let norm = LayerNormConfig::new(self.layer.d_model).with_epsilon(self.layer.layer_norm_epsilon);
        Ok(TransformerEncoder { layers, norm: ends_with_norm.then(|| norm.init(device)), relative_bias, repeats })
    }
}

/// A stack of [`TransformerEncoderLayer`]s, and a last layer norm where the config asks for one.
///
/// Shapes: `[batch, length, d_model]` in and out. The options hold for every block.
///
/// **Shared parameters** (`groups` of the config; ALBERT, Lan et al. 2020): a block is applied several times in a row, to its own
/// output. It is one module with one set of parameters, so records hold it once, and its gradient is the sum over its applications.
/// Time and the memory of activations are those of all applications.
///
/// **A relative bias** of the stack is one table for all blocks, made once a call (T5, Raffel et al. 2020). Where the options give
/// positions or a table of their own, it is the bias of every pair, `[1, H, S, S]`.
#[derive(Module, Debug)]
pub struct TransformerEncoder {
    /// The blocks, first to last; each is applied [`repeats`](Self::repeats) times in a row.
    pub layers: Vec<TransformerEncoderLayer>,
    /// Ends the stack.
    pub norm: Option<LayerNorm>,
    /// Of the scores in every block.
    pub relative_bias: Option<RelativeBias>,
    repeats: usize,
}

/// What a [`TransformerEncoder`] gives.
#[derive(Debug, Clone)]
pub struct EncoderOutput {
    /// `[batch, length, d_model]`.
    pub hidden: Tensor<3>,
    /// The LSE of each block (of each application, where blocks share parameters), `[batch, heads, length]`; empty unless asked for.
    pub lse: Vec<Tensor<3>>,
    /// The weights likewise, `[batch, selected heads, selected rows, length]`; empty unless asked for.
    pub weights: Vec<Tensor<4>>,
}

impl TransformerEncoder {
    /// Carries `hidden` `[batch, length, d_model]` through all blocks.
    ///
    /// # Errors
    /// As [`TransformerEncoderLayer::forward`].
    pub fn forward(&self, hidden: Tensor<3>, options: &AttentionOptions) -> Result<EncoderOutput, AttentionError> {
        let options = &self.biased(&hidden, options)?;
        let mut output = EncoderOutput { hidden, lse: Vec::new(), weights: Vec::new() };
        for layer in self.layers.iter().flat_map(|layer| std::iter::repeat_n(layer, self.repeats)) {
            let made = layer.forward(output.hidden, options)?;
            output.hidden = made.hidden;
            output.lse.extend(made.lse);
            output.weights.extend(made.weights);
        }
        if let Some(norm) = &self.norm {
            let [_, _, d_model] = output.hidden.dims();
            check::norm("norm", norm, d_model)?;
            output.hidden = normalise(norm, output.hidden);
        }
        Ok(output)
    }

    /// How often each block is applied: 1 unless blocks share parameters.
    pub fn repeats(&self) -> usize {
        self.repeats
    }

    /// The options with the stack's relative bias. The first block checks them before, as it will again.
    fn biased(&self, hidden: &Tensor<3>, options: &AttentionOptions) -> Result<AttentionOptions, AttentionError> {
        let (Some(bias), Some(layer)) = (&self.relative_bias, self.layers.first()) else { return Ok(options.clone()) };
        layer.check(hidden)?;
        layer.attention.biased(hidden, bias, options)
    }
}

/// Layer norm (Ba et al. 2016). An input without elements comes back as it is.
pub(super) fn normalise(norm: &LayerNorm, input: Tensor<3>) -> Tensor<3> {
    if input.shape().num_elements() == 0 { input } else { norm.forward(input) }
}
