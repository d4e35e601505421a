//! Attention by the asynchronous matrix instructions of groups of four planes, which read keys and values from shared memory.
//!
//! ```text
//! for each cube: a tile of rows, 64 to a group of planes; a run of keys                    place.rs
//!   q = its rows                                                                            shared memory
//!   for each block of keys that some row of the cube may see:
//!     keys of the block after the next, values of the next: on their way                    shared memory, two stages of each
//!     s = q·kᵀ of the next block, begun                                                     registers
//!     acc = acc + p₁·v + p₂·v of this block, begun                                          registers
//!     x = score(s),  the online softmax p, l, m' of x                                       score.rs; f32, while acc is being added to
//!     acc = acc·2^(m − m'),  p = p₁ + p₂                                                    in the tensors' type
//!   out = acc/l,  lse = m·ln 2 + ln l
//! ```
//!
//! The instructions are NVIDIA's `wgmma` of 64 rows, which the H100's generation has and no other; CubeCL hands them on as text
//! (text.rs). A unit holds of the sums what it holds of a plane's in mma.rs, and a weight is a sum of two narrow numbers: 22 bits of
//! f16, 15 of bf16. Powers are of two, and m is the next whole one: to rescale by it and to lift weights rounds nothing.
//!
//! Values are not looked at on their way. Where one is not finite, a sum that it was multiplied into is not, whatever the weight: the
//! planes that find such sums add their rows again, number by number, and pass over what has no weight.

mod again;
mod parts;
mod text;

use burn_cubecl::cubecl;
use burn_cubecl::cubecl::prelude::*;

use self::again::added_again;
use self::parts::{
    add, address, arrived, begun, fetch, fetch_queries, gone, is_bad, multiply, power, scored, softmax, split,
};
use crate::device::mma::VECTOR;
use crate::device::place::{Scalars, facts, place, reach};
use crate::device::score::{Options, Score};
use crate::host::tiles::WgmmaTiles;

/// Rows of a group of planes.
pub const ROWS: usize = 64;
/// Units of a group.
pub const GROUP: usize = 128;
/// Bytes to which the places in shared memory are aligned: an atom of 8 rows of 128 bytes.
const ALIGNED: usize = 1024;

/// What is known when the kernel is compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Config {
    /// D, a multiple of 16.
    pub head_dim: usize,
    /// Columns of the output that this launch makes, a multiple of 16.
    pub columns: usize,
    /// Groups of planes of a cube.
    pub groups: usize,
    /// Keys of a block, a multiple of 16.
    pub block: usize,
    /// Numbers of the narrow type that a weight is the sum of.
    pub terms: usize,
    /// The bits of an f32 that the narrow type has room for.
    pub cut: u32,
    /// The power of two that weights are multiplied by on their way through the narrow type.
    pub lift: u32,
    /// The narrow type is bf16, not f16.
    pub brain: bool,
    /// Scores are products times a factor above 0: they are compared before it.
    pub plain: bool,
    /// What a score goes through.
    pub options: Options,
}

impl Config {
    /// The cut of a launch.
    pub fn new(tiles: &WgmmaTiles, head_dim: usize, columns: usize, plain: bool, options: Options) -> Self {
        let WgmmaTiles { groups, block, terms, cut, lift, brain } = *tiles;
        let is_changed = options.softcap || options.alibi || options.bias;
        Self { head_dim, columns, groups, block, terms, cut, lift, brain, plain: plain && !is_changed, options }
    }

    /// Columns that an instruction makes: a vector of sums has a power of two of them. Those beyond are not looked at.
    pub fn wide(&self) -> usize {
        self.columns.next_power_of_two()
    }

    /// The narrow type's name in instructions.
    fn narrow(&self) -> &'static str {
        if self.brain { "bf16" } else { "f16" }
    }

    /// Vectors in shared memory of a row that `columns` columns lie in: whole rows of atoms.
    fn row(columns: usize) -> usize {
        columns.div_ceil(text::ATOM * VECTOR) * text::ATOM
    }

    /// Where keys and values begin, and where all ends, in vectors: behind the queries, in two stages of each.
    fn places(&self) -> [usize; 3] {
        let keys = self.groups * ROWS * Self::row(self.head_dim);
        let values = keys + 2 * self.block * Self::row(self.head_dim);
        [keys, values, values + 2 * self.block * Self::row(self.columns)]
    }

    /// Bytes of shared memory.
    pub fn shared_bytes(&self) -> usize {
        self.places()[2] * 16
    }
}

/// The kernel. Shapes as those of `attention_forward`; N and W are 8, S is half a block, E half the columns of an
/// instruction, P the words of weights of a unit.
#[cube(launch, address_type = "dynamic")]
pub fn attention_wgmma<F: Float, O: Float, M: Numeric, N: Size, W: Size, S: Size, E: Size, P: Size>(
    query: &Tensor<Vector<F, N>>,
    key: &Tensor<Vector<F, N>>,
    value: &Tensor<Vector<F, W>>,
    mask: ComptimeOption<&Tensor<M>>,
    bias: ComptimeOption<&Tensor<F>>,
    slopes: ComptimeOption<&Tensor<F>>,
    sinks: ComptimeOption<&Tensor<F>>,
    bands: ComptimeOption<&Tensor<i32>>,
    out: &mut Tensor<Vector<O, Const<2>>>,
    mut lse: ComptimeOption<&mut Tensor<f32>>,
    scalars: Scalars,
    #[comptime] config: Config,
    #[define(F)] _element: ElemType,
    #[define(O)] _out_element: ElemType,
    #[define(M)] _mask_element: ElemType,
) {
    let cube = CUBE_POS;
    if cube < scalars.cubes {
        let mut place = place(cube, &scalars);
        // The last rows first: under a causal mask they have most to do.
        place.tile = scalars.tiles - 1 - place.tile;
        let query_len = query.shape(2);
        let block = comptime!(config.block);
        let ahead = block as i32;
        let cube_rows = comptime!(config.groups * ROWS);
        let reach = reach(&place, &scalars, query_len, cube_rows, &bands);
        let neg_inf = scalars.neg_inf;
        let zero = f32::cast_from(0u32);
        let one = f32::cast_from(1u32);
        let log2_e = comptime!(std::f32::consts::LOG2_E).runtime();
        let lift = comptime!((config.lift as f32).log2()).runtime();
        // From scores, or products, to powers of two.
        let factor = if comptime!(config.plain) { scalars.scale * log2_e } else { log2_e };

        let room = Shared::<[Vector<F, N>]>::new_aligned_slice(comptime!(config.places()[2]), comptime!(ALIGNED));
        let queries_at = address(&room);
        let keys_at = queries_at + comptime!(16 * config.places()[0] as u32);
        let values_at = queries_at + comptime!(16 * config.places()[1] as u32);
        let key_stage = comptime!((16 * block * Config::row(config.head_dim)) as u32);
        let value_stage = comptime!((16 * block * Config::row(config.columns)) as u32);

        let plane = UNIT_POS as usize / 32;
        let lane = UNIT_POS as usize % 32;
        let g = lane / 4;
        let t = lane % 4;
        let plane_row = plane * 16;

        // Of the two rows that the lane has a part of: what their scores depend on, and the online softmax.
        let mut rows = Sequence::<Score>::new();
        let mut m = Array::<f32>::new(2usize);
        let mut l = Array::<f32>::new(2usize);
        #[unroll]
        for r in 0..2usize {
            // A row that is not there is the last one again, and is not stored.
            let row = min(reach.first_row + plane_row + g + 8 * r, reach.rows - 1);
            let head = place.first_head + row / query_len;
            rows.push(facts::<F, M>(&place, &reach, &scalars, head, row % query_len, &mask, &bias, &slopes));
            m[r] = neg_inf;
            l[r] = zero;
            #[comptime]
            if let ComptimeOption::Some(sinks) = &sinks {
                let sink = f32::cast_from(sinks[head * sinks.stride(0)]);
                let level = (sink * log2_e).ceil();
                m[r] = level;
                l[r] = select(sink == neg_inf || t > 0, zero, power(&fma(sink, log2_e, lift - level)));
            }
        }
        let mut acc = Vector::<f32, E>::new(zero);
        let mut x = Array::<f32>::new(comptime!(block / 2));
        let mut factors = Array::<f32>::new(2usize);

        if reach.start < reach.end {
            let key_base = place.batch * key.stride(0) + place.kv_head * key.stride(1);
            let value_base = place.batch * value.stride(0) + place.kv_head * value.stride(1) + scalars.first_column;
            fetch_queries(query, &place, &reach, queries_at, config);
            fetch(key, key_base, reach.start, reach.end, keys_at, comptime!(config.head_dim), config);
            gone();
            arrived();
            sync_cube();
            fetch(value, value_base, reach.start, reach.end, values_at, comptime!(config.columns), config);
            if reach.start + ahead < reach.end {
                fetch(
                    key,
                    key_base,
                    reach.start + ahead,
                    reach.end,
                    keys_at + key_stage,
                    comptime!(config.head_dim),
                    config,
                );
            }
            gone();
            // The lower halves of the words that tell where matrices lie: queries of this group of planes.
            let group = (plane / 4) as u32;
            let query_word =
                begun(queries_at + group * comptime!((16 * ROWS * Config::row(config.head_dim)) as u32), 1u32);
            let key_word = begun(keys_at, 1u32);
            let value_word = begun(values_at, comptime!((block * text::ATOM) as u32));
            let next_key = comptime!(key_stage / 16);
            let next_value = comptime!(value_stage / 16);

            let mut s = multiply::<S>(query_word, key_word, config);
            s = parts::settled::<S>(&s, 0usize);
            scored::<F, M, S>(s, &mut x, reach.start, t, &reach, &rows, &mask, &bias, config);
            softmax(&mut x, &mut m, &mut l, &mut factors, factor, neg_inf, lift, config);
            let mut p = split::<P>(&mut x, config);
            let mut j0 = reach.start;
            let mut stage = 0u32.runtime();
            while j0 + ahead < reach.end {
                let other = 1 - stage;
                // What was on its way is there, and what comes in its place has been read.
                arrived();
                sync_cube();
                fetch(
                    value,
                    value_base,
                    j0 + ahead,
                    reach.end,
                    values_at + other * value_stage,
                    comptime!(config.columns),
                    config,
                );
                if j0 + 2 * ahead < reach.end {
                    fetch(
                        key,
                        key_base,
                        j0 + 2 * ahead,
                        reach.end,
                        keys_at + stage * key_stage,
                        comptime!(config.head_dim),
                        config,
                    );
                }
                gone();
                s = multiply::<S>(query_word, key_word + other * next_key, config);
                acc = add::<E, P>(&acc, &p, value_word + stage * next_value, config);
                s = parts::settled::<S>(&s, 1usize);
                j0 += ahead;
                scored::<F, M, S>(s, &mut x, j0, t, &reach, &rows, &mask, &bias, config);
                softmax(&mut x, &mut m, &mut l, &mut factors, factor, neg_inf, lift, config);
                acc = parts::settled::<E>(&acc, 0usize);
                p = split::<P>(&mut x, config);
                #[unroll]
                for at in 0..comptime!(config.columns / 2) {
                    acc.insert(at, acc.extract(at) * factors[comptime!(at / 2 % 2)]);
                }
                stage = other;
            }
            arrived();
            sync_cube();
            acc = add::<E, P>(&acc, &p, value_word + stage * next_value, config);
            acc = parts::settled::<E>(&acc, 0usize);
        }

        if plane_any(is_bad::<E>(acc, config)) {
            acc = added_again::<F, M, N, W, E>(
                query, key, value, &place, &reach, &scalars, &rows, &m, factor, lift, &mask, &bias, config,
            );
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
                for e in 0..comptime!(config.columns / 8) {
                    let mut pair = Vector::<f32, Const<2>>::new(zero);
                    #[unroll]
                    for c in 0..2usize {
                        pair.insert(c, acc.extract(e * 4 + r * 2 + c) * inverse);
                    }
                    out[begin / 2 + e * 4] = Vector::cast_from(pair);
                }
                #[comptime]
                if let ComptimeOption::Some(lse) = &mut lse {
                    if t == 0 {
                        let ln_2 = comptime!(std::f32::consts::LN_2).runtime();
                        let sum = total * comptime!(1.0 / config.lift as f32);
                        lse[place_of_row] = select(empty, neg_inf, fma(m[r], ln_2, sum.ln()));
                    }
                }
            }
        }
    }
}
