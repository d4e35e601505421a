//! The outputs of a plane's rows again, number by number, where a value is not finite: what has no weight is passed over.

use burn_cubecl::cubecl;
use burn_cubecl::cubecl::prelude::*;

use super::parts::{HUGE, power, product};
use super::{Config, VECTOR};
use crate::device::place::{Place, Reach, Scalars};
use crate::device::score::{Score, score, seen};

/// The sums of a plane's rows, as the kernel holds them, of weights times 2^`lift` by the maxima `m` of all keys.
#[cube]
#[allow(clippy::too_many_arguments, reason = "a kernel's variables, handed on one by one")]
pub fn added_again<F: Float, M: Numeric, N: Size, W: Size, E: Size>(
    query: &Tensor<Vector<F, N>>,
    key: &Tensor<Vector<F, N>>,
    value: &Tensor<Vector<F, W>>,
    place: &Place,
    reach: &Reach,
    scalars: &Scalars,
    rows: &Sequence<Score>,
    m: &Array<f32>,
    factor: f32,
    lift: f32,
    mask: &ComptimeOption<&Tensor<M>>,
    bias: &ComptimeOption<&Tensor<F>>,
    #[comptime] config: Config,
) -> Vector<f32, E> {
    let zero = f32::cast_from(0u32);
    let mut acc = Vector::<f32, E>::new(zero);
    let query_len = query.shape(2);
    let lane = UNIT_POS as usize % 32;
    let g = lane / 4;
    let t = lane % 4;
    let plane_row = UNIT_POS as usize / 32 * 16;
    let key_base = place.batch * key.stride(0) + place.kv_head * key.stride(1);
    let value_base = place.batch * value.stride(0) + place.kv_head * value.stride(1) + scalars.first_column;
    #[unroll]
    for r in 0..2usize {
        let row = min(reach.first_row + plane_row + g + 8 * r, reach.rows - 1);
        let head = place.first_head + row / query_len;
        let query_base = place.batch * query.stride(0) + head * query.stride(1) + row % query_len * query.stride(2);
        let of_row = rows.index(r);
        let level = select(m[r] == scalars.neg_inf, zero, m[r]);
        let mut j = reach.start;
        while j < reach.end {
            // The four units that share a row share its dimensions.
            let key_at = (key_base + j as usize * key.stride(2)) / VECTOR;
            let mut dot = zero;
            let mut d = t;
            while d < comptime!(config.head_dim / VECTOR) {
                let a = query[query_base / VECTOR + d];
                let b = key[key_at + d];
                #[unroll]
                for c in 0..VECTOR {
                    dot = fma(f32::cast_from(a.extract(c)), f32::cast_from(b.extract(c)), dot);
                }
                d += 4;
            }
            dot = dot + plane_shuffle_xor(dot, 1u32);
            dot = dot + plane_shuffle_xor(dot, 2u32);
            let mut x = dot;
            if comptime!(!config.plain) {
                x = score::<F>(dot, j as usize, j, of_row, bias, config.options);
            }
            let seen = seen::<M>(j as usize, j, reach.end, of_row, mask, config.options);
            let mut exponent = fma(x, factor, lift - level);
            if level.abs() > comptime!(HUGE).runtime() {
                exponent = product(&x, &factor) + (lift - level);
            }
            let p = select(seen, power(&exponent), zero);
            if p != zero {
                let value_at = (value_base + j as usize * value.stride(2)) / VECTOR;
                #[unroll]
                for e in 0..comptime!(config.columns / VECTOR) {
                    let v = value[value_at + e];
                    #[unroll]
                    for c in 0..2usize {
                        let mut of_lane = v.extract(c);
                        #[unroll]
                        for other in 1..4usize {
                            of_lane = select(t == other, v.extract(2 * other + c), of_lane);
                        }
                        let at = comptime!(e * 4 + r * 2 + c);
                        acc.insert(at, fma(p, f32::cast_from(of_lane), acc.extract(at)));
                    }
                }
            }
            j += 1;
        }
    }
    acc
}
