//! The public face: dispatch, demands, outputs and autodiff, on every backend compiled in.
//!
//! Numbers are compared with the reference in `attn-testing`; here stands what belongs to the face itself.

use attn::{Alignment, Attention, AttentionError, AttentionSpec, Mask, Selection, apply_weights, attention, merge};
use burn::tensor::{Bool, DType, Device, Distribution, Int, Tensor};

fn devices() -> impl Iterator<Item = Device> {
    attn::BACKENDS.iter().map(|backend| attn::device(backend).unwrap())
}

fn random<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), device)
}

fn inputs(device: &Device) -> [Tensor<4>; 3] {
    [random([2, 4, 5, 8], device), random([2, 2, 7, 8], device), random([2, 2, 7, 6], device)]
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}

/// LibTorch's matrix products round by their shapes.
fn is_libtorch(device: &Device) -> bool {
    attn::device("tch").is_ok_and(|tch| tch == *device)
}

fn largest_difference<const D: usize>(a: Tensor<D>, b: Tensor<D>) -> f32 {
    assert_eq!(a.dims(), b.dims());
    values(a).iter().zip(values(b)).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn kernels_agree_and_the_plan_names_the_one_that_serves() -> Result<(), AttentionError> {
    for backend in attn::BACKENDS {
        let [q, k, v] = inputs(&attn::device(backend)?);
        let causal = Attention::new(q, k, v).causal(true).window(Some(3), None).with_lse();
        let plan = causal.plan()?;
        let (forward, backward, why) = match *backend {
            "ndarray" | "flex" => ("cpu", "cpu", "first choice"),
            // LibTorch has no fused kernel for values of another dimension than the keys.
            "tch" => ("cpu", "cpu", "head dimension"),
            _ => ("cube", "cube", "backward"),
        };
        assert_eq!((plan.forward.kernel, plan.backward.kernel), (forward, backward));
        assert!(plan.backward.reason.contains(why), "{}", plan.backward.reason);
        let (first, composite) = (causal.clone().forward()?, causal.kernel("composite").forward()?);
        assert!(largest_difference(first.out, composite.out) < 1e-5);
        assert!(largest_difference(first.lse.unwrap(), composite.lse.unwrap()) < 1e-5);
    }
    Ok(())
}

#[test]
fn flops_count_visible_pairs() -> Result<(), AttentionError> {
    for device in devices() {
        let [q, k, v] = inputs(&device);
        // 5 queries at positions 2..7 of 7 keys see 3 + 4 + 5 + 6 + 7 keys; 2·(8 + 6) operations a pair; 8 heads in all.
        let plan = Attention::new(q, k, v).causal(true).plan()?;
        assert_eq!(plan.forward.flops, 25 * 28 * 8);
        assert_eq!(plan.backward.flops, 25 * (6 * 8 + 4 * 6) * 8);
    }
    Ok(())
}

/// A kernel of another backend, which has no such backward pass here.
fn foreign(device: &Device) -> &'static str {
    let [q, k, v] = inputs(device);
    let plan = Attention::new(q, k, v).plan().expect("a plain problem");
    if plan.backward.kernel == "cube" { "cpu" } else { "cube" }
}

#[test]
fn unknown_and_unable_kernels_are_errors() {
    for device in devices() {
        let [q, k, v] = inputs(&device);
        let name = foreign(&device);
        let error = Attention::new(q.clone(), k.clone(), v.clone()).kernel("nonsense").forward().unwrap_err();
        assert!(matches!(&error, AttentionError::Unsupported { kernel, .. } if kernel == "nonsense"), "{error}");
        let error = Attention::new(q, k, v).backward_kernel(name).plan().unwrap_err();
        assert!(matches!(&error, AttentionError::Unsupported { kernel, .. } if kernel == name), "{error}");
    }
}

#[test]
fn a_demand_for_the_backward_pass_fails_before_the_forward_pass() {
    for device in devices() {
        let name = foreign(&device);
        let [q, k, v] = inputs(&device.autodiff());
        let error = Attention::new(q.require_grad(), k, v).backward_kernel(name).forward().unwrap_err();
        assert!(matches!(error, AttentionError::Unsupported { .. }), "{error}");
    }
}

#[test]
fn weights_are_rows_of_the_softmax_and_select() -> Result<(), AttentionError> {
    for device in devices() {
        let [q, k, v] = inputs(&device);
        let call = Attention::new(q, k, v.clone()).causal(true).alignment(Alignment::TopLeft);
        let all = call.clone().with_weights(Selection::all()).forward()?;
        let weights = all.weights.unwrap();
        assert_eq!(weights.dims(), [2, 4, 5, 7]);
        assert!(all.lse.is_none());
        assert!(largest_difference(weights.clone().sum_dim(3), Tensor::ones([2, 4, 5, 1], &device)) < 1e-6);
        assert!(largest_difference(apply_weights(weights.clone(), v)?, all.out) < 1e-5);
        let some = Selection { heads: Some(vec![3, 1]), rows: Some(vec![4, 0, 1]) };
        let some = call.clone().with_weights(some).forward()?.weights.unwrap();
        assert_eq!(some.dims(), [2, 2, 3, 7]);
        let expected = Tensor::cat(
            [3, 1]
                .map(|head| {
                    Tensor::cat(
                        [4, 0, 1].map(|row| weights.clone().slice([0..2, head..head + 1, row..row + 1])).to_vec(),
                        2,
                    )
                })
                .to_vec(),
            1,
        );
        let rounding = if is_libtorch(&device) { 1e-6 } else { 0.0 };
        assert!(largest_difference(some, expected) <= rounding);
        let past = Selection { heads: Some(vec![4]), rows: None };
        assert_eq!(call.with_weights(past).forward().unwrap_err().argument(), Some("heads"));
    }
    Ok(())
}

#[test]
fn nothing_of_weight_zero_reaches_the_output() -> Result<(), AttentionError> {
    for device in devices() {
        let value = Tensor::<4>::from_data([[[[1.0, 2.0], [f32::NAN, f32::INFINITY]]]], &device);
        let weights = Tensor::<4>::from_data([[[[1.0, 0.0], [0.5, 0.5]]]], &device);
        let out = values(apply_weights(weights, value)?);
        assert_eq!(out[..2], [1.0, 2.0]);
        assert!(out[2].is_nan() && out[3] == f32::INFINITY, "{out:?}");
    }
    Ok(())
}

#[test]
fn merging_by_lse_gives_the_whole() -> Result<(), AttentionError> {
    for device in devices() {
        let [q, k, v] = inputs(&device);
        let part = |keys: std::ops::Range<usize>| {
            let (k, v) = (k.clone().slice([0..2, 0..2, keys.clone()]), v.clone().slice([0..2, 0..2, keys]));
            Attention::new(q.clone(), k, v).with_lse().forward()
        };
        let joined = merge(part(0..3)?, part(3..7)?)?;
        let whole = part(0..7)?;
        assert!(largest_difference(joined.out, whole.out) < 1e-5);
        assert!(largest_difference(joined.lse.unwrap(), whole.lse.unwrap()) < 1e-5);
        let without = attention(q.clone(), k.clone(), v.clone(), &AttentionSpec::new())?;
        let error = merge(part(0..7)?, attn::AttentionOutput { out: without, lse: None, weights: None }).unwrap_err();
        assert_eq!(error.argument(), Some("b"));
    }
    Ok(())
}

#[test]
fn gradients_reach_only_what_is_tracked() -> Result<(), AttentionError> {
    for device in devices() {
        let device = device.autodiff();
        let [q, k, v] = inputs(&device);
        let (q, v) = (q.require_grad(), v.require_grad());
        let bias = random([1, 4, 1, 7], &device).require_grad();
        let out = Attention::new(q.clone(), k.clone(), v.clone()).bias(bias.clone()).forward()?.out;
        let gradients = (out.clone() * out).sum().backward();
        assert_eq!(q.grad(&gradients).unwrap().dims(), [2, 4, 5, 8]);
        assert_eq!(v.grad(&gradients).unwrap().dims(), [2, 2, 7, 6]);
        assert_eq!(bias.grad(&gradients).unwrap().dims(), [1, 4, 1, 7]);
        assert!(k.grad(&gradients).is_none());
    }
    Ok(())
}

#[test]
fn scores_are_what_the_softmax_takes_and_select() -> Result<(), AttentionError> {
    for device in devices() {
        let [q, k, v] = inputs(&device);
        let call = Attention::new(q, k, v)
            .causal(true)
            .softcap(2.0)
            .bias(random([2, 1, 5, 7], &device))
            .alibi_slopes(random([4], &device))
            .sinks(random([4], &device));
        let scores = call.clone().scores(Selection::all())?;
        let hidden = scores.clone().equal_elem(f32::NEG_INFINITY);
        let expected = |at: usize| at % 7 > at / 7 % 5 + 2;
        assert!(hidden.into_data().iter::<bool>().enumerate().all(|(at, hidden)| hidden == expected(at)));
        let output = call.clone().with_lse().with_weights(Selection::all()).forward()?;
        let lse = output.lse.unwrap().reshape([2, 4, 5, 1]);
        assert!(largest_difference((scores.clone() - lse).exp(), output.weights.unwrap()) < 1e-5);
        let some = call.clone().scores(Selection { heads: Some(vec![2]), rows: Some(vec![4, 1]) })?;
        let rows = scores.select(2, Tensor::<1, Int>::from_data([4, 1], &device)).narrow(1, 2, 1);
        let seen = |scores: Tensor<4>| scores.clamp_min(-1e30);
        assert!(largest_difference(seen(some), seen(rows)) < 1e-6);
        let past = Selection { heads: None, rows: Some(vec![5]) };
        assert_eq!(call.clone().scores(past).unwrap_err().argument(), Some("rows"));
        let demand = call.kernel("composite").scores(Selection::all());
        assert!(matches!(demand, Err(AttentionError::Unsupported { .. })));
    }
    Ok(())
}

#[test]
fn scores_of_poison_are_right_where_seen_and_without_influence_where_hidden() -> Result<(), AttentionError> {
    for device in devices() {
        let device = device.autodiff();
        let q = Tensor::<4>::from_data([[[[1.0, 2.0], [-1.0, 0.5], [f32::NAN, 0.0]]]], &device).require_grad();
        let k = Tensor::<4>::from_data([[[[1.0, 1.0], [f32::INFINITY, 0.0], [0.5, f32::NAN]]]], &device).require_grad();
        // Query 0 sees keys 0 and 1, query 1 key 0, query 2 nothing; nothing sees key 2.
        let mask = Tensor::<4, Bool>::from_data(
            [[[[true, true, false], [true, false, false], [false, false, false]]]],
            &device,
        );
        let call = Attention::new(q.clone(), k.clone(), k.clone()).scale(1.0).softcap(3.0).mask(Mask::keep(mask));
        let scores = call.scores(Selection::all())?;
        let (capped, none) = (|x: f32| 3.0 * (x / 3.0).tanh(), f32::NEG_INFINITY);
        let expected = [capped(3.0), 3.0, none, capped(-0.5), none, none, none, none, none];
        for (found, expected) in values(scores.clone()).into_iter().zip(expected) {
            assert!(found == expected || (found - expected).abs() < 1e-6, "{found} in place of {expected}");
        }
        // By the score of key 0: 1 − tanh² times the other's vector. Through ±3, which key 1 has, nothing goes back.
        let gradients = scores.clamp_min(-5.0).sum().backward();
        let slope = |x: f32| 1.0 - (x / 3.0).tanh().powi(2);
        let (a, b) = (slope(3.0), slope(-0.5));
        let expected_q = [a, a, b, b, 0.0, 0.0];
        let expected_k = [a - b, 2.0 * a + 0.5 * b, 0.0, 0.0, 0.0, 0.0];
        for (tensor, expected) in [(&q, expected_q), (&k, expected_k)] {
            for (found, expected) in values(tensor.grad(&gradients).unwrap()).into_iter().zip(expected) {
                assert!((found - expected).abs() < 1e-5, "{found} in place of {expected}");
            }
        }
    }
    Ok(())
}

#[test]
fn out_lse_and_weights_differentiate_together() -> Result<(), AttentionError> {
    // Σ lse + Σ out² + Σ w² by the fused nodes, against the same sum made of Burn's own operations.
    for device in devices() {
        let device = device.autodiff();
        let (q, k) = (random([1, 2, 4, 3], &device).require_grad(), random([1, 2, 5, 3], &device).require_grad());
        let v = random([1, 2, 5, 3], &device);
        let output = Attention::new(q.clone(), k.clone(), v.clone())
            .scale(0.7)
            .with_lse()
            .with_weights(Selection::all())
            .forward()?;
        let square = |x: Tensor<4>| (x.clone() * x).sum();
        let loss = output.lse.unwrap().sum() + square(output.out) + square(output.weights.unwrap());
        let ours = loss.backward();
        let scores = q.clone().matmul(k.clone().swap_dims(2, 3)) * 0.7;
        let weights = burn::tensor::activation::softmax(scores.clone(), 3);
        let loss = scores.exp().sum_dim(3).log().sum() + square(weights.clone().matmul(v)) + square(weights);
        let plain = loss.backward();
        assert!(largest_difference(q.grad(&ours).unwrap(), q.grad(&plain).unwrap()) < 1e-4);
        assert!(largest_difference(k.grad(&ours).unwrap(), k.grad(&plain).unwrap()) < 1e-4);
    }
    Ok(())
}

#[test]
fn constants_beside_tracked_tensors_are_welcome() -> Result<(), AttentionError> {
    for device in devices() {
        let [q, k, v] = inputs(&device);
        let tracked = k.clone().to_device(&device.clone().autodiff());
        let tracked = Tensor::<4>::from_data(tracked.into_data(), &device.clone().autodiff()).require_grad();
        let out = Attention::new(q, tracked.clone(), v).forward()?.out;
        let gradients = out.sum().backward();
        assert_eq!(tracked.grad(&gradients).unwrap().dims(), k.dims());
    }
    Ok(())
}

#[test]
fn wrong_input_names_its_argument() {
    for device in devices() {
        let [q, k, v] = inputs(&device);
        let named = |attention: Attention| attention.forward().unwrap_err().argument();
        let new = || Attention::new(q.clone(), k.clone(), v.clone());
        assert_eq!(named(new().softcap(0.0)), Some("softcap"));
        assert_eq!(named(new().scale(f64::INFINITY)), Some("scale"));
        assert_eq!(named(new().kv_lens([7, 8])), Some("kv_lens"));
        assert_eq!(named(new().sinks(random([3], &device))), Some("sinks"));
        assert_eq!(named(new().bias(random([2, 3, 5, 7], &device))), Some("bias"));
        let mask = Tensor::<4, Bool>::from_data([[[[true, false]]]], &device);
        assert_eq!(named(new().mask(Mask::keep(mask))), Some("mask"));
        let wide = v.clone().cast(DType::F64);
        assert_eq!(named(Attention::new(q.clone(), k.clone(), wide)), Some("value"));
    }
}

#[cfg(all(feature = "ndarray", feature = "flex"))]
#[test]
fn tensors_of_two_backends_are_an_error() {
    let [q, k, _] = inputs(&attn::device("ndarray").unwrap());
    let [_, _, v] = inputs(&attn::device("flex").unwrap());
    let error = Attention::new(q, k, v).forward().unwrap_err();
    assert!(matches!(error, AttentionError::Device { argument: "value", .. }), "{error}");
}

#[test]
fn checkpointing_strategies_must_agree() {
    for device in devices() {
        let [q, k, _] = inputs(&device.clone().autodiff());
        let [_, _, v] = inputs(&device.autodiff().gradient_checkpointing());
        let error = Attention::new(q, k, v).forward().unwrap_err();
        assert!(matches!(error, AttentionError::Device { argument: "value", .. }), "{error}");
    }
}

#[test]
fn gradients_hold_under_checkpointing() -> Result<(), AttentionError> {
    for device in devices() {
        let [q, k, v] = inputs(&device);
        let on = |device: &Device| {
            let q = Tensor::<4>::from_data(q.clone().into_data(), device).require_grad();
            let out = Attention::new(q.clone().exp(), k.clone(), v.clone()).causal(true).forward()?.out;
            let gradients = (out.clone() * out).sum().backward();
            Ok(q.grad(&gradients).unwrap())
        };
        let plain: Result<_, AttentionError> = on(&device.clone().autodiff());
        assert!(largest_difference(plain?, on(&device.clone().autodiff().gradient_checkpointing())?) < 1e-5);
    }
    Ok(())
}
