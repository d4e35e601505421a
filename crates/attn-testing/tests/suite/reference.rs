//! The reference, which judges the kernels, is itself judged: by central differences, and by a second writing of the contract.

use attn_core::Alignment;
use attn_core::reference::{self, HostInputs};
use attn_testing::bound;
use attn_testing::engine::refer;
use attn_testing::generate::{Recipe, config, recipes};
use attn_testing::host::{Answer, Ask, HostProblem, HostUpstream};
use burn::tensor::FloatDType;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

/// Step of the central differences: their error is about `h²·f‴ + 1e-16·|loss|/h`, both near 1e-9 at losses around 100.
const STEP: f64 = 1e-5;

fn ask(recipe: &Recipe) -> Ask {
    Ask { lse: true, weights: true, gradients: Some(recipe.upstream()) }
}

/// `Σ out·grad_out + Σ lse·grad_lse`, over rows that have an LSE.
fn loss(problem: &HostProblem, inputs: &HostInputs, upstream: &HostUpstream) -> f64 {
    let problem = problem.problem().expect("generated problems are valid");
    let outputs = reference::forward(&problem, inputs).expect("generated data fits");
    let by_out: f64 = outputs.out.iter().zip(&upstream.grad_out).map(|(out, grad)| out * grad).sum();
    let rows = outputs.lse.iter().zip(upstream.grad_lse.iter().flatten());
    by_out + rows.filter(|(lse, _)| lse.is_finite()).map(|(lse, grad)| lse * grad).sum::<f64>()
}

/// A list of numbers among the inputs, by its gradient's name.
fn numbers<'a>(inputs: &'a mut HostInputs, name: &str) -> Option<&'a mut Vec<f64>> {
    match name {
        "dq" => Some(&mut inputs.query),
        "dk" => Some(&mut inputs.key),
        "dv" => Some(&mut inputs.value),
        "dbias" => inputs.bias.as_mut().map(|bias| &mut bias.data),
        "dalibi_slopes" => inputs.alibi_slopes.as_mut(),
        "drelative_bias" => inputs.relative_bias.as_mut().map(|table| &mut table.data),
        "dsinks" => inputs.sinks.as_mut(),
        _ => None,
    }
}

/// Compares some elements of every gradient with central differences.
fn check_gradients(recipe: &Recipe) -> Result<(), TestCaseError> {
    let problem = recipe.build(FloatDType::F64);
    let ask = ask(recipe);
    let upstream = ask.gradients.clone().expect("asked for");
    let answer = refer(&problem, &ask).map_err(TestCaseError::fail)?;
    for name in Answer::NAMES.iter().filter(|name| name.starts_with('d')) {
        let mut inputs = problem.inputs.clone();
        let Some(len) = numbers(&mut inputs, name).map(|numbers| numbers.len()) else { continue };
        let gradient = answer.get(name).expect("every gradient was asked for");
        prop_assert_eq!(gradient.len(), len);
        for at in (0..len).step_by(len.div_ceil(5).max(1)) {
            let Some(numeric) = difference(&problem, &upstream, name, at) else { continue };
            let error = (numeric - gradient[at]).abs();
            prop_assert!(error <= 1e-6 * (1.0 + numeric.abs()), "{name}[{at}]: {} by formula, {numeric}", gradient[at]);
        }
    }
    Ok(())
}

/// The central difference by one number; none where it is `−inf` or poisoned.
fn difference(problem: &HostProblem, upstream: &HostUpstream, name: &str, at: usize) -> Option<f64> {
    let value = numbers(&mut problem.inputs.clone(), name)?[at];
    if !value.is_finite() {
        return None;
    }
    let at_step = |step: f64| {
        let mut inputs = problem.inputs.clone();
        if let Some(numbers) = numbers(&mut inputs, name) {
            numbers[at] = value + step;
        }
        loss(problem, &inputs, upstream)
    };
    Some((at_step(STEP) - at_step(-STEP)) / (2.0 * STEP))
}

/// Small problems, whose loss and third derivatives stay small too.
fn small() -> impl Strategy<Value = Recipe> {
    recipes().prop_map(|mut recipe| {
        let dims = &mut recipe.dims;
        dims.batch = dims.batch.min(2);
        (dims.query_len, dims.key_len) = (dims.query_len % 9, dims.key_len % 11);
        (dims.head_dim, dims.value_dim) = (dims.head_dim.min(8), dims.value_dim.min(8));
        recipe.size = recipe.size.min(1.0);
        if let Alignment::Offset(offset) = &mut recipe.spec.alignment
            && recipe.alibi
        {
            // ALiBi's third derivative grows with the distance's third power.
            *offset = (*offset).clamp(-20, 20);
        }
        recipe
    })
}

#[test]
fn gradients_are_central_differences() {
    TestRunner::new(config(3000)).run(&small(), |recipe| check_gradients(&recipe)).expect("gradients agree");
}

/// Relative to the bound of f64 rounding, which both writings share.
#[test]
fn a_second_writing_of_the_contract_agrees() {
    let agrees = |recipe: Recipe| {
        let problem = recipe.build(FloatDType::F64);
        let ask = ask(&recipe);
        let expected = refer(&problem, &ask).map_err(TestCaseError::fail)?;
        let (found, bounds) = bound::evaluate(&problem, &ask);
        super::random::check("second writing", &expected, &found, &bounds)
    };
    TestRunner::new(config(2000)).run(&recipes(), agrees).expect("both writings agree");
}
