//! The score functions and their parameters.

use attn_core::AttentionError;
use burn::module::{Module, Param};
use burn::tensor::{Bool, DType, FloatDType, Tensor};

use crate::attention::{check_devices, check_dtypes};
use crate::nn::normalise::wide;

/// A score function, by its kind.
#[derive(Module, Debug)]
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
                parameter("additive.value", &additive.value, [h, a, 1], query)
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
/// `q·W` `[B, H, Sq, C]` is a query of which any kernel takes the dot product with the keys: linear memory, and keys are not repeated
/// for groups of heads. Costs `B·H·Sq·D·C` multiply-adds beside the attention.
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
/// No dot product: the hidden layer of every pair is computed, `B·H·Sq·Sk·A` of it, and only a run of queries at a time is in memory,
/// 4 Mi numbers (or one query's). What stays is the scores, `[B, H, Sq, Sk]` in the inputs' type, which the kernel takes as a bias.
/// **In training** the hidden layers of all runs stay until the backward pass, so that memory grows with `Sq·Sk·A`; on a device
/// with gradient checkpointing Burn may compute them anew.
#[derive(Module, Debug)]
pub struct AdditiveScore {
    /// `W_q [H, D, A]`.
    pub query: Param<Tensor<3>>,
    /// `W_k [G, C, A]`.
    pub key: Param<Tensor<3>>,
    /// `b [H, A]`.
    pub bias: Param<Tensor<2>>,
    /// `v [H, A, 1]`.
    pub value: Param<Tensor<3>>,
}

/// Numbers of the hidden layer in memory at once: 16 MiB in f32, as a tile of the composite.
pub(crate) const HIDDEN_ELEMENTS: usize = 1 << 22;

impl AdditiveScore {
    /// Scores `[B, H, Sq, Sk]` in the inputs' type, summed up in the accumulation type.
    pub(super) fn scores(&self, query: Tensor<4>, key: Tensor<4>) -> Tensor<4> {
        let ([batch, heads, query_len, _], [_, kv_heads, key_len, _]) = (query.dims(), key.dims());
        let (narrow, device) = (query.dtype(), query.device());
        if batch * heads * query_len * key_len == 0 {
            return Tensor::zeros([batch, heads, query_len, key_len], (&device, narrow));
        }
        let [_, hidden] = self.bias.val().dims();
        // A poisoned key that is hidden must not reach the gradients of the queries and parameters.
        let (key, poisoned) = cleaned(wide(key));
        let query =
            projected(wide(query), wide(self.query.val())) + wide(self.bias.val()).reshape([1, heads, 1, hidden]);
        let key = projected(key, wide(self.key.val())).reshape([batch, kv_heads, 1, key_len, hidden]);
        let key = key.repeat_dim(2, heads / kv_heads).reshape([batch, heads, 1, key_len, hidden]);
        let value = wide(self.value.val()).reshape([1, heads, hidden, 1]);
        let rows = (HIDDEN_ELEMENTS / (batch * heads * key_len * hidden)).clamp(1, query_len);
        let of_rows = |start: usize| {
            let rows = rows.min(query_len - start);
            let query = query.clone().narrow(2, start, rows).reshape([batch, heads, rows, 1, hidden]);
            let hidden = (query + key.clone()).tanh().reshape([batch, heads, rows * key_len, hidden]);
            hidden.matmul(value.clone()).reshape([batch, heads, rows, key_len])
        };
        let scores = Tensor::cat((0..query_len).step_by(rows).map(of_rows).collect(), 2);
        let poisoned = poisoned.reshape([batch, kv_heads, 1, key_len]).repeat_dim(2, heads / kv_heads);
        let poisoned = poisoned.reshape([batch, heads, 1, key_len]).expand::<4, _>([batch, heads, query_len, key_len]);
        narrowed(scores.mask_fill(poisoned, f64::NAN), narrow)
    }
}

/// `score(i, j) = t_h · q_i·k_j / (‖q_i‖ ‖k_j‖)` with `t_h = exp(min(log_scale_h, ln max_scale))` (Liu et al. 2022, Swin v2).
///
/// Scores lie within ±max_scale whatever the inputs. The normalised query, times t, and the normalised key are what any kernel takes:
/// linear memory. Norms are computed in the accumulation type, as `√(‖x‖² + 10⁻¹²)`, so that a vector of zeros scores 0 and has a
/// gradient.
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

/// Back in the inputs' type.
fn narrowed(tensor: Tensor<4>, dtype: DType) -> Tensor<4> {
    if tensor.dtype() == dtype { tensor } else { tensor.cast(FloatDType::from(dtype)) }
}
