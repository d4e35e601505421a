//! How a query and a key score each other: scaled dot, dot, bilinear, additive, cosine.

mod functions;

use attn_core::{AttentionError, TensorInfo};
use burn::config::Config;
use burn::module::Module;
use burn::nn::Initializer;
use burn::tensor::{Device, Tensor};

pub use functions::{AdditiveScore, BilinearScore, CosineScore, DotScore, ScoreFunction};

use super::check::{self, positive};
use super::options::AttentionOptions;
use crate::Attention;
use crate::attention::{check_devices, check_dtypes};

/// The function by which a query `q` and a key `k` of one head score each other.
#[derive(Config, Debug, Copy, PartialEq)]
pub enum ScoreKind {
    /// `q·k / √D` (Vaswani et al. 2017).
    ScaledDot,
    /// `q·k` (Luong et al. 2015, "dot").
    Dot,
    /// `q·W·k` with a matrix a query head (Luong et al. 2015, "general").
    Bilinear,
    /// `v · tanh(W_q·q + W_k·k + b)` (Bahdanau et al. 2014).
    Additive {
        /// Features of the hidden layer, A.
        hidden: usize,
    },
    /// `t · q·k / (‖q‖ ‖k‖)` with a learned scale t a query head, `t ≤ max_scale` (Liu et al. 2022, Swin v2: 10 and
    /// 100).
    Cosine {
        /// Where t begins; positive.
        initial_scale: f64,
        /// The greatest t; finite and at least `initial_scale`.
        max_scale: f64,
    },
}

/// Sizes and choice of a [`Score`]; [`init`](Self::init) makes it.
#[derive(Config, Debug)]
pub struct ScoreConfig {
    /// Query heads, H.
    pub heads: usize,
    /// Features of one query head, D.
    pub query_dim: usize,
    /// Features of one key head; `None`: as the query's. Bilinear and additive scores alone may differ here.
    pub key_dim: Option<usize>,
    /// Key/value heads, G, a divisor of H; `None`: H.
    pub kv_heads: Option<usize>,
    /// The function.
    #[config(default = "ScoreKind::ScaledDot")]
    pub kind: ScoreKind,
    /// How the matrices of bilinear and additive scores begin.
    #[config(default = "Initializer::KaimingUniform{gain:1.0/f64::sqrt(3.0), fan_out_only:false}")]
    pub initializer: Initializer,
}

impl ScoreConfig {
    /// Makes the score on a device.
    ///
    /// # Errors
    /// A value error that names the first size without a meaning: one that is 0, `kv_heads` that do not divide `heads`,
    /// a `key_dim` other than `query_dim` where the function has no matrix between them, `initial_scale` and
    /// `max_scale` not in `0 < initial_scale ≤ max_scale < ∞`.
    pub fn init(&self, device: &Device) -> Result<Score, AttentionError> {
        let heads = positive("heads", self.heads)?;
        let query_dim = positive("query_dim", self.query_dim)?;
        let key_dim = positive("key_dim", self.key_dim.unwrap_or(query_dim))?;
        let kv_heads = positive("kv_heads", self.kv_heads.unwrap_or(heads))?;
        if heads % kv_heads != 0 {
            return Err(AttentionError::value("kv_heads", format!("a divisor of the {heads} heads"), kv_heads));
        }
        let bridged = matches!(self.kind, ScoreKind::Bilinear | ScoreKind::Additive { .. });
        if key_dim != query_dim && !bridged {
            return Err(AttentionError::value("key_dim", format!("{query_dim}, as query_dim"), key_dim));
        }
        let matrix = |argument, heads: usize, d_in: usize, d_out: usize| {
            check::features(argument, heads, check::features(argument, d_in, d_out)?)?;
            Ok(self.initializer.init_with([heads, d_in, d_out], Some(d_in), Some(d_out), device))
        };
        let function = match self.kind {
            ScoreKind::ScaledDot => ScoreFunction::Dot(DotScore { scaled: true }),
            ScoreKind::Dot => ScoreFunction::Dot(DotScore { scaled: false }),
            ScoreKind::Bilinear => {
                ScoreFunction::Bilinear(BilinearScore { weight: matrix("query_dim", heads, query_dim, key_dim)? })
            }
            ScoreKind::Additive { hidden } => {
                let hidden = positive("hidden", hidden)?;
                ScoreFunction::Additive(AdditiveScore {
                    query: matrix("hidden", heads, query_dim, hidden)?,
                    key: matrix("hidden", kv_heads, key_dim, hidden)?,
                    bias: Initializer::Zeros.init([heads, hidden], device),
                    value: self.initializer.init_with([heads, hidden], Some(hidden), Some(1), device),
                })
            }
            ScoreKind::Cosine { initial_scale, max_scale } => {
                check_scales(initial_scale, max_scale)?;
                let log_scale = Initializer::Constant { value: initial_scale.ln() }.init([heads], device);
                ScoreFunction::Cosine(CosineScore { log_scale, max_scale })
            }
        };
        Ok(Score { function, heads, kv_heads, query_dim, key_dim })
    }
}

fn check_scales(initial: f64, max: f64) -> Result<(), AttentionError> {
    if !(max > 0.0 && max.is_finite()) {
        return Err(AttentionError::value("max_scale", "a positive finite number", max));
    }
    match initial > 0.0 && initial <= max {
        true => Ok(()),
        false => Err(AttentionError::value("initial_scale", format!("a number in (0, max_scale = {max}]"), initial)),
    }
}

/// A score function with its parameters, for any layer that attends.
///
/// Axes: B batch, H query heads, G key/value heads, Sq/Sk query/key length, D query dimension, C key dimension, A
/// hidden features.
///
/// [`attention`](Self::attention) gives an [`Attention`] whose softmax takes these scores. Dot, bilinear and cosine
/// scores are dot products of a changed query (and, for the cosine, a changed key), so that every kernel serves them in
/// linear memory. Additive scores are none: they are made beforehand and enter as a bias; see [`AdditiveScore`] for
/// what that costs.
///
/// In each a `scale` of the options' spec is a factor of the score; softcap, ALiBi, bias, masks and sinks follow as
/// ever.
#[derive(Module, Debug)]
pub struct Score {
    /// The function and its parameters.
    pub function: ScoreFunction,
    heads: usize,
    kv_heads: usize,
    query_dim: usize,
    key_dim: usize,
}

impl Score {
    /// An attention of `query` `[B, H, Sq, D]` over `key` `[B, G, Sk, C]` and `value` `[B, G, Sk, E]` by these scores:
    /// run it, plan it, or ask for its scores.
    ///
    /// # Errors
    /// An [`AttentionError`] that names the input, parameter or option at fault, before any work starts.
    pub fn attention(
        &self,
        query: Tensor<4>,
        key: Tensor<4>,
        value: Tensor<4>,
        options: &AttentionOptions,
    ) -> Result<Attention, AttentionError> {
        self.check(&query, &key, &value, options)?;
        let (mut spec, bias, _) = options.given();
        match &self.function {
            ScoreFunction::Dot(dot) => {
                spec.scale = spec.scale.or((!dot.scaled).then_some(1.0));
                Ok(options.attention(query, key, value).spec(spec))
            }
            ScoreFunction::Bilinear(bilinear) => {
                spec.scale = spec.scale.or(Some(1.0));
                Ok(options.attention(bilinear.query(query), key, value).spec(spec))
            }
            ScoreFunction::Cosine(cosine) => {
                spec.scale = spec.scale.or(Some(1.0));
                let [query, key] = cosine.query_and_key(query, key);
                Ok(options.attention(query, key, value).spec(spec))
            }
            ScoreFunction::Additive(additive) => {
                let [batch, heads, query_len, _] = query.dims();
                let [_, kv_heads, key_len, _] = key.dims();
                // The product of these is 0; the bias is the score.
                let zeros = |shape: [usize; 4]| Tensor::<4>::zeros(shape, (&query.device(), query.dtype()));
                let (no_query, no_key) = (zeros([batch, heads, query_len, 1]), zeros([batch, kv_heads, key_len, 1]));
                let scores = capped(additive.scores(query, key)?, spec.scale.take(), spec.softcap.take());
                let scores = if let Some(bias) = bias { biased(scores, bias) } else { scores };
                Ok(options.attention(no_query, no_key, value).spec(spec).bias(scores))
            }
        }
    }

    /// Query heads, H.
    pub fn heads(&self) -> usize {
        self.heads
    }

    /// Key/value heads, G.
    pub fn kv_heads(&self) -> usize {
        self.kv_heads
    }

    fn check(
        &self,
        query: &Tensor<4>,
        key: &Tensor<4>,
        value: &Tensor<4>,
        options: &AttentionOptions,
    ) -> Result<(), AttentionError> {
        let (h, g, d, c) = (self.heads, self.kv_heads, self.query_dim, self.key_dim);
        let ([batch, found_h, query_len, found_d], [_, found_g, _, found_c]) = (query.dims(), key.dims());
        if [found_h, found_d] != [h, d] {
            return Err(AttentionError::shape("query", format!("[batch, {h}, query_len, {d}]"), &query.dims()));
        }
        if [found_g, found_c] != [g, c] {
            return Err(AttentionError::shape("key", format!("[batch, {g}, key_len, {c}]"), &key.dims()));
        }
        let devices = [("key", Some(key.device())), ("value", Some(value.device()))];
        check_devices(&query.device(), &devices)?;
        let dtypes = [("key", key.dtype()), ("value", value.dtype())];
        check_dtypes("query", query.dtype(), &dtypes)?;
        self.function.check([h, g, d, c], query)?;
        // The problem that a kernel will see; the key of its true width has been checked.
        let [_, _, key_len, _] = key.dims();
        let info = |shape: [usize; 4], tensor: &Tensor<4>| TensorInfo { shape: shape.into(), dtype: tensor.dtype() };
        let key_info = info([key.dims()[0], g, key_len, d], key);
        options.check(&query.device(), info([batch, h, query_len, d], query), key_info, info(value.dims(), value))
    }
}

/// Scores plus a bias that hides where it is `−inf`, whatever the score.
fn biased(scores: Tensor<4>, bias: &Tensor<4>) -> Tensor<4> {
    let shape = scores.dims();
    if scores.shape().num_elements() == 0 {
        return scores;
    }
    let hides = bias.clone().inner().equal_elem(f64::NEG_INFINITY).expand::<4, _>(shape);
    (scores + bias.clone()).mask_fill(hides, f64::NEG_INFINITY)
}

/// `softcap · tanh(scale·score / softcap)`.
fn capped(scores: Tensor<4>, scale: Option<f64>, softcap: Option<f64>) -> Tensor<4> {
    let scores = if let Some(scale) = scale { scores.mul_scalar(scale) } else { scores };
    let Some(softcap) = softcap else { return scores };
    scores.div_scalar(softcap).tanh().mul_scalar(softcap)
}
