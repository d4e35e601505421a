//! A worker's numbers: panels, scores, accumulators and the like, parts of its area of the workspace that start on cache lines.

use std::mem::MaybeUninit;

use crate::kernel::{BLOCK, ROWS, STRIDE};
use crate::math::Float;
use crate::workspace::{Area, bytes_of};

/// The parts, as offsets into one buffer.
#[derive(Debug)]
pub(crate) struct Scratch<'a, A> {
    buffer: &'a mut [MaybeUninit<A>],
    /// Offsets of: panels, stage, query, scores, addend, values, acc, max, sum, and the end.
    at: [usize; 10],
    /// Columns of a row of scores.
    columns: usize,
    factor: [A; ROWS],
}

/// Bytes of parts of the given lengths.
pub(crate) fn bytes<A>(parts: [usize; 9]) -> usize {
    parts.into_iter().fold(0, |sum: usize, part| sum.saturating_add(bytes_of::<A>(part)))
}

impl<'a, A: Float> Scratch<'a, A> {
    /// Takes room for them, with so many columns of scores. Scores and addends start as 0: of both, whole vectors are read where keys end.
    pub(crate) fn new(area: &mut Area<'a>, parts: [usize; 9], columns: usize) -> Self {
        debug_assert!(columns <= BLOCK);
        let buffer = area.take(bytes::<A>(parts) / size_of::<A>());
        let mut at = [0; 10];
        for (i, part) in parts.into_iter().enumerate() {
            at[i + 1] = at[i] + bytes_of::<A>(part) / size_of::<A>();
        }
        let mut scratch = Self { buffer, at, columns, factor: [A::ZERO; ROWS] };
        for row in 0..ROWS {
            scratch.fill(3, row * STRIDE, columns, A::ZERO);
        }
        scratch.fill(4, 0, columns, A::ZERO);
        scratch
    }

    /// Forgets what was accumulated by so many rows, accumulators of `width` and sums of `lanes` each: 0, maxima −∞.
    pub(crate) fn reset(&mut self, rows: usize, width: usize, lanes: usize) {
        self.fill(6, 0, rows * width, A::ZERO);
        self.fill(7, 0, rows, A::NEG_INFINITY);
        self.fill(8, 0, rows * lanes, A::ZERO);
    }

    fn fill(&mut self, part: usize, index: usize, count: usize, x: A) {
        self.buffer[self.at[part]..self.at[part + 1]][index..index + count].fill(MaybeUninit::new(x));
    }

    /// Numbers of a part, from an index on.
    ///
    /// # Safety
    /// They have been written.
    unsafe fn slice(&self, part: usize, index: usize, count: usize) -> &[A] {
        let range = self.at[part] + index..self.at[part] + index + count;
        // SAFETY: the caller's word.
        unsafe { self.buffer[range].assume_init_ref() }
    }

    /// The same, to be changed.
    ///
    /// # Safety
    /// They have been written.
    unsafe fn slice_mut(&mut self, part: usize, index: usize, count: usize) -> &mut [A] {
        let range = self.at[part] + index..self.at[part] + index + count;
        // SAFETY: the caller's word.
        unsafe { self.buffer[range].assume_init_mut() }
    }

    fn part(&mut self, part: usize, index: usize) -> *mut A {
        debug_assert!(self.at[part] + index <= self.at[part + 1]);
        self.buffer.as_mut_ptr().wrapping_add(self.at[part] + index).cast()
    }

    /// Packed keys of a block, `[panels, head_dim, keys of a panel]`.
    pub(crate) fn panels(&mut self) -> *mut A {
        self.part(0, 0)
    }

    /// Keys on their way into a panel, `[LANES, head_dim]`.
    pub(crate) fn stage(&mut self) -> *mut A {
        self.part(1, 0)
    }

    /// The task's queries, strip by strip in pieces of `PIECE` dimensions, each `[ROWS, PIECE]`; from an element on.
    pub(crate) fn query(&mut self, index: usize) -> *mut A {
        self.part(2, index)
    }

    /// A strip's scores, `[ROWS, STRIDE]`, from a row and column on.
    pub(crate) fn scores(&mut self, row: usize, column: usize) -> *mut A {
        self.part(3, row * STRIDE + column)
    }

    /// A row of a strip's scores.
    pub(crate) fn row(&mut self, row: usize) -> &mut [A] {
        // SAFETY: scores start as 0.
        unsafe { self.slice_mut(3, row * STRIDE, self.columns) }
    }

    /// Bias and mask of a row, `[BLOCK]`.
    pub(crate) fn addend(&mut self) -> *mut A {
        self.part(4, 0)
    }

    /// Widened values of a block, `[keys, value_width]`.
    pub(crate) fn values(&mut self) -> *mut A {
        self.part(5, 0)
    }

    /// Accumulators, `[task_rows, value_width]`, from an element on.
    pub(crate) fn acc(&mut self, index: usize) -> *mut A {
        self.part(6, index)
    }

    /// Running maxima in base 2, `[task_rows]`, from a row on.
    pub(crate) fn max(&mut self, row: usize) -> *mut A {
        self.part(7, row)
    }

    /// Running sums, `[task_rows, LANES]`, from an element on.
    pub(crate) fn sum(&mut self, index: usize) -> *mut A {
        self.part(8, index)
    }

    /// A strip's rescaling factors, `[ROWS]`.
    pub(crate) fn factor(&mut self) -> *mut A {
        self.factor.as_mut_ptr()
    }

    /// The maximum of a row and the numbers that add up to its sum.
    pub(crate) fn state(&self, row: usize, lanes: usize) -> (A, &[A]) {
        // SAFETY: maxima and sums are written by `reset`, before every task.
        unsafe { (self.slice(7, row, 1)[0], self.slice(8, row * lanes, lanes)) }
    }

    /// `width` accumulators from `acc` on.
    pub(crate) fn accumulators(&mut self, acc: usize, width: usize) -> &mut [A] {
        // SAFETY: accumulators are written by `reset`, before every task.
        unsafe { self.slice_mut(6, acc, width) }
    }
}
