//! Choosing keys by their scores, and taking what they hold.

use burn::tensor::{Bool, Distribution, Int, Tensor};

/// The key of the greatest score of each row `[B, H, Sq, K]`, the first among equals: `[B, H, Sq, 1]`; −1 where all are
/// `−inf`.
///
/// A score of NaN is the greatest, so that it is not passed by in silence. Made of a maximum, comparisons and a
/// minimum, for which every backend gives the same answer; argmax is free to choose among equals.
pub(super) fn greatest(scores: Tensor<4>) -> Tensor<4, Int> {
    let shape @ [batch, heads, rows, keys] = scores.dims();
    if batch * heads * rows * keys == 0 {
        return Tensor::full([batch, heads, rows, 1], -1, &scores.device());
    }
    let scores = comparable(scores);
    let max = scores.clone().max_dim(3);
    let nothing = max.clone().equal_elem(f64::NEG_INFINITY);
    let beaten = scores.not_equal(max.expand::<4, _>(shape));
    positions(shape, &nothing).mask_fill(beaten, keys as i64).min_dim(3).mask_fill(nothing, -1)
}

/// The `count` keys of the greatest scores of each row, the greatest first: `[B, H, Sq, count]`, −1 where no more are
/// visible; and where they are, `[B, H, Sq, K]`. `count` is at most K, and nothing is empty.
///
/// Few are taken one by one, in time `count·K` and with the first among equals; of more than [`ONE_BY_ONE`] all scores
/// of a row are sorted, which backends without a sort of their own (the GPUs) do on the host, and equals come as the
/// backend sorts them.
pub(super) fn greatest_of(scores: Tensor<4>, count: usize) -> (Tensor<4, Int>, Tensor<4, Bool>) {
    let shape = scores.dims();
    let mut left = comparable(scores);
    if count > ONE_BY_ONE {
        let visible = left.clone().not_equal_elem(f64::NEG_INFINITY);
        let (values, indices) = left.sort_descending_with_indices(3);
        let (values, indices) = (values.narrow(3, 0, count), indices.narrow(3, 0, count));
        let indices = indices.mask_fill(values.equal_elem(f64::NEG_INFINITY), -1);
        return (indices.clone(), if count == shape[3] { visible } else { marked(&indices, shape) });
    }
    let mut indices = Vec::with_capacity(count);
    for _ in 0..count {
        let index = greatest(left.clone());
        left = left.mask_fill(chosen(&index, shape), f64::NEG_INFINITY);
        indices.push(index);
    }
    let indices = Tensor::cat(indices, 3);
    (indices.clone(), marked(&indices, shape))
}

/// Keys that are taken one by one rather than sorted out: a pass over the scores each, of seven operations, against a
/// sort.
const ONE_BY_ONE: usize = 32;

/// With NaN as the greatest.
fn comparable(scores: Tensor<4>) -> Tensor<4> {
    let nan = scores.clone().is_nan();
    scores.mask_fill(nan, f64::INFINITY)
}

/// The number of each key, `[B, H, Sq, K]`, where `like` lies.
fn positions(shape: [usize; 4], like: &Tensor<4, Bool>) -> Tensor<4, Int> {
    let keys = shape[3];
    Tensor::<1, Int>::arange(0..keys as i64, &like.device()).reshape([1, 1, 1, keys]).expand::<4, _>(shape)
}

/// Where the one key of each row is: `index` `[B, H, Sq, 1]`, result `shape`; nowhere for −1.
pub(super) fn chosen(index: &Tensor<4, Int>, shape: [usize; 4]) -> Tensor<4, Bool> {
    let keys = Tensor::<1, Int>::arange(0..shape[3] as i64, &index.device()).reshape([1, 1, 1, shape[3]]);
    keys.expand::<4, _>(shape).equal(index.clone().expand::<4, _>(shape))
}

/// Where the keys of each row are: `indices` `[B, H, Sq, n]`.
fn marked(indices: &Tensor<4, Int>, shape: [usize; 4]) -> Tensor<4, Bool> {
    let [.., count] = indices.dims();
    let of = |at: usize| chosen(&indices.clone().narrow(3, at, 1), shape);
    (1..count).fold(of(0), |marked, at| marked.bool_or(of(at)))
}

/// Standard Gumbel noise shaped as the scores and of their type: `−ln(−ln u)` with u uniform in (0, 1), so that the
/// greatest of `s + noise` is key j with probability `softmax(s)_j` (Gumbel 1954).
pub(super) fn gumbel_noise(scores: &Tensor<4>) -> Tensor<4> {
    // Both ends are kept out of reach of the logarithms; 1 − 2⁻²⁴ is the greatest f32 below 1.
    let uniform = scores.clone().inner().random_like(Distribution::Uniform(0.0, 1.0));
    let uniform = uniform.clamp(1e-30, 1.0 - 0.5f64.powi(24));
    uniform.log().neg().log().neg()
}

/// The values of the keys chosen: value `[B, G, Sk, E]`, indices `[B, H, Sq, n]` below Sk, result `[B, H, Sq, n, E]`; 0
/// for −1.
///
/// What was not chosen is not read. Keys are not repeated for groups of heads.
pub(super) fn taken(value: Tensor<4>, indices: &Tensor<4, Int>) -> Tensor<5> {
    let ([batch, kv_heads, keys, dim], [_, heads, rows, count]) = (value.dims(), indices.dims());
    if batch * heads * rows * count * keys * dim == 0 {
        return Tensor::zeros([batch, heads, rows, count, dim], (&value.device(), value.dtype()));
    }
    let streams = batch * kv_heads;
    let first = Tensor::<1, Int>::arange(0..streams as i64, &indices.device()).mul_scalar(keys as i64);
    let nothing = indices.clone().lower_elem(0);
    let flat = indices.clone().clamp_min(0).reshape([streams, heads / kv_heads * rows * count]);
    let flat = (flat + first.reshape([streams, 1])).reshape([batch * heads * rows * count]);
    let taken = value.reshape([streams * keys, dim]).select(0, flat).reshape([batch, heads, rows, count, dim]);
    taken.mask_fill(
        nothing.reshape([batch, heads, rows, count, 1]).expand::<5, _>([batch, heads, rows, count, dim]),
        0.0,
    )
}
