//! The GPU kernel over random problems, demanded by name, so that no other can stand in for it.
//!
//! A software driver compiles each variant of the kernel for a second or more, so the problems are fewer than a CPU's, and their
//! dimensions few; lengths, strides and options are drawn as everywhere.

use attn::Attention;
use attn_testing::bound;
use attn_testing::engine::{Engine, refer};
use attn_testing::generate::{Recipe, config, recipes};
use attn_testing::host::{Ask, HostProblem};
use attn_testing::panics;
use attn_testing::run::{self, Target};
use burn::tensor::{Distribution, FloatDType, Tensor};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::random::check;

fn engine() -> Option<Engine> {
    let engine = Engine::named("wgpu").ok();
    if engine.is_none() {
        println!("skipped: there is no adapter");
    }
    engine
}

/// The kernel serves every problem that has elements.
fn demanded(recipe: &Recipe, target: &Target, problem: &HostProblem, ask: &Ask) -> Result<(), TestCaseError> {
    let expected = refer(problem, ask).map_err(TestCaseError::fail)?;
    let bounds = bound::bounds(problem, ask);
    let answer = panics::catch(|| run::answer(target, problem, ask, recipe.layouts)).and_then(|answer| answer);
    let who = format!("cube in {:?}", problem.dtype);
    let answer = answer.map_err(|reason| TestCaseError::fail(format!("{who}: {reason}")))?;
    check(&who, &expected, &answer, &bounds)
}

fn agrees(dtype: FloatDType, cases: u32, gradients: bool, dims: &[usize]) {
    let Some(engine) = engine().filter(|engine| engine.has_dtype(dtype)) else {
        println!("skipped: no tensors of {dtype:?}");
        return;
    };
    let mut target = Target::new(engine.device().expect("it has tensors").clone());
    target.forward = Some("cube");
    let agree = |mut recipe: Recipe| {
        // Dimensions from a few, so that kernels are compiled once for many problems.
        let near = |dim: usize| dims[dim % dims.len()];
        (recipe.dims.head_dim, recipe.dims.value_dim) = (near(recipe.dims.head_dim), near(recipe.dims.value_dim));
        let scores = recipe.dims.scores();
        if scores.contains(&0) {
            return Ok(());
        }
        let problem = recipe.build(dtype);
        let gradients = gradients.then(|| recipe.upstream());
        demanded(&recipe, &target, &problem, &Ask { lse: true, weights: false, gradients })
    };
    TestRunner::new(config(cases)).run(&recipes(), agree).unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn in_f32() {
    agrees(FloatDType::F32, 60, false, &[8, 5, 64]);
}

#[test]
fn in_f16() {
    agrees(FloatDType::F16, 20, false, &[8, 6]);
}

#[test]
fn with_gradients() {
    agrees(FloatDType::F32, 15, true, &[8]);
}

/// Lengths around the rows of a tile and the keys of a block and of a run.
#[test]
fn tails() {
    let Some(engine) = engine() else { return };
    let mut target = Target::new(engine.device().expect("it has tensors").clone());
    target.forward = Some("cube");
    for (query_len, key_len) in
        [(1, 1), (1, 7), (1, 8), (2, 9), (31, 15), (32, 16), (33, 17), (63, 64), (64, 65), (65, 63), (129, 7)]
    {
        for causal in [false, true] {
            let mut recipe = super::tiles::recipe(
                attn_testing::host::Dims {
                    batch: 2,
                    heads: 2,
                    kv_heads: 1,
                    query_len,
                    key_len,
                    head_dim: 8,
                    value_dim: 8,
                },
                key_len as u64,
            );
            recipe.spec.causal = causal;
            let ask = Ask { lse: true, ..Ask::default() };
            demanded(&recipe, &target, &recipe.build(FloatDType::F32), &ask).unwrap_or_else(|error| panic!("{error}"));
        }
    }
}

/// Long keys for few queries are cut into runs, whose results are joined; sinks join once; a value wider than a launch's
/// columns takes several.
#[test]
fn runs_of_keys_and_wide_values() {
    let Some(engine) = engine() else { return };
    let mut target = Target::new(engine.device().expect("it has tensors").clone());
    target.forward = Some("cube");
    let dims = |query_len, key_len, value_dim| attn_testing::host::Dims {
        batch: 2,
        heads: 4,
        kv_heads: 2,
        query_len,
        key_len,
        head_dim: 8,
        value_dim,
    };
    for (dims, kv_lens) in [(dims(1, 2000, 8), false), (dims(3, 1111, 8), true), (dims(2, 40, 300), true)] {
        let mut recipe = super::tiles::recipe(dims, 7);
        (recipe.kv_lens, recipe.sinks, recipe.poison) = (kv_lens, true, true);
        recipe.spec.causal = true;
        let ask = Ask { lse: true, ..Ask::default() };
        demanded(&recipe, &target, &recipe.build(FloatDType::F32), &ask).unwrap_or_else(|error| panic!("{error}"));
    }
}

/// The same bits from the same call.
#[test]
fn two_runs_give_the_same_bits() {
    let Some(engine) = engine() else { return };
    let device = engine.device().expect("it has tensors");
    let make = |len| Tensor::<4>::random([1, 4, len, 64], Distribution::Default, device);
    for query_len in [1, 100] {
        let (query, key, value) = (make(query_len), make(1500), make(1500));
        let run = || {
            let attention = Attention::new(query.clone(), key.clone(), value.clone()).causal(true).kernel("cube");
            attention.forward().expect("a plain problem").out.into_data()
        };
        assert_eq!(run(), run());
    }
}
