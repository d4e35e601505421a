//! Attention in one pass over the keys, each unit with query rows of its own.
//!
//! ```text
//! for each cube: a tile of rows of the heads that share keys, a run of keys (a split)      cubes differ in `Place`
//!   each unit, for each of its rows:  q = the row,  acc = 0,  m = −∞,  l = 0               in registers
//!     for each block of keys that some row of the cube may see:                            the band skips the others
//!       s_b  = q·k_b for the block's keys                                                  one load of a key serves all rows
//!       s_b  = score(s_b), −∞ where hidden                                                 score.rs
//!       m'   = max(m, max s_b),  p_b = exp(s_b − m'),  l = l·exp(m − m') + Σ p_b           the online softmax (Milakov 2018)
//!       acc  = acc·exp(m − m') + Σ p_b·v_b                                                 not read where p_b = 0
//!     out = acc/l,  lse = m + ln l
//! ```
//!
//! No unit talks to another: no shared memory, no barrier, no subgroups; a key's address is the same for all units of a cube, so
//! that one load serves them. Loops over a row are unrolled, for only what has a fixed place is kept in registers. Scores are
//! never stored. With several splits a cube's result is partial, and `merge.rs` joins them.

use burn_cubecl::cubecl;
use burn_cubecl::cubecl::prelude::*;

use crate::device::score::{Options, Score, hides, score};

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
    /// What a score goes through.
    pub options: Options,
}

/// Numbers of a launch.
#[derive(CubeLaunch, CubeType, Clone, Copy)]
pub struct Scalars {
    /// H.
    pub heads: usize,
    /// H/G.
    pub group: usize,
    /// Heads whose rows lie behind each other in a tile: `group` or 1.
    pub packed: usize,
    /// Cubes of this launch.
    pub cubes: usize,
    /// Tiles of the rows of `packed` heads.
    pub tiles: usize,
    /// Runs of keys.
    pub splits: usize,
    /// Keys of a run.
    pub run: usize,
    /// The first column of the value that this launch takes.
    pub first_column: usize,
    /// Factor of q·k.
    pub scale: f32,
    /// c of c·tanh(s/c).
    pub softcap: f32,
    /// −∞, which WGSL cannot spell.
    pub neg_inf: f32,
}

/// Where a cube works. Uniform over its units.
#[derive(CubeType, Clone, Copy)]
struct Place {
    batch: usize,
    first_head: usize,
    kv_head: usize,
    tile: usize,
    split: usize,
}

/// The cube's place from its number: tiles run fastest, then splits, heads, batch entries.
#[cube]
fn place(cube: usize, scalars: &Scalars) -> Place {
    let tile = cube % scalars.tiles;
    let rest = cube / scalars.tiles;
    let split = rest % scalars.splits;
    let rest = rest / scalars.splits;
    let bundles = scalars.heads / scalars.packed;
    let first_head = (rest % bundles) * scalars.packed;
    Place { batch: rest / bundles, first_head, kv_head: first_head / scalars.group, tile, split }
}

/// The kernel. Shapes: query `[B, H, Sq, D]`, key `[B, G, Sk, D]`, value `[B, G, Sk, E]`, mask and bias `[B, H, Sq, Sk]` by strides
/// that may be 0, slopes and sinks `[H]`, bands `[B, 4]` of offset, lower and upper bound of `j − i`, and keys; out
/// `[splits, B, H, Sq, E]` contiguous, lse `[splits, B, H, Sq]`.
#[cube(launch, address_type = "dynamic")]
pub fn attention_forward<F: Float, O: Float, M: Numeric, N: Size, W: Size>(
    query: &Tensor<Vector<F, N>>,
    key: &Tensor<Vector<F, N>>,
    value: &Tensor<Vector<F, W>>,
    mask: ComptimeOption<&Tensor<M>>,
    bias: ComptimeOption<&Tensor<F>>,
    slopes: ComptimeOption<&Tensor<F>>,
    sinks: ComptimeOption<&Tensor<F>>,
    bands: &Tensor<i32>,
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
        let options = comptime!(config.options);
        let neg_inf = scalars.neg_inf;
        let zero = f32::cast_from(0u32);

        let query_len = query.shape(2);
        let rows = query_len * scalars.packed;
        let own = comptime!(config.rows);
        let cube_rows = CUBE_DIM as usize * own;

        let band_at = place.batch * bands.stride(0);
        let offset = bands[band_at];
        let lower = bands[band_at + 1];
        let upper = bands[band_at + 2];
        let keys = bands[band_at + 3];

        // The queries of this cube, as a range: all of them where it holds rows of two heads.
        let first_row = place.tile * cube_rows;
        let last_row = min(first_row + cube_rows, rows) - 1;
        let one_head = first_row / query_len == last_row / query_len;
        let first_query = select(one_head, first_row % query_len, 0);
        let last_query = select(one_head, last_row % query_len, query_len - 1);
        let run_start = (place.split * scalars.run) as i32;
        let start = max(max(first_query as i32 + lower, 0i32), run_start);
        let end = min(min(last_query as i32 + upper + 1, keys), run_start + scalars.run as i32);
        // Keys that every row sees, as far as the band knows.
        let all_start = last_query as i32 + lower;
        let all_end = min(min(first_query as i32 + upper + 1, keys), end);

        let key_base = place.batch * key.stride(0) + place.kv_head * key.stride(1);
        let value_base = place.batch * value.stride(0) + place.kv_head * value.stride(1) + scalars.first_column;
        let key_stride = key.stride(2);
        let value_stride = value.stride(2);

        // What belongs to a row. A unit's rows lie a cube apart, so that neighbours read neighbours.
        let mut heads = Array::<usize>::new(own);
        let mut queries = Array::<usize>::new(own);
        let mut facts = Sequence::<Score>::new();
        let mut q = Array::<Vector<f32, N>>::new(comptime!(own * steps));
        let mut acc = Array::<Vector<f32, W>>::new(comptime!(own * out_steps));
        let mut m = Array::<f32>::new(own);
        let mut l = Array::<f32>::new(own);
        #[unroll]
        for r in 0..own {
            // A unit without a row computes the last one again, and stores nothing.
            let row = min(first_row + r * CUBE_DIM as usize + UNIT_POS as usize, rows - 1);
            let head = place.first_head + row / query_len;
            let i = row % query_len;
            heads[r] = head;
            queries[r] = i;
            facts.push(Score {
                mask_at: at_score(&mask, place.batch, head, i),
                bias_at: at_score(&bias, place.batch, head, i),
                slope: per_head(&slopes, head),
                position: i as i32 + offset,
                first: i as i32 + lower,
                last: min(i as i32 + upper, keys - 1),
                scale: scalars.scale,
                softcap: scalars.softcap,
                neg_inf,
            });
            let query_at = (place.batch * query.stride(0) + head * query.stride(1) + i * query.stride(2)) / width;
            #[unroll]
            for d in 0..steps {
                q[r * steps + d] = Vector::cast_from(query[query_at + d]);
            }
            #[unroll]
            for e in 0..out_steps {
                acc[r * out_steps + e] = Vector::new(0.0f32);
            }
            m[r] = neg_inf;
            l[r] = zero;
            #[comptime]
            if let ComptimeOption::Some(sinks) = &sinks {
                let sink = f32::cast_from(sinks[head * sinks.stride(0)]);
                m[r] = sink;
                l[r] = select(sink == neg_inf, zero, f32::cast_from(1u32));
            }
        }

        let mut s = Array::<f32>::new(comptime!(own * block));
        let mut fix = Array::<f32>::new(own);
        let mut key_at = Array::<usize>::new(block);
        let mut j0 = start;
        while j0 < end {
            let next = j0 + block as i32;
            let seen_by_all = j0 >= all_start && next <= all_end;
            #[unroll]
            for b in 0..block {
                // Past the end the last key stands in; its score is hidden.
                key_at[b] = min(j0 + b as i32, keys - 1) as usize;
                #[unroll]
                for r in 0..own {
                    s[r * block + b] = zero;
                }
            }
            #[unroll]
            for d in 0..steps {
                #[unroll]
                for b in 0..block {
                    let k = Vector::<f32, N>::cast_from(key[(key_base + key_at[b] * key_stride) / width + d]);
                    #[unroll]
                    for r in 0..own {
                        let x = q[r * steps + d];
                        #[unroll]
                        for c in 0..width {
                            s[r * block + b] = fma(x.extract(c), k.extract(c), s[r * block + b]);
                        }
                    }
                }
            }
            #[unroll]
            for r in 0..own {
                let facts = facts.index(r);
                let mut m_new = m[r];
                #[unroll]
                for b in 0..block {
                    let j = j0 + b as i32;
                    let mut x = score::<F>(s[r * block + b], key_at[b], j, facts, &bias, options);
                    if comptime!(hides(options)) || !seen_by_all {
                        let mut seen = j >= facts.first && j <= facts.last && j < end;
                        #[comptime]
                        if let ComptimeOption::Some(mask) = &mask {
                            let given = mask[facts.mask_at + key_at[b] * mask.stride(3)] != M::from_int(0);
                            seen = seen && (given == comptime!(options.keep));
                        }
                        x = select(seen, x, neg_inf);
                    }
                    s[r * block + b] = x;
                    m_new = max(m_new, x);
                }
                // A row that has seen nothing yet: 0 in place of −∞, so that exp(−∞ − 0) = 0.
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
            if comptime!(hides(options)) || !seen_by_all {
                #[unroll]
                for e in 0..out_steps {
                    #[unroll]
                    for r in 0..own {
                        acc[r * out_steps + e] = acc[r * out_steps + e] * Vector::new(fix[r]);
                    }
                    #[unroll]
                    for b in 0..block {
                        let v =
                            Vector::<f32, W>::cast_from(value[(value_base + key_at[b] * value_stride) / out_width + e]);
                        #[unroll]
                        for r in 0..own {
                            let p = s[r * block + b];
                            // What has no weight is not taken: it may be NaN.
                            let v = select(p == zero, Vector::new(0.0f32), v);
                            acc[r * out_steps + e] = fma(Vector::new(p), v, acc[r * out_steps + e]);
                        }
                    }
                }
            } else {
                #[unroll]
                for e in 0..out_steps {
                    #[unroll]
                    for r in 0..own {
                        acc[r * out_steps + e] = acc[r * out_steps + e] * Vector::new(fix[r]);
                    }
                    #[unroll]
                    for b in 0..block {
                        let v =
                            Vector::<f32, W>::cast_from(value[(value_base + key_at[b] * value_stride) / out_width + e]);
                        #[unroll]
                        for r in 0..own {
                            let p = s[r * block + b];
                            acc[r * out_steps + e] = fma(Vector::new(p), v, acc[r * out_steps + e]);
                        }
                    }
                }
            }
            j0 = next;
        }

        #[unroll]
        for r in 0..own {
            if first_row + r * CUBE_DIM as usize + (UNIT_POS as usize) < rows {
                let empty = l[r] == zero;
                let inverse = select(empty, zero, f32::cast_from(1u32) / l[r]);
                let batches = query.shape(0);
                let place_of_row =
                    ((place.split * batches + place.batch) * scalars.heads + heads[r]) * query_len + queries[r];
                let out_at = (place_of_row * value.shape(3) + scalars.first_column) / out_width;
                #[unroll]
                for e in 0..out_steps {
                    out[out_at + e] = Vector::cast_from(acc[r * out_steps + e] * Vector::new(inverse));
                }
                #[comptime]
                if let ComptimeOption::Some(lse) = &mut lse {
                    lse[place_of_row] = select(empty, neg_inf, m[r] + l[r].ln());
                }
            }
        }
    }
}

/// Where a row of what broadcasts to the scores begins; 0 where it is not given.
#[cube]
fn at_score<T: Numeric>(tensor: &ComptimeOption<&Tensor<T>>, batch: usize, head: usize, i: usize) -> usize {
    #[comptime]
    match tensor {
        ComptimeOption::Some(tensor) => batch * tensor.stride(0) + head * tensor.stride(1) + i * tensor.stride(2),
        ComptimeOption::None => 0usize.runtime(),
    }
}

/// A head's number; 0 where none is given.
#[cube]
fn per_head<T: Numeric>(tensor: &ComptimeOption<&Tensor<T>>, head: usize) -> f32 {
    #[comptime]
    match tensor {
        ComptimeOption::Some(tensor) => f32::cast_from(tensor[head * tensor.stride(0)]),
        ComptimeOption::None => f32::cast_from(0u32),
    }
}
