//! The GPU kernels' backward pass over random problems, demanded by name, so that no other can stand in for it.

use attn_core::Polarity;
use attn_testing::generate::{BiasRecipe, BlocksRecipe, MaskRecipe, Recipe, RelativeRecipe, config};
use attn_testing::host::{Ask, Dims};
use attn_testing::run::Target;
use burn::tensor::{DType, Distribution, FloatDType, Tensor};
use proptest::test_runner::TestRunner;

use super::tiles::recipe;
use super::wgpu::{ROWS, alike, demanded, engine};

/// The kernel, both ways; none where there is no adapter, or none of the type.
fn target(dtype: FloatDType) -> Option<Target> {
    let Some(engine) = engine().filter(|engine| engine.has_dtype(dtype)) else {
        println!("skipped: no tensors of {dtype:?}");
        return None;
    };
    let mut target = Target::new(engine.device().expect("it has tensors").clone());
    (target.forward, target.backward) = (Some(ROWS), Some(ROWS));
    Some(target)
}

fn ask(recipe: &Recipe) -> Ask {
    Ask { lse: true, weights: false, gradients: Some(recipe.upstream()) }
}

fn check(target: &Target, recipe: &Recipe, dtype: FloatDType) {
    demanded(recipe, target, &recipe.build(dtype), &ask(recipe)).unwrap_or_else(|error| panic!("{error}\n{recipe:?}"));
}

fn agrees(dtype: FloatDType, cases: u32, dims: &[usize]) {
    let Some(target) = target(dtype) else { return };
    let agree = |recipes: Vec<Recipe>| {
        recipes.into_iter().try_for_each(|mut recipe| {
            let near = |dim: usize| dims[dim % dims.len()];
            (recipe.dims.head_dim, recipe.dims.value_dim) = (near(recipe.dims.head_dim), near(recipe.dims.value_dim));
            recipe.score_mod = false;
            if recipe.dims.scores().contains(&0) {
                return Ok(());
            }
            demanded(&recipe, &target, &recipe.build(dtype), &ask(&recipe))
        })
    };
    TestRunner::new(config(cases)).run(&alike(), agree).unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn in_f32() {
    agrees(FloatDType::F32, 40, &[8]);
}

#[test]
fn in_f32_of_other_dimensions() {
    agrees(FloatDType::F32, 10, &[5, 12, 20]);
}

#[test]
fn in_f16() {
    agrees(FloatDType::F16, 15, &[8]);
}

/// Lengths around the rows of a tile, the keys of a block, and the other way round.
#[test]
fn tails() {
    let Some(target) = target(FloatDType::F32) else { return };
    let lengths = [
        (1, 1),
        (1, 7),
        (2, 9),
        (7, 1),
        (15, 31),
        (31, 15),
        (32, 17),
        (33, 16),
        (63, 64),
        (64, 65),
        (65, 63),
        (7, 129),
        (130, 129),
    ];
    for (query_len, key_len) in lengths {
        for (causal, group) in [(false, 1), (true, 2)] {
            let dims = Dims { batch: 2, heads: 2, kv_heads: 2 / group, query_len, key_len, head_dim: 8, value_dim: 8 };
            let mut recipe = recipe(dims, key_len as u64);
            recipe.spec.causal = causal;
            recipe.grad_lse = true;
            check(&target, &recipe, FloatDType::F32);
        }
    }
}

/// Every way in which a bias can be broadcast, beside what hides.
#[test]
fn biases_of_every_shape() {
    let Some(target) = target(FloatDType::F32) else { return };
    let dims = Dims { batch: 2, heads: 4, kv_heads: 2, query_len: 37, key_len: 70, head_dim: 8, value_dim: 8 };
    for shape in 0..16 {
        let full = [0, 1, 2, 3].map(|axis| shape >> axis & 1 == 1);
        let mut recipe = recipe(dims, shape);
        recipe.bias = Some(BiasRecipe { full, hides: if shape % 2 == 0 { 0.0 } else { 0.2 } });
        recipe.spec.causal = shape % 3 == 0;
        (recipe.kv_lens, recipe.poison) = (true, true);
        check(&target, &recipe, FloatDType::F32);
    }
}

/// Masks by blocks, at lengths around those of blocks, alone and with everything else that hides.
#[test]
fn by_blocks() {
    let Some(target) = target(FloatDType::F32) else { return };
    let lengths = [(1, 64), (63, 65), (64, 200), (65, 1), (130, 129), (200, 300)];
    for (seed, (query_len, key_len)) in lengths.into_iter().enumerate() {
        let dims = Dims { batch: 2, heads: 4, kv_heads: 2, query_len, key_len, head_dim: 8, value_dim: 8 };
        for (shares, all) in [([0.3, 0.3], false), ([0.8, 0.1], true), ([0.0, 0.9], true)] {
            let mut recipe = recipe(dims, seed as u64);
            recipe.blocks = Some(BlocksRecipe { full: [seed % 2 == 0, seed % 3 == 0], shares });
            (recipe.kv_lens, recipe.sinks, recipe.poison, recipe.spec.causal) = (all, all, all, all);
            recipe.spec.window.left = all.then_some(100);
            recipe.bias = all.then_some(BiasRecipe { full: [false, true, false, true], hides: 0.1 });
            check(&target, &recipe, FloatDType::F32);
        }
    }
}

/// Tables by relative position that are shorter and longer than the sequences, of one head and of all, alone and with everything else.
#[test]
fn by_relative_position() {
    let Some(target) = target(FloatDType::F32) else { return };
    for (seed, (query_len, key_len)) in [(1, 1), (1, 300), (7, 9), (65, 63), (130, 129)].into_iter().enumerate() {
        let dims = Dims { batch: 2, heads: 4, kv_heads: 2, query_len, key_len, head_dim: 8, value_dim: 8 };
        for (reach, per_head, all) in
            [(0, true, false), (0, false, true), (1, true, true), (5, false, false), (200, true, true)]
        {
            let mut recipe = recipe(dims, seed as u64);
            recipe.relative = Some(RelativeRecipe { per_head, reach, hides: if all { 0.1 } else { 0.0 } });
            (recipe.kv_lens, recipe.sinks, recipe.spec.causal, recipe.alibi) = (all, all, all, all);
            recipe.poison = all;
            recipe.spec.window.left = all.then_some(100);
            check(&target, &recipe, FloatDType::F32);
        }
    }
}

/// Scores of thousands: rows whose weight is all on one key have no gradient by queries and keys, and what is left of one is exact.
#[test]
fn large_scores() {
    let Some(target) = target(FloatDType::F32) else { return };
    let dims = Dims { batch: 1, heads: 4, kv_heads: 2, query_len: 70, key_len: 90, head_dim: 8, value_dim: 8 };
    for (seed, size) in [(0, 30.0), (1, 60.0), (2, 100.0)] {
        for all in [false, true] {
            let mut recipe = recipe(dims, seed);
            recipe.size = size;
            (recipe.spec.causal, recipe.sinks, recipe.alibi, recipe.grad_lse) = (all, all, all, all);
            recipe.bias = all.then_some(BiasRecipe { full: [false, true, true, true], hides: 0.1 });
            recipe.mask =
                all.then_some(MaskRecipe { full: [true, false, true, true], polarity: Polarity::Hide, density: 0.2 });
            check(&target, &recipe, FloatDType::F32);
        }
    }
}

/// Equal scores of thousands, whose LSE f32 holds to 10⁻⁴: weights are equal all the same.
#[test]
fn large_scores_are_weighed_exactly() {
    let Some(target) = target(FloatDType::F32) else { return };
    let device = target.device.autodiff();
    let rows = |len: usize| Tensor::<4>::full([1, 1, len, 8], 30.0, &device);
    let value = Tensor::<4>::zeros([1, 1, 10, 8], &device).require_grad();
    let attention = attn::Attention::new(rows(5), rows(10), value.clone()).backward_kernel(ROWS);
    let gradients = attention.forward().expect("a plain problem").out.sum().backward();
    for found in value.grad(&gradients).expect("it is tracked").into_data().iter::<f32>() {
        assert!((found - 0.5).abs() < 1e-6, "five rows give a tenth each, and not {found}");
    }
}

/// Dimensions wider than a launch's columns.
#[test]
fn wide_rows() {
    let Some(target) = target(FloatDType::F32) else { return };
    for (head_dim, value_dim) in [(8, 140), (140, 8)] {
        let dims = Dims { batch: 1, heads: 2, kv_heads: 1, query_len: 9, key_len: 11, head_dim, value_dim };
        check(&target, &recipe(dims, 1), FloatDType::F32);
    }
}

/// The same bits from the same call, of all gradients.
#[test]
fn two_runs_give_the_same_bits() {
    let Some(target) = target(FloatDType::F32) else { return };
    let device = target.device.clone().autodiff();
    let make = |shape: [usize; 4]| Tensor::<4>::random(shape, Distribution::Default, &device).require_grad();
    let (query, key, value) = (make([2, 4, 100, 16]), make([2, 2, 150, 16]), make([2, 2, 150, 16]));
    let bias = make([1, 4, 1, 150]);
    let slopes = Tensor::<1>::random([4], Distribution::Default, &device).require_grad();
    let sinks = Tensor::<1>::random([4], Distribution::Default, &device).require_grad();
    let run = || {
        let attention = attn::Attention::new(query.clone(), key.clone(), value.clone())
            .causal(true)
            .bias(bias.clone())
            .alibi_slopes(slopes.clone())
            .sinks(sinks.clone())
            .backward_kernel(ROWS);
        let out = attention.forward().expect("a plain problem").out;
        let gradients = (out.clone() * out).sum().backward();
        let four = [&query, &key, &value, &bias].map(|x| x.grad(&gradients).expect("it is tracked").into_data());
        let one = [&slopes, &sinks].map(|x| x.grad(&gradients).expect("it is tracked").into_data());
        (four, one)
    };
    assert_eq!(run(), run());
}

/// It is what serves where nothing is demanded, whichever kernel went forward.
#[test]
fn it_is_the_first_choice() {
    let Some(target) = target(FloatDType::F32) else { return };
    for (dtype, query_len) in [(FloatDType::F32, 1), (FloatDType::F32, 70), (FloatDType::F16, 70)] {
        if engine().is_some_and(|engine| engine.has_dtype(dtype)) {
            let make = |length| Tensor::<4>::zeros([1, 2, length, 64], (&target.device, DType::from(dtype)));
            let plan = attn::Attention::new(make(query_len), make(70), make(70)).plan().expect("a plain problem");
            assert_eq!(plan.backward.kernel, ROWS, "{plan}");
        }
    }
}
