//! What random problems are too small for: more keys and queries than one tile of the composite holds, and visible poison.

use attn_core::Alignment;
use attn_testing::bound;
use attn_testing::engine::{Engine, refer};
use attn_testing::generate::{BiasRecipe, MaskRecipe, Recipe, RelativeRecipe};
use attn_testing::host::{Ask, Dims};
use burn::tensor::FloatDType;

/// Engines whose tensors are f32 and which tile differently.
fn engines() -> impl Iterator<Item = Engine> {
    Engine::available().into_iter().filter(|engine| engine.name() != "reference")
}

pub fn recipe(dims: Dims, seed: u64) -> Recipe {
    Recipe {
        dims,
        spec: Default::default(),
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
        size: 1.0,
        layouts: Default::default(),
        seed,
    }
}

fn check(recipe: &Recipe) {
    let problem = recipe.build(FloatDType::F32);
    let ask = Ask { lse: true, weights: false, gradients: Some(recipe.upstream()) };
    let expected = refer(&problem, &ask).expect("the reference answers");
    let bounds = bound::bounds(&problem, &ask);
    for engine in engines() {
        let found = engine.answer(&problem, &ask).unwrap_or_else(|reason| panic!("{}: {reason}", engine.name()));
        super::random::check(engine.name(), &expected, &found, &bounds).unwrap_or_else(|error| panic!("{error}"));
    }
}

/// The composite's tiles hold 1024 keys.
#[test]
fn keys_beyond_one_tile() {
    for key_len in [1023, 1024, 1025, 2049, 2500] {
        let dims = Dims { batch: 2, heads: 2, kv_heads: 1, query_len: 3, key_len, head_dim: 5, value_dim: 3 };
        let plain = recipe(dims, key_len as u64);
        check(&plain);
        check(&Recipe { kv_lens: true, sinks: true, poison: true, grad_lse: true, ..plain });
        let mask = MaskRecipe { full: [true, false, true, true], polarity: attn_core::Polarity::Keep, density: 0.5 };
        let bias = BiasRecipe { full: [false, true, false, true], hides: 0.3 };
        check(&Recipe { mask: Some(mask), bias: Some(bias), alibi: true, ..plain });
        // Tables that end within a tile and ones that reach past it, of all heads and of each.
        for (reach, per_head) in [(3, true), (1100, false)] {
            let relative = Some(RelativeRecipe { per_head, reach, hides: 0.1 });
            check(&Recipe { relative, kv_lens: true, poison: true, grad_lse: true, ..plain });
            check(&Recipe { relative, mask: Some(mask), bias: Some(bias), score_mod: true, poison: true, ..plain });
        }
    }
}

/// Queries in the middle of the keys, so that whole tiles are hidden on both sides.
#[test]
fn windows_that_leave_tiles_out() {
    let dims = Dims { batch: 1, heads: 2, kv_heads: 2, query_len: 40, key_len: 3000, head_dim: 4, value_dim: 4 };
    for (offset, left, right) in
        [(0, 5, 5), (1010, 20, 20), (2040, 3, 0), (2990, 100, 100), (1500, 700, 700), (-60, 4, 4)]
    {
        let mut recipe = recipe(dims, 3);
        recipe.poison = true;
        recipe.spec = recipe.spec.with_window(Some(left), Some(right)).with_alignment(Alignment::Offset(offset));
        check(&recipe);
        recipe.relative = Some(RelativeRecipe { per_head: true, reach: 10, hides: 0.0 });
        check(&recipe);
    }
}

/// With 8192 rows of heads, the composite's tiles hold 16 queries of 64 keys.
#[test]
fn queries_beyond_one_tile() {
    let dims = Dims { batch: 64, heads: 128, kv_heads: 64, query_len: 17, key_len: 33, head_dim: 2, value_dim: 1 };
    let mut recipe = recipe(dims, 5);
    recipe.spec.causal = true;
    check(&recipe);
    recipe.relative = Some(RelativeRecipe { per_head: true, reach: 20, hides: 0.0 });
    check(&recipe);
}

/// NaN in a value that some rows see: they are NaN, and no others.
#[test]
fn visible_poison_reaches_those_who_see_it_and_no_others() {
    let dims = Dims { batch: 1, heads: 4, kv_heads: 2, query_len: 20, key_len: 20, head_dim: 8, value_dim: 8 };
    let mut recipe = recipe(dims, 9);
    recipe.spec.causal = true;
    for (key, tensor) in [(0, "value"), (7, "value"), (7, "key"), (19, "key")] {
        let mut problem = recipe.build(FloatDType::F32);
        let clean = refer(&problem, &Ask::default()).expect("the reference answers");
        let bounds = bound::bounds(&problem, &Ask::default());
        let data = if tensor == "key" { &mut problem.inputs.key } else { &mut problem.inputs.value };
        data[key * 8..(key + 1) * 8].fill(f64::NAN);
        for engine in engines() {
            let found = engine.answer(&problem, &Ask::default()).expect("it answers");
            for (at, found) in found.out.iter().enumerate() {
                let (head, row) = (at / (20 * 8), at / 8 % 20);
                let name = engine.name();
                if head < 2 && row >= key {
                    assert!(found.is_nan(), "{name}: NaN in {tensor} {key} is lost at head {head}, row {row}");
                } else {
                    let error = (found - clean.out[at]).abs();
                    assert!(error <= bounds.out[at], "{name}: {tensor} {key} spoils head {head}, row {row}: {found}");
                }
            }
        }
    }
}
