//! Co-attention: two streams, each of which attends to the other.

use attn_core::{AttentionError, Mask};
use burn::config::Config;
use burn::module::{Initializer, Module};
use burn::nn::{Dropout, DropoutConfig, LayerNorm, LayerNormConfig, Linear};
use burn::tensor::{Bool, Device, Tensor};

use crate::Selection;
use crate::nn::check::{self, positive};
use crate::nn::encoder::Activation;
use crate::nn::multi_head::{MultiHeadAttention, MultiHeadAttentionConfig};
use crate::nn::options::AttentionOptions;
use crate::nn::parts;

/// Sizes and choices of a [`CoAttention`]; [`init`](Self::init) makes it.
#[derive(Config, Debug)]
pub struct CoAttentionConfig {
    /// Features of the left stream.
    pub d_left: usize,
    /// Features of the right stream.
    pub d_right: usize,
    /// Query heads of both attentions.
    pub heads: usize,
    /// Features of a head; `None`: the smaller of the two streams' features over `heads`.
    pub head_dim: Option<usize>,
    /// Features between the left stream's linear layers; `None`: four times `d_left`.
    pub left_ff: Option<usize>,
    /// Features between the right stream's linear layers; `None`: four times `d_right`.
    pub right_ff: Option<usize>,
    /// Between the two linear layers.
    #[config(default = "Activation::Gelu")]
    pub activation: Activation,
    /// Probability of dropping a feature of a sublayer's output while training, before the residual sum.
    #[config(default = 0.0)]
    pub dropout: f64,
    /// Added to the variance under the root of a layer norm.
    #[config(default = 1e-5)]
    pub layer_norm_epsilon: f64,
    /// How the linear layers begin.
    #[config(default = "Initializer::KaimingUniform{gain:1.0/f64::sqrt(3.0), fan_out_only:false}")]
    pub initializer: Initializer,
}

impl CoAttentionConfig {
    /// Makes the block on a device.
    ///
    /// # Errors
    /// A value error that names the first size or probability without a meaning.
    pub fn init(&self, device: &Device) -> Result<CoAttention, AttentionError> {
        let (left, right) = (positive("d_left", self.d_left)?, positive("d_right", self.d_right)?);
        let heads = positive("heads", self.heads)?;
        let narrow = left.min(right);
        let head_dim = match self.head_dim {
            Some(head_dim) => positive("head_dim", head_dim)?,
            None if narrow.is_multiple_of(heads) => narrow / heads,
            None => return Err(AttentionError::value("heads", format!("a divisor of {narrow} features"), heads)),
        };
        let dropout = check::probability("dropout", self.dropout)?;
        let epsilon = check::epsilon("layer_norm_epsilon", self.layer_norm_epsilon)?;
        let stream = |d_own, d_other, d_ff: Option<usize>, argument| -> Result<CoAttentionStream, AttentionError> {
            let d_ff = match d_ff {
                Some(d_ff) => positive(argument, d_ff)?,
                None => check::features(argument, 4, d_own)?,
            };
            let attention = MultiHeadAttentionConfig::new(d_own, heads)
                .with_d_key(Some(d_other))
                .with_head_dim(Some(head_dim))
                .with_initializer(self.initializer.clone());
            let norm = || LayerNormConfig::new(d_own).with_epsilon(epsilon).init(device);
            Ok(CoAttentionStream {
                attention: attention.init(device)?,
                attention_norm: norm(),
                linear_inner: parts::new_linear(d_own, d_ff, true, &self.initializer, device),
                linear_outer: parts::new_linear(d_ff, d_own, true, &self.initializer, device),
                feed_forward_norm: norm(),
                dropout: DropoutConfig::new(dropout).init(),
                activation: self.activation,
            })
        };
        Ok(CoAttention {
            left: stream(left, right, self.left_ff, "left_ff")?,
            right: stream(right, left, self.right_ff, "right_ff")?,
        })
    }
}

/// The layers of one stream of a [`CoAttention`].
#[derive(Module, Debug)]
pub struct CoAttentionStream {
    /// From this stream to the other.
    pub attention: MultiHeadAttention,
    /// After the attention's residual sum.
    pub attention_norm: LayerNorm,
    /// `W_inner [d, d_ff]`.
    pub linear_inner: Linear,
    /// `W_outer [d_ff, d]`.
    pub linear_outer: Linear,
    /// After the feed-forward residual sum.
    pub feed_forward_norm: LayerNorm,
    /// Of a sublayer's output.
    pub dropout: Dropout,
    #[module(skip)]
    activation: Activation,
}

/// A co-attentional transformer block (ViLBERT, Lu et al. 2019): two streams, such as image regions and words, exchange what
/// they know.
///
/// ```text
/// for (x, y) = (left, right) and (right, left), both as they come in:
///   u   = norm_a(x + attention(query x, key and value y))
///   out = norm_f(u + W_outer · activation(W_inner · u + b) + b)
/// ```
///
/// Left `[B, M, d_left]`, right `[B, N, d_right]`. Time in `M·N`, memory linear in `M + N`: each attention is a
/// [`MultiHeadAttention`]. In ViLBERT a block of each stream's own, a
/// [`TransformerEncoderLayer`](crate::nn::TransformerEncoderLayer), follows.
///
/// ```
/// use attn::nn::{CoAttentionConfig, CoAttentionOptions};
/// use burn::tensor::{Device, Distribution, Tensor};
///
/// # fn main() -> Result<(), attn::AttentionError> {
/// let device = Device::default();
/// let block = CoAttentionConfig::new(16, 24, 4).init(&device)?;
/// let text = Tensor::<3>::random([2, 7, 16], Distribution::Default, &device);
/// let image = Tensor::<3>::random([2, 49, 24], Distribution::Default, &device);
/// let output = block.forward(text, image, &CoAttentionOptions::default())?;
/// assert_eq!((output.left.dims(), output.right.dims()), ([2, 7, 16], [2, 49, 24]));
/// # Ok(())
/// # }
/// ```
#[derive(Module, Debug)]
pub struct CoAttention {
    /// Layers of the left stream.
    pub left: CoAttentionStream,
    /// Layers of the right stream.
    pub right: CoAttentionStream,
}

/// What a call of a [`CoAttention`] may ask for.
#[derive(Debug, Clone, Default)]
pub struct CoAttentionOptions {
    /// Which positions of the left stream are there, `[B, M]`.
    pub left_padding: Option<Mask<Tensor<2, Bool>>>,
    /// Which positions of the right stream are there, `[B, N]`.
    pub right_padding: Option<Mask<Tensor<2, Bool>>>,
    /// The heads and rows whose weights are asked for, in both directions.
    pub weights: Option<Selection>,
}

/// What a [`CoAttention`] gives.
#[derive(Debug, Clone)]
pub struct CoAttentionOutput {
    /// `[B, M, d_left]`.
    pub left: Tensor<3>,
    /// `[B, N, d_right]`.
    pub right: Tensor<3>,
    /// Of the left stream's queries over the right, `[B, heads, rows, N]`; there if they were asked for.
    pub left_weights: Option<Tensor<4>>,
    /// Of the right stream's queries over the left, `[B, heads, rows, M]`; there if they were asked for.
    pub right_weights: Option<Tensor<4>>,
}

impl CoAttention {
    /// Carries both streams through the block. What comes out at padding has no meaning, but is finite.
    ///
    /// # Errors
    /// An [`AttentionError`] that names `left`, `right`, `left_padding`, `right_padding`, a selection's `heads` or `rows`, or the
    /// weights at fault.
    pub fn forward(
        &self,
        left: Tensor<3>,
        right: Tensor<3>,
        options: &CoAttentionOptions,
    ) -> Result<CoAttentionOutput, AttentionError> {
        let (d_left, d_right) = (self.left.check()?, self.right.check()?);
        let weight = self.left.linear_inner.weight.val();
        let device = weight.device();
        let [batch, left_len, _] = parts::check_input("left", &left, "batch, left_len", d_left, &weight)?;
        let [found, right_len, _] = parts::check_input("right", &right, "batch, right_len", d_right, &weight)?;
        if found != batch {
            let expected = format!("[{batch}, right_len, {d_right}] (batch of left)");
            return Err(AttentionError::shape("right", expected, &right.dims()));
        }
        let check = |argument, mask: &Option<Mask<Tensor<2, Bool>>>, length| {
            mask.clone().map(|mask| parts::check_mask(argument, mask, [batch, length], &device)).transpose()
        };
        let left_keep = check("left_padding", &options.left_padding, left_len)?;
        let right_keep = check("right_padding", &options.right_padding, right_len)?;
        let left = parts::without_padding(left, left_keep.as_ref());
        let right = parts::without_padding(right, right_keep.as_ref());
        let (of_left, left_weights) =
            self.left.forward(left.clone(), right.clone(), right_keep, options.weights.as_ref())?;
        let (of_right, right_weights) = self.right.forward(right, left, left_keep, options.weights.as_ref())?;
        Ok(CoAttentionOutput { left: of_left, right: of_right, left_weights, right_weights })
    }
}

impl CoAttentionStream {
    fn forward(
        &self,
        own: Tensor<3>,
        other: Tensor<3>,
        keep: Option<Tensor<2, Bool>>,
        selection: Option<&Selection>,
    ) -> Result<(Tensor<3>, Option<Tensor<4>>), AttentionError> {
        let mut options = AttentionOptions::new();
        if let Some(keep) = keep {
            options = options.key_padding(Mask::keep(keep));
        }
        if let Some(selection) = selection {
            options = options.with_weights(selection.clone());
        }
        let attended = self.attention.forward(own.clone(), other.clone(), other, &options)?;
        let hidden = parts::norm(&self.attention_norm, own + self.dropout.forward(attended.out));
        let fed = parts::feed_forward(&self.linear_inner, &self.linear_outer, self.activation, hidden.clone());
        Ok((parts::norm(&self.feed_forward_norm, hidden + self.dropout.forward(fed)), attended.weights))
    }

    /// The weights against each other; gives the stream's features.
    fn check(&self) -> Result<usize, AttentionError> {
        let [d, d_ff] = check::linear("linear_inner.weight", &self.linear_inner, None, None)?;
        check::linear("linear_outer.weight", &self.linear_outer, Some(d_ff), Some(d))?;
        check::linear("output.weight", &self.attention.output, None, Some(d))?;
        check::norm("attention_norm", &self.attention_norm, d)?;
        check::norm("feed_forward_norm", &self.feed_forward_norm, d)?;
        Ok(d)
    }
}
