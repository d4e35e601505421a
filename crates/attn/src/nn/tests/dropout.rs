//! Tests of dropout on weights: seeds, and what layers do with the spec's own.

use attn_core::AttentionSpec;
use burn::module::Module;

use super::{assert_agreement, assert_close, noise, reference_device, shaken};
use crate::nn::{
    AttentionOptions, GumbelAttentionConfig, MultiHeadAttentionConfig, Normaliser, SampledAttentionConfig, ScoreConfig,
    ScoredAttentionConfig,
};

fn config() -> MultiHeadAttentionConfig {
    MultiHeadAttentionConfig::new(8, 4).with_kv_heads(Some(2)).with_dropout(0.5)
}

#[test]
fn every_backend_trains_with_the_same_weights_dropped() {
    assert_agreement(1e-6, |device| {
        let device = device.clone().autodiff();
        let layer = shaken(config().init(&device).unwrap());
        crate::seed(11);
        let hidden = noise([2, 5, 8], 1, &device).require_grad();
        let first = layer.self_attention(hidden.clone(), &AttentionOptions::new()).unwrap().out;
        let second = layer.self_attention(hidden.clone(), &AttentionOptions::new()).unwrap().out;
        assert!((first.clone() - second.clone()).abs().max().into_scalar::<f32>() > 1e-3, "each call has its own seed");
        let loss = (first.clone() * second).mean();
        hidden.grad(&loss.backward()).unwrap()
    });
}

#[test]
fn a_seed_repeats_a_run_and_a_plan_takes_none() {
    let device = reference_device().autodiff();
    let layer = shaken(config().init(&device).unwrap());
    let hidden = noise([2, 5, 8], 1, &device);
    let options = AttentionOptions::new();
    let run = || {
        crate::seed(5);
        layer.plan_self_attention(hidden.clone(), &options).unwrap();
        layer.self_attention(hidden.clone(), &options).unwrap().out.inner()
    };
    let (first, plan) = (run(), layer.plan_self_attention(hidden.clone(), &options).unwrap());
    assert_close(run(), first, 0.0);
    assert_eq!(plan.backward.kernel, "cpu", "training with dropout stays in the kernels");
}

#[test]
fn a_call_has_one_dropout() {
    let device = reference_device().autodiff();
    let layer = shaken(config().init(&device).unwrap());
    let hidden = noise([2, 5, 8], 1, &device);
    let options = AttentionOptions::new().spec(AttentionSpec::new().with_dropout(0.2, 1));
    let error = layer.self_attention(hidden.clone(), &options).unwrap_err();
    assert_eq!(error.argument(), Some("dropout"));
    // The layer's own acts in training alone.
    let resting = layer.freeze();
    let [dropped, whole] = [&options, &AttentionOptions::new()]
        .map(|options| resting.self_attention(hidden.clone(), options).unwrap().out.inner());
    assert!((dropped - whole).abs().max().into_scalar::<f32>() > 1e-3);
}

#[test]
fn weights_that_no_kernel_makes_are_not_dropped_in_silence() {
    let device = reference_device();
    let x = || noise([1, 2, 5, 4], 1, &device);
    let options = AttentionOptions::new().spec(AttentionSpec::new().with_dropout(0.2, 1));
    let scored = |normaliser| {
        let config = ScoredAttentionConfig::new(ScoreConfig::new(2, 4)).with_normaliser(normaliser);
        config.init(&device).unwrap().forward(x(), x(), x(), &options)
    };
    assert!(scored(Normaliser::Softmax).is_ok());
    let gumbel = GumbelAttentionConfig::new().init().unwrap().forward(x(), x(), x(), &options).map(|_| ());
    let sampled = SampledAttentionConfig::new().init(&device).unwrap().forward(x(), x(), x(), &options).map(|_| ());
    for refused in
        [scored(Normaliser::Sparsemax).map(|_| ()), scored(Normaliser::Entmax15).map(|_| ()), gumbel, sampled]
    {
        assert_eq!(refused.unwrap_err().argument(), Some("dropout"));
    }
}
