//! The convolutional encoder.

use attn_core::Mask;
use burn::module::Module;
use burn::tensor::{Device, Tensor};

use super::{linear, sigmoid, vectors};
use crate::nn::seq2seq::{ConvolutionalEncoder, ConvolutionalEncoderConfig, Memory, length_padding};
use crate::nn::tests::{
    Input, assert_agreement, assert_close, assert_gradients, bools, elements, gradients, noise, reference_device,
    restored, shaken,
};

fn config() -> ConvolutionalEncoderConfig {
    ConvolutionalEncoderConfig::new(4, 3, 2).with_max_length(9)
}

fn encoder(device: &Device) -> ConvolutionalEncoder {
    shaken(config().init(device).unwrap())
}

/// Keys and values of one sequence by loops.
fn expected(encoder: &ConvolutionalEncoder, input: Tensor<3>) -> [Vec<f64>; 2] {
    let table = elements(encoder.positions.val());
    let embedded: Vec<Vec<f64>> = vectors(input)
        .into_iter()
        .enumerate()
        .map(|(t, x)| x.iter().enumerate().map(|(i, x)| x + table[t * x_len(&table, encoder) + i]).collect())
        .collect();
    let mut hidden: Vec<Vec<f64>> = embedded.iter().map(|x| linear(&encoder.linear_in, x)).collect();
    for convolution in &encoder.convolutions {
        let [channels, size, width] = convolution.weight.val().dims();
        let weight = elements(convolution.weight.val());
        let bias = elements(convolution.bias.as_ref().unwrap().val());
        let at = |t: usize, channel: usize| {
            let mut sum = bias[channel];
            for k in 0..width {
                let Some(from) = (t + k).checked_sub(width / 2).filter(|&from| from < hidden.len()) else { continue };
                for i in 0..size {
                    sum += weight[(channel * size + i) * width + k] * hidden[from][i];
                }
            }
            sum
        };
        let next = |t: usize, i: usize| 0.5f64.sqrt() * (hidden[t][i] + at(t, i) * sigmoid(at(t, channels / 2 + i)));
        hidden = (0..hidden.len()).map(|t| (0..size).map(|i| next(t, i)).collect()).collect();
    }
    let keys: Vec<Vec<f64>> = hidden.iter().map(|h| linear(&encoder.linear_out, h)).collect();
    let value = |(key, x): (&Vec<f64>, &Vec<f64>)| -> Vec<f64> {
        key.iter().zip(x).map(|(key, x)| 0.5f64.sqrt() * (key + x)).collect()
    };
    let values: Vec<Vec<f64>> = keys.iter().zip(&embedded).map(value).collect();
    [keys.concat(), values.concat()]
}

fn x_len(table: &[f64], encoder: &ConvolutionalEncoder) -> usize {
    table.len() / encoder.positions.val().dims()[0]
}

#[track_caller]
fn assert_elements(found: Tensor<3>, wanted: &[f64]) {
    let found = elements(found);
    assert_eq!(found.len(), wanted.len());
    for (found, wanted) in found.iter().zip(wanted) {
        assert!((found - wanted).abs() <= 1e-5, "{found} in place of {wanted}");
    }
}

#[test]
fn keys_and_values_follow_their_formulas() {
    let device = reference_device();
    for kernel_size in [1, 3, 5] {
        let encoder = shaken(config().with_kernel_size(kernel_size).init(&device).unwrap());
        let input = noise([1, 5, 4], 1, &device);
        let memory = encoder.forward(input.clone(), None).unwrap();
        let [keys, values] = expected(&encoder, input);
        assert_elements(memory.key(), &keys);
        assert_elements(memory.value(), &values);
    }
}

#[test]
fn padding_on_either_side_is_the_shorter_sequence_even_where_it_holds_nan() {
    let device = reference_device();
    let encoder = encoder(&device);
    let short = noise([1, 4, 4], 1, &device);
    let [keys, values] = expected(&encoder, short.clone());
    let poison = |count| Tensor::full([1, count, 4], f32::NAN, &device);
    for (before, after) in [(0, 3), (2, 0), (1, 2)] {
        let mut parts = vec![short.clone()];
        if before > 0 {
            parts.insert(0, poison(before));
        }
        if after > 0 {
            parts.push(poison(after));
        }
        let length = before + 4 + after;
        let padding = Mask::keep(bools([1, length], |t| (before..before + 4).contains(&t), &device));
        let memory = encoder.forward(Tensor::cat(parts, 1), Some(padding)).unwrap();
        let cut = |tensor: Tensor<3>| tensor.narrow(1, before, 4);
        assert_elements(cut(memory.key()), &keys);
        assert_elements(cut(memory.value()), &values);
        assert!(elements(memory.key()).iter().chain(&elements(memory.value())).all(|x| x.is_finite()));
    }
}

#[test]
fn gradients_are_central_differences_and_nan_in_padding_has_none() {
    let device = reference_device();
    assert_gradients((encoder(&device), Input::new(noise([2, 4, 4], 1, &device))), |(encoder, input)| {
        let input = input.value();
        let padding = length_padding(&[4, 2], 4, &input.device()).unwrap();
        let memory = encoder.forward(input, Some(padding)).unwrap();
        memory.key().powi_scalar(2).sum() + memory.value().powi_scalar(3).sum()
    });
    let device = device.autodiff();
    let encoder = encoder(&device);
    let input = Tensor::cat(vec![noise([1, 2, 4], 1, &device), Tensor::full([1, 1, 4], f32::NAN, &device)], 1);
    let memory = encoder.forward(input, Some(length_padding(&[2], 3, &device).unwrap())).unwrap();
    let found = gradients(&encoder, &(memory.key() * memory.value()).sum().backward());
    assert!(found.iter().all(|(path, grad)| grad.expect(path).is_finite()), "{found:?}");
}

#[test]
fn every_backend_gives_the_same_and_a_record_carries_everything() {
    let run = |encoder: &ConvolutionalEncoder, device: &Device| {
        let padding = length_padding(&[4, 2], 4, device).unwrap();
        let memory = encoder.forward(noise([2, 4, 4], 1, device), Some(padding)).unwrap();
        memory.key() * 2.0 + memory.value()
    };
    assert_agreement(1e-5, |device| run(&encoder(device), device));
    let device = reference_device();
    let first = encoder(&device);
    let second = restored(&first, config().init(&device).unwrap());
    assert_close(run(&second, &device), run(&first, &device), 0.0);
}

#[test]
fn dropout_acts_in_training_alone() {
    let device = reference_device().autodiff();
    let encoder = shaken(config().with_dropout(0.5).init(&device).unwrap());
    let input = noise([2, 5, 4], 1, &device);
    let trained = encoder.forward(input.clone(), None).unwrap().value().inner();
    let resting = encoder.valid().forward(input.inner(), None).unwrap().value();
    assert!((trained - resting).abs().max().into_scalar::<f32>() > 1e-3);
}

#[test]
fn empty_input_has_its_answer_and_wrong_input_names_the_argument() {
    let device = reference_device();
    let encoder = encoder(&device);
    let run = |shape: [usize; 3], padding: Option<[usize; 2]>| -> Result<Memory, _> {
        let padding = padding.map(|shape| Mask::keep(bools(shape, |_| true, &device)));
        encoder.forward(noise(shape, 1, &device), padding).map_err(|error| error.argument())
    };
    for shape in [[0, 4, 4], [2, 0, 4]] {
        assert_eq!(run(shape, Some([shape[0], shape[1]])).unwrap().value().dims(), shape);
    }
    assert_eq!(run([2, 3, 5], None).unwrap_err(), Some("input"));
    assert_eq!(run([2, 10, 4], None).unwrap_err(), Some("input"));
    assert_eq!(run([2, 3, 4], Some([2, 4])).unwrap_err(), Some("padding"));
    for (argument, config) in [
        ("d_input", ConvolutionalEncoderConfig::new(0, 3, 2)),
        ("d_hidden", ConvolutionalEncoderConfig::new(4, 0, 2)),
        ("layers", ConvolutionalEncoderConfig::new(4, 3, 0)),
        ("kernel_size", config().with_kernel_size(4)),
        ("max_length", config().with_max_length(0)),
        ("dropout", config().with_dropout(-1.0)),
    ] {
        assert_eq!(config.init(&device).map(|_| ()).unwrap_err().argument(), Some(argument), "{config}");
    }
}
