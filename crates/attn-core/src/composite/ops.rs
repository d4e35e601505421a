//! Short names for the backend operations that the composite uses often.

use std::ops::Range;

use burn_backend::tensor::{BoolTensor, FloatTensor};
use burn_backend::{Backend, FloatDType, Scalar, Shape, Slice, TensorMetadata};

/// The four axes of a tensor.
pub(super) fn dims<T: TensorMetadata>(tensor: &T) -> [usize; 4] {
    tensor.shape().dims::<4>()
}

/// Whether the ranges take all of a tensor.
fn is_whole(shape: &[usize], ranges: &[Range<usize>]) -> bool {
    shape.iter().zip(ranges).all(|(&axis, range)| *range == (0..axis))
}

/// The part of a tensor in the ranges; axes of length 1 are broadcast and stay whole.
pub(super) fn part<B: Backend>(tensor: &FloatTensor<B>, ranges: [Range<usize>; 4]) -> FloatTensor<B> {
    let shape = dims(tensor);
    let ranges = clip(shape, ranges);
    if is_whole(&shape, &ranges) {
        return tensor.clone();
    }
    B::float_slice(tensor.clone(), &ranges.map(Slice::from))
}

/// [`part`] of a bool tensor.
pub(super) fn bool_part<B: Backend>(tensor: &BoolTensor<B>, ranges: [Range<usize>; 4]) -> BoolTensor<B> {
    let shape = dims(tensor);
    let ranges = clip(shape, ranges);
    if is_whole(&shape, &ranges) {
        return tensor.clone();
    }
    B::bool_slice(tensor.clone(), &ranges.map(Slice::from))
}

/// The ranges of a broadcast tensor: `0..1` on axes of length 1.
pub(super) fn clip(shape: [usize; 4], ranges: [Range<usize>; 4]) -> [Range<usize>; 4] {
    let mut ranges = ranges;
    for (range, axis) in ranges.iter_mut().zip(shape) {
        if axis == 1 && range.start < range.end {
            *range = 0..1;
        }
    }
    ranges
}

/// Casts if the type differs.
pub(super) fn cast<B: Backend>(tensor: FloatTensor<B>, dtype: FloatDType) -> FloatTensor<B> {
    if tensor.dtype() == dtype.into() { tensor } else { B::float_cast(tensor, dtype) }
}

/// A new shape over the same elements.
pub(super) fn reshape<B: Backend, const N: usize>(tensor: FloatTensor<B>, shape: [usize; N]) -> FloatTensor<B> {
    B::float_reshape(tensor, Shape::from(shape))
}

/// `[B, h, r, X]` to `[B, g, (h/g)·r, X]`: the rows of the query heads that read one key/value head lie one after another.
pub(super) fn grouped<B: Backend>(tensor: FloatTensor<B>, kv_heads: usize) -> FloatTensor<B> {
    let [batch, heads, rows, dim] = dims(&tensor);
    if heads == kv_heads {
        return tensor;
    }
    reshape::<B, 4>(tensor, [batch, kv_heads, heads / kv_heads * rows, dim])
}

/// The inverse of [`grouped`].
pub(super) fn ungrouped<B: Backend>(tensor: FloatTensor<B>, heads: usize) -> FloatTensor<B> {
    let [batch, kv_heads, rows, dim] = dims(&tensor);
    if heads == kv_heads {
        return tensor;
    }
    reshape::<B, 4>(tensor, [batch, heads, rows * kv_heads / heads, dim])
}

/// Transposes the last two axes.
pub(super) fn transposed<B: Backend>(tensor: FloatTensor<B>) -> FloatTensor<B> {
    B::float_swap_dims(tensor, 2, 3)
}

/// Replaces elements where the mask holds.
pub(super) fn fill<B: Backend>(tensor: FloatTensor<B>, mask: BoolTensor<B>, value: f64) -> FloatTensor<B> {
    B::float_mask_fill(tensor, mask, Scalar::Float(value))
}

/// Multiplies by a number.
pub(super) fn times<B: Backend>(tensor: FloatTensor<B>, factor: f64) -> FloatTensor<B> {
    B::float_mul_scalar(tensor, Scalar::Float(factor))
}

/// Joins tensors along an axis, `first` in front; one alone is handed through.
pub(super) fn join<B: Backend>(first: FloatTensor<B>, rest: Vec<FloatTensor<B>>, axis: usize) -> FloatTensor<B> {
    if rest.is_empty() {
        return first;
    }
    B::float_cat(std::iter::once(first).chain(rest).collect(), axis)
}
