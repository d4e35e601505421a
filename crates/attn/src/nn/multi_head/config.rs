//! Sizes and choices of a multi-head attention, and how it is made of them.

use attn_core::AttentionError;
use burn::config::Config;
use burn::nn::{DropoutConfig, Initializer, LinearConfig};
use burn::tensor::Device;

use super::MultiHeadAttention;
use super::norm::QkNormConfig;
use crate::nn::check::{self, positive};
use crate::nn::position::{AlibiSlopes, DistanceRule, RelativeBiasConfig, RotaryConfig};

/// Sizes of a [`MultiHeadAttention`]; [`init`](Self::init) makes the layer.
///
/// `MultiHeadAttentionConfig::new(d_query, heads)` is the layer of Vaswani et al. 2017, everything else its default.
///
/// ```
/// use attn::nn::{MultiHeadAttentionConfig, QkNormConfig, QkNormKind, RotaryConfig, RotaryLayout};
/// use burn::tensor::Device;
///
/// # fn main() -> Result<(), attn::AttentionError> {
/// // The attention of Qwen 3: grouped heads, normalised queries and keys, rotary positions.
/// let config = MultiHeadAttentionConfig::new(64, 8)
///     .with_kv_heads(Some(2))
///     .with_head_dim(Some(16))
///     .with_qk_norm(Some(QkNormConfig::new(QkNormKind::Rms)))
///     .with_rotary(Some(RotaryConfig::new(16, RotaryLayout::Half).with_base(1e6)));
/// let layer = config.init(&Device::default())?;
/// # Ok(())
/// # }
/// ```
#[derive(Config, Debug)]
pub struct MultiHeadAttentionConfig {
    /// Features of the query input.
    pub d_query: usize,
    /// Query heads, H.
    pub heads: usize,
    /// Features of the key input; `None`: as the query's.
    pub d_key: Option<usize>,
    /// Features of the value input; `None`: as the key's.
    pub d_value: Option<usize>,
    /// Features of the output; `None`: as the query's.
    pub d_out: Option<usize>,
    /// Key/value heads, G, a divisor of H; `None`: H. Fewer is grouped-query attention (Ainslie et al. 2023), one is multi-query
    /// attention (Shazeer 2019).
    pub kv_heads: Option<usize>,
    /// Features of one query or key head, D; `None`: `d_query / heads`.
    pub head_dim: Option<usize>,
    /// Features of one value head, E; `None`: as `head_dim`.
    pub value_dim: Option<usize>,
    /// Whether the query projection has a bias.
    #[config(default = true)]
    pub query_bias: bool,
    /// Whether the key projection has a bias.
    #[config(default = true)]
    pub key_bias: bool,
    /// Whether the value projection has a bias.
    #[config(default = true)]
    pub value_bias: bool,
    /// Whether the output projection has a bias.
    #[config(default = true)]
    pub output_bias: bool,
    /// Probability with which a weight is dropped while training, in the kernel; see [`MultiHeadAttention`].
    #[config(default = 0.0)]
    pub dropout: f64,
    /// How the projections begin.
    #[config(default = "Initializer::KaimingUniform{gain:1.0/f64::sqrt(3.0), fan_out_only:false}")]
    pub initializer: Initializer,
    // All from here on may be absent, so that configs saved without them load.
    /// Factor of `q·k`, finite, unless the call's spec gives one; `None`: `1/√D`, and 1 with the norm
    /// [`L2`](super::QkNormKind::L2).
    pub scale: Option<f64>,
    /// Normalises each query and key head before anything else is done to it.
    pub qk_norm: Option<QkNormConfig>,
    /// Rotary positions of queries and keys, for heads of D features.
    pub rotary: Option<RotaryConfig>,
    /// ALiBi.
    pub alibi: Option<AlibiSlopes>,
    /// A table of biases by distance, T5's or a clipped one, `[rows, H]`, of the layer's own.
    pub relative_bias: Option<DistanceRule>,
    /// How learned sinks begin, one logit a head that takes weight and gives no value; `None`: no sinks. At 0 a sink adds 1 to the
    /// softmax's sum.
    pub sinks: Option<Initializer>,
    /// Whether one projection makes keys and values both, `W_v = W_k`: then `d_value` is `d_key` and E is D. Values are taken before
    /// the norm and the rotation of keys. `None`: no.
    pub shared_key_value: Option<bool>,
}

/// The sizes of a config, every default filled in.
struct Sizes {
    d_query: usize,
    d_key: usize,
    d_value: usize,
    d_out: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    value_dim: usize,
}

impl MultiHeadAttentionConfig {
    /// Sets whether the four projections have biases.
    pub fn with_biases(self, bias: bool) -> Self {
        self.with_query_bias(bias).with_key_bias(bias).with_value_bias(bias).with_output_bias(bias)
    }

    /// The self-attention of a transformer's block: the one given, where it fits what the block's own fields describe, else that.
    ///
    /// # Errors
    /// A value error that names `attention`.
    pub(in crate::nn) fn of_block(given: Option<&Self>, fields: Self) -> Result<Self, AttentionError> {
        let Some(given) = given else { return Ok(fields) };
        let error = |expected: String, found: String| Err(AttentionError::value("attention", expected, found));
        let d_model = fields.d_query;
        let widths = [Some(given.d_query), given.d_key, given.d_value, given.d_out];
        if let Some(width) = widths.into_iter().flatten().find(|width| *width != d_model) {
            return error(format!("inputs and output of d_model = {d_model}"), width.to_string());
        }
        if given.heads != fields.heads {
            return error(format!("{} heads, as the block", fields.heads), given.heads.to_string());
        }
        if fields.kv_heads.is_some_and(|kv_heads| kv_heads != given.kv_heads.unwrap_or(given.heads)) {
            return error(format!("kv_heads {:?}, as the block", fields.kv_heads), format!("{:?}", given.kv_heads));
        }
        if fields.dropout != 0.0 && fields.dropout != given.dropout {
            return error(format!("dropout {}, as the block", fields.dropout), given.dropout.to_string());
        }
        Ok(given.clone())
    }

    /// Makes the layer on a device.
    ///
    /// # Errors
    /// A value error that names the first size without a meaning: one that is 0, `heads` that do not divide `d_query` (where
    /// `head_dim` is not given), `kv_heads` that do not divide `heads`, `dropout` outside `[0, 1)`, a `scale` that is not finite,
    /// `rotary` for heads of another size, `d_value` or `value_dim` that a shared projection cannot give, or what the config of a
    /// part names.
    pub fn init(&self, device: &Device) -> Result<MultiHeadAttention, AttentionError> {
        let Sizes { d_query, d_key, d_value, d_out, heads, kv_heads, head_dim, value_dim } = self.sizes()?;
        let shared = self.shared_key_value.unwrap_or(false);
        let dropout = check::probability("dropout", self.dropout)?;
        let query_features = check::features("head_dim", heads, head_dim)?;
        let key_features = check::features("head_dim", kv_heads, head_dim)?;
        let value_features = check::features("value_dim", kv_heads, value_dim)?;
        let attended = check::features("value_dim", heads, value_dim)?;
        let norms = self.qk_norm.as_ref().map(|norm| norm.init(head_dim, device)).transpose()?;
        let (query_norm, key_norm) = norms.unzip();
        let linear = |d_input, d_output, bias| {
            let config = LinearConfig::new(d_input, d_output).with_bias(bias);
            config.with_initializer(self.initializer.clone()).init(device)
        };
        Ok(MultiHeadAttention {
            scale: self.scale_of()?,
            rotary: self.rotary.as_ref().map(|rotary| rotary_of(rotary, head_dim)).transpose()?,
            alibi: self.alibi.as_ref().map(|slopes| slopes.of(heads)).transpose()?,
            relative_bias: self
                .relative_bias
                .map(|rule| RelativeBiasConfig::new(heads, rule).init(device))
                .transpose()?,
            sinks: self.sinks.as_ref().map(|initializer| initializer.init([heads], device)),
            query: linear(d_query, query_features, self.query_bias),
            key: linear(d_key, key_features, self.key_bias),
            value: (!shared).then(|| linear(d_value, value_features, self.value_bias)),
            output: linear(attended, d_out, self.output_bias),
            query_norm,
            key_norm,
            dropout: DropoutConfig::new(dropout).init(),
            heads,
            kv_heads,
            head_dim,
            value_dim,
        })
    }

    fn sizes(&self) -> Result<Sizes, AttentionError> {
        let d_query = positive("d_query", self.d_query)?;
        let heads = positive("heads", self.heads)?;
        let d_key = positive("d_key", self.d_key.unwrap_or(d_query))?;
        let d_value = positive("d_value", self.d_value.unwrap_or(d_key))?;
        let d_out = positive("d_out", self.d_out.unwrap_or(d_query))?;
        let kv_heads = positive("kv_heads", self.kv_heads.unwrap_or(heads))?;
        if heads % kv_heads != 0 {
            return Err(AttentionError::value("kv_heads", format!("a divisor of the {heads} heads"), kv_heads));
        }
        let head_dim = match self.head_dim {
            Some(head_dim) => positive("head_dim", head_dim)?,
            None if d_query % heads == 0 => d_query / heads,
            None => return Err(AttentionError::value("heads", format!("a divisor of d_query = {d_query}"), heads)),
        };
        let value_dim = positive("value_dim", self.value_dim.unwrap_or(head_dim))?;
        if self.shared_key_value == Some(true) {
            for (argument, of_value, of_key) in [("d_value", d_value, d_key), ("value_dim", value_dim, head_dim)] {
                if of_value != of_key {
                    let expected = format!("{of_key}, as for keys, whose projection is shared");
                    return Err(AttentionError::value(argument, expected, of_value));
                }
            }
        }
        Ok(Sizes { d_query, d_key, d_value, d_out, heads, kv_heads, head_dim, value_dim })
    }

    fn scale_of(&self) -> Result<Option<f64>, AttentionError> {
        match self.scale {
            Some(scale) if !scale.is_finite() => Err(AttentionError::value("scale", "a finite number", scale)),
            Some(scale) => Ok(Some(scale)),
            None => Ok(self.qk_norm.as_ref().and_then(QkNormConfig::scale)),
        }
    }
}

fn rotary_of(config: &RotaryConfig, head_dim: usize) -> Result<crate::nn::Rotary, AttentionError> {
    match config.head_dim == head_dim {
        true => config.init(),
        false => Err(AttentionError::value("rotary", format!("a head_dim of {head_dim}"), config.head_dim)),
    }
}
