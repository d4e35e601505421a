//! Attention by the matrix instructions whose registers are known: scores, weights and outputs stay where they are made.
//!
//! ```text
//! for each cube: a tile of rows, 16 to a plane; a run of keys                              place.rs
//!   each plane:  q = its rows,  acc = 0                                                    registers
//!   for each block of keys that some row of the cube may see:
//!     values of the block, keys of the next, read while the last one was computed          in shared memory, for all planes
//!     x = score(s),  s = q·kᵀ of the next block                                            score.rs; registers
//!     the online softmax p, l, m' of x                                                     f32, where x lies
//!     p = p₁ + p₂ (+ p₃)                                                                    in the tensors' type, where s lies
//!     acc = acc·exp(m − m') + p₁·v + p₂·v (+ p₃·v)                                          registers
//!   out = acc/l,  lse = m + ln l
//! ```
//!
//! The instruction is `mma` of 16×8×16 (A 16×16, B 16×8, sums 16×8), as NVIDIA's cards have it. With g = lane/4 and t = lane%4, a lane
//! holds of the sums the columns 2t and 2t+1 of the rows g and g+8, and of A the same of both halves: so the weights of two matrices of
//! sums are, without a move, an A of the next product. Rows of shared memory are an odd number of 16-byte vectors long: `ldmatrix`
//! then reads eight of them from different banks. Weights are sums of narrow numbers as in matrix.rs, and values that are not finite
//! are added number by number as there.

pub mod block;

use burn_cubecl::cubecl;
use burn_cubecl::cubecl::cmma::{MatrixIdent, MmaDefinition};
use burn_cubecl::cubecl::prelude::*;

use self::block::{is_bad, keep, load, products, scores, zeros};
use crate::device::place::{Scalars, facts, place, reach};
use crate::device::score::{Options, Score};

/// Rows of a plane: those of A.
pub const ROWS: usize = 16;
/// Units of a plane.
pub const PLANE: usize = 32;
/// Elements of a vector of 16 bytes, which shared memory is made of.
pub const VECTOR: usize = 8;

/// What is known when the kernel is compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Config {
    /// D, a multiple of 16.
    pub head_dim: usize,
    /// Columns of the output that this launch makes, a multiple of 16.
    pub columns: usize,
    /// Planes of a cube.
    pub planes: usize,
    /// Keys of a block, a multiple of 16.
    pub block: usize,
    /// Numbers of the narrow type that a weight is the sum of.
    pub terms: usize,
    /// The bits of an f32 that the narrow type has room for.
    pub cut: u32,
    /// What weights are multiplied by on their way through the narrow type, a power of two.
    pub lift: u32,
    /// The bits of the exponents of two of the narrow numbers in a word: all ones in what is not finite.
    pub exponents: u32,
    /// What a score goes through.
    pub options: Options,
}

impl Config {
    /// Vectors from one row of `columns` to the next in shared memory, an odd number.
    pub fn pitch(&self, columns: usize) -> usize {
        columns / VECTOR + 1
    }

    /// Rows that the keys' place in shared memory holds, in two stages: queries pass through it first.
    pub fn key_rows(&self) -> usize {
        (2 * self.block).max(self.planes * ROWS)
    }

    /// Bytes of shared memory.
    pub fn shared_bytes(&self) -> usize {
        let vectors = self.key_rows() * self.pitch(self.head_dim) + 2 * self.block * self.pitch(self.columns);
        16 * vectors + 4 * (self.planes * ROWS * ROWS + 3)
    }
}

/// The kernel. Shapes as those of `attention_forward`; N and W are 8.
#[cube(launch, address_type = "dynamic")]
pub fn attention_mma<F: Float, O: Float, M: Numeric, N: Size, W: Size>(
    query: &Tensor<Vector<F, N>>,
    key: &Tensor<Vector<F, N>>,
    value: &Tensor<Vector<F, W>>,
    mask: ComptimeOption<&Tensor<M>>,
    bias: ComptimeOption<&Tensor<F>>,
    slopes: ComptimeOption<&Tensor<F>>,
    sinks: ComptimeOption<&Tensor<F>>,
    bands: ComptimeOption<&Tensor<i32>>,
    out: &mut Tensor<O>,
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
        let query_len = query.shape(2);
        let block = comptime!(config.block);
        let cube_rows = comptime!(config.planes * ROWS);
        let units = comptime!(config.planes * PLANE);
        let deep = comptime!(config.head_dim / ROWS);
        let wide = comptime!(config.columns / ROWS);
        let steps = comptime!(config.head_dim / VECTOR);
        let out_steps = comptime!(config.columns / VECTOR);
        let key_pitch = comptime!(config.pitch(config.head_dim));
        let value_pitch = comptime!(config.pitch(config.columns));
        let reach = reach(&place, &scalars, query_len, cube_rows, &bands);
        let neg_inf = scalars.neg_inf;
        let zero = f32::cast_from(0u32);
        let one = f32::cast_from(1u32);

        let mut keys = Shared::<[Vector<F, N>]>::new_aligned_slice(comptime!(config.key_rows() * key_pitch), 16usize);
        let mut values = Shared::<[Vector<F, W>]>::new_aligned_slice(comptime!(2 * block * value_pitch), 16usize);
        // Weights of 16 keys, for values that are not finite.
        let mut weights = Shared::<[f32]>::new_slice(comptime!(cube_rows * ROWS));
        // Whether values are not finite, of this block and the next; the third flag is cleared.
        let poisoned = Shared::<[Atomic<u32>]>::new_slice(3usize);

        let plane = UNIT_POS as usize / PLANE;
        let lane = UNIT_POS as usize % PLANE;
        let g = lane / 4;
        let t = lane % 4;
        let plane_row = plane * ROWS;

        // Of the two rows that the lane has a part of: what their scores depend on, and the online softmax.
        let mut rows = Sequence::<Score>::new();
        let mut m = Array::<f32>::new(2usize);
        let mut l = Array::<f32>::new(2usize);
        let mut last = (-1i32).runtime();
        let mut first = i32::MAX.runtime();
        #[unroll]
        for r in 0..2usize {
            // A row that is not there is the last one again, and is not stored.
            let row = min(reach.first_row + plane_row + g + 8 * r, reach.rows - 1);
            let head = place.first_head + row / query_len;
            let facts = facts::<F, M>(&place, &reach, &scalars, head, row % query_len, &mask, &bias, &slopes);
            last = max(last, facts.last);
            first = min(first, facts.first);
            rows.push(facts);
            m[r] = neg_inf;
            l[r] = zero;
            #[comptime]
            if let ComptimeOption::Some(sinks) = &sinks {
                let sink = f32::cast_from(sinks[head * sinks.stride(0)]);
                m[r] = sink;
                l[r] = select(sink == neg_inf || t > 0, zero, f32::cast_from(config.lift));
            }
        }
        // Of all rows of the plane.
        #[unroll]
        for bit in 2..5u32 {
            last = max(last, plane_shuffle_xor(last, comptime!(1u32 << bit)));
            first = min(first, plane_shuffle_xor(first, comptime!(1u32 << bit)));
        }

        // The queries, by way of the keys' place.
        let mut at = UNIT_POS as usize;
        while at < comptime!(cube_rows * steps) {
            let r = at / steps;
            let d = at % steps;
            let row = min(reach.first_row + r, reach.rows - 1);
            let head = place.first_head + row / query_len;
            let i = row % query_len;
            let begin = place.batch * query.stride(0) + head * query.stride(1) + i * query.stride(2);
            keys[r * key_pitch + d] = query[begin / VECTOR + d];
            at += units;
        }
        let own_values = comptime!((block * out_steps).div_ceil(units));
        sync_cube();
        let mma = MmaDefinition::<F, F, f32>::new(16usize, 8usize, 16usize);
        let mut q = Sequence::<Array<Vector<F, Const<2>>>>::new();
        #[unroll]
        for d in 0..deep {
            let at = (plane_row + lane % 16) * key_pitch + d * 2 + lane / 16;
            q.push(mma.load_matrix::<Vector<F, N>, Const<2>>(&keys[at..at + 1], MatrixIdent::A, 4usize, false));
        }
        let mut acc = Sequence::<Array<Vector<f32, Const<2>>>>::new();
        #[unroll]
        for _e in 0..comptime!(2 * wide) {
            acc.push(zeros());
        }
        let mut s = Sequence::<Array<Vector<f32, Const<2>>>>::new();
        #[unroll]
        for _n in 0..comptime!(block / 8) {
            s.push(zeros());
        }
        let mut left = Array::<Vector<F, Const<2>>>::new(2usize);
        let mut right = Array::<Vector<F, Const<2>>>::new(2usize);
        let mut x = Array::<f32>::new(comptime!(block / 2));
        let mut rest = Array::<f32>::new(8usize);
        let mut terms = Sequence::<Array<Vector<F, Const<2>>>>::new();
        #[unroll]
        for _term in 0..config.terms {
            terms.push(Array::<Vector<F, Const<2>>>::new(4usize));
        }

        // Keys are a block ahead of values: the scores of the next block are computed beside the softmax of this one. The two stages
        // of shared memory hold the values of a block and the keys of the one behind it; a third pair is on its way in registers.
        let ahead = block as i32;
        let key_base = place.batch * key.stride(0) + place.kv_head * key.stride(1);
        let value_base = place.batch * value.stride(0) + place.kv_head * value.stride(1) + scalars.first_column;
        let mut next_keys = Array::<Vector<F, N>>::new(comptime!((block * steps).div_ceil(units)));
        let mut next_values = Array::<Vector<F, W>>::new(comptime!((block * out_steps).div_ceil(units)));
        load(key, key_base, reach.start, reach.end, &mut next_keys, block, steps, units);
        sync_cube();
        let key_stage = comptime!(block * key_pitch);
        let value_stage = comptime!(block * value_pitch);
        keep(&next_keys, &mut keys, key_stage.runtime(), block, steps, units);
        load(key, key_base, reach.start + ahead, reach.end, &mut next_keys, block, steps, units);
        load(value, value_base, reach.start, reach.end, &mut next_values, block, out_steps, units);
        if UNIT_POS == 0 {
            #[unroll]
            for flag in 0..3usize {
                poisoned[flag].store(0u32);
            }
        }
        sync_cube();
        products(&mma, &q, &mut s, &keys, key_stage.runtime(), lane, config);
        keep(&next_keys, &mut keys, 0usize.runtime(), block, steps, units);
        keep(&next_values, &mut values, 0usize.runtime(), block, out_steps, units);
        if is_bad(&next_values, own_values, config.exponents) {
            poisoned[0].store(1u32);
        }
        load(key, key_base, reach.start + 2 * ahead, reach.end, &mut next_keys, block, steps, units);
        load(value, value_base, reach.start + ahead, reach.end, &mut next_values, block, out_steps, units);
        let mut j0 = reach.start;
        let mut stage = 0usize.runtime();
        let mut flag = 0usize.runtime();
        while j0 < reach.end {
            // This stage is there, and the other one has been read.
            sync_cube();
            let j1 = j0 + ahead;
            let next_flag = select(flag == 2, 0usize.runtime(), flag + 1);
            if UNIT_POS == 0 {
                poisoned[select(next_flag == 2, 0usize.runtime(), next_flag + 1)].store(0u32);
            }
            let is_poisoned = poisoned[flag].load() != 0u32;
            if j1 < reach.end {
                keep(&next_keys, &mut keys, (1 - stage) * key_stage, block, steps, units);
                keep(&next_values, &mut values, (1 - stage) * value_stage, block, out_steps, units);
                if is_bad(&next_values, own_values, config.exponents) {
                    poisoned[next_flag].store(1u32);
                }
                load(key, key_base, j1 + 2 * ahead, reach.end, &mut next_keys, block, steps, units);
                load(value, value_base, j1 + ahead, reach.end, &mut next_values, block, out_steps, units);
            }
            let keys_at = stage * key_stage;
            let values_at = stage * value_stage;
            if j0 <= last && j1 > first {
                let seen_by_all = j0 >= reach.all_start && j1 <= reach.all_end;
                if comptime!(config.options.mask) || !seen_by_all {
                    scores::<F, M>(
                        &s,
                        &mut x,
                        j0,
                        t,
                        reach.keys,
                        reach.end,
                        &rows,
                        &mask,
                        &bias,
                        true,
                        2usize,
                        block,
                        config.options,
                    );
                } else {
                    scores::<F, M>(
                        &s,
                        &mut x,
                        j0,
                        t,
                        reach.keys,
                        reach.end,
                        &rows,
                        &mask,
                        &bias,
                        false,
                        2usize,
                        block,
                        config.options,
                    );
                }
                // Of the next block; behind the last one, of what was there.
                products(&mma, &q, &mut s, &keys, keys_at, lane, config);
                #[unroll]
                for r in 0..2usize {
                    let mut top = m[r];
                    #[unroll]
                    for n in 0..comptime!(block / 8) {
                        top = max(top, max(x[n * 4 + r * 2], x[n * 4 + r * 2 + 1]));
                    }
                    top = max(top, plane_shuffle_xor(top, 1u32));
                    top = max(top, plane_shuffle_xor(top, 2u32));
                    // A row that has seen nothing yet: 0 in place of −∞, so that exp(−∞ − 0) = 0.
                    let level = select(top == neg_inf, zero, top);
                    let factor = (m[r] - level).exp();
                    m[r] = top;
                    let mut sum = l[r] * factor;
                    #[unroll]
                    for n in 0..comptime!(block / 8) {
                        #[unroll]
                        for c in 0..2usize {
                            // Weights as they go through the narrow type: all of a row, and their sum, are lifted alike, by a power
                            // of two and so exactly.
                            let p = (x[n * 4 + r * 2 + c] - level).exp() * comptime!(config.lift as f32);
                            sum += p;
                            x[n * 4 + r * 2 + c] = p;
                        }
                    }
                    l[r] = sum;
                    #[unroll]
                    for e in 0..comptime!(2 * wide) {
                        let acc = acc.index_mut(e);
                        acc[r] = acc[r] * Vector::new(factor);
                    }
                }

                if is_poisoned {
                    #[unroll]
                    for n in 0..comptime!(block / 16) {
                        sync_plane();
                        #[unroll]
                        for at in 0..8usize {
                            let row = plane_row + g + 8 * comptime!((at / 2) % 2);
                            weights[row * ROWS + comptime!(at / 4 * 8 + at % 2) + 2 * t] = x[n * 8 + at];
                        }
                        sync_plane();
                        for b in 0..ROWS {
                            #[unroll]
                            for r in 0..2usize {
                                let p = weights[(plane_row + g + 8 * r) * ROWS + b];
                                // What has no weight is not taken: it may be NaN.
                                if p != zero {
                                    #[unroll]
                                    for e in 0..comptime!(2 * wide) {
                                        let v = values[values_at + (n * 16 + b) * value_pitch + e];
                                        let acc = acc.index_mut(e);
                                        let mut pair = acc[r];
                                        #[unroll]
                                        for c in 0..2usize {
                                            let mut of_lane = v.extract(c);
                                            #[unroll]
                                            for other in 1..4usize {
                                                of_lane = select(t == other, v.extract(2 * other + c), of_lane);
                                            }
                                            pair.insert(c, fma(p, f32::cast_from(of_lane), pair.extract(c)));
                                        }
                                        acc[r] = pair;
                                    }
                                }
                            }
                        }
                    }
                } else {
                    #[unroll]
                    for n in 0..comptime!(block / 16) {
                        // What is left of the weights of sixteen keys, and their terms as A.
                        #[unroll]
                        for at in 0..8usize {
                            rest[at] = x[n * 8 + at];
                        }
                        #[unroll]
                        for term in 0..config.terms {
                            let a = terms.index_mut(term);
                            #[unroll]
                            for at in 0..4usize {
                                let mut pair = Vector::<f32, Const<2>>::new(zero);
                                #[unroll]
                                for c in 0..2usize {
                                    let mut whole = rest[at * 2 + c];
                                    if comptime!(term + 1 < config.terms) {
                                        // Cut, not rounded: what is left is exact, and no compiler takes the way there and back
                                        // for nothing. The last term is rounded.
                                        whole = f32::reinterpret(u32::reinterpret(whole) & comptime!(config.cut));
                                        rest[at * 2 + c] = rest[at * 2 + c] - whole;
                                    }
                                    pair.insert(c, whole);
                                }
                                a[at] = Vector::cast_from(pair);
                            }
                        }
                        #[unroll]
                        for e in 0..wide {
                            let at = values_at + (n * 16 + lane % 16) * value_pitch + e * 2 + lane / 16;
                            let four = mma.load_matrix::<Vector<F, W>, Const<2>>(
                                &values[at..at + 1],
                                MatrixIdent::B,
                                4usize,
                                true,
                            );
                            left[0] = four[0];
                            left[1] = four[1];
                            right[0] = four[2];
                            right[1] = four[3];
                            #[unroll]
                            for term in 0..config.terms {
                                mma.execute_inplace(terms.index(term), &left, acc.index_mut(2 * e));
                                mma.execute_inplace(terms.index(term), &right, acc.index_mut(2 * e + 1));
                            }
                        }
                    }
                }
            } else if j1 <= last && j1 + ahead > first {
                products(&mma, &q, &mut s, &keys, keys_at, lane, config);
            }
            j0 = j1;
            stage = 1 - stage;
            flag = next_flag;
        }

        #[unroll]
        for r in 0..2usize {
            let mut total = l[r];
            total = total + plane_shuffle_xor(total, 1u32);
            total = total + plane_shuffle_xor(total, 2u32);
            let empty = total == zero;
            let inverse = select(empty, zero, one / total);
            let row = reach.first_row + plane_row + g + 8 * r;
            if row < reach.rows {
                let head = place.first_head + row / query_len;
                let batches = query.shape(0);
                let place_of_row =
                    ((place.split * batches + place.batch) * scalars.heads + head) * query_len + row % query_len;
                let begin = place_of_row * value.shape(3) + scalars.first_column + 2 * t;
                #[unroll]
                for e in 0..comptime!(2 * wide) {
                    #[unroll]
                    for c in 0..2usize {
                        out[begin + e * 8 + c] = O::cast_from(acc.index(e)[r].extract(c) * inverse);
                    }
                }
                #[comptime]
                if let ComptimeOption::Some(lse) = &mut lse {
                    if t == 0 {
                        lse[place_of_row] =
                            select(empty, neg_inf, m[r] + (total * comptime!(1.0 / config.lift as f32)).ln());
                    }
                }
            }
        }
    }
}
