//! Tests of multi-head attention.

use attn_core::{AttentionError, AttentionSpec, KernelChoice, Mask};
use burn::module::Module;
use burn::tensor::{Device, Tensor};

use super::{
    Input, assert_agreement, assert_close, assert_gradients, bools, gradients, heads, joined, noise, plain,
    reference_device, restored, shaken,
};
use crate::nn::{AttentionOptions, MultiHeadAttention, MultiHeadAttentionConfig};
use crate::{Attention, Selection};

fn layer(config: MultiHeadAttentionConfig, device: &Device) -> MultiHeadAttention {
    shaken(config.init(device).unwrap())
}

/// The layer's output around the plain attention.
fn expected(
    layer: &MultiHeadAttention,
    [query, key, value]: [Tensor<3>; 3],
    hidden: Option<Tensor<4, burn::tensor::Bool>>,
) -> Tensor<3> {
    let (h, g) = (layer.heads(), layer.kv_heads());
    let attended = plain(
        heads(layer.query.forward(query), h),
        heads(layer.key.forward(key), g),
        heads(layer.value.as_ref().unwrap().forward(value), g),
        hidden,
    );
    layer.output.forward(joined(attended))
}

#[test]
fn self_attention_is_the_plain_computation() {
    let device = reference_device();
    let layer = layer(MultiHeadAttentionConfig::new(12, 3), &device);
    let hidden = noise([2, 7, 12], 1, &device);
    let out = layer.self_attention(hidden.clone(), &AttentionOptions::new()).unwrap().out;
    assert_close(out, expected(&layer, [hidden.clone(), hidden.clone(), hidden], None), 1e-5);
}

#[test]
fn groups_share_key_value_heads_and_every_width_may_differ() {
    let device = reference_device();
    let config = MultiHeadAttentionConfig::new(10, 6)
        .with_d_key(Some(7))
        .with_d_value(Some(9))
        .with_d_out(Some(11))
        .with_kv_heads(Some(2))
        .with_head_dim(Some(5))
        .with_value_dim(Some(3))
        .with_key_bias(false);
    let layer = layer(config, &device);
    let inputs = [noise([2, 4, 10], 1, &device), noise([2, 6, 7], 2, &device), noise([2, 6, 9], 3, &device)];
    let [query, key, value] = inputs.clone();
    let out = layer.forward(query, key, value, &AttentionOptions::new()).unwrap().out;
    assert_eq!(out.dims(), [2, 4, 11]);
    assert_close(out, expected(&layer, inputs, None), 1e-5);
}

#[test]
fn padding_and_mask_hide_together_whatever_their_polarity() {
    let device = reference_device();
    let layer = layer(MultiHeadAttentionConfig::new(8, 2), &device);
    let hidden = noise([2, 5, 8], 1, &device);
    let padded = bools([2, 5], |i| i == 3 || i == 4 || i == 9, &device);
    let unseen = bools([1, 1, 5, 5], |i| (i / 5 + i % 5) % 3 == 1, &device);
    let both = unseen
        .clone()
        .expand::<4, _>([2, 1, 5, 5])
        .bool_or(padded.clone().reshape([2, 1, 1, 5]).expand::<4, _>([2, 1, 5, 5]));
    let wanted = expected(&layer, [hidden.clone(), hidden.clone(), hidden.clone()], Some(both));

    let hide = AttentionOptions::new().mask(Mask::hide(unseen.clone())).key_padding(Mask::hide(padded.clone()));
    let keep = AttentionOptions::new().mask(Mask::keep(unseen.bool_not())).key_padding(Mask::keep(padded.bool_not()));
    for options in [hide, keep] {
        assert_close(layer.self_attention(hidden.clone(), &options).unwrap().out, wanted.clone(), 1e-5);
    }
}

#[test]
fn padding_alone_is_the_shorter_sequence_even_where_it_holds_nan() {
    let device = reference_device();
    let layer = layer(MultiHeadAttentionConfig::new(8, 2), &device);
    let query = noise([1, 3, 8], 1, &device);
    let keys = noise([1, 4, 8], 2, &device);
    let poisoned = Tensor::cat(vec![keys.clone(), Tensor::full([1, 2, 8], f32::NAN, &device)], 1);
    let options = AttentionOptions::new().key_padding(Mask::keep(bools([1, 6], |i| i < 4, &device)));
    let found = layer.forward(query.clone(), poisoned.clone(), poisoned.clone(), &options).unwrap().out;
    let wanted = layer.forward(query.clone(), keys.clone(), keys, &AttentionOptions::new()).unwrap().out;
    assert_close(found, wanted.clone(), 1e-6);
    let lengths = AttentionOptions::new().kv_lens([4]);
    assert_close(layer.forward(query, poisoned.clone(), poisoned, &lengths).unwrap().out, wanted, 1e-6);
}

#[test]
fn every_option_reaches_the_attention() {
    let device = reference_device();
    let layer = layer(MultiHeadAttentionConfig::new(8, 4).with_kv_heads(Some(2)), &device);
    let hidden = noise([2, 6, 8], 1, &device);
    let spec = AttentionSpec::new().with_scale(0.3).with_softcap(2.0).with_causal(true).with_window(Some(3), None);
    let mask = Mask::keep(bools([1, 4, 6, 6], |i| i % 7 != 3, &device));
    let (bias, slopes, sinks) = (noise([2, 1, 6, 6], 2, &device), noise([4], 3, &device), noise([4], 4, &device));
    let selection = Selection { heads: Some(vec![3, 1]), rows: Some(vec![5]) };
    let kernel = KernelChoice { forward: Some("composite".into()), backward: Some("composite".into()) };

    let options = AttentionOptions::new()
        .spec(spec)
        .mask(mask.clone())
        .bias(bias.clone())
        .alibi_slopes(slopes.clone())
        .sinks(sinks.clone())
        .kv_lens([6, 4])
        .kernels(kernel)
        .with_lse()
        .with_weights(selection.clone());
    let by_hand = Attention::new(
        heads(layer.query.forward(hidden.clone()), 4),
        heads(layer.key.forward(hidden.clone()), 2),
        heads(layer.value.as_ref().unwrap().forward(hidden.clone()), 2),
    )
    .spec(spec)
    .mask(mask)
    .bias(bias)
    .alibi_slopes(slopes)
    .sinks(sinks)
    .kv_lens([6, 4])
    .kernel("composite")
    .with_lse()
    .with_weights(selection)
    .forward()
    .unwrap();

    let output = layer.self_attention(hidden.clone(), &options).unwrap();
    assert_close(output.out, layer.output.forward(joined(by_hand.out)), 1e-6);
    assert_close(output.lse.unwrap(), by_hand.lse.unwrap(), 1e-6);
    assert_close(output.weights.unwrap(), by_hand.weights.unwrap(), 1e-6);
    let plan = layer.plan(hidden.clone(), hidden.clone(), hidden, &options).unwrap();
    assert_eq!((plan.forward.kernel, plan.backward.kernel), ("composite", "composite"));
}

#[test]
fn nothing_but_what_was_asked_for_comes_out_and_weights_sum_to_one() {
    let device = reference_device();
    let layer = layer(MultiHeadAttentionConfig::new(8, 2), &device);
    let hidden = noise([2, 5, 8], 1, &device);
    let output = layer.self_attention(hidden.clone(), &AttentionOptions::new()).unwrap();
    assert!(output.lse.is_none() && output.weights.is_none());
    let options = AttentionOptions::new().with_weights(Selection::all()).with_lse();
    let output = layer.self_attention(hidden, &options).unwrap();
    assert_eq!(output.lse.unwrap().dims(), [2, 2, 5]);
    let sums: Tensor<4> = output.weights.unwrap().sum_dim(3);
    assert_close(sums, Tensor::ones([2, 2, 5, 1], &device), 1e-6);
}

#[test]
fn gradients_reach_every_parameter_and_are_those_of_the_plain_computation() {
    let device = reference_device().autodiff();
    let layer = layer(MultiHeadAttentionConfig::new(8, 4).with_kv_heads(Some(2)), &device);
    let hidden = noise([2, 5, 8], 1, &device);
    let weight = noise([2, 5, 8], 2, &device);
    let ours = layer.self_attention(hidden.clone(), &AttentionOptions::new()).unwrap().out;
    let plain = expected(&layer, [hidden.clone(), hidden.clone(), hidden], None);
    let [ours, plain] = [ours, plain].map(|out| gradients(&layer, &(out * weight.clone()).sum().backward()));
    assert_eq!(ours.len(), 8);
    for ((path, ours), (_, plain)) in ours.into_iter().zip(plain) {
        let (ours, plain) = (ours.expect(&path), plain.expect(&path));
        assert!((ours - plain).abs() <= 1e-4 * plain.max(1.0), "{path}: {ours} in place of {plain}");
        // One number added to all keys' scores changes no softmax, so the bias of the keys gets no gradient.
        assert!(ours > 1e-3 || path == "key.bias", "{path}: {ours}");
    }
}

#[test]
fn gradients_are_central_differences() {
    let device = reference_device();
    let layer = layer(MultiHeadAttentionConfig::new(6, 2).with_kv_heads(Some(1)), &device);
    assert_gradients((layer, Input::new(noise([2, 4, 6], 1, &device))), |(layer, hidden)| {
        let options = AttentionOptions::new().spec(AttentionSpec::new().with_causal(true));
        let out = layer.self_attention(hidden.value(), &options).unwrap().out;
        (out.clone() * out).sum()
    });
}

#[test]
fn every_backend_gives_the_same() {
    assert_agreement(1e-5, |device| {
        let layer = layer(MultiHeadAttentionConfig::new(8, 4).with_kv_heads(Some(2)), device);
        layer.self_attention(noise([2, 5, 8], 1, device), &AttentionOptions::new()).unwrap().out
    });
}

#[test]
fn dropout_drops_weights_in_training_alone_and_shows_them_whole() {
    let device = reference_device().autodiff();
    let layer = layer(MultiHeadAttentionConfig::new(8, 2).with_dropout(0.5), &device);
    let hidden = noise([2, 6, 8], 1, &device);
    let options =
        AttentionOptions::new().with_weights(Selection { heads: Some(vec![1]), rows: Some(vec![2, 0]) }).with_lse();
    let trained = layer.self_attention(hidden.clone(), &options).unwrap();
    let resting = layer.clone().freeze().self_attention(hidden.clone(), &options).unwrap();
    let difference = (trained.out.clone() - resting.out.clone()).abs().max().into_scalar::<f32>();
    assert!(difference > 1e-2, "half of the weights dropped, and the output moved by {difference}");
    assert_close(trained.weights.unwrap().inner(), resting.weights.unwrap().inner(), 1e-6);
    assert_close(trained.lse.unwrap().inner(), resting.lse.unwrap().inner(), 1e-6);
    assert!(gradients(&layer, &trained.out.sum().backward()).iter().all(|(_, grad)| grad.is_some()));

    let inner = layer.valid().self_attention(hidden.inner(), &AttentionOptions::new()).unwrap();
    assert_close(inner.out, resting.out.inner(), 1e-6);
}

#[test]
fn dropout_keeps_the_expected_output() {
    let device = reference_device().autodiff();
    device.seed(7);
    let layer = layer(MultiHeadAttentionConfig::new(4, 1).with_dropout(0.3), &device);
    let hidden = noise([1, 3, 4], 1, &device);
    let runs = 3000;
    // Copies side by side drop independently.
    let out = layer.self_attention(hidden.clone().repeat_dim(0, runs), &AttentionOptions::new()).unwrap().out;
    let wanted = layer.clone().freeze().self_attention(hidden, &AttentionOptions::new()).unwrap().out;
    assert_close(out.mean_dim(0).inner(), wanted.inner(), 0.03);
}

#[test]
fn a_record_carries_every_parameter() {
    let device = reference_device();
    let config = MultiHeadAttentionConfig::new(8, 4).with_kv_heads(Some(1)).with_value_bias(false);
    let first = layer(config.clone(), &device);
    let second = restored(&first, config.init(&device).unwrap());
    let hidden = noise([1, 5, 8], 1, &device);
    let [a, b] =
        [first, second].map(|layer| layer.self_attention(hidden.clone(), &AttentionOptions::new()).unwrap().out);
    assert_close(b, a, 0.0);
}

#[test]
fn empty_batches_and_sequences_have_their_answers() {
    let device = reference_device();
    let layer = layer(MultiHeadAttentionConfig::new(8, 2), &device);
    let of = |batch, length| Tensor::<3>::zeros([batch, length, 8], &device);
    for (batch, query_len, key_len) in [(0, 3, 4), (2, 0, 4), (2, 3, 0), (0, 0, 0)] {
        let (query, key) = (of(batch, query_len), of(batch, key_len));
        let out = layer.forward(query, key.clone(), key, &AttentionOptions::new()).unwrap().out;
        assert_eq!(out.dims(), [batch, query_len, 8]);
        if batch * query_len > 0 {
            // Nothing to see: attention gives 0, and the output projection its bias.
            let bias: Tensor<3> = layer.output.bias.clone().unwrap().val().unsqueeze::<3>();
            assert_close(out, bias.expand::<3, _>([batch, query_len, 8]), 0.0);
        }
    }
}

#[test]
fn wrong_input_names_the_argument() {
    let device = reference_device();
    let layer = layer(MultiHeadAttentionConfig::new(8, 2).with_d_key(Some(6)), &device);
    let good = [[2, 3, 8], [2, 5, 6], [2, 5, 6]];
    let attend = |shapes: [[usize; 3]; 3], options: AttentionOptions| {
        let [query, key, value] = shapes.map(|shape| Tensor::<3>::zeros(shape, &device));
        layer.forward(query, key, value, &options).map(|_| ())
    };
    assert_eq!(attend(good, AttentionOptions::new()), Ok(()));
    let name = |result: Result<(), AttentionError>| result.unwrap_err().argument();
    for (at, argument) in [(0, "query"), (1, "key"), (2, "value")] {
        let mut shapes = good;
        shapes[at][2] += 1;
        assert_eq!(name(attend(shapes, AttentionOptions::new())), Some(argument));
    }
    assert_eq!(name(attend([[2, 3, 8], [1, 5, 6], [1, 5, 6]], AttentionOptions::new())), Some("key"));
    assert_eq!(name(attend([[2, 3, 8], [2, 5, 6], [2, 4, 6]], AttentionOptions::new())), Some("value"));
    let floats = |shape: [usize; 4]| Tensor::<4>::zeros(shape, &device);
    let spec = |spec| AttentionOptions::new().spec(spec);
    let options = [
        ("key_padding", AttentionOptions::new().key_padding(Mask::keep(bools([2, 4], |_| true, &device)))),
        ("key_padding", AttentionOptions::new().key_padding(Mask::keep(bools([1, 5], |_| true, &device)))),
        ("mask", AttentionOptions::new().mask(Mask::keep(bools([2, 2, 3, 4], |_| true, &device)))),
        ("bias", AttentionOptions::new().bias(floats([3, 1, 1, 1]))),
        ("alibi_slopes", AttentionOptions::new().alibi_slopes(Tensor::zeros([3], &device))),
        ("sinks", AttentionOptions::new().sinks(Tensor::zeros([1], &device))),
        ("kv_lens", AttentionOptions::new().kv_lens([5, 6])),
        ("kv_lens", AttentionOptions::new().kv_lens([5])),
        ("softcap", spec(AttentionSpec::new().with_softcap(0.0))),
        ("scale", spec(AttentionSpec::new().with_scale(f64::INFINITY))),
        ("heads", AttentionOptions::new().with_weights(Selection { heads: Some(vec![2]), rows: None })),
        ("rows", AttentionOptions::new().with_weights(Selection { heads: None, rows: Some(vec![3]) })),
    ];
    for (argument, options) in options {
        assert_eq!(name(attend(good, options)), Some(argument));
    }
    let double = Tensor::<3>::zeros([2, 3, 8], &device).cast(burn::tensor::FloatDType::F64);
    let keys = Tensor::<3>::zeros([2, 5, 6], &device);
    let found = layer.forward(double, keys.clone(), keys, &AttentionOptions::new()).map(|_| ());
    assert_eq!(name(found), Some("query"));
}

#[test]
fn autodiff_may_be_on_for_the_layer_or_the_input_alone() {
    let device = reference_device();
    for (of_layer, of_input) in
        [(device.clone().autodiff(), device.clone()), (device.clone(), device.clone().autodiff())]
    {
        let layer = layer(MultiHeadAttentionConfig::new(8, 2), &of_layer);
        let hidden = noise([1, 3, 8], 1, &of_input);
        let out = layer.self_attention(hidden.clone(), &AttentionOptions::new()).unwrap().out;
        assert_eq!((out.dims(), out.device().is_autodiff()), ([1, 3, 8], true));
        let padding = Mask::keep(bools([1, 3], |i| i < 2, &device));
        let out = layer.self_attention(hidden, &AttentionOptions::new().key_padding(padding)).unwrap().out;
        assert_eq!(out.dims(), [1, 3, 8]);
    }
}

#[test]
fn a_config_without_a_meaning_names_the_size() {
    let device = reference_device();
    let config = |d_query, heads| MultiHeadAttentionConfig::new(d_query, heads);
    let cases = [
        ("d_query", config(0, 1)),
        ("heads", config(8, 0)),
        ("heads", config(8, 3)),
        ("d_key", config(8, 2).with_d_key(Some(0))),
        ("d_value", config(8, 2).with_d_value(Some(0))),
        ("d_out", config(8, 2).with_d_out(Some(0))),
        ("kv_heads", config(8, 2).with_kv_heads(Some(0))),
        ("kv_heads", config(12, 6).with_kv_heads(Some(4))),
        ("head_dim", config(8, 2).with_head_dim(Some(0))),
        ("head_dim", config(8, 2).with_head_dim(Some(usize::MAX))),
        ("value_dim", config(8, 2).with_value_dim(Some(0))),
        ("dropout", config(8, 2).with_dropout(1.0)),
        ("dropout", config(8, 2).with_dropout(f64::NAN)),
    ];
    for (argument, config) in cases {
        assert_eq!(config.init(&device).map(|_| ()).unwrap_err().argument(), Some(argument), "{config}");
    }
}
