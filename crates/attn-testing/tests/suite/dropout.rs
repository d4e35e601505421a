//! Dropout of weights: the same weights on every engine and in every type, and nothing but noise about the mean.

use attn::{Attention, AttentionSpec, Dropout};
use attn_testing::engine::Engine;
use attn_testing::generate::Recipe;
use attn_testing::host::{Ask, Dims};
use burn::tensor::{FloatDType, Tensor};

use super::tiles::recipe;

/// Past tiles and blocks of most kernels, with values that are the identity: outputs are weights.
fn identity(dtype: FloatDType, seed: u64) -> attn_testing::host::HostProblem {
    let dims = Dims { batch: 2, heads: 4, kv_heads: 2, query_len: 70, key_len: 131, head_dim: 8, value_dim: 131 };
    let spec = AttentionSpec::new().with_causal(true).with_dropout(0.4, seed);
    let mut problem = Recipe { spec, ..recipe(dims, 5) }.build(dtype);
    let unit = |at: usize| if at / 131 % 131 == at % 131 { 1.0 } else { 0.0 };
    problem.inputs.value.iter_mut().enumerate().for_each(|(at, value)| *value = unit(at));
    problem
}

#[test]
fn every_engine_drops_the_same_weights_in_every_type() {
    let dropped = |engine: &Engine, dtype| -> Vec<bool> {
        let answer = engine.answer(&identity(dtype, 1 << 40 | 9), &Ask::default());
        answer.unwrap_or_else(|reason| panic!("{}: {reason}", engine.name())).out.iter().map(|x| *x == 0.0).collect()
    };
    let problem = identity(FloatDType::F32, 1 << 40 | 9);
    let dropout = problem.spec.dropout.expect("it was set");
    let [_, h, q, k] = problem.dims.scores();
    let places = (0..2 * h * q * k).map(|at| [at / (h * q * k), at / (q * k) % h, at / k % q, at % k]);
    let expected: Vec<bool> = places.map(|place| !dropout.keeps(place) || !problem.sees(place)).collect();
    for engine in Engine::available() {
        for dtype in [FloatDType::F32, FloatDType::F64, FloatDType::F16, FloatDType::BF16] {
            if engine.has_dtype(dtype) {
                assert!(dropped(&engine, dtype) == expected, "{} in {dtype:?}", engine.name());
            }
        }
    }
}

#[test]
fn the_mean_over_seeds_is_the_output_without_dropout() {
    const SEEDS: u64 = 400;
    for engine in Engine::available() {
        let Some(device) = engine.device().filter(|_| engine.has_dtype(FloatDType::F32)) else { continue };
        let tensor = |seed: u64, length| {
            let dims =
                Dims { batch: 1, heads: 2, kv_heads: 2, query_len: length, key_len: 1, head_dim: 8, value_dim: 1 };
            let query = recipe(dims, seed).build(FloatDType::F32).inputs.query;
            let data: Vec<f32> = query.into_iter().map(|x| x as f32).collect();
            Tensor::<1>::from_data(data.as_slice(), device).reshape([1, 2, length, 8])
        };
        let [query, key, value] = [tensor(1, 9), tensor(2, 40), tensor(3, 40)];
        let attention = || Attention::new(query.clone(), key.clone(), value.clone()).with_lse();
        let right = attention().forward().expect("it is valid");
        let mut sum = right.out.zeros_like();
        let mut squares = right.out.zeros_like();
        for seed in 0..SEEDS {
            let found = attention().dropout(0.3, seed).forward().expect("it is valid");
            let lse = (found.lse.expect("asked for") - right.lse.clone().expect("asked for")).abs().max();
            assert!(lse.into_scalar::<f32>() < 1e-5, "the LSE is that of all weights");
            let off = found.out - right.out.clone();
            sum = sum + off.clone();
            squares = squares + off.square();
        }
        // Each element is off by its standard error; 144 of them stay within four and a half.
        let error = (squares / (SEEDS * SEEDS) as f64).sqrt();
        let worst = (sum / SEEDS as f64).abs().div(error.clone()).max().into_scalar::<f32>();
        let noise = error.min().into_scalar::<f32>();
        assert!(worst < 4.5 && noise > 1e-3, "{}: {worst} standard errors of at least {noise}", engine.name());
    }
}

#[test]
fn a_probability_of_0_drops_nothing_and_others_are_refused() {
    let device = attn::device("flex").or_else(|_| attn::device("ndarray"));
    let Ok(device) = device else { return println!("skipped: no backend on the host") };
    let x = Tensor::<4>::random([1, 2, 5, 8], burn::tensor::Distribution::Default, &device);
    let attention = |spec: AttentionSpec| Attention::new(x.clone(), x.clone(), x.clone()).spec(spec).forward();
    let plain = attention(AttentionSpec::new()).expect("it is valid").out;
    let kept = attention(AttentionSpec::new().with_dropout(0.0, 3)).expect("it is valid").out;
    plain.into_data().assert_eq(&kept.into_data(), true);
    for probability in [-0.5, 1.0, f64::NAN] {
        let spec = AttentionSpec { dropout: Some(Dropout::new(probability, 0)), ..AttentionSpec::new() };
        let error = attention(spec).expect_err("it is no probability");
        assert_eq!(error.argument(), Some("dropout"), "{error}");
    }
}
