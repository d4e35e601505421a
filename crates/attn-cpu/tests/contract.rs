//! The contract's corners: what is hidden never matters, blind rows, sinks, visible NaN, threads, large logits, errors.

mod common;

use attn_cpu::{Attention, Band, CpuError, Isa, View, compute, forward, workspace_bytes};
use common::{Array, Dims, Lay, Owned, OwnedBlocks, Random, Real, check_all, indices};
use half::{bf16, f16};

const DIMS: Dims = Dims { batch: 2, heads: 4, kv_heads: 2, query_len: 21, key_len: 53, head_dim: 16, value_dim: 16 };

/// Poisons every key and value that no query of its head may see, and some that only a few rows may not.
fn poison<T: Real>(owned: &mut Owned<T>, last: usize) {
    for [b, g, j, d] in indices([owned.dims.batch, owned.dims.kv_heads, owned.dims.key_len, owned.dims.head_dim]) {
        if j >= last {
            let bad = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY][(j + d) % 3];
            owned.key.set([b, g, j, d], T::of(bad));
            if d < owned.dims.value_dim {
                owned.value.set([b, g, j, d], T::of(bad));
            }
        }
    }
}

fn hidden_by_all<T: Real>(dims: Dims) {
    let last = dims.key_len * 2 / 3;
    let shape = [dims.batch, dims.heads, dims.query_len, dims.key_len];
    let column = |seen: u8, hidden: u8| {
        let mut j = 0;
        Array::new([1, 1, 1, dims.key_len], Lay::Plain, 9, || {
            j += 1;
            if j <= last { seen } else { hidden }
        })
        .broadcast(shape)
    };
    let mut owned = Owned::<T>::plain(dims, 5);
    poison(&mut owned, last);
    let mut by_band = owned.clone();
    by_band.bands = vec![Band::full(last); dims.batch];
    let mut by_keep = owned.clone();
    by_keep.mask = Some((column(1, 0), true));
    let mut by_hide = owned.clone();
    by_hide.mask = Some((column(0, 255), false));
    let mut by_bias = owned.clone();
    let mut j = 0;
    let bias = Array::new([1, 1, 1, dims.key_len], Lay::Plain, T::of(0.0), || {
        j += 1;
        T::of(if j <= last { 0.0 } else { f64::NEG_INFINITY })
    });
    by_bias.bias = Some(bias.broadcast(shape));
    let mut by_blocks = owned.clone();
    let word = u64::MAX >> (64 - last);
    let table = vec![2; dims.query_len.div_ceil(64)];
    by_blocks.blocks =
        Some(OwnedBlocks { shape: [1, 1, dims.query_len, dims.key_len], table, patterns: vec![[word; 64]] });
    for owned in [by_band, by_keep, by_hide, by_bias, by_blocks] {
        let oracle = owned.oracle();
        assert!(oracle.out.iter().chain(&oracle.lse).all(|x| x.is_finite()));
        check_all(&owned);
    }
}

#[test]
fn hidden_keys_and_values_never_matter() {
    for query_len in [1, 21, 40] {
        let dims = Dims { query_len, ..DIMS };
        hidden_by_all::<f32>(dims);
        hidden_by_all::<f64>(dims);
        hidden_by_all::<f16>(dims);
        hidden_by_all::<bf16>(dims);
    }
}

/// Causal: key 30 is poisoned, rows before it must stay clean although they share strips and tiles with rows after it.
#[test]
fn a_poisoned_key_taints_only_the_rows_that_see_it() {
    let dims = Dims { query_len: 53, ..DIMS };
    let mut owned = Owned::<f32>::plain(dims, 6);
    owned.bands = vec![Band { offset: 0, lower: None, upper: Some(0), keys: 53 }; 2];
    for [b, g, d, _] in indices([2, 2, 16, 1]) {
        owned.value.set([b, g, 30, d], f32::NAN);
    }
    check_all(&owned);
    for isa in Isa::available() {
        let (out, _) = owned.run(isa);
        for (at, x) in out.iter().enumerate() {
            assert_eq!(x.is_nan(), at / 16 % 53 >= 30, "{} element {at}", isa.name());
        }
    }
}

#[test]
fn visible_nan_and_infinity_propagate() {
    for isa in Isa::available() {
        let mut owned = Owned::<f32>::plain(DIMS, 7);
        owned.key.set([0, 0, 3, 0], f32::NAN);
        owned.value.set([1, 1, 3, 0], f32::INFINITY);
        let (out, lse) = owned.run(isa);
        let per_head = DIMS.query_len * DIMS.value_dim;
        assert!(out[..2 * per_head].iter().all(|x| x.is_nan()), "{}", isa.name());
        assert!(lse[..2 * DIMS.query_len].iter().all(|x| x.is_nan()), "{}", isa.name());
        assert!(lse[2 * DIMS.query_len..].iter().all(|x| x.is_finite()), "{}", isa.name());
        let infinite = out[6 * per_head..].iter().step_by(DIMS.value_dim);
        assert!(infinite.into_iter().all(|x| *x == f32::INFINITY), "{}", isa.name());
    }
}

/// Where two numbers are multiplied as one unit, what is infinite in one does not reach the other.
#[test]
fn infinity_stays_in_its_dimension() {
    fn check<T: Real>(query_len: usize, at: usize) {
        let dims = Dims { query_len, value_dim: 70, ..DIMS };
        let mut owned = Owned::<T>::plain(dims, 11);
        owned.value.set([0, 0, 30, at], T::of(f64::INFINITY));
        for isa in Isa::available() {
            let (out, _) = owned.run(isa);
            for (place, x) in out.iter().enumerate() {
                let sees = place < 2 * query_len * 70 && place % 70 == at;
                assert_eq!(x.up() == f64::INFINITY, sees, "{} {} element {place}: {}", T::NAME, isa.name(), x.up());
                assert!(sees || x.up().is_finite(), "{} {} element {place}: {}", T::NAME, isa.name(), x.up());
            }
        }
    }
    // Few rows and many; even and odd, first and last, in the vector that overlaps another.
    for query_len in [1, 40] {
        for at in [0, 1, 37, 40, 69] {
            check::<f32>(query_len, at);
            check::<bf16>(query_len, at);
        }
    }
}

fn blind<T: Real>() {
    let mut owned = Owned::<T>::plain(DIMS, 8);
    // Keys 10.. alone, from query 30 on at the earliest: nothing is seen.
    owned.bands = vec![Band { offset: -100, lower: None, upper: Some(0), keys: 53 }; 2];
    check_all(&owned);
    for isa in Isa::available() {
        let (out, lse) = owned.run(isa);
        assert!(out.iter().all(|x| x.up() == 0.0));
        assert!(lse.iter().all(|x| T::up_accum(*x) == f64::NEG_INFINITY));
    }
    owned.sinks = Some([0.5, -3.0, 7.0, 0.0].map(T::of).to_vec());
    check_all(&owned);
    for isa in Isa::available() {
        let (out, lse) = owned.run(isa);
        assert!(out.iter().all(|x| x.up() == 0.0));
        for (row, lse) in lse.iter().enumerate() {
            assert_eq!(T::up_accum(*lse), [0.5, -3.0, 7.0, 0.0][row / 21 % 4]);
        }
    }
}

#[test]
fn blind_rows_give_zero_and_their_sink() {
    blind::<f32>();
    blind::<f64>();
    blind::<f16>();
    blind::<bf16>();
}

#[test]
fn extreme_bands_do_not_overflow() {
    for offset in [i64::MIN, i64::MAX, 0] {
        for (lower, upper) in [(Some(i64::MIN), Some(i64::MAX)), (Some(i64::MAX), None), (None, Some(i64::MIN))] {
            let mut owned = Owned::<f32>::plain(DIMS, 9);
            owned.bands = vec![Band { offset, lower, upper, keys: 53 }; 2];
            check_all(&owned);
        }
    }
}

#[test]
fn a_sink_of_minus_infinity_is_none() {
    let mut owned = Owned::<f32>::plain(DIMS, 10);
    let without = owned.run(Isa::Portable);
    owned.sinks = Some(vec![f32::NEG_INFINITY; 4]);
    let with = owned.run(Isa::Portable);
    assert_eq!(without, with);
}

#[test]
fn large_logits() {
    for factor in [10.0, 100.0, 3000.0] {
        let mut owned = Owned::<f32>::plain(DIMS, 11);
        owned.scale = factor;
        check_all(&owned);
        let mut owned = Owned::<f64>::plain(DIMS, 11);
        owned.scale = factor;
        check_all(&owned);
    }
}

/// The same bits on 1, 2, 3 and 8 threads, for a problem of many tasks, causal and with every kind of option, and for one whose keys are
/// split.
fn same_bits<T: Real>(isa: Isa) {
    let dims = Dims { batch: 2, heads: 6, kv_heads: 3, query_len: 230, key_len: 560, head_dim: 24, value_dim: 40 };
    let mut owned = Owned::<T>::plain(dims, 12);
    owned.bands = vec![Band { offset: 330, lower: Some(-300), upper: Some(0), keys: 550 }; 2];
    owned.sinks = Some(vec![T::of(0.3); 6]);
    owned.softcap = Some(20.0);
    let mut few = Owned::<T>::plain(Dims { query_len: 2, key_len: 5000, ..dims }, 13);
    few.bands = vec![Band { offset: 4998, lower: None, upper: Some(0), keys: 4990 }; 2];
    let bits = |owned: &Owned<T>, threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
        let (out, lse) = pool.install(|| owned.run(isa));
        let out: Vec<u64> = out.into_iter().map(|x| x.up().to_bits()).collect();
        (out, lse.into_iter().map(T::bits).collect::<Vec<_>>())
    };
    for owned in [&owned, &few] {
        let one = bits(owned, 1);
        assert!([2, 3, 8].into_iter().all(|threads| bits(owned, threads) == one), "{} {}", isa.name(), T::NAME);
    }
}

#[test]
fn the_same_bits_for_any_number_of_threads() {
    for isa in Isa::available() {
        same_bits::<f32>(isa);
        same_bits::<f64>(isa);
        same_bits::<f16>(isa);
        same_bits::<bf16>(isa);
    }
}

/// Into new vectors as into given ones, with the LSE and without, empty axes included.
#[test]
fn new_vectors_hold_the_same() {
    for dims in [DIMS, Dims { query_len: 0, ..DIMS }, Dims { key_len: 0, ..DIMS }, Dims { value_dim: 0, ..DIMS }] {
        let owned = Owned::<f32>::plain(dims, 21);
        let (out, lse) = owned.run(Isa::detect());
        let problem = owned.problem();
        assert_eq!(compute(&problem, Isa::detect(), true), Ok((out.clone(), Some(lse))), "{dims:?}");
        assert_eq!(compute(&problem, Isa::detect(), false), Ok((out, None)), "{dims:?}");
    }
}

#[test]
fn gqa_is_repetition() {
    let owned = Owned::<f32>::plain(DIMS, 13);
    let mut repeated = owned.clone();
    repeated.dims.kv_heads = 4;
    let mut random = Random(0);
    let repeat = |array: &Array<f32>, random: &mut Random| {
        let mut wide = Array::new([2, 4, 53, 16], Lay::Plain, 0.0, || random.normal() as f32);
        for [b, h, j, d] in indices([2, 4, 53, 16]) {
            wide.set([b, h, j, d], array.get([b, h / 2, j, d]));
        }
        wide
    };
    repeated.key = repeat(&owned.key, &mut random);
    repeated.value = repeat(&owned.value, &mut random);
    let oracle = owned.oracle();
    for isa in Isa::available() {
        let (out, lse) = repeated.run(isa);
        assert_eq!(oracle.check::<f32>(isa, &out, &lse), Ok(()));
    }
}

/// The message of the error that a call gives.
fn refusal(problem: &Attention<'_, f32>, out: usize, lse: usize) -> String {
    let (mut out, mut lse) = (vec![0.0; out], vec![0.0; lse]);
    match forward(problem, Isa::Portable, &mut out, Some(&mut lse)) {
        Err(error) => error.to_string(),
        Ok(()) => panic!("should have been refused"),
    }
}

#[test]
fn errors_name_argument_expected_and_found() {
    let owned = Owned::<f32>::plain(DIMS, 14);
    let good = owned.problem();
    let (out, lse) = (2 * 4 * 21 * 16, 2 * 4 * 21);
    let data = vec![0.0_f32; 100_000];
    let view = |shape| View::contiguous(&data, shape).expect("enough data");
    let says = |problem: Attention<'_, f32>, words: &str| {
        let found = refusal(&problem, out, lse);
        assert!(found.starts_with(words), "{found}");
    };
    says(Attention { key: view([2, 2, 53, 15]), ..good }, "key: expected shape [2, 2, 53, 16], found [2, 2, 53, 15]");
    says(Attention { key: view([1, 2, 53, 16]), ..good }, "key: expected shape [2, 2, 53, 16], found [1, 2, 53, 16]");
    says(
        Attention { value: view([2, 2, 52, 16]), ..good },
        "value: expected shape [2, 2, 53, 16], found [2, 2, 52, 16]",
    );
    let three = Attention { key: view([2, 3, 53, 16]), value: view([2, 3, 53, 16]), ..good };
    says(three, "key: expected kv_heads that divide 4 heads, found 3");
    let none = Attention { key: view([2, 0, 53, 16]), value: view([2, 0, 53, 16]), ..good };
    says(none, "key: expected kv_heads that divide 4 heads, found 0");
    says(Attention { query: view([2, 4, 21, 0]), ..good }, "query: expected a head_dim of at least 1, found 0");
    says(Attention { scale: f64::NAN, ..good }, "scale: expected a finite number, found NaN");
    says(Attention { softcap: Some(0.0), ..good }, "softcap: expected a finite number above 0, found 0");
    says(Attention { softcap: Some(f64::NAN), ..good }, "softcap: expected a finite number above 0, found NaN");
    says(Attention { bands: &[], ..good }, "bands: expected 2 elements, found 0");
    let long = [Band::full(54), Band::full(1)];
    says(Attention { bands: &long, ..good }, "bands: expected at most 53 keys, found 54");
    says(
        Attention { bias: Some(view([2, 4, 21, 1])), ..good },
        "bias: expected shape [2, 4, 21, 53], found [2, 4, 21, 1]",
    );
    says(Attention { alibi_slopes: Some(&data[..3]), ..good }, "alibi_slopes: expected 4 elements, found 3");
    let table = |shape| Attention { relative_bias: Some(View::contiguous(&data, shape).expect("enough")), ..good };
    says(table([4, 2]), "relative_bias: expected shape [4, an odd number of distances], found [4, 2]");
    says(table([1, 3]), "relative_bias: expected shape [4, an odd number of distances], found [1, 3]");
    says(Attention { sinks: Some(&data[..5]), ..good }, "sinks: expected 4 elements, found 5");
    assert_eq!(refusal(&good, out - 1, lse), format!("out: expected {out} elements, found {}", out - 1));
    assert_eq!(refusal(&good, out, lse + 1), format!("lse: expected {lse} elements, found {}", lse + 1));
    let bytes = vec![0_u8; 10];
    let mask = attn_cpu::Mask { view: View::contiguous(&bytes, [1, 1, 1, 10]).expect("enough"), seen_when: true };
    says(Attention { mask: Some(mask), ..good }, "mask: expected shape [2, 4, 21, 53], found [1, 1, 1, 10]");
}

#[test]
fn views_are_checked_against_their_data() {
    let data = [0.0_f32; 24];
    assert!(View::new(&data, [2, 3, 4], [12, 4, 1]).is_ok());
    assert!(View::new(&data, [2, 3, 4], [0, 4, 1]).is_ok());
    assert!(View::new(&data, [2, 0, 4], [900, 900, 900]).is_ok());
    let short = View::new(&data, [2, 3, 4], [13, 4, 1]).expect_err("one past the end");
    assert!(matches!(short, CpuError::Length { argument: "view", found: 24, .. }), "{short}");
    assert!(View::new(&data, [usize::MAX, 2, 2], [usize::MAX, 1, 1]).is_err());
    assert!(View::new(&data, [2, 2, 2], [usize::MAX, usize::MAX, 1]).is_err());
}

#[test]
fn the_instruction_set_chosen_is_this_machines_own() {
    assert!(Isa::available().contains(&Isa::detect()) && Isa::available().contains(&Isa::Portable));
    assert!(!Isa::detect().is_modelled());
    // A 64-bit Arm has NEON always: there it is what runs, on the instructions themselves.
    assert_eq!(Isa::detect() == Isa::Neon, cfg!(target_arch = "aarch64"));
    // With the model the NEON kernel runs everywhere, and only there is it modelled off Arm.
    assert_eq!(Isa::Neon.is_available(), cfg!(any(target_arch = "aarch64", feature = "neon-model")));
}

#[test]
fn the_workspace_is_small_and_does_not_grow_with_length() {
    let at = |length| workspace_bytes::<f32>(Isa::detect(), 1, 8, 8, length, length, 64, 64, 2);
    assert!(at(16384) < 4 << 20, "{}", at(16384));
    assert!(at(1 << 20) < at(16384) + (1 << 20));
    assert!(
        workspace_bytes::<f32>(
            Isa::detect(),
            usize::MAX,
            8,
            8,
            usize::MAX,
            usize::MAX,
            usize::MAX,
            usize::MAX,
            usize::MAX
        ) > 0
    );
}
