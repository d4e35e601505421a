//! Gradients by the numbers of a bias, or of a table by relative position: each unit has a number of its own, and a run of the pairs that
//! read it, of which it makes the scores one by one.
//!
//! A number of a bias is read by the pairs along the axes on which the bias is broadcast; one of a table by a diagonal of each head's
//! scores, but for those at the ends, which all pairs beyond read: these are sums of the rows' (rows.rs).

use burn_cubecl::cubecl;
use burn_cubecl::cubecl::prelude::*;

use crate::device::backward::keys::{is_in_block, table_at};
use crate::device::backward::totals::{Target, place_of};
use crate::device::backward::{FACTOR, SHIFT, STATISTICS};
use crate::device::blocks::{BLOCK, table_row};
use crate::device::dropout::kept;
use crate::device::place::{Place, Scalars, bounds, facts};
use crate::device::score::{Options, biased, capped, relative_bias, seen};

/// Which pairs read which number.
#[derive(CubeLaunch, CubeType, Clone, Copy)]
pub struct Readers {
    /// Numbers.
    pub numbers: usize,
    /// Runs of the pairs that read a number.
    pub runs: usize,
    /// Pairs of a run.
    pub run: usize,
    /// Pairs that read a number.
    pub pairs: usize,
    /// Shape of the numbers: a bias's own `[B or 1, H or 1, Sq or 1, Sk or 1]`; of a table `[1, H or 1, 1, distances between its ends]`.
    pub heads: usize,
    /// Third axis.
    pub queries: usize,
    /// Fourth axis.
    pub keys: usize,
    /// Shape of the pairs that read a number: the other axes' lengths, and 1 for the numbers'.
    pub read_heads: usize,
    /// Third axis.
    pub read_queries: usize,
    /// Fourth axis.
    pub read_keys: usize,
}

/// What is known when the kernel is compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Config {
    /// D.
    pub head_dim: usize,
    /// E.
    pub value_dim: usize,
    /// What a score goes through.
    pub options: Options,
    /// Whether the output has a gradient.
    pub by_out: bool,
    /// Whether the numbers are those of a table between its ends; else those of a bias.
    pub table: bool,
}

/// The kernel, a unit for each number and run. Shapes as in rows.rs; out is the gradient, or `[runs, numbers]`.
#[cube(launch, address_type = "dynamic")]
pub fn attention_backward_pairs<F: Float, O: Float, M: Numeric, N: Size, W: Size>(
    query: &Tensor<Vector<F, N>>,
    key: &Tensor<Vector<F, N>>,
    value: &Tensor<Vector<F, W>>,
    grad_out: &Tensor<Vector<F, W>>,
    mask: ComptimeOption<&Tensor<M>>,
    bias: ComptimeOption<&Tensor<F>>,
    slopes: ComptimeOption<&Tensor<F>>,
    bands: ComptimeOption<&Tensor<i32>>,
    blocks: ComptimeOption<&Tensor<u32>>,
    relative: ComptimeOption<&Tensor<F>>,
    statistics: &Tensor<f32>,
    out: &mut Tensor<O>,
    scalars: Scalars,
    readers: Readers,
    target: Target,
    #[comptime] config: Config,
    #[define(F)] _element: ElemType,
    #[define(O)] _out_element: ElemType,
    #[define(M)] _mask_element: ElemType,
) {
    let unit = ABSOLUTE_POS;
    if unit < readers.numbers * readers.runs {
        let width = N::value();
        let out_width = W::value();
        let options = comptime!(config.options);
        let zero = f32::cast_from(0u32);
        let query_len = query.shape(2);
        let key_len = key.shape(2);
        let number = unit % readers.numbers;
        let first = unit / readers.numbers * readers.run;
        let mut sum = zero;
        for pair in first..min(first + readers.run, readers.pairs) {
            // Along each axis either the number or the pair has the place, and the other 0.
            let mut j = number % readers.keys + pair % readers.read_keys;
            let (number_row, pair_row) = (number / readers.keys, pair / readers.read_keys);
            let i = number_row % readers.queries + pair_row % readers.read_queries;
            let (number_head, pair_head) = (number_row / readers.queries, pair_row / readers.read_queries);
            let head = number_head % readers.heads + pair_head % readers.read_heads;
            let batch = number_head / readers.heads + pair_head / readers.read_heads;
            let place = Place {
                batch,
                first_head: head,
                kv_head: head / scalars.group,
                tile: 0usize.runtime(),
                split: 0usize.runtime(),
            };
            let band = bounds(batch, &scalars, &bands);
            let facts = facts::<F, M>(&place, &band, &scalars, head, i, &mask, &bias, &slopes);
            let mut is_key = true.runtime();
            if comptime!(config.table) {
                // The number's distance, from that next to the first end's on.
                let at = facts.position + number as i32 % readers.keys as i32 - (readers.keys / 2) as i32;
                is_key = at >= 0 && at < key_len as i32;
                j = select(is_key, at, 0i32) as usize;
            }
            let mut seen = is_key && seen::<M>(j, j as i32, band.keys, &facts, &mask, options);
            #[comptime]
            if let ComptimeOption::Some(table) = &blocks {
                let kind = table[table_row(&place, &scalars, head, i) + j / BLOCK];
                seen = seen && is_in_block(&blocks, &scalars, kind, i, j);
            }
            if seen {
                let query_at = (batch * query.stride(0) + head * query.stride(1) + i * query.stride(2)) / width;
                let key_at = (batch * key.stride(0) + place.kv_head * key.stride(1) + j * key.stride(2)) / width;
                let dot = product::<F, N>(query, query_at, key, key_at, comptime!(config.head_dim / width));
                let mut by_value = zero;
                if comptime!(config.by_out) {
                    let at =
                        (batch * grad_out.stride(0) + head * grad_out.stride(1) + i * grad_out.stride(2)) / out_width;
                    let value_at =
                        (batch * value.stride(0) + place.kv_head * value.stride(1) + j * value.stride(2)) / out_width;
                    by_value = product::<F, W>(grad_out, at, value, value_at, comptime!(config.value_dim / out_width));
                }
                if comptime!(options.dropout && config.by_out) {
                    by_value *= kept(j, i, head, batch, &scalars) * scalars.kept;
                }
                let mut x = capped(dot, &facts, options);
                x = biased::<F>(x, j, j as i32, &facts, &bias, options);
                x = relative_bias::<F>(x, j as i32, &facts, table_at(&relative, head), &relative);
                let at = ((batch * scalars.heads + head) * query_len + i) * STATISTICS;
                let p = (x - statistics[at]).exp() * statistics[at + FACTOR];
                let change = p * (by_value - statistics[at + SHIFT]);
                sum += select(x == facts.neg_inf, zero, change);
            }
        }
        out[place_of(unit, &target)] = O::cast_from(sum);
    }
}

/// `a · b`, in the order in which products.rs adds.
#[cube]
fn product<F: Float, N: Size>(
    a: &Tensor<Vector<F, N>>,
    a_at: usize,
    b: &Tensor<Vector<F, N>>,
    b_at: usize,
    #[comptime] steps: usize,
) -> f32 {
    let width = N::value();
    let mut sum = f32::cast_from(0u32);
    for d in 0..steps {
        let left = Vector::<f32, N>::cast_from(a[a_at + d]);
        let right = Vector::<f32, N>::cast_from(b[b_at + d]);
        #[unroll]
        for c in 0..width {
            sum = fma(left.extract(c), right.extract(c), sum);
        }
    }
    sum
}
