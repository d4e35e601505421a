//! The backward pass by keys: each unit has keys and values of its own, and goes over the rows of all heads that read them.
//!
//! ```text
//! for each cube: a tile of keys of one key/value head
//!   each unit, for each of its keys:  k, v,  dk, dv = 0                                  in registers
//!     for each head of the group, for each block of rows that see some key of the cube:
//!       s_b = score(q_b·k), −∞ where hidden;  dP_b = dOut_b·v
//!       dP_b ← dP_b·(0 or 1/(1 − p)), and so p_b as dv takes it, where weights are dropped
//!       p_b = exp(s_b − base_b)·factor_b;  dS_b = p_b·(dP_b − shift_b), 0 where hidden
//!       dk += dS_b·(softcap's slope)·q_b;  dv += p_b·dOut_b                              rows not taken where these are 0
//!     dK = scale·dk,  dV = dv
//! ```

use burn_cubecl::cubecl;
use burn_cubecl::cubecl::prelude::*;

use crate::device::backward::{Block, FACTOR, SHIFT, STATISTICS};
use crate::device::blocks::{BLOCK, table_row};
use crate::device::dropout::kept;
use crate::device::fetch::fetch;
use crate::device::place::{Place, Reach, Scalars, facts, place, reach_of_keys};
use crate::device::products::{add_columns, products};
use crate::device::score::{Options, biased, cap_slope, capped, hides, relative_bias, seen};

/// What is known when the kernel is compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Config {
    /// D.
    pub head_dim: usize,
    /// E.
    pub value_dim: usize,
    /// Columns of dK that this launch makes.
    pub key_columns: usize,
    /// Columns of dV that it makes.
    pub value_columns: usize,
    /// How units go over the rows.
    pub block: Block,
    /// What a score goes through.
    pub options: Options,
    /// Whether the output has a gradient.
    pub by_out: bool,
}

/// The kernel. Shapes as in rows.rs; dK `[B, G, Sk, D]` and dV `[B, G, Sk, E]` contiguous. A tile is one of keys, and its heads are
/// those of the group.
#[cube(launch, address_type = "dynamic")]
pub fn attention_backward_keys<F: Float, M: Numeric, N: Size, W: Size>(
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
    mut grad_key: ComptimeOption<&mut Tensor<Vector<F, N>>>,
    mut grad_value: ComptimeOption<&mut Tensor<Vector<F, W>>>,
    scalars: Scalars,
    #[comptime] config: Config,
    #[define(F)] _element: ElemType,
    #[define(M)] _mask_element: ElemType,
) {
    let cube = CUBE_POS;
    if cube < scalars.cubes {
        let place = place(cube, &scalars);
        let width = N::value();
        let out_width = W::value();
        let steps = comptime!(config.head_dim / width);
        let out_steps = comptime!(config.value_dim / out_width);
        let key_columns = comptime!(config.key_columns / width);
        let value_columns = comptime!(config.value_columns / out_width);
        let own = comptime!(config.block.own);
        let block = comptime!(config.block.block);
        let edge = comptime!(config.block.edge);

        let query_len = query.shape(2);
        let key_len = key.shape(2);
        let cube_keys = CUBE_DIM as usize * own;
        let reach = reach_of_keys(&place, &scalars, query_len, key_len, cube_keys, &bands);

        let mut state = Keys::<N, W> {
            at: Array::new(own),
            key: Array::new(comptime!(own * steps)),
            value: Array::new(comptime!(own * out_steps)),
            grad_key: Array::new(comptime!(if key_columns == 0 { 1 } else { own * key_columns })),
            grad_value: Array::new(comptime!(if value_columns == 0 { 1 } else { own * value_columns })),
            kinds: Array::new(own),
        };
        #[unroll]
        for r in 0..own {
            // A unit without a key computes the last one again, and stores nothing.
            let j = min(reach.first_row + r * CUBE_DIM as usize + UNIT_POS as usize, key_len - 1);
            state.at[r] = j;
            let key_at = (place.batch * key.stride(0) + place.kv_head * key.stride(1) + j * key.stride(2)) / width;
            #[unroll]
            for d in 0..steps {
                state.key[r * steps + d] = Vector::cast_from(key[key_at + d]);
            }
            let value_at =
                (place.batch * value.stride(0) + place.kv_head * value.stride(1) + j * value.stride(2)) / out_width;
            #[unroll]
            for e in 0..out_steps {
                state.value[r * out_steps + e] = Vector::cast_from(value[value_at + e]);
            }
            #[unroll]
            for d in 0..key_columns {
                state.grad_key[r * key_columns + d] = Vector::new(0.0f32);
            }
            #[unroll]
            for e in 0..value_columns {
                state.grad_value[r * value_columns + e] = Vector::new(0.0f32);
            }
        }

        for in_group in 0..scalars.group {
            let head = place.first_head + in_group;
            let mut run = Run {
                head,
                end: reach.end,
                last_query: query_len as i32 - 1,
                query_base: place.batch * query.stride(0) + head * query.stride(1),
                query_stride: query.stride(2),
                out_base: place.batch * grad_out.stride(0) + head * grad_out.stride(1),
                out_stride: grad_out.stride(2),
                first_statistic: (place.batch * scalars.heads + head) * query_len,
            };
            #[comptime]
            match &blocks {
                ComptimeOption::Some(table) => {
                    let mut query_block = reach.start as usize / BLOCK;
                    while ((query_block * BLOCK) as i32) < reach.end {
                        let first = query_block * BLOCK;
                        let row = table_row(&place, &scalars, head, first);
                        if is_seen(&blocks, &reach, row, cube_keys) {
                            #[unroll]
                            for r in 0..own {
                                state.kinds[r] = table[row + state.at[r] / BLOCK];
                            }
                            // Steps end with the block, since the kinds are its own.
                            run.end = min((first + BLOCK) as i32, reach.end);
                            let mut i0 = max(first as i32, reach.start);
                            while i0 < run.end {
                                step::<F, M, N, W>(
                                    i0, query, grad_out, &mask, &bias, &slopes, &blocks, &relative, statistics, &place,
                                    &reach, &scalars, &run, &mut state, config, block, true,
                                );
                                i0 += block as i32;
                            }
                        }
                        query_block += 1;
                    }
                }
                ComptimeOption::None => {
                    let mut i0 = reach.start;
                    while i0 < reach.end {
                        if comptime!(hides(config.options)) {
                            step::<F, M, N, W>(
                                i0, query, grad_out, &mask, &bias, &slopes, &blocks, &relative, statistics, &place,
                                &reach, &scalars, &run, &mut state, config, block, true,
                            );
                            i0 += block as i32;
                        } else {
                            if i0 >= reach.all_start && i0 + block as i32 <= reach.all_end {
                                step::<F, M, N, W>(
                                    i0, query, grad_out, &mask, &bias, &slopes, &blocks, &relative, statistics, &place,
                                    &reach, &scalars, &run, &mut state, config, block, false,
                                );
                                i0 += block as i32;
                            } else {
                                step::<F, M, N, W>(
                                    i0, query, grad_out, &mask, &bias, &slopes, &blocks, &relative, statistics, &place,
                                    &reach, &scalars, &run, &mut state, config, edge, true,
                                );
                                i0 += edge as i32;
                            }
                        }
                    }
                }
            }
        }

        #[unroll]
        for r in 0..own {
            let j = reach.first_row + r * CUBE_DIM as usize + UNIT_POS as usize;
            if j < key_len {
                let row = (place.batch * (scalars.heads / scalars.group) + place.kv_head) * key_len + j;
                #[comptime]
                if let ComptimeOption::Some(grad) = &mut grad_key {
                    let at = (row * comptime!(config.head_dim) + scalars.first_column) / width;
                    #[unroll]
                    for d in 0..key_columns {
                        grad[at + d] =
                            Vector::cast_from(state.grad_key[r * key_columns + d] * Vector::new(scalars.scale));
                    }
                }
                #[comptime]
                if let ComptimeOption::Some(grad) = &mut grad_value {
                    let at = (row * comptime!(config.value_dim) + scalars.first_column) / out_width;
                    #[unroll]
                    for e in 0..value_columns {
                        grad[at + e] =
                            Vector::cast_from(state.grad_value[r * value_columns + e] * Vector::new(scalars.kept));
                    }
                }
            }
        }
    }
}

/// Whether a block of queries, whose row of blocks begins at `row`, sees anything of a cube's keys. Uniform over its units.
#[cube]
fn is_seen(blocks: &ComptimeOption<&Tensor<u32>>, reach: &Reach, row: usize, cube_keys: usize) -> bool {
    let last = min(reach.first_row + cube_keys, reach.rows) - 1;
    let mut kinds = 0u32.runtime();
    #[comptime]
    if let ComptimeOption::Some(table) = blocks {
        for key_block in reach.first_row / BLOCK..last / BLOCK + 1 {
            kinds |= table[row + key_block];
        }
    }
    kinds != 0
}

/// The rows of a head. Uniform over a cube's units.
#[derive(CubeType, Clone, Copy)]
struct Run {
    head: usize,
    end: i32,
    last_query: i32,
    query_base: usize,
    query_stride: usize,
    out_base: usize,
    out_stride: usize,
    first_statistic: usize,
}

/// A unit's keys. All indices are known when the kernel is compiled, so that these are registers.
#[derive(CubeType)]
struct Keys<N: Size, W: Size> {
    /// j.
    at: Array<usize>,
    key: Array<Vector<f32, N>>,
    value: Array<Vector<f32, W>>,
    grad_key: Array<Vector<f32, N>>,
    grad_value: Array<Vector<f32, W>>,
    /// The table's entry of each key's block for the block of queries.
    kinds: Array<u32>,
}

/// Takes `block` rows from `i0` on into account. Where not `guarded`, each sees all keys.
#[cube]
#[allow(clippy::too_many_arguments, reason = "a kernel's tensors, handed on one by one")]
fn step<F: Float, M: Numeric, N: Size, W: Size>(
    i0: i32,
    query: &Tensor<Vector<F, N>>,
    grad_out: &Tensor<Vector<F, W>>,
    mask: &ComptimeOption<&Tensor<M>>,
    bias: &ComptimeOption<&Tensor<F>>,
    slopes: &ComptimeOption<&Tensor<F>>,
    blocks: &ComptimeOption<&Tensor<u32>>,
    relative: &ComptimeOption<&Tensor<F>>,
    statistics: &Tensor<f32>,
    place: &Place,
    reach: &Reach,
    scalars: &Scalars,
    run: &Run,
    keys: &mut Keys<N, W>,
    #[comptime] config: Config,
    #[comptime] block: usize,
    #[comptime] guarded: bool,
) {
    let width = N::value();
    let out_width = W::value();
    let steps = comptime!(config.head_dim / width);
    let out_steps = comptime!(config.value_dim / out_width);
    let own = comptime!(config.block.own);
    let plane = comptime!(config.block.plane);
    let options = comptime!(config.options);
    // dV alone needs no dP, and dK none where the output has no gradient.
    let by_value_steps = comptime!(if config.by_out && config.key_columns > 0 { out_steps } else { 0 });
    let fetched_steps = comptime!(if config.by_out { out_steps } else { 0 });
    let zero = f32::cast_from(0u32);

    let mut query_at = Array::<usize>::new(block);
    let mut queries_at = Array::<usize>::new(block);
    let mut outs_at = Array::<usize>::new(block);
    #[unroll]
    for b in 0..block {
        // Past the end the last row stands in; its scores are hidden.
        let at = min(i0 + b as i32, run.last_query) as usize;
        query_at[b] = at;
        queries_at[b] = run.query_base + at * run.query_stride;
        outs_at[b] = run.out_base + at * run.out_stride;
    }
    let queries = fetch::<F, N>(query, run.query_base, run.query_stride, i0, run.last_query, steps, block, plane);
    let outs = fetch::<F, W>(grad_out, run.out_base, run.out_stride, i0, run.last_query, fetched_steps, block, plane);
    let mut s = products::<F, N>(&keys.key, query, &queries, &queries_at, steps, own, block, plane);
    let mut weights = products::<F, W>(&keys.value, grad_out, &outs, &outs_at, by_value_steps, own, block, plane);
    #[unroll]
    for b in 0..block {
        let i = query_at[b];
        let facts = facts::<F, M>(place, reach, scalars, run.head, i, mask, bias, slopes);
        let at = (run.first_statistic + i) * STATISTICS;
        let base = statistics[at];
        let factor = statistics[at + FACTOR];
        let shift = statistics[at + SHIFT];
        #[unroll]
        for r in 0..own {
            let j = keys.at[r] as i32;
            let capped = capped(s[r * block + b], &facts, options);
            let mut x = biased::<F>(capped, keys.at[r], j, &facts, bias, options);
            x = relative_bias::<F>(x, j, &facts, table_at(relative, run.head), relative);
            if comptime!(guarded) {
                let mut seen = seen::<M>(keys.at[r], j, reach.keys, &facts, mask, options);
                seen = seen && i0 + (b as i32) < run.end;
                if comptime!(options.blocks) {
                    seen = seen && is_in_block(blocks, scalars, keys.kinds[r], i, keys.at[r]);
                }
                x = select(seen, x, facts.neg_inf);
            }
            let p = (x - base).exp() * factor;
            let mut by_out = weights[r * block + b];
            let mut dropped = p;
            if comptime!(options.dropout) {
                let kept = kept(keys.at[r], i, run.head, place.batch, scalars);
                by_out *= kept * scalars.kept;
                dropped *= kept;
            }
            let mut change = p * (by_out - shift) * cap_slope(capped, &facts, options);
            if comptime!(guarded) {
                // What is hidden may have products of NaN.
                let hidden = x == facts.neg_inf;
                dropped = select(hidden, zero, dropped);
                change = select(hidden, zero, change);
            }
            s[r * block + b] = change;
            weights[r * block + b] = dropped;
        }
    }
    add_columns::<F, N>(
        &mut keys.grad_key,
        &s,
        query,
        &queries,
        &queries_at,
        run.query_base,
        run.query_stride,
        i0,
        run.last_query,
        scalars.first_column,
        comptime!(config.key_columns / width),
        steps,
        own,
        block,
        plane,
        guarded,
    );
    add_columns::<F, W>(
        &mut keys.grad_value,
        &weights,
        grad_out,
        &outs,
        &outs_at,
        run.out_base,
        run.out_stride,
        i0,
        run.last_query,
        scalars.first_column,
        comptime!(config.value_columns / out_width),
        out_steps,
        own,
        block,
        plane,
        guarded,
    );
}

/// Where a head's table by relative position begins.
#[cube]
pub fn table_at<F: Float>(table: &ComptimeOption<&Tensor<F>>, head: usize) -> usize {
    #[comptime]
    match table {
        ComptimeOption::Some(table) => head * table.stride(0),
        ComptimeOption::None => 0usize.runtime(),
    }
}

/// Whether query `i` sees key `j` of a block whose entry in the table is `kind`.
#[cube]
pub fn is_in_block(blocks: &ComptimeOption<&Tensor<u32>>, scalars: &Scalars, kind: u32, i: usize, j: usize) -> bool {
    let mut word = select(kind == 0, 0u32.runtime(), u32::MAX.runtime());
    #[comptime]
    if let ComptimeOption::Some(blocks) = blocks {
        if kind > 1 {
            let half = j % BLOCK / 32;
            word = blocks[scalars.patterns_at + ((kind - 2) as usize * BLOCK + i % BLOCK) * 2 + half];
        }
    }
    (word >> (j % 32) as u32) & 1 == 1
}
