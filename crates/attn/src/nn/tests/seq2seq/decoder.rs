//! The attending decoder.

use attn_core::Mask;
use burn::module::Module;
use burn::tensor::{Device, Tensor};

use super::{linear, step, vectors};
use crate::nn::seq2seq::{
    AlignmentScore, AttendingDecoder, AttendingDecoderConfig, AttendingOutput, AttentionStyle, Memory, RecurrentKind,
    RecurrentState,
};
use crate::nn::tests::{
    Input, assert_agreement, assert_close, assert_gradients, bools, elements, gradients, noise, reference_device,
    restored, shaken,
};

const SCORES: [AlignmentScore; 4] =
    [AlignmentScore::Dot, AlignmentScore::ScaledDot, AlignmentScore::General, AlignmentScore::Additive];

/// Each style, with and without input feeding where that is a choice.
const STYLES: [(AttentionStyle, bool); 3] =
    [(AttentionStyle::Bahdanau, true), (AttentionStyle::Luong, true), (AttentionStyle::Luong, false)];

fn config(score: AlignmentScore, (style, feeds): (AttentionStyle, bool)) -> AttendingDecoderConfig {
    let dot = matches!(score, AlignmentScore::Dot | AlignmentScore::ScaledDot);
    AttendingDecoderConfig::new(3, 4, if dot { 4 } else { 5 })
        .with_d_value(Some(6))
        .with_d_out(Some(2))
        .with_d_score(Some(7))
        .with_layers(2)
        .with_score(score)
        .with_style(style)
        .with_input_feeding(feeds)
}

fn memory(config: &AttendingDecoderConfig, device: &Device) -> Memory {
    Memory::with_values(noise([2, 5, config.d_memory], 7, device), noise([2, 5, 6], 8, device))
}

fn run(decoder: &AttendingDecoder, memory: &Memory, input: Tensor<3>) -> AttendingOutput {
    let mut state = decoder.start(memory, None).unwrap().with_weights();
    decoder.forward(input, &mut state).unwrap()
}

/// Softmax of the scores of one state with the keys that are there, and the sum of the values.
fn attend(
    decoder: &AttendingDecoder,
    score: AlignmentScore,
    query: &[f64],
    keys: &[Vec<f64>],
    values: &[Vec<f64>],
) -> (Vec<f64>, Vec<f64>) {
    let attention = &decoder.attention;
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let scored = |key: &Vec<f64>| match score {
        AlignmentScore::Dot => dot(query, key),
        AlignmentScore::ScaledDot => dot(query, key) / (key.len() as f64).sqrt(),
        AlignmentScore::General => dot(&linear(attention.query.as_ref().unwrap(), query), key),
        AlignmentScore::Additive => {
            let (q, k) =
                (linear(attention.query.as_ref().unwrap(), query), linear(attention.key.as_ref().unwrap(), key));
            let sum: Vec<f64> = q.iter().zip(&k).map(|(q, k)| (q + k).tanh()).collect();
            linear(attention.vector.as_ref().unwrap(), &sum)[0]
        }
    };
    let weights: Vec<f64> = keys.iter().map(|key| scored(key).exp()).collect();
    let total: f64 = weights.iter().sum();
    let weights: Vec<f64> = weights.into_iter().map(|weight| weight / total).collect();
    let context = (0..values[0].len()).map(|i| weights.iter().zip(values).map(|(w, v)| w * v[i]).sum()).collect();
    (context, weights)
}

/// Outputs and weights of one row by the formulas, from zero states.
fn expected(
    decoder: &AttendingDecoder,
    config: &AttendingDecoderConfig,
    input: &[Vec<f64>],
    keys: &[Vec<f64>],
    values: &[Vec<f64>],
) -> (Vec<f64>, Vec<f64>) {
    let size = config.d_hidden;
    let mut states = vec![(vec![0.0; size], vec![0.0; size]); decoder.cells.len()];
    let mut fed = vec![0.0; decoder.d_out()];
    let (mut outs, mut alignment) = (vec![], vec![]);
    for y in input {
        let through = |states: &mut Vec<(Vec<f64>, Vec<f64>)>, mut x: Vec<f64>| {
            for (cell, state) in decoder.cells.iter().zip(states) {
                *state = step(cell, &x, (&state.0, &state.1));
                x = state.0.clone();
            }
            x
        };
        let out: Vec<f64> = match config.style {
            AttentionStyle::Bahdanau => {
                let (context, weights) = attend(decoder, config.score, &states[states.len() - 1].0, keys, values);
                alignment.extend(weights);
                let s = through(&mut states, [y.clone(), context.clone()].concat());
                let pairs = linear(&decoder.readout, &[s, y.clone(), context].concat());
                pairs.chunks(2).map(|pair| pair[0].max(pair[1])).collect()
            }
            AttentionStyle::Luong => {
                let x = if config.input_feeding { [y.clone(), fed].concat() } else { y.clone() };
                let s = through(&mut states, x);
                let (context, weights) = attend(decoder, config.score, &s, keys, values);
                alignment.extend(weights);
                linear(&decoder.readout, &[context, s].concat()).into_iter().map(f64::tanh).collect()
            }
        };
        outs.extend(&out);
        fed = out;
    }
    (outs, alignment)
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
fn every_style_with_every_score_and_cell_follows_its_formula_under_padding_that_holds_nan() {
    let device = reference_device();
    for style in STYLES {
        for score in SCORES {
            for kind in [RecurrentKind::Gru, RecurrentKind::Lstm] {
                let config = config(score, style).with_kind(kind);
                let decoder = shaken(config.init(&device).unwrap());
                let (clean, input) = (memory(&config, &device), noise([2, 3, 3], 1, &device));
                // The second row's memory ends two positions early.
                let there = bools([2, 5], |i| i < 8, &device);
                let poison = |tensor: Tensor<3>| {
                    let shape = tensor.dims();
                    tensor.mask_fill(there.clone().bool_not().unsqueeze_dim::<3>(2).expand::<3, _>(shape), f32::NAN)
                };
                let padded = Memory::with_values(poison(clean.key()), poison(clean.value()))
                    .padding(Some(Mask::keep(there.clone())));
                let output = run(&decoder, &padded, input.clone());
                let weights = output.weights.unwrap();
                let (keys, values, rows) = (vectors(clean.key()), vectors(clean.value()), vectors(input));
                for (row, count) in [(0, 5), (1, 3)] {
                    let (keys, values) = (&keys[row * 5..][..count], &values[row * 5..][..count]);
                    let (out, alignment) = expected(&decoder, &config, &rows[row * 3..][..3], keys, values);
                    assert_elements(output.out.clone().narrow(0, row, 1), &out);
                    assert_elements(weights.clone().slice([row..row + 1, 0..3, 0..count]), &alignment);
                }
                assert_close(weights.slice([1..2, 0..3, 3..5]), Tensor::zeros([1, 3, 2], &device), 0.0);
            }
        }
    }
}

#[test]
fn steps_and_chunks_are_the_whole_target() {
    let device = reference_device();
    for style in STYLES {
        let config = config(AlignmentScore::General, style);
        let decoder = shaken(config.init(&device).unwrap());
        let (memory, input) = (memory(&config, &device), noise([2, 4, 3], 1, &device));
        let whole = run(&decoder, &memory, input.clone());
        let mut state = decoder.start(&memory, None).unwrap().with_weights();
        let mut single = vec![];
        for at in 0..2 {
            let made = decoder.step(input.clone().narrow(1, at, 1).reshape([2, 3]), &mut state).unwrap();
            assert_close(made.weights.unwrap().unsqueeze_dim(1), whole.weights.clone().unwrap().narrow(1, at, 1), 1e-6);
            single.push(made.out.unsqueeze_dim(1));
        }
        single.push(decoder.forward(input.narrow(1, 2, 2), &mut state).unwrap().out);
        assert_close(Tensor::cat(single, 1), whole.out, 1e-6);
    }
}

#[test]
fn the_first_states_are_those_given() {
    let device = reference_device();
    let config = config(AlignmentScore::Additive, STYLES[0]).with_kind(RecurrentKind::Lstm);
    let decoder = shaken(config.init(&device).unwrap());
    let (memory, input) = (memory(&config, &device), noise([2, 4, 3], 1, &device));
    let mut state = decoder.start(&memory, None).unwrap();
    decoder.forward(input.clone().narrow(1, 0, 2), &mut state).unwrap();
    let mut again = decoder.start(&memory, Some(state.cells().to_vec())).unwrap();
    let [a, b] =
        [&mut state, &mut again].map(|state| decoder.forward(input.clone().narrow(1, 2, 2), state).unwrap().out);
    assert_close(a, b, 0.0);
}

#[test]
fn a_state_is_a_value_that_rows_can_be_picked_from() {
    let device = reference_device();
    for style in STYLES {
        let config = config(AlignmentScore::Additive, style);
        let decoder = shaken(config.init(&device).unwrap());
        let padding = Mask::keep(bools([2, 5], |i| i != 8, &device));
        let memory = memory(&config, &device).padding(Some(padding));
        let input = noise([2, 3, 3], 1, &device);
        let mut state = decoder.start(&memory, None).unwrap();
        decoder.forward(input.clone().narrow(1, 0, 2), &mut state).unwrap();
        let next = input.clone().narrow(1, 2, 1).reshape([2, 3]);
        assert!(decoder.step(noise([2, 4], 1, &device), &mut state).is_err());
        assert!(state.reorder(&[2]).is_err());
        let whole = decoder.step(next.clone(), &mut state.clone()).unwrap().out;
        for rows in [vec![1, 0, 1], vec![0], vec![0, 1], vec![]] {
            let mut picked = state.clone();
            picked.reorder(&rows).unwrap();
            assert_eq!(picked.batch(), rows.len());
            let select = |tensor: Tensor<2>, width| match rows.is_empty() {
                true => Tensor::zeros([0, width], &device),
                false => Tensor::cat(rows.iter().map(|&row| tensor.clone().narrow(0, row, 1)).collect(), 0),
            };
            let found = decoder.step(select(next.clone(), 3), &mut picked).unwrap().out;
            assert_close(found, select(whole.clone(), 2), 1e-6);
        }
    }
}

#[test]
fn gradients_are_central_differences_back_to_the_memory() {
    let device = reference_device();
    for (at, style) in STYLES.into_iter().enumerate() {
        // Every score in the first style, another one in each of the others.
        let scores = [&SCORES[..], &SCORES[..1], &SCORES[3..]][at];
        for &score in scores {
            let config = config(score, style).with_layers(1);
            let decoder = shaken(config.init(&device).unwrap());
            let clean = memory(&config, &device);
            let inputs =
                ((Input::new(clean.key()), Input::new(clean.value())), Input::new(noise([2, 2, 3], 1, &device)));
            assert_gradients((decoder, inputs), |(decoder, ((key, value), input))| {
                let memory = Memory::with_values(key.value(), value.value());
                let output = run(decoder, &memory, input.value());
                output.out.powi_scalar(2).sum() + output.weights.unwrap().powi_scalar(2).sum()
            });
        }
    }
    // NaN in padding has no gradient to spread.
    let device = device.autodiff();
    for score in SCORES {
        let config = config(score, STYLES[0]);
        let decoder = shaken(config.init(&device).unwrap());
        let poison = |tensor: Tensor<3>| {
            let [batch, _, width] = tensor.dims();
            Tensor::cat(vec![tensor, Tensor::full([batch, 1, width], f32::NAN, &device)], 1)
        };
        let clean = memory(&config, &device);
        let padding = Mask::keep(bools([2, 6], |i| i % 6 < 5, &device));
        let padded = Memory::with_values(poison(clean.key()), poison(clean.value())).padding(Some(padding));
        let out = run(&decoder, &padded, noise([2, 2, 3], 1, &device)).out;
        let found = gradients(&decoder, &out.sum().backward());
        assert!(found.iter().all(|(path, grad)| grad.expect(path).is_finite()), "{found:?}");
    }
}

#[test]
fn every_backend_gives_the_same_and_a_record_carries_everything() {
    for style in STYLES {
        for score in [AlignmentScore::General, AlignmentScore::Additive] {
            let config = config(score, style);
            let of = |decoder: &AttendingDecoder, device: &Device| {
                run(decoder, &memory(&config, device), noise([2, 3, 3], 1, device)).out
            };
            assert_agreement(1e-5, |device| of(&shaken(config.init(device).unwrap()), device));
            let device = reference_device();
            let first = shaken(config.init(&device).unwrap());
            let second = restored(&first, config.init(&device).unwrap());
            assert_close(of(&second, &device), of(&first, &device), 0.0);
        }
    }
}

#[test]
fn dropout_acts_between_layers_in_training_alone() {
    let device = reference_device().autodiff();
    let config = config(AlignmentScore::Dot, STYLES[1]).with_dropout(0.5);
    let decoder = shaken(config.init(&device).unwrap());
    let input = noise([2, 3, 3], 1, &device);
    let trained = run(&decoder, &memory(&config, &device), input.clone()).out.inner();
    let input = input.inner();
    let resting = run(&decoder.valid(), &memory(&config, &input.device()), input).out;
    assert!((trained - resting).abs().max().into_scalar::<f32>() > 1e-3);
}

#[test]
fn empty_batches_targets_and_memories_have_their_answers() {
    let device = reference_device();
    for style in STYLES {
        for score in SCORES {
            let config = config(score, style);
            let decoder = shaken(config.init(&device).unwrap());
            for (batch, length, memory_len) in [(0, 3, 5), (2, 0, 5), (2, 3, 0)] {
                let memory = Memory::with_values(
                    noise([batch, memory_len, config.d_memory], 1, &device),
                    noise([batch, memory_len, 6], 2, &device),
                );
                let output = run(&decoder, &memory, noise([batch, length, 3], 3, &device));
                assert_eq!(output.out.dims(), [batch, length, 2]);
                assert_eq!(output.weights.unwrap().dims(), [batch, length, memory_len]);
                assert!(elements(output.out).into_iter().all(f64::is_finite));
            }
        }
    }
}

#[test]
fn wrong_input_and_wrong_configs_name_the_argument() {
    let device = reference_device();
    let config_of = config(AlignmentScore::General, STYLES[1]);
    let decoder = config_of.init(&device).unwrap();
    let zeros = |shape: [usize; 3]| Tensor::<3>::zeros(shape, &device);
    let start = |key, value, padding: Option<[usize; 2]>, initial: Option<Vec<RecurrentState>>| {
        let padding = padding.map(|shape| Mask::keep(bools(shape, |_| true, &device)));
        let memory = Memory::with_values(zeros(key), zeros(value)).padding(padding);
        decoder.start(&memory, initial).map(|_| ()).unwrap_err().argument()
    };
    let state = |size| RecurrentState { hidden: Tensor::zeros([2, size], &device), cell: None };
    assert_eq!(start([2, 5, 4], [2, 5, 6], None, None), Some("memory"));
    assert_eq!(start([2, 5, 5], [2, 5, 5], None, None), Some("memory"));
    assert_eq!(start([2, 5, 5], [2, 4, 6], None, None), Some("memory"));
    assert_eq!(start([2, 5, 5], [2, 5, 6], Some([2, 4]), None), Some("memory_padding"));
    assert_eq!(start([2, 5, 5], [2, 5, 6], None, Some(vec![state(4)])), Some("initial"));
    assert_eq!(start([2, 5, 5], [2, 5, 6], None, Some(vec![state(4), state(3)])), Some("initial"));
    let good = decoder.start(&memory(&config_of, &device), None).unwrap();
    let forward = |decoder: &AttendingDecoder, shape| {
        decoder.forward(zeros(shape), &mut good.clone()).map(|_| ()).unwrap_err().argument()
    };
    assert_eq!(forward(&decoder, [2, 3, 4]), Some("input"));
    assert_eq!(forward(&decoder, [3, 3, 3]), Some("input"));
    let other = config_of.clone().with_layers(1).init(&device).unwrap();
    assert_eq!(forward(&other, [2, 3, 3]), Some("state"));
    let base = || config(AlignmentScore::Additive, STYLES[0]);
    for (argument, config) in [
        ("d_input", AttendingDecoderConfig::new(0, 4, 5)),
        ("d_hidden", AttendingDecoderConfig::new(3, 0, 5)),
        ("d_memory", AttendingDecoderConfig::new(3, 4, 0)),
        ("d_memory", AttendingDecoderConfig::new(3, 4, 5).with_score(AlignmentScore::Dot)),
        ("d_value", base().with_d_value(Some(0))),
        ("d_out", base().with_d_out(Some(0))),
        ("d_score", base().with_d_score(Some(0))),
        ("layers", base().with_layers(0)),
        ("dropout", base().with_dropout(1.0)),
    ] {
        assert_eq!(config.init(&device).map(|_| ()).unwrap_err().argument(), Some(argument), "{config}");
    }
}
