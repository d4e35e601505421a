//! What follows from the contract, checked between two runs of one engine: the bounds of both runs' rounding are allowed between
//! them, see [`attn_testing::bound`].

use std::sync::Arc;

use attn::{Attention, AttentionOutput, Pair, ScoreMod, Selection};
use attn_core::reference::{Broadcast, HostInputs};
use attn_core::{Alignment, AttentionSpec, BlockMask, Dropout, Polarity};
use attn_testing::bound;
use attn_testing::compare::{Tolerance, compare};
use attn_testing::engine::Engine;
use attn_testing::generate::{Recipe, RelativeRecipe, config, recipes};
use attn_testing::host::{Answer, Ask, Dims, HostProblem, broadcast, position_in};
use attn_testing::run::{self, Layout};
use burn::tensor::{FloatDType, Tensor};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

/// Forward only, with LSE and weights.
fn ask() -> Ask {
    Ask { lse: true, weights: true, gradients: None }
}

/// Holds a law on every engine with f64 tensors, over random problems.
fn law(law: impl Fn(&Engine, &HostProblem) -> Result<(), TestCaseError>, simplify: impl Fn(&mut Recipe)) {
    let engines: Vec<Engine> = Engine::available()
        .into_iter()
        .filter(|engine| {
            engine.has_dtype(FloatDType::F64) && ["ndarray", "flex", "tch", "composite"].contains(&engine.name())
        })
        .collect();
    let holds = |mut recipe: Recipe| {
        simplify(&mut recipe);
        let problem = recipe.build(FloatDType::F64);
        engines.iter().try_for_each(|engine| law(engine, &problem))
    };
    TestRunner::new(config(500)).run(&recipes(), holds).unwrap_or_else(|error| panic!("{error}"));
}

fn solve(engine: &Engine, problem: &HostProblem) -> Result<Answer, TestCaseError> {
    engine.answer(problem, &ask()).map_err(|reason| TestCaseError::fail(format!("{}: {reason}", engine.name())))
}

/// Both answers within the bounds of both problems.
fn same(
    names: &[&str],
    (a, a_problem): (&Answer, &HostProblem),
    (b, b_problem): (&Answer, &HostProblem),
) -> Result<(), TestCaseError> {
    let (a_bounds, b_bounds) = (bound::bounds(a_problem, &ask()), bound::bounds(b_problem, &ask()));
    for name in names {
        let all = [a, b, &a_bounds, &b_bounds].map(|answer| answer.get(name).expect("asked for"));
        let [a, b, a_bounds, b_bounds] = all;
        prop_assert_eq!(a_bounds.len(), b_bounds.len());
        let bounds: Vec<f64> = a_bounds.iter().zip(b_bounds).map(|(a, b)| a + b).collect();
        let worst = compare(a, b, Tolerance::Each(&bounds)).map_err(TestCaseError::fail)?;
        prop_assert!(worst.passes(), "{name}: {worst:?}");
    }
    Ok(())
}

/// A tensor `[B, G, Sk, X]` with its keys chosen.
fn choose(data: &[f64], key_len: usize, dim: usize, keys: &[usize]) -> Vec<f64> {
    let heads = data.len().checked_div(key_len * dim).unwrap_or(0);
    let rows = (0..heads).flat_map(|head| keys.iter().map(move |key| head * key_len + key));
    rows.flat_map(|row| &data[row * dim..(row + 1) * dim]).copied().collect()
}

/// A tensor that broadcasts to the scores, with its keys chosen.
fn choose_last<T: Copy>(tensor: &Broadcast<T>, keys: &[usize]) -> Broadcast<T> {
    if tensor.shape[3] == 1 {
        return tensor.clone();
    }
    let [a, b, c, _] = tensor.shape;
    broadcast([a, b, c, keys.len()], |[a, b, c, d]| tensor.data[position_in(tensor.shape, [a, b, c, keys[d]])])
}

/// The same problem over some of its keys, in their order.
fn with_keys(problem: &HostProblem, keys: &[usize]) -> HostProblem {
    let (dims, inputs) = (problem.dims, &problem.inputs);
    let mut chosen = problem.clone();
    chosen.dims.key_len = keys.len();
    chosen.block_mask = problem.block_mask.as_ref().map(|mask| {
        let [b, h, q, _] = mask.shape();
        let chosen = BlockMask::from_fn([b, h, q, keys.len()], |b, h, q, k| mask.sees(b, h, q, keys[k]));
        Arc::new(chosen.expect("it fits in memory"))
    });
    chosen.inputs = HostInputs {
        key: choose(&inputs.key, dims.key_len, dims.head_dim, keys),
        value: choose(&inputs.value, dims.key_len, dims.value_dim, keys),
        mask: inputs.mask.as_ref().map(|(mask, polarity)| (choose_last(mask, keys), *polarity)),
        bias: inputs.bias.as_ref().map(|bias| choose_last(bias, keys)),
        ..inputs.clone()
    };
    chosen
}

#[test]
fn permuting_the_keys_permutes_nothing_but_the_weights() {
    let turned = |engine: &Engine, problem: &HostProblem| {
        let key_len = problem.dims.key_len;
        // 7 and the length share no factor, or the keys are turned around.
        let order: Vec<usize> = match key_len % 7 {
            0 => (0..key_len).rev().collect(),
            _ => (0..key_len).map(|key| key * 7 % key_len).collect(),
        };
        let permuted = with_keys(problem, &order);
        let (a, b) = (solve(engine, problem)?, solve(engine, &permuted)?);
        same(&["out", "lse"], (&a, problem), (&b, &permuted))?;
        let weights = a.weights.as_deref().expect("asked for").chunks(key_len.max(1));
        let chosen: Vec<f64> = weights.flat_map(|row| order.iter().map(|key| row[*key])).collect();
        let a = Answer { weights: Some(chosen), ..a };
        same(&["weights"], (&a, &permuted), (&b, &permuted))
    };
    law(turned, |recipe| {
        // Nothing that knows a key's place.
        recipe.spec = AttentionSpec { scale: recipe.spec.scale, softcap: recipe.spec.softcap, ..Default::default() };
        (recipe.alibi, recipe.relative, recipe.kv_lens, recipe.score_mod) = (false, None, false, false);
    });
}

#[test]
fn splitting_the_keys_and_merging_by_lse_gives_the_whole() {
    let split = |engine: &Engine, problem: &HostProblem| {
        let (key_len, offset) = (problem.dims.key_len, problem.offset(0));
        let Ok(offset) = i64::try_from(offset) else { return Ok(()) };
        let at = key_len / 3;
        let mut parts = [(0..at).collect::<Vec<_>>(), (at..key_len).collect()].map(|keys| with_keys(problem, &keys));
        parts[0].spec.alignment = Alignment::Offset(offset);
        parts[1].spec.alignment = Alignment::Offset(offset.saturating_sub(at as i64));
        parts[1].inputs.sinks = None;
        let [a, b] = [solve(engine, &parts[0])?, solve(engine, &parts[1])?];
        let merged = merge(engine, problem, &a, &b)?;
        let whole = solve(engine, problem)?;
        // What merging rounds is within what the parts' own bounds leave.
        same(&["out", "lse"], (&whole, problem), (&merged, problem))
    };
    law(split, |recipe| {
        // Lengths differ from one batch entry to the next, and one number aligns a part; dropout counts its own keys.
        (recipe.kv_lens, recipe.score_mod, recipe.spec.dropout) = (false, false, None);
    });
}

fn merge(engine: &Engine, problem: &HostProblem, a: &Answer, b: &Answer) -> Result<Answer, TestCaseError> {
    let (device, dims) = (engine.device().expect("it has tensors"), problem.dims);
    let output = |answer: &Answer| AttentionOutput {
        out: run::float(device, problem.dtype, &answer.out, dims.out(), Layout::Contiguous),
        lse: answer.lse.as_ref().map(|lse| {
            let [b, h, s] = dims.rows();
            run::float(device, problem.dtype, lse, [b, h, s, 1], Layout::Contiguous).reshape([b, h, s])
        }),
        weights: None,
    };
    let merged = attn::merge(output(a), output(b)).map_err(|error| TestCaseError::fail(error.to_string()))?;
    let host = |tensor: burn::tensor::TensorData| tensor.iter::<f64>().collect::<Vec<f64>>();
    let lse: Option<Tensor<3>> = merged.lse;
    Ok(Answer {
        out: host(merged.out.into_data()),
        lse: lse.map(|lse| host(lse.into_data())),
        weights: None,
        gradients: None,
    })
}

/// Every pair's fate as a mask of full shape.
fn full_mask(problem: &HostProblem) -> Broadcast<bool> {
    broadcast(problem.dims.scores(), |index| problem.sees(index))
}

#[test]
fn a_mask_and_its_bias_of_minus_infinity_agree() {
    let twin = |engine: &Engine, problem: &HostProblem| {
        let Some((mask, polarity)) = problem.inputs.mask.clone() else { return Ok(()) };
        let mut twin = problem.clone();
        twin.inputs.mask = None;
        twin.inputs.bias = Some(broadcast(problem.dims.scores(), |index| {
            let seen = mask.data[position_in(mask.shape, index)] == (polarity == Polarity::Keep);
            let bias = problem.inputs.bias.as_ref().map_or(0.0, |bias| bias.data[position_in(bias.shape, index)]);
            if seen { bias } else { f64::NEG_INFINITY }
        }));
        let (a, b) = (solve(engine, problem)?, solve(engine, &twin)?);
        same(&["out", "lse", "weights"], (&a, problem), (&b, &twin))
    };
    law(twin, |_| ());
}

#[test]
fn a_bias_by_relative_position_is_a_bias() {
    let twin = |engine: &Engine, problem: &HostProblem| {
        let mut twin = problem.clone();
        twin.inputs.relative_bias = None;
        twin.inputs.bias = Some(broadcast(problem.dims.scores(), |index| problem.relative_bias(index).unwrap_or(0.0)));
        let (a, b) = (solve(engine, problem)?, solve(engine, &twin)?);
        same(&["out", "lse", "weights"], (&a, problem), (&b, &twin))
    };
    law(twin, |recipe| {
        // One of them, so that nothing is rounded.
        recipe.bias = None;
        recipe.relative.get_or_insert(RelativeRecipe { per_head: recipe.seed.is_multiple_of(2), reach: 5, hides: 0.1 });
    });
}

/// Engines that answer on tensors of a backend.
fn with_tensors() -> Vec<Engine> {
    let mut engines = Engine::available();
    engines.retain(|engine| engine.device().is_some() && engine.has_dtype(FloatDType::F32));
    engines
}

/// A softcap and ALiBi written as a function of the scores, gradients included.
#[test]
fn options_written_as_a_function_of_the_scores_are_the_options() {
    const CAP: f64 = 3.0;
    const SLOPE: f64 = 0.2;
    for engine in with_tensors().iter() {
        let device = engine.device().expect("it has tensors").clone().autodiff();
        let tensor = |length, seed| {
            let data = Recipe { dims: Dims { query_len: length, ..one_hot().dims }, seed, size: 1.0, ..one_hot() }
                .build(FloatDType::F32);
            run::float(&device, FloatDType::F32, &data.inputs.query, data.dims.query(), Layout::Contiguous)
                .require_grad()
        };
        let [q, k, v] = [tensor(37, 1), tensor(70, 2), tensor(70, 3)];
        let heads = q.dims()[1];
        let plain = || Attention::new(q.clone(), k.clone(), v.clone()).causal(true).scale(1.5).with_lse();
        let capped = |score: f64| CAP * (score / CAP).tanh();
        let far = |pair: Pair| pair.position.abs_diff(pair.key as i64) as f64;
        let function = ScoreMod::new(move |score, pair| capped(score) - SLOPE * far(pair))
            .with_slope(move |score, _| 1.0 - (score / CAP).tanh().powi(2));
        let slopes = Tensor::<1>::full([heads], SLOPE, &device);
        let [a, b] = [plain().softcap(CAP).alibi_slopes(slopes), plain().score_mod(function)].map(|attention| {
            let output = attention.with_weights(Selection::all()).forward().expect("it is valid");
            let lse = output.lse.expect("asked for");
            let weights = output.weights.expect("asked for");
            let loss = (output.out.clone() * output.out.clone()).sum() + lse.sum() + (weights.clone() * weights).sum();
            let gradients = loss.backward();
            let by = |tensor: &Tensor<4>| tensor.grad(&gradients).expect("it is tracked");
            [output.out.inner(), by(&q), by(&k), by(&v)]
        });
        for (name, (a, b)) in ["out", "dq", "dk", "dv"].iter().zip(a.into_iter().zip(b)) {
            let worst = (a - b).abs().max().into_scalar::<f32>();
            assert!(worst < 2e-5, "{}: {name}: {worst}", engine.name());
        }
    }
}

#[test]
fn a_function_without_its_slope_is_not_differentiated() {
    for engine in with_tensors().iter() {
        let device = engine.device().expect("it has tensors");
        let x = Tensor::<4>::ones([1, 2, 3, 8], device);
        let attention =
            |x: Tensor<4>| Attention::new(x.clone(), x.clone(), x).score_mod(ScoreMod::new(|score, _| 2.0 * score));
        assert!(attention(x.clone()).forward().is_ok());
        let tracked = attention(Tensor::<4>::ones([1, 2, 3, 8], &device.clone().autodiff()).require_grad());
        for error in [tracked.clone().forward().map(|_| ()), tracked.scores(Selection::all()).map(|_| ())] {
            let error = error.expect_err("there is no slope");
            assert_eq!(error.argument(), Some("score_mod"), "{}: {error}", engine.name());
        }
    }
}

#[test]
fn causal_windows_lengths_and_blocks_are_masks() {
    let twin = |engine: &Engine, problem: &HostProblem| {
        let mut twin = problem.clone();
        twin.inputs.mask = Some((full_mask(problem), Polarity::Keep));
        let AttentionSpec { scale, softcap, dropout, .. } = problem.spec;
        twin.spec = AttentionSpec { scale, softcap, dropout, ..Default::default() };
        (twin.kv_lens, twin.block_mask) = (None, None);
        let (a, b) = (solve(engine, problem)?, solve(engine, &twin)?);
        same(&["out", "lse", "weights"], (&a, problem), (&b, &twin))
    };
    law(twin, |recipe| (recipe.alibi, recipe.relative, recipe.score_mod) = (false, None, false));
}

#[test]
fn grouped_heads_are_repeated_heads() {
    let repeated = |engine: &Engine, problem: &HostProblem| {
        let dims = problem.dims;
        let mut repeated = problem.clone();
        repeated.dims.kv_heads = dims.heads;
        let repeat = |data: &[f64], len: usize| -> Vec<f64> {
            let heads = (0..dims.batch * dims.heads)
                .map(|at| at / dims.heads * dims.kv_heads + problem.kv_head(at % dims.heads));
            heads.flat_map(|head| &data[head * len..(head + 1) * len]).copied().collect()
        };
        repeated.inputs.key = repeat(&problem.inputs.key, dims.key_len * dims.head_dim);
        repeated.inputs.value = repeat(&problem.inputs.value, dims.key_len * dims.value_dim);
        let (a, b) = (solve(engine, problem)?, solve(engine, &repeated)?);
        same(&["out", "lse", "weights"], (&a, problem), (&b, &repeated))
    };
    law(repeated, |recipe| recipe.dims.batch = recipe.dims.batch.max(1));
}

#[test]
fn weights_that_are_not_dropped_are_the_output_of_identity_values() {
    let identity = |engine: &Engine, problem: &HostProblem| {
        let dims = problem.dims;
        let mut identity = problem.clone();
        identity.dims.value_dim = dims.key_len;
        let heads = dims.batch * dims.kv_heads;
        let unit = |at: usize| if at / dims.key_len % dims.key_len == at % dims.key_len { 1.0 } else { 0.0 };
        identity.inputs.value = (0..heads * dims.key_len * dims.key_len).map(unit).collect();
        let (a, b) = (solve(engine, problem)?, solve(engine, &identity)?);
        // Where a weight is dropped, exactly 0; elsewhere scaled by one factor.
        let dropout = problem.spec.dropout.unwrap_or(Dropout::new(0.0, 0));
        let (mut a, mut b) = (a, Answer { weights: Some(b.out.clone()), ..b });
        let [_, h, q, k] = dims.scores();
        let (a_weights, b_weights) = (a.weights.as_mut().expect("asked for"), b.weights.as_mut().expect("asked for"));
        for (at, (a, b)) in a_weights.iter_mut().zip(b_weights).enumerate() {
            if dropout.keeps([at / (h * q * k), at / (q * k) % h, at / k % q, at % k]) {
                *b *= 1.0 - dropout.probability;
            } else {
                prop_assert_eq!(*b, 0.0);
                *a = 0.0;
            }
        }
        same(&["weights"], (&a, problem), (&b, problem))
    };
    law(identity, |_| ());
}

/// Where one key takes all weight, the scores' gradients vanish exactly, however large the keys.
#[test]
fn a_row_of_one_key_has_no_gradient_by_its_score() {
    for engine in Engine::available().iter().filter(|engine| engine.has_dtype(FloatDType::F32)) {
        let recipe = one_hot();
        let problem = recipe.build(FloatDType::F32);
        let gradients = Some(recipe.upstream());
        let answer = engine.answer(&problem, &Ask { gradients, ..ask() }).expect("it answers");
        let weights = answer.weights.as_deref().expect("asked for");
        for (row, weights) in weights.chunks(problem.dims.key_len).enumerate() {
            if weights.iter().all(|weight| *weight == 0.0 || *weight == 1.0) {
                let dq = &answer.get("dq").expect("asked for")[row * problem.dims.head_dim..][..problem.dims.head_dim];
                assert!(dq.iter().all(|dq| dq.abs() < 1e-9), "{}: row {row}: {dq:?}", engine.name());
            }
        }
        let hot = weights.iter().filter(|weight| **weight == 1.0).count();
        assert!(hot > 10, "{}: {hot} rows have one key", engine.name());
    }
}

/// Scores of some hundreds and thousands, no options.
fn one_hot() -> Recipe {
    let dims = Dims { batch: 1, heads: 2, kv_heads: 2, query_len: 40, key_len: 50, head_dim: 64, value_dim: 64 };
    Recipe {
        dims,
        spec: AttentionSpec::default(),
        mask: None,
        bias: None,
        alibi: false,
        sinks: false,
        kv_lens: false,
        blocks: None,
        relative: None,
        score_mod: false,
        poison: false,
        grad_lse: false,
        size: 30.0,
        layouts: Default::default(),
        seed: 1,
    }
}

/// The same bits from one thread and from five.
#[test]
fn the_number_of_threads_changes_nothing() {
    let pool = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads start");
    let (one, five) = (pool(1), pool(5));
    let engines: Vec<Engine> =
        Engine::available().into_iter().filter(|engine| engine.name().starts_with("cpu-")).collect();
    let equal = |recipe: Recipe| {
        let problem = recipe.build(FloatDType::F32);
        engines.iter().try_for_each(|engine| {
            let [a, b] = [&one, &five]
                .map(|pool| pool.install(|| engine.answer(&problem, &Ask { lse: true, ..Ask::default() })));
            prop_assert_eq!(a.map_err(TestCaseError::fail)?, b.map_err(TestCaseError::fail)?);
            Ok(())
        })
    };
    TestRunner::new(config(500)).run(&recipes(), equal).unwrap_or_else(|error| panic!("{error}"));
}
