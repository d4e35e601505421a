//! Tests of hard attention by sampling and of its surrogate loss.

use attn_core::{AttentionError, AttentionSpec, KernelChoice};
use burn::module::Module;
use burn::tensor::activation;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};

use super::super::{
    Input, assert_agreement, assert_close, assert_gradients, elements, noise, reference_device, restored,
};
use super::{SIZES, inputs, integers, mixed, places, ranked, rows, softmax};
use crate::Selection;
use crate::nn::{AttentionOptions, SampledAttention, SampledAttentionConfig, SampledAttentionOutput};

fn layer(device: &Device) -> SampledAttention {
    SampledAttentionConfig::new().init(device).unwrap()
}

fn attend(
    layer: &SampledAttention,
    [query, key, value]: [Tensor<4>; 3],
    options: &AttentionOptions,
) -> SampledAttentionOutput {
    layer.forward(query, key, value, options).unwrap()
}

fn choices(values: Vec<i64>, samples: usize, device: &Device) -> Tensor<4, Int> {
    let rows = values.len() / samples;
    let [batch, heads, query_len] = if rows == 2 { [1, 1, 2] } else { [SIZES[0], SIZES[1], SIZES[3]] };
    Tensor::from_data(TensorData::new(values, [batch, heads, query_len, samples]), device)
}

/// Some keys, two a query; causal with five queries and six keys shows 0 and 1 to all.
fn some(device: &Device) -> Tensor<4, Int> {
    let rows = SIZES[0] * SIZES[1] * SIZES[3];
    choices((0..2 * rows).map(|at| (at as i64 * 7) % 3 % 2).collect(), 2, device)
}

#[test]
fn at_rest_it_takes_the_best_key() {
    let device = reference_device();
    let [query, key, value] = inputs(&device);
    let causal = AttentionOptions::new().spec(AttentionSpec::new().with_causal(true));
    let rows = rows(query, key, |i, j| j <= i + 1);
    let many = SampledAttentionConfig::new().with_samples(3).init(&device).unwrap();
    let frozen = layer(&device.clone().autodiff()).freeze();
    for (layer, device) in [(many, device.clone()), (frozen, device.autodiff())] {
        let output = attend(&layer, inputs(&device), &causal);
        let wanted: Vec<i64> = rows.iter().map(|row| ranked(row)[0] as i64).collect();
        assert_eq!(integers(output.indices.clone()), wanted);
        assert_eq!(output.indices.dims(), [SIZES[0], SIZES[1], SIZES[3], 1]);
        let out = elements(output.out);
        for (at, (b, h, _)) in places(SIZES[0], SIZES[1], SIZES[3]).enumerate() {
            assert_eq!(out[at * 2..][..2], mixed(&value, (b, h), SIZES[1], &[(wanted[at] as usize, 1.0)]));
        }
    }
}

#[test]
fn output_likelihood_and_entropy_follow_their_formulas() {
    let device = reference_device();
    let [query, key, value] = inputs(&device);
    let causal = AttentionOptions::new().spec(AttentionSpec::new().with_causal(true));
    let options = causal.with_weights(Selection::all()).with_lse();
    let output = layer(&device).evaluate(query.clone(), key.clone(), value.clone(), &options, some(&device)).unwrap();
    let rows = rows(query, key, |i, j| j <= i + 1);
    let indices = integers(output.indices);
    assert_eq!(indices, integers(some(&device)));
    let (out, log_probs, entropy) = (elements(output.out), elements(output.log_probs), elements(output.entropy));
    let (weights, lse) = (elements(output.weights.unwrap()), elements(output.lse.unwrap()));
    for (at, (b, h, _)) in places(SIZES[0], SIZES[1], SIZES[3]).enumerate() {
        let p = softmax(&rows[at]);
        let kept = [0, 1].map(|t| (indices[2 * at + t] as usize, 0.5));
        for (e, wanted) in mixed(&value, (b, h), SIZES[1], &kept).into_iter().enumerate() {
            assert!((out[2 * at + e] - wanted).abs() < 1e-6);
        }
        for t in 0..2 {
            assert!((log_probs[2 * at + t] - p[indices[2 * at + t] as usize].ln()).abs() < 1e-5);
        }
        let wanted: f64 = p.iter().map(|p| if *p > 0.0 { -p * p.ln() } else { 0.0 }).sum();
        assert!((entropy[at] - wanted).abs() < 1e-5, "row {at}: {} in place of {wanted}", entropy[at]);
        assert!((lse[at] - rows[at].iter().map(|s| s.exp()).sum::<f64>().ln()).abs() < 1e-5);
        assert!((0..6).all(|j| (weights[6 * at + j] - p[j]).abs() < 1e-6));
    }
}

#[test]
fn sinks_hidden_keys_and_rows_that_see_nothing() {
    let device = reference_device();
    let [query, key, value] = inputs(&device);
    let sinks = Tensor::<1>::from_floats([0.5, -0.3, 1.0, 0.0], &device);
    let with_sinks = AttentionOptions::new().sinks(sinks);
    // Over all keys and the sink the probabilities sum to 1; the sink's choice is −1, as is what is no key.
    let rows = SIZES[0] * SIZES[1] * SIZES[3];
    let all = (0..rows).flat_map(|_| [0, 1, 2, 3, 4, 5, -1]).collect();
    let of = |indices, options: &AttentionOptions| {
        layer(&device).evaluate(query.clone(), key.clone(), value.clone(), options, indices).unwrap()
    };
    let output = of(choices(all, 7, &device), &with_sinks);
    let sums: Tensor<4> = output.log_probs.exp().sum_dim(3);
    assert_close(sums.clone(), Tensor::ones(sums.dims(), &device), 1e-5);
    let beyond = of(choices(vec![99; rows], 1, &device), &with_sinks);
    assert!(integers(beyond.indices).iter().all(|&index| index == -1));
    assert_close(beyond.out.clone(), beyond.out.zeros_like(), 0.0);
    assert!(elements(beyond.log_probs).iter().all(|log| *log < 0.0));
    // Without a sink −1 is nothing, certain; a hidden key is impossible.
    let causal = AttentionOptions::new().spec(AttentionSpec::new().with_causal(true));
    let nothing = of(choices(vec![-1; rows], 1, &device), &causal);
    assert_close(nothing.log_probs.clone(), nothing.log_probs.zeros_like(), 0.0);
    let last = of(choices(vec![5; rows], 1, &device), &causal);
    for (at, log) in elements(last.log_probs).into_iter().enumerate() {
        assert_eq!(log == f64::NEG_INFINITY, at % SIZES[3] < 4);
    }
    // Rows that see nothing, in training: no choice, no gradient, entropy 0.
    let device = device.autodiff();
    let [query, key, value] = inputs(&device);
    let query = query.require_grad();
    let blind = AttentionOptions::new().kv_lens([0, 6]).with_lse();
    let layer = layer(&device);
    let output = attend(&layer, [query.clone(), key, value], &blind);
    let half = SIZES[1] * SIZES[3];
    assert!(integers(output.indices.clone())[..half].iter().all(|&index| index == -1));
    assert!(elements(output.log_probs.clone())[..half].iter().all(|log| *log == 0.0));
    assert!(elements(output.entropy.clone())[..half].iter().all(|entropy| *entropy == 0.0));
    assert!(elements(output.lse.clone().unwrap())[..half].iter().all(|lse| *lse == f64::NEG_INFINITY));
    let loss = layer.surrogate(&output, Tensor::from_floats([1.0, 2.0], &device)).unwrap();
    let grad = elements(query.grad(&loss.backward()).unwrap());
    assert!(grad.iter().all(|grad| grad.is_finite()) && grad[..half * 3].iter().all(|grad| *grad == 0.0));
}

/// Σ over all choices of `p(choice) · ∇surrogate(choice)` against `−∇(Σ p(choice)·r(choice)) − λ·∇ΣH`, differentiated
/// as written.
#[test]
fn the_surrogates_expected_gradient_is_that_of_the_expected_reward() {
    let device = reference_device().autodiff();
    let (rows, keys, weight) = (2, 3, 0.3);
    let make =
        || [noise([1, 1, rows, 2], 1, &device).require_grad(), noise([1, 1, keys, 2], 2, &device).require_grad()];
    let value = noise([1, 1, keys, 2], 3, &device);
    let reward = |a: usize, b: usize| (a as f32 - 0.7) * (b as f32 + 0.4) + 0.3 * b as f32;
    let probabilities = |query: Tensor<4>, key: Tensor<4>| {
        activation::softmax(query.matmul(key.swap_dims(2, 3)).div_scalar(2f64.sqrt()), 3)
    };

    let [query, key] = make();
    let p = probabilities(query.clone(), key.clone());
    let mut exact = (p.clone() * p.clone().log()).sum().mul_scalar(weight);
    for (a, b) in (0..keys * keys).map(|at| (at / keys, at % keys)) {
        let joint = p.clone().slice([0..1, 0..1, 0..1, a..a + 1]) * p.clone().slice([0..1, 0..1, 1..2, b..b + 1]);
        exact = exact - joint.sum().mul_scalar(reward(a, b));
    }
    let grads = exact.backward();
    let wanted = [query.grad(&grads).unwrap(), key.grad(&grads).unwrap()];

    let mut found: [Option<Tensor<4>>; 2] = [None, None];
    for (a, b) in (0..keys * keys).map(|at| (at / keys, at % keys)) {
        let [query, key] = make();
        let config = SampledAttentionConfig::new().with_entropy_weight(weight).with_baseline_decay(0.5);
        let layer = config.init(&device).unwrap();
        let of = || {
            let indices = choices(vec![a as i64, b as i64], 1, &device);
            layer.evaluate(query.clone(), key.clone(), value.clone(), &AttentionOptions::new(), indices).unwrap()
        };
        // A first step moves the baseline to 0.6: any number that does not depend on the choice.
        layer.surrogate(&of(), Tensor::from_floats([1.2], &device)).unwrap();
        assert_close(layer.baseline.value_sync().inner(), Tensor::from_floats([0.6], &reference_device()), 1e-6);
        let output = of();
        let joint = elements(output.log_probs.clone()).iter().sum::<f64>().exp();
        let grads = layer.surrogate(&output, Tensor::from_floats([reward(a, b)], &device)).unwrap().backward();
        for (sum, tensor) in found.iter_mut().zip([&query, &key]) {
            let grad = tensor.grad(&grads).unwrap().mul_scalar(joint);
            *sum = Some(match sum.take() {
                Some(sum) => sum + grad,
                None => grad,
            });
        }
    }
    for (found, wanted) in found.into_iter().zip(wanted) {
        assert!(elements(wanted.clone()).iter().any(|grad| grad.abs() > 1e-2));
        assert_close(found.unwrap(), wanted, 1e-6);
    }
}

#[test]
fn the_loss_and_the_baseline_follow_their_formulas() {
    let device = reference_device().autodiff();
    let config = SampledAttentionConfig::new().with_samples(2).with_entropy_weight(0.1).with_baseline_decay(0.75);
    let layer = config.init(&device).unwrap();
    let output = attend(&layer, inputs(&device), &AttentionOptions::new());
    assert_eq!(output.indices.dims(), [2, 4, 5, 2]);
    let (log_probs, entropy) = (elements(output.log_probs.clone()), elements(output.entropy.clone()));
    let half = log_probs.len() / 2;
    let sums = [log_probs[..half].iter().sum::<f64>(), log_probs[half..].iter().sum::<f64>()];
    let mut baseline = 0.0;
    for reward in [[1.0f32, -0.5], [0.25, 2.0], [0.0, 0.5]] {
        let found = layer.surrogate(&output, Tensor::from_floats(reward, &device)).unwrap();
        let [a, b] = reward.map(f64::from);
        let gain = (a - baseline) * sums[0] + (b - baseline) * sums[1] + 0.1 * entropy.iter().sum::<f64>();
        assert!((elements(found)[0] + gain / 2.0).abs() < 1e-4);
        baseline = 0.75 * baseline + 0.25 * (a + b) / 2.0;
    }
    assert!((elements(layer.baseline.value_sync())[0] - baseline).abs() < 1e-6);
    // It is part of a record.
    let loaded = restored(&layer, config.init(&device).unwrap());
    assert_close(loaded.baseline.value_sync().inner(), layer.baseline.value_sync().inner(), 0.0);
}

#[test]
fn it_draws_from_the_softmax_and_a_seed_gives_the_same_draws() {
    let device = reference_device().autodiff();
    let (query, key) = (noise([1, 1, 1, 3], 1, &device).mul_scalar(2.0), noise([1, 1, 4, 3], 2, &device));
    let value = noise([1, 1, 4, 2], 3, &device);
    let (rows_drawn, samples) = (1500, 4);
    let layer = SampledAttentionConfig::new().with_samples(samples).init(&device).unwrap();
    let many = || [query.clone().repeat_dim(2, rows_drawn), key.clone(), value.clone()];
    let indices = integers(attend(&layer, many(), &AttentionOptions::new()).indices);
    let draws = (rows_drawn * samples) as f64;
    for (j, wanted) in softmax(&rows(query.clone(), key.clone(), |_, _| true)[0]).into_iter().enumerate() {
        let found = indices.iter().filter(|&&index| index == j as i64).count() as f64 / draws;
        // Five standard deviations.
        let bound = 5.0 * (wanted * (1.0 - wanted) / draws).sqrt();
        assert!((found - wanted).abs() <= bound, "key {j}: {found} in place of {wanted} ± {bound}");
    }
    // The draws of a row do not depend on each other.
    let pairs = indices.chunks(samples).filter(|of_row| of_row[0] == of_row[1]).count() as f64 / rows_drawn as f64;
    let wanted: f64 = softmax(&rows(query.clone(), key.clone(), |_, _| true)[0]).iter().map(|p| p * p).sum();
    let bound = 5.0 * (wanted * (1.0 - wanted) / rows_drawn as f64).sqrt();
    assert!((pairs - wanted).abs() <= bound, "{pairs} in place of {wanted} ± {bound}");

    let draw = || {
        device.seed(5);
        integers(attend(&layer, inputs(&device), &AttentionOptions::new()).indices)
    };
    // The generator is shared with tests that run at the same time and draw between the seed and us, now and then.
    assert!((0..200).any(|_| draw() == draw()));
}

#[test]
fn gradients_are_central_differences() {
    let device = reference_device();
    let layer = layer(&device);
    let [query, key, value] = inputs(&device).map(Input::new);
    let sinks = Input::new(noise([4], 4, &device));
    let double = |tensor: Tensor<4>| tensor.cast(burn::tensor::FloatDType::F64);
    assert_gradients(((query, key), (value, sinks)), |((query, key), (value, sinks))| {
        let device = query.value().device();
        let causal = AttentionOptions::new().spec(AttentionSpec::new().with_causal(true)).sinks(sinks.value());
        let output = layer.evaluate(query.value(), key.value(), value.value(), &causal, some(&device)).unwrap();
        assert_eq!(output.log_probs.dtype(), DType::F64);
        let likelihood = (output.log_probs * double(noise([2, 4, 5, 2], 6, &device))).sum();
        (output.out.clone() * output.out).sum() + likelihood + (output.entropy.clone() * output.entropy).sum()
    });
}

#[test]
fn every_backend_gives_the_same() {
    let causal = AttentionOptions::new().spec(AttentionSpec::new().with_causal(true));
    assert_agreement(0.0, |device| attend(&layer(device), inputs(device), &causal).out);
    assert_agreement(1e-5, |device| {
        let [query, key, value] = inputs(device);
        let output = layer(device).evaluate(query, key, value, &causal, some(device)).unwrap();
        Tensor::cat(vec![output.log_probs, output.entropy.reshape([2, 4, 5, 1])], 3)
    });
}

#[test]
fn what_is_hidden_has_no_influence_even_nan() {
    let device = reference_device().autodiff();
    let [query, key, value] = inputs(&device);
    let poison = |tensor: Tensor<4>| {
        let [batch, heads, _, dim] = tensor.dims();
        Tensor::cat(vec![tensor, Tensor::full([batch, heads, 2, dim], f32::NAN, &device)], 2).require_grad()
    };
    let (query, bad_key, bad_value) = (query.require_grad(), poison(key.clone()), poison(value.clone()));
    let lengths = AttentionOptions::new().kv_lens([6, 6]);
    let layer = layer(&device);
    let of = |key, value, options| layer.evaluate(query.clone(), key, value, options, some(&device)).unwrap();
    let (found, clean) = (of(bad_key.clone(), bad_value.clone(), &lengths), of(key, value, &AttentionOptions::new()));
    assert_close(found.out.clone().inner(), clean.out.inner(), 0.0);
    assert_close(found.log_probs.clone().inner(), clean.log_probs.inner(), 1e-6);
    let grads = (found.out.sum() + found.log_probs.sum() + found.entropy.sum()).backward();
    for tensor in [&query, &bad_key, &bad_value] {
        assert!(elements(tensor.grad(&grads).unwrap()).iter().all(|grad| grad.is_finite()));
    }
    let seen = attend(&layer, [query.clone(), bad_key, bad_value], &AttentionOptions::new());
    assert!(elements(seen.out).iter().all(|out| out.is_nan()));
}

#[test]
fn empty_and_wrong_input() {
    let plain = reference_device();
    for device in [plain.clone(), plain.clone().autodiff()] {
        let layer = layer(&device);
        for (batch, query_len, key_len) in [(0, 3, 4), (2, 0, 4), (2, 3, 0), (0, 0, 0)] {
            let zeros = |shape: [usize; 4]| Tensor::<4>::zeros(shape, &device);
            let inputs =
                [zeros([batch, 2, query_len, 3]), zeros([batch, 1, key_len, 3]), zeros([batch, 1, key_len, 5])];
            for options in [AttentionOptions::new(), AttentionOptions::new().sinks(Tensor::ones([2], &device))] {
                let output = attend(&layer, inputs.clone(), &options);
                assert_close(output.out.clone(), Tensor::zeros([batch, 2, query_len, 5], &device), 0.0);
                let loss = layer.surrogate(&output, Tensor::ones([batch], &device)).unwrap();
                assert_eq!(elements(loss), [0.0]);
            }
        }
    }
    let device = plain;
    let config = SampledAttentionConfig::new;
    let cases = [
        ("samples", config().with_samples(0)),
        ("baseline_decay", config().with_baseline_decay(1.1)),
        ("baseline_decay", config().with_baseline_decay(f64::NAN)),
        ("entropy_weight", config().with_entropy_weight(f64::INFINITY)),
    ];
    for (argument, config) in cases {
        assert_eq!(config.init(&device).map(|_| ()).unwrap_err().argument(), Some(argument), "{config}");
    }
    let layer = layer(&device);
    let [query, key, value] = inputs(&device);
    let output = attend(&layer, inputs(&device), &AttentionOptions::new());
    let name = |result: Result<(), AttentionError>| result.unwrap_err().argument();
    assert_eq!(name(layer.surrogate(&output, Tensor::ones([3], &device)).map(|_| ())), Some("reward"));
    let wrong = Tensor::<4, Int>::zeros([2, 4, 6, 1], &device);
    let plain = AttentionOptions::new();
    let found = layer.evaluate(query.clone(), key.clone(), value.clone(), &plain, wrong).map(|_| ());
    assert_eq!(name(found), Some("indices"));
    let wrong = Tensor::zeros([2, 2, 6, 4], &device);
    assert_eq!(name(layer.forward(query.clone(), wrong, value.clone(), &plain).map(|_| ())), Some("key"));
    let demand = AttentionOptions::new().kernels(KernelChoice { forward: Some("cpu".into()), backward: None });
    let error = layer.forward(query, key, value, &demand).map(|_| ()).unwrap_err();
    assert!(matches!(error, AttentionError::Unsupported { .. }));
}
