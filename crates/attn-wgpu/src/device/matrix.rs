//! Attention by matrix units: the products of a tile are those of small matrices, which a plane multiplies at once.
//!
//! ```text
//! for each cube: a tile of rows, `size` to a plane; a run of keys                          place.rs
//!   each plane:  q = its rows,  acc = 0                                                    matrices in registers
//!   for each block of keys that some row of the cube may see:
//!     keys and values of the block                                                         in shared memory, for all planes
//!     s = q·kᵀ                                                                              matrices, then shared memory
//!     each unit, a part of a row:  s = score(s),  the online softmax p, l, m'               score.rs; f32
//!     p = p₁ + p₂ (+ p₃)                                                                    in the tensors' type
//!     acc = acc·exp(m − m') + p₁·v + p₂·v (+ p₃·v)                                          matrices, then shared memory
//!   out = acc/l,  lse = m + ln l
//! ```
//!
//! Matrix units multiply the tensors' narrow type and add in f32. A weight is therefore given to them as a sum of two numbers of f16
//! (three of bf16), so that it keeps the bits that the contract asks for. How a matrix lies in a plane's registers only the hardware
//! knows, so a block's part of the output goes through shared memory, and each unit adds its columns of a row to those that it keeps
//! in registers: there a row is rescaled in f32, and no matrix lives longer than its block. Values that are not finite are not
//! multiplied by matrices, where 0·NaN would reach rows that do not see them: such a block is added number by number.

use burn_cubecl::cubecl;
use burn_cubecl::cubecl::cmma;
use burn_cubecl::cubecl::prelude::*;

use crate::device::place::{Scalars, facts, place, reach};
use crate::device::score::{Options, score, seen};

/// What is known when the kernel is compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Config {
    /// D.
    pub head_dim: usize,
    /// Columns of the output that this launch makes.
    pub columns: usize,
    /// Rows, columns and depth of a matrix.
    pub size: usize,
    /// Planes of a cube.
    pub planes: usize,
    /// Units of a plane, a multiple of `size`.
    pub plane: usize,
    /// Keys of a block, a multiple of `size`.
    pub block: usize,
    /// Numbers of the narrow type that a weight is the sum of.
    pub terms: usize,
    /// The bits of an f32 that the narrow type has room for.
    pub cut: u32,
    /// What weights are multiplied by on their way through matrices: f16's numbers begin at 2⁻²⁴, and weights far below count where
    /// all values are small. A power of two, which rounds nothing; weights are at most 1, f16 ends at 65504, and bf16 needs none.
    pub lift: u32,
    /// What a score goes through.
    pub options: Options,
}

impl Config {
    /// Elements from one row of `columns` to the next in shared memory: whole matrices, and eight more, so that the rows of a
    /// matrix begin in different banks.
    pub fn pitch(&self, columns: usize) -> usize {
        columns.next_multiple_of(self.size) + 8
    }

    /// Rows that the keys' place in shared memory holds: queries pass through it first.
    pub fn key_rows(&self) -> usize {
        self.block.max(self.planes * self.size)
    }

    /// Bytes of shared memory, with elements of `bytes`.
    pub fn shared_bytes(&self, bytes: usize) -> usize {
        let rows = self.planes * self.size;
        let narrow = self.key_rows() * self.pitch(self.head_dim)
            + self.block * self.pitch(self.columns)
            + self.terms * rows * self.block;
        narrow * bytes + 4 * (rows * self.block + rows * (self.plane / self.size) + 1)
    }
}

/// f32's exponent: all ones in what is not finite.
const EXPONENT: u32 = 0x7f80_0000;

/// The kernel. Shapes as those of `attention_forward`.
#[cube(launch, address_type = "dynamic")]
pub fn attention_matrix<F: Float, O: Float, M: Numeric, N: Size, W: Size>(
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
        let size = comptime!(config.size);
        let block = comptime!(config.block);
        let columns = comptime!(config.columns);
        let cube_rows = comptime!(config.planes * config.size);
        let parts = comptime!(config.plane / config.size);
        let own = comptime!(config.block * config.size / config.plane);
        let deep = comptime!(config.head_dim.div_ceil(config.size));
        let wide = comptime!(config.columns.div_ceil(config.size));
        let key_pitch = comptime!(config.pitch(config.head_dim));
        let value_pitch = comptime!(config.pitch(config.columns));
        let reach = reach(&place, &scalars, query_len, cube_rows, &bands);
        let neg_inf = scalars.neg_inf;
        let zero = f32::cast_from(0u32);
        let one = f32::cast_from(1u32);

        let mut keys = Shared::<[F]>::new_aligned_slice(comptime!(config.key_rows() * key_pitch), 32usize);
        let mut values = Shared::<[F]>::new_aligned_slice(comptime!(block * value_pitch), 32usize);
        let mut scores = Shared::<[f32]>::new_aligned_slice(comptime!(cube_rows * block), 32usize);
        let mut weights = Shared::<[F]>::new_aligned_slice(comptime!(config.terms * cube_rows * block), 32usize);
        let mut partial = Shared::<[f32]>::new_slice(comptime!(cube_rows * parts));
        let poisoned = Shared::<[Atomic<u32>]>::new_slice(1usize);

        let plane = UNIT_POS as usize / config.plane;
        let lane = UNIT_POS as usize % config.plane;
        // A unit has a part of a row: `own` scores of each block.
        let part = lane % parts;
        let tile_row = plane * size + lane / parts;
        let row = min(reach.first_row + tile_row, reach.rows - 1);
        let head = place.first_head + row / query_len;
        let i = row % query_len;
        let facts = facts::<F, M>(&place, &reach, &scalars, head, i, &mask, &bias, &slopes);
        let scores_at = tile_row * block + part * own;
        let plane_scores = plane * size * block;

        // The queries, by way of the keys' place.
        let width = N::value();
        let steps = comptime!(config.head_dim / width);
        let all_steps = comptime!((deep * size).div_ceil(width));
        let mut at = UNIT_POS as usize;
        while at < comptime!(cube_rows * all_steps) {
            let r = at / all_steps;
            let d = at % all_steps;
            let row = reach.first_row + r;
            let mut x = Vector::<F, N>::new(F::from_int(0));
            if row < reach.rows && d < steps {
                let head = place.first_head + row / query_len;
                let i = row % query_len;
                let begin = place.batch * query.stride(0) + head * query.stride(1) + i * query.stride(2);
                x = query[begin / width + d];
            }
            put::<F, N>(&mut keys, r * key_pitch, d * width, comptime!(deep * size), x);
            at += CUBE_DIM as usize;
        }
        sync_cube();
        let mut q = Sequence::<cmma::Matrix<F>>::new();
        #[unroll]
        for d in 0..deep {
            let from = plane * size * key_pitch + d * size;
            q.push(cmma::Matrix::<F>::from_slice(
                cmma::MatrixIdent::A,
                size,
                size,
                size,
                cmma::MatrixLayout::RowMajor,
                &keys[from..comptime!(config.key_rows() * key_pitch)],
                key_pitch as u32,
            ));
        }
        // A unit's columns of each matrix of the output, of its row.
        let kept = comptime!(size / parts);
        let mut acc = Array::<f32>::new(comptime!(wide * kept));
        #[unroll]
        for at in 0..comptime!(wide * kept) {
            acc[at] = zero;
        }
        let mut m = neg_inf;
        let mut l = zero;
        #[comptime]
        if let ComptimeOption::Some(sinks) = &sinks {
            let sink = f32::cast_from(sinks[head * sinks.stride(0)]);
            m = sink;
            l = select(sink == neg_inf || part > 0, zero, one);
        }

        let key_base = place.batch * key.stride(0) + place.kv_head * key.stride(1);
        let value_base = place.batch * value.stride(0) + place.kv_head * value.stride(1) + scalars.first_column;
        let out_width = W::value();
        let out_steps = comptime!(config.columns / out_width);
        let all_out_steps = comptime!((wide * size).div_ceil(out_width));
        let mut x = Array::<f32>::new(own);
        let mut j0 = reach.start;
        while j0 < reach.end {
            // The units have read what the last block left.
            if UNIT_POS == 0 {
                poisoned[0].store(0u32);
            }
            sync_cube();
            let mut at = UNIT_POS as usize;
            while at < comptime!(block * all_steps) {
                let b = at / all_steps;
                let d = at % all_steps;
                let j = j0 + b as i32;
                let mut x = Vector::<F, N>::new(F::from_int(0));
                if j < reach.end && d < steps {
                    x = key[(key_base + j as usize * key.stride(2)) / width + d];
                }
                put::<F, N>(&mut keys, b * key_pitch, d * width, comptime!(deep * size), x);
                at += CUBE_DIM as usize;
            }
            let mut bad = false.runtime();
            let mut at = UNIT_POS as usize;
            while at < comptime!(block * all_out_steps) {
                let b = at / all_out_steps;
                let e = at % all_out_steps;
                let j = j0 + b as i32;
                let mut x = Vector::<F, W>::new(F::from_int(0));
                if j < reach.end && e < out_steps {
                    x = value[(value_base + j as usize * value.stride(2)) / out_width + e];
                }
                #[unroll]
                for c in 0..out_width {
                    let bits = u32::reinterpret(f32::cast_from(x.extract(c)));
                    bad = bad || (bits & EXPONENT) == EXPONENT;
                }
                put::<F, W>(&mut values, b * value_pitch, e * out_width, comptime!(wide * size), x);
                at += CUBE_DIM as usize;
            }
            if bad {
                poisoned[0].store(1u32);
            }
            sync_cube();
            let is_poisoned = poisoned[0].load() != 0u32;

            #[unroll]
            for n in 0..comptime!(block / size) {
                let s = cmma::Matrix::<f32>::from_value(
                    cmma::MatrixIdent::Accumulator,
                    size,
                    size,
                    size,
                    cmma::MatrixLayout::Undefined,
                    zero,
                );
                #[unroll]
                for d in 0..deep {
                    let from = n * size * key_pitch + d * size;
                    let k = cmma::Matrix::<F>::from_slice(
                        cmma::MatrixIdent::B,
                        size,
                        size,
                        size,
                        cmma::MatrixLayout::ColMajor,
                        &keys[from..comptime!(config.key_rows() * key_pitch)],
                        key_pitch as u32,
                    );
                    cmma::execute(q.index(d), &k, &s, &s);
                }
                let to = plane_scores + n * size;
                cmma::store(
                    &mut scores[to..comptime!(cube_rows * block)],
                    &s,
                    block as u32,
                    cmma::MatrixLayout::RowMajor,
                );
            }
            sync_plane();

            let seen_by_all = j0 >= reach.all_start && j0 + block as i32 <= reach.all_end;
            let mut m_new = m;
            #[unroll]
            for t in 0..own {
                let j = j0 + (part * own + t) as i32;
                let key_at = min(j, reach.keys - 1) as usize;
                let mut s = score::<F>(scores[scores_at + t], key_at, j, &facts, &bias, config.options);
                if comptime!(config.options.mask) || !seen_by_all {
                    s = select(seen::<M>(key_at, j, reach.end, &facts, &mask, config.options), s, neg_inf);
                }
                x[t] = s;
                m_new = max(m_new, s);
            }
            if comptime!(parts > 1) {
                partial[tile_row * parts + part] = m_new;
                sync_plane();
                #[unroll]
                for t in 0..parts {
                    m_new = max(m_new, partial[tile_row * parts + t]);
                }
            }
            // A row that has seen nothing yet: 0 in place of −∞, so that exp(−∞ − 0) = 0.
            let level = select(m_new == neg_inf, zero, m_new);
            let factor = (m - level).exp();
            m = m_new;
            let mut sum = l * factor;
            #[unroll]
            for t in 0..own {
                let p = (x[t] - level).exp();
                sum += p;
                if is_poisoned {
                    scores[scores_at + t] = p;
                }
                let mut rest = p * comptime!(config.lift as f32);
                #[unroll]
                for term in 0..config.terms {
                    // Cut, not rounded: what is left is exact, and no compiler takes the way there and back for nothing.
                    let cut = f32::reinterpret(u32::reinterpret(rest) & comptime!(config.cut));
                    weights[comptime!(term * cube_rows * block) + scores_at + t] = F::cast_from(cut);
                    rest -= cut;
                }
            }
            l = sum;
            #[unroll]
            for at in 0..comptime!(wide * kept) {
                acc[at] *= factor;
            }
            sync_plane();

            if is_poisoned {
                for b in 0..block {
                    let p = scores[tile_row * block + b];
                    // What has no weight is not taken: it may be NaN.
                    if p != zero {
                        #[unroll]
                        for e in 0..wide {
                            #[unroll]
                            for c in 0..kept {
                                let v = f32::cast_from(values[b * value_pitch + e * size + part * kept + c]);
                                acc[e * kept + c] = fma(p, v, acc[e * kept + c]);
                            }
                        }
                    }
                }
            } else {
                let mut p = Sequence::<cmma::Matrix<F>>::new();
                #[unroll]
                for n in 0..comptime!(block / size) {
                    #[unroll]
                    for term in 0..config.terms {
                        let from = comptime!(term * cube_rows * block) + plane_scores + n * size;
                        p.push(cmma::Matrix::<F>::from_slice(
                            cmma::MatrixIdent::A,
                            size,
                            size,
                            size,
                            cmma::MatrixLayout::RowMajor,
                            &weights[from..comptime!(config.terms * cube_rows * block)],
                            block as u32,
                        ));
                    }
                }
                // As many matrices at a time as the scores' place holds.
                let at_once = comptime!(block / size);
                #[unroll]
                for turn in 0..comptime!(wide.div_ceil(block / size)) {
                    let first = comptime!(turn * (block / size));
                    let last = comptime!(wide.min((turn + 1) * (block / size)));
                    #[unroll]
                    for e in first..last {
                        let sum = cmma::Matrix::<f32>::from_value(
                            cmma::MatrixIdent::Accumulator,
                            size,
                            size,
                            size,
                            cmma::MatrixLayout::Undefined,
                            zero,
                        );
                        #[unroll]
                        for n in 0..at_once {
                            let from = n * size * value_pitch + e * size;
                            let v = cmma::Matrix::<F>::from_slice(
                                cmma::MatrixIdent::B,
                                size,
                                size,
                                size,
                                cmma::MatrixLayout::RowMajor,
                                &values[from..comptime!(block * value_pitch)],
                                value_pitch as u32,
                            );
                            #[unroll]
                            for term in 0..config.terms {
                                cmma::execute(p.index(comptime!(n * config.terms + term)), &v, &sum, &sum);
                            }
                        }
                        let to = plane_scores + (e - first) * size;
                        cmma::store(
                            &mut scores[to..comptime!(cube_rows * block)],
                            &sum,
                            block as u32,
                            cmma::MatrixLayout::RowMajor,
                        );
                    }
                    sync_plane();
                    #[unroll]
                    for e in first..last {
                        #[unroll]
                        for c in 0..kept {
                            let added = scores[tile_row * block + (e - first) * size + part * kept + c];
                            acc[e * kept + c] = fma(added, comptime!(1.0 / config.lift as f32), acc[e * kept + c]);
                        }
                    }
                    sync_plane();
                }
            }
            sync_cube();
            j0 += block as i32;
        }

        // A row's parts add up.
        let mut total = l;
        if comptime!(parts > 1) {
            partial[tile_row * parts + part] = l;
            sync_plane();
            total = zero;
            #[unroll]
            for t in 0..parts {
                total += partial[tile_row * parts + t];
            }
        }
        let empty = total == zero;
        let inverse = select(empty, zero, one / total);
        if reach.first_row + tile_row < reach.rows {
            let batches = query.shape(0);
            let place_of_row = ((place.split * batches + place.batch) * scalars.heads + head) * query_len + i;
            let begin = place_of_row * value.shape(3) + scalars.first_column;
            #[unroll]
            for e in 0..wide {
                #[unroll]
                for c in 0..kept {
                    let column = e * size + part * kept + c;
                    if comptime!((e + 1) * size <= columns) || column < columns {
                        out[begin + column] = O::cast_from(acc[e * kept + c] * inverse);
                    }
                }
            }
            #[comptime]
            if let ComptimeOption::Some(lse) = &mut lse {
                if part == 0 {
                    lse[place_of_row] = select(empty, neg_inf, m + total.ln());
                }
            }
        }
    }
}

/// Writes a vector from `column` on into a row that begins at `row`, but nothing from column `end` on.
#[cube]
fn put<F: Float, N: Size>(into: &mut Shared<[F]>, row: usize, column: usize, #[comptime] end: usize, x: Vector<F, N>) {
    #[unroll]
    for c in 0..N::value() {
        if column + c < end {
            into[row + column + c] = x.extract(c);
        }
    }
}
