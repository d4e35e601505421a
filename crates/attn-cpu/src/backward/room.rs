//! A worker's own numbers: what it packs, what a tile makes, and the sums of a block of keys.

use std::mem::MaybeUninit;

use super::cut::PARTS;
use crate::math::Float;
use crate::workspace::{Area, bytes_of};

/// The parts, as offsets into one buffer.
#[derive(Debug)]
pub(super) struct Room<'a, A> {
    buffer: &'a mut [MaybeUninit<A>],
    at: [usize; PARTS + 1],
}

/// A part of the room. Widths are whole vectors; a unit is a number, or two of bf16.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// Values of the block of keys in panels, as keys are.
    Values,
    /// Keys of the block, `[units of keys, head_width]`.
    KeyRows,
    /// dK of the block, `[keys, head_width]`.
    GradKey,
    /// dV of the block, `[keys, value_width]`.
    GradValue,
    /// dOut of the tile's rows in strips, as queries are.
    OutStrips,
    /// Queries of the tile, `[units of rows, head_width]`.
    QueryRows,
    /// dOut of the tile, `[units of rows, value_width]`.
    OutRows,
    /// Weights of the tile, `[units of rows, STRIDE]`.
    Weights,
    /// Gradients by the tile's scores, likewise.
    Changes,
    /// dP of a strip, `[ROWS, STRIDE]`.
    ByOut,
    /// Gradients by a strip's scores, `[ROWS, STRIDE]` of units of keys.
    ByKeys,
    /// A strip's scores after the softcap.
    Capped,
    /// A strip's scores before the caller's function.
    Before,
    /// Factors of dropout of a strip, `[ROWS, STRIDE]`.
    Kept,
    /// What the block gives to dQ of the tile, `[rows, head_width]`.
    GradQuery,
    /// `LSE · log₂e` of each row.
    Base,
    /// `δ − dLse` of each row.
    Shift,
    /// Sums of each row: for the bias, then for the slopes.
    RowSums,
    /// Gradient by the tables of the group's heads.
    Table,
    /// Gradient by a bias of the block's keys, `[heads of the group, keys]`.
    Columns,
    /// Values on their way into a panel.
    Stage,
}

const _: () = assert!(Part::Stage as usize + 1 == PARTS);

impl<'a, A: Float> Room<'a, A> {
    /// Takes room for them. Nothing is written.
    pub fn new(area: &mut Area<'a>, parts: [usize; PARTS]) -> Self {
        let bytes: usize = parts.iter().map(|part| bytes_of::<A>(*part)).sum();
        let buffer = area.take(bytes / size_of::<A>());
        let mut at = [0; PARTS + 1];
        for (i, part) in parts.into_iter().enumerate() {
            at[i + 1] = at[i] + bytes_of::<A>(part) / size_of::<A>();
        }
        Self { buffer, at }
    }

    /// A part, from a number on.
    pub fn at(&mut self, part: Part, index: usize) -> *mut A {
        debug_assert!(self.at[part as usize] + index <= self.at[part as usize + 1]);
        self.buffer.as_mut_ptr().wrapping_add(self.at[part as usize] + index).cast()
    }

    /// Writes `x` into `count` numbers of a part, from one on.
    pub fn fill(&mut self, part: Part, index: usize, count: usize, x: A) {
        let range = self.at[part as usize]..self.at[part as usize + 1];
        self.buffer[range][index..index + count].fill(MaybeUninit::new(x));
    }

    /// `count` numbers of a part, from one on.
    ///
    /// # Safety
    /// They have been written.
    pub unsafe fn slice(&self, part: Part, index: usize, count: usize) -> &[A] {
        let range = self.at[part as usize]..self.at[part as usize + 1];
        // SAFETY: the caller's word.
        unsafe { self.buffer[range][index..index + count].assume_init_ref() }
    }

    /// The same, to be changed.
    ///
    /// # Safety
    /// They have been written.
    pub unsafe fn slice_mut(&mut self, part: Part, index: usize, count: usize) -> &mut [A] {
        let range = self.at[part as usize]..self.at[part as usize + 1];
        // SAFETY: the caller's word.
        unsafe { self.buffer[range][index..index + count].assume_init_mut() }
    }
}
