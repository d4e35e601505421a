//! The two kinds of products of a block, forward and backward: of own rows with others' rows, and of weights with others' rows.

use burn_cubecl::cubecl;
use burn_cubecl::cubecl::prelude::*;

use crate::device::fetch::{fetch, part};

/// `own_r · row_b` for all own rows and the rows of a block, `[own, block]`. Row `b` begins at `at[b]`.
///
/// Numbers are added in the order of the dimensions, whoever owns which side: all kernels find the same bits.
#[cube]
#[allow(clippy::too_many_arguments, reason = "a block's tensors and lengths, handed on one by one")]
pub fn products<F: Float, N: Size>(
    rows: &Array<Vector<f32, N>>,
    tensor: &Tensor<Vector<F, N>>,
    fetched: &Array<Vector<f32, N>>,
    at: &Array<usize>,
    #[comptime] steps: usize,
    #[comptime] own: usize,
    #[comptime] block: usize,
    #[comptime] plane: usize,
) -> Array<f32> {
    let width = N::value();
    let zero = f32::cast_from(0u32);
    let mut sums = Array::<f32>::new(comptime!(own * block));
    #[unroll]
    for index in 0..comptime!(own * block) {
        sums[index] = zero;
    }
    let mut other = Array::<Vector<f32, N>>::new(block);
    #[unroll]
    for d in 0..steps {
        #[unroll]
        for b in 0..block {
            other[b] = part::<F, N>(tensor, fetched, at[b], comptime!(b * steps + d), d, plane);
        }
        #[unroll]
        for c in 0..width {
            #[unroll]
            for b in 0..block {
                #[unroll]
                for r in 0..own {
                    sums[r * block + b] = fma(rows[r * steps + d].extract(c), other[b].extract(c), sums[r * block + b]);
                }
            }
        }
    }
    sums
}

/// `acc_r += Σ_b weights[r, b] · row_b`, of `steps` vectors. Where `guarded`, rows of weight 0 are not taken: they may be NaN.
#[cube]
#[allow(clippy::too_many_arguments, reason = "a block's tensors and lengths, handed on one by one")]
pub fn accumulate<F: Float, N: Size>(
    acc: &mut Array<Vector<f32, N>>,
    weights: &Array<f32>,
    tensor: &Tensor<Vector<F, N>>,
    fetched: &Array<Vector<f32, N>>,
    at: &Array<usize>,
    #[comptime] steps: usize,
    #[comptime] own: usize,
    #[comptime] block: usize,
    #[comptime] plane: usize,
    #[comptime] guarded: bool,
) {
    let zero = f32::cast_from(0u32);
    #[unroll]
    for d in 0..steps {
        #[unroll]
        for b in 0..block {
            let other = part::<F, N>(tensor, fetched, at[b], comptime!(b * steps + d), d, plane);
            #[unroll]
            for r in 0..own {
                let weight = weights[r * block + b];
                let mut taken = other;
                if comptime!(guarded) {
                    taken = select(weight == zero, Vector::new(0.0f32), other);
                }
                acc[r * steps + d] = fma(Vector::new(weight), taken, acc[r * steps + d]);
            }
        }
    }
}

/// Adds a block's rows, times their weights, to `columns` vectors of the gradients, from `first_column` on.
#[cube]
#[allow(clippy::too_many_arguments, reason = "a block's tensors and lengths, handed on one by one")]
pub fn add_columns<F: Float, N: Size>(
    acc: &mut Array<Vector<f32, N>>,
    weights: &Array<f32>,
    tensor: &Tensor<Vector<F, N>>,
    fetched: &Array<Vector<f32, N>>,
    at: &Array<usize>,
    base: usize,
    stride: usize,
    first: i32,
    last: i32,
    first_column: usize,
    #[comptime] columns: usize,
    #[comptime] steps: usize,
    #[comptime] own: usize,
    #[comptime] block: usize,
    #[comptime] plane: usize,
    #[comptime] guarded: bool,
) {
    if comptime!(columns > 0) {
        if comptime!(columns == steps) {
            accumulate::<F, N>(acc, weights, tensor, fetched, at, columns, own, block, plane, guarded);
        } else {
            let mut moved = Array::<usize>::new(block);
            #[unroll]
            for b in 0..block {
                moved[b] = at[b] + first_column;
            }
            let part = fetch::<F, N>(tensor, base + first_column, stride, first, last, columns, block, plane);
            accumulate::<F, N>(acc, weights, tensor, &part, &moved, columns, own, block, plane, guarded);
        }
    }
}
