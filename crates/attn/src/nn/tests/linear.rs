//! Tests of linear attention.

use attn_core::Mask;
use burn::tensor::{DType, Device, Tensor, TensorData};

use super::{
    Input, assert_agreement, assert_close, assert_gradients, bools, elements, gradients, noise, reference_device,
    restored, shaken, wide_device,
};
use crate::nn::{FeatureMap, LinearAttention, LinearAttentionConfig, LinearState, linear_attention};

const MAPS: [FeatureMap; 4] = [FeatureMap::EluPlusOne, FeatureMap::Relu, FeatureMap::Softmax, FeatureMap::Identity];

/// Noise in f64, above 0 for the map that needs it: sums of weights near 0 would measure rounding alone.
fn double(shape: [usize; 4], seed: usize, map: FeatureMap, device: &Device) -> Tensor<4> {
    let noise = noise(shape, seed, device).cast(DType::F64);
    if map == FeatureMap::Identity { noise.add_scalar(1.5) } else { noise }
}

fn features(map: FeatureMap, row: &[f64]) -> Vec<f64> {
    let sum: f64 = row.iter().map(|x| x.exp()).sum();
    let of = |&x: &f64| match map {
        FeatureMap::EluPlusOne => {
            if x > 0.0 {
                x + 1.0
            } else {
                x.exp()
            }
        }
        FeatureMap::Relu => x.max(0.0),
        FeatureMap::Softmax => x.exp() / sum,
        FeatureMap::Identity => x,
    };
    row.iter().map(of).collect()
}

/// The formula with all its O(N²) weights, in f64; `seen(b, i, j)`.
fn quadratic([q, k, v]: &[Tensor<4>; 3], map: FeatureMap, seen: impl Fn(usize, usize, usize) -> bool) -> Tensor<4> {
    let ([b, h, sq, d], [_, _, sk, e]) = (q.dims(), v.dims());
    let [query, key, value] = [q, k, v].map(|tensor| elements(tensor.clone()));
    let mut out = vec![0.0; b * h * sq * e];
    for (row, out) in out.chunks_mut(e).enumerate() {
        let (head, i) = (row / sq, row % sq);
        let of_query = features(map, &query[row * d..][..d]);
        let weight = |j: usize| {
            let of_key = features(map, &key[(head * sk + j) * d..][..d]);
            if seen(head / h, i, j) { of_query.iter().zip(of_key).map(|(a, b)| a * b).sum::<f64>() } else { 0.0 }
        };
        let weights: Vec<f64> = (0..sk).map(weight).collect();
        let sum: f64 = weights.iter().sum();
        if sum != 0.0 {
            for (j, weight) in weights.iter().enumerate() {
                (0..e).for_each(|at| out[at] += weight / sum * value[(head * sk + j) * e + at]);
            }
        }
    }
    Tensor::from_data(TensorData::new(out, [b, h, sq, e]), (&q.device(), DType::F64))
}

fn inputs(sq: usize, sk: usize, map: FeatureMap, device: &Device) -> [Tensor<4>; 3] {
    [
        double([2, 2, sq, 4], 1, map, device),
        double([2, 2, sk, 4], 2, map, device),
        double([2, 2, sk, 3], 3, map, device),
    ]
}

#[test]
fn every_map_is_the_quadratic_formula_whole_and_causal_across_chunks() {
    let Some(device) = wide_device() else { return };
    // Around the 64 positions of a chunk, and lengths that differ.
    let lengths = [(1, 1), (5, 5), (63, 63), (64, 64), (65, 65), (130, 130), (3, 70), (70, 3), (128, 129), (2, 0)];
    for map in MAPS {
        for (sq, sk) in lengths {
            for causal in [false, true] {
                let inputs = inputs(sq, sk, map, &device);
                let wanted = quadratic(&inputs, map, |_, i, j| !causal || j + sq <= i + sk);
                let [query, key, value] = inputs;
                let found = linear_attention(query, key, value, None, map, causal).unwrap();
                assert_close(found, wanted, 1e-11);
            }
        }
    }
}

#[test]
fn padding_is_not_there_even_where_it_holds_nan() {
    let Some(device) = wide_device() else { return };
    let kept = |b: usize, j: usize| (j + b) % 5 != 2;
    for map in MAPS {
        for causal in [false, true] {
            let inputs = inputs(70, 75, map, &device);
            let wanted = quadratic(&inputs, map, |b, i, j| kept(b, j) && (!causal || j + 70 <= i + 75));
            let nan = |width| bools([2, 2, 75, width], move |at| !kept(at / width / 150, at / width % 75), &device);
            let [query, key, value] = inputs;
            let (key, value) = (key.mask_fill(nan(4), f64::NAN), value.mask_fill(nan(3), f64::NAN));
            let padding = Mask::keep(bools([2, 75], |at| kept(at / 75, at % 75), &device));
            let found = linear_attention(query, key, value, Some(padding), map, causal).unwrap();
            assert_close(found, wanted, 1e-11);
        }
    }
}

#[test]
fn rows_that_see_nothing_give_zero() {
    let device = reference_device();
    let map = FeatureMap::EluPlusOne;
    let [query, key, value] = inputs(3, 4, map, &device);
    for causal in [false, true] {
        let nothing = Some(Mask::hide(bools([2, 4], |_| true, &device)));
        let found = linear_attention(query.clone(), key.clone(), value.clone(), nothing, map, causal).unwrap();
        assert_close(found, Tensor::zeros([2, 2, 3, 3], (&device, DType::F64)), 0.0);
    }
    // Without a feature above 0, nothing has weight.
    let below = query.abs().neg();
    let found = linear_attention(below, key, value, None, FeatureMap::Relu, false).unwrap();
    assert_close(found, Tensor::zeros([2, 2, 3, 3], (&device, DType::F64)), 0.0);
}

#[test]
fn steps_of_any_size_are_the_causal_whole_and_the_state_holds_the_sums() {
    let Some(device) = wide_device() else { return };
    for map in MAPS {
        let [query, key, value] = inputs(140, 140, map, &device);
        let kept = |at: usize| at % 9 != 4;
        let padding =
            |from: usize, count: usize| Some(Mask::keep(bools([2, count], |at| kept(from + at % count), &device)));
        let wanted = linear_attention(query.clone(), key.clone(), value.clone(), padding(0, 140), map, true).unwrap();
        let mut state = LinearState::new([2, 2, 4, 3], map, (&device, DType::F64)).unwrap();
        let (mut outs, mut at) = (vec![], 0);
        for count in [1, 1, 3, 65, 1, 69] {
            let part = |tensor: &Tensor<4>| tensor.clone().narrow(2, at, count);
            let made = state.step(part(&query), part(&key), part(&value), padding(at, count)).unwrap();
            outs.push(made.0);
            state = made.1;
            at += count;
        }
        let none = |width| Tensor::zeros([2, 2, 0, width], (&device, DType::F64));
        let (out, state) = state.step(none(4), none(4), none(3), None).unwrap();
        assert_eq!(out.dims(), [2, 2, 0, 3]);
        assert_close(Tensor::cat(outs, 2), wanted, 1e-11);
        // S and z are the sums over all keys that are there.
        let keys = elements(key);
        let values = elements(value);
        let (mut s, mut z) = (vec![0.0; 2 * 2 * 4 * 3], vec![0.0; 2 * 2 * 4]);
        for (row, key) in keys.chunks(4).enumerate().filter(|(row, _)| kept(row % 140)) {
            let head = row / 140;
            for (d, feature) in features(map, key).into_iter().enumerate() {
                z[head * 4 + d] += feature;
                (0..3).for_each(|e| s[(head * 4 + d) * 3 + e] += feature * values[row * 3 + e]);
            }
        }
        let double = (&device, DType::F64);
        assert_close(state.s(), Tensor::from_data(TensorData::new(s, [2, 2, 4, 3]), double), 1e-11);
        assert_close(state.z(), Tensor::from_data(TensorData::new(z, [2, 2, 4]), double), 1e-11);
    }
}

fn layer(causal: bool, device: &Device) -> LinearAttention {
    shaken(LinearAttentionConfig::new(6, 2).with_value_dim(Some(2)).with_causal(causal).init(device).unwrap())
}

#[test]
fn the_layer_projects_around_the_heads() {
    let device = reference_device();
    for causal in [false, true] {
        let layer = layer(causal, &device);
        let hidden = noise([2, 5, 6], 1, &device);
        let heads = |linear: &burn::nn::Linear| super::heads(linear.forward(hidden.clone()), 2);
        let wide = [&layer.query, &layer.key, &layer.value].map(|linear| heads(linear).cast(DType::F64));
        let out = quadratic(&wide, FeatureMap::EluPlusOne, |_, i, j| !causal || j <= i).cast(DType::F32);
        let wanted = layer.output.forward(super::joined(out));
        assert_close(layer.self_attention(hidden.clone(), None).unwrap(), wanted, 1e-5);
    }
}

#[test]
fn the_layer_steps_as_it_attends() {
    let device = reference_device();
    let layer = layer(true, &device);
    let hidden = noise([2, 7, 6], 1, &device);
    let wanted = layer.self_attention(hidden.clone(), None).unwrap();
    let (mut state, mut outs) = (None, vec![]);
    for at in 0..7 {
        let (out, next) = layer.step(hidden.clone().narrow(1, at, 1), state).unwrap();
        outs.push(out);
        state = Some(next);
    }
    assert_close(Tensor::cat(outs, 1), wanted, 1e-5);
}

#[test]
fn padding_reaches_no_gradient_of_the_layer() {
    let device = reference_device().autodiff();
    for causal in [false, true] {
        let layer = layer(causal, &device);
        let nan = bools([1, 5, 6], |i| i / 6 >= 3, &device);
        let padding = Mask::keep(bools([1, 5], |i| i < 3, &device));
        let query = noise([1, 5, 6], 1, &device);
        let key = noise([1, 5, 6], 2, &device).mask_fill(nan, f32::NAN);
        let out = layer.forward(query, key, Some(padding)).unwrap();
        for (path, grad) in gradients(&layer, &out.sum().backward()) {
            assert!(grad.unwrap().is_finite(), "{path}: {grad:?}");
        }
    }
}

#[test]
fn gradients_are_central_differences() {
    let device = reference_device();
    for map in MAPS {
        for causal in [false, true] {
            let [query, key, value] = inputs(66, 67, map, &device).map(|tensor| Input::new(tensor.narrow(0, 0, 1)));
            assert_gradients((query, key, value), |(query, key, value)| {
                let out = linear_attention(query.value(), key.value(), value.value(), None, map, causal).unwrap();
                (out.clone() * out).sum()
            });
        }
    }
    assert_gradients((layer(true, &device), Input::new(noise([1, 4, 6], 1, &device))), |(layer, hidden)| {
        let out = layer.self_attention(hidden.value(), None).unwrap();
        (out.clone() * out).sum()
    });
}

#[test]
fn every_backend_gives_the_same_and_narrow_types_sum_in_f32() {
    for causal in [false, true] {
        assert_agreement(1e-5, |device| {
            let padding = Mask::keep(bools([2, 70], |i| i % 7 != 3, device));
            layer(causal, device).self_attention(noise([2, 70, 6], 1, device), Some(padding)).unwrap()
        });
    }
    #[cfg(feature = "flex")]
    {
        let device = crate::device("flex").unwrap();
        let map = FeatureMap::EluPlusOne;
        let narrow = inputs(300, 300, map, &device).map(|tensor| tensor.cast(DType::F16));
        let wanted = quadratic(&narrow.clone().map(|tensor| tensor.cast(DType::F64)), map, |_, i, j| j <= i);
        let [query, key, value] = narrow;
        let found = linear_attention(query, key, value, None, map, true).unwrap();
        assert_eq!(found.dtype(), DType::F16);
        // Values below 1 rounded once to f16, half a unit in the last of 11 places; sums in f32 are far finer.
        assert_close(found.cast(DType::F64), wanted, 0.5_f64.powi(12) * 1.01);
    }
}

#[test]
fn a_record_carries_every_parameter() {
    let device = reference_device();
    let first = layer(false, &device);
    let second = restored(&first, LinearAttentionConfig::new(6, 2).with_value_dim(Some(2)).init(&device).unwrap());
    let [a, b] = [first, second].map(|layer| layer.self_attention(noise([1, 5, 6], 1, &device), None).unwrap());
    assert_close(b, a, 0.0);
}

#[test]
fn wrong_input_and_wrong_configs_name_the_argument() {
    let device = reference_device();
    let zeros = |shape: [usize; 4]| Tensor::<4>::zeros(shape, &device);
    let attend = |q, k, v, padding: Option<usize>| {
        let padding = padding.map(|length| Mask::keep(bools([2, length], |_| true, &device)));
        linear_attention(zeros(q), zeros(k), zeros(v), padding, FeatureMap::EluPlusOne, true).map(|_| ())
    };
    let (q, k, v) = ([2, 2, 3, 4], [2, 2, 5, 4], [2, 2, 5, 3]);
    assert_eq!(attend(q, k, v, Some(5)), Ok(()));
    for (argument, q, k, v, padding) in [
        ("query", [2, 2, 3, 0], k, v, None),
        ("key", q, [2, 2, 5, 3], v, None),
        ("key", q, [2, 1, 5, 4], [2, 1, 5, 3], None),
        ("value", q, k, [2, 2, 4, 3], None),
        ("key_padding", q, k, v, Some(4)),
    ] {
        assert_eq!(attend(q, k, v, padding).unwrap_err().argument(), Some(argument));
    }
    for (q, k, v) in [([0, 2, 3, 4], [0, 2, 5, 4], [0, 2, 5, 3]), ([2, 0, 3, 4], [2, 0, 5, 4], [2, 0, 5, 3])] {
        assert_eq!(attend(q, k, v, None), Ok(()));
    }
    assert_eq!(attend([2, 2, 0, 4], k, v, None), Ok(()));
    assert_eq!(attend(q, k, [2, 2, 5, 0], None), Ok(()));

    let layer = layer(false, &device);
    let hidden = |batch, features| Tensor::<3>::zeros([batch, 3, features], &device);
    let name = |result: Result<Tensor<3>, attn_core::AttentionError>| result.map(|_| ()).unwrap_err().argument();
    assert_eq!(name(layer.forward(hidden(2, 5), hidden(2, 6), None)), Some("query"));
    assert_eq!(name(layer.forward(hidden(2, 6), hidden(2, 5), None)), Some("key"));
    assert_eq!(name(layer.forward(hidden(2, 6), hidden(1, 6), None)), Some("key"));
    let padding = Mask::keep(bools([2, 4], |_| true, &device));
    assert_eq!(name(layer.self_attention(hidden(2, 6), Some(padding))), Some("key_padding"));
    assert_eq!(name(layer.step(hidden(2, 6), None).map(|made| made.0)), Some("causal"));
    let causal = self::layer(true, &device);
    let state = LinearState::new([1, 2, 3, 2], FeatureMap::EluPlusOne, (&device, DType::F32)).unwrap();
    assert_eq!(name(causal.step(hidden(2, 6), Some(state)).map(|made| made.0)), Some("query"));
    for shape in [[0, 3, 6], [2, 0, 6]] {
        assert_eq!(layer.self_attention(Tensor::zeros(shape, &device), None).unwrap().dims(), shape);
        assert_eq!(causal.step(Tensor::zeros(shape, &device), None).unwrap().0.dims(), shape);
    }
    let error = LinearState::new([1, 1, 1, 1], FeatureMap::Relu, (&device, DType::I32)).map(|_| ()).unwrap_err();
    assert_eq!(error.argument(), Some("dtype"));
    for (argument, config) in [
        ("d_model", LinearAttentionConfig::new(0, 2)),
        ("heads", LinearAttentionConfig::new(6, 4)),
        ("d_key", LinearAttentionConfig::new(6, 2).with_d_key(Some(0))),
        ("head_dim", LinearAttentionConfig::new(6, 2).with_head_dim(Some(0))),
        ("value_dim", LinearAttentionConfig::new(6, 2).with_value_dim(Some(0))),
    ] {
        assert_eq!(config.init(&device).map(|_| ()).unwrap_err().argument(), Some(argument), "{config}");
    }
}
