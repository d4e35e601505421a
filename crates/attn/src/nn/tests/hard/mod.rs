//! Tests of hard attention.

mod gumbel;
mod sampled;
mod top_k;

use burn::tensor::{DType, Device, FloatDType, Int, Tensor};

use super::{elements, noise};
use crate::Selection;
use crate::nn::{AttentionOptions, GumbelAttentionConfig, SampledAttentionConfig, TopKAttentionConfig};

/// Batch, heads, key/value heads, lengths, head dimension, value dimension.
const SIZES: [usize; 7] = [2, 4, 2, 5, 6, 3, 2];

fn inputs(device: &Device) -> [Tensor<4>; 3] {
    let [batch, heads, kv_heads, query_len, key_len, dim, value_dim] = SIZES;
    [
        noise([batch, heads, query_len, dim], 1, device).mul_scalar(2.0),
        noise([batch, kv_heads, key_len, dim], 2, device),
        noise([batch, kv_heads, key_len, value_dim], 3, device),
    ]
}

fn integers(tensor: Tensor<4, Int>) -> Vec<i64> {
    tensor.into_data().convert::<i64>().try_to_vec::<i64>().unwrap()
}

#[test]
fn narrow_types_come_back_as_they_came() {
    // NdArray has no such type.
    let Ok(device) = crate::device("flex") else { return };
    for device in [device.clone(), device.autodiff()] {
        let [query, key, value] = inputs(&device).map(|tensor| tensor.cast(FloatDType::BF16));
        let options = AttentionOptions::new().with_weights(Selection::all()).with_lse();
        let gumbel = GumbelAttentionConfig::new().init().unwrap();
        let gumbel = gumbel.forward(query.clone(), key.clone(), value.clone(), &options).unwrap();
        let sampled = SampledAttentionConfig::new().with_samples(3).init(&device).unwrap();
        let output = sampled.forward(query.clone(), key.clone(), value.clone(), &options).unwrap();
        let loss = sampled.surrogate(&output, Tensor::zeros([2], (&device, DType::BF16))).unwrap();
        let top_k = TopKAttentionConfig::new(2).init().unwrap().forward(query, key, value, &options).unwrap();
        for out in [gumbel.out, output.out, top_k.out] {
            assert_eq!(out.dtype(), DType::BF16);
        }
        for wide in [gumbel.weights, output.weights, top_k.weights, Some(output.log_probs)] {
            assert_eq!(wide.unwrap().dtype(), DType::F32);
        }
        assert_eq!(loss.dtype(), DType::F32);
    }
}

/// The rows of scaled dot products, `[batch · heads · queries][keys]`, in f64; keys that `shown(i, j)` denies are
/// `−inf`.
fn rows(query: Tensor<4>, key: Tensor<4>, shown: impl Fn(usize, usize) -> bool) -> Vec<Vec<f64>> {
    let ([batch, heads, query_len, dim], [_, kv_heads, key_len, _]) = (query.dims(), key.dims());
    let (q, k) = (elements(query), elements(key));
    let mut rows = Vec::new();
    for (b, h, i) in places(batch, heads, query_len) {
        let q = &q[((b * heads + h) * query_len + i) * dim..][..dim];
        let of = |j: usize| {
            let k = &k[((b * kv_heads + h / (heads / kv_heads)) * key_len + j) * dim..][..dim];
            let dot: f64 = q.iter().zip(k).map(|(q, k)| q * k).sum();
            if shown(i, j) { dot / (dim as f64).sqrt() } else { f64::NEG_INFINITY }
        };
        rows.push((0..key_len).map(of).collect());
    }
    rows
}

/// Batch entry, head and query of each row, in order.
fn places(batch: usize, heads: usize, query_len: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    (0..batch * heads * query_len).map(move |at| (at / query_len / heads, at / query_len % heads, at % query_len))
}

/// `Σ weight · v_j` of a row's keys.
fn mixed(value: &Tensor<4>, (b, h): (usize, usize), heads: usize, weights: &[(usize, f64)]) -> Vec<f64> {
    let [_, kv_heads, key_len, dim] = value.dims();
    let v = elements(value.clone());
    let at = |j: usize, e: usize| v[((b * kv_heads + h / (heads / kv_heads)) * key_len + j) * dim + e];
    (0..dim).map(|e| weights.iter().map(|&(j, weight)| weight * at(j, e)).sum()).collect()
}

fn softmax(row: &[f64]) -> Vec<f64> {
    let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let max = if max == f64::NEG_INFINITY { 0.0 } else { max };
    let exps: Vec<f64> = row.iter().map(|s| (s - max).exp()).collect();
    let sum: f64 = exps.iter().sum();
    exps.iter().map(|e| if sum == 0.0 { 0.0 } else { e / sum }).collect()
}

/// The visible keys of a row, the greatest score first.
fn ranked(row: &[f64]) -> Vec<usize> {
    let mut keys: Vec<usize> = (0..row.len()).filter(|&j| row[j] > f64::NEG_INFINITY).collect();
    keys.sort_by(|&a, &b| row[b].total_cmp(&row[a]));
    keys
}
