//! Tests of what a multi-head attention may have beside its projections. Expected values are computed in f64, a pair of query and
//! key at a time, from the layer's parameters.

use attn_core::{Alignment, AttentionSpec, Mask};
use burn::config::Config;
use burn::module::{Initializer, Module, ModuleMapper, Param};
use burn::nn::Linear;
use burn::tensor::{DType, Device, FloatDType, Tensor};

use super::rotary::turned;
use super::{
    Input, assert_agreement, assert_close, assert_gradients, bools, elements, noise, reference_device, restored, shaken,
};
use crate::Selection;
use crate::nn::{
    AlibiSlopes, AttentionOptions, DistanceRule, HeadNorm, MultiHeadAttention, MultiHeadAttentionConfig, Positions,
    QkNormConfig, QkNormKind, RotaryConfig, RotaryLayout, RotaryScaling, alibi_slopes,
};

const T5: DistanceRule = DistanceRule::T5 { buckets: 6, max_distance: 5, bidirectional: false };

fn layer(config: &MultiHeadAttentionConfig, device: &Device) -> MultiHeadAttention {
    shaken(config.init(device).unwrap())
}

/// 4 query heads of 4 features over 2 key/value heads.
fn base() -> MultiHeadAttentionConfig {
    MultiHeadAttentionConfig::new(6, 4).with_kv_heads(Some(2)).with_head_dim(Some(4))
}

fn rotary() -> RotaryConfig {
    RotaryConfig::new(4, RotaryLayout::Half).with_base(50.0)
}

fn sinks() -> Option<Initializer> {
    Some(Initializer::Zeros)
}

/// Everything at once.
fn full() -> MultiHeadAttentionConfig {
    base()
        .with_scale(Some(0.7))
        .with_qk_norm(Some(QkNormConfig::new(QkNormKind::Rms).with_epsilon(0.01)))
        .with_rotary(Some(rotary()))
        .with_relative_bias(Some(T5))
        .with_sinks(sinks())
        .with_shared_key_value(Some(true))
}

/// Each option alone, and all together.
fn configs() -> Vec<MultiHeadAttentionConfig> {
    let norm = |kind| Some(QkNormConfig::new(kind).with_epsilon(0.02).with_gain(1.5));
    vec![
        base(),
        base().with_scale(Some(-0.3)),
        base().with_value_dim(Some(3)).with_qk_norm(norm(QkNormKind::Rms)),
        base().with_qk_norm(norm(QkNormKind::Layer)),
        base().with_qk_norm(Some(QkNormConfig::new(QkNormKind::Layer).with_bias(true))),
        base().with_qk_norm(norm(QkNormKind::L2)),
        base().with_rotary(Some(rotary())),
        base().with_rotary(Some(RotaryConfig::new(4, RotaryLayout::Interleaved).with_rotary_dim(Some(2)))),
        base().with_alibi(Some(AlibiSlopes::Geometric)),
        base().with_relative_bias(Some(T5)),
        base().with_relative_bias(Some(DistanceRule::Clipped { max_distance: 2 })),
        base().with_sinks(sinks()),
        base().with_shared_key_value(Some(true)),
        full(),
    ]
}

type Rows = Vec<Vec<f64>>;

/// `x·W + b` of every row.
fn linear(linear: &Linear, x: &Rows) -> Rows {
    let [_, d_out] = linear.weight.dims();
    let (weight, bias) = (elements(linear.weight.val()), linear.bias.as_ref().map(|bias| elements(bias.val())));
    let sum = |row: &Vec<f64>, o: usize| row.iter().enumerate().map(|(i, x)| x * weight[i * d_out + o]).sum::<f64>();
    let at = |row, o: usize| sum(row, o) + bias.as_ref().map_or(0.0, |bias| bias[o]);
    x.iter().map(|row| (0..d_out).map(|o| at(row, o)).collect()).collect()
}

fn normalised(norm: Option<&HeadNorm>, config: &MultiHeadAttentionConfig, head: &[f64]) -> Vec<f64> {
    let (Some(norm), Some(config)) = (norm, &config.qk_norm) else { return head.to_vec() };
    let count = head.len() as f64;
    let mean = if config.kind == QkNormKind::Layer { head.iter().sum::<f64>() / count } else { 0.0 };
    let squares = head.iter().map(|x| (x - mean).powi(2)).sum::<f64>();
    let squares = if config.kind == QkNormKind::L2 { squares } else { squares / count };
    let read = |param: &Option<Param<Tensor<1>>>| param.as_ref().map(|param| elements(param.val()));
    let (gamma, beta) = (read(&norm.gamma), read(&norm.beta));
    let gain = |i: usize| gamma.as_ref().map_or(1.0, |gamma| if gamma.len() == 1 { gamma[0] } else { gamma[i] });
    let at = |(i, x): (usize, &f64)| (x - mean) / (squares + config.epsilon).sqrt() * gain(i);
    head.iter().enumerate().map(|(i, x)| at((i, x)) + beta.as_ref().map_or(0.0, |beta| beta[i])).collect()
}

/// The layer over one batch entry, with query i at `i + offset`; `seen(i, j)`.
fn expected(
    layer: &MultiHeadAttention,
    config: &MultiHeadAttentionConfig,
    [query, key, value]: [&Rows; 3],
    offset: i64,
    seen: impl Fn(usize, usize) -> bool,
) -> Rows {
    let (h, g, d) = (layer.heads(), layer.kv_heads(), config.head_dim.unwrap());
    let e = config.value_dim.unwrap_or(d);
    let values = linear(layer.value.as_ref().unwrap_or(&layer.key), value);
    let head = |row: &[f64], head: usize, norm: Option<&HeadNorm>, position: i64| {
        let head = normalised(norm, config, &row[head * d..(head + 1) * d]);
        let Some(rotary) = &config.rotary else { return head };
        turned(&head, rotary.layout, &rotary.init().unwrap().frequencies(1), position as f64)
    };
    let (queries, keys) = (linear(&layer.query, query), linear(&layer.key, key));
    let is_l2 = config.qk_norm.as_ref().is_some_and(|norm| norm.kind == QkNormKind::L2);
    let scale = config.scale.unwrap_or(if is_l2 { 1.0 } else { 1.0 / (d as f64).sqrt() });
    let table = layer.relative_bias.as_ref().map(|bias| elements(bias.weight.val()));
    let sinks = layer.sinks.as_ref().map(|sinks| elements(sinks.val()));
    let attended = |i: usize, at: usize| {
        let position = i as i64 + offset;
        let q = head(&queries[i], at, layer.query_norm.as_ref(), position);
        let score = |j: usize| {
            let k = head(&keys[j], at * g / h, layer.key_norm.as_ref(), j as i64);
            let distance = j as i64 - position;
            let product: f64 = q.iter().zip(&k).map(|(q, k)| q * k).sum();
            let slope = config.alibi.as_ref().map_or(0.0, |_| alibi_slopes(h)[at]);
            let bias = table.as_ref().map_or(0.0, |table| table[config.relative_bias.unwrap().row(distance) * h + at]);
            scale * product - slope * distance.abs() as f64 + bias
        };
        let weights: Vec<f64> = (0..keys.len()).map(|j| if seen(i, j) { score(j).exp() } else { 0.0 }).collect();
        let sum = weights.iter().sum::<f64>() + sinks.as_ref().map_or(0.0, |sinks| sinks[at].exp());
        let values = &values;
        (0..e).map(move |f| {
            let feature = at * g / h * e + f;
            weights.iter().zip(values).map(|(weight, value)| weight / sum * value[feature]).sum()
        })
    };
    let joined: Rows = (0..query.len()).map(|i| (0..h).flat_map(|at| attended(i, at)).collect()).collect();
    linear(&layer.output, &joined)
}

fn rows(tensor: &Tensor<3>, entry: usize) -> Rows {
    let [_, length, features] = tensor.dims();
    let all = elements(tensor.clone());
    all.chunks(features).skip(entry * length).take(length).map(<[f64]>::to_vec).collect()
}

#[test]
fn every_option_follows_its_formula() {
    let device = reference_device();
    for config in configs() {
        let layer = layer(&config, &device);
        let [query, key, value] =
            [noise([2, 3, 6], 1, &device), noise([2, 5, 6], 2, &device), noise([2, 5, 6], 3, &device)];
        let causal = AttentionSpec::new().with_causal(true);
        let cases = [
            // Bottom-right: 5 − 3.
            (causal, 2),
            (AttentionSpec::new().with_alignment(Alignment::TopLeft), 0),
            (causal.with_alignment(Alignment::Offset(1)), 1),
        ];
        for (spec, offset) in cases {
            let options = AttentionOptions::new().spec(spec);
            let found = layer.forward(query.clone(), key.clone(), value.clone(), &options).unwrap().out;
            for entry in 0..2 {
                let inputs = [&rows(&query, entry), &rows(&key, entry), &rows(&value, entry)];
                let seen = |i, j| !spec.causal || j as i64 <= i as i64 + offset;
                let wanted: Vec<f64> = expected(&layer, &config, inputs, offset, seen).concat();
                let wanted = Tensor::<1>::from_data(wanted.as_slice(), (&device, found.dtype())).reshape([1, 3, 6]);
                // Sums of up to 16 products of f32, a softmax between.
                assert_close(found.clone().narrow(0, entry, 1), wanted, 1e-5);
            }
        }
    }
}

#[test]
fn every_parameter_of_every_option_has_its_gradient() {
    let device = reference_device();
    for config in configs() {
        let layer = layer(&config, &device);
        let inputs = (Input::new(noise([1, 3, 6], 1, &device)), Input::new(noise([1, 4, 6], 2, &device)));
        assert_gradients((layer, inputs), |(layer, (query, context))| {
            let options = AttentionOptions::new().spec(AttentionSpec::new().with_causal(true));
            let out = layer.cross_attention(query.value(), context.value(), &options).unwrap().out;
            (out.clone() * out).sum()
        });
    }
}

#[test]
fn every_backend_gives_the_same() {
    for config in configs() {
        assert_agreement(1e-5, |device| {
            layer(&config, device).self_attention(noise([2, 5, 6], 1, device), &AttentionOptions::new()).unwrap().out
        });
    }
}

#[test]
fn a_record_carries_every_parameter_and_one_without_the_new_parts_still_loads() {
    let device = reference_device();
    let hidden = noise([1, 5, 6], 1, &device);
    let out = |layer: &MultiHeadAttention| layer.self_attention(hidden.clone(), &AttentionOptions::new()).unwrap().out;
    for config in configs() {
        let first = layer(&config, &device);
        assert_close(out(&restored(&first, config.init(&device).unwrap())), out(&first), 0.0);
    }
    // These have no parameters: the record of a layer without them fits.
    let positioned = base().with_rotary(Some(rotary())).with_alibi(Some(AlibiSlopes::Geometric)).with_scale(Some(0.2));
    let loaded = restored(&layer(&base(), &device), positioned.init(&device).unwrap());
    assert_close(out(&loaded), out(&layer(&positioned, &device)), 0.0);
}

#[test]
fn a_config_saved_before_there_were_options_still_loads() {
    let saved = r#"{"d_query": 8, "heads": 2, "d_key": null, "d_value": null, "d_out": null, "kv_heads": 1,
        "head_dim": null, "value_dim": null, "query_bias": true, "key_bias": true, "value_bias": true,
        "output_bias": true, "dropout": 0.0, "initializer": "Zeros"}"#;
    let config = MultiHeadAttentionConfig::load_binary(saved.as_bytes()).unwrap();
    assert!(config.rotary.is_none() && config.sinks.is_none() && config.kv_heads == Some(1));
    let saved = full().with_alibi(Some(AlibiSlopes::Given { slopes: vec![0.5; 4] })).to_string();
    assert_eq!(MultiHeadAttentionConfig::load_binary(saved.as_bytes()).unwrap().to_string(), saved);
}

#[test]
fn a_shared_projection_is_one_set_of_parameters() {
    let device = reference_device();
    let shared = layer(&base().with_shared_key_value(Some(true)), &device);
    let mut twice = layer(&base(), &device);
    let own = twice.value.take().unwrap();
    assert_eq!(shared.num_params() + own.num_params(), layer(&base(), &device).num_params());
    let hidden = noise([2, 4, 6], 1, &device);
    twice.query = shared.query.clone();
    twice.output = shared.output.clone();
    twice.key = shared.key.clone();
    twice.value = Some(shared.key.clone());
    let options = AttentionOptions::new();
    let wanted = twice.self_attention(hidden.clone(), &options).unwrap().out;
    assert_close(shared.self_attention(hidden.clone(), &options).unwrap().out, wanted.clone(), 1e-6);
    let found = shared.forward(hidden.clone(), hidden.clone(), hidden, &options).unwrap().out;
    assert_close(found, wanted, 1e-6);
}

/// Layers whose positions grow as a sequence does.
fn growing() -> Vec<MultiHeadAttentionConfig> {
    let scaling = RotaryScaling::DynamicNtk { factor: 2.0, original_length: 3 };
    vec![
        full(),
        base().with_rotary(Some(rotary().with_scaling(Some(scaling)))),
        base().with_alibi(Some(AlibiSlopes::Geometric)),
    ]
}

#[test]
fn the_last_queries_over_all_keys_are_the_last_rows_of_the_whole() {
    let device = reference_device();
    let hidden = noise([2, 7, 6], 1, &device);
    let causal = AttentionOptions::new().spec(AttentionSpec::new().with_causal(true));
    for config in growing() {
        let layer = layer(&config, &device);
        let whole = layer.self_attention(hidden.clone(), &causal).unwrap().out;
        for count in [1, 3] {
            let last = hidden.clone().narrow(1, 7 - count, count);
            let found = layer.cross_attention(last, hidden.clone(), &causal).unwrap().out;
            assert_close(found, whole.clone().narrow(1, 7 - count, count), 1e-6);
        }
    }
}

#[test]
fn ragged_lengths_put_each_entrys_queries_at_its_own_end() {
    let device = reference_device();
    let hidden = noise([2, 7, 6], 1, &device);
    // Entry 0 holds 4 tokens, entry 1 all 7; what lies behind is poison. Both ask with their last 2.
    let poison = Tensor::full([1, 3, 6], f32::NAN, &device);
    let first = Tensor::cat(vec![hidden.clone().slice([0..1, 0..4]), poison], 1);
    let keys = Tensor::cat(vec![first, hidden.clone().narrow(0, 1, 1)], 0);
    let query = Tensor::cat(vec![hidden.clone().slice([0..1, 2..4]), hidden.clone().slice([1..2, 5..7])], 0);
    let causal = AttentionOptions::new().spec(AttentionSpec::new().with_causal(true));
    for config in growing() {
        if config.rotary.as_ref().is_some_and(|rotary| rotary.scaling.is_some()) {
            // Its frequencies follow the longest entry.
            continue;
        }
        let layer = layer(&config, &device);
        let found = layer.cross_attention(query.clone(), keys.clone(), &causal.clone().kv_lens([4, 7])).unwrap().out;
        for (entry, length) in [(0, 4), (1, 7)] {
            let alone = hidden.clone().slice([entry..entry + 1, 0..length]);
            let wanted = layer.self_attention(alone, &causal).unwrap().out.narrow(1, length - 2, 2);
            assert_close(found.clone().narrow(0, entry, 1), wanted, 1e-6);
        }
    }
}

#[test]
fn padding_has_no_influence_even_nan_and_self_attention_asks_for_one_position_a_token() {
    let device = reference_device();
    let short = noise([1, 4, 6], 1, &device);
    let padded = Tensor::cat(vec![short.clone(), Tensor::full([1, 2, 6], f32::NAN, &device)], 1);
    let top_left = AttentionOptions::new().spec(AttentionSpec::new().with_alignment(Alignment::TopLeft));
    let lengths = top_left.clone().kv_lens([4]);
    let padding = AttentionOptions::new().key_padding(Mask::keep(bools([1, 6], |i| i < 4, &device)));
    for config in configs() {
        let layer = layer(&config, &device);
        let wanted = layer.self_attention(short.clone(), &top_left).unwrap().out;
        for options in [&lengths, &padding] {
            let found = layer.self_attention(padded.clone(), options).unwrap().out;
            assert_close(found.narrow(1, 0, 4), wanted.clone(), 1e-6);
        }
        let by_position = config.rotary.is_some() || config.relative_bias.is_some() || config.alibi.is_some();
        let shifted = layer.self_attention(padded.clone(), &AttentionOptions::new().kv_lens([4])).map(|_| ());
        let named = shifted.map_err(|error| error.argument());
        assert_eq!(named, if by_position { Err(Some("spec")) } else { Ok(()) }, "{config}");
    }
}

#[test]
fn positions_may_be_shifted_and_sequences_packed() {
    let device = reference_device();
    let (a, b) = (noise([1, 3, 6], 1, &device), noise([1, 4, 6], 2, &device));
    let packed = Tensor::cat(vec![a.clone(), b.clone()], 1);
    let same = bools([1, 1, 7, 7], |at| (at / 7 < 3) == (at % 7 < 3), &device);
    let positions = Positions::Each(vec![vec![0, 1, 2, 0, 1, 2, 3]]);
    let layer = layer(&full(), &device);
    let alone = |x: &Tensor<3>| layer.self_attention(x.clone(), &AttentionOptions::new()).unwrap().out;
    let options = AttentionOptions::new().mask(Mask::keep(same)).positions(positions.clone(), positions);
    let found = layer.self_attention(packed.clone(), &options).unwrap().out;
    assert_close(found, Tensor::cat(vec![alone(&a), alone(&b)], 1), 1e-6);

    let at = |query, key| AttentionOptions::new().positions(Positions::From(query), Positions::From(key));
    let out = |options| layer.self_attention(packed.clone(), &options).unwrap().out;
    assert_close(out(at(500, 500)), alone(&packed), 1e-5);
    assert!((out(at(501, 500)) - alone(&packed)).abs().max().into_scalar::<f32>() > 1e-3);
}

#[test]
fn a_call_adds_its_own_bias_and_scale() {
    let device = reference_device();
    let layer = layer(&base().with_relative_bias(Some(T5)).with_scale(Some(0.3)), &device);
    let hidden = noise([2, 5, 6], 1, &device);
    let bias = noise([2, 1, 5, 1], 4, &device) + noise([2, 1, 1, 5], 5, &device);
    let options = AttentionOptions::new().bias(bias.clone()).spec(AttentionSpec::new().with_scale(0.9));
    let found = layer.self_attention(hidden.clone(), &options).unwrap().out;
    let table = layer.relative_bias.as_ref().unwrap().forward(5, 5, 0).unwrap();
    // Made alike, so with the same parameters, but without a scale of its own.
    let mut plain = self::layer(&base().with_relative_bias(Some(T5)), &device);
    plain.relative_bias = None;
    let options = options.bias(bias + table);
    assert_close(found, plain.self_attention(hidden, &options).unwrap().out, 1e-6);
}

#[test]
fn a_sink_that_takes_nothing_is_no_sink() {
    let device = reference_device();
    let mut layer = layer(&base().with_sinks(sinks()), &device);
    let hidden = noise([2, 5, 6], 1, &device);
    let options = AttentionOptions::new().with_lse();
    let with = layer.self_attention(hidden.clone(), &options).unwrap();
    layer.sinks = Some(Param::from_tensor(Tensor::full([4], -1e4, &device)));
    let far = layer.self_attention(hidden.clone(), &options).unwrap();
    layer.sinks = None;
    let without = layer.self_attention(hidden, &options).unwrap();
    assert_close(far.out.clone(), without.out, 1e-6);
    assert!((with.out - far.out).abs().max().into_scalar::<f32>() > 1e-3);
    assert!((with.lse.unwrap() - without.lse.unwrap()).min().into_scalar::<f32>() > 1e-3);
}

#[test]
fn dropout_sees_every_option() {
    let device = reference_device().autodiff();
    let hidden = noise([2, 5, 6], 1, &device);
    let options = AttentionOptions::new().head_mask(noise([4], 3, &device)).with_weights(Selection::all());
    for config in configs() {
        // So seldom that nothing is dropped, by the way that makes the weights.
        let dropping = layer(&config.clone().with_dropout(1e-12), &device);
        let found = dropping.self_attention(hidden.clone(), &options).unwrap();
        let wanted = layer(&config, &device).self_attention(hidden.clone(), &options).unwrap();
        assert_close(found.out.inner(), wanted.out.inner(), 1e-5);
        assert_close(found.weights.unwrap().inner(), wanted.weights.unwrap().inner(), 1e-6);
    }
}

/// Every parameter in another float type.
fn cast<M: Module>(module: M, dtype: FloatDType) -> M {
    struct Cast(FloatDType);
    impl ModuleMapper for Cast {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            param.map(|tensor| tensor.cast(self.0))
        }
    }
    module.map(&mut Cast(dtype))
}

#[test]
fn every_option_serves_narrow_types() {
    let device = ["flex", "tch", "wgpu"].into_iter().find_map(|name| crate::device(name).ok());
    let Some(device) = device.filter(|device| device.supports_dtype(DType::F16)) else {
        println!("skipped: no backend with f16");
        return;
    };
    let hidden = noise([2, 5, 6], 1, &device).cast(FloatDType::F16);
    let options = AttentionOptions::new();
    for config in configs() {
        let narrow = cast(layer(&config, &device), FloatDType::F16);
        let found = narrow.self_attention(hidden.clone(), &options).unwrap().out;
        assert_eq!(found.dtype(), DType::F16);
        // The same rounded numbers, computed in f32.
        let wide = cast(narrow, FloatDType::F32);
        let wanted = wide.self_attention(hidden.clone().cast(FloatDType::F32), &options).unwrap().out;
        // Some ten roundings of numbers up to 3, one after another.
        assert_close(found.cast(FloatDType::F32), wanted, 30.0 * 2f64.powi(-11));
    }
}

#[test]
fn a_head_mask_multiplies_what_a_head_gives() {
    let device = reference_device();
    let layer = layer(&base(), &device);
    let hidden = noise([2, 5, 6], 1, &device);
    let mask = noise([4], 3, &device);
    let found = layer.self_attention(hidden.clone(), &AttentionOptions::new().head_mask(mask.clone())).unwrap().out;
    // The same by rows of the output projection.
    let mut scaled = layer.clone();
    let factors: Tensor<2> = mask.reshape([4, 1]).expand::<2, _>([4, 4]).reshape([16, 1]);
    scaled.output.weight = Param::from_tensor(layer.output.weight.val() * factors);
    assert_close(found, scaled.self_attention(hidden, &AttentionOptions::new()).unwrap().out, 1e-6);
}

#[test]
fn empty_batches_and_sequences_have_their_answers() {
    let device = reference_device();
    let of = |batch, length| Tensor::<3>::zeros([batch, length, 6], &device);
    for config in configs() {
        let layer = layer(&config, &device);
        for (batch, query_len, key_len) in [(0, 3, 4), (2, 0, 4), (2, 3, 0), (0, 0, 0)] {
            let options = AttentionOptions::new().head_mask(Tensor::ones([4], &device)).kv_lens(vec![key_len; batch]);
            let out = layer.cross_attention(of(batch, query_len), of(batch, key_len), &options).unwrap().out;
            assert_eq!(out.dims(), [batch, query_len, 6]);
        }
    }
}

fn misshapen<const N: usize>(shape: [usize; N]) -> Param<Tensor<N>> {
    Param::from_tensor(Tensor::zeros(shape, &reference_device()))
}

#[test]
fn wrong_options_parameters_and_configs_name_the_argument() {
    let device = reference_device();
    let hidden = Tensor::<3>::zeros([2, 3, 6], &device);
    let name = |layer: &MultiHeadAttention, options: AttentionOptions| {
        layer.self_attention(hidden.clone(), &options).map(|_| ()).unwrap_err().argument()
    };
    let options = AttentionOptions::new;
    let four = || Tensor::<1>::zeros([4], &device);
    let everything = base().with_alibi(Some(AlibiSlopes::Geometric)).with_sinks(sinks()).init(&device).unwrap();
    assert_eq!(name(&everything, options().alibi_slopes(four())), Some("alibi_slopes"));
    assert_eq!(name(&everything, options().sinks(four())), Some("sinks"));
    assert_eq!(name(&everything, options().positions(Positions::From(0), Positions::From(0))), Some("positions"));
    let layer = full().init(&device).unwrap();
    assert_eq!(name(&layer, options().head_mask(Tensor::zeros([2], &device))), Some("head_mask"));
    let of = |query: Vec<i64>, key: Vec<i64>| options().positions(Positions::FromEach(query), Positions::FromEach(key));
    assert_eq!(name(&layer, of(vec![0], vec![0, 0])), Some("query_positions"));
    assert_eq!(name(&layer, of(vec![0, 0], vec![0; 3])), Some("key_positions"));

    type Change = fn(&mut MultiHeadAttention);
    let broken: [(&str, Change); 4] = [
        ("sinks", |layer| layer.sinks = Some(misshapen([2]))),
        ("query_norm.gamma", |layer| layer.query_norm.as_mut().unwrap().gamma = Some(misshapen([2]))),
        ("key_norm.beta", |layer| layer.key_norm.as_mut().unwrap().beta = Some(misshapen([2]))),
        ("relative_bias.weight", |layer| layer.relative_bias.as_mut().unwrap().weight = misshapen([6, 2])),
    ];
    for (argument, change) in broken {
        let mut layer = layer.clone();
        change(&mut layer);
        assert_eq!(name(&layer, options()), Some(argument));
    }

    let norm = |kind| QkNormConfig::new(kind);
    let shared = || base().with_shared_key_value(Some(true));
    let cases = [
        ("scale", base().with_scale(Some(f64::NAN))),
        ("rotary", base().with_rotary(Some(RotaryConfig::new(6, RotaryLayout::Half)))),
        ("rotary_dim", base().with_rotary(Some(rotary().with_rotary_dim(Some(3))))),
        ("epsilon", base().with_qk_norm(Some(norm(QkNormKind::Rms).with_epsilon(-1.0)))),
        ("gain", base().with_qk_norm(Some(norm(QkNormKind::L2).with_gain(f64::INFINITY)))),
        ("bias", base().with_qk_norm(Some(norm(QkNormKind::Rms).with_bias(true)))),
        ("max_distance", base().with_relative_bias(Some(DistanceRule::Clipped { max_distance: 0 }))),
        ("alibi", base().with_alibi(Some(AlibiSlopes::Given { slopes: vec![] }))),
        ("d_value", shared().with_d_value(Some(5))),
        ("value_dim", shared().with_value_dim(Some(5))),
    ];
    for (argument, config) in cases {
        assert_eq!(config.init(&device).map(|_| ()).unwrap_err().argument(), Some(argument), "{config}");
    }
}
