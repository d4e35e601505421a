//! Tests of empty and wrong input to attention by a choice of score.

use attn_core::{AttentionError, AttentionSpec};
use burn::tensor::{FloatDType, Tensor};

use super::super::{assert_close, reference_device};
use super::{KINDS, NORMALISERS, SIZES, attend, inputs, layer};
use crate::nn::{AttentionOptions, Normaliser, ScoreConfig, ScoreKind, ScoredAttentionConfig};
use crate::{AttentionOutput, Selection};

#[test]
fn empty_batches_and_sequences_have_their_answers() {
    let device = reference_device();
    let [_, heads, kv_heads, _, _, dim, value_dim] = SIZES;
    for kind in KINDS {
        for normaliser in NORMALISERS {
            let layer = layer(kind, normaliser, &device);
            for (batch, query_len, key_len) in [(0, 3, 4), (2, 0, 4), (2, 3, 0), (0, 0, 0)] {
                let zeros = |shape: [usize; 4]| Tensor::<4>::ones(shape, &device);
                let inputs = [
                    zeros([batch, heads, query_len, dim]),
                    zeros([batch, kv_heads, key_len, dim]),
                    zeros([batch, kv_heads, key_len, value_dim]),
                ];
                for options in [AttentionOptions::new(), AttentionOptions::new().sinks(Tensor::ones([heads], &device))]
                {
                    let options = options.with_weights(Selection::all());
                    let output = attend(&layer, inputs.clone(), &options);
                    assert_close(output.out, Tensor::zeros([batch, heads, query_len, value_dim], &device), 0.0);
                    assert_eq!(output.weights.unwrap().dims(), [batch, heads, query_len, key_len]);
                }
            }
        }
    }
}

#[test]
fn wrong_input_names_the_argument() {
    let device = reference_device();
    let [query, key, value] = inputs(&device);
    let name = |result: Result<AttentionOutput, AttentionError>| result.map(|_| ()).unwrap_err().argument();
    for kind in KINDS {
        for normaliser in [Normaliser::Softmax, Normaliser::Entmax15] {
            let layer = layer(kind, normaliser, &device);
            for (at, argument) in [(0, "query"), (1, "key"), (2, "value")] {
                let mut wrong = [query.clone(), key.clone(), value.clone()];
                wrong[at] = wrong[at].clone().repeat_dim(1, 2);
                let [q, k, v] = wrong;
                assert_eq!(name(layer.forward(q, k, v, &AttentionOptions::new())), Some(argument), "{kind:?}");
            }
            let wide = query.clone().repeat_dim(3, 2);
            assert_eq!(name(layer.forward(wide, key.clone(), value.clone(), &AttentionOptions::new())), Some("query"));
            let wide = key.clone().repeat_dim(3, 2);
            assert_eq!(name(layer.forward(query.clone(), wide, value.clone(), &AttentionOptions::new())), Some("key"));
            let double = query.clone().cast(FloatDType::F64);
            let found = name(layer.forward(double, key.clone(), value.clone(), &AttentionOptions::new()));
            assert!(matches!(found, Some("query" | "key")), "{found:?}");
            let options = [
                ("bias", AttentionOptions::new().bias(Tensor::zeros([3, 1, 1, 1], &device))),
                ("sinks", AttentionOptions::new().sinks(Tensor::zeros([3], &device))),
                ("softcap", AttentionOptions::new().spec(AttentionSpec::new().with_softcap(-1.0))),
                ("scale", AttentionOptions::new().spec(AttentionSpec::new().with_scale(f64::NAN))),
                ("rows", AttentionOptions::new().with_weights(Selection { heads: None, rows: Some(vec![9]) })),
            ];
            for (argument, options) in options {
                let found = name(layer.forward(query.clone(), key.clone(), value.clone(), &options));
                assert_eq!(found, Some(argument), "{kind:?} {normaliser:?}");
            }
        }
    }
}

#[test]
fn a_config_without_a_meaning_names_the_size() {
    let device = reference_device();
    let score = ScoreConfig::new;
    let cosine = |initial_scale, max_scale| score(2, 3).with_kind(ScoreKind::Cosine { initial_scale, max_scale });
    let cases = [
        ("heads", score(0, 3)),
        ("query_dim", score(2, 0)),
        ("key_dim", score(2, 3).with_key_dim(Some(0))),
        ("key_dim", score(2, 3).with_key_dim(Some(4))),
        ("key_dim", cosine(10.0, 100.0).with_key_dim(Some(4))),
        ("kv_heads", score(2, 3).with_kv_heads(Some(0))),
        ("kv_heads", score(3, 3).with_kv_heads(Some(2))),
        ("hidden", score(2, 3).with_kind(ScoreKind::Additive { hidden: 0 })),
        ("hidden", score(2, 3).with_kind(ScoreKind::Additive { hidden: usize::MAX })),
        ("initial_scale", cosine(0.0, 100.0)),
        ("initial_scale", cosine(101.0, 100.0)),
        ("initial_scale", cosine(f64::NAN, 100.0)),
        ("max_scale", cosine(10.0, f64::INFINITY)),
        ("max_scale", cosine(10.0, -1.0)),
    ];
    for (argument, config) in cases {
        let error = ScoredAttentionConfig::new(config.clone()).init(&device).map(|_| ()).unwrap_err();
        assert_eq!(error.argument(), Some(argument), "{config}");
    }
}
