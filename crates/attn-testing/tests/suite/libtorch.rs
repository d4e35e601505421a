//! LibTorch's fused kernels, demanded by name on random problems that they serve: among all problems those are few.

use attn::{Attention, Selection};
use attn_testing::bound;
use attn_testing::engine::{Engine, refer};
use attn_testing::generate::{Recipe, config, recipes};
use attn_testing::host::Ask;
use attn_testing::run::{Target, answer};
use burn::tensor::{FloatDType, Tensor};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use crate::random::check;

const KERNEL: &str = "libtorch";

fn engine() -> Engine {
    Engine::named("tch").expect("it is built in")
}

fn target() -> Target {
    Target::new(engine().device().expect("it has tensors").clone())
}

/// The same problem without what LibTorch has no fused kernel for.
fn served(mut recipe: Recipe) -> Recipe {
    let dims = &mut recipe.dims;
    for axis in [&mut dims.batch, &mut dims.query_len, &mut dims.key_len] {
        *axis = (*axis).max(1);
    }
    if dims.heads == 0 {
        (dims.heads, dims.kv_heads) = (2, 1);
    }
    dims.value_dim = dims.head_dim;
    recipe.spec.softcap = None;
    recipe.spec.dropout = None;
    recipe.spec.window.left = None;
    recipe.alibi = false;
    recipe.blocks = None;
    recipe.relative = None;
    recipe.score_mod = false;
    if recipe.mask.is_some() {
        recipe.bias = None;
    }
    recipe
}

/// Every served problem is answered rightly by the kernel demanded.
fn agrees(dtype: FloatDType, cases: u32, gradients: bool) {
    let agree = |recipe: Recipe| {
        let mut recipe = served(recipe);
        if gradients {
            recipe.bias = None;
        }
        let problem = recipe.build(dtype);
        let ask =
            Ask { lse: recipe.seed.is_multiple_of(2), weights: false, gradients: gradients.then(|| recipe.upstream()) };
        let mut target = target();
        target.forward = Some(KERNEL);
        target.backward = gradients.then_some(KERNEL);
        let expected = refer(&problem, &ask).map_err(TestCaseError::fail)?;
        let found = answer(&target, &problem, &ask, recipe.layouts).map_err(TestCaseError::fail)?;
        // What has spread is computed again by the kernels for CPUs.
        let bounds = bound::bounds_with(&problem, &ask, engine().products(dtype));
        check(&format!("{KERNEL} in {dtype:?}"), &expected, &found, &bounds)
    };
    TestRunner::new(config(cases)).run(&recipes(), agree).unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn forward_in_every_type() {
    agrees(FloatDType::F32, 3000, false);
    agrees(FloatDType::F64, 1000, false);
    agrees(FloatDType::F16, 500, false);
    agrees(FloatDType::BF16, 500, false);
}

#[test]
fn backward_in_every_type() {
    agrees(FloatDType::F32, 1500, true);
    agrees(FloatDType::F64, 500, true);
    agrees(FloatDType::F16, 300, true);
    agrees(FloatDType::BF16, 300, true);
}

/// Around the tiles of LibTorch's CPU kernel: 32, 64 and 256 queries by 512 keys.
#[test]
fn around_the_tiles() {
    let base = Recipe {
        dims: attn_testing::host::Dims {
            batch: 1,
            heads: 2,
            kv_heads: 1,
            query_len: 1,
            key_len: 1,
            head_dim: 8,
            value_dim: 8,
        },
        spec: attn::AttentionSpec::new().with_causal(true),
        mask: None,
        bias: None,
        alibi: false,
        sinks: true,
        kv_lens: false,
        blocks: None,
        relative: None,
        score_mod: false,
        poison: true,
        grad_lse: false,
        size: 1.0,
        layouts: Default::default(),
        seed: 3,
    };
    for query_len in [31, 33, 63, 65, 191, 193, 769] {
        for key_len in [query_len - 1, query_len, 511, 513] {
            let mut recipe = base;
            (recipe.dims.query_len, recipe.dims.key_len) = (query_len, key_len);
            let problem = recipe.build(FloatDType::F32);
            let ask = Ask { lse: true, weights: false, gradients: Some(recipe.upstream()) };
            let target = Target { forward: Some(KERNEL), backward: Some(KERNEL), ..target() };
            let expected = refer(&problem, &ask).expect("a valid problem");
            let found = answer(&target, &problem, &ask, recipe.layouts).expect("it is served");
            let who = format!("{query_len} queries, {key_len} keys");
            check(&who, &expected, &found, &bound::bounds(&problem, &ask)).expect("within its bounds");
        }
    }
}

/// Left padding under causality: the rows before a sequence's first key see nothing.
#[test]
fn rows_before_the_first_key_are_blind() {
    let device = target().device;
    let one = || Tensor::<4>::random([2, 2, 5, 4], burn::tensor::Distribution::Default, &device);
    let keep = [[false, false, false, true, true], [true; 5]];
    let mask = Tensor::<2, burn::tensor::Bool>::from_data(keep, &device).reshape([2, 1, 1, 5]);
    let attention = Attention::new(one(), one(), one()).causal(true).mask(attn::Mask::keep(mask)).kernel(KERNEL);
    let output = attention.with_lse().forward().expect("it is served");
    let lse = output.lse.expect("it was asked for").into_data().try_to_vec::<f32>().expect("f32");
    let blind: Vec<bool> = lse.iter().map(|lse| *lse == f32::NEG_INFINITY).collect();
    let first = [true, true, true, false, false];
    assert_eq!(blind, [first, first, [false; 5], [false; 5]].concat());
    let out = output.out.into_data().try_to_vec::<f32>().expect("f32");
    assert!(out[..3 * 4].iter().all(|x| *x == 0.0) && out[3 * 4..5 * 4].iter().any(|x| *x != 0.0));
}

/// What is not served is refused when demanded, and planned for the kernels for CPUs with its reason otherwise.
#[test]
fn plans_say_what_is_not_served() {
    let device = target().device;
    let tensor = |dim| Tensor::<4>::zeros([1, 2, 3, dim], &device);
    let plain = || Attention::new(tensor(4), tensor(4), tensor(4));
    assert_eq!(plain().plan().expect("valid").forward.kernel, KERNEL);
    assert_eq!(plain().plan().expect("valid").backward.kernel, KERNEL);
    let others = [
        (plain().softcap(3.0), "softcap"),
        (plain().causal(true).window(Some(1), None), "window"),
        (plain().alibi_slopes(Tensor::<1>::ones([2], &device)), "ALiBi"),
        (Attention::new(tensor(4), tensor(4), tensor(5)), "head dimension"),
    ];
    for (attention, reason) in others {
        let plan = attention.plan().expect("valid").forward;
        assert!(plan.kernel == "cpu" && plan.reason.contains(reason), "{plan}");
        let error = attention.with_weights(Selection::all()).kernel(KERNEL).forward().expect_err("demanded");
        assert!(error.to_string().contains(reason), "{error}");
    }
    let biased = plain().bias(Tensor::zeros([1, 1, 3, 3], &device)).plan().expect("valid");
    assert_eq!((biased.forward.kernel, biased.backward.kernel), (KERNEL, "cpu"));
}

/// The same on a card, where there is one.
#[test]
fn on_cuda() {
    let Ok(device) = attn::device("tch-cuda") else {
        println!("skipped: LibTorch has no CUDA device here");
        return;
    };
    let agree = |recipe: Recipe| {
        let problem = recipe.build(FloatDType::F32);
        let ask = Ask { lse: recipe.seed.is_multiple_of(2), weights: false, gradients: Some(recipe.upstream()) };
        let expected = refer(&problem, &ask).map_err(TestCaseError::fail)?;
        let target = Target::new(device.clone());
        let found = answer(&target, &problem, &ask, recipe.layouts).map_err(TestCaseError::fail)?;
        check("cuda", &expected, &found, &bound::bounds(&problem, &ask))
    };
    let served_too = (recipes(), any::<bool>()).prop_map(|(recipe, only)| if only { served(recipe) } else { recipe });
    TestRunner::new(config(500)).run(&served_too, agree).unwrap_or_else(|error| panic!("{error}"));
}
