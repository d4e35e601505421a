//! Adaptive span: each head learns how far it looks.

use attn_core::{AttentionError, AttentionSpec, Mask};
use burn::config::Config;
use burn::module::{Initializer, Module, Param};
use burn::nn::Linear;
use burn::tensor::{Bool, DType, Device, Int, Tensor};

use super::check::{self, positive};
use super::parts;
use crate::Attention;

/// Sizes of an [`AdaptiveSpanAttention`]; [`init`](Self::init) makes it.
#[derive(Config, Debug)]
pub struct AdaptiveSpanAttentionConfig {
    /// Features of a position, in and out.
    pub d_model: usize,
    /// Heads, H.
    pub heads: usize,
    /// The greatest span that a head can learn, in positions.
    pub max_span: usize,
    /// Length of the ramp on which the mask falls from 1 to 0, R, in positions.
    #[config(default = 32)]
    pub ramp: usize,
    /// The span with which every head begins, as a share of `max_span`, in `[0, 1]`.
    #[config(default = 0.0)]
    pub initial_span: f64,
    /// Whether positions after the query are hidden; if not, spans reach to both sides.
    #[config(default = true)]
    pub causal: bool,
    /// Features of one head, D; `None`: `d_model / heads`.
    pub head_dim: Option<usize>,
    /// Whether the projections have biases.
    #[config(default = true)]
    pub bias: bool,
    /// How the projections begin.
    #[config(default = "Initializer::KaimingUniform{gain:1.0/f64::sqrt(3.0), fan_out_only:false}")]
    pub initializer: Initializer,
}

impl AdaptiveSpanAttentionConfig {
    /// Makes the layer on a device.
    ///
    /// # Errors
    /// A value error that names the first size without a meaning.
    pub fn init(&self, device: &Device) -> Result<AdaptiveSpanAttention, AttentionError> {
        let (d_model, heads) = (positive("d_model", self.d_model)?, positive("heads", self.heads)?);
        let head_dim = match self.head_dim {
            Some(head_dim) => positive("head_dim", head_dim)?,
            None if d_model.is_multiple_of(heads) => d_model / heads,
            None => return Err(AttentionError::value("heads", format!("a divisor of d_model = {d_model}"), heads)),
        };
        let joined = check::features("head_dim", heads, head_dim)?;
        let (max_span, ramp) = (positive("max_span", self.max_span)?, positive("ramp", self.ramp)?);
        if !(0.0..=1.0).contains(&self.initial_span) {
            return Err(AttentionError::value("initial_span", "a share in [0, 1]", self.initial_span));
        }
        let linear = |d_input, d_output| parts::new_linear(d_input, d_output, self.bias, &self.initializer, device);
        Ok(AdaptiveSpanAttention {
            query: linear(d_model, joined),
            key: linear(d_model, joined),
            value: linear(d_model, joined),
            output: linear(joined, d_model),
            span: Initializer::Constant { value: self.initial_span }.init([heads], device),
            max_span,
            ramp,
            causal: self.causal,
        })
    }
}

/// Self-attention with a learned span for each head (Sukhbaatar et al. 2019).
///
/// ```text
/// z_h    = max_span · span_h                                     the learned span of head h, span clamped to [0, 1]
/// m_h(x) = clamp((R + z_h − x) / R, 0, 1)                        x = |p − j|, the distance of key j from position p
/// w_ij   = m_h(x) · exp(s_ij) / Σ_j m_h(x) · exp(s_ij)           s: scaled dot products
/// ```
///
/// Multiplying `exp(s)` by m is adding `ln m` to s, and hiding where m is 0: so the fused kernel computes it, with `ln m` as a bias by
/// relative position, `[H, 2·z_max + 2·R − 1]`, through which z gets its gradient. The kernel's window keeps it to the keys within the
/// longest span that any head has at the time: time in `S·(z_max + R)·D`, memory linear in S. For that `z_max` is read back to the host
/// once a call.
///
/// Train with [`span_penalty`](Self::span_penalty) in the loss, and keep spans in their range by
/// [`clamped`](Self::clamped) after each step of the optimiser: outside it they get no gradient.
///
/// ```
/// use attn::nn::AdaptiveSpanAttentionConfig;
/// use burn::tensor::{Device, Distribution, Tensor};
///
/// # fn main() -> Result<(), attn::AttentionError> {
/// let device = Device::default();
/// let layer = AdaptiveSpanAttentionConfig::new(16, 4, 1024).with_initial_span(0.1).init(&device)?;
/// let hidden = Tensor::<3>::random([2, 50, 16], Distribution::Default, &device); // [batch, length, features]
/// let out = layer.forward(hidden, None)?;
/// assert_eq!(out.dims(), [2, 50, 16]);
/// // What keeps spans short, to be added to the loss.
/// let penalty = layer.span_penalty() * 1e-4;
/// # assert_eq!(penalty.dims(), [1]);
/// # Ok(())
/// # }
/// ```
#[derive(Module, Debug)]
pub struct AdaptiveSpanAttention {
    /// `W_q [d_model, H·D]`.
    pub query: Linear,
    /// `W_k [d_model, H·D]`.
    pub key: Linear,
    /// `W_v [d_model, H·D]`.
    pub value: Linear,
    /// `W_o [H·D, d_model]`.
    pub output: Linear,
    /// Spans as a share of `max_span`, `[H]`.
    pub span: Param<Tensor<1>>,
    max_span: usize,
    ramp: usize,
    causal: bool,
}

impl AdaptiveSpanAttention {
    /// Attends within `hidden` `[B, S, d_model]`; `padding` `[B, S]` tells which positions are there. What comes out at padding
    /// has no meaning.
    ///
    /// # Errors
    /// An [`AttentionError`] that names `hidden`, `padding` or the weights at fault, before any work starts.
    pub fn forward(
        &self,
        hidden: Tensor<3>,
        padding: Option<Mask<Tensor<2, Bool>>>,
    ) -> Result<Tensor<3>, AttentionError> {
        let keep = self.check(&hidden, padding)?;
        let [batch, length, d_model] = hidden.dims();
        if batch * length == 0 {
            return Ok(Tensor::zeros([batch, length, d_model], (&hidden.device(), hidden.dtype())));
        }
        let heads = self.span.val().dims()[0];
        // Farther than the sequence is long there is nothing.
        let reach = self.reach()?.min(length - 1);
        let hidden = parts::without_padding(hidden, keep.as_ref());
        let [query, key, value] = [&self.query, &self.key, &self.value]
            .map(|linear| parts::heads(parts::linear(linear, hidden.clone()), heads));
        let spec = AttentionSpec::new().with_causal(self.causal).with_window(Some(reach), Some(reach));
        let mut attention = Attention::new(query, key, value).spec(spec);
        attention = attention.relative_bias(self.table(reach, hidden.dtype()));
        if let Some(keep) = keep {
            attention = attention.mask(Mask::keep(keep.reshape([batch, 1, 1, length])));
        }
        Ok(parts::linear(&self.output, parts::joined(attention.forward()?.out)))
    }

    /// The spans z of the heads, `[H]`, in positions.
    pub fn spans(&self) -> Tensor<1> {
        self.span.val().clamp(0.0, 1.0).mul_scalar(self.max_span as f64)
    }

    /// The mean span, `[1]`, in positions: times a small factor, the term of the loss that keeps spans short (L1).
    pub fn span_penalty(&self) -> Tensor<1> {
        self.spans().mean()
    }

    /// The layer with its spans put back into their range.
    pub fn clamped(mut self) -> Self {
        self.span = self.span.map(|span| {
            let needs_grad = span.is_require_grad();
            span.clamp(0.0, 1.0).detach().set_require_grad(needs_grad)
        });
        self
    }

    /// The greatest distance at which any head's mask is above 0; reads the spans back.
    fn reach(&self) -> Result<usize, AttentionError> {
        let read = self.spans().detach().max().try_into_scalar::<f64>();
        let failed = |reason: String| AttentionError::Execution { kernel: "adaptive span".into(), reason };
        let longest = read.map_err(|error| failed(error.to_string()))?;
        if !longest.is_finite() {
            return Err(AttentionError::value("span", "finite shares", longest));
        }
        // m(x) > 0 where x < R + z.
        Ok((longest + self.ramp as f64).ceil() as usize - 1)
    }

    /// `ln m` by distance, from `−reach` to `reach`: `[H, 2·reach + 1]`.
    fn table(&self, reach: usize, dtype: DType) -> Tensor<2> {
        let spans = self.spans().cast(parts::accumulation(dtype));
        let (device, wide) = (spans.device(), spans.dtype());
        let (heads, distances) = (spans.dims()[0], 2 * reach + 1);
        let line = Tensor::<1, Int>::arange(-(reach as i64)..reach as i64 + 1, &device).float().cast(wide);
        let distance = line.abs().reshape([1, distances]).expand::<2, _>([heads, distances]);
        let spans = spans.add_scalar(self.ramp as f64).reshape([heads, 1]).expand::<2, _>([heads, distances]);
        let mask = (spans - distance).div_scalar(self.ramp as f64).clamp(0.0, 1.0);
        // The logarithm of 0 would bring NaN into the gradients.
        let hidden = mask.clone().equal_elem(0.0);
        mask.mask_fill(hidden.clone(), 1.0).log().mask_fill(hidden, f32::NEG_INFINITY).cast(dtype)
    }

    fn check(
        &self,
        hidden: &Tensor<3>,
        padding: Option<Mask<Tensor<2, Bool>>>,
    ) -> Result<Option<Tensor<2, Bool>>, AttentionError> {
        let [d_model, joined] = check::linear("query.weight", &self.query, None, None)?;
        check::linear("key.weight", &self.key, Some(d_model), Some(joined))?;
        check::linear("value.weight", &self.value, Some(d_model), Some(joined))?;
        check::linear("output.weight", &self.output, Some(joined), Some(d_model))?;
        let [heads] = self.span.val().dims();
        if heads == 0 || joined == 0 || !joined.is_multiple_of(heads) {
            return Err(AttentionError::shape("span", format!("[heads, a divisor of {joined}]"), &[heads]));
        }
        let weight = self.query.weight.val();
        let [batch, length, _] = parts::check_input("hidden", hidden, "batch, length", d_model, &weight)?;
        let check = |mask| parts::check_mask("padding", mask, [batch, length], &weight.device());
        padding.map(check).transpose()
    }
}
