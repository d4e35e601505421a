//! Attention in one pass over the keys, each unit with query rows of its own.
//!
//! ```text
//! for each cube: a tile of rows of the heads that share keys, a run of keys (a split)      cubes differ in `Place`
//!   each unit, for each of its rows:  q = the row,  acc = 0,  m = −∞,  l = 0               in registers
//!     for each block of keys that some row of the cube may see:                            band and mask by blocks skip others
//!       s_b  = q·k_b for the block's keys                                                  one load of a key serves all rows
//!       s_b  = score(s_b), −∞ where hidden                                                 score.rs
//!       m'   = max(m, max s_b),  p_b = exp(s_b − m'),  l = l·exp(m − m') + Σ p_b           the online softmax (Milakov 2018)
//!       acc  = acc·exp(m − m') + Σ p_b·v_b                                                 not read where p_b = 0
//!     out = acc/l,  lse = m + ln l
//! ```
//!
//! No unit needs another: no shared memory, no barrier, no subgroups; a key's address is the same for all units of a cube, so that
//! one load serves them. Loops over a row are unrolled, for only what has a fixed place is kept in registers. Scores are never
//! stored. With several splits a cube's result is partial, and `merge.rs` joins them.
//!
//! Software drivers are the exception. There a load is a loop over the units of a plane, which costs as much when all load the same.
//! So each unit of a plane loads another part of the block, and they hear it from each other by broadcasts, which are one
//! instruction (fetch.rs); host/machine.rs tries beforehand whether they do. Blocks of which a row sees only a part are
//! taken key by key there, since a second block of full size would double what the driver has to compile.

use burn_cubecl::cubecl;
use burn_cubecl::cubecl::prelude::*;

use crate::device::blocks::{BLOCK, half_word, is_visible, table_row};
use crate::device::dropout::kept_from;
use crate::device::fetch::fetch;
use crate::device::place::{Place, Scalars, facts, place, reach};
use crate::device::products::{accumulate, products};
use crate::device::score::{Options, Score, hides, relative_bias, score, seen};

/// What is known when the kernel is compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Config {
    /// D.
    pub head_dim: usize,
    /// Columns of the output that this launch makes.
    pub columns: usize,
    /// Rows of a unit.
    pub rows: usize,
    /// Keys of a block: scores that a unit holds for each of its rows.
    pub block: usize,
    /// Keys of a block of which some are hidden, or which is not whole.
    pub edge: usize,
    /// Units that load together and tell each other what they loaded; 0 where each loads for itself.
    pub plane: usize,
    /// What a score goes through.
    pub options: Options,
}

/// The kernel. Shapes: query `[B, H, Sq, D]`, key `[B, G, Sk, D]`, value `[B, G, Sk, E]`, mask and bias `[B, H, Sq, Sk]` by strides
/// that may be 0, slopes and sinks `[H]`, the table by relative position `[H, 2·R + 1]`, bands `[B, 4]` of offset,
/// lower and upper bound of `j − i`, and keys, where not all are those of the scalars; out `[splits, B, H, Sq, E]` contiguous, lse
/// `[splits, B, H, Sq]`.
#[cube(launch, address_type = "dynamic")]
pub fn attention_forward<F: Float, O: Float, M: Numeric, N: Size, W: Size>(
    query: &Tensor<Vector<F, N>>,
    key: &Tensor<Vector<F, N>>,
    value: &Tensor<Vector<F, W>>,
    mask: ComptimeOption<&Tensor<M>>,
    bias: ComptimeOption<&Tensor<F>>,
    slopes: ComptimeOption<&Tensor<F>>,
    sinks: ComptimeOption<&Tensor<F>>,
    bands: ComptimeOption<&Tensor<i32>>,
    blocks: ComptimeOption<&Tensor<u32>>,
    relative: ComptimeOption<&Tensor<F>>,
    out: &mut Tensor<Vector<O, W>>,
    mut lse: ComptimeOption<&mut Tensor<f32>>,
    scalars: Scalars,
    #[comptime] config: Config,
    #[define(F)] _element: ElemType,
    #[define(O)] _out_element: ElemType,
    #[define(M)] _mask_element: ElemType,
) {
    let cube = CUBE_POS;
    if cube < scalars.cubes {
        let place = place(cube, &scalars);
        let width = N::value();
        let out_width = W::value();
        let steps = comptime!(config.head_dim / width);
        let out_steps = comptime!(config.columns / out_width);
        let block = comptime!(config.block);
        let edge = comptime!(config.edge);
        let options = comptime!(config.options);
        let neg_inf = scalars.neg_inf;
        let zero = f32::cast_from(0u32);

        let query_len = query.shape(2);
        let own = comptime!(config.rows);
        let reach = reach(&place, &scalars, query_len, CUBE_DIM as usize * own, &bands);
        let mut run = Run {
            first: 0i32.runtime(),
            end: reach.end,
            last_key: reach.keys - 1,
            key_base: place.batch * key.stride(0) + place.kv_head * key.stride(1),
            key_stride: key.stride(2),
            value_base: place.batch * value.stride(0) + place.kv_head * value.stride(1) + scalars.first_column,
            value_stride: value.stride(2),
            neg_inf,
        };

        // What belongs to a row. A unit's rows lie a cube apart, so that neighbours read neighbours.
        let mut state = Rows::<N, W> {
            facts: Sequence::new(),
            q: Array::new(comptime!(own * steps)),
            acc: Array::new(comptime!(own * out_steps)),
            m: Array::new(own),
            l: Array::new(own),
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
                state.q[r * steps + d] = Vector::cast_from(query[query_at + d]);
            }
            #[unroll]
            for e in 0..out_steps {
                state.acc[r * out_steps + e] = Vector::new(0.0f32);
            }
            state.m[r] = neg_inf;
            state.l[r] = zero;
            #[comptime]
            if let ComptimeOption::Some(sinks) = &sinks {
                let sink = f32::cast_from(sinks[head * sinks.stride(0)]);
                state.m[r] = sink;
                state.l[r] = select(sink == neg_inf, zero, f32::cast_from(1u32));
            }
        }

        #[comptime]
        match blocks {
            ComptimeOption::Some(blocks) => {
                let cube_rows = CUBE_DIM as usize * own;
                let mut key_block = reach.start as usize / BLOCK;
                while ((key_block * BLOCK) as i32) < reach.end {
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
                        run.end = min(first + BLOCK as i32, reach.end);
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
                while j0 < reach.end {
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
            if reach.first_row + r * CUBE_DIM as usize + (UNIT_POS as usize) < reach.rows {
                let empty = state.l[r] == zero;
                let inverse = select(empty, zero, scalars.kept / state.l[r]);
                let batches = query.shape(0);
                let place_of_row = ((place.split * batches + place.batch) * scalars.heads + state.heads[r]) * query_len
                    + state.queries[r];
                let out_at = (place_of_row * value.shape(3) + scalars.first_column) / out_width;
                #[unroll]
                for e in 0..out_steps {
                    out[out_at + e] = Vector::cast_from(state.acc[r * out_steps + e] * Vector::new(inverse));
                }
                #[comptime]
                if let ComptimeOption::Some(lse) = &mut lse {
                    lse[place_of_row] = select(empty, neg_inf, state.m[r] + state.l[r].ln());
                }
            }
        }
    }
}

/// A cube's run of keys. Uniform over its units.
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
    neg_inf: f32,
}

/// A unit's rows. All indices are known when the kernel is compiled, so that these are registers.
#[derive(CubeType)]
struct Rows<N: Size, W: Size> {
    facts: Sequence<Score>,
    q: Array<Vector<f32, N>>,
    acc: Array<Vector<f32, W>>,
    m: Array<f32>,
    l: Array<f32>,
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
    let out_steps = comptime!(config.columns / out_width);
    let own = comptime!(config.rows);
    let plane = comptime!(config.plane);
    let zero = f32::cast_from(0u32);

    let keys = fetch::<F, N>(key, run.key_base, run.key_stride, j0, run.last_key, steps, block, plane);
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
    let mut s = products::<F, N>(&rows.q, key, &keys, &keys_at, steps, own, block, plane);
    let mut fix = Array::<f32>::new(own);
    #[unroll]
    for r in 0..own {
        let facts = rows.facts.index(r);
        let mut m_new = rows.m[r];
        #[unroll]
        for b in 0..block {
            let j = j0 + b as i32;
            let mut x = score::<F>(s[r * block + b], key_at[b], j, facts, bias, config.options);
            x = relative_bias::<F>(x, j, facts, rows.table_at[r], relative);
            if comptime!(guarded) {
                let mut seen = seen::<M>(key_at[b], j, run.end, facts, mask, config.options);
                if comptime!(config.options.blocks) {
                    let at = (j - run.first) as u32;
                    let word = select(at < 32, rows.bits[comptime!(2 * r)], rows.bits[comptime!(2 * r + 1)]);
                    seen = seen && (word >> (at % 32)) & 1 == 1;
                }
                x = select(seen, x, run.neg_inf);
            }
            s[r * block + b] = x;
            m_new = max(m_new, x);
        }
        // A row that has seen nothing yet: 0 in place of −∞, so that exp(−∞ − 0) = 0.
        let base = select(m_new == run.neg_inf, zero, m_new);
        fix[r] = (rows.m[r] - base).exp();
        let mut sum = rows.l[r] * fix[r];
        #[unroll]
        for b in 0..block {
            let p = (s[r * block + b] - base).exp();
            s[r * block + b] = p;
            sum += p;
        }
        rows.l[r] = sum;
        rows.m[r] = m_new;
        if comptime!(config.options.dropout) {
            // Of the weights that are in the sum.
            let kept = kept_from(j0, rows.queries[r], rows.heads[r], place.batch, scalars, block);
            #[unroll]
            for b in 0..block {
                s[r * block + b] *= kept[b];
            }
        }
    }
    #[unroll]
    for r in 0..own {
        #[unroll]
        for e in 0..out_steps {
            rows.acc[r * out_steps + e] = rows.acc[r * out_steps + e] * Vector::new(fix[r]);
        }
    }
    let values = fetch::<F, W>(value, run.value_base, run.value_stride, j0, run.last_key, out_steps, block, plane);
    // What has no weight is not taken: it may be NaN.
    accumulate::<F, W>(&mut rows.acc, &s, value, &values, &values_at, out_steps, own, block, plane, guarded);
}
