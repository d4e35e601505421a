//! A few rows by the matrix instructions whose registers are known: decoding on NVIDIA's cards.
//!
//! ```text
//! for each cube: up to sixteen rows of the heads that share keys, a run of keys           place.rs
//!   each plane takes sixteen keys by turns:
//!     s = q·kᵀ                                                                            the keys as they were loaded
//!     x = score(s), the online softmax p, l, m'                                           f32, where s lies
//!     p = p₁ + p₂ (+ p₃)                                                                   in the tensors' type
//!     acc = acc·exp(m − m') + p₁·v + p₂·v (+ p₃·v)                                         the values in pairs of keys
//!   the planes are joined through shared memory                                           planes.rs
//!   out = acc/l,  lse = m + ln l                                                          merge.rs joins the runs
//! ```
//!
//! The units that share a key's dimensions in decode.rs spend nearly as long on multiplying, and on telling each other sums and weights, as
//! memory takes to read it: 124 instructions of a plane for a key and four rows, here 25 for up to eight. Nothing but the end goes
//! through shared memory, since a product may take its dimensions, and give its columns, in any order. With g = lane/4 and t = lane%4:
//!
//! - of 32 dimensions of key g, a lane loads the eight from 8·t on, which are its words of B in two instructions. Queries lie alike.
//! - of 64 columns of the keys 2t, 2t+1, 2t+8 and 2t+9, a lane loads the eight from 8·g on. The jth of all are column g of the jth
//!   instruction; two keys' numbers of a column make a word of B.
//!
//! So each instruction of a plane reads whole runs of 64 or 128 bytes, and no number is read twice. Keys of the next block are on
//! their way while this one is computed. As in mma.rs, weights lie where they are needed, as sums of narrow numbers, and values that
//! are not finite are added number by number.

use burn_cubecl::cubecl;
use burn_cubecl::cubecl::cmma::MmaDefinition;
use burn_cubecl::cubecl::prelude::*;

use super::planes::join;
use crate::device::mma::block::{scores, zeros};
use crate::device::mma::{PLANE, VECTOR};
use crate::device::place::{Scalars, facts, place, reach};
use crate::device::score::{Options, Score};

/// Keys of a plane at once.
pub const KEYS: usize = 16;
/// Rows of half a matrix.
pub const HALF: usize = 8;
/// Dimensions that the four lanes of a key load together.
pub const DEEP: usize = 4 * VECTOR;
/// Columns that the eight lanes of a key load together.
pub const WIDE: usize = 8 * VECTOR;

/// What is known when the kernel is compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Config {
    /// D, a multiple of 32.
    pub head_dim: usize,
    /// Columns of the output that this launch makes, a multiple of 64.
    pub columns: usize,
    /// Halves of a matrix that a cube's rows fill, 1 or 2.
    pub halves: usize,
    /// Planes of a cube.
    pub planes: usize,
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
    /// Bytes of shared memory.
    pub fn shared_bytes(&self) -> usize {
        4 * self.planes * self.halves * HALF * (self.columns + 2)
    }
}

/// The kernel. Shapes as those of `attention_forward`; N and W are 8.
#[cube(launch, address_type = "dynamic")]
pub fn attention_decode_mma<F: Float, O: Float, M: Numeric, N: Size, W: Size>(
    query: &Tensor<Vector<F, N>>,
    key: &Tensor<Vector<F, N>>,
    value: &Tensor<Vector<F, W>>,
    mask: ComptimeOption<&Tensor<M>>,
    bias: ComptimeOption<&Tensor<F>>,
    slopes: ComptimeOption<&Tensor<F>>,
    sinks: ComptimeOption<&Tensor<F>>,
    bands: ComptimeOption<&Tensor<i32>>,
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
        let query_len = query.shape(2);
        let halves = comptime!(config.halves);
        let rows = comptime!(halves * HALF);
        let chunks = comptime!(config.head_dim / DEEP);
        let out_chunks = comptime!(config.columns / WIDE);
        let out_steps = comptime!(config.columns / VECTOR);
        let reach = reach(&place, &scalars, query_len, rows, &bands);
        let neg_inf = scalars.neg_inf;
        let zero = f32::cast_from(0u32);

        let plane = UNIT_POS as usize / PLANE;
        let lane = UNIT_POS as usize % PLANE;
        let g = lane / 4;
        let t = lane % 4;

        // Of the rows that the lane has a part of: what their scores depend on, their queries, and the online softmax.
        let mut facts_of = Sequence::<Score>::new();
        let mut m = Array::<f32>::new(halves);
        let mut l = Array::<f32>::new(halves);
        let mut queries = Array::<Vector<F, N>>::new(comptime!(halves * chunks));
        #[unroll]
        for r in 0..halves {
            // A row that is not there is the last one again, and is not stored.
            let row = min(reach.first_row + g + 8 * r, reach.rows - 1);
            let head = place.first_head + row / query_len;
            let i = row % query_len;
            facts_of.push(facts::<F, M>(&place, &reach, &scalars, head, i, &mask, &bias, &slopes));
            let begin = (place.batch * query.stride(0) + head * query.stride(1) + i * query.stride(2)) / VECTOR;
            #[unroll]
            for d in 0..chunks {
                queries[r * chunks + d] = query[begin + d * 4 + t];
            }
            m[r] = neg_inf;
            l[r] = zero;
        }
        let mma = MmaDefinition::<F, F, f32>::new(16usize, 8usize, 16usize);
        let nothing = Vector::<F, Const<2>>::new(F::from_int(0));
        let mut q = Sequence::<Array<Vector<F, Const<2>>>>::new();
        #[unroll]
        for step in 0..comptime!(2 * chunks) {
            let mut of_step = Array::<Vector<F, Const<2>>>::new(4usize);
            #[unroll]
            for word in 0..2usize {
                of_step[2 * word] = pair::<F, N>(queries[step / 2], comptime!(step % 2 * 2 + word));
                if comptime!(halves == 2) {
                    of_step[2 * word + 1] = pair::<F, N>(queries[chunks + step / 2], comptime!(step % 2 * 2 + word));
                } else {
                    of_step[2 * word + 1] = nothing;
                }
            }
            q.push(of_step);
        }
        // Of columns 2e and 2e+1 of those that the lane loads, and of its two rows of a half: at [(half · chunks + chunk) · 4 + e].
        let mut acc = Sequence::<Array<Vector<f32, Const<2>>>>::new();
        #[unroll]
        for _e in 0..comptime!(halves * out_chunks * 4) {
            acc.push(zeros());
        }
        let mut s = Sequence::<Array<Vector<f32, Const<2>>>>::new();
        #[unroll]
        for _n in 0..2usize {
            s.push(zeros());
        }
        let mut x = Array::<f32>::new(8usize);
        let mut keys = Array::<Vector<F, N>>::new(comptime!(2 * chunks));
        let mut values = Array::<Vector<F, W>>::new(comptime!(4 * out_chunks));
        let mut left = Array::<Vector<F, Const<2>>>::new(4usize);
        let mut right = Array::<Vector<F, Const<2>>>::new(2usize);
        let mut terms = Sequence::<Array<Vector<F, Const<2>>>>::new();
        #[unroll]
        for _term in 0..comptime!(halves * config.terms) {
            terms.push(Array::<Vector<F, Const<2>>>::new(2usize));
        }

        let key_base = place.batch * key.stride(0) + place.kv_head * key.stride(1);
        let value_base = place.batch * value.stride(0) + place.kv_head * value.stride(1) + scalars.first_column;
        let ahead = comptime!((config.planes * KEYS) as i32);
        let begin = reach.start + (plane * KEYS) as i32;
        // Once more, with care, where a value was not finite.
        let mut careful = false.runtime();
        let mut is_done = begin >= reach.end;
        while !is_done {
            let mut j0 = begin;
            load_keys(key, key_base, j0, reach.keys, g, t, &mut keys, chunks);
            while j0 < reach.end {
                #[unroll]
                for at in 0..4usize {
                    let row = row_of_value(value, value_base, j0 + 2 * t as i32, reach.keys, at);
                    #[unroll]
                    for h in 0..out_chunks {
                        values[h * 4 + at] = value[row + h * 8 + g];
                    }
                }
                #[unroll]
                for n in 0..2usize {
                    let s = s.index_mut(n);
                    s[0] = Vector::new(0.0f32);
                    s[1] = Vector::new(0.0f32);
                    #[unroll]
                    for step in 0..comptime!(2 * chunks) {
                        #[unroll]
                        for word in 0..2usize {
                            right[word] = pair::<F, N>(keys[n * chunks + step / 2], comptime!(step % 2 * 2 + word));
                        }
                        mma.execute_inplace(q.index(step), &right, s);
                    }
                }
                load_keys(key, key_base, j0 + ahead, reach.keys, g, t, &mut keys, chunks);

                let (keys_there, end) = (reach.keys, reach.end);
                let seen_by_all = j0 >= reach.all_start && j0 + comptime!(KEYS as i32) <= reach.all_end;
                let options = comptime!(config.options);
                if comptime!(config.options.mask) || !seen_by_all {
                    scores::<F, M>(
                        &s, &mut x, j0, t, keys_there, end, &facts_of, &mask, &bias, true, halves, KEYS, options,
                    );
                } else {
                    scores::<F, M>(
                        &s, &mut x, j0, t, keys_there, end, &facts_of, &mask, &bias, false, halves, KEYS, options,
                    );
                }
                #[unroll]
                for r in 0..halves {
                    let mut top = m[r];
                    #[unroll]
                    for at in 0..4usize {
                        top = max(top, x[comptime!(weight(at, r))]);
                    }
                    top = max(top, plane_shuffle_xor(top, 1u32));
                    top = max(top, plane_shuffle_xor(top, 2u32));
                    // A row that has seen nothing yet: 0 in place of −∞, so that exp(−∞ − 0) = 0.
                    let level = select(top == neg_inf, zero, top);
                    let factor = (m[r] - level).exp();
                    m[r] = top;
                    let mut sum = l[r] * factor;
                    #[unroll]
                    for at in 0..4usize {
                        // All of a row, and their sum, are lifted alike, by a power of two and so exactly.
                        let p = (x[comptime!(weight(at, r))] - level).exp() * comptime!(config.lift as f32);
                        sum += p;
                        x[comptime!(weight(at, r))] = p;
                    }
                    l[r] = sum;
                    // Sums are of other rows than scores.
                    let mut factors = Vector::<f32, Const<2>>::new(zero);
                    #[unroll]
                    for c in 0..2usize {
                        factors.insert(c, plane_shuffle(factor, (2 * t + c) as u32 * 4));
                    }
                    #[unroll]
                    for e in 0..comptime!(out_chunks * 4) {
                        let acc = acc.index_mut(comptime!(r * out_chunks * 4 + e));
                        acc[0] = acc[0] * factors;
                        acc[1] = acc[1] * factors;
                    }
                }

                if careful {
                    for other in 0..4u32 {
                        #[unroll]
                        for at in 0..4usize {
                            let row = row_of_value(value, value_base, j0 + 2 * other as i32, reach.keys, at);
                            #[unroll]
                            for h in 0..out_chunks {
                                values[h * 4] = value[row + h * 8 + g];
                            }
                            #[unroll]
                            for r in 0..halves {
                                #[unroll]
                                for c in 0..2usize {
                                    let p = plane_shuffle(x[comptime!(weight(at, r))], (2 * t + c) as u32 * 4 + other);
                                    // What has no weight is not taken: it may be NaN.
                                    if p != zero {
                                        #[unroll]
                                        for h in 0..out_chunks {
                                            #[unroll]
                                            for e in 0..8usize {
                                                let acc = acc.index_mut(comptime!((r * out_chunks + h) * 4 + e / 2));
                                                let mut sums = acc[e % 2];
                                                let v = f32::cast_from(values[h * 4].extract(e));
                                                sums.insert(c, fma(p, v, sums.extract(c)));
                                                acc[e % 2] = sums;
                                            }
                                        }
                                    }
                                }
                            }
                        }
                    }
                } else {
                    // Weights are sums of numbers of the narrow type, each what is left of the last one.
                    #[unroll]
                    for r in 0..halves {
                        #[unroll]
                        for term in 0..config.terms {
                            let of_term = terms.index_mut(comptime!(r * config.terms + term));
                            #[unroll]
                            for n in 0..2usize {
                                let mut two = Vector::<f32, Const<2>>::new(zero);
                                #[unroll]
                                for c in 0..2usize {
                                    let at = comptime!(weight(n * 2 + c, r));
                                    let mut whole = x[at];
                                    if comptime!(term + 1 < config.terms) {
                                        // Cut, not rounded: what is left is exact. The last term is rounded.
                                        whole = f32::reinterpret(u32::reinterpret(whole) & comptime!(config.cut));
                                        x[at] = x[at] - whole;
                                    }
                                    two.insert(c, whole);
                                }
                                of_term[n] = Vector::cast_from(two);
                            }
                        }
                    }
                    #[unroll]
                    for h in 0..out_chunks {
                        #[unroll]
                        for e in 0..4usize {
                            #[unroll]
                            for n in 0..2usize {
                                #[unroll]
                                for c in 0..2usize {
                                    left[n * 2 + c] = of_two::<F, W>(
                                        values[h * 4 + n * 2],
                                        values[h * 4 + n * 2 + 1],
                                        comptime!(2 * e + c),
                                    );
                                }
                            }
                            #[unroll]
                            for r in 0..halves {
                                #[unroll]
                                for term in 0..config.terms {
                                    let weights = terms.index(comptime!(r * config.terms + term));
                                    let acc = acc.index_mut(comptime!((r * out_chunks + h) * 4 + e));
                                    mma.execute_inplace(&left, weights, acc);
                                }
                            }
                        }
                    }
                }
                j0 += ahead;
            }

            is_done = careful || !plane_any(is_infinite(&acc, comptime!(halves * out_chunks * 4)));
            if !is_done {
                careful = true;
                #[unroll]
                for r in 0..halves {
                    m[r] = neg_inf;
                    l[r] = zero;
                }
                #[unroll]
                for e in 0..comptime!(halves * out_chunks * 4) {
                    let acc = acc.index_mut(e);
                    acc[0] = Vector::new(0.0f32);
                    acc[1] = Vector::new(0.0f32);
                }
            }
        }

        let planes = comptime!(config.planes);
        let mut tops = Shared::<[f32]>::new_slice(comptime!(planes * rows));
        let mut sums = Shared::<[f32]>::new_slice(comptime!(planes * rows));
        let mut parts = Shared::<[Vector<f32, W>]>::new_slice(comptime!(planes * rows * out_steps));
        #[unroll]
        for r in 0..halves {
            let first = plane * rows + comptime!(r * HALF);
            let mut sum = l[r];
            sum = sum + plane_shuffle_xor(sum, 1u32);
            sum = sum + plane_shuffle_xor(sum, 2u32);
            if t == 0 {
                tops[first + g] = m[r];
                sums[first + g] = sum;
            }
            #[unroll]
            for h in 0..out_chunks {
                #[unroll]
                for c in 0..2usize {
                    let mut of_lane = Vector::<f32, W>::new(0.0f32);
                    #[unroll]
                    for e in 0..8usize {
                        let at = comptime!((r * out_chunks + h) * 4 + e / 2);
                        of_lane.insert(e, acc.index(at)[e % 2].extract(c));
                    }
                    parts[(first + 2 * t + c) * out_steps + h * 8 + g] = of_lane;
                }
            }
        }
        sync_cube();
        join::<F, O, W>(
            &tops,
            &sums,
            &parts,
            &place,
            &reach,
            &scalars,
            query.shape(0),
            query_len,
            value.shape(3),
            &sinks,
            out,
            &mut lse,
            rows,
            out_steps,
            planes,
            comptime!(config.lift),
        );
    }
}

/// Where the weight lies of row g of half `r` and the `at`th of the keys 2t, 2t+1, 2t+8 and 2t+9.
fn weight(at: usize, r: usize) -> usize {
    at / 2 * 4 + r * 2 + at % 2
}

/// Where the row of a value begins: the `at`th of the keys j, j+1, j+8 and j+9. Past the end the last key stands in; it has no weight.
#[cube]
fn row_of_value<F: Float, N: Size>(
    value: &Tensor<Vector<F, N>>,
    base: usize,
    j: i32,
    keys: i32,
    #[comptime] at: usize,
) -> usize {
    let j = min(j + comptime!((at / 2 * 8 + at % 2) as i32), keys - 1);
    (base + j as usize * value.stride(2)) / VECTOR
}

/// Whether a sum is not finite.
#[cube]
fn is_infinite(acc: &Sequence<Array<Vector<f32, Const<2>>>>, #[comptime] count: usize) -> bool {
    // NaN if one is.
    let mut zeros = f32::cast_from(0u32);
    #[unroll]
    for e in 0..count {
        #[unroll]
        for at in 0..4usize {
            let sum = acc.index(e)[at / 2].extract(comptime!(at % 2));
            zeros = fma(sum, f32::cast_from(0u32), zeros);
        }
    }
    zeros != f32::cast_from(0u32)
}

/// The lane's parts of sixteen keys.
#[cube]
#[allow(clippy::too_many_arguments, reason = "a kernel's variables, handed on one by one")]
fn load_keys<F: Float, N: Size>(
    key: &Tensor<Vector<F, N>>,
    base: usize,
    j0: i32,
    keys: i32,
    g: usize,
    t: usize,
    into: &mut Array<Vector<F, N>>,
    #[comptime] chunks: usize,
) {
    #[unroll]
    for n in 0..2usize {
        // Past the end the last key stands in; its score is hidden.
        let j = min(j0 + (g + 8 * n) as i32, keys - 1) as usize;
        let row = (base + j * key.stride(2)) / VECTOR + t;
        #[unroll]
        for d in 0..chunks {
            into[n * chunks + d] = key[row + d * 4];
        }
    }
}

/// Two neighbours of a vector.
#[cube]
fn pair<F: Float, N: Size>(of: Vector<F, N>, #[comptime] which: usize) -> Vector<F, Const<2>> {
    let words = Vector::<u32, Const<4>>::reinterpret(of);
    Vector::reinterpret(words.extract(which))
}

/// The numbers in the same place of two vectors.
#[cube]
fn of_two<F: Float, N: Size>(
    first: Vector<F, N>,
    second: Vector<F, N>,
    #[comptime] which: usize,
) -> Vector<F, Const<2>> {
    let first = Vector::<u32, Const<4>>::reinterpret(first).extract(comptime!(which / 2));
    let second = Vector::<u32, Const<4>>::reinterpret(second).extract(comptime!(which / 2));
    let mut word = (first & 0xffffu32) | (second << 16u32);
    if comptime!(which % 2 == 1) {
        word = (first >> 16u32) | (second & 0xffff_0000u32);
    }
    Vector::reinterpret(word)
}
