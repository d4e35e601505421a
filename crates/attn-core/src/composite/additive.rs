//! Additive scores: the one score function of the literature that is no dot product, so that no kernel computes it.
//!
//! ```text
//! s(i, j) = Σ_a v_a · tanh(q_ia + k_ja)          query and key after their projections (Bahdanau et al. 2014)
//! ```
//!
//! The hidden layer of every pair, `Sq · Sk · A` numbers, is never whole in memory: queries are taken in runs, forward
//! and backward, and the backward computes it anew.

use std::ops::Range;

use burn_backend::tensor::FloatTensor;
use burn_backend::{Backend, Scalar, Shape, TensorMetadata};

use super::TILE_ELEMENTS;
use super::ops::{dims, grouped, join, part, reshape, times, ungrouped};
use crate::AttentionError;

/// Checked inputs, all of one element type.
struct Additive<B: Backend> {
    /// `[B, H, Sq, A]`.
    query: FloatTensor<B>,
    /// `[B, G, 1, Sk, A]`.
    key: FloatTensor<B>,
    /// `[1, H, 1, A]`.
    value: FloatTensor<B>,
    /// H, G, Sk, A.
    heads: usize,
    kv_heads: usize,
    key_len: usize,
    hidden: usize,
}

/// `s(i, j)` of query `[B, H, Sq, A]`, key `[B, G, Sk, A]` and value `[H, A]`, all of one element type: `[B, H, Sq,
/// Sk]`. H is a multiple of G.
///
/// # Errors
/// A shape error that names `query`, `key` or `value`.
pub fn additive_scores<B: Backend>(
    query: FloatTensor<B>,
    key: FloatTensor<B>,
    value: FloatTensor<B>,
) -> Result<FloatTensor<B>, AttentionError> {
    let (device, dtype) = (query.device(), query.dtype());
    check(&query.shape().to_vec(), &key.shape().to_vec(), &value.shape().to_vec())?;
    let shape = Shape::from([dims(&query)[0], dims(&query)[1], dims(&query)[2], dims(&key)[2]]);
    let Some(additive) = Additive::<B>::new(query, key, value) else {
        return Ok(B::float_zeros(shape, &device, dtype.into()));
    };
    let mut runs = additive.runs().map(|rows| additive.scores(&rows));
    match runs.next() {
        Some(first) => Ok(join::<B>(first, runs.collect(), 2)),
        None => Ok(B::float_zeros(shape, &device, dtype.into())),
    }
}

/// Gradients of query, key and value from that of their [`additive_scores`].
///
/// # Errors
/// As there.
pub fn additive_gradients<B: Backend>(
    query: FloatTensor<B>,
    key: FloatTensor<B>,
    value: FloatTensor<B>,
    grad: &FloatTensor<B>,
) -> Result<[FloatTensor<B>; 3], AttentionError> {
    let shapes = [query.shape(), key.shape(), value.shape()];
    check(&shapes[0].to_vec(), &shapes[1].to_vec(), &shapes[2].to_vec())?;
    let (device, dtype) = (query.device(), query.dtype());
    let mut whole: Option<[FloatTensor<B>; 2]> = None;
    let mut of_query = Vec::new();
    if let Some(additive) = Additive::<B>::new(query, key, value) {
        for rows in additive.runs() {
            let [query, key, value] = additive.gradients(grad, &rows);
            of_query.push(query);
            whole = Some(match whole {
                Some([a, b]) => [B::float_add(a, key), B::float_add(b, value)],
                None => [key, value],
            });
        }
    }
    let mut of_query = of_query.into_iter();
    match (of_query.next(), whole) {
        (Some(first), Some([key, value])) => Ok([
            join::<B>(first, of_query.collect(), 2),
            B::float_reshape(key, shapes[1].clone()),
            B::float_reshape(value, shapes[2].clone()),
        ]),
        _ => Ok(shapes.map(|shape| B::float_zeros(shape, &device, dtype.into()))),
    }
}

fn check(query: &[usize], key: &[usize], value: &[usize]) -> Result<(), AttentionError> {
    let &[batch, heads, _, hidden] = query else {
        return Err(AttentionError::shape("query", "[batch, heads, query_len, hidden]", query));
    };
    let fits = matches!(key, &[b, g, _, a] if [b, a] == [batch, hidden] && (heads == 0 || g > 0 && heads % g == 0));
    if !fits {
        let expected = format!("[{batch}, a divisor of {heads} heads, key_len, {hidden}]");
        return Err(AttentionError::shape("key", expected, key));
    }
    match value == [heads, hidden] {
        true => Ok(()),
        false => Err(AttentionError::shape("value", format!("[{heads}, {hidden}]"), value)),
    }
}

impl<B: Backend> Additive<B> {
    /// From checked inputs; nothing where there is no number to compute.
    fn new(query: FloatTensor<B>, key: FloatTensor<B>, value: FloatTensor<B>) -> Option<Self> {
        let ([batch, heads, query_len, hidden], [_, kv_heads, key_len, _]) = (dims(&query), dims(&key));
        if batch * heads * query_len * key_len * hidden == 0 {
            return None;
        }
        let key = reshape::<B, 5>(key, [batch, kv_heads, 1, key_len, hidden]);
        let value = reshape::<B, 4>(value, [1, heads, 1, hidden]);
        Some(Self { query, key, value, heads, kv_heads, key_len, hidden })
    }

    /// Queries whose hidden layer is in memory at once: a tile's number of elements, or one query's.
    fn runs(&self) -> impl Iterator<Item = Range<usize>> + use<B> {
        let [batch, heads, query_len, hidden] = dims(&self.query);
        let step = (TILE_ELEMENTS / (batch * heads * self.key_len * hidden)).max(1);
        (0..query_len).step_by(step).map(move |start| start..(start + step).min(query_len))
    }

    /// `tanh(q + k)` of a run, `[B, G, H/G·r, Sk, A]`.
    fn hidden(&self, rows: &Range<usize>) -> FloatTensor<B> {
        let [batch, heads, _, hidden] = dims(&self.query);
        let query = part::<B>(&self.query, [0..batch, 0..heads, rows.clone(), 0..hidden]);
        let query = self.beside_keys(grouped::<B>(query, self.kv_heads));
        B::float_tanh(B::float_add(query, self.key.clone()))
    }

    /// v for each query of a run, `[1, G, H/G·r, 1, A]`.
    fn values(&self, rows: &Range<usize>) -> FloatTensor<B> {
        let shape = Shape::from([1, self.heads, rows.len(), self.hidden]);
        self.beside_keys(grouped::<B>(B::float_expand(self.value.clone(), shape), self.kv_heads))
    }

    /// `[b, G, n, A]` as `[b, G, n, 1, A]`.
    fn beside_keys(&self, tensor: FloatTensor<B>) -> FloatTensor<B> {
        let [batch, kv_heads, rows, hidden] = dims(&tensor);
        reshape::<B, 5>(tensor, [batch, kv_heads, rows, 1, hidden])
    }

    /// Scores of a run, `[B, H, r, Sk]`.
    fn scores(&self, rows: &Range<usize>) -> FloatTensor<B> {
        let batch = dims(&self.query)[0];
        let products = B::float_mul(self.hidden(rows), self.values(rows));
        let group = self.heads / self.kv_heads * rows.len();
        let sums = reshape::<B, 4>(B::float_sum_dim(products, 4), [batch, self.kv_heads, group, self.key_len]);
        ungrouped::<B>(sums, self.heads)
    }

    /// Gradients by a run: of its queries `[B, H, r, A]`, of all keys `[B, G, 1, Sk, A]`, of v `[1, H, 1, A]`.
    ///
    /// With t the hidden layer: `dv = Σ ds·t`, and by the sum inside the tanh `du = ds · v · (1 − t²)`, `dq = Σ_j du`,
    /// `dk = Σ_i du`.
    fn gradients(&self, grad: &FloatTensor<B>, rows: &Range<usize>) -> [FloatTensor<B>; 3] {
        let [batch, heads, _, hidden] = dims(&self.query);
        let group = heads / self.kv_heads * rows.len();
        let grad = part::<B>(grad, [0..batch, 0..heads, rows.clone(), 0..self.key_len]);
        let grad = reshape::<B, 5>(grad, [batch, self.kv_heads, group, self.key_len, 1]);
        let tanh = self.hidden(rows);
        let of_value = B::float_sum_dim(B::float_mul(tanh.clone(), grad.clone()), 3);
        let of_value = reshape::<B, 4>(of_value, [batch, heads, rows.len(), hidden]);
        let of_value = B::float_sum_dim(B::float_sum_dim(of_value, 2), 0);

        let slope = B::float_add_scalar(times::<B>(B::float_mul(tanh.clone(), tanh), -1.0), Scalar::Float(1.0));
        let of_sum = B::float_mul(B::float_mul(slope, self.values(rows)), grad);
        let of_query = reshape::<B, 4>(B::float_sum_dim(of_sum.clone(), 3), [batch, heads, rows.len(), hidden]);
        [of_query, B::float_sum_dim(of_sum, 2), of_value]
    }
}
