//! Lengths and dimensions around the tile sizes: one less, the same, one more, 1 and 0.

mod common;

use attn_cpu::Band;
use common::{Array, Dims, Lay, Owned, OwnedBlocks, Random, Real, check_all, few};
use half::{bf16, f16};

const BASE: Dims = Dims { batch: 1, heads: 2, kv_heads: 1, query_len: 7, key_len: 19, head_dim: 9, value_dim: 10 };

fn sweep<T: Real>(lengths: &[usize], set: impl Fn(&mut Dims, usize)) {
    for (seed, length) in lengths.iter().enumerate() {
        let mut dims = BASE;
        set(&mut dims, *length);
        for lay in [Lay::Plain, Lay::Swapped, Lay::Transposed, Lay::Padded] {
            let mut owned = Owned::<T>::laid(dims, lay, seed as u64);
            check_all(&owned);
            let offset = dims.key_len as i64 - dims.query_len as i64;
            owned.bands = vec![Band { offset, lower: None, upper: Some(0), keys: dims.key_len }];
            check_all(&owned);
        }
    }
}

/// Rows: strips of 6, tile heights of 1, 2 and 4, and two tasks.
const ROWS: [usize; 13] = [0, 1, 2, 3, 4, 5, 6, 7, 11, 12, 13, 191, 205];
/// Keys: vectors of 2 to 16, panels of 4 to 64, blocks of 256.
const KEYS: [usize; 22] = [0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 129, 255, 256, 257];
/// Dimensions: vectors and tiles of them.
const DIMS: [usize; 17] = [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 48, 63, 65, 129];

#[test]
fn query_len() {
    sweep::<f32>(&ROWS, |dims, n| dims.query_len = n);
    sweep::<f64>(&ROWS, |dims, n| dims.query_len = n);
    sweep::<f16>(&ROWS, |dims, n| dims.query_len = n);
    sweep::<bf16>(&ROWS, |dims, n| dims.query_len = n);
}

#[test]
fn key_len() {
    sweep::<f32>(&KEYS, |dims, n| dims.key_len = n);
    sweep::<f64>(&KEYS, |dims, n| dims.key_len = n);
    sweep::<f16>(&KEYS, |dims, n| dims.key_len = n);
    sweep::<bf16>(&KEYS, |dims, n| dims.key_len = n);
}

#[test]
fn head_dim() {
    sweep::<f32>(&DIMS, |dims, n| dims.head_dim = n);
    sweep::<f64>(&DIMS, |dims, n| dims.head_dim = n);
    sweep::<f16>(&DIMS, |dims, n| dims.head_dim = n);
    sweep::<bf16>(&DIMS, |dims, n| dims.head_dim = n);
}

#[test]
fn value_dim() {
    sweep::<f32>(&DIMS, |dims, n| dims.value_dim = n);
    sweep::<f64>(&DIMS, |dims, n| dims.value_dim = n);
    sweep::<f16>(&DIMS, |dims, n| dims.value_dim = n);
    sweep::<bf16>(&DIMS, |dims, n| dims.value_dim = n);
    sweep::<f32>(&[0], |dims, n| dims.value_dim = n);
}

#[test]
fn blocks() {
    for (seed, (query_len, key_len)) in [1, 63, 64, 65, 129].into_iter().flat_map(|q| KEYS.map(|k| (q, k))).enumerate()
    {
        for heads in [1, 3] {
            let dims = Dims { heads, query_len, key_len, ..BASE };
            let mut random = Random(seed as u64);
            let mut owned = Owned::<f32>::plain(dims, random.next());
            owned.blocks = Some(OwnedBlocks::random([1, heads, query_len, key_len], 4, false, &mut random));
            check_all(&owned);
            owned.bands = vec![Band { offset: 3, lower: Some(-70), upper: Some(5), keys: key_len * 3 / 4 }];
            check_all(&owned);
        }
    }
}

#[test]
fn single_query() {
    for key_len in KEYS {
        for heads in 1..=5 {
            let dims = Dims { heads, query_len: 1, key_len, head_dim: 33, value_dim: 48, ..BASE };
            check_all(&Owned::<f32>::plain(dims, 1));
            check_all(&Owned::<f64>::plain(dims, 2));
            check_all(&Owned::<f16>::plain(dims, 3));
            check_all(&Owned::<bf16>::plain(dims, 4));
        }
    }
}

#[test]
fn no_batch_no_heads() {
    check_all(&Owned::<f32>::plain(Dims { batch: 0, ..BASE }, 0));
    check_all(&Owned::<f32>::plain(Dims { heads: 0, ..BASE }, 0));
    check_all(&Owned::<f32>::plain(Dims { heads: 0, kv_heads: 0, ..BASE }, 0));
}

/// Keys split among threads, joined again: few rows, more keys than two parts have, rows that see keys of some parts alone, sinks, and
/// poison in hidden keys that no part may let through.
#[test]
fn keys_in_parts() {
    let lengths: &[usize] = if few() { &[2113] } else { &[2047, 2048, 2049, 2113, 3000, 4099] };
    for (seed, &key_len) in lengths.iter().enumerate() {
        for query_len in [1, 3, 5, 9] {
            let dims = Dims { query_len, key_len, value_dim: 16, ..BASE };
            in_parts::<f32>(dims, seed as u64);
            if query_len > 1 {
                in_parts::<f64>(dims, seed as u64);
                in_parts::<f16>(dims, seed as u64);
                in_parts::<bf16>(Dims { head_dim: 34, value_dim: 48, ..dims }, seed as u64);
            }
        }
    }
}

fn in_parts<T: Real>(dims: Dims, seed: u64) {
    let offset = dims.key_len as i64 - dims.query_len as i64;
    let mut owned = Owned::<T>::laid(dims, if seed.is_multiple_of(2) { Lay::Plain } else { Lay::Padded }, seed);
    check_all(&owned);
    owned.sinks = Some(vec![T::of(2.0); dims.heads]);
    for band in [
        Band { offset, lower: None, upper: Some(0), keys: dims.key_len },
        Band { offset, lower: Some(-700), upper: Some(0), keys: dims.key_len - 3 },
        Band { offset: 1030, lower: Some(-2), upper: Some(1), keys: dims.key_len },
        Band { offset: -2, lower: None, upper: Some(0), keys: dims.key_len },
    ] {
        owned.bands = vec![band];
        check_all(&owned);
    }
    owned.bands = vec![Band::full(1500)];
    for j in 1500..dims.key_len {
        for g in 0..dims.kv_heads {
            (0..dims.head_dim).for_each(|d| owned.key.set([0, g, j, d], T::of(f64::NAN)));
            (0..dims.value_dim).for_each(|e| owned.value.set([0, g, j, e], T::of(f64::INFINITY)));
        }
    }
    check_all(&owned);
}

/// Values wider than the product of a few rows takes at once, and rows of which it takes two at a time.
#[test]
fn few_rows_and_wide_values() {
    for value_dim in [16, 32, 48, 96, 112, 128, 144, 272] {
        for query_len in [1, 2, 4] {
            let dims = Dims { query_len, value_dim, key_len: 75, head_dim: 40, ..BASE };
            check_all(&Owned::<f32>::plain(dims, value_dim as u64));
            check_all(&Owned::<f16>::plain(dims, value_dim as u64));
            check_all(&Owned::<bf16>::plain(Dims { head_dim: 41, ..dims }, value_dim as u64));
        }
    }
}

/// Masks whose groups of 64 keys are hidden whole, seen whole or in part, for all rows, for some, for some heads; of either polarity, beside
/// a bias and a window, and where hidden keys hold NaN.
#[test]
fn masks_by_groups() {
    let kinds = [0_u8, 1, 2, 1, 0, 0, 2, 1, 1, 0, 2];
    for (query_len, key_len) in [(1, 640), (23, 700), (40, 129), (7, 64), (205, 600)] {
        if few() && query_len > 100 {
            continue;
        }
        let dims = Dims { query_len, key_len, value_dim: 16, ..BASE };
        for (seed, (heads, rows)) in [(1, 1), (1, query_len), (2, query_len)].into_iter().enumerate() {
            let mut at = 0;
            let keep = Array::new([1, heads, rows, key_len], Lay::Plain, 9, || {
                let (row, key) = (at / key_len, at % key_len);
                at += 1;
                match kinds[(key / 64 + row / 13) % kinds.len()] {
                    2 => u8::from((key * 7 + row * 3) % 5 < 3),
                    kind => kind,
                }
            });
            let shape = [1, dims.heads, query_len, key_len];
            masked::<f32>(dims, seed as u64, &keep.clone().broadcast(shape));
            masked::<bf16>(dims, seed as u64, &keep.broadcast(shape));
        }
    }
}

fn masked<T: Real>(dims: Dims, seed: u64, keep: &Array<u8>) {
    for polarity in [true, false] {
        let mut owned = Owned::<T>::plain(dims, seed);
        // The same bytes, of which the others are seen: what is hidden whole in the one is seen whole in the other.
        owned.mask = Some((keep.clone(), polarity));
        check_all(&owned);
        let offset = dims.key_len as i64 - dims.query_len as i64;
        owned.bands = vec![Band { offset, lower: Some(-130), upper: Some(2), keys: dims.key_len }];
        owned.softcap = Some(9.0);
        check_all(&owned);
        for j in 0..dims.key_len {
            let seen = |i| (0..dims.heads).any(|h| (keep.get([0, h, i, j]) != 0) == polarity);
            if !(0..dims.query_len).any(seen) {
                owned.key.set([0, 0, j, 0], T::of(f64::NAN));
                owned.value.set([0, 0, j, 1], T::of(f64::INFINITY));
            }
        }
        check_all(&owned);
    }
}
