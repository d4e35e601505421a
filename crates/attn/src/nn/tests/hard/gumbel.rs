//! Tests of the straight-through Gumbel-softmax.

use attn_core::{AttentionError, KernelChoice, Mask};
use burn::module::Module;
use burn::tensor::{Device, Tensor};

use super::super::{assert_agreement, assert_close, bools, elements, noise, reference_device};
use super::{SIZES, inputs, integers, mixed, places, ranked, rows, softmax};
use crate::Selection;
use crate::nn::{AttentionOptions, GumbelAttention, GumbelAttentionConfig, GumbelAttentionOutput};

fn layer(temperature: f64) -> GumbelAttention {
    GumbelAttentionConfig::new().with_temperature(temperature).init().unwrap()
}

fn attend(
    layer: &GumbelAttention,
    [query, key, value]: [Tensor<4>; 3],
    options: &AttentionOptions,
) -> GumbelAttentionOutput {
    layer.forward(query, key, value, options).unwrap()
}

/// The output is the value of the key that the indices name, exactly.
fn check_values(output: &GumbelAttentionOutput, value: &Tensor<4>) {
    let [batch, heads, query_len, value_dim] = output.out.dims();
    let (out, indices) = (elements(output.out.clone()), integers(output.indices.clone()));
    for (at, (b, h, _)) in places(batch, heads, query_len).enumerate() {
        let kept: Vec<(usize, f64)> = usize::try_from(indices[at]).ok().map(|j| (j, 1.0)).into_iter().collect();
        assert_eq!(out[at * value_dim..][..value_dim], mixed(value, (b, h), heads, &kept), "row {at}");
    }
}

#[test]
fn at_rest_it_takes_the_best_key_and_draws_nothing() {
    let device = reference_device();
    let mask = |device: &Device| Mask::keep(bools([1, 1, 5, 6], |at| at / 6 != 3 && at % 4 != 1, device));
    let [query, key, value] = inputs(&device);
    let rows = rows(query, key, |i, j| i != 3 && (i * 6 + j) % 4 != 1);
    let wanted: Vec<i64> = rows.iter().map(|row| ranked(row).first().map_or(-1, |&j| j as i64)).collect();
    let frozen = layer(1.0).freeze();
    for (layer, device) in [(layer(1.0), device.clone()), (frozen, device.autodiff())] {
        let options = AttentionOptions::new().mask(mask(&device)).with_weights(Selection::all()).with_lse();
        let output = attend(&layer, inputs(&device), &options);
        assert_eq!(integers(output.indices.clone()), wanted);
        check_values(&output, &value);
        let weights = rows.iter().flat_map(|row| softmax(row));
        for (found, wanted) in elements(output.weights.unwrap()).into_iter().zip(weights) {
            assert!((found - wanted).abs() < 1e-6);
        }
        for (found, row) in elements(output.lse.unwrap()).into_iter().zip(&rows) {
            let wanted = row.iter().map(|s| s.exp()).sum::<f64>().ln();
            assert!(found == wanted || (found - wanted).abs() < 1e-6);
        }
    }
}

#[test]
fn in_training_it_draws_from_the_softmax_and_gives_one_value_exactly() {
    let device = reference_device().autodiff();
    let draws = 6000;
    let (query, key) = (noise([1, 1, 1, 3], 1, &device).mul_scalar(2.0), noise([1, 1, 4, 3], 2, &device));
    let value = noise([1, 1, 4, 2], 3, &device);
    let shown = [true, true, false, true];
    let mask = Mask::keep(bools([1, 1, 1, 4], |j| shown[j], &device));
    let many = [query.clone().repeat_dim(2, draws), key.clone(), value.clone()];
    let output = attend(&layer(0.7), many, &AttentionOptions::new().mask(mask));
    check_values(&output, &value);
    let indices = integers(output.indices);
    let wanted = softmax(&rows(query, key, |_, j| shown[j])[0]);
    for (j, wanted) in wanted.into_iter().enumerate() {
        let found = indices.iter().filter(|&&index| index == j as i64).count() as f64 / draws as f64;
        // Five standard deviations of a mean of coin tosses: false alarm in less than one of a million runs.
        let bound = 5.0 * (wanted * (1.0 - wanted) / draws as f64).sqrt();
        assert!((found - wanted).abs() <= bound, "key {j}: {found} in place of {wanted} ± {bound}");
    }
}

/// With a high temperature the soft weights are even, whatever the noise: `ds_j = (a_j − mean a) / (K·τ)` with `a_j =
/// dOut·v_j`.
#[test]
fn gradients_go_through_the_soft_weights_to_scores_and_straight_to_the_chosen_values() {
    let device = reference_device().autodiff();
    let temperature = 1e4;
    let [_, heads, _, query_len, key_len, _, value_dim] = SIZES;
    let [query, key, value] = inputs(&device);
    let value = value.require_grad();
    let bias = Tensor::<4>::zeros([SIZES[0], heads, query_len, key_len], &device).require_grad();
    let upstream = noise([SIZES[0], heads, query_len, value_dim], 9, &device);
    let output = attend(&layer(temperature), [query, key, value.clone()], &AttentionOptions::new().bias(bias.clone()));
    let grads = (output.out.clone() * upstream.clone()).sum().backward();
    let found = bias.grad(&grads).unwrap().mul_scalar(temperature * key_len as f64);
    let repeated = value.clone().inner().reshape([SIZES[0], 2, 1, key_len, value_dim]).repeat_dim(2, 2);
    let products =
        upstream.clone().inner().matmul(repeated.reshape([SIZES[0], heads, key_len, value_dim]).swap_dims(2, 3));
    let wanted = products.clone() - products.mean_dim(3);
    assert_close(found, wanted, 2e-2);
    // Values: the sum of what came from the rows that chose them.
    let (indices, upstream) = (integers(output.indices), elements(upstream));
    let mut wanted = vec![0.0; value.shape().num_elements()];
    for (at, (b, h, _)) in places(SIZES[0], heads, query_len).enumerate() {
        for e in 0..value_dim {
            let key = (b * 2 + h / 2) * key_len + indices[at] as usize;
            wanted[key * value_dim + e] += upstream[at * value_dim + e];
        }
    }
    for (found, wanted) in elements(value.grad(&grads).unwrap()).into_iter().zip(wanted) {
        assert!((found - wanted).abs() < 1e-5, "{found} in place of {wanted}");
    }
}

#[test]
fn hidden_nan_has_no_influence_and_sinks_can_be_drawn() {
    let device = reference_device().autodiff();
    let [query, key, value] = inputs(&device);
    let query = query.require_grad();
    let poison = |tensor: Tensor<4>| {
        let [batch, heads, _, dim] = tensor.dims();
        Tensor::cat(vec![tensor, Tensor::full([batch, heads, 2, dim], f32::NAN, &device)], 2)
    };
    let lengths = AttentionOptions::new().kv_lens(vec![SIZES[4]; SIZES[0]]);
    let output = attend(&layer(1.0), [query.clone(), poison(key.clone()), poison(value.clone())], &lengths);
    check_values(&output, &poison(value.clone()));
    let grad = query.grad(&output.out.sum().backward()).unwrap();
    assert!(elements(grad).iter().all(|grad| grad.is_finite()));
    // A sink far above all scores is drawn, and holds nothing; one far below is not.
    for (sink, drawn) in [(1e4, true), (-1e4, false)] {
        let options = AttentionOptions::new().sinks(Tensor::full([SIZES[1]], sink, &device));
        let output = attend(&layer(1.0), [query.clone(), key.clone(), value.clone()], &options);
        assert!(integers(output.indices.clone()).iter().all(|&index| (index == -1) == drawn));
        check_values(&output, &value);
    }
}

#[test]
fn a_seed_gives_the_same_draws() {
    let device = reference_device().autodiff();
    let draw = || {
        device.seed(11);
        integers(attend(&layer(1.0), inputs(&device), &AttentionOptions::new()).indices)
    };
    // The generator is shared with tests that run at the same time and draw between the seed and us, now and then.
    assert!((0..200).any(|_| draw() == draw()));
}

#[test]
fn every_backend_gives_the_same_at_rest() {
    assert_agreement(0.0, |device| attend(&layer(1.0), inputs(device), &AttentionOptions::new()).out);
}

#[test]
fn empty_and_wrong_input() {
    let device = reference_device();
    for device in [device.clone(), device.clone().autodiff()] {
        for (batch, query_len, key_len) in [(0, 3, 4), (2, 0, 4), (2, 3, 0), (0, 0, 0)] {
            let zeros = |shape: [usize; 4]| Tensor::<4>::zeros(shape, &device);
            let inputs =
                [zeros([batch, 2, query_len, 3]), zeros([batch, 1, key_len, 3]), zeros([batch, 1, key_len, 5])];
            for options in [AttentionOptions::new(), AttentionOptions::new().sinks(Tensor::ones([2], &device))] {
                let output = attend(&layer(1.0), inputs.clone(), &options.with_lse());
                assert_close(output.out, Tensor::zeros([batch, 2, query_len, 5], &device), 0.0);
                assert_eq!(output.lse.unwrap().dims(), [batch, 2, query_len]);
                assert!(integers(output.indices).iter().all(|&index| key_len > 0 || index == -1));
            }
        }
    }
    for temperature in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let config = GumbelAttentionConfig::new().with_temperature(temperature);
        assert_eq!(config.init().map(|_| ()).unwrap_err().argument(), Some("temperature"));
    }
    let [query, key, value] = inputs(&device);
    let mut annealed = layer(1.0);
    annealed.temperature = 0.0;
    let plain = AttentionOptions::new();
    let error = annealed.forward(query.clone(), key.clone(), value.clone(), &plain).map(|_| ()).unwrap_err();
    assert_eq!(error.argument(), Some("temperature"));
    let wrong = Tensor::zeros([2, 2, 5, 2], &device);
    let error = layer(1.0).forward(query.clone(), key.clone(), wrong, &plain).map(|_| ()).unwrap_err();
    assert_eq!(error.argument(), Some("value"));
    let demand = AttentionOptions::new().kernels(KernelChoice { forward: None, backward: Some("composite".into()) });
    let error = layer(1.0).forward(query, key, value, &demand).map(|_| ()).unwrap_err();
    assert!(matches!(error, AttentionError::Unsupported { .. }));
}
