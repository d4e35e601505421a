//! Linear attention over heads: feature maps, the parallel form, and the recurrent form as a state.

use attn_core::{AttentionError, AttentionSpec, Mask, Problem, ProblemInputs};
use burn::config::Config;
use burn::tensor::{Bool, DType, Device, Tensor, activation};

use crate::attention::{check_devices, check_dtypes, info};
use crate::nn::parts;

/// Positions of a chunk of the causal form. Within a chunk `CHUNK` scores a position are made, between chunks `D·E / CHUNK`
/// numbers of state a position are kept: 64 makes both small beside `D·E` at the usual D and E of 64.
const CHUNK: usize = 64;

/// φ, which makes features of queries and keys.
#[derive(Config, Debug, Copy, PartialEq, Eq)]
pub enum FeatureMap {
    /// `elu(x) + 1 = exp(min(x, 0)) + max(x, 0)` (Katharopoulos et al. 2020).
    EluPlusOne,
    /// `max(x, 0)`. A query without a feature above 0 sees nothing.
    Relu,
    /// `exp(x)` over its sum along the features, so that no feature overflows.
    Softmax,
    /// `x`. Weights may be negative, and their sum may be near 0.
    Identity,
}

impl FeatureMap {
    /// Applies the map along the last axis.
    pub fn apply<const N: usize>(self, input: Tensor<N>) -> Tensor<N> {
        if input.shape().num_elements() == 0 {
            return input;
        }
        match self {
            Self::EluPlusOne => input.clone().clamp_max(0.0).exp() + activation::relu(input),
            Self::Relu => activation::relu(input),
            Self::Softmax => activation::softmax(input, N - 1),
            Self::Identity => input,
        }
    }
}

/// Attention whose weights are products of features (Katharopoulos et al. 2020), in time linear in the length.
///
/// Axes: B batch, H heads, Sq/Sk query/key length, D head dimension, E value dimension.
///
/// ```text
/// out_i = φ(q_i)ᵀ S_i / φ(q_i)ᵀ z_i        S_i = Σ_j φ(k_j) v_jᵀ   [D, E]        z_i = Σ_j φ(k_j)   [D]
/// ```
///
/// with the sums over the keys that query i sees: all, or with `causal` those up to its position, the last query at the last key.
/// A row that sees nothing, or whose weights sum to exactly 0, gives 0; no epsilon is added. `key_padding` `[B, Sk]` tells which
/// keys are there; what stands at the others has no influence. There is no scale and no score: no kernel of the contract serves
/// this.
///
/// Time in `(Sq + Sk)·D·E`, and with `causal` in `Sk·(D·E + C·(D + E))` for chunks of C = 64 positions: within a chunk a masked
/// product, between chunks a running sum of states. Memory in `Sk·(D + E + C + D·E/C)`. Sums are in f32 (f64 for f64).
///
/// # Errors
/// An [`AttentionError`] that names `query`, `key`, `value` or `key_padding`, before any work starts.
pub fn linear_attention(
    query: Tensor<4>,
    key: Tensor<4>,
    value: Tensor<4>,
    key_padding: Option<Mask<Tensor<2, Bool>>>,
    map: FeatureMap,
    causal: bool,
) -> Result<Tensor<4>, AttentionError> {
    let [batch, heads, query_len, head_dim] = query.dims();
    let [_, _, key_len, value_dim] = value.dims();
    let state = LinearState::new([batch, heads, head_dim, value_dim], map, (&query.device(), query.dtype()))?;
    let keep = state.check(&query, &key, &value, key_padding)?;
    if !causal || query_len == 0 {
        return Ok(state.absorbed(key, value, keep.as_ref()).attend(query));
    }
    let (device, dtype) = (query.device(), query.dtype());
    let ahead = key_len.saturating_sub(query_len);
    let unseeing = query_len.saturating_sub(key_len);
    let part = |keep: &Option<Tensor<2, Bool>>, start, length| keep.clone().map(|keep| keep.narrow(1, start, length));
    let mut state = state;
    let (mut key, mut value, mut last) = (key, value, keep.clone());
    if ahead > 0 {
        let first = part(&keep, 0, ahead);
        state = state.absorbed(key.clone().narrow(2, 0, ahead), value.clone().narrow(2, 0, ahead), first.as_ref());
        key = key.narrow(2, ahead, query_len);
        value = value.narrow(2, ahead, query_len);
        last = part(&keep, ahead, query_len);
    }
    if unseeing == 0 {
        return Ok(state.extended(query, key, value, last.as_ref()).0);
    }
    let nothing = Tensor::zeros([batch, heads, unseeing, value_dim], (&device, dtype));
    if key_len == 0 {
        return Ok(nothing);
    }
    let out = state.extended(query.narrow(2, unseeing, key_len), key, value, last.as_ref()).0;
    Ok(Tensor::cat(vec![nothing, out], 2))
}

/// The sums of the keys and values seen so far, all that linear attention needs to go on: the recurrent form.
///
/// ```text
/// S ← S + φ(k) vᵀ        z ← z + φ(k)        out = φ(q)ᵀ S / φ(q)ᵀ z
/// ```
///
/// Its size, `B·H·D·(E + 1)`, does not grow with the number of positions. Sums are in f32 (f64 for f64).
#[derive(Debug, Clone)]
pub struct LinearState {
    /// S with z as a last column, `[B, H, D, E + 1]`.
    sums: Tensor<4>,
    map: FeatureMap,
    dtype: DType,
}

impl LinearState {
    /// The state that has seen nothing, for sizes `[B, H, D, E]`, on a device and for inputs of an element type.
    ///
    /// # Errors
    /// A type error that names `dtype` where it is no float, a shape error that names `query` if D is 0.
    pub fn new(sizes: [usize; 4], map: FeatureMap, (device, dtype): (&Device, DType)) -> Result<Self, AttentionError> {
        let [batch, heads, head_dim, value_dim] = sizes;
        check_dtypes("dtype", dtype, &[])?;
        if head_dim == 0 {
            return Err(AttentionError::shape("query", "[_, _, _, head_dim of at least 1]", &sizes));
        }
        let options = (device, parts::accumulation(dtype));
        Ok(Self { sums: Tensor::zeros([batch, heads, head_dim, value_dim + 1], options), map, dtype })
    }

    /// S, `[B, H, D, E]`.
    pub fn s(&self) -> Tensor<4> {
        let [batch, heads, head_dim, columns] = self.sums.dims();
        if columns == 1 {
            return Tensor::zeros([batch, heads, head_dim, 0], (&self.sums.device(), self.sums.dtype()));
        }
        self.sums.clone().narrow(3, 0, columns - 1)
    }

    /// z, `[B, H, D]`.
    pub fn z(&self) -> Tensor<3> {
        let [batch, heads, head_dim, columns] = self.sums.dims();
        self.sums.clone().narrow(3, columns - 1, 1).reshape([batch, heads, head_dim])
    }

    /// Goes on by n positions, causally: `query` and `key` `[B, H, n, D]`, `value` `[B, H, n, E]`; `key_padding` `[B, n]` tells
    /// which of them are there. Gives their output, `[B, H, n, E]`, and the state after them.
    ///
    /// # Errors
    /// An [`AttentionError`] that names `query`, `key`, `value` or `key_padding`, before any work starts.
    pub fn step(
        self,
        query: Tensor<4>,
        key: Tensor<4>,
        value: Tensor<4>,
        key_padding: Option<Mask<Tensor<2, Bool>>>,
    ) -> Result<(Tensor<4>, Self), AttentionError> {
        let keep = self.check(&query, &key, &value, key_padding)?;
        if query.dims()[2] != key.dims()[2] {
            let expected = format!("[_, _, {}, _] (as many as queries)", query.dims()[2]);
            return Err(AttentionError::shape("key", expected, &key.dims()));
        }
        Ok(self.extended(query, key, value, keep.as_ref()))
    }

    /// Shapes, types and devices; gives what the padding keeps.
    fn check(
        &self,
        query: &Tensor<4>,
        key: &Tensor<4>,
        value: &Tensor<4>,
        key_padding: Option<Mask<Tensor<2, Bool>>>,
    ) -> Result<Option<Tensor<2, Bool>>, AttentionError> {
        let [batch, heads, head_dim, columns] = self.sums.dims();
        let device = self.sums.device();
        let arguments = [("query", query), ("key", key), ("value", value)];
        check_devices(&device, &arguments.map(|(argument, tensor)| (argument, Some(tensor.device()))))?;
        check_dtypes("query", self.dtype, &arguments.map(|(argument, tensor)| (argument, tensor.dtype())))?;
        Problem::new(&AttentionSpec::new(), &ProblemInputs::new(info(query), info(key), info(value)))?;
        let ([_, _, query_len, _], [_, _, key_len, _]) = (query.dims(), key.dims());
        parts::check_shape("query", &query.dims(), &[batch, heads, query_len, head_dim])?;
        parts::check_shape("key", &key.dims(), &[batch, heads, key_len, head_dim])?;
        parts::check_shape("value", &value.dims(), &[batch, heads, key_len, columns - 1])?;
        key_padding.map(|mask| parts::check_mask("key_padding", mask, [batch, key_len], &device)).transpose()
    }

    /// Features of keys, and values with a column of ones, both 0 where nothing is kept.
    fn features(&self, key: Tensor<4>, value: Tensor<4>, keep: Option<&Tensor<2, Bool>>) -> [Tensor<4>; 2] {
        let [batch, heads, length, _] = key.dims();
        let wide = parts::accumulation(self.dtype);
        let keep = keep.map(|keep| keep.clone().reshape([batch, 1, length]).expand::<3, _>([batch, heads, length]));
        let key = self.map.apply(parts::without_padding(key.cast(wide), keep.as_ref()));
        let value = parts::without_padding(value.cast(wide), keep.as_ref());
        let ones = Tensor::ones([batch, heads, length, 1], (&key.device(), wide));
        // A column of ones sums the features themselves: z beside S.
        let value = if value.dims()[3] == 0 { ones } else { Tensor::cat(vec![value, ones], 3) };
        [parts::without_padding(key, keep.as_ref()), value]
    }

    /// The state after more keys and values.
    fn absorbed(mut self, key: Tensor<4>, value: Tensor<4>, keep: Option<&Tensor<2, Bool>>) -> Self {
        if key.shape().num_elements() > 0 {
            let [key, value] = self.features(key, value, keep);
            self.sums = self.sums + key.swap_dims(2, 3).matmul(value);
        }
        self
    }

    /// What queries that see the whole state get.
    fn attend(&self, query: Tensor<4>) -> Tensor<4> {
        let [batch, heads, length, _] = query.dims();
        let [_, _, _, columns] = self.sums.dims();
        if query.shape().num_elements() == 0 {
            return Tensor::zeros([batch, heads, length, columns - 1], (&query.device(), self.dtype));
        }
        let query = self.map.apply(query.cast(parts::accumulation(self.dtype)));
        normalised(query.matmul(self.sums.clone())).cast(self.dtype)
    }

    /// n positions more, causally: their output, and the state after them.
    fn extended(
        self,
        query: Tensor<4>,
        key: Tensor<4>,
        value: Tensor<4>,
        keep: Option<&Tensor<2, Bool>>,
    ) -> (Tensor<4>, Self) {
        let [batch, heads, length, _] = query.dims();
        if query.shape().num_elements() == 0 {
            return (self.attend(query), self);
        }
        let [key, value] = self.features(key, value, keep);
        let query = self.map.apply(query.cast(parts::accumulation(self.dtype)));
        // Chunks of equal length, the last filled with features of 0, which add nothing: [B·H, chunks, chunk, _].
        let size = CHUNK.min(length);
        let chunks = length.div_ceil(size);
        let chunked = |tensor: Tensor<4>| {
            let [_, _, _, features] = tensor.dims();
            let missing = chunks * size - length;
            let tensor = if missing == 0 {
                tensor
            } else {
                let shape = [batch, heads, missing, features];
                let zeros = Tensor::zeros(shape, (&tensor.device(), tensor.dtype()));
                Tensor::cat(vec![tensor, zeros], 2)
            };
            tensor.reshape([batch * heads, chunks, size, features])
        };
        let [query, key, value] = [query, key, value].map(chunked);
        let [_, _, head_dim, columns] = self.sums.dims();
        let before = self.sums.reshape([batch * heads, 1, head_dim, columns]);
        let states = Tensor::cat(vec![before, key.clone().swap_dims(2, 3).matmul(value.clone())], 1).cumsum(1);
        let later = Tensor::<2, Bool>::tril_mask([size, size], 0, &query.device());
        let later = later.reshape([1, 1, size, size]).expand::<4, _>([batch * heads, chunks, size, size]);
        let scores = query.clone().matmul(key.swap_dims(2, 3)).mask_fill(later, 0.0);
        let sums = scores.matmul(value) + query.matmul(states.clone().narrow(1, 0, chunks));
        let sums = sums.reshape([batch, heads, chunks * size, columns]).narrow(2, 0, length);
        let after = states.narrow(1, chunks, 1).reshape([batch, heads, head_dim, columns]);
        (normalised(sums).cast(self.dtype), Self { sums: after, ..self })
    }
}

/// All columns but the last over the last; 0 where that is 0.
fn normalised(sums: Tensor<4>) -> Tensor<4> {
    let [batch, heads, length, columns] = sums.dims();
    let value_dim = columns - 1;
    if value_dim == 0 {
        return Tensor::zeros([batch, heads, length, 0], (&sums.device(), sums.dtype()));
    }
    let total = sums.clone().narrow(3, value_dim, 1);
    let nothing = total.clone().equal_elem(0.0);
    let shape = [batch, heads, length, value_dim];
    let out = sums.narrow(3, 0, value_dim) / total.mask_fill(nothing.clone(), 1.0);
    out.mask_fill(nothing.expand::<4, _>(shape), 0.0)
}
