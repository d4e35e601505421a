//! Tests of encoder and decoder together.

use attn_core::Mask;
use burn::tensor::{Device, Tensor};

use super::{
    Input, assert_agreement, assert_close, assert_gradients, bools, noise, reference_device, restored, shaken,
};
use crate::nn::{
    Activation, AttentionOptions, DecoderOptions, NormPlacement, Transformer, TransformerConfig, TransformerOptions,
};

fn config() -> TransformerConfig {
    TransformerConfig::new(8, 2, 12).with_encoder_layers(2).with_decoder_layers(1).with_norm(NormPlacement::Pre)
}

fn transformer(device: &Device) -> Transformer {
    shaken(config().init(device).unwrap())
}

#[test]
fn the_decoder_attends_to_what_the_encoder_made() {
    let device = reference_device();
    let model = transformer(&device);
    assert_eq!((model.encoder.layers.len(), model.decoder.layers.len()), (2, 1));
    assert!(model.encoder.norm.is_some() && model.decoder.norm.is_some());
    let (source, target) = (noise([2, 5, 8], 1, &device), noise([2, 3, 8], 2, &device));
    let output = model.forward(source.clone(), target.clone(), &TransformerOptions::new()).unwrap();
    let memory = model.encoder.forward(source, &AttentionOptions::new()).unwrap().hidden;
    assert_close(output.encoder.hidden, memory.clone(), 0.0);
    let decoded = model.decoder.forward(target, Some(memory), &DecoderOptions::new()).unwrap().hidden;
    assert_close(output.decoder.hidden, decoded, 0.0);
}

#[test]
fn padding_of_source_and_target_is_the_shorter_pair_even_where_it_holds_nan() {
    let device = reference_device();
    let model = transformer(&device);
    let (source, target) = (noise([1, 4, 8], 1, &device), noise([1, 3, 8], 2, &device));
    let poison = Tensor::full([1, 2, 8], f32::NAN, &device);
    let options = TransformerOptions::new()
        .source_padding(Mask::keep(bools([1, 6], |i| i < 4, &device)))
        .target_padding(Mask::keep(bools([1, 5], |i| i < 3, &device)));
    let padded = |tensor: &Tensor<3>| Tensor::cat(vec![tensor.clone(), poison.clone()], 1);
    let found = model.forward(padded(&source), padded(&target), &options).unwrap();
    let wanted = model.forward(source, target, &TransformerOptions::new()).unwrap();
    assert_close(found.encoder.hidden.narrow(1, 0, 4), wanted.encoder.hidden, 1e-5);
    assert_close(found.decoder.hidden.narrow(1, 0, 3), wanted.decoder.hidden, 1e-5);
}

#[test]
fn token_by_token_is_the_whole_target() {
    let device = reference_device();
    let model = transformer(&device);
    let (source, target) = (noise([2, 5, 8], 1, &device), noise([2, 4, 8], 2, &device));
    let padding = Mask::keep(bools([2, 5], |i| i < 8, &device));
    let options = TransformerOptions::new().source_padding(padding.clone());
    let wanted = model.forward(source.clone(), target.clone(), &options).unwrap().decoder.hidden;
    let encoded = model.encode(source, &AttentionOptions::new().key_padding(padding.clone())).unwrap();
    let mut cache = model.cache(encoded.hidden, Some(padding)).unwrap();
    for at in 0..4 {
        let new = target.clone().narrow(1, at, 1);
        let found = model.decoder.forward_cached(new, &mut cache, &DecoderOptions::new()).unwrap().hidden;
        assert_close(found, wanted.clone().narrow(1, at, 1), 1e-5);
    }
}

#[test]
fn gradients_are_central_differences_back_to_the_source() {
    let device = reference_device();
    let small = TransformerConfig::new(4, 2, 5)
        .with_encoder_layers(1)
        .with_decoder_layers(1)
        .with_activation(Activation::Gelu)
        .with_dropout(0.0);
    let model = shaken(small.init(&device).unwrap());
    let inputs = (Input::new(noise([1, 3, 4], 1, &device)), Input::new(noise([1, 2, 4], 2, &device)));
    assert_gradients((model, inputs), |(model, (source, target))| {
        let out = model.forward(source.value(), target.value(), &TransformerOptions::new()).unwrap().decoder.hidden;
        (out.clone() * out.clone() * out).sum()
    });
}

#[test]
fn every_backend_gives_the_same_and_a_record_carries_everything() {
    let run = |model: &Transformer, device: &Device| {
        let (source, target) = (noise([2, 5, 8], 1, device), noise([2, 3, 8], 2, device));
        model.forward(source, target, &TransformerOptions::new()).unwrap().decoder.hidden
    };
    assert_agreement(1e-5, |device| run(&transformer(device), device));
    let device = reference_device();
    let first = transformer(&device);
    let second = restored(&first, config().init(&device).unwrap());
    assert_close(run(&second, &device), run(&first, &device), 0.0);
}

#[test]
fn wrong_input_and_wrong_configs_name_the_argument() {
    let device = reference_device();
    let model = transformer(&device);
    let zeros = |shape: [usize; 3]| Tensor::<3>::zeros(shape, &device);
    let run = |source, target, options: TransformerOptions| {
        model.forward(zeros(source), zeros(target), &options).map(|_| ()).unwrap_err().argument().unwrap()
    };
    let plain = TransformerOptions::new;
    assert_eq!(run([2, 5, 7], [2, 3, 8], plain()), "source");
    assert_eq!(run([2, 5, 8], [2, 3, 7], plain()), "target");
    assert_eq!(run([2, 5, 8], [1, 3, 8], plain()), "target");
    let mask = |length| Mask::keep(bools([2, length], |_| true, &device));
    assert_eq!(run([2, 5, 8], [2, 3, 8], plain().source_padding(mask(3))), "source_padding");
    assert_eq!(run([2, 5, 8], [2, 3, 8], plain().target_padding(mask(5))), "target_padding");
    for empty in [([0, 5, 8], [0, 3, 8]), ([2, 0, 8], [2, 3, 8]), ([2, 5, 8], [2, 0, 8])] {
        let found = model.forward(zeros(empty.0), zeros(empty.1), &plain()).unwrap();
        assert_eq!((found.encoder.hidden.dims(), found.decoder.hidden.dims()), empty);
    }
    let cases = [
        ("d_model", TransformerConfig::new(0, 1, 4)),
        ("heads", TransformerConfig::new(8, 3, 4)),
        ("d_ff", TransformerConfig::new(8, 2, 0)),
        ("encoder_layers", config().with_encoder_layers(0)),
        ("decoder_layers", config().with_decoder_layers(0)),
        ("dropout", config().with_dropout(1.0)),
    ];
    for (argument, config) in cases {
        assert_eq!(config.init(&device).map(|_| ()).unwrap_err().argument(), Some(argument), "{config}");
    }
}
