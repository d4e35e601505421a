//! The backward pass by rows: each unit has query rows of its own, and goes over the keys as the forward pass does.
//!
//! ```text
//! for each cube: a tile of rows of the heads that share keys
//!   each unit, for each of its rows:  q, dOut,  dq = 0                                   in registers
//!     for each block of keys that some row of the cube may see:
//!       s_b = score(q·k_b), −∞ where hidden;  dP_b = dOut·v_b
//!       dP_b ← dP_b·(0 or 1/(1 − p)) where weights are dropped
//!       p_b = exp(s_b − base)·factor;  dS_b = p_b·(dP_b − shift), 0 where hidden
//!       sums of dS_b by slope and table;  dq += dS_b·(softcap's slope)·k_b               keys not taken where dS_b = 0
//!     dQ = scale·dq
//! ```
//!
//! With `refine` the same loop finds the rows' statistics anew, in tiles where the LSE of some row is too large to be exact.

use burn_cubecl::cubecl;
use burn_cubecl::cubecl::prelude::*;

use crate::device::backward::{Block, FACTOR, GRAD_LSE, SHIFT, STATISTICS, SUMS};
use crate::device::blocks::{BLOCK, half_word, is_visible, table_row};
use crate::device::dropout::kept_from;
use crate::device::fetch::fetch;
use crate::device::place::{Place, Scalars, facts, place, reach};
use crate::device::products::{add_columns, products};
use crate::device::score::{Options, Score, biased, cap_slope, capped, hides, relative_bias, seen};

/// The LSE beyond which its rounding is felt in the weights: here by 2·10⁻⁶.
pub const LARGE: u32 = 32;

/// What is known when the kernel is compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Config {
    /// D.
    pub head_dim: usize,
    /// E.
    pub value_dim: usize,
    /// Columns of dQ that this launch makes.
    pub columns: usize,
    /// How units go over the keys.
    pub block: Block,
    /// What a score goes through.
    pub options: Options,
    /// Whether the output has a gradient.
    pub by_out: bool,
    /// Whether it is the statistics that are made.
    pub refine: bool,
}

/// The kernel. Shapes as in forward.rs; dOut `[B, H, Sq, E]`, read where it has a meaning, statistics `[B, H, Sq, 4]`, dQ `[B, H, Sq, D]` and sums `[B, H, Sq, 3]`
/// contiguous.
#[cube(launch, address_type = "dynamic")]
pub fn attention_backward_rows<F: Float, M: Numeric, N: Size, W: Size>(
    query: &Tensor<Vector<F, N>>,
    key: &Tensor<Vector<F, N>>,
    value: &Tensor<Vector<F, W>>,
    grad_out: &Tensor<Vector<F, W>>,
    mask: ComptimeOption<&Tensor<M>>,
    bias: ComptimeOption<&Tensor<F>>,
    slopes: ComptimeOption<&Tensor<F>>,
    sinks: ComptimeOption<&Tensor<F>>,
    bands: ComptimeOption<&Tensor<i32>>,
    blocks: ComptimeOption<&Tensor<u32>>,
    relative: ComptimeOption<&Tensor<F>>,
    statistics: &mut Tensor<f32>,
    mut grad: ComptimeOption<&mut Tensor<Vector<F, N>>>,
    mut sums: ComptimeOption<&mut Tensor<f32>>,
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
        let columns = comptime!(config.columns / width);
        let own = comptime!(config.block.own);
        let block = comptime!(config.block.block);
        let edge = comptime!(config.block.edge);
        let options = comptime!(config.options);
        let zero = f32::cast_from(0u32);
        let one = f32::cast_from(1u32);

        let query_len = query.shape(2);
        let cube_rows = CUBE_DIM as usize * own;
        let reach = reach(&place, &scalars, query_len, cube_rows, &bands);
        let mut run = Run {
            first: 0i32.runtime(),
            end: reach.end,
            last_key: reach.keys - 1,
            key_base: place.batch * key.stride(0) + place.kv_head * key.stride(1),
            key_stride: key.stride(2),
            value_base: place.batch * value.stride(0) + place.kv_head * value.stride(1),
            value_stride: value.stride(2),
            first_column: scalars.first_column,
        };
        let first_statistic = (place.batch * scalars.heads + place.first_head) * query_len;
        if comptime!(config.refine) {
            // The same for all units of the cube, whichever rows are theirs.
            let mut largest = zero;
            for row in reach.first_row..min(reach.first_row + cube_rows, reach.rows) {
                let base = statistics[(first_statistic + row) * STATISTICS];
                largest = max(largest, max(base, -base));
            }
            if largest <= f32::cast_from(LARGE) {
                run.end = reach.start;
            }
        }
        let end = run.end;

        let mut state = Rows::<N, W> {
            facts: Sequence::new(),
            query: Array::new(comptime!(own * steps)),
            grad_out: Array::new(comptime!(own * out_steps)),
            acc: Array::new(comptime!(if columns == 0 { 1 } else { own * columns })),
            base: Array::new(own),
            factor: Array::new(own),
            shift: Array::new(own),
            sums: Array::new(comptime!(own * SUMS)),
            bits: Array::new(comptime!(2 * own)),
            table_at: Array::new(own),
            heads: Array::new(own),
            queries: Array::new(own),
        };
        #[unroll]
        for r in 0..own {
            // A unit without a row computes the last one again, and stores nothing.
            let row = min(reach.first_row + r * CUBE_DIM as usize + UNIT_POS as usize, reach.rows - 1);
            let head = place.first_head + row / query_len;
            let i = row % query_len;
            state.heads[r] = head;
            state.queries[r] = i;
            #[comptime]
            if let ComptimeOption::Some(table) = &relative {
                state.table_at[r] = head * table.stride(0);
            }
            state.facts.push(facts::<F, M>(&place, &reach, &scalars, head, i, &mask, &bias, &slopes));
            let query_at = (place.batch * query.stride(0) + head * query.stride(1) + i * query.stride(2)) / width;
            #[unroll]
            for d in 0..steps {
                state.query[r * steps + d] = Vector::cast_from(query[query_at + d]);
            }
            if comptime!(config.by_out) {
                let at =
                    (place.batch * grad_out.stride(0) + head * grad_out.stride(1) + i * grad_out.stride(2)) / out_width;
                #[unroll]
                for e in 0..out_steps {
                    state.grad_out[r * out_steps + e] = Vector::cast_from(grad_out[at + e]);
                }
            }
            #[unroll]
            for d in 0..columns {
                state.acc[r * columns + d] = Vector::new(0.0f32);
            }
            #[unroll]
            for which in 0..SUMS {
                state.sums[r * SUMS + which] = zero;
            }
            let at = (first_statistic + row) * STATISTICS;
            state.base[r] = statistics[at];
            state.factor[r] = statistics[at + FACTOR];
            state.shift[r] = statistics[at + SHIFT];
            if comptime!(config.refine) {
                // The largest score, the sum of exponentials, and that of theirs times dP.
                state.base[r] = scalars.neg_inf;
                state.factor[r] = zero;
                state.shift[r] = zero;
                #[comptime]
                if let ComptimeOption::Some(sinks) = &sinks {
                    let sink = f32::cast_from(sinks[head * sinks.stride(0)]);
                    state.base[r] = sink;
                    state.factor[r] = select(sink == scalars.neg_inf, zero, one);
                }
            }
        }

        #[comptime]
        match blocks {
            ComptimeOption::Some(blocks) => {
                let mut key_block = reach.start as usize / BLOCK;
                while ((key_block * BLOCK) as i32) < end {
                    if is_visible(blocks, &place, &reach, &scalars, query_len, cube_rows, key_block) {
                        #[unroll]
                        for r in 0..own {
                            let row = table_row(&place, &scalars, state.heads[r], state.queries[r]);
                            #[unroll]
                            for half in 0..2 {
                                state.bits[2 * r + half] =
                                    half_word(blocks, &scalars, row, key_block, state.queries[r], half);
                            }
                        }
                        // Steps end with the block, since the bits are its own.
                        let first = (key_block * BLOCK) as i32;
                        run.first = first;
                        run.end = min(first + BLOCK as i32, end);
                        let mut j0 = max(first, reach.start);
                        while j0 < run.end {
                            step::<F, M, N, W>(
                                j0, key, value, &mask, &bias, &relative, &place, &scalars, &run, &mut state, config,
                                block, true,
                            );
                            j0 += block as i32;
                        }
                    }
                    key_block += 1;
                }
            }
            ComptimeOption::None => {
                let mut j0 = reach.start;
                while j0 < end {
                    if comptime!(hides(options)) {
                        step::<F, M, N, W>(
                            j0, key, value, &mask, &bias, &relative, &place, &scalars, &run, &mut state, config, block,
                            true,
                        );
                        j0 += block as i32;
                    } else {
                        if j0 >= reach.all_start && j0 + block as i32 <= reach.all_end {
                            step::<F, M, N, W>(
                                j0, key, value, &mask, &bias, &relative, &place, &scalars, &run, &mut state, config,
                                block, false,
                            );
                            j0 += block as i32;
                        } else {
                            step::<F, M, N, W>(
                                j0, key, value, &mask, &bias, &relative, &place, &scalars, &run, &mut state, config,
                                edge, true,
                            );
                            j0 += edge as i32;
                        }
                    }
                }
            }
        }

        #[unroll]
        for r in 0..own {
            let row = reach.first_row + r * CUBE_DIM as usize + UNIT_POS as usize;
            if row < reach.rows {
                let row_at = first_statistic + row;
                if comptime!(config.refine) {
                    if end > reach.start {
                        let empty = state.factor[r] == zero;
                        let factor = select(empty, zero, one / state.factor[r]);
                        let at = row_at * STATISTICS;
                        statistics[at] = select(empty, zero, state.base[r]);
                        statistics[at + FACTOR] = factor;
                        statistics[at + SHIFT] = state.shift[r] * factor - statistics[at + GRAD_LSE];
                    }
                }
                #[comptime]
                if let ComptimeOption::Some(grad) = &mut grad {
                    let at = (row_at * comptime!(config.head_dim) + scalars.first_column) / width;
                    #[unroll]
                    for d in 0..columns {
                        grad[at + d] = Vector::cast_from(state.acc[r * columns + d] * Vector::new(scalars.scale));
                    }
                }
                #[comptime]
                if let ComptimeOption::Some(sums) = &mut sums {
                    #[unroll]
                    for which in 0..SUMS {
                        sums[row_at * SUMS + which] = state.sums[r * SUMS + which];
                    }
                }
            }
        }
    }
}

/// A cube's keys. Uniform over its units.
#[derive(CubeType, Clone, Copy)]
struct Run {
    /// The first key of the block of the mask by blocks.
    first: i32,
    end: i32,
    last_key: i32,
    key_base: usize,
    key_stride: usize,
    value_base: usize,
    value_stride: usize,
    first_column: usize,
}

/// A unit's rows. All indices are known when the kernel is compiled, so that these are registers.
#[derive(CubeType)]
struct Rows<N: Size, W: Size> {
    facts: Sequence<Score>,
    query: Array<Vector<f32, N>>,
    grad_out: Array<Vector<f32, W>>,
    acc: Array<Vector<f32, N>>,
    /// As in the statistics; where these are made: the largest score,
    base: Array<f32>,
    /// the sum of exponentials,
    factor: Array<f32>,
    /// and the sum of theirs times dP.
    shift: Array<f32>,
    sums: Array<f32>,
    /// Which keys of the block of the mask by blocks each row sees, two words a row.
    bits: Array<u32>,
    /// Where the head's table by relative position begins.
    table_at: Array<usize>,
    /// h.
    heads: Array<usize>,
    /// i.
    queries: Array<usize>,
}

/// Takes `block` keys from `j0` on into account. Where not `guarded`, every row sees them all.
#[cube]
#[allow(clippy::too_many_arguments, reason = "a kernel's tensors, handed on one by one")]
fn step<F: Float, M: Numeric, N: Size, W: Size>(
    j0: i32,
    key: &Tensor<Vector<F, N>>,
    value: &Tensor<Vector<F, W>>,
    mask: &ComptimeOption<&Tensor<M>>,
    bias: &ComptimeOption<&Tensor<F>>,
    relative: &ComptimeOption<&Tensor<F>>,
    place: &Place,
    scalars: &Scalars,
    run: &Run,
    rows: &mut Rows<N, W>,
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
    let zero = f32::cast_from(0u32);

    let mut key_at = Array::<usize>::new(block);
    let mut keys_at = Array::<usize>::new(block);
    let mut values_at = Array::<usize>::new(block);
    #[unroll]
    for b in 0..block {
        // Past the end the last key stands in; its score is hidden.
        let at = min(j0 + b as i32, run.last_key) as usize;
        key_at[b] = at;
        keys_at[b] = run.key_base + at * run.key_stride;
        values_at[b] = run.value_base + at * run.value_stride;
    }
    let keys = fetch::<F, N>(key, run.key_base, run.key_stride, j0, run.last_key, steps, block, plane);
    let mut s = products::<F, N>(&rows.query, key, &keys, &keys_at, steps, own, block, plane);
    let value_steps = comptime!(if config.by_out { out_steps } else { 0 });
    let values = fetch::<F, W>(value, run.value_base, run.value_stride, j0, run.last_key, value_steps, block, plane);
    // Zeros where the output has no gradient.
    let mut by_value = products::<F, W>(&rows.grad_out, value, &values, &values_at, value_steps, own, block, plane);
    #[unroll]
    for r in 0..own {
        if comptime!(options.dropout && config.by_out) {
            let kept = kept_from(j0, rows.queries[r], rows.heads[r], place.batch, scalars, block);
            #[unroll]
            for b in 0..block {
                by_value[r * block + b] *= kept[b] * scalars.kept;
            }
        }
        let facts = rows.facts.index(r);
        let mut slopes = Array::<f32>::new(block);
        #[unroll]
        for b in 0..block {
            let j = j0 + b as i32;
            let capped = capped(s[r * block + b], facts, options);
            slopes[b] = cap_slope(capped, facts, options);
            let mut x = biased::<F>(capped, key_at[b], j, facts, bias, options);
            x = relative_bias::<F>(x, j, facts, rows.table_at[r], relative);
            if comptime!(guarded) {
                let mut seen = seen::<M>(key_at[b], j, run.end, facts, mask, options);
                if comptime!(options.blocks) {
                    let at = (j - run.first) as u32;
                    let word = select(at < 32, rows.bits[comptime!(2 * r)], rows.bits[comptime!(2 * r + 1)]);
                    seen = seen && (word >> (at % 32)) & 1 == 1;
                }
                x = select(seen, x, facts.neg_inf);
            }
            s[r * block + b] = x;
        }
        if comptime!(config.refine) {
            refine(r, &s, &by_value, &mut rows.base, &mut rows.factor, &mut rows.shift, facts.neg_inf, block);
        } else {
            #[unroll]
            for b in 0..block {
                let x = s[r * block + b];
                let p = (x - rows.base[r]).exp() * rows.factor[r];
                let mut change = p * (by_value[r * block + b] - rows.shift[r]);
                let mut slope = slopes[b];
                if comptime!(guarded) {
                    // What is hidden may have products of NaN.
                    let hidden = x == facts.neg_inf;
                    change = select(hidden, zero, change);
                    slope = select(hidden, zero, slope);
                }
                add_sums::<F>(r, j0 + b as i32, change, &mut rows.sums, facts, relative, options);
                s[r * block + b] = change * slope;
            }
        }
    }
    add_columns::<F, N>(
        &mut rows.acc,
        &s,
        key,
        &keys,
        &keys_at,
        run.key_base,
        run.key_stride,
        j0,
        run.last_key,
        run.first_column,
        comptime!(config.columns / width),
        steps,
        own,
        block,
        plane,
        guarded,
    );
}

/// Takes row `r`'s scores of a block into its statistics: the online softmax, with dP in the place of a value.
#[cube]
#[allow(clippy::too_many_arguments, reason = "a unit's registers, handed on one by one")]
fn refine(
    #[comptime] r: usize,
    s: &Array<f32>,
    by_value: &Array<f32>,
    bases: &mut Array<f32>,
    sums: &mut Array<f32>,
    shifts: &mut Array<f32>,
    neg_inf: f32,
    #[comptime] block: usize,
) {
    let zero = f32::cast_from(0u32);
    let mut largest = bases[r];
    #[unroll]
    for b in 0..block {
        largest = max(largest, s[r * block + b]);
    }
    let base = select(largest == neg_inf, zero, largest);
    let fix = (bases[r] - base).exp();
    let mut sum = sums[r] * fix;
    let mut shift = shifts[r] * fix;
    #[unroll]
    for b in 0..block {
        let p = (s[r * block + b] - base).exp();
        sum += p;
        shift += select(p == zero, zero, p * by_value[r * block + b]);
    }
    bases[r] = largest;
    sums[r] = sum;
    shifts[r] = shift;
}

/// Adds the gradient by a score to the sums of its row: by the slope, and for the ends of the table.
#[cube]
fn add_sums<F: Float>(
    #[comptime] r: usize,
    j: i32,
    change: f32,
    sums: &mut Array<f32>,
    facts: &Score,
    relative: &ComptimeOption<&Tensor<F>>,
    #[comptime] options: Options,
) {
    let distance = j - facts.position;
    let zero = f32::cast_from(0u32);
    if comptime!(options.alibi) {
        sums[r * SUMS] -= change * f32::cast_from(max(distance, -distance));
    }
    #[comptime]
    if let ComptimeOption::Some(table) = relative {
        // A table of one number has but one end.
        let reach = (table.shape(1) / 2) as i32;
        sums[r * SUMS + 1] += select(distance <= -reach && reach > 0, change, zero);
        sums[r * SUMS + 2] += select(distance >= reach || reach == 0, change, zero);
    }
}
