//! The GPU kernels over random problems, demanded by name, so that no other can stand in for it.
//!
//! A software driver compiles each variant of the kernel for a second or more, so options are drawn fewer times than a CPU's, dimensions
//! from a few, and each draw of options meets several draws of lengths and numbers.

use attn::Attention;
use attn_testing::bound::{self, Products};
use attn_testing::engine::{Engine, refer};
use attn_testing::generate::{BlocksRecipe, Recipe, RelativeRecipe, config, recipes};
use attn_testing::host::{Ask, Dims, HostProblem};
use attn_testing::panics;
use attn_testing::run::{self, Target};
use burn::tensor::{DType, Distribution, FloatDType, Tensor};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::random::check;

/// Every unit has rows of its own.
pub const ROWS: &str = "cube";
/// Units share the dimensions of a few rows.
const DECODE: &str = "cube-decode";
/// The most rows of it.
const FEW: usize = 8;
/// A few rows are multiplied as matrices in registers.
const DECODE_MMA: &str = "cube-decode-mma";
/// Matrix units multiply.
const MATRIX: &str = "cube-matrix";
/// Matrices are multiplied in registers.
const MMA: &str = "cube-mma";
/// Groups of planes multiply matrices in shared memory.
const WGMMA: &str = "cube-wgmma";
/// What sends the tests to another GPU backend of the build than its first.
const BACKEND: &str = "ATTN_TEST_GPU";

/// The GPU backend: wgpu where the build has it, else CUDA; or the one that is asked for.
pub fn engine() -> Option<Engine> {
    let first = if cfg!(feature = "wgpu") { "wgpu" } else { "cuda" };
    let name = std::env::var(BACKEND).unwrap_or_else(|_| first.to_string());
    let engine = Engine::named(&name).ok();
    if engine.is_none() {
        println!("skipped: there is no adapter");
    }
    engine
}

/// How many problems share their options, and so the variant of the kernel.
const ALIKE: usize = 10;

/// Problems of the same options, layouts, batch and heads: sizes of scores and numbers are drawn for each, and lengths near the first's, since
/// far ones are cut in other ways.
pub fn alike() -> impl Strategy<Value = Vec<Recipe>> {
    (recipes(), proptest::collection::vec(recipes(), ALIKE - 1)).prop_map(|(first, others)| {
        let near = |length: usize, other: usize| match length {
            0..=20 => other.min(length),
            _ => length - other % 10,
        };
        let other = |other: Recipe| Recipe {
            dims: Dims {
                query_len: near(first.dims.query_len, other.dims.query_len),
                key_len: near(first.dims.key_len, other.dims.key_len),
                ..first.dims
            },
            poison: other.poison,
            size: other.size,
            seed: other.seed,
            ..first
        };
        std::iter::once(first).chain(others.into_iter().map(other)).collect()
    })
}

/// The kernel serves every problem that has elements.
pub fn demanded(recipe: &Recipe, target: &Target, problem: &HostProblem, ask: &Ask) -> Result<(), TestCaseError> {
    let expected = refer(problem, ask).map_err(TestCaseError::fail)?;
    // Where groups of planes multiply, weights of bf16 are sums of two.
    let pairs = target.forward == Some(WGMMA) && problem.dtype == FloatDType::BF16;
    let bounds = bound::bounds_with(problem, ask, if pairs { Products::Paired } else { Products::Wide });
    let answer = panics::catch(|| run::answer(target, problem, ask, recipe.layouts)).and_then(|answer| answer);
    let who = format!("{} in {:?}", target.forward.unwrap_or("any"), problem.dtype);
    let answer = answer.map_err(|reason| TestCaseError::fail(format!("{who}: {reason}")))?;
    check(&who, &expected, &answer, &bounds)
}

fn agrees(kernel: &'static str, dtype: FloatDType, cases: u32, gradients: bool, dims: &[usize]) {
    let Some(engine) = engine().filter(|engine| engine.has_dtype(dtype)) else {
        println!("skipped: no tensors of {dtype:?}");
        return;
    };
    let mut target = Target::new(engine.device().expect("it has tensors").clone());
    target.forward = Some(kernel);
    let one = |mut recipe: Recipe| {
        recipe.dims.query_len = match kernel {
            // Matrix units are for rows that fill half a matrix.
            MATRIX | MMA => recipe.dims.query_len.max(8),
            // And half a group's.
            WGMMA => recipe.dims.query_len + 33,
            DECODE => recipe.dims.query_len % (FEW + 1),
            // All heads that share keys have two halves of a matrix.
            DECODE_MMA => {
                let group = (recipe.dims.heads / recipe.dims.kv_heads.max(1)).max(1);
                recipe.dims.query_len % (2 * FEW / group + 1)
            }
            _ => recipe.dims.query_len,
        };
        // Dimensions from a few, so that kernels are compiled once for many problems.
        let near = |dim: usize| dims[dim % dims.len()];
        (recipe.dims.head_dim, recipe.dims.value_dim) = (near(recipe.dims.head_dim), near(recipe.dims.value_dim));
        recipe.score_mod = false;
        if kernel != ROWS {
            (recipe.blocks, recipe.relative, recipe.spec.dropout) = (None, None, None);
        }
        let scores = recipe.dims.scores();
        if scores.contains(&0) {
            return Ok(());
        }
        let problem = recipe.build(dtype);
        let gradients = gradients.then(|| recipe.upstream());
        demanded(&recipe, &target, &problem, &Ask { lse: true, weights: false, gradients })
    };
    let agree = |recipes: Vec<Recipe>| recipes.into_iter().try_for_each(one);
    TestRunner::new(config(cases)).run(&alike(), agree).unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn in_f32() {
    agrees(ROWS, FloatDType::F32, 40, false, &[8, 5]);
}

/// Few: the kernel is unrolled along the dimension, and what compiles it takes time by the square of its length.
#[test]
fn in_f32_of_dimension_64() {
    agrees(ROWS, FloatDType::F32, 6, false, &[64]);
}

#[test]
fn in_f16() {
    agrees(ROWS, FloatDType::F16, 20, false, &[8, 6]);
}

#[test]
fn with_gradients() {
    agrees(ROWS, FloatDType::F32, 15, true, &[8]);
}

/// Masks by blocks, at lengths around those of blocks, alone and with everything else that hides.
#[test]
fn by_blocks() {
    let Some(engine) = engine() else { return };
    let mut target = Target::new(engine.device().expect("it has tensors").clone());
    target.forward = Some(ROWS);
    let lengths = [(1, 64), (63, 65), (64, 200), (65, 1), (130, 129), (200, 700)];
    let shares = [[0.3, 0.3], [0.8, 0.1], [0.0, 0.9]];
    for (seed, ((query_len, key_len), shares)) in
        lengths.into_iter().flat_map(|lengths| shares.map(|shares| (lengths, shares))).enumerate()
    {
        let dims = Dims { batch: 2, heads: 4, kv_heads: 2, query_len, key_len, head_dim: 8, value_dim: 8 };
        let mut recipe = super::tiles::recipe(dims, seed as u64);
        recipe.blocks = Some(BlocksRecipe { full: [seed % 2 == 0, seed % 3 == 0], shares });
        for all in [false, true] {
            (recipe.kv_lens, recipe.sinks, recipe.poison, recipe.spec.causal) = (all, all, all, all);
            recipe.spec.window.left = all.then_some(100);
            let ask = Ask { lse: true, ..Ask::default() };
            demanded(&recipe, &target, &recipe.build(FloatDType::F32), &ask).unwrap_or_else(|error| panic!("{error}"));
        }
    }
}

/// Biases by relative position, at lengths around those of blocks of keys and of runs, with tables shorter and longer than these, alone
/// and with everything else that hides.
#[test]
fn by_relative_position() {
    let Some(engine) = engine() else { return };
    let mut target = Target::new(engine.device().expect("it has tensors").clone());
    target.forward = Some(ROWS);
    let lengths = [(1, 1), (1, 1500), (7, 9), (31, 33), (64, 64), (65, 63), (130, 129)];
    for (seed, (query_len, key_len)) in lengths.into_iter().enumerate() {
        let dims = Dims { batch: 2, heads: 4, kv_heads: 2, query_len, key_len, head_dim: 8, value_dim: 8 };
        for (reach, per_head) in [(0, true), (5, false), (200, true)] {
            let mut recipe = super::tiles::recipe(dims, seed as u64);
            recipe.relative = Some(RelativeRecipe { per_head, reach, hides: 0.0 });
            // Alone; hiding with nothing else that does, so that nothing else makes the kernel look; with everything.
            for (hides, all) in [(0.0, false), (0.1, false), (0.1, true)] {
                (recipe.kv_lens, recipe.sinks, recipe.spec.causal) = (all, all, all);
                recipe.poison = hides > 0.0;
                recipe.spec.window.left = all.then_some(100);
                recipe.blocks = all.then_some(BlocksRecipe { full: [true, true], shares: [0.3, 0.3] });
                recipe.relative = Some(RelativeRecipe { per_head, reach, hides });
                let (ask, problem) = (Ask { lse: true, ..Ask::default() }, recipe.build(FloatDType::F32));
                demanded(&recipe, &target, &problem, &ask).unwrap_or_else(|error| panic!("{error}"));
            }
        }
    }
}

/// Matrix units, where the device has them for the type.
#[test]
fn by_matrix_units() {
    for dtype in [FloatDType::F16, FloatDType::BF16] {
        if has_matrices(MATRIX, dtype) {
            agrees(MATRIX, dtype, 60, false, &[8, 5, 64]);
        }
    }
}

/// Matrix instructions whose registers are known, where the device has them for the type.
#[test]
fn by_matrix_instructions() {
    for dtype in [FloatDType::F16, FloatDType::BF16] {
        if has_matrices(MMA, dtype) {
            agrees(MMA, dtype, 60, false, &[16, 48]);
        }
    }
}

/// Matrix instructions of groups of planes, where the device has them.
#[test]
fn by_groups_of_planes() {
    for dtype in [FloatDType::F16, FloatDType::BF16] {
        if has_matrices(WGMMA, dtype) {
            agrees(WGMMA, dtype, 20, false, &[16, 80]);
        }
    }
}

/// The same of a few rows.
#[test]
fn by_instructions_of_a_few_rows() {
    for dtype in [FloatDType::F16, FloatDType::BF16] {
        if has_matrices(DECODE_MMA, dtype) {
            agrees(DECODE_MMA, dtype, 40, false, &[64, 128, 192]);
        }
    }
}

/// With Burn's fusion and without, whatever the device: a kernel that it can't have says why.
#[test]
fn every_kernel_is_there() {
    let Some(engine) = engine() else { return };
    let rows = Tensor::<4>::zeros([1, 1, 64, 16], engine.device().expect("it has tensors"));
    for kernel in [ROWS, DECODE, DECODE_MMA, MATRIX, MMA, WGMMA] {
        let plan = Attention::new(rows.clone(), rows.clone(), rows.clone()).kernel(kernel).plan();
        let reason = plan.err().map(|error| error.to_string()).unwrap_or_default();
        assert!(!reason.contains("this backend has the kernels"), "{kernel}: {reason}");
    }
}

/// Units that share rows, where they exchange numbers.
#[test]
fn by_dimensions() {
    if decodes() {
        agrees(DECODE, FloatDType::F32, 20, false, &[8, 5]);
        agrees(DECODE, FloatDType::F32, 4, false, &[64]);
        agrees(DECODE, FloatDType::F16, 10, false, &[8, 6]);
    }
}

/// Whether the device's planes exchange numbers.
fn decodes() -> bool {
    let Some(engine) = engine() else { return false };
    let row = Tensor::<4>::zeros([1, 1, 1, 16], engine.device().expect("it has tensors"));
    let plan = Attention::new(row.clone(), row.clone(), row).kernel(DECODE).plan();
    if let Err(reason) = &plan {
        println!("skipped: {reason}");
    }
    plan.is_ok()
}

/// Whether `kernel` multiplies matrices of the type here.
fn has_matrices(kernel: &'static str, dtype: FloatDType) -> bool {
    let refused = refusal(kernel, dtype);
    if let Some(reason) = &refused {
        println!("skipped: {reason}");
    }
    refused.is_none()
}

/// Why `kernel` does not multiply matrices of the type here.
fn refusal(kernel: &'static str, dtype: FloatDType) -> Option<String> {
    let Some(engine) = engine().filter(|engine| engine.has_dtype(dtype)) else {
        return Some(format!("no tensors of {dtype:?}"));
    };
    let [length, dim] = if kernel == DECODE_MMA { [8, 64] } else { [64, 16] };
    let device = engine.device().expect("it has tensors");
    let rows = Tensor::<4>::zeros([1, 1, length, dim], (device, DType::from(dtype)));
    let plan = Attention::new(rows.clone(), rows.clone(), rows).kernel(kernel).plan();
    plan.err().map(|reason| reason.to_string())
}

/// A kernel that its trial finds wrong is passed over, by the library and by the tests above: here it is a failure.
#[test]
fn no_trial_finds_a_kernel_wrong() {
    for kernel in [DECODE_MMA, MATRIX, MMA, WGMMA] {
        for dtype in [FloatDType::F16, FloatDType::BF16] {
            let reason = refusal(kernel, dtype).unwrap_or_default();
            assert!(!reason.contains("on trial"), "{reason}");
        }
    }
}

/// Lengths around the rows of a tile and the keys of a block and of a run.
#[test]
fn tails() {
    tails_of(ROWS, FloatDType::F32);
    if decodes() {
        tails_of(DECODE, FloatDType::F32);
    }
    if has_matrices(MATRIX, FloatDType::F16) {
        tails_of(MATRIX, FloatDType::F16);
    }
}

/// The same where matrix instructions multiply.
#[test]
fn tails_by_instructions() {
    for kernel in [DECODE_MMA, WGMMA, MMA] {
        for dtype in [FloatDType::F16, FloatDType::BF16] {
            if has_matrices(kernel, dtype) {
                tails_of(kernel, dtype);
            }
        }
    }
}

fn tails_of(kernel: &'static str, dtype: FloatDType) {
    let Some(engine) = engine() else { return };
    let mut target = Target::new(engine.device().expect("it has tensors").clone());
    target.forward = Some(kernel);
    let lengths: &[_] = match kernel {
        DECODE => &[(1, 1), (1, 7), (1, 8), (2, 31), (3, 32), (4, 33), (5, 63), (7, 64), (8, 65), (8, 129), (1, 260)],
        // Two heads share keys.
        DECODE_MMA => {
            &[(1, 1), (1, 7), (1, 8), (2, 15), (3, 16), (4, 17), (5, 63), (6, 64), (7, 65), (8, 129), (4, 5000)]
        }
        MMA => {
            &[(8, 1), (9, 15), (15, 63), (16, 64), (17, 65), (127, 128), (128, 129), (129, 191), (257, 300), (8, 5000)]
        }
        WGMMA => &[
            (33, 1),
            (63, 127),
            (64, 128),
            (65, 129),
            (127, 255),
            (128, 256),
            (129, 257),
            (191, 384),
            (257, 513),
            (40, 5000),
        ],
        _ => &[(1, 1), (1, 7), (1, 8), (2, 9), (31, 15), (32, 16), (33, 17), (63, 64), (64, 65), (65, 63), (129, 7)],
    };
    let [head_dim, value_dim] = match kernel {
        DECODE_MMA => [96, 64],
        MMA => [128, 16],
        WGMMA => [112, 80],
        _ => [8, 8],
    };
    for &(query_len, key_len) in lengths {
        if kernel == MATRIX && query_len < 8 {
            continue;
        }
        for causal in [false, true] {
            let mut recipe = super::tiles::recipe(
                attn_testing::host::Dims { batch: 2, heads: 2, kv_heads: 1, query_len, key_len, head_dim, value_dim },
                key_len as u64,
            );
            recipe.spec.causal = causal;
            let ask = Ask { lse: true, ..Ask::default() };
            demanded(&recipe, &target, &recipe.build(dtype), &ask).unwrap_or_else(|error| panic!("{error}"));
        }
    }
}

/// Long keys for few queries are cut into runs, whose results are joined; sinks join once; a window's runs begin where it does;
/// a value wider than a launch's columns takes several.
#[test]
fn runs_of_keys_and_wide_values() {
    let Some(engine) = engine() else { return };
    let mut target = Target::new(engine.device().expect("it has tensors").clone());
    let dims = |query_len, key_len, value_dim| Dims {
        batch: 2,
        heads: 4,
        kv_heads: 2,
        query_len,
        key_len,
        head_dim: 8,
        value_dim,
    };
    let kernels = if decodes() { &[ROWS, DECODE][..] } else { &[ROWS] };
    for kernel in kernels {
        target.forward = Some(kernel);
        for (dims, kv_lens, window) in [
            (dims(1, 2000, 8), false, None),
            (dims(3, 1111, 8), true, None),
            (dims(2, 3000, 8), true, Some(1500)),
            (dims(2, 40, 300), true, None),
            // As many runs as several units join, on two cores or more.
            (Dims { batch: 1, heads: 2, kv_heads: 1, ..dims(1, 2100, 8) }, false, None),
        ] {
            let mut recipe = super::tiles::recipe(dims, 7);
            (recipe.kv_lens, recipe.sinks, recipe.poison) = (kv_lens, true, true);
            recipe.spec.causal = true;
            recipe.spec.window.left = window;
            let ask = Ask { lse: true, ..Ask::default() };
            demanded(&recipe, &target, &recipe.build(FloatDType::F32), &ask).unwrap_or_else(|error| panic!("{error}"));
        }
    }
}

/// Values that are not finite reach the rows that see them through matrices too, and no others.
#[test]
fn poison_among_matrices() {
    for (kernel, query_len, head_dim, value_dim) in [
        (DECODE_MMA, 3, 32, 192),
        (DECODE_MMA, 8, 64, 128),
        (WGMMA, 50, 32, 144),
        (MATRIX, 50, 24, 130),
        (MMA, 50, 32, 144),
    ] {
        if !has_matrices(kernel, FloatDType::F16) {
            continue;
        }
        let engine = engine().expect("it has matrix units");
        let mut target = Target::new(engine.device().expect("it has tensors").clone());
        target.forward = Some(kernel);
        for seed in 0..4 {
            let (heads, kv_heads) = (4, 2);
            let dims = Dims { batch: 2, heads, kv_heads, query_len, key_len: 90, head_dim, value_dim };
            let mut recipe = super::tiles::recipe(dims, seed);
            (recipe.kv_lens, recipe.poison, recipe.sinks) = (true, true, seed % 2 == 0);
            recipe.spec.causal = true;
            let ask = Ask { lse: true, ..Ask::default() };
            demanded(&recipe, &target, &recipe.build(FloatDType::F16), &ask).unwrap_or_else(|error| panic!("{error}"));
        }
    }
}

/// The same bits from the same call.
#[test]
fn two_runs_give_the_same_bits() {
    let Some(engine) = engine() else { return };
    let device = engine.device().expect("it has tensors");
    for (query_len, kernel) in [(1, ROWS), (100, ROWS), (1, DECODE), (1, DECODE_MMA), (300, MMA), (300, WGMMA)] {
        let narrow = matches!(kernel, DECODE_MMA | MMA | WGMMA);
        if kernel == DECODE && !decodes() || narrow && !has_matrices(kernel, FloatDType::F16) {
            continue;
        }
        let dtype = if narrow { DType::F16 } else { DType::F32 };
        let make = |len| Tensor::<4>::random([1, 4, len, 64], Distribution::Default, device).cast(dtype);
        let (query, key, value) = (make(query_len), make(1500), make(1500));
        let run = || {
            let attention = Attention::new(query.clone(), key.clone(), value.clone()).causal(true).kernel(kernel);
            attention.forward().expect("a plain problem").out.into_data()
        };
        assert_eq!(run(), run());
    }
}
