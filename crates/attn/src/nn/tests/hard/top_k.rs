//! Tests of attention to the best-scoring keys.

use attn_core::{AttentionError, AttentionSpec, KernelChoice, Mask};
use burn::tensor::Tensor;

use super::super::{
    Input, assert_agreement, assert_close, assert_gradients, bools, elements, noise, plain, reference_device,
};
use super::{SIZES, inputs, integers, mixed, places, ranked, rows, softmax};
use crate::Selection;
use crate::nn::{AttentionOptions, TopKAttentionConfig, TopKAttentionOutput};

fn attend(k: usize, [query, key, value]: [Tensor<4>; 3], options: &AttentionOptions) -> TopKAttentionOutput {
    TopKAttentionConfig::new(k).init().unwrap().forward(query, key, value, options).unwrap()
}

/// Output and choices by sorting.
fn check(k: usize, inputs: [Tensor<4>; 3], options: &AttentionOptions, shown: impl Fn(usize, usize) -> bool) {
    let [query, key, value] = inputs.clone();
    let [batch, heads, query_len, _] = query.dims();
    let count = k.min(key.dims()[2]);
    let found = attend(k, inputs, &options.clone().with_weights(Selection::all()).with_lse());
    let (indices, out) = (integers(found.indices), elements(found.out));
    let (weights, lse) = (elements(found.weights.unwrap()), elements(found.lse.unwrap()));
    let (key_len, value_dim) = (key.dims()[2], value.dims()[3]);
    let rows = rows(query, key, shown);
    for (at, (b, h, _)) in places(batch, heads, query_len).enumerate() {
        let best: Vec<usize> = ranked(&rows[at]).into_iter().take(k).collect();
        let mut wanted: Vec<i64> = best.iter().map(|&j| j as i64).collect();
        wanted.resize(count, -1);
        assert_eq!(indices[at * count..][..count], wanted, "row {at}");
        let scores: Vec<f64> = best.iter().map(|&j| rows[at][j]).collect();
        let kept: Vec<(usize, f64)> = best.iter().copied().zip(softmax(&scores)).collect();
        for (e, wanted) in mixed(&value, (b, h), heads, &kept).into_iter().enumerate() {
            let found = out[at * value_dim + e];
            assert!((found - wanted).abs() < 1e-5, "row {at}: {found} in place of {wanted}");
        }
        for j in 0..key_len {
            let wanted = kept.iter().find(|(key, _)| *key == j).map_or(0.0, |(_, weight)| *weight);
            assert!((weights[at * key_len + j] - wanted).abs() < 1e-5, "row {at}, key {j}");
        }
        let wanted = scores.iter().map(|s| s.exp()).sum::<f64>().ln();
        assert!(lse[at] == wanted || (lse[at] - wanted).abs() < 1e-5, "row {at}: {} for {wanted}", lse[at]);
    }
}

#[test]
fn it_is_softmax_over_the_best() {
    let device = reference_device();
    for k in [1, 2, 5, 6, 9] {
        check(k, inputs(&device), &AttentionOptions::new(), |_, _| true);
        // Causal with five queries and six keys: query i sees i + 2 of them, at times fewer than k.
        let causal = AttentionOptions::new().spec(AttentionSpec::new().with_causal(true));
        check(k, inputs(&device), &causal, |i, j| j <= i + 1);
        // Query 2 sees nothing.
        let shown = |i: usize, j: usize| i != 2 && !(i + j).is_multiple_of(3);
        let mask = bools([1, 1, SIZES[3], SIZES[4]], |at| shown(at / SIZES[4], at % SIZES[4]), &device);
        check(k, inputs(&device), &AttentionOptions::new().mask(Mask::keep(mask)), shown);
    }
}

#[test]
fn many_keys_are_sorted_out_and_few_taken_one_by_one_to_the_same_end() {
    let device = reference_device();
    let inputs = [noise([1, 2, 3, 4], 1, &device), noise([1, 1, 50, 4], 2, &device), noise([1, 1, 50, 3], 3, &device)];
    let causal = AttentionOptions::new().spec(AttentionSpec::new().with_causal(true).with_window(Some(38), None));
    for k in [31, 32, 33, 40, 49, 50, 51] {
        check(k, inputs.clone(), &AttentionOptions::new(), |_, _| true);
        check(k, inputs.clone(), &causal, |i, j| j <= i + 47 && j + 38 >= i + 47);
    }
}

#[test]
fn with_k_of_all_keys_it_is_plain_attention() {
    let device = reference_device();
    let [query, key, value] = inputs(&device);
    let wanted = plain(query, key, value, None);
    for k in [6, 100] {
        assert_close(attend(k, inputs(&device), &AttentionOptions::new()).out, wanted.clone(), 1e-6);
    }
}

#[test]
fn equals_come_first_to_last() {
    let device = reference_device();
    let ones = |shape: [usize; 4]| Tensor::<4>::ones(shape, &device);
    let found = attend(3, [ones([1, 1, 2, 3]), ones([1, 1, 5, 3]), ones([1, 1, 5, 1])], &AttentionOptions::new());
    assert_eq!(integers(found.indices), [0, 1, 2, 0, 1, 2]);
}

#[test]
fn a_sink_takes_weight_beside_the_chosen() {
    let device = reference_device();
    let sinks = Tensor::<1>::from_floats([0.3, -1.0, 0.0, 2.0], &device);
    let options = AttentionOptions::new().with_lse();
    let without = attend(2, inputs(&device), &options);
    let with = attend(2, inputs(&device), &options.sinks(sinks.clone()));
    assert_eq!(integers(with.indices), integers(without.indices));
    let lse = (without.lse.unwrap().exp() + sinks.exp().reshape([1, SIZES[1], 1])).log();
    assert_close(with.lse.unwrap(), lse, 1e-5);
}

#[test]
fn hidden_nan_is_not_chosen_and_visible_nan_is_not_passed_by() {
    let device = reference_device().autodiff();
    let [query, key, value] = inputs(&device);
    let poison = |tensor: Tensor<4>| {
        let [batch, heads, _, dim] = tensor.dims();
        Tensor::cat(vec![tensor, Tensor::full([batch, heads, 2, dim], f32::NAN, &device)], 2).require_grad()
    };
    let (bad_key, bad_value) = (poison(key.clone()), poison(value.clone()));
    let lengths = AttentionOptions::new().kv_lens(vec![SIZES[4]; SIZES[0]]);
    for k in [2, 40] {
        let query = query.clone().require_grad();
        let found = attend(k, [query.clone(), bad_key.clone(), bad_value.clone()], &lengths);
        let wanted = attend(k, [query.clone(), key.clone(), value.clone()], &AttentionOptions::new());
        assert_close(found.out.clone().inner(), wanted.out.inner(), 1e-6);
        let grads = found.out.sum().backward();
        for tensor in [&query, &bad_key, &bad_value] {
            assert!(elements(tensor.grad(&grads).unwrap()).iter().all(|grad| grad.is_finite()));
        }
        let seen = attend(k, [query, bad_key.clone(), bad_value.clone()], &AttentionOptions::new());
        assert!(elements(seen.out).iter().all(|out| out.is_nan()));
    }
}

#[test]
fn gradients_are_central_differences() {
    let inputs = inputs(&reference_device()).map(Input::new);
    let [query, key, value] = inputs;
    let layer = TopKAttentionConfig::new(3).init().unwrap();
    assert_gradients((query, (key, value)), |(query, (key, value))| {
        let options = AttentionOptions::new().spec(AttentionSpec::new().with_causal(true));
        let out = layer.forward(query.value(), key.value(), value.value(), &options).unwrap().out;
        (out.clone() * out).sum()
    });
}

#[test]
fn every_backend_gives_the_same() {
    let causal = AttentionOptions::new().spec(AttentionSpec::new().with_causal(true));
    assert_agreement(1e-5, |device| attend(3, inputs(device), &causal).out);
    assert_agreement(0.0, |device| attend(3, inputs(device), &causal).indices.float());
    assert_agreement(0.0, |device| {
        let inputs = [noise([1, 2, 3, 4], 1, device), noise([1, 1, 50, 4], 2, device), noise([1, 1, 50, 3], 3, device)];
        attend(40, inputs, &causal).indices.float()
    });
}

#[test]
fn empty_and_wrong_input() {
    let device = reference_device();
    for (batch, query_len, key_len) in [(0, 3, 4), (2, 0, 4), (2, 3, 0), (0, 0, 0)] {
        let zeros = |shape: [usize; 4]| Tensor::<4>::zeros(shape, &device);
        let inputs = [zeros([batch, 2, query_len, 3]), zeros([batch, 1, key_len, 3]), zeros([batch, 1, key_len, 5])];
        let found = attend(2, inputs, &AttentionOptions::new());
        assert_eq!(found.out.dims(), [batch, 2, query_len, 5]);
        assert_eq!(found.indices.dims(), [batch, 2, query_len, key_len.min(2)]);
    }
    assert_eq!(TopKAttentionConfig::new(0).init().map(|_| ()).unwrap_err().argument(), Some("k"));
    let layer = TopKAttentionConfig::new(2).init().unwrap();
    let [query, key, value] = inputs(&device);
    let of = |key: Tensor<4>, value: Tensor<4>, options: AttentionOptions| {
        layer.forward(query.clone(), key, value, &options).map(|_| ())
    };
    let name = |result: Result<(), AttentionError>| result.unwrap_err().argument();
    let wrong = Tensor::zeros([2, 2, 6, 4], &device);
    assert_eq!(name(of(wrong, value.clone(), AttentionOptions::new())), Some("key"));
    assert_eq!(name(of(key.clone(), Tensor::zeros([2, 2, 5, 2], &device), AttentionOptions::new())), Some("value"));
    let bias = AttentionOptions::new().bias(Tensor::zeros([2, 2, 1, 1], &device));
    assert_eq!(name(of(key.clone(), value.clone(), bias)), Some("bias"));
    // The kernel of the attention over the chosen can be demanded.
    let demand =
        |name: &str| AttentionOptions::new().kernels(KernelChoice { forward: Some(name.into()), backward: None });
    assert_eq!(of(key.clone(), value.clone(), demand("composite")), Ok(()));
    assert!(matches!(of(key, value, demand("none")), Err(AttentionError::Unsupported { .. })));
}
