//! Tests of rotary positions and their scaling. Expected values are computed in f64, an element at a time.

use std::f64::consts::TAU;

use burn::tensor::{DType, FloatDType, Tensor};

use super::{Input, assert_agreement, assert_close, assert_gradients, elements, noise, reference_device};
use crate::nn::{Positions, Rotary, RotaryConfig, RotaryLayout, RotaryScaling};

const LAYOUTS: [RotaryLayout; 2] = [RotaryLayout::Interleaved, RotaryLayout::Half];

fn frequencies(base: f64, turned: usize) -> Vec<f64> {
    (0..turned / 2).map(|i| 1.0 / base.powf(2.0 * i as f64 / turned as f64)).collect()
}

/// One head of one token, its pairs turned by `position · θ_i`.
pub(super) fn turned(head: &[f64], layout: RotaryLayout, theta: &[f64], position: f64) -> Vec<f64> {
    let mut out = head.to_vec();
    for (i, angle) in theta.iter().map(|theta| position * theta).enumerate() {
        let [a, b] = match layout {
            RotaryLayout::Interleaved => [2 * i, 2 * i + 1],
            RotaryLayout::Half => [i, i + theta.len()],
        };
        out[a] = head[a] * angle.cos() - head[b] * angle.sin();
        out[b] = head[a] * angle.sin() + head[b] * angle.cos();
    }
    out
}

/// Found against the formula; `position` of a batch entry and token.
#[track_caller]
fn assert_turned(found: Tensor<4>, x: Tensor<4>, config: &RotaryConfig, position: impl Fn(usize, usize) -> i64) {
    let ([_, heads, length, dim], device) = (x.dims(), x.device());
    let theta = frequencies(config.base, config.rotary_dim.unwrap_or(dim));
    let token = |(at, head): (usize, &[f64])| {
        let (entry, token) = (at / (heads * length), at % length);
        turned(head, config.layout, &theta, position(entry, token) as f64)
    };
    let expected: Vec<f64> = elements(x.clone()).chunks(dim).enumerate().flat_map(token).collect();
    let expected = Tensor::<1>::from_data(expected.as_slice(), (&device, x.dtype())).reshape(x.dims());
    // Two products and a sum of numbers below 1, and tables rounded to f32.
    assert_close(found, expected, 4.0 * f64::from(f32::EPSILON));
}

fn config(dim: usize, layout: RotaryLayout) -> RotaryConfig {
    RotaryConfig::new(dim, layout)
}

#[test]
fn pairs_turn_by_their_angles_in_both_layouts_whole_or_in_part() {
    let device = reference_device();
    let x = noise([2, 3, 5, 8], 1, &device);
    for layout in LAYOUTS {
        for config in [
            config(8, layout),
            config(8, layout).with_rotary_dim(Some(4)),
            config(8, layout).with_rotary_dim(Some(2)).with_base(500.0),
        ] {
            let rotary = config.init().unwrap();
            let found = rotary.forward(x.clone(), &Positions::From(3)).unwrap();
            assert_turned(found, x.clone(), &config, |_, token| 3 + token as i64);
        }
    }
}

#[test]
fn positions_may_be_each_entrys_each_tokens_negative_or_far() {
    let device = reference_device();
    let x = noise([2, 1, 3, 6], 1, &device);
    let config = config(6, RotaryLayout::Half);
    let rotary = config.init().unwrap();
    let rows = vec![vec![7, 0, 1_000_000_007], vec![-3, 5, 5]];
    let cases = [
        (Positions::FromEach(vec![4, -9]), vec![vec![4, 5, 6], vec![-9, -8, -7]]),
        (Positions::FromEach(vec![4, 4]), vec![vec![4, 5, 6]; 2]),
        (Positions::Each(rows.clone()), rows.clone()),
        (Positions::Each(vec![rows[1].clone()]), vec![rows[1].clone(); 2]),
    ];
    // Twice around, so that a table that was kept for other positions would be found out.
    for (positions, at) in cases.iter().chain(&cases) {
        let found = rotary.forward(x.clone(), positions).unwrap();
        assert_turned(found, x.clone(), &config, |entry, token| at[entry][token]);
    }
}

#[test]
fn scores_depend_on_the_distance_alone_and_lengths_are_kept() {
    let device = reference_device();
    let (q, k) = (noise([1, 2, 4, 8], 1, &device), noise([1, 2, 4, 8], 2, &device));
    for layout in LAYOUTS {
        let rotary = config(8, layout).init().unwrap();
        let at = |start| {
            let turn = |x: &Tensor<4>| rotary.forward(x.clone(), &Positions::From(start)).unwrap();
            (turn(&q), turn(&k))
        };
        let scores = |(q, k): (Tensor<4>, Tensor<4>)| q.matmul(k.swap_dims(2, 3));
        // Sums of 8 products below 1, each off by a few roundings.
        assert_close(scores(at(100_000)), scores(at(0)), 5e-6);
        let moved = (rotary.forward(q.clone(), &Positions::From(1)).unwrap(), at(0).1);
        assert!((scores(moved) - scores(at(0))).abs().max().into_scalar::<f32>() > 0.1);
        let squares = |x: Tensor<4>| (x.clone() * x).sum_dim(3);
        assert_close(squares(at(77).0), squares(q.clone()), 5e-6);
    }
}

fn scaled(dim: usize, base: f64, scaling: RotaryScaling) -> Rotary {
    config(dim, RotaryLayout::Half).with_base(base).with_scaling(Some(scaling)).init().unwrap()
}

#[track_caller]
fn assert_same(found: &[f64], expected: impl IntoIterator<Item = f64>) {
    let expected: Vec<f64> = expected.into_iter().collect();
    assert_eq!(found.len(), expected.len());
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!((found / expected - 1.0).abs() < 1e-12, "pair {i}: {found} in place of {expected}");
    }
}

#[test]
fn interpolation_divides_and_ntk_keeps_the_fastest_pair() {
    let plain = frequencies(10_000.0, 16);
    let linear = scaled(16, 10_000.0, RotaryScaling::Linear { factor: 4.0 });
    assert_same(&linear.frequencies(9), plain.iter().map(|theta| theta / 4.0));
    // base' = base · s^(R/(R−2)) makes θ'_i = θ_i · s^(−2i/(R−2)).
    let ntk = scaled(16, 10_000.0, RotaryScaling::Ntk { factor: 4.0 });
    let expected = |s: f64| plain.iter().enumerate().map(move |(i, theta)| theta * s.powf(-(i as f64) / 7.0));
    assert_same(&ntk.frequencies(9), expected(4.0));
    assert_same(&ntk.frequencies(9)[7..], [plain[7] / 4.0]);
    // Half as long again as the original: stretched by 4·1.5 − 3.
    let dynamic = scaled(16, 10_000.0, RotaryScaling::DynamicNtk { factor: 4.0, original_length: 100 });
    for (length, stretch) in [(0, 1.0), (100, 1.0), (150, 3.0), (200, 5.0)] {
        assert_same(&dynamic.frequencies(length), expected(stretch));
    }
    for rotary in [linear, ntk, dynamic] {
        assert_eq!(rotary.attention_factor(), 1.0);
    }
}

#[test]
fn yarn_keeps_fast_pairs_interpolates_slow_ones_and_ramps_between() {
    let plain = frequencies(10_000.0, 128);
    // d(32) = 128·ln(4096/(32·2π)) / (2·ln 10000) = 20.94, d(1) = 45.03: the ramp runs from pair 20 to pair 46.
    let yarn = scaled(128, 10_000.0, RotaryScaling::yarn(16.0, 4096));
    let ramp = |i: usize| {
        if i < 20 {
            0.0
        } else if i > 46 {
            1.0
        } else {
            (i as f64 - 20.0) / 26.0
        }
    };
    let expected = plain.iter().enumerate().map(|(i, theta)| (1.0 - ramp(i)) * theta + ramp(i) * theta / 16.0);
    assert_same(&yarn.frequencies(1), expected);
    assert!((yarn.attention_factor() - 1.277_258_872_223_978).abs() < 1e-14);

    let exact = RotaryScaling::Yarn {
        factor: 16.0,
        original_length: 4096,
        beta_fast: 32.0,
        beta_slow: 1.0,
        attention_factor: Some(0.5),
        truncate: false,
    };
    let exact = scaled(128, 10_000.0, exact);
    // The pair that turns r times within L: L·θ_i = 2π·r, θ_i = base^(−2i/R).
    let at = |turns: f64| -64.0 * (turns * TAU / 4096.0).ln() / 10_000f64.ln();
    let ramp = |i: usize| ((i as f64 - at(32.0)) / (at(1.0) - at(32.0))).clamp(0.0, 1.0);
    let expected = plain.iter().enumerate().map(|(i, theta)| (1.0 - ramp(i)) * theta + ramp(i) * theta / 16.0);
    assert_same(&exact.frequencies(1), expected);
    assert_eq!(exact.attention_factor(), 0.5);
    // Short training: the whole ramp falls before pair 0, and everything is interpolated but pair 0, where the step stands.
    let short = scaled(8, 10_000.0, RotaryScaling::yarn(2.0, 4));
    let plain = frequencies(10_000.0, 8);
    assert_same(&short.frequencies(1), plain.iter().enumerate().map(|(i, t)| if i == 0 { *t } else { t / 2.0 }));
    assert_eq!(scaled(8, 10_000.0, RotaryScaling::yarn(1.0, 4)).attention_factor(), 1.0);
}

#[test]
fn yarns_attention_factor_multiplies_what_is_turned() {
    let device = reference_device();
    let x = noise([1, 1, 3, 8], 1, &device);
    let scaling = RotaryScaling::yarn(4.0, 64);
    let config = config(8, RotaryLayout::Half).with_rotary_dim(Some(4)).with_scaling(Some(scaling));
    let rotary = config.init().unwrap();
    let found = rotary.forward(x.clone(), &Positions::From(0)).unwrap();
    // At position 0 nothing turns.
    let factor = 0.1 * 4f64.ln() + 1.0;
    let expected = Tensor::cat(vec![x.clone().narrow(3, 0, 4).mul_scalar(factor), x.narrow(3, 4, 4)], 3);
    assert_close(found.narrow(2, 0, 1), expected.narrow(2, 0, 1), 2e-7);
}

#[test]
fn llama3_scales_by_wavelength() {
    let rotary = scaled(128, 500_000.0, RotaryScaling::llama3());
    let (mut kept, mut between, mut divided) = (0, 0, 0);
    let expected: Vec<f64> = frequencies(500_000.0, 128)
        .into_iter()
        .map(|theta| {
            let wavelength = TAU / theta;
            if wavelength < 8192.0 / 4.0 {
                kept += 1;
                theta
            } else if wavelength > 8192.0 {
                divided += 1;
                theta / 8.0
            } else {
                between += 1;
                let t = (8192.0 / wavelength - 1.0) / (4.0 - 1.0);
                (1.0 - t) * theta / 8.0 + t * theta
            }
        })
        .collect();
    assert!(kept > 20 && between > 3 && divided > 20);
    assert_same(&rotary.frequencies(1), expected);
}

#[test]
fn a_growing_scaling_follows_the_length_it_is_told() {
    let device = reference_device();
    let x = noise([1, 1, 4, 8], 1, &device);
    let scaling = RotaryScaling::DynamicNtk { factor: 2.0, original_length: 4 };
    let rotary = config(8, RotaryLayout::Half).with_scaling(Some(scaling)).init().unwrap();
    let plain = config(8, RotaryLayout::Half).init().unwrap();
    let at = Positions::From(0);
    assert_close(rotary.forward(x.clone(), &at).unwrap(), plain.forward(x.clone(), &at).unwrap(), 0.0);
    // 12 positions: stretched by 2·3 − 1.
    let stretched = config(8, RotaryLayout::Half).with_base(10_000.0 * 5f64.powf(8.0 / 6.0)).init().unwrap();
    let expected = stretched.forward(x.clone(), &at).unwrap();
    assert_close(rotary.within(x.clone(), &at, 12).unwrap(), expected, 2e-7);
    let late = Positions::From(8);
    let expected = stretched.forward(x.clone(), &late).unwrap();
    assert_close(rotary.forward(x, &late).unwrap(), expected, 2e-7);
}

#[test]
fn narrow_types_are_turned_in_f32() {
    let name = ["flex", "tch", "wgpu"].into_iter().find_map(|name| crate::device(name).ok());
    let Some(device) = name.filter(|device| device.supports_dtype(DType::F16)) else {
        println!("skipped: no backend with f16");
        return;
    };
    let x = noise([1, 2, 5, 8], 1, &device).cast(FloatDType::F16);
    for layout in LAYOUTS {
        let rotary = config(8, layout).with_rotary_dim(Some(4)).init().unwrap();
        let found = rotary.forward(x.clone(), &Positions::From(1000)).unwrap();
        assert_eq!(found.dtype(), DType::F16);
        let wide = rotary.forward(x.clone().cast(FloatDType::F32), &Positions::From(1000)).unwrap();
        // One rounding to f16 of a number below 2.
        assert_close(found.cast(FloatDType::F32), wide, 2f64.powi(-11));
    }
}

#[test]
fn gradients_are_central_differences() {
    for layout in LAYOUTS {
        let config = config(6, layout).with_rotary_dim(Some(4)).with_scaling(Some(RotaryScaling::yarn(2.0, 8)));
        let rotary = config.init().unwrap();
        assert_gradients((rotary, Input::new(noise([1, 2, 3, 6], 1, &reference_device()))), |(rotary, x)| {
            let out = rotary.forward(x.value(), &Positions::From(2)).unwrap();
            let weight = noise([1, 2, 3, 6], 5, &out.device()).cast(FloatDType::F64);
            (out.clone() * out * weight).sum()
        });
    }
}

#[test]
fn every_backend_gives_the_same() {
    for layout in LAYOUTS {
        let rotary = config(8, layout).with_rotary_dim(Some(6)).init().unwrap();
        assert_agreement(1e-6, |device| rotary.forward(noise([2, 3, 4, 8], 1, device), &Positions::From(5)).unwrap());
    }
}

#[test]
fn nothing_in_nothing_out() {
    let device = reference_device();
    for layout in LAYOUTS {
        let rotary = config(8, layout).with_rotary_dim(Some(4)).init().unwrap();
        for shape in [[0, 2, 3, 8], [2, 0, 3, 8], [2, 2, 0, 8]] {
            let starts = Positions::FromEach(vec![1; shape[0]]);
            let out = rotary.forward(Tensor::zeros(shape, &device), &starts).unwrap();
            assert_eq!(out.dims(), shape);
        }
    }
}

#[test]
fn wrong_configs_and_inputs_name_the_argument() {
    let of = || config(8, RotaryLayout::Half);
    let with = |scaling| of().with_scaling(Some(scaling));
    let yarn = |factor, beta_fast, beta_slow, attention_factor| RotaryScaling::Yarn {
        factor,
        original_length: 4,
        beta_fast,
        beta_slow,
        attention_factor,
        truncate: true,
    };
    let llama = |low_freq_factor, high_freq_factor, original_length| RotaryScaling::Llama3 {
        factor: 8.0,
        low_freq_factor,
        high_freq_factor,
        original_length,
    };
    let cases = [
        ("head_dim", config(0, RotaryLayout::Half)),
        ("head_dim", config(7, RotaryLayout::Half)),
        ("rotary_dim", of().with_rotary_dim(Some(3))),
        ("rotary_dim", of().with_rotary_dim(Some(0))),
        ("rotary_dim", of().with_rotary_dim(Some(10))),
        ("base", of().with_base(0.0)),
        ("base", of().with_base(f64::NAN)),
        ("factor", with(RotaryScaling::Linear { factor: 0.0 })),
        ("factor", with(RotaryScaling::Ntk { factor: f64::INFINITY })),
        ("rotary_dim", with(RotaryScaling::Ntk { factor: 2.0 }).with_rotary_dim(Some(2))),
        ("factor", with(RotaryScaling::DynamicNtk { factor: 0.5, original_length: 4 })),
        ("original_length", with(RotaryScaling::DynamicNtk { factor: 2.0, original_length: 0 })),
        ("factor", with(yarn(-1.0, 32.0, 1.0, None))),
        ("beta_slow", with(yarn(2.0, 1.0, 32.0, None))),
        ("beta_fast", with(yarn(2.0, f64::NAN, 1.0, None))),
        ("attention_factor", with(yarn(2.0, 32.0, 1.0, Some(0.0)))),
        ("base", with(yarn(2.0, 32.0, 1.0, None)).with_base(1.0)),
        ("low_freq_factor", with(llama(4.0, 4.0, 8))),
        ("original_length", with(llama(1.0, 4.0, 0))),
    ];
    for (argument, config) in cases {
        assert_eq!(config.init().map(|_| ()).unwrap_err().argument(), Some(argument), "{config}");
    }
    let rotary = of().init().unwrap();
    let x = |shape| Tensor::<4>::zeros(shape, &reference_device());
    let name = |x, positions| rotary.forward(x, &positions).map(|_| ()).unwrap_err().argument();
    assert_eq!(name(x([2, 1, 3, 6]), Positions::From(0)), Some("heads"));
    assert_eq!(name(x([2, 1, 3, 8]), Positions::FromEach(vec![0])), Some("positions"));
    assert_eq!(name(x([2, 1, 3, 8]), Positions::Each(vec![vec![0, 1, 2]; 3])), Some("positions"));
    assert_eq!(name(x([2, 1, 3, 8]), Positions::Each(vec![vec![0, 1, 2], vec![0]])), Some("positions"));
    assert_eq!(name(x([2, 1, 3, 8]), Positions::Each(vec![])), Some("positions"));
}
