//! Gradients against the oracle: random shapes, layouts and all options together, for every element type and instruction set.

mod common;

use attn_cpu::{Band, CpuError, Gradients, Isa, Upstream, View, Wanted, backward};
use common::gradient::{Above, check_gradients};
use common::random::{cases, dims, long_dims, with_options};
use common::{Array, Dims, Lay, Owned, OwnedBlocks, Random, Real, indices};
use half::{bf16, f16};
use proptest::prelude::*;

fn random<T: Real>(dims: Dims, seed: u64) -> Above<T> {
    Above::random(with_options::<T>(dims, seed), &mut Random(seed ^ 0x5eed))
}

proptest! {
    #![proptest_config(cases(200))]

    #[test]
    fn options_f32(dims in dims(), seed: u64) {
        check_gradients(&random::<f32>(dims, seed));
    }

    #[test]
    fn options_f64(dims in dims(), seed: u64) {
        check_gradients(&random::<f64>(dims, seed));
    }

    #[test]
    fn options_f16(dims in dims(), seed: u64) {
        check_gradients(&random::<f16>(dims, seed));
    }

    #[test]
    fn options_bf16(dims in dims(), seed: u64) {
        check_gradients(&random::<bf16>(dims, seed));
    }
}

proptest! {
    #![proptest_config(cases(6))]

    #[test]
    fn long_f32(dims in long_dims(), seed: u64) {
        check_gradients(&random::<f32>(dims, seed));
    }

    #[test]
    fn long_f64(dims in long_dims(), seed: u64) {
        check_gradients(&random::<f64>(dims, seed));
    }

    #[test]
    fn long_bf16(dims in long_dims(), seed: u64) {
        check_gradients(&random::<bf16>(dims, seed));
    }

    /// Nearly everything is empty: whole strips, tiles and runs of keys are passed over.
    #[test]
    fn sparse_blocks(dims in long_dims(), seed: u64) {
        let mut random = Random(seed);
        let mut owned = Owned::<f32>::plain(dims, random.next());
        let shape = [1, dims.heads, dims.query_len, dims.key_len];
        owned.blocks = Some(OwnedBlocks::random(shape, 3, true, &mut random));
        check_gradients(&Above::random(owned, &mut random));
    }
}

/// Lengths and dims around strips, vectors, tiles and blocks, without options.
#[test]
fn tails() {
    fn check<T: Real>(dims: Dims) {
        check_gradients(&Above::random(Owned::<T>::plain(dims, 3), &mut Random(4)));
    }
    let plain = Dims { batch: 1, heads: 2, kv_heads: 1, query_len: 7, key_len: 9, head_dim: 5, value_dim: 6 };
    for length in [1, 5, 6, 7, 47, 48, 49, 95, 96, 97, 193] {
        check::<f32>(Dims { query_len: length, ..plain });
        check::<bf16>(Dims { query_len: length, ..plain });
        check::<f64>(Dims { key_len: length, ..plain });
        check::<bf16>(Dims { key_len: length, ..plain });
    }
    for dim in [1, 2, 15, 16, 17, 31, 33, 63, 64, 65, 129] {
        check::<f32>(Dims { head_dim: dim, ..plain });
        check::<bf16>(Dims { head_dim: dim, ..plain });
        check::<f32>(Dims { value_dim: dim, ..plain });
        check::<bf16>(Dims { value_dim: dim, ..plain });
    }
}

/// Bits of all gradients.
fn bits<T: Real>(grads: &Gradients<T>) -> Vec<u64> {
    let all =
        [&grads.query, &grads.key, &grads.value, &grads.bias, &grads.alibi_slopes, &grads.relative_bias, &grads.sinks];
    all.into_iter().flatten().flatten().map(|x| x.up().to_bits()).collect()
}

/// Every sum that several items share, on more threads than there are heads, many times: turns come in one order.
#[test]
fn the_same_bits_on_any_number_of_threads() {
    fn check<T: Real>(dims: Dims, seed: u64) {
        let mut owned = with_options::<T>(dims, seed);
        let mut random = Random(seed);
        owned.blocks = None;
        owned.mask = None;
        owned.bands = vec![Band { offset: 3, lower: None, upper: Some(200), keys: dims.key_len }; dims.batch];
        let full = [dims.batch, dims.heads, dims.query_len, dims.key_len];
        for shape in [
            full,
            [1, 1, full[2], full[3]],
            [1, full[1], 1, full[3]],
            [full[0], 1, full[2], 1],
            [1, full[1], full[2], full[3]],
        ] {
            let mut inner = Random(random.next());
            owned.bias = Some(Array::new(shape, Lay::Plain, T::of(0.0), || T::of(inner.normal())).broadcast(full));
            let above = Above::random(owned.clone(), &mut Random(seed));
            let given = above.given();
            for isa in [Isa::detect(), Isa::Portable] {
                let run = |threads: usize| {
                    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads start");
                    bits(&pool.install(|| above.run(&given, isa, above.wanted())))
                };
                let one = run(1);
                for threads in [2, 3, 8, 8] {
                    assert!(run(threads) == one, "{} {} on {threads} threads, bias {shape:?}", T::NAME, isa.name());
                }
            }
        }
    }
    let dims = Dims { batch: 2, heads: 4, kv_heads: 2, query_len: 110, key_len: 300, head_dim: 8, value_dim: 8 };
    check::<f32>(dims, 1);
    check::<bf16>(Dims { batch: 1, heads: 1, kv_heads: 1, ..dims }, 2);
    check::<f32>(Dims { batch: 3, heads: 1, kv_heads: 1, ..dims }, 3);
    // Rows of a block of keys are split.
    check::<f32>(Dims { batch: 1, query_len: 450, key_len: 40, ..dims }, 4);
    check::<bf16>(Dims { batch: 1, heads: 1, kv_heads: 1, query_len: 1600, key_len: 40, ..dims }, 5);
}

/// Few keys and many rows, whose parts are items of their own: with all options, and where a part sees nothing.
#[test]
fn split_rows() {
    fn check<T: Real>(dims: Dims, seed: u64) {
        check_gradients(&random::<T>(dims, seed));
        let mut owned = Owned::<T>::plain(dims, seed);
        let band = Band { offset: 0, lower: Some(-30), upper: Some(3), keys: dims.key_len };
        owned.bands = vec![band; dims.batch];
        check_gradients(&Above::random(owned, &mut Random(seed)));
    }
    let dims = Dims { batch: 1, heads: 2, kv_heads: 1, query_len: 401, key_len: 70, head_dim: 9, value_dim: 17 };
    for seed in 0..4 {
        check::<f32>(dims, seed);
        check::<f64>(Dims { heads: 4, kv_heads: 2, query_len: 390, ..dims }, seed);
        check::<bf16>(Dims { heads: 1, query_len: 1301, key_len: 7, ..dims }, seed);
        check::<f16>(Dims { batch: 2, heads: 1, query_len: 1000, key_len: 130, head_dim: 4, ..dims }, seed);
    }
}

/// Hides keys from `last` on, poisons them and their values; poisons the gradient of a row that sees nothing; all gradients stay those of
/// clean inputs.
#[test]
fn what_is_hidden_never_matters() {
    fn check<T: Real>(dims: Dims) {
        let last = dims.key_len * 2 / 3;
        let full = [dims.batch, dims.heads, dims.query_len, dims.key_len];
        let column = |seen: u8, hidden: u8| {
            let mut j = 0;
            let mask = Array::new([1, 1, 1, dims.key_len], Lay::Plain, 9, || {
                j += 1;
                if j <= last { seen } else { hidden }
            });
            mask.broadcast(full)
        };
        let clean = Owned::<T>::plain(dims, 5);
        let mut by_band = clean.clone();
        by_band.bands = vec![Band::full(last); dims.batch];
        // Query 4 sees nothing.
        let mut by_mask = clean.clone();
        let mut place = 0;
        let rows = Array::new([1, 1, dims.query_len, dims.key_len], Lay::Plain, 9, || {
            place += 1;
            let (query, key) = ((place - 1) / dims.key_len, (place - 1) % dims.key_len);
            u8::from(key < last && query != 4)
        });
        by_mask.mask = Some((rows.broadcast(full), true));
        let mut by_hide = clean.clone();
        by_hide.mask = Some((column(0, 255), false));
        let mut by_bias = clean.clone();
        let mut j = 0;
        let bias = Array::new([1, 1, 1, dims.key_len], Lay::Plain, T::of(0.0), || {
            j += 1;
            T::of(if j <= last { 0.0 } else { f64::NEG_INFINITY })
        });
        by_bias.bias = Some(bias.broadcast(full));
        by_bias.softcap = Some(5.0);
        for owned in [by_band, by_mask, by_hide, by_bias] {
            let mut poisoned = Above::random(owned.clone(), &mut Random(6));
            let mut inner = Random(7);
            let shape = [dims.batch, dims.heads, dims.query_len, dims.value_dim];
            poisoned.grad_out = Some(Array::new(shape, Lay::Plain, T::of(0.0), || T::of(inner.normal())));
            let before = poisoned.clone();
            for [b, g, j, d] in indices([dims.batch, dims.kv_heads, dims.key_len, dims.head_dim.max(dims.value_dim)]) {
                let bad = T::of([f64::NAN, f64::INFINITY, f64::NEG_INFINITY][(j + d) % 3]);
                if j >= last && d < dims.head_dim {
                    poisoned.owned.key.set([b, g, j, d], bad);
                }
                if j >= last && d < dims.value_dim {
                    poisoned.owned.value.set([b, g, j, d], bad);
                }
            }
            if owned.mask.as_ref().is_some_and(|(mask, seen)| *seen && mask.get([0, 0, 4, 0]) == 0) {
                for [b, h, e, _] in indices([dims.batch, dims.heads, dims.value_dim, 1]) {
                    poisoned.grad_out.as_mut().expect("just made").set([b, h, 4, e], T::of(f64::NAN));
                }
                for [b, h, d, _] in indices([dims.batch, dims.heads, dims.head_dim, 1]) {
                    poisoned.owned.query.set([b, h, 4, d], T::of(f64::NAN));
                }
            }
            let (given, answer) = (before.given(), before.oracle(<T as attn_cpu::Element>::NAME == "bf16"));
            for isa in Isa::available() {
                let wanted = before.wanted();
                for (name, above) in [("clean", &before), ("poisoned", &poisoned)] {
                    let found = above.run(&given, isa, wanted);
                    assert_eq!(answer.check(wanted, &found), Ok(()), "{name} {} {}", T::NAME, isa.name());
                }
            }
        }
    }
    let dims = Dims { batch: 2, heads: 4, kv_heads: 2, query_len: 21, key_len: 53, head_dim: 10, value_dim: 12 };
    check::<f32>(dims);
    check::<bf16>(dims);
    check::<f64>(Dims { batch: 1, query_len: 5, key_len: 30, ..dims });
    // More than a tile, more than a block.
    check::<f32>(Dims { batch: 1, heads: 1, kv_heads: 1, query_len: 110, key_len: 200, ..dims });
}

/// Visible NaN goes where it is multiplied, and nowhere else.
#[test]
fn a_poisoned_key_taints_only_what_sees_it() {
    let dims = Dims { batch: 1, heads: 1, kv_heads: 1, query_len: 300, key_len: 300, head_dim: 8, value_dim: 8 };
    let mut owned = Owned::<f32>::plain(dims, 6);
    owned.bands = vec![Band { offset: 0, lower: Some(-20), upper: Some(0), keys: 300 }];
    let clean = Above::random(owned, &mut Random(2));
    let given = clean.given();
    let mut poisoned = clean.clone();
    poisoned.owned.key.set([0, 0, 150, 3], f32::NAN);
    for isa in Isa::available() {
        let found = poisoned.run(&given, isa, Wanted { query: true, value: true, ..Wanted::default() });
        for (at, x) in found.query.iter().flatten().enumerate() {
            assert_eq!(x.is_nan(), (150..=170).contains(&(at / 8)), "{} dq {at}", isa.name());
        }
        // The weights of these rows are NaN, and reach what they see.
        for (at, x) in found.value.iter().flatten().enumerate() {
            assert_eq!(x.is_nan(), (130..=170).contains(&(at / 8)), "{} dv {at}", isa.name());
        }
    }
}

/// Scores of thousands: the LSE's own rounding must not reach weights that one tile holds whole.
#[test]
fn large_logits() {
    let dims = Dims { batch: 1, heads: 2, kv_heads: 2, query_len: 40, key_len: 70, head_dim: 32, value_dim: 16 };
    let mut owned = Owned::<f32>::plain(dims, 8);
    owned.scale = 100.0;
    let above = Above::random(owned, &mut Random(3));
    let oracle = above.owned.oracle();
    assert!(oracle.lse.iter().any(|lse| lse.abs() > 1000.0));
    check_gradients(&above);
    // Each row's weights are exact shares: what a key takes of dOut adds up to dOut.
    let exact = above.run(&above.given(), Isa::detect(), above.wanted());
    let value = exact.value.expect("wanted");
    for [h, e, _, _] in indices([2, 16, 1, 1]) {
        let taken: f64 = (0..70).map(|j| f64::from(value[(h * 70 + j) * 16 + e])).sum();
        let given: f64 =
            (0..40).map(|i| above.grad_out.as_ref().map_or(0.0, |grad| f64::from(grad.get([0, h, i, e])))).sum();
        assert!((taken - given).abs() < 1e-4, "head {h} dim {e}: {taken} of {given}");
    }
}

/// Weights that are all equal, of which sums have terms that all round to one side.
#[test]
fn equal_weights() {
    fn check<T: Real>(dims: Dims) {
        let full = [dims.batch, dims.heads, dims.query_len, dims.key_len];
        for shape in [[1, 1, full[2], 1], [1, 1, 1, full[3]], [1, full[1], 1, 1]] {
            for seed in 0..2 {
                let mut owned = Owned::<T>::plain(dims, seed);
                owned.scale = 0.0;
                owned.bias = Some(Array::new(shape, Lay::Plain, T::of(0.0), || T::of(0.0)).broadcast(full));
                let mut above = Above::random(owned, &mut Random(seed));
                above.grad_lse = Some(vec![0.8; full[1] * full[2]]);
                above.grad_out = above.grad_out.filter(|_| seed % 2 == 0);
                check_gradients(&above);
            }
        }
    }
    let dims = Dims { batch: 1, heads: 2, kv_heads: 1, query_len: 25, key_len: 1011, head_dim: 2, value_dim: 7 };
    check::<f64>(dims);
    check::<f32>(dims);
}

/// What is not wanted is not made, and nothing else depends on it.
#[test]
fn only_what_is_wanted() {
    let dims = Dims { batch: 1, heads: 4, kv_heads: 2, query_len: 50, key_len: 60, head_dim: 9, value_dim: 7 };
    let mut owned = with_options::<f32>(dims, 11);
    owned.alibi_slopes = Some(vec![0.5, 0.25, 0.125, 0.0]);
    owned.sinks = Some(vec![0.1, -3.0, 2.0, f32::NEG_INFINITY]);
    let above = Above::random(owned, &mut Random(12));
    let all = above.wanted();
    let given = above.given();
    let whole = above.run(&given, Isa::detect(), all);
    let none = Wanted::default();
    let some = [
        none,
        Wanted { query: true, ..none },
        Wanted { key: true, ..none },
        Wanted { value: true, ..none },
        Wanted { bias: all.bias, ..none },
        Wanted { alibi_slopes: true, ..none },
        Wanted { relative_bias: all.relative_bias, ..none },
        Wanted { sinks: true, ..none },
    ];
    for wanted in some {
        let found = above.run(&given, Isa::detect(), wanted);
        let expected = Gradients {
            query: whole.query.clone().filter(|_| wanted.query),
            key: whole.key.clone().filter(|_| wanted.key),
            value: whole.value.clone().filter(|_| wanted.value),
            bias: whole.bias.clone().filter(|_| wanted.bias.is_some()),
            alibi_slopes: whole.alibi_slopes.clone().filter(|_| wanted.alibi_slopes),
            relative_bias: whole.relative_bias.clone().filter(|_| wanted.relative_bias.is_some()),
            sinks: whole.sinks.clone().filter(|_| wanted.sinks),
        };
        assert!(found == expected, "{wanted:?}");
    }
}

#[test]
fn wrong_arguments_are_named() {
    let dims = Dims { batch: 1, heads: 2, kv_heads: 1, query_len: 3, key_len: 4, head_dim: 5, value_dim: 6 };
    let owned = Owned::<f32>::plain(dims, 1);
    let (out, lse) = ([0.0; 36], [0.0; 6]);
    let right = Upstream {
        out: View::contiguous(&out, [1, 2, 3, 6]).expect("its length"),
        lse: View::contiguous(&lse, [1, 2, 3]).expect("its length"),
        grad_out: None,
        grad_lse: None,
    };
    let argument = |upstream: Upstream<'_, f32>, wanted: Wanted| match backward(
        &owned.problem(),
        Isa::detect(),
        &upstream,
        wanted,
    ) {
        Err(
            CpuError::Shape { argument, .. } | CpuError::Value { argument, .. } | CpuError::Length { argument, .. },
        ) => argument,
        other => panic!("{other:?}"),
    };
    let wanted = Wanted::default();
    let other = View::contiguous(&out, [1, 2, 6, 3]).expect("its length");
    assert_eq!(argument(Upstream { out: other, ..right }, wanted), "out");
    assert_eq!(argument(Upstream { grad_out: Some(other), ..right }, wanted), "grad_out");
    let turned = View::contiguous(&lse, [1, 3, 2]).expect("its length");
    assert_eq!(argument(Upstream { lse: turned, ..right }, wanted), "lse");
    assert_eq!(argument(Upstream { grad_lse: Some(turned), ..right }, wanted), "grad_lse");
    assert_eq!(argument(right, Wanted { bias: Some([1; 4]), ..wanted }), "bias");
    assert_eq!(argument(right, Wanted { alibi_slopes: true, ..wanted }), "alibi_slopes");
    assert_eq!(argument(right, Wanted { relative_bias: Some([1, 3]), ..wanted }), "relative_bias");
    assert_eq!(argument(right, Wanted { sinks: true, ..wanted }), "sinks");
    let mut sloped = owned.problem();
    sloped.score_mod = Some(attn_cpu::ScoreMod::new(&|score, _| score));
    let refused = backward(&sloped, Isa::detect(), &right, wanted);
    assert!(matches!(refused, Err(CpuError::Value { argument: "score_mod", .. })), "{refused:?}");
}

/// A caller's function that panics takes the call with it, and leaves nobody waiting.
#[test]
fn a_panic_is_passed_on() {
    let dims = Dims { batch: 1, heads: 2, kv_heads: 1, query_len: 200, key_len: 600, head_dim: 16, value_dim: 16 };
    let owned = Owned::<f32>::plain(dims, 1);
    let oracle = owned.run(Isa::Portable);
    let upstream = Upstream {
        out: View::contiguous(&oracle.0, [1, 2, 200, 16]).expect("its length"),
        lse: View::contiguous(&oracle.1, [1, 2, 200]).expect("its length"),
        grad_out: None,
        grad_lse: None,
    };
    let slope = |_: f64, [_, _, i, j]: [usize; 4]| if (i, j) == (150, 10) { panic!("on purpose") } else { 1.0 };
    let value = |score: f64, place: [usize; 4]| slope(score, place) * score;
    let mut problem = owned.problem();
    problem.score_mod = Some(attn_cpu::ScoreMod::new(&value).with_slope(&slope));
    let pool = rayon::ThreadPoolBuilder::new().num_threads(4).build().expect("threads start");
    let wanted = Wanted { query: true, ..Wanted::default() };
    let run = || pool.install(|| backward(&problem, Isa::detect(), &upstream, wanted));
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).is_err());
}
