//! Cells, the recurrent encoder, and the bridge to a decoder.

use attn_core::Mask;
use burn::module::Module;
use burn::tensor::{Device, Tensor};

use super::{linear, step, vectors};
use crate::nn::seq2seq::{
    Direction, RecurrentCellConfig, RecurrentEncoder, RecurrentEncoderConfig, RecurrentKind, RecurrentState,
    StateBridgeConfig, length_padding,
};
use crate::nn::tests::{
    Input, assert_agreement, assert_close, assert_gradients, bools, elements, gradients, noise, reference_device,
    restored, shaken,
};

const KINDS: [RecurrentKind; 2] = [RecurrentKind::Gru, RecurrentKind::Lstm];

fn config(kind: RecurrentKind) -> RecurrentEncoderConfig {
    RecurrentEncoderConfig::new(3, 4, kind).with_layers(2).with_direction(Direction::Bidirectional)
}

/// The encoder's output and the states of the last layer by loops; `there[b][t]`: not padding.
fn expected(encoder: &RecurrentEncoder, input: Tensor<3>, there: impl Fn(usize, usize) -> bool) -> Vec<Vec<f64>> {
    let [batch, length, _] = input.dims();
    let mut rows = vectors(input);
    for layer in &encoder.layers {
        let mut made = vec![vec![]; rows.len()];
        for (cell, back) in [(&layer.forward, false), (&layer.backward, true)] {
            let Some(cell) = cell else { continue };
            for b in 0..batch {
                let (mut h, mut m) = (vec![0.0; cell.d_hidden()], vec![0.0; cell.d_hidden()]);
                for step_at in 0..length {
                    let t = if back { length - 1 - step_at } else { step_at };
                    if there(b, t) {
                        (h, m) = step(cell, &rows[b * length + t], (&h, &m));
                        made[b * length + t].extend(&h);
                    } else {
                        made[b * length + t].extend(vec![0.0; h.len()]);
                    }
                }
            }
        }
        rows = made;
    }
    rows
}

#[track_caller]
fn assert_rows(found: Tensor<3>, wanted: Vec<Vec<f64>>) {
    let dims = found.dims();
    let wanted: Vec<f32> = wanted.concat().into_iter().map(|x| x as f32).collect();
    let data = burn::tensor::TensorData::new(wanted, dims);
    let device = found.device();
    assert_close(found, Tensor::from_data(data, &device), 1e-6);
}

#[test]
fn cells_follow_their_formulas() {
    let device = reference_device();
    for kind in KINDS {
        for bias in [true, false] {
            let cell = shaken(RecurrentCellConfig::new(3, 4, kind).with_bias(bias).init(&device).unwrap());
            let (x, h, m) = (noise([1, 3], 1, &device), noise([1, 4], 2, &device), noise([1, 4], 3, &device));
            let state = RecurrentState { hidden: h.clone(), cell: (kind == RecurrentKind::Lstm).then(|| m.clone()) };
            let found = cell.step(x.clone(), &state).unwrap();
            let (wanted_h, wanted_m) = step(&cell, &elements(x), (&elements(h), &elements(m)));
            assert_rows(found.hidden.unsqueeze(), vec![wanted_h]);
            if let Some(cell) = found.cell {
                assert_rows(cell.unsqueeze(), vec![wanted_m]);
            }
        }
    }
}

#[test]
fn the_encoder_is_its_cells_step_by_step_whatever_its_form() {
    let device = reference_device();
    let input = noise([2, 5, 3], 1, &device);
    for kind in KINDS {
        for direction in [Direction::Forward, Direction::Backward, Direction::Bidirectional] {
            let encoder = shaken(config(kind).with_direction(direction).init(&device).unwrap());
            let found = encoder.forward(input.clone(), None).unwrap();
            assert_rows(found.hidden.clone(), expected(&encoder, input.clone(), |_, _| true));
            let sides = if direction == Direction::Bidirectional { 2 } else { 1 };
            assert_eq!((found.hidden.dims(), found.states.len()), ([2, 5, 4 * sides], 2 * sides));
            // The last state is the output where the reading ended.
            let last = found.states.last().unwrap().hidden.clone();
            let at = if direction == Direction::Forward { 4 } else { 0 };
            assert_close(
                found.hidden.slice([0..2, at..at + 1, 4 * (sides - 1)..4 * sides]),
                last.unsqueeze_dim(1),
                0.0,
            );
        }
    }
}

#[test]
fn padding_anywhere_is_as_if_it_were_not_there_even_where_it_holds_nan() {
    let device = reference_device();
    let there = |b: usize, t: usize| if b == 0 { t < 3 } else { t != 0 && t != 2 };
    let mask = bools([2, 5], |i| there(i / 5, i % 5), &device);
    let nowhere = mask.clone().bool_not().unsqueeze_dim::<3>(2).expand::<3, _>([2, 5, 3]);
    let input = noise([2, 5, 3], 1, &device);
    let poisoned = input.clone().mask_fill(nowhere, f32::NAN);
    for kind in KINDS {
        let encoder = shaken(config(kind).init(&device).unwrap());
        let found = encoder.forward(poisoned.clone(), Some(Mask::keep(mask.clone()))).unwrap();
        assert_rows(found.hidden.clone(), expected(&encoder, input.clone(), there));
        // The first entry is its first three steps alone, states included.
        let alone = encoder.forward(input.clone().slice([0..1, 0..3]), None).unwrap();
        assert_close(found.hidden.slice([0..1, 0..3]), alone.hidden, 1e-6);
        for (padded, alone) in found.states.iter().zip(&alone.states) {
            assert_close(padded.hidden.clone().narrow(0, 0, 1), alone.hidden.clone(), 1e-6);
            if let (Some(padded), Some(alone)) = (&padded.cell, &alone.cell) {
                assert_close(padded.clone().narrow(0, 0, 1), alone.clone(), 1e-6);
            }
        }
    }
    let lengths = length_padding(&[3, 0, 5], 5, &device).unwrap();
    let found: Vec<bool> = lengths.tensor().clone().into_data().iter::<bool>().collect();
    assert_eq!(found, (0..15).map(|i| i % 5 < [3, 0, 5][i / 5]).collect::<Vec<_>>());
    assert_eq!(length_padding(&[6], 5, &device).map(|_| ()).unwrap_err().argument(), Some("lengths"));
}

#[test]
fn gradients_are_central_differences_under_padding_too() {
    let device = reference_device();
    for kind in KINDS {
        let encoder = shaken(config(kind).init(&device).unwrap());
        assert_gradients((encoder, Input::new(noise([2, 3, 3], 1, &device))), |(encoder, input)| {
            let input = input.value();
            let padding = Mask::keep(bools([2, 3], |i| i != 2 && i != 3, &input.device()));
            let made = encoder.forward(input, Some(padding)).unwrap();
            made.states.into_iter().fold(made.hidden.powi_scalar(2).sum(), |sum, state| {
                sum + state.hidden.clone().powi_scalar(3).sum() + state.cell.map_or(state.hidden.sum(), |m| m.sum())
            })
        });
    }
    // NaN in padding has no gradient to spread.
    let device = device.autodiff();
    let encoder = shaken(config(RecurrentKind::Gru).init(&device).unwrap());
    let input = Tensor::cat(vec![noise([1, 2, 3], 1, &device), Tensor::full([1, 1, 3], f32::NAN, &device)], 1);
    let made = encoder.forward(input, Some(length_padding(&[2], 3, &device).unwrap())).unwrap();
    let found = gradients(&encoder, &made.hidden.sum().backward());
    assert!(found.iter().all(|(path, grad)| grad.expect(path).is_finite()), "{found:?}");
}

#[test]
fn the_bridge_follows_its_formula() {
    let device = reference_device();
    for kind in KINDS {
        let encoder = shaken(config(kind).init(&device).unwrap());
        let states = encoder.forward(noise([1, 3, 3], 1, &device), None).unwrap().states;
        let bridge = StateBridgeConfig::new(4, 4, 3, RecurrentKind::Lstm).with_layers(2);
        let bridge = shaken(bridge.init(&device).unwrap());
        let found = bridge.forward(&states).unwrap();
        assert_eq!(found.len(), 2);
        let h: Vec<f64> = states.iter().flat_map(|state| elements(state.hidden.clone())).collect();
        let m: Vec<f64> =
            states.iter().flat_map(|s| elements(s.cell.clone().unwrap_or_else(|| s.hidden.clone()))).collect();
        let hidden: Vec<f64> = linear(&bridge.hidden, &h).into_iter().map(f64::tanh).collect();
        let cell = linear(bridge.cell.as_ref().unwrap(), &m);
        for (at, state) in found.iter().enumerate() {
            assert_rows(state.hidden.clone().unsqueeze(), vec![hidden[at * 3..][..3].to_vec()]);
            assert_rows(state.cell.clone().unwrap().unsqueeze(), vec![cell[at * 3..][..3].to_vec()]);
        }
        assert_eq!(bridge.forward(&states[1..]).map(|_| ()).unwrap_err().argument(), Some("states"));
        let wide = RecurrentState { hidden: noise([1, 5], 1, &device), cell: None };
        assert_eq!(bridge.forward(&vec![wide; 4]).map(|_| ()).unwrap_err().argument(), Some("states"));
        let none = RecurrentState { hidden: noise([0, 4], 1, &device), cell: None };
        assert_eq!(bridge.forward(&vec![none; 4]).unwrap()[1].hidden.dims(), [0, 3]);
    }
    let bridge = StateBridgeConfig::new(4, 2, 3, RecurrentKind::Lstm).init(&device).unwrap();
    let state = |seed| Input::new(noise([2, 4], seed, &device));
    assert_gradients((shaken(bridge), (state(1), state(2))), |(bridge, (a, b))| {
        let state = |hidden| RecurrentState { hidden, cell: None };
        let made = bridge.forward(&[state(a.value()), state(b.value())]).unwrap().remove(0);
        made.hidden.powi_scalar(2).sum() + made.cell.unwrap().powi_scalar(2).sum()
    });
    for (argument, config) in [
        ("states", StateBridgeConfig::new(4, 0, 3, RecurrentKind::Gru)),
        ("d_encoder", StateBridgeConfig::new(0, 1, 3, RecurrentKind::Gru)),
        ("d_hidden", StateBridgeConfig::new(4, 1, 0, RecurrentKind::Gru)),
        ("layers", StateBridgeConfig::new(4, 1, 3, RecurrentKind::Gru).with_layers(0)),
    ] {
        assert_eq!(config.init(&device).map(|_| ()).unwrap_err().argument(), Some(argument));
    }
}

#[test]
fn every_backend_gives_the_same_and_a_record_carries_everything() {
    let device = reference_device();
    for kind in KINDS {
        let run = |encoder: &RecurrentEncoder, device: &Device| {
            let padding = Mask::keep(bools([2, 4], |i| i != 3, device));
            encoder.forward(noise([2, 4, 3], 1, device), Some(padding)).unwrap().hidden
        };
        assert_agreement(1e-5, |device| run(&shaken(config(kind).init(device).unwrap()), device));
        let first = shaken(config(kind).init(&device).unwrap());
        let second = restored(&first, config(kind).init(&device).unwrap());
        assert_close(run(&second, &device), run(&first, &device), 0.0);
    }
}

#[test]
fn dropout_acts_between_layers_in_training_alone() {
    let device = reference_device().autodiff();
    let encoder = shaken(config(RecurrentKind::Gru).with_dropout(0.5).init(&device).unwrap());
    let input = noise([2, 5, 3], 1, &device);
    let trained = encoder.forward(input.clone(), None).unwrap().hidden.inner();
    let resting = encoder.valid().forward(input.inner(), None).unwrap().hidden;
    assert!((trained - resting).abs().max().into_scalar::<f32>() > 1e-3);
}

#[test]
fn empty_input_has_its_answer_and_wrong_input_names_the_argument() {
    let device = reference_device();
    let encoder = shaken(config(RecurrentKind::Lstm).init(&device).unwrap());
    for (batch, length) in [(0, 4), (2, 0), (0, 0)] {
        let padding = bools([batch, length], |_| true, &device);
        let made = encoder.forward(noise([batch, length, 3], 1, &device), Some(Mask::keep(padding))).unwrap();
        assert_eq!((made.hidden.dims(), made.states[3].hidden.dims()), ([batch, length, 8], [batch, 4]));
    }
    let run = |shape: [usize; 3], padding: Option<[usize; 2]>| {
        let padding = padding.map(|shape| Mask::keep(bools(shape, |_| true, &device)));
        encoder.forward(noise(shape, 1, &device), padding).map(|_| ()).unwrap_err().argument()
    };
    assert_eq!(run([2, 3, 4], None), Some("input"));
    assert_eq!(run([2, 3, 3], Some([2, 4])), Some("padding"));
    let cell = RecurrentCellConfig::new(3, 4, RecurrentKind::Gru).init(&device).unwrap();
    let step = |input: [usize; 2], hidden: [usize; 2], lstm: bool| {
        let cell_state = lstm.then(|| Tensor::zeros(hidden, &device));
        let state = RecurrentState { hidden: Tensor::zeros(hidden, &device), cell: cell_state };
        cell.step(Tensor::zeros(input, &device), &state).map(|_| ()).map_err(|error| error.argument())
    };
    assert_eq!(step([2, 3], [2, 4], false), Ok(()));
    assert_eq!(step([0, 3], [0, 4], false), Ok(()));
    assert_eq!(step([2, 4], [2, 4], false), Err(Some("input")));
    assert_eq!(step([2, 3], [3, 4], false), Err(Some("state")));
    assert_eq!(step([2, 3], [2, 4], true), Err(Some("state")));
    for (argument, config) in [
        ("d_input", RecurrentEncoderConfig::new(0, 4, RecurrentKind::Gru)),
        ("d_hidden", RecurrentEncoderConfig::new(3, 0, RecurrentKind::Gru)),
        ("d_hidden", RecurrentEncoderConfig::new(3, usize::MAX, RecurrentKind::Gru)),
        ("layers", config(RecurrentKind::Gru).with_layers(0)),
        ("dropout", config(RecurrentKind::Gru).with_dropout(1.0)),
    ] {
        assert_eq!(config.init(&device).map(|_| ()).unwrap_err().argument(), Some(argument), "{config}");
    }
}
