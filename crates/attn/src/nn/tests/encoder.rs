//! Tests of the transformer encoder.

use attn_core::Mask;
use burn::module::Module;
use burn::tensor::activation::{gelu, gelu_approximate, relu, silu};
use burn::tensor::{FloatDType, Tensor};

use super::{
    assert_close, assert_gradients, bools, gradients, heads, joined, noise, plain, reference_device, restored, shaken,
};
use crate::Selection;
use crate::nn::{
    Activation, AttentionOptions, DistanceRule, MultiHeadAttentionConfig, NormPlacement, QkNormConfig, QkNormKind,
    RotaryConfig, RotaryLayout, TransformerEncoderConfig, TransformerEncoderLayer, TransformerEncoderLayerConfig,
};

fn config() -> TransformerEncoderLayerConfig {
    TransformerEncoderLayerConfig::new(8, 2, 20)
}

/// The layer by the formulas of its documentation.
fn expected(
    layer: &TransformerEncoderLayer,
    x: Tensor<3>,
    pre: bool,
    activation: fn(Tensor<3>) -> Tensor<3>,
) -> Tensor<3> {
    let attention = |x: Tensor<3>| {
        let a = &layer.attention;
        let [query, key, value] = [&a.query, &a.key, a.value.as_ref().unwrap()].map(|linear| linear.forward(x.clone()));
        a.output.forward(joined(plain(heads(query, 2), heads(key, a.kv_heads()), heads(value, a.kv_heads()), None)))
    };
    let fed = |x| layer.linear_outer.forward(activation(layer.linear_inner.forward(x)));
    let (norm_a, norm_f) = (&layer.attention_norm, &layer.feed_forward_norm);
    if pre {
        let y = x.clone() + attention(norm_a.forward(x));
        y.clone() + fed(norm_f.forward(y))
    } else {
        let y = norm_a.forward(x.clone() + attention(x));
        norm_f.forward(y.clone() + fed(y))
    }
}

#[test]
fn pre_and_post_norm_with_each_activation_follow_their_formulas() {
    let device = reference_device();
    let x = noise([2, 5, 8], 1, &device);
    type Function = fn(Tensor<3>) -> Tensor<3>;
    let activations = [
        (Activation::Gelu, gelu as Function),
        (Activation::GeluTanh, gelu_approximate),
        (Activation::Relu, relu),
        (Activation::Silu, silu),
    ];
    for (activation, function) in activations {
        for placement in [NormPlacement::Pre, NormPlacement::Post] {
            let config = config().with_activation(activation).with_norm(placement).with_kv_heads(Some(1));
            let layer = shaken(config.init(&device).unwrap());
            let out = layer.forward(x.clone(), &AttentionOptions::new()).unwrap().hidden;
            assert_close(out, expected(&layer, x.clone(), placement == NormPlacement::Pre, function), 1e-5);
        }
    }
}

#[test]
fn the_epsilon_is_the_one_asked_for() {
    let device = reference_device();
    let layer = shaken(config().with_layer_norm_epsilon(0.5).init(&device).unwrap());
    let same = shaken(config().with_layer_norm_epsilon(1e-12).init(&device).unwrap());
    let x = noise([1, 3, 8], 1, &device);
    let [a, b] = [layer, same].map(|layer| layer.forward(x.clone(), &AttentionOptions::new()).unwrap().hidden);
    assert!((a - b).abs().max().into_scalar::<f32>() > 1e-2);
}

#[test]
fn padding_changes_nothing_for_the_tokens_that_are_there() {
    let device = reference_device();
    let encoder = shaken(TransformerEncoderConfig::new(config(), 3).init(&device).unwrap());
    let short = noise([1, 4, 8], 1, &device);
    let padded = Tensor::cat(vec![short.clone(), noise([1, 3, 8], 9, &device)], 1);
    let options = AttentionOptions::new().key_padding(Mask::hide(bools([1, 7], |i| i >= 4, &device)));
    let found = encoder.forward(padded, &options).unwrap().hidden.slice([0..1, 0..4]);
    assert_close(found, encoder.forward(short, &AttentionOptions::new()).unwrap().hidden, 1e-5);
}

#[test]
fn a_stack_is_its_layers_in_turn_and_shows_each_ones_weights() {
    let device = reference_device();
    let x = noise([2, 5, 8], 1, &device);
    for (placement, ends_with_norm) in [(NormPlacement::Pre, true), (NormPlacement::Post, false)] {
        let config = TransformerEncoderConfig::new(config().with_norm(placement), 3);
        let encoder = shaken(config.init(&device).unwrap());
        assert_eq!(encoder.norm.is_some(), ends_with_norm);
        let options = AttentionOptions::new().with_weights(Selection { heads: None, rows: Some(vec![4]) }).with_lse();
        let output = encoder.forward(x.clone(), &options).unwrap();
        assert_eq!((output.weights.len(), output.lse.len()), (3, 3));
        let mut hidden = x.clone();
        for (layer, weights) in encoder.layers.iter().zip(&output.weights) {
            let made = layer.forward(hidden, &options).unwrap();
            assert_close(weights.clone(), made.weights.unwrap(), 0.0);
            assert_eq!(weights.dims(), [2, 2, 1, 5]);
            hidden = made.hidden;
        }
        let hidden = encoder.norm.iter().fold(hidden, |hidden, norm| norm.forward(hidden));
        assert_close(output.hidden, hidden, 0.0);
        let plain = encoder.forward(x.clone(), &AttentionOptions::new()).unwrap();
        assert!(plain.weights.is_empty() && plain.lse.is_empty());
    }
    let never = TransformerEncoderConfig::new(config().with_norm(NormPlacement::Pre), 1).with_final_norm(Some(false));
    assert!(never.init(&device).unwrap().norm.is_none());
}

#[test]
fn gradients_reach_every_parameter() {
    let device = reference_device().autodiff();
    for placement in [NormPlacement::Pre, NormPlacement::Post] {
        let config = TransformerEncoderConfig::new(config().with_norm(placement).with_dropout(0.1), 2);
        let encoder = shaken(config.with_final_norm(Some(true)).init(&device).unwrap());
        let out = encoder.forward(noise([2, 5, 8], 1, &device), &AttentionOptions::new()).unwrap().hidden;
        let found = gradients(&encoder, &(out * noise([2, 5, 8], 2, &device)).sum().backward());
        assert_eq!(found.len(), 2 * 16 + 2);
        for (path, grad) in found {
            let grad = grad.expect(&path);
            // See the same test of the attention for the bias of the keys.
            assert!(grad > 1e-5 || path.ends_with("key.bias"), "{path}: {grad}");
        }
    }
}

#[test]
fn dropout_acts_in_training_alone() {
    let device = reference_device().autodiff();
    let layer = shaken(config().with_dropout(0.5).init(&device).unwrap());
    let x = noise([2, 5, 8], 1, &device);
    let trained = layer.forward(x.clone(), &AttentionOptions::new()).unwrap().hidden.inner();
    let resting = layer.valid().forward(x.clone().inner(), &AttentionOptions::new()).unwrap().hidden;
    assert!((trained - resting.clone()).abs().max().into_scalar::<f32>() > 1e-2);
    assert_close(resting, expected(&layer, x, false, gelu).inner(), 1e-5);
}

#[test]
fn a_record_carries_every_parameter() {
    let device = reference_device();
    let config = TransformerEncoderConfig::new(config(), 2).with_final_norm(Some(true));
    let first = shaken(config.init(&device).unwrap());
    let second = config.init(&device).unwrap().try_load_record(first.clone().into_record()).unwrap();
    let x = noise([1, 5, 8], 1, &device);
    let [a, b] = [first, second].map(|encoder| encoder.forward(x.clone(), &AttentionOptions::new()).unwrap().hidden);
    assert_close(b, a, 0.0);
}

#[test]
fn wrong_input_and_wrong_configs_name_the_argument() {
    let device = reference_device();
    let layer = config().init(&device).unwrap();
    let error = layer.forward(Tensor::zeros([1, 2, 7], &device), &AttentionOptions::new()).map(|_| ()).unwrap_err();
    assert_eq!(error.argument(), Some("hidden"));
    for empty in [[0, 3, 8], [2, 0, 8]] {
        let out = layer.forward(Tensor::zeros(empty, &device), &AttentionOptions::new()).unwrap().hidden;
        assert_eq!(out.dims(), empty);
    }
    let cases = [
        ("d_model", TransformerEncoderLayerConfig::new(0, 1, 4)),
        ("heads", TransformerEncoderLayerConfig::new(8, 3, 4)),
        ("d_ff", TransformerEncoderLayerConfig::new(8, 2, 0)),
        ("kv_heads", config().with_kv_heads(Some(3))),
        ("dropout", config().with_dropout(-0.1)),
        ("attention_dropout", config().with_attention_dropout(1.5)),
        ("layer_norm_epsilon", config().with_layer_norm_epsilon(f64::INFINITY)),
    ];
    for (argument, config) in cases {
        assert_eq!(config.init(&device).map(|_| ()).unwrap_err().argument(), Some(argument), "{config}");
    }
    let none = TransformerEncoderConfig::new(config(), 0).init(&device).map(|_| ());
    assert_eq!(none.unwrap_err().argument(), Some("layers"));
}

#[test]
fn a_block_takes_every_option_of_its_attention() {
    let device = reference_device();
    let attention = config()
        .attention_config()
        .with_kv_heads(Some(1))
        .with_rotary(Some(RotaryConfig::new(4, RotaryLayout::Half)))
        .with_qk_norm(Some(QkNormConfig::new(QkNormKind::Rms)));
    let layer = shaken(config().with_attention(Some(attention)).init(&device).unwrap());
    let x = noise([2, 5, 8], 1, &device);
    let options = AttentionOptions::new();
    let attended = layer.attention.self_attention(x.clone(), &options).unwrap().out;
    let y = layer.attention_norm.forward(x.clone() + attended);
    let fed = layer.linear_outer.forward(gelu(layer.linear_inner.forward(y.clone())));
    assert_close(layer.forward(x.clone(), &options).unwrap().hidden, layer.feed_forward_norm.forward(y + fed), 1e-6);
    assert!(
        layer.attention.rotary.is_some() && layer.attention.query_norm.is_some() && layer.attention.kv_heads() == 1
    );

    // Left out, the attention is that of the fields.
    let plain = config().with_kv_heads(Some(1)).with_attention_dropout(0.25).with_bias(false);
    let given = plain.clone().with_attention(Some(plain.attention_config()));
    let [a, b] = [plain, given].map(|config| shaken(config.init(&device).unwrap()));
    assert_close(a.forward(x.clone(), &options).unwrap().hidden, b.forward(x, &options).unwrap().hidden, 0.0);
    assert_eq!(a.attention.dropout.prob, b.attention.dropout.prob);

    let of = || config().attention_config();
    let cases = [
        config().with_attention(Some(MultiHeadAttentionConfig::new(6, 2))),
        config().with_attention(Some(of().with_d_key(Some(6)))),
        config().with_attention(Some(of().with_d_out(Some(6)))),
        config().with_attention(Some(MultiHeadAttentionConfig::new(8, 4))),
        config().with_attention(Some(of())).with_kv_heads(Some(1)),
        config().with_attention(Some(of())).with_attention_dropout(0.1),
    ];
    for config in cases {
        assert_eq!(config.init(&device).map(|_| ()).unwrap_err().argument(), Some("attention"), "{config}");
    }
}

#[test]
fn blocks_that_share_parameters_are_one_block_applied_again_and_gradients_add_up() {
    let device = reference_device().autodiff();
    let x = noise([2, 5, 8], 1, &device);
    let weight = noise([2, 5, 8], 2, &device);
    let options = AttentionOptions::new().with_lse();
    let of = |groups| TransformerEncoderConfig::new(config(), 4).with_groups(Some(groups));
    for (groups, repeats) in [(1, 4), (2, 2), (4, 1)] {
        let shared = shaken(of(groups).init(&device).unwrap());
        assert_eq!((shared.layers.len(), shared.repeats()), (groups, repeats));
        assert_eq!(shared.num_params(), groups * shared.layers[0].num_params());
        // The same parameters, each block with a copy of its own.
        let mut own = of(4).init(&device).unwrap();
        own.layers = (0..4).map(|at| restored(&shared.layers[at / repeats], own.layers[at].clone())).collect();

        let (found, wanted) = (shared.forward(x.clone(), &options).unwrap(), own.forward(x.clone(), &options).unwrap());
        assert_close(found.hidden.clone().inner(), wanted.hidden.clone().inner(), 0.0);
        assert_eq!(found.lse.len(), 4);
        let [of_shared, of_own] = [found, wanted].map(|output| (output.hidden * weight.clone()).sum().backward());
        for (at, layer) in shared.layers.iter().enumerate() {
            let parameters: [fn(&TransformerEncoderLayer) -> Tensor<2>; 3] = [
                |layer| layer.attention.query.weight.val(),
                |layer| layer.attention.output.weight.val(),
                |layer| layer.linear_inner.weight.val(),
            ];
            for parameter in parameters {
                let copies = &own.layers[at * repeats..(at + 1) * repeats];
                let sum = copies.iter().map(|copy| parameter(copy).grad(&of_own).unwrap()).reduce(|a, b| a + b);
                // Sums of 4 in another order.
                assert_close(parameter(layer).grad(&of_shared).unwrap(), sum.unwrap(), 1e-5);
            }
        }
    }
    for (argument, config) in [("groups", of(0)), ("groups", of(3))] {
        assert_eq!(config.init(&device).map(|_| ()).unwrap_err().argument(), Some(argument));
    }
}

#[test]
fn one_relative_bias_serves_all_blocks() {
    let device = reference_device();
    let rule = DistanceRule::T5 { buckets: 8, max_distance: 6, bidirectional: true };
    let stack = TransformerEncoderConfig::new(config(), 2).with_relative_bias(Some(rule));
    let encoder = shaken(stack.init(&device).unwrap());
    let x = noise([2, 5, 8], 1, &device);
    let own = noise([2, 1, 1, 5], 3, &device);
    let found = encoder.forward(x.clone(), &AttentionOptions::new().bias(own.clone())).unwrap().hidden;
    let table = encoder.relative_bias.as_ref().unwrap().forward(5, 5, 0).unwrap();
    let mut plain = encoder.clone();
    plain.relative_bias = None;
    let options = AttentionOptions::new().bias(own + table);
    assert_close(found, plain.forward(x.clone(), &options).unwrap().hidden, 1e-6);
    assert_gradients(encoder.clone(), |encoder| {
        let x = noise([1, 4, 8], 1, &encoder.devices()[0].clone().autodiff()).cast(FloatDType::F64);
        let out = encoder.forward(x, &AttentionOptions::new()).unwrap().hidden;
        (out.clone() * out.clone() * out).sum()
    });

    let empty = encoder.forward(Tensor::zeros([0, 3, 8], &device), &AttentionOptions::new()).unwrap().hidden;
    assert_eq!(empty.dims(), [0, 3, 8]);
    let name = |x, options| encoder.forward(x, &options).map(|_| ()).unwrap_err().argument();
    assert_eq!(name(Tensor::zeros([1, 3, 7], &device), AttentionOptions::new()), Some("hidden"));
    assert_eq!(name(x, AttentionOptions::new().kv_lens([5, 3])), Some("spec"));
    let twice = config().attention_config().with_relative_bias(Some(rule));
    let twice = TransformerEncoderConfig::new(config().with_attention(Some(twice)), 2).with_relative_bias(Some(rule));
    assert_eq!(twice.init(&device).map(|_| ()).unwrap_err().argument(), Some("relative_bias"));
}
