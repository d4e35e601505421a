//! The bias by relative position of a tile, and its gradient.
//!
//! Along a diagonal of the scores all read the same number of the table. So a tile of r rows and k keys has r + k − 1 numbers a head,
//! and shearing a copy of them a row makes the tile; the gradient goes back the same way.

use std::ops::Range;

use burn_backend::tensor::{Device, FloatTensor};
use burn_backend::{Backend, Shape, Slice, TensorMetadata};

use super::context::{Context, Tile};
use super::ops::{cast, join, reshape};

/// Which columns of the table the diagonals of a tile read, from that of the last row and first key on: the first column `low` times,
/// then `middle` columns once each, then the last column `high` times.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Diagonals {
    low: usize,
    middle: Range<usize>,
    high: usize,
}

impl Diagonals {
    /// Of a tile whose queries stand `offset` past their rows.
    fn new(tile: &Tile, reach: usize, offset: i64) -> Self {
        let (count, reach) = ((tile.rows.len() + tile.keys.len() - 1) as i64, reach as i64);
        // Distance of diagonal 0; that of diagonal c is c more.
        let base = (tile.keys.start as i64 - (tile.rows.end as i64 - 1)).saturating_sub(offset);
        let low = (-reach).saturating_sub(base).clamp(0, count);
        let end = (reach + 1).saturating_sub(base).clamp(low, count);
        // An empty middle may lie anywhere.
        let start = low.saturating_add(base).saturating_add(reach).clamp(0, 2 * reach + 1) as usize;
        Self { low: low as usize, middle: start..start + (end - low) as usize, high: (count - end) as usize }
    }
}

impl<B: Backend> Context<'_, B> {
    /// `table[h, R + clamp(j − p, −R, R)]` of a tile, `[B or 1, h or 1, r, k]`, in the accumulation type.
    pub(super) fn relative_bias(&self, tile: &Tile) -> Option<FloatTensor<B>> {
        let table = self.inputs.relative_bias.as_ref()?;
        let [own, distances] = table.shape().dims::<2>();
        let heads = own_heads(own, tile);
        let table = cast::<B>(columns::<B>(table, heads, 0..distances), self.accumulation);
        let offsets = self.offsets();
        let mut entries = offsets.iter().map(|&offset| sheared::<B>(&table, tile, distances / 2, offset));
        let first = entries.next()?;
        Some(join::<B>(first, entries.collect(), 0))
    }

    /// Adds the table's gradient by a tile's scores, `[B, h, r, k]`, to its sum, `[H or 1, 2·R + 1]`.
    pub(super) fn add_relative_bias(&self, sum: &mut Option<FloatTensor<B>>, grad: &FloatTensor<B>, tile: &Tile) {
        let Some([own, distances]) = self.problem.relative_bias else { return };
        let heads = own_heads(own, tile);
        let mut total = sum
            .take()
            .unwrap_or_else(|| B::float_zeros(Shape::from([own, distances]), &self.device, self.accumulation));
        let offsets = self.offsets();
        for (batch, &offset) in offsets.iter().enumerate() {
            let entry = match offsets.len() {
                1 => grad.clone(),
                _ => super::ops::part::<B>(grad, entry_of(batch, tile)),
            };
            let sums = diagonal_sums::<B>(entry, own == 1, &self.device);
            let Diagonals { low, middle, high } = Diagonals::new(tile, distances / 2, offset);
            let count = low + middle.len() + high;
            let parts = [
                (0..low, 0..1, true),
                (low..low + middle.len(), middle, false),
                (count - high..count, distances - 1..distances, true),
            ];
            for (from, to, is_one_column) in parts {
                if from.is_empty() {
                    continue;
                }
                let part = columns::<B>(&sums, 0..heads.len(), from);
                let part = if is_one_column { B::float_sum_dim(part, 1) } else { part };
                let sum = B::float_add(columns::<B>(&total, heads.clone(), to.clone()), part);
                total = B::float_slice_assign(total, &[heads.clone(), to].map(Slice::from), sum);
            }
        }
        *sum = Some(total);
    }

    /// How far the queries of each batch entry stand past their rows; one number where that is the same for all.
    fn offsets(&self) -> Vec<i64> {
        let mut offsets: Vec<_> = self.problem.bands.iter().map(|band| band.offset).collect();
        if offsets.iter().all(|offset| Some(offset) == offsets.first()) {
            offsets.truncate(1);
        }
        offsets
    }
}

/// The table's heads that a tile reads.
fn own_heads(own: usize, tile: &Tile) -> Range<usize> {
    if own == 1 { 0..1 } else { tile.heads.clone() }
}

/// A batch entry of a tile's scores.
fn entry_of(batch: usize, tile: &Tile) -> [Range<usize>; 4] {
    [batch..batch + 1, 0..tile.heads.len(), 0..tile.rows.len(), 0..tile.keys.len()]
}

/// A part of a matrix.
fn columns<B: Backend>(matrix: &FloatTensor<B>, rows: Range<usize>, columns: Range<usize>) -> FloatTensor<B> {
    if matrix.shape().dims::<2>() == [rows.end, columns.end] && rows.start == 0 && columns.start == 0 {
        return matrix.clone();
    }
    B::float_slice(matrix.clone(), &[rows, columns].map(Slice::from))
}

/// A tile `[1, h, r, k]` from a table `[h, 2·R + 1]`.
fn sheared<B: Backend>(table: &FloatTensor<B>, tile: &Tile, reach: usize, offset: i64) -> FloatTensor<B> {
    let (rows, keys) = (tile.rows.len(), tile.keys.len());
    let heads = table.shape().dims::<2>()[0];
    let Diagonals { low, middle, high } = Diagonals::new(tile, reach, offset);
    let repeated = |column: usize, times: usize| {
        B::float_expand(columns::<B>(table, 0..heads, column..column + 1), Shape::from([heads, times]))
    };
    let mut parts = Vec::with_capacity(3);
    if low > 0 {
        parts.push(repeated(0, low));
    }
    if !middle.is_empty() {
        parts.push(columns::<B>(table, 0..heads, middle));
    }
    if high > 0 {
        parts.push(repeated(2 * reach, high));
    }
    let count = rows + keys - 1;
    let diagonals = B::float_cat(parts, 1);
    if rows == 1 {
        return reshape::<B, 4>(diagonals, [1, heads, 1, keys]);
    }
    // Copies of the diagonals one after another, cut from `rows − 1` on into rows shorter by one: each begins one diagonal earlier.
    let copies = reshape::<B, 3>(diagonals, [heads, 1, count]);
    let copies = B::float_expand(copies, Shape::from([heads, rows, count]));
    let line = reshape::<B, 2>(copies, [heads, rows * count]);
    let cut = columns::<B>(&line, 0..heads, rows - 1..rows - 1 + rows * (count - 1));
    let cut = reshape::<B, 4>(cut, [1, heads, rows, count - 1]);
    super::ops::part::<B>(&cut, [0..1, 0..heads, 0..rows, 0..keys])
}

/// The sums of `[b, h, r, k]` over batch entries and each diagonal, `[h, r + k − 1]`, over heads too if `over_heads`: the way of
/// [`sheared`] backwards.
fn diagonal_sums<B: Backend>(grad: FloatTensor<B>, over_heads: bool, device: &Device<B>) -> FloatTensor<B> {
    let dtype = grad.dtype();
    let mut grad = B::float_sum_dim(grad, 0);
    if over_heads {
        grad = B::float_sum_dim(grad, 1);
    }
    let [_, heads, rows, keys] = super::ops::dims(&grad);
    if rows == 1 {
        return reshape::<B, 2>(grad, [heads, keys]);
    }
    let count = rows + keys - 1;
    let zeros = |shape: &[usize]| B::float_zeros(Shape::from(shape.to_vec()), device, dtype.into());
    let grad = reshape::<B, 3>(grad, [heads, rows, keys]);
    // Rows of `count − 1`; `keys` is as long where there are two rows.
    let wide = match count - 1 - keys {
        0 => grad,
        pad => B::float_cat(vec![grad, zeros(&[heads, rows, pad])], 2),
    };
    let line = reshape::<B, 2>(wide, [heads, rows * (count - 1)]);
    let line = B::float_cat(vec![zeros(&[heads, rows - 1]), line, zeros(&[heads, 1])], 1);
    let sums = B::float_sum_dim(reshape::<B, 3>(line, [heads, rows, count]), 1);
    reshape::<B, 2>(sums, [heads, count])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the diagonals say, a column each.
    fn read(tile: &Tile, reach: usize, offset: i64) -> Vec<usize> {
        let Diagonals { low, middle, high } = Diagonals::new(tile, reach, offset);
        [vec![0; low], middle.collect(), vec![2 * reach; high]].concat()
    }

    #[test]
    fn diagonals_read_the_column_of_their_distance() {
        for (rows, keys) in [(0..1, 0..1), (0..3, 0..5), (4..9, 2..3), (7..8, 0..12), (2..6, 20..24)] {
            let tile = Tile { heads: 0..1, rows: rows.clone(), keys: keys.clone() };
            for reach in [0, 1, 2, 4, 30] {
                for offset in [0, 1, 5, -3, -40, 40, i64::MIN, i64::MAX] {
                    let distances = (0..rows.len() + keys.len() - 1)
                        .map(|c| i128::from(c as i64 + keys.start as i64 - (rows.end as i64 - 1)) - i128::from(offset));
                    let reach_ = reach as i128;
                    let expected: Vec<_> = distances.map(|d| (d.clamp(-reach_, reach_) + reach_) as usize).collect();
                    assert_eq!(read(&tile, reach, offset), expected, "{rows:?} {keys:?} {reach} {offset}");
                }
            }
        }
    }
}
