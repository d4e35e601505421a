//! Which weights are dropped: Philox4x32-10 (Salmon et al. 2011) at the counter `(⌊j / 4⌋, i, h, b)`, whose word `j mod 4` is a weight's.

use burn_cubecl::cubecl;
use burn_cubecl::cubecl::prelude::*;

use crate::device::place::Scalars;

/// The words of four keys.
#[derive(CubeType, Clone, Copy)]
struct Words {
    a: u32,
    b: u32,
    c: u32,
    d: u32,
}

/// The words of a group of keys for query `i` of a head.
#[cube]
fn words(group: u32, i: usize, head: usize, batch: usize, scalars: &Scalars) -> Words {
    let mut a = group;
    let mut b = i as u32;
    let mut c = head as u32;
    let mut d = batch as u32;
    let mut low = scalars.seed_low;
    let mut high = scalars.seed_high;
    #[unroll]
    for _ in 0..10 {
        let first = a * 0xD251_1F53u32;
        let first_high = a.mul_hi(0xD251_1F53u32.runtime());
        let second = c * 0xCD9E_8D57u32;
        let second_high = c.mul_hi(0xCD9E_8D57u32.runtime());
        a = (second_high ^ b) ^ low;
        b = second;
        c = (first_high ^ d) ^ high;
        d = first;
        low += 0x9E37_79B9u32;
        high += 0xBB67_AE85u32;
    }
    Words { a, b, c, d }
}

/// 1 where the weight of key `j` is kept, 0 where it is dropped.
#[cube]
pub fn kept(j: usize, i: usize, head: usize, batch: usize, scalars: &Scalars) -> f32 {
    let words = words(j as u32 / 4, i, head, batch, scalars);
    let at = j % 4;
    let word = select(at < 2, select(at == 0, words.a, words.b), select(at == 2, words.c, words.d));
    select(word < scalars.threshold, f32::cast_from(0u32), f32::cast_from(1u32))
}

/// The same of `block` keys from `j0` on.
#[cube]
pub fn kept_from(
    j0: i32,
    i: usize,
    head: usize,
    batch: usize,
    scalars: &Scalars,
    #[comptime] block: usize,
) -> Array<f32> {
    let groups = comptime!((block + 6) / 4);
    let first = j0 as u32 / 4;
    let skipped = j0 as u32 % 4;
    let mut all = Array::<u32>::new(comptime!(4 * groups));
    #[unroll]
    for g in 0..groups {
        let words = words(first + g as u32, i, head, batch, scalars);
        all[comptime!(4 * g)] = words.a;
        all[comptime!(4 * g + 1)] = words.b;
        all[comptime!(4 * g + 2)] = words.c;
        all[comptime!(4 * g + 3)] = words.d;
    }
    let mut factors = Array::<f32>::new(block);
    #[unroll]
    for b in 0..block {
        // Indices known when the kernel is compiled, so that words stay in registers.
        let low = select(skipped == 0, all[b], all[comptime!(b + 1)]);
        let high = select(skipped == 2, all[comptime!(b + 2)], all[comptime!(b + 3)]);
        let word = select(skipped < 2, low, high);
        factors[b] = select(word < scalars.threshold, f32::cast_from(0u32), f32::cast_from(1u32));
    }
    factors
}
