//! Tests of attention between modalities.

use attn_core::Mask;
use burn::module::Param;
use burn::tensor::activation::gelu;
use burn::tensor::{Bool, Device, Tensor};

use super::{
    Input, assert_agreement, assert_close, assert_gradients, bools, elements, gradients, heads, joined, noise, plain,
    reference_device, restored, shaken,
};
use crate::Selection;
use crate::nn::{
    Activation, AttentionOptions, CoAttention, CoAttentionConfig, CoAttentionOptions, CoAttentionStream,
    GatedCrossAttention, GatedCrossAttentionConfig, MultiHeadAttention, PerceiverResampler, PerceiverResamplerConfig,
    media_mask,
};

/// A layer's attention around the plain one. `hidden`: true = hidden.
fn attended(
    layer: &MultiHeadAttention,
    query: Tensor<3>,
    key: Tensor<3>,
    hidden: Option<Tensor<4, Bool>>,
) -> Tensor<3> {
    let [query, key, value] = [(&layer.query, query), (&layer.key, key.clone()), (layer.value.as_ref().unwrap(), key)]
        .map(|(linear, x)| linear.forward(x));
    let [query, key, value] = [query, key, value].map(|x| heads(x, layer.heads()));
    layer.output.forward(joined(plain(query, key, value, hidden)))
}

fn assert_finite(found: Vec<(String, Option<f32>)>) {
    for (path, grad) in found {
        assert!(grad.is_none_or(f32::is_finite), "{path}: {grad:?}");
    }
}

// Co-attention.

fn streams(device: &Device) -> CoAttention {
    shaken(CoAttentionConfig::new(6, 4, 2).with_left_ff(Some(7)).init(device).unwrap())
}

fn stream(layer: &CoAttentionStream, x: Tensor<3>, y: Tensor<3>) -> Tensor<3> {
    let u = layer.attention_norm.forward(x.clone() + attended(&layer.attention, x, y, None));
    layer.feed_forward_norm.forward(u.clone() + layer.linear_outer.forward(gelu(layer.linear_inner.forward(u))))
}

#[test]
fn each_stream_attends_to_the_other_as_it_came_in() {
    let device = reference_device();
    let block = streams(&device);
    let (left, right) = (noise([2, 3, 6], 1, &device), noise([2, 5, 4], 2, &device));
    let options = CoAttentionOptions { weights: Some(Selection::all()), ..Default::default() };
    let output = block.forward(left.clone(), right.clone(), &options).unwrap();
    assert_close(output.left, stream(&block.left, left.clone(), right.clone()), 1e-5);
    assert_close(output.right, stream(&block.right, right, left), 1e-5);
    assert_eq!(output.left_weights.unwrap().dims(), [2, 2, 3, 5]);
    assert_eq!(output.right_weights.unwrap().dims(), [2, 2, 5, 3]);
}

#[test]
fn padding_of_either_stream_has_no_influence_on_the_other() {
    let device = reference_device().autodiff();
    let block = streams(&device);
    let (left, right) = (noise([1, 3, 6], 1, &device), noise([1, 5, 4], 2, &device));
    let padded = |x: &Tensor<3>| {
        let [_, _, features] = x.dims();
        Tensor::cat(vec![x.clone(), Tensor::full([1, 2, features], f32::NAN, &device)], 1)
    };
    let options = CoAttentionOptions {
        left_padding: Some(Mask::keep(bools([1, 5], |i| i < 3, &device))),
        right_padding: Some(Mask::hide(bools([1, 7], |i| i >= 5, &device))),
        weights: None,
    };
    let found = block.forward(padded(&left), padded(&right), &options).unwrap();
    let wanted = block.forward(left, right, &CoAttentionOptions::default()).unwrap();
    let (of_left, of_right) = (found.left.narrow(1, 0, 3), found.right.narrow(1, 0, 5));
    assert_close(of_left.clone().inner(), wanted.left.inner(), 1e-5);
    assert_close(of_right.clone().inner(), wanted.right.inner(), 1e-5);
    assert_finite(gradients(&block, &(of_left.sum() + of_right.sum()).backward()));
}

#[test]
fn co_attention_gradients_are_central_differences() {
    let device = reference_device();
    let inputs = (Input::new(noise([1, 2, 6], 1, &device)), Input::new(noise([1, 3, 4], 2, &device)));
    // On NdArray, Burn's gradient of GELU is that of the approximation by tanh.
    let config = CoAttentionConfig::new(6, 4, 2).with_left_ff(Some(7)).with_activation(Activation::Relu);
    assert_gradients((shaken(config.init(&device).unwrap()), inputs.0, inputs.1), |(block, left, right)| {
        let output = block.forward(left.value(), right.value(), &CoAttentionOptions::default()).unwrap();
        // A sum of squares would be constant after a norm with factors of 1.
        let weigh = |x: Tensor<3>, seed| {
            let by = noise(x.dims(), seed, &x.device()).cast(burn::tensor::DType::F64);
            (x * by).sum()
        };
        weigh(output.left, 3) + weigh(output.right, 4)
    });
}

#[test]
fn co_attention_is_the_same_on_every_backend_and_out_of_a_record() {
    assert_agreement(1e-5, |device| {
        let (left, right) = (noise([2, 3, 6], 1, device), noise([2, 5, 4], 2, device));
        streams(device).forward(left, right, &CoAttentionOptions::default()).unwrap().left
    });
    let device = reference_device();
    let first = streams(&device);
    let second = restored(&first, CoAttentionConfig::new(6, 4, 2).with_left_ff(Some(7)).init(&device).unwrap());
    let (left, right) = (noise([2, 3, 6], 1, &device), noise([2, 5, 4], 2, &device));
    let options = CoAttentionOptions::default();
    let [a, b] = [first, second].map(|block| block.forward(left.clone(), right.clone(), &options).unwrap());
    assert_close(b.left, a.left, 0.0);
    assert_close(b.right, a.right, 0.0);
}

#[test]
fn co_attention_names_what_is_wrong() {
    let device = reference_device();
    let block = streams(&device);
    let attend = |left: [usize; 3], right: [usize; 3], options: CoAttentionOptions| {
        block.forward(Tensor::zeros(left, &device), Tensor::zeros(right, &device), &options).map(|_| ())
    };
    let none = CoAttentionOptions::default;
    for (left, right) in [([0, 3, 6], [0, 5, 4]), ([2, 0, 6], [2, 5, 4]), ([2, 3, 6], [2, 0, 4])] {
        assert_eq!(attend(left, right, none()), Ok(()));
    }
    let mask = |length| Some(Mask::keep(bools([2, length], |_| true, &device)));
    let selection = Some(Selection { heads: Some(vec![2]), rows: None });
    for (argument, left, right, options) in [
        ("left", [2, 3, 5], [2, 5, 4], none()),
        ("right", [2, 3, 6], [2, 5, 5], none()),
        ("right", [2, 3, 6], [1, 5, 4], none()),
        ("left_padding", [2, 3, 6], [2, 5, 4], CoAttentionOptions { left_padding: mask(5), ..none() }),
        ("right_padding", [2, 3, 6], [2, 5, 4], CoAttentionOptions { right_padding: mask(3), ..none() }),
        ("heads", [2, 3, 6], [2, 5, 4], CoAttentionOptions { weights: selection, ..none() }),
    ] {
        assert_eq!(attend(left, right, options).unwrap_err().argument(), Some(argument));
    }
    let config = |left, right, heads| CoAttentionConfig::new(left, right, heads);
    for (argument, config) in [
        ("d_left", config(0, 4, 2)),
        ("d_right", config(6, 0, 2)),
        ("heads", config(6, 4, 0)),
        ("heads", config(6, 4, 3)),
        ("head_dim", config(6, 4, 2).with_head_dim(Some(0))),
        ("left_ff", config(6, 4, 2).with_left_ff(Some(0))),
        ("right_ff", config(6, 4, 2).with_right_ff(Some(0))),
        ("dropout", config(6, 4, 2).with_dropout(1.0)),
        ("layer_norm_epsilon", config(6, 4, 2).with_layer_norm_epsilon(f64::NAN)),
    ] {
        assert_eq!(config.init(&device).map(|_| ()).unwrap_err().argument(), Some(argument), "{config}");
    }
}

// Gated cross-attention.

fn gated() -> GatedCrossAttentionConfig {
    GatedCrossAttentionConfig::new(6, 5, 2).with_d_ff(Some(7))
}

fn gated_by_hand(
    block: &GatedCrossAttention,
    x: Tensor<3>,
    media: Tensor<3>,
    hidden: Option<Tensor<4, Bool>>,
) -> Tensor<3> {
    let gate = |gate: &Param<Tensor<1>>| elements(gate.val())[0].tanh();
    let attention = attended(&block.attention, block.attention_norm.forward(x.clone()), media, hidden);
    let y = x + attention.mul_scalar(gate(&block.attention_gate));
    let fed = block.linear_inner.forward(block.feed_forward_norm.forward(y.clone()));
    y + block.linear_outer.forward(gelu(fed)).mul_scalar(gate(&block.feed_forward_gate))
}

#[test]
fn gates_begin_closed_and_let_the_formula_through_when_open() {
    let device = reference_device();
    let (x, media) = (noise([2, 3, 6], 1, &device), noise([2, 4, 5], 2, &device));
    let block = gated().init(&device).unwrap();
    let out = block.forward(x.clone(), media.clone(), &AttentionOptions::new()).unwrap().out;
    assert_close(out, x.clone(), 0.0);
    for bias in [false, true] {
        let block = shaken(gated().with_bias(bias).init(&device).unwrap());
        let options = AttentionOptions::new().with_weights(Selection::all()).with_lse();
        let output = block.forward(x.clone(), media.clone(), &options).unwrap();
        assert_close(output.out, gated_by_hand(&block, x.clone(), media.clone(), None), 1e-5);
        assert_eq!(output.weights.unwrap().dims(), [2, 2, 3, 4]);
        assert_eq!(output.lse.unwrap().dims(), [2, 2, 3]);
    }
}

#[test]
fn gates_get_gradients_while_closed() {
    let device = reference_device().autodiff();
    let block = gated().init(&device).unwrap();
    let (x, media) = (noise([2, 3, 6], 1, &device), noise([2, 4, 5], 2, &device));
    let out = block.forward(x, media, &AttentionOptions::new()).unwrap().out;
    let found = gradients(&block, &(out * noise([2, 3, 6], 3, &device)).sum().backward());
    for (path, grad) in found.into_iter().filter(|(path, _)| path.ends_with("gate")) {
        assert!(grad.unwrap() > 1e-4, "{path}: {grad:?}");
    }
}

#[test]
fn a_token_sees_the_medium_before_it_and_no_other() {
    let device = reference_device();
    // Tokens:         text medium text medium medium text
    let starts = bools([1, 6], |i| [1, 3, 4].contains(&i), &device);
    let mask = media_mask(starts, 2, 2).unwrap();
    let found = elements(mask.tensor().clone().float());
    let owner = [None, Some(0), Some(0), Some(1), None, None];
    for (at, seen) in found.into_iter().enumerate() {
        let (token, key) = (at / 4, at % 4);
        assert_eq!(seen == 1.0, owner[token] == Some(key / 2), "token {token}, key {key}");
    }
    // A token that sees no medium keeps what it was, but for the feed-forward part; the others follow the formula.
    let block = shaken(gated().init(&device).unwrap());
    let (x, media) = (noise([1, 6, 6], 1, &device), noise([1, 4, 5], 2, &device));
    let hidden = mask.tensor().clone().bool_not();
    let out = block.forward(x.clone(), media.clone(), &AttentionOptions::new().mask(mask)).unwrap().out;
    let wanted = gated_by_hand(&block, x.clone(), media, Some(hidden));
    assert_close(out.clone().narrow(1, 1, 3), wanted.narrow(1, 1, 3), 1e-5);
    let gate = elements(block.feed_forward_gate.val())[0].tanh();
    let first = x.narrow(1, 0, 1);
    let fed = block.linear_inner.forward(block.feed_forward_norm.forward(first.clone()));
    let wanted = first + block.linear_outer.forward(gelu(fed)).mul_scalar(gate);
    assert_close(out.narrow(1, 0, 1), wanted, 1e-5);

    for (batch, length, media) in [(0, 3, 2), (1, 0, 2), (1, 3, 0)] {
        let made = media_mask(bools([batch, length], |_| true, &device), media, 2).unwrap();
        assert_eq!(made.tensor().dims(), [batch, 1, length, 2 * media]);
    }
    let error = media_mask(bools([1, 1], |_| true, &device), usize::MAX, 2).map(|_| ()).unwrap_err();
    assert_eq!(error.argument(), Some("tokens"));
}

#[test]
fn gated_gradients_are_central_differences() {
    let device = reference_device();
    let block = shaken(gated().with_activation(Activation::Relu).init(&device).unwrap());
    let inputs = (Input::new(noise([1, 3, 6], 1, &device)), Input::new(noise([1, 2, 5], 2, &device)));
    assert_gradients((block, inputs.0, inputs.1), |(block, x, media)| {
        let out = block.forward(x.value(), media.value(), &AttentionOptions::new()).unwrap().out;
        (out.clone() * out).sum()
    });
}

#[test]
fn gated_is_the_same_on_every_backend_and_out_of_a_record() {
    assert_agreement(1e-5, |device| {
        let mask = media_mask(bools([2, 3], |i| i % 3 == 1, device), 2, 2).unwrap();
        let block = shaken(gated().init(device).unwrap());
        let options = AttentionOptions::new().mask(mask);
        block.forward(noise([2, 3, 6], 1, device), noise([2, 4, 5], 2, device), &options).unwrap().out
    });
    let device = reference_device();
    let first = shaken(gated().init(&device).unwrap());
    let second = restored(&first, gated().init(&device).unwrap());
    let (x, media) = (noise([2, 3, 6], 1, &device), noise([2, 4, 5], 2, &device));
    let [a, b] =
        [first, second].map(|block| block.forward(x.clone(), media.clone(), &AttentionOptions::new()).unwrap().out);
    assert_close(b, a, 0.0);
}

#[test]
fn gated_names_what_is_wrong() {
    let device = reference_device();
    let block = shaken(gated().init(&device).unwrap());
    let attend = |x: [usize; 3], media: [usize; 3]| {
        let (x, media) = (Tensor::zeros(x, &device), Tensor::zeros(media, &device));
        block.forward(x, media, &AttentionOptions::new()).map(|output| output.out.dims())
    };
    for (x, media) in [([0, 3, 6], [0, 4, 5]), ([2, 0, 6], [2, 4, 5]), ([2, 3, 6], [2, 0, 5])] {
        assert_eq!(attend(x, media), Ok(x));
    }
    for (argument, x, media) in
        [("hidden", [2, 3, 5], [2, 4, 5]), ("media", [2, 3, 6], [2, 4, 6]), ("media", [2, 3, 6], [1, 4, 5])]
    {
        assert_eq!(attend(x, media).unwrap_err().argument(), Some(argument));
    }
    for (argument, config) in [
        ("d_model", GatedCrossAttentionConfig::new(0, 5, 2)),
        ("d_media", GatedCrossAttentionConfig::new(6, 0, 2)),
        ("heads", GatedCrossAttentionConfig::new(6, 5, 4)),
        ("head_dim", gated().with_head_dim(Some(0))),
        ("d_ff", gated().with_d_ff(Some(0))),
        ("layer_norm_epsilon", gated().with_layer_norm_epsilon(-1.0)),
    ] {
        assert_eq!(config.init(&device).map(|_| ()).unwrap_err().argument(), Some(argument), "{config}");
    }
}

// Perceiver resampler.

fn resamplers() -> [PerceiverResamplerConfig; 3] {
    let config = |blocks| PerceiverResamplerConfig::new(6, 3, 2, blocks).with_d_ff(Some(7));
    [config(2), config(2).with_latent_keys(false).with_latent_layers(1), config(1).with_d_input(Some(5))]
}

fn inputs_of(config: &PerceiverResamplerConfig, length: usize, device: &Device) -> Tensor<3> {
    noise([2, length, config.d_input.unwrap_or(config.d_model)], 1, device)
}

fn resampled_by_hand(resampler: &PerceiverResampler, inputs: Tensor<3>, latent_keys: bool) -> Tensor<3> {
    let [batch, ..] = inputs.dims();
    let x = resampler.input.as_ref().map_or(inputs.clone(), |linear| linear.forward(inputs));
    let mut l: Tensor<3> = resampler.latents.val().unsqueeze::<3>().repeat_dim(0, batch);
    for block in &resampler.blocks {
        let query = block.latent_norm.forward(l.clone());
        let mut keys = vec![block.input_norm.forward(x.clone())];
        if latent_keys {
            keys.push(query.clone());
        }
        l = l + attended(&block.attention, query, Tensor::cat(keys, 1), None);
        let fed = block.linear_inner.forward(block.feed_forward_norm.forward(l.clone()));
        l = l + block.linear_outer.forward(gelu(fed));
        if let Some(encoder) = &block.encoder {
            l = encoder.forward(l, &AttentionOptions::new()).unwrap().hidden;
        }
    }
    resampler.norm.forward(l)
}

#[test]
fn latents_read_the_inputs_block_after_block() {
    let device = reference_device();
    for config in resamplers() {
        let resampler = shaken(config.init(&device).unwrap());
        let inputs = inputs_of(&config, 5, &device);
        let wanted = resampled_by_hand(&resampler, inputs.clone(), config.latent_keys);
        let found = resampler.forward(inputs, None).unwrap();
        assert_eq!(found.dims(), [2, 3, 6]);
        assert_close(found, wanted, 1e-4);
    }
}

#[test]
fn padded_inputs_are_not_there() {
    let device = reference_device().autodiff();
    for config in resamplers() {
        let resampler = shaken(config.init(&device).unwrap());
        let inputs = inputs_of(&config, 5, &device);
        let [_, _, features] = inputs.dims();
        let nan = Tensor::full([2, 2, features], f32::NAN, &device);
        let padding = Mask::keep(bools([2, 7], |i| i % 7 < 5, &device));
        let found = resampler.forward(Tensor::cat(vec![inputs.clone(), nan], 1), Some(padding)).unwrap();
        assert_close(found.clone().inner(), resampler.forward(inputs, None).unwrap().inner(), 1e-5);
        assert_finite(gradients(&resampler, &found.sum().backward()));
    }
}

#[test]
fn resampler_gradients_are_central_differences() {
    let device = reference_device();
    // One block with everything in it; each parameter costs fourteen runs.
    let [_, _, config] = resamplers();
    let config = config.with_activation(Activation::Relu);
    let resampler = shaken(config.init(&device).unwrap());
    let inputs = Input::new(inputs_of(&config, 4, &device));
    assert_gradients((resampler, inputs), |(resampler, inputs)| {
        let out = resampler.forward(inputs.value(), None).unwrap();
        (out.clone() * out).sum()
    });
}

#[test]
fn resampler_is_the_same_on_every_backend_and_out_of_a_record() {
    for config in resamplers() {
        assert_agreement(1e-5, |device| {
            shaken(config.init(device).unwrap()).forward(inputs_of(&config, 5, device), None).unwrap()
        });
        let device = reference_device();
        let first = shaken(config.init(&device).unwrap());
        let second = restored(&first, config.init(&device).unwrap());
        let [a, b] = [first, second].map(|made| made.forward(inputs_of(&config, 5, &device), None).unwrap());
        assert_close(b, a, 0.0);
    }
}

#[test]
fn resampler_names_what_is_wrong() {
    let device = reference_device();
    let [config, ..] = resamplers();
    let resampler = shaken(config.init(&device).unwrap());
    for (shape, out) in [([0, 4, 6], [0, 3, 6]), ([2, 0, 6], [2, 3, 6])] {
        let padding = Mask::keep(bools([shape[0], shape[1]], |_| true, &device));
        assert_eq!(resampler.forward(Tensor::zeros(shape, &device), Some(padding)).unwrap().dims(), out);
    }
    let error = resampler.forward(Tensor::zeros([2, 4, 5], &device), None).map(|_| ()).unwrap_err();
    assert_eq!(error.argument(), Some("inputs"));
    let padding = Mask::keep(bools([2, 3], |_| true, &device));
    let error = resampler.forward(Tensor::zeros([2, 4, 6], &device), Some(padding)).map(|_| ()).unwrap_err();
    assert_eq!(error.argument(), Some("padding"));
    let sizes = |d_model, latents, heads, blocks| PerceiverResamplerConfig::new(d_model, latents, heads, blocks);
    for (argument, config) in [
        ("d_model", sizes(0, 3, 2, 2)),
        ("latents", sizes(6, 0, 2, 2)),
        ("heads", sizes(6, 3, 4, 2)),
        ("blocks", sizes(6, 3, 2, 0)),
        ("d_input", config.clone().with_d_input(Some(0))),
        ("head_dim", config.clone().with_head_dim(Some(0))),
        ("d_ff", config.clone().with_d_ff(Some(0))),
        ("layer_norm_epsilon", config.clone().with_layer_norm_epsilon(f64::INFINITY)),
    ] {
        assert_eq!(config.init(&device).map(|_| ()).unwrap_err().argument(), Some(argument), "{config}");
    }
}
