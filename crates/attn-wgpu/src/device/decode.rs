//! Attention of a few rows: decoding, where reading the keys is all the work.
//!
//! ```text
//! for each cube: up to eight rows of the heads that share keys, a run of keys             place.rs
//!   each group of units takes keys by turns, some at once; a unit has a part of the dimensions:
//!     s = Σ over the group of q·k                                                          planes exchange by shuffles
//!     s = score(s), the online softmax, acc += Σ p·v                                       as in forward.rs
//!   the groups of a plane are joined by shuffles, the planes of a cube through shared memory
//!   out = acc/l,  lse = m + ln l                                                           merge.rs joins the runs
//! ```
//!
//! Neighbours read neighbouring numbers, each once for all rows, so that memory is read as fast as it goes. It needs planes that
//! exchange numbers; where there are none, forward.rs serves.

pub mod mma;
mod planes;

use burn_cubecl::cubecl;
use burn_cubecl::cubecl::prelude::*;

use self::planes::join;
use crate::device::place::{Scalars, facts, place, reach};
use crate::device::score::{Options, Score, score, seen};

/// What is known when the kernel is compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Config {
    /// D.
    pub head_dim: usize,
    /// E.
    pub columns: usize,
    /// Rows of a cube.
    pub rows: usize,
    /// Units that share a key, a power of two and no more than a plane's.
    pub lanes: usize,
    /// Units of a plane, a power of two: the fewest that a plane may have.
    pub plane: usize,
    /// Planes of a cube.
    pub planes: usize,
    /// Keys that a group has at once.
    pub block: usize,
    /// What a score goes through.
    pub options: Options,
}

impl Config {
    /// Bytes of shared memory.
    pub fn shared_bytes(&self) -> usize {
        4 * self.planes * self.rows * (self.columns + 2)
    }
}

/// The kernel. Shapes as those of `attention_forward`.
#[cube(launch, address_type = "dynamic")]
pub fn attention_decode<F: Float, O: Float, M: Numeric, N: Size, W: Size>(
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
        let rows = comptime!(config.rows);
        let block = comptime!(config.block);
        let lanes = comptime!(config.lanes);
        let groups = comptime!(config.plane * config.planes / config.lanes);
        let width = N::value();
        let out_width = W::value();
        let steps = comptime!(config.head_dim / width);
        let out_steps = comptime!(config.columns / out_width);
        // Vectors of a unit.
        let own = comptime!(steps.div_ceil(config.lanes));
        let out_own = comptime!(out_steps.div_ceil(config.lanes));
        let reach = reach(&place, &scalars, query_len, rows, &bands);
        let neg_inf = scalars.neg_inf;
        let zero = f32::cast_from(0u32);

        let lane = UNIT_POS as usize % lanes;
        let group = UNIT_POS as usize / lanes;

        let mut facts_of = Sequence::<Score>::new();
        let mut q = Array::<Vector<f32, N>>::new(comptime!(rows * own));
        let mut acc = Array::<Vector<f32, W>>::new(comptime!(rows * out_own));
        let mut m = Array::<f32>::new(rows);
        let mut l = Array::<f32>::new(rows);
        #[unroll]
        for r in 0..rows {
            // A row that is not there is the last one again, and is not stored.
            let row = min(reach.first_row + r, reach.rows - 1);
            let head = place.first_head + row / query_len;
            let i = row % query_len;
            facts_of.push(facts::<F, M>(&place, &reach, &scalars, head, i, &mask, &bias, &slopes));
            let begin = (place.batch * query.stride(0) + head * query.stride(1) + i * query.stride(2)) / width;
            #[unroll]
            for t in 0..own {
                let d = t * lanes + lane;
                let mut x = Vector::<f32, N>::new(0.0f32);
                if comptime!((t + 1) * lanes <= steps) || d < steps {
                    x = Vector::cast_from(query[begin + d]);
                }
                q[r * own + t] = x;
            }
            #[unroll]
            for t in 0..out_own {
                acc[r * out_own + t] = Vector::new(0.0f32);
            }
            m[r] = neg_inf;
            l[r] = zero;
        }

        let key_base = place.batch * key.stride(0) + place.kv_head * key.stride(1);
        let value_base = place.batch * value.stride(0) + place.kv_head * value.stride(1) + scalars.first_column;
        let mut s = Array::<f32>::new(comptime!(rows * block));
        let mut key_at = Array::<usize>::new(block);
        let mut j0 = reach.start;
        while j0 < reach.end {
            let mine = j0 + (group * block) as i32;
            #[unroll]
            for b in 0..block {
                // Past the end the last key stands in; its score is hidden.
                key_at[b] = min(mine + b as i32, reach.keys - 1) as usize;
                #[unroll]
                for r in 0..rows {
                    s[r * block + b] = zero;
                }
                #[unroll]
                for t in 0..own {
                    let d = t * lanes + lane;
                    let mut k = Vector::<f32, N>::new(0.0f32);
                    if comptime!((t + 1) * lanes <= steps) || d < steps {
                        k = Vector::cast_from(key[(key_base + key_at[b] * key.stride(2)) / width + d]);
                    }
                    #[unroll]
                    for r in 0..rows {
                        #[unroll]
                        for c in 0..width {
                            s[r * block + b] = fma(q[r * own + t].extract(c), k.extract(c), s[r * block + b]);
                        }
                    }
                }
            }
            let rounds = comptime!(lanes.ilog2() as usize);
            #[unroll]
            for round in 0..rounds {
                #[unroll]
                for at in 0..comptime!(rows * block) {
                    s[at] += plane_shuffle_xor(s[at], comptime!(1u32 << round));
                }
            }
            let mut fix = Array::<f32>::new(rows);
            #[unroll]
            for r in 0..rows {
                let facts = facts_of.index(r);
                let mut m_new = m[r];
                #[unroll]
                for b in 0..block {
                    let j = mine + b as i32;
                    let x = score::<F>(s[r * block + b], key_at[b], j, facts, &bias, config.options);
                    let x = select(seen::<M>(key_at[b], j, reach.end, facts, &mask, config.options), x, neg_inf);
                    s[r * block + b] = x;
                    m_new = max(m_new, x);
                }
                let base = select(m_new == neg_inf, zero, m_new);
                fix[r] = (m[r] - base).exp();
                let mut sum = l[r] * fix[r];
                #[unroll]
                for b in 0..block {
                    let p = (s[r * block + b] - base).exp();
                    s[r * block + b] = p;
                    sum += p;
                }
                l[r] = sum;
                m[r] = m_new;
            }
            #[unroll]
            for t in 0..out_own {
                let e = t * lanes + lane;
                #[unroll]
                for r in 0..rows {
                    acc[r * out_own + t] = acc[r * out_own + t] * Vector::new(fix[r]);
                }
                #[unroll]
                for b in 0..block {
                    let mut v = Vector::<f32, W>::new(0.0f32);
                    if comptime!((t + 1) * lanes <= out_steps) || e < out_steps {
                        v = Vector::cast_from(value[(value_base + key_at[b] * value.stride(2)) / out_width + e]);
                    }
                    #[unroll]
                    for r in 0..rows {
                        let p = s[r * block + b];
                        // What has no weight is not taken: it may be NaN.
                        let taken = select(p == zero, Vector::new(0.0f32), v);
                        acc[r * out_own + t] = fma(Vector::new(p), taken, acc[r * out_own + t]);
                    }
                }
            }
            j0 += (groups * block) as i32;
        }

        // The groups of a plane.
        let rounds = comptime!((config.plane / config.lanes).ilog2() as usize);
        #[unroll]
        for round in 0..rounds {
            let distance = comptime!((config.lanes << round) as u32);
            #[unroll]
            for r in 0..rows {
                let other = plane_shuffle_xor(m[r], distance);
                let both = max(m[r], other);
                let base = select(both == neg_inf, zero, both);
                let mine = (m[r] - base).exp();
                let theirs = (other - base).exp();
                l[r] = l[r] * mine + plane_shuffle_xor(l[r], distance) * theirs;
                #[unroll]
                for t in 0..out_own {
                    let x = acc[r * out_own + t];
                    // By numbers: not every compiler shuffles vectors.
                    let mut joined = Vector::<f32, W>::new(0.0f32);
                    #[unroll]
                    for c in 0..out_width {
                        let of_other = plane_shuffle_xor(x.extract(c), distance);
                        joined.insert(c, x.extract(c) * mine + of_other * theirs);
                    }
                    acc[r * out_own + t] = joined;
                }
                m[r] = both;
            }
        }

        // The planes of the cube.
        let planes = comptime!(config.planes);
        let mut tops = Shared::<[f32]>::new_slice(comptime!(planes * rows));
        let mut sums = Shared::<[f32]>::new_slice(comptime!(planes * rows));
        let mut parts = Shared::<[Vector<f32, W>]>::new_slice(comptime!(planes * rows * out_steps));
        let plane = UNIT_POS as usize / config.plane;
        if UNIT_POS as usize % config.plane < lanes {
            #[unroll]
            for r in 0..rows {
                if lane == 0 {
                    tops[plane * rows + r] = m[r];
                    sums[plane * rows + r] = l[r];
                }
                #[unroll]
                for t in 0..out_own {
                    let e = t * lanes + lane;
                    if comptime!((t + 1) * lanes <= out_steps) || e < out_steps {
                        parts[(plane * rows + r) * out_steps + e] = acc[r * out_own + t];
                    }
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
            1u32,
        );
    }
}
