//! What the units do with a block of keys and values: read it, keep it, multiply by it, make scores of the products.

use burn_cubecl::cubecl;
use burn_cubecl::cubecl::cmma::{MatrixIdent, MmaDefinition};
use burn_cubecl::cubecl::prelude::*;

use super::{Config, ROWS, VECTOR};
use crate::device::score::{Options, Score, score, seen};

/// Reads a block of rows of `steps` vectors, a few vectors to a unit; zeros from row `end` on.
#[cube]
pub fn load<F: Float, N: Size>(
    tensor: &Tensor<Vector<F, N>>,
    base: usize,
    j0: i32,
    end: i32,
    into: &mut Array<Vector<F, N>>,
    #[comptime] block: usize,
    #[comptime] steps: usize,
    #[comptime] units: usize,
) {
    let stride = tensor.stride(2);
    #[unroll]
    for n in 0..comptime!((block * steps).div_ceil(units)) {
        let at = UNIT_POS as usize + n * units;
        let j = j0 + (at / steps) as i32;
        let mut x = Vector::<F, N>::new(F::from_int(0));
        if j < end {
            x = tensor[(base + j as usize * stride) / VECTOR + at % steps];
        }
        into[n] = x;
    }
}

/// Writes what [`load`] has read into shared memory, from `at` on.
#[cube]
pub fn keep<F: Float, N: Size>(
    from: &Array<Vector<F, N>>,
    into: &mut Shared<[Vector<F, N>]>,
    at: usize,
    #[comptime] block: usize,
    #[comptime] steps: usize,
    #[comptime] units: usize,
) {
    #[unroll]
    for n in 0..comptime!((block * steps).div_ceil(units)) {
        let of_block = UNIT_POS as usize + n * units;
        if comptime!((n + 1) * units <= block * steps) || of_block < comptime!(block * steps) {
            into[at + (of_block / steps) * (steps + 1) + of_block % steps] = from[n];
        }
    }
}

/// Whether one of the numbers in `count` vectors is not finite, by the bits of two numbers' `exponents`. Two numbers lie in a word: an
/// exponent of ones, and one more at its end, carry into the sign's place.
#[cube]
pub fn is_bad<F: Float, N: Size>(
    of: &Array<Vector<F, N>>,
    #[comptime] count: usize,
    #[comptime] exponents: u32,
) -> bool {
    let mut bits = 0u32.runtime();
    #[unroll]
    for n in 0..count {
        let words = Vector::<u32, Const<4>>::reinterpret(of[n]);
        #[unroll]
        for c in 0..4usize {
            bits |= (words.extract(c) & exponents) + comptime!(exponents & !(exponents << 1));
        }
    }
    bits & 0x8000_8000u32 != 0u32
}

/// The products of the plane's rows with a block of keys that lies from `keys_at` on.
#[cube]
pub fn products<F: Float, N: Size>(
    mma: &MmaDefinition<F, F, f32>,
    q: &Sequence<Array<Vector<F, Const<2>>>>,
    s: &mut Sequence<Array<Vector<f32, Const<2>>>>,
    keys: &Shared<[Vector<F, N>]>,
    keys_at: usize,
    lane: usize,
    #[comptime] config: Config,
) {
    let pitch = comptime!(config.pitch(config.head_dim));
    #[unroll]
    for n in 0..comptime!(config.block / 8) {
        let s = s.index_mut(n);
        s[0] = Vector::new(0.0f32);
        s[1] = Vector::new(0.0f32);
    }
    let mut left = Array::<Vector<F, Const<2>>>::new(2usize);
    let mut right = Array::<Vector<F, Const<2>>>::new(2usize);
    #[unroll]
    for d in 0..comptime!(config.head_dim / ROWS) {
        #[unroll]
        for n in 0..comptime!(config.block / 16) {
            // Sixteen keys, sixteen dims: the B of two products.
            let at = keys_at + (n * 16 + lane % 8 + (lane / 16) * 8) * pitch + d * 2 + (lane / 8) % 2;
            let four = mma.load_matrix::<Vector<F, N>, Const<2>>(&keys[at..at + 1], MatrixIdent::B, 4usize, false);
            left[0] = four[0];
            left[1] = four[1];
            right[0] = four[2];
            right[1] = four[3];
            mma.execute_inplace(q.index(d), &left, s.index_mut(2 * n));
            mma.execute_inplace(q.index(d), &right, s.index_mut(2 * n + 1));
        }
    }
}

/// The scores of the lane's parts of a block, `x[4·n + 2·r + c]` of its column c of row r of the matrix n, of `halves` rows; −∞ where a
/// key is not seen, which is only asked where `guarded`.
#[cube]
#[allow(clippy::too_many_arguments, reason = "a kernel's variables, handed on one by one")]
pub fn scores<F: Float, M: Numeric>(
    s: &Sequence<Array<Vector<f32, Const<2>>>>,
    x: &mut Array<f32>,
    j0: i32,
    t: usize,
    keys: i32,
    end: i32,
    rows: &Sequence<Score>,
    mask: &ComptimeOption<&Tensor<M>>,
    bias: &ComptimeOption<&Tensor<F>>,
    #[comptime] guarded: bool,
    #[comptime] halves: usize,
    #[comptime] block: usize,
    #[comptime] options: Options,
) {
    #[unroll]
    for r in 0..halves {
        let row = rows.index(r);
        #[unroll]
        for n in 0..comptime!(block / 8) {
            #[unroll]
            for c in 0..2usize {
                let j = j0 + (n * 8 + 2 * t + c) as i32;
                let key_at = min(j, keys - 1) as usize;
                let mut of_key = score::<F>(s.index(n)[r].extract(c), key_at, j, row, bias, options);
                if guarded {
                    let seen = seen::<M>(key_at, j, end, row, mask, options);
                    of_key = select(seen, of_key, row.neg_inf);
                }
                x[n * 4 + r * 2 + c] = of_key;
            }
        }
    }
}

/// Registers of sums, at zero.
#[cube]
pub fn zeros() -> Array<Vector<f32, Const<2>>> {
    let mut registers = Array::<Vector<f32, Const<2>>>::new(2usize);
    registers[0] = Vector::new(0.0f32);
    registers[1] = Vector::new(0.0f32);
    registers
}
