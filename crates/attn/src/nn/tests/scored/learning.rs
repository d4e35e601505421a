//! Tests of gradients through the score functions.

use attn_core::AttentionSpec;
use burn::tensor::Tensor;

use super::super::{Input, assert_close, assert_gradients, elements, gradients, noise, reference_device, shaken};
use super::{KINDS, NORMALISERS, SIZES, attend, inputs, layer};
use crate::nn::{AttentionOptions, ScoreConfig, ScoreKind, ScoredAttentionConfig};

#[test]
fn additive_gradients_of_several_runs_are_those_of_one() {
    // Two heads, 2¹⁸ keys and 8 hidden features are 4 Mi numbers a query: a run each.
    let device = reference_device().autodiff();
    let (keys, hidden) = (1 << 18, 8);
    let score = ScoreConfig::new(2, 1).with_kv_heads(Some(1)).with_kind(ScoreKind::Additive { hidden });
    let layer = shaken(ScoredAttentionConfig::new(score).init(&device).unwrap());
    let (query, key) =
        (noise([1, 2, 2, 1], 1, &device).require_grad(), noise([1, 1, keys, 1], 2, &device).require_grad());
    let grads = |rows: std::ops::Range<usize>| {
        let scores = layer.scores(query.clone().slice([0..1, 0..2, rows]), key.clone(), &AttentionOptions::new());
        let grads = scores.unwrap().mean().backward();
        (elements(query.grad(&grads).unwrap()), elements(key.grad(&grads).unwrap()))
    };
    let (whole_query, whole_key) = grads(0..2);
    let parts = [0, 1].map(|row| grads(row..row + 1));
    let close = |found: f64, parts: [f64; 2]| {
        let wanted = parts.iter().sum::<f64>() / 2.0;
        assert!((found - wanted).abs() <= 1e-5 * wanted.abs().max(1e-3), "{found} in place of {wanted}");
    };
    for (at, found) in whole_query.into_iter().enumerate() {
        close(found, [0, 1].map(|part| parts[part].0[at]));
    }
    for at in (0..keys).step_by(4999) {
        close(whole_key[at], [0, 1].map(|part| parts[part].1[at]));
    }
}

#[test]
fn autodiff_may_be_on_for_the_layer_or_one_input_alone() {
    let plain = reference_device();
    for kind in KINDS {
        for normaliser in NORMALISERS {
            for tracked in 0..4 {
                let device = |at| if tracked == at { plain.clone().autodiff() } else { plain.clone() };
                let layer = layer(kind, normaliser, &device(3));
                let [query, key, value] = [0, 1, 2].map(|at| inputs(&device(at))[at].clone());
                let output = layer.forward(query, key, value, &AttentionOptions::new()).unwrap();
                // Dot scores have no parameters.
                let constant = tracked == 3 && matches!(kind, ScoreKind::Dot | ScoreKind::ScaledDot);
                assert_eq!(output.out.device().is_autodiff(), !constant, "{kind:?} {normaliser:?} {tracked}");
            }
        }
    }
}

#[test]
fn hidden_nan_reaches_neither_output_nor_gradients() {
    let device = reference_device().autodiff();
    let [query, key, value] = inputs(&device);
    let poison = |tensor: Tensor<4>| {
        let [batch, heads, _, dim] = tensor.dims();
        Tensor::cat(vec![tensor, Tensor::full([batch, heads, 2, dim], f32::NAN, &device)], 2).require_grad()
    };
    for kind in KINDS {
        for normaliser in NORMALISERS {
            let layer = layer(kind, normaliser, &device);
            let lengths = AttentionOptions::new().kv_lens(vec![SIZES[4]; SIZES[0]]);
            let query = query.clone().require_grad();
            let clean = attend(&layer, [query.clone(), key.clone(), value.clone()], &AttentionOptions::new()).out;
            let wanted = gradients(&layer, &(clean.clone() * clean.clone()).sum().backward());
            let padding = Tensor::cat(
                vec![
                    Tensor::zeros([1, 1, 1, SIZES[4]], &device),
                    Tensor::full([1, 1, 1, 2], f32::NEG_INFINITY, &device),
                ],
                3,
            );
            let (key, value) = (poison(key.clone()), poison(value.clone()));
            let by_bias =
                attend(&layer, [query.clone(), key.clone(), value.clone()], &AttentionOptions::new().bias(padding));
            assert_close(by_bias.out.inner(), clean.clone().inner(), 1e-6);
            let found = attend(&layer, [query.clone(), key.clone(), value.clone()], &lengths).out;
            assert_close(found.clone().inner(), clean.inner(), 1e-6);
            let grads = (found.clone() * found).sum().backward();
            for tensor in [&query, &key, &value] {
                let grad = elements(tensor.grad(&grads).unwrap());
                assert!(grad.iter().all(|grad| grad.is_finite()), "{kind:?} {normaliser:?}: {grad:?}");
            }
            for ((path, found), (_, wanted)) in gradients(&layer, &grads).into_iter().zip(wanted) {
                let (found, wanted) = (found.unwrap(), wanted.unwrap());
                assert!((found - wanted).abs() <= 1e-4 * wanted.max(1.0), "{kind:?} {path}: {found} for {wanted}");
            }
        }
    }
}

#[test]
fn gradients_are_central_differences() {
    let device = reference_device();
    for kind in KINDS {
        for normaliser in NORMALISERS {
            // Scores of moderate size, so that every row of the sparse ones keeps a few keys.
            let layer = layer(kind, normaliser, &device);
            let [query, key, value] = inputs(&device).map(Input::new);
            assert_gradients((layer, query, (key, value)), |(layer, query, (key, value))| {
                let options = AttentionOptions::new().spec(AttentionSpec::new().with_causal(true).with_softcap(3.0));
                let out = layer.forward(query.value(), key.value(), value.value(), &options).unwrap().out;
                (out.clone() * out).sum()
            });
        }
    }
}
