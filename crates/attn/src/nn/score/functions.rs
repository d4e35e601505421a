//! The score functions and their parameters.

use attn_core::AttentionError;
use burn::module::{Module, Param};
use burn::tensor::{Bool, Tensor};

use crate::attention::{check_devices, check_dtypes};
use crate::functions::additive_scores;
use crate::nn::normalise::{narrowed, wide};

/// A score function, by its kind.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant, reason = "a layer holds one, and its parameters lie elsewhere")]
pub enum ScoreFunction {
    /// The dot product.
    Dot(DotScore),
    /// A matrix between query and key.
    Bilinear(BilinearScore),
    /// A layer over query and key.
    Additive(AdditiveScore),
    /// The cosine of the angle.
    Cosine(CosineScore),
}

impl ScoreFunction {
    /// The parameters against the sizes `[H, G, D, C]` and against the query's device and type.
    pub(super) fn check(&self, [h, g, d, c]: [usize; 4], query: &Tensor<4>) -> Result<(), AttentionError> {
        match self {
            Self::Dot(_) => Ok(()),
            Self::Bilinear(bilinear) => parameter("weight", &bilinear.weight, [h, d, c], query),
            Self::Additive(additive) => {
                let [_, _, a] = additive.query.val().dims();
                parameter("additive.query", &additive.query, [h, d, a], query)?;
                parameter("additive.key", &additive.key, [g, c, a], query)?;
                parameter("additive.bias", &additive.bias, [h, a], query)?;
                parameter("additive.value", &additive.value, [h, a], query)
            }
            Self::Cosine(cosine) => {
                if !(cosine.max_scale > 0.0 && cosine.max_scale.is_finite()) {
                    return Err(AttentionError::value("max_scale", "a positive finite number", cosine.max_scale));
                }
                parameter("log_scale", &cosine.log_scale, [h], query)
            }
        }
    }
}

/// A parameter of the shape wanted, whatever was loaded; the query must be of its type and on its device.
fn parameter<const N: usize>(
    argument: &'static str,
    parameter: &Param<Tensor<N>>,
    wanted: [usize; N],
    query: &Tensor<4>,
) -> Result<(), AttentionError> {
    let parameter = parameter.val();
    if parameter.dims() != wanted {
        return Err(AttentionError::shape(argument, format!("{wanted:?} (the layer's weight)"), &parameter.dims()));
    }
    check_devices(&parameter.device(), &[("query", Some(query.device()))])?;
    check_dtypes(argument, parameter.dtype(), &[("query", query.dtype())])
}

/// `q·k / √D`, or `q·k`. No parameters.
#[derive(Module, Debug)]
pub struct DotScore {
    /// Whether it is divided by √D.
    pub scaled: bool,
}

/// `score(i, j) = q_i · W_h · k_j` for query head h (Luong et al. 2015, "general").
///
/// `q·W` `[B, H, Sq, C]` is a query of which any kernel takes the dot product with the keys: linear memory, and keys
/// are not repeated for groups of heads. Costs `B·H·Sq·D·C` multiply-adds beside the attention.
#[derive(Module, Debug)]
pub struct BilinearScore {
    /// `W [H, D, C]`.
    pub weight: Param<Tensor<3>>,
}

impl BilinearScore {
    /// `q·W`.
    pub(super) fn query(&self, query: Tensor<4>) -> Tensor<4> {
        projected(query, self.weight.val())
    }
}

/// `score(i, j) = v_h · tanh(W_q,h·q_i + W_k,g·k_j + b_h)` for query head h of group g (Bahdanau et al. 2014).
///
/// No dot product: the hidden layer of every pair is computed, `B·H·Sq·Sk·A` of it. It is never whole in memory:
/// queries are taken in runs of 4 Mi numbers of it (or of one query), and the backward pass computes it anew. What
/// stays is the scores, `[B, H, Sq, Sk]` in the inputs' type, which the kernel takes as a bias, and their gradient.
#[derive(Module, Debug)]
pub struct AdditiveScore {
    /// `W_q [H, D, A]`.
    pub query: Param<Tensor<3>>,
    /// `W_k [G, C, A]`.
    pub key: Param<Tensor<3>>,
    /// `b [H, A]`.
    pub bias: Param<Tensor<2>>,
    /// `v [H, A]`.
    pub value: Param<Tensor<2>>,
}

impl AdditiveScore {
    /// Scores `[B, H, Sq, Sk]` in the inputs' type, summed up in the accumulation type.
    pub(super) fn scores(&self, query: Tensor<4>, key: Tensor<4>) -> Result<Tensor<4>, AttentionError> {
        let ([batch, heads, query_len, _], [_, kv_heads, key_len, _]) = (query.dims(), key.dims());
        let narrow = query.dtype();
        if batch * heads * query_len * key_len == 0 {
            return Ok(Tensor::zeros([batch, heads, query_len, key_len], (&query.device(), narrow)));
        }
        // A poisoned key that is hidden must not reach the gradients of the queries and parameters.
        let (key, poisoned) = cleaned(wide(key));
        let [_, hidden] = self.bias.val().dims();
        let bias = wide(self.bias.val()).reshape([1, heads, 1, hidden]);
        let query = projected(wide(query), wide(self.query.val())) + bias;
        let key = projected(key, wide(self.key.val()));
        let scores = additive_scores(query, key, wide(self.value.val()))?;
        let group = [batch, kv_heads, heads / kv_heads, query_len, key_len];
        let poisoned = poisoned.reshape([batch, kv_heads, 1, 1, key_len]).expand::<5, _>(group);
        Ok(narrowed(scores.mask_fill(poisoned.reshape([batch, heads, query_len, key_len]), f64::NAN), narrow))
    }
}

/// `score(i, j) = t_h · q_i·k_j / (‖q_i‖ ‖k_j‖)` with `t_h = exp(min(log_scale_h, ln max_scale))` (Liu et al. 2022,
/// Swin v2).
///
/// Scores lie within ±max_scale whatever the inputs. The normalised query, times t, and the normalised key are what any
/// kernel takes: linear memory. Norms are computed in the accumulation type, as `√(‖x‖² + 10⁻¹²)`, so that a vector of
/// zeros scores 0 and has a gradient.
#[derive(Module, Debug)]
pub struct CosineScore {
    /// `ln t [H]` of each query head, before it is bounded.
    pub log_scale: Param<Tensor<1>>,
    /// The greatest t.
    pub max_scale: f64,
}

impl CosineScore {
    pub(super) fn query_and_key(&self, query: Tensor<4>, key: Tensor<4>) -> [Tensor<4>; 2] {
        if query.shape().num_elements() == 0 || key.shape().num_elements() == 0 {
            return [query, key];
        }
        let narrow = query.dtype();
        let log_scale = wide(self.log_scale.val());
        let [heads] = log_scale.dims();
        let scale = log_scale.clamp_max(self.max_scale.ln()).exp().reshape([1, heads, 1, 1]);
        [narrowed(normalised(query) * scale, narrow), narrowed(normalised(key), narrow)]
    }
}

/// Vectors of length 1 in the accumulation type. What holds NaN or infinity is NaN and has no gradient.
fn normalised(tensor: Tensor<4>) -> Tensor<4> {
    let shape = tensor.dims();
    let (tensor, poisoned) = cleaned(wide(tensor));
    let norm = (tensor.clone() * tensor.clone()).sum_dim(3).add_scalar(1e-12).sqrt();
    (tensor / norm).mask_fill(poisoned.expand::<4, _>(shape), f64::NAN)
}

/// A tensor with vectors of 0 where one holds NaN or infinity, and where that was, `[.., 1]`.
fn cleaned(tensor: Tensor<4>) -> (Tensor<4>, Tensor<4, Bool>) {
    let shape = tensor.dims();
    let poisoned = tensor.clone().inner().is_finite().bool_not().any_dim(3);
    (tensor.mask_fill(poisoned.clone().expand::<4, _>(shape), 0.0), poisoned)
}

/// `x·W_h` of each head, `[B, H, S, D]·[H, D, C]`.
fn projected(x: Tensor<4>, weight: Tensor<3>) -> Tensor<4> {
    let ([batch, heads, length, dim], [_, _, d_out]) = (x.dims(), weight.dims());
    if batch * heads * length * dim * d_out == 0 {
        return Tensor::zeros([batch, heads, length, d_out], (&x.device(), x.dtype()));
    }
    x.matmul(weight.unsqueeze::<4>())
}
