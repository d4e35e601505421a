//! Engines against the reference over random problems: every option combined, every element type, any strides, poisoned hidden
//! entries, rows that see nothing, zero-length axes.
//!
//! The tolerance of every element is derived, see [`attn_testing::bound`].

use std::cell::LazyCell;

use attn_testing::bound::{self, Products};
use attn_testing::compare::{Tolerance, compare};
use attn_testing::engine::{Engine, refer};
use attn_testing::generate::{Recipe, config, recipes};
use attn_testing::host::{Answer, Ask, HostProblem};
use attn_testing::panics;
use burn::tensor::FloatDType;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

/// Fails where an element lies further from what is expected than its bound.
pub fn check(who: &str, expected: &Answer, found: &Answer, bounds: &Answer) -> Result<(), TestCaseError> {
    for name in Answer::NAMES {
        let (Some(expected), Some(bounds)) = (expected.get(name), bounds.get(name)) else { continue };
        let found = found.get(name).ok_or_else(|| TestCaseError::fail(format!("{who}: {name} did not come")))?;
        let worst = compare(expected, found, Tolerance::Each(bounds)).map_err(TestCaseError::fail)?;
        prop_assert!(worst.passes(), "{who}: {name}: {worst:?}");
    }
    Ok(())
}

fn check_engine(
    engine: &Engine,
    recipe: &Recipe,
    problem: &HostProblem,
    ask: &Ask,
    (expected, bounds): (&Answer, &Answer),
) -> Result<(), TestCaseError> {
    let who = format!("{} in {:?}", engine.name(), problem.dtype);
    let answer = panics::catch(|| engine.answer_from(problem, ask, recipe.layouts)).and_then(|answer| answer);
    let answer = answer.map_err(|reason| TestCaseError::fail(format!("{who}: {reason}")))?;
    check(&who, expected, &answer, bounds)
}

/// Every engine of these names that has the type answers every problem rightly, LSE included.
fn engines_agree(names: &[&str], dtype: FloatDType, cases: u32, gradients: bool) {
    engines_agree_on(names, dtype, cases, gradients, true);
}

/// The same; without the LSE a kernel may take another way.
fn engines_agree_on(names: &[&str], dtype: FloatDType, cases: u32, gradients: bool, lse: bool) {
    let engines: Vec<Engine> = Engine::available()
        .into_iter()
        .filter(|engine| names.contains(&engine.name()) && engine.has_dtype(dtype))
        .collect();
    if engines.is_empty() {
        println!("skipped: none of {names:?} has {dtype:?} here");
        return;
    }
    let agree = |recipe: Recipe| {
        let problem = recipe.build(dtype);
        let gradients = gradients.then(|| recipe.upstream());
        let ask = Ask { lse, weights: gradients.is_some(), gradients };
        let expected = refer(&problem, &ask).map_err(TestCaseError::fail)?;
        let (problem, ask) = (&problem, &ask);
        let bounds = |products| LazyCell::new(move || bound::bounds_with(problem, ask, products));
        let (wide, rounded, paired) = (bounds(Products::Wide), bounds(Products::Rounded), bounds(Products::Paired));
        engines.iter().try_for_each(|engine| {
            let bounds = match engine.products(dtype) {
                Products::Wide => &*wide,
                Products::Rounded => &*rounded,
                Products::Paired => &*paired,
            };
            check_engine(engine, &recipe, problem, ask, (&expected, bounds))
        })
    };
    TestRunner::new(config(cases)).run(&recipes(), agree).unwrap_or_else(|error| panic!("{error}"));
}

/// The kernels of attn-cpu, forced one by one.
const PATHS: [&str; 4] = ["cpu-avx512", "cpu-avx2", "cpu-neon", "cpu-portable"];

#[test]
fn cpu_paths_in_f32() {
    engines_agree(&PATHS, FloatDType::F32, 6000, false);
}

#[test]
fn cpu_paths_in_f64() {
    engines_agree(&PATHS, FloatDType::F64, 3000, false);
}

#[test]
fn cpu_paths_in_f16() {
    engines_agree(&PATHS, FloatDType::F16, 3000, false);
}

#[test]
fn cpu_paths_in_bf16() {
    engines_agree(&[&["cpu-avx512-bf16"][..], &PATHS].concat(), FloatDType::BF16, 3000, false);
}

#[test]
fn cpu_paths_with_gradients_in_f32() {
    engines_agree(&PATHS, FloatDType::F32, 2000, true);
}

#[test]
fn cpu_paths_with_gradients_in_f64() {
    engines_agree(&PATHS, FloatDType::F64, 1000, true);
}

#[test]
fn cpu_paths_with_gradients_in_f16() {
    engines_agree(&PATHS, FloatDType::F16, 1000, true);
}

#[test]
fn cpu_paths_with_gradients_in_bf16() {
    engines_agree(&[&["cpu-avx512-bf16"][..], &PATHS].concat(), FloatDType::BF16, 1000, true);
}

#[test]
fn composite_with_gradients_in_f32() {
    engines_agree(&["composite"], FloatDType::F32, 2000, true);
}

#[test]
fn composite_with_gradients_in_f64() {
    engines_agree(&["composite"], FloatDType::F64, 1000, true);
}

#[test]
fn composite_with_gradients_in_f16() {
    engines_agree(&["composite"], FloatDType::F16, 1000, true);
}

#[test]
fn composite_with_gradients_in_bf16() {
    engines_agree(&["composite"], FloatDType::BF16, 1000, true);
}

#[test]
fn the_default_of_each_backend_with_gradients_in_f32() {
    engines_agree(&["ndarray", "flex", "tch"], FloatDType::F32, 1000, true);
}

/// LibTorch's kernels for narrow types are its own; on the others' tensors the paths above are judged.
#[test]
fn libtorch_in_narrow_types() {
    for dtype in [FloatDType::F16, FloatDType::BF16] {
        engines_agree(&["tch"], dtype, 500, true);
        engines_agree_on(&["tch"], dtype, 1000, false, false);
    }
}

#[test]
fn the_default_of_each_backend_without_the_lse() {
    engines_agree_on(&["ndarray", "flex", "tch"], FloatDType::F32, 1000, false, false);
}

#[test]
fn the_default_of_each_backend_with_gradients_in_f64() {
    engines_agree(&["ndarray", "flex", "tch"], FloatDType::F64, 500, true);
}
