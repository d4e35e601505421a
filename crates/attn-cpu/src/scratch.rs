//! A worker's scratch: one allocation, cut into parts that start on cache lines.

use crate::kernel::{BLOCK, ROWS, STRIDE};
use crate::math::Float;

/// The parts, as offsets into one buffer. All numbers start as 0.
#[derive(Debug)]
pub(crate) struct Scratch<A> {
    buffer: Vec<A>,
    /// Offsets of: panels, stage, query, scores, addend, values, acc, max, sum, and the end.
    at: [usize; 10],
    factor: [A; ROWS],
    ones: [A; ROWS],
}

const LINE: usize = 64;

impl<A: Float> Scratch<A> {
    /// Makes room for parts of the given lengths.
    pub(crate) fn new(parts: [usize; 9]) -> Self {
        let line = LINE / size_of::<A>();
        let total: usize = parts.iter().map(|part| part.next_multiple_of(line)).sum();
        let buffer = vec![A::ZERO; total + line];
        let mut at = [0; 10];
        at[0] = (LINE - buffer.as_ptr() as usize % LINE) % LINE / size_of::<A>();
        for (i, part) in parts.iter().enumerate() {
            at[i + 1] = at[i] + part.next_multiple_of(line);
        }
        Self { buffer, at, factor: [A::ZERO; ROWS], ones: [A::from_f64(1.0); ROWS] }
    }

    /// Forgets what was accumulated: accumulators and sums 0, maxima −∞.
    pub(crate) fn reset(&mut self) {
        self.buffer[self.at[6]..self.at[7]].fill(A::ZERO);
        self.buffer[self.at[7]..self.at[8]].fill(A::NEG_INFINITY);
        self.buffer[self.at[8]..self.at[9]].fill(A::ZERO);
    }

    fn part(&mut self, part: usize, index: usize) -> *mut A {
        debug_assert!(self.at[part] + index <= self.at[part + 1]);
        self.buffer.as_mut_ptr().wrapping_add(self.at[part] + index)
    }

    /// Packed keys of a block, `[panels, head_dim, keys of a panel]`.
    pub(crate) fn panels(&mut self) -> *mut A {
        self.part(0, 0)
    }

    /// Keys on their way into a panel, `[LANES, head_dim]`.
    pub(crate) fn stage(&mut self) -> *mut A {
        self.part(1, 0)
    }

    /// A strip's queries in pieces of `BLOCK` dimensions, each `[ROWS, STRIDE]`.
    pub(crate) fn query(&mut self) -> *mut A {
        self.part(2, 0)
    }

    /// A strip's scores, `[ROWS, STRIDE]`, from a row and column on.
    pub(crate) fn scores(&mut self, row: usize, column: usize) -> *mut A {
        self.part(3, row * STRIDE + column)
    }

    /// A row of a strip's scores.
    pub(crate) fn row(&mut self, row: usize) -> &mut [A] {
        &mut self.buffer[self.at[3] + row * STRIDE..][..BLOCK]
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

    /// Factors of 1, `[ROWS]`.
    pub(crate) fn ones(&self) -> *const A {
        self.ones.as_ptr()
    }

    /// The maximum of a row and the numbers that add up to its sum.
    pub(crate) fn state(&self, row: usize, lanes: usize) -> (A, &[A]) {
        (self.buffer[self.at[7] + row], &self.buffer[self.at[8] + row * lanes..][..lanes])
    }

    /// Strip row `row`'s weights, its accumulators (`width` from `acc` on), and its factor.
    pub(crate) fn careful(&mut self, row: usize, acc: usize, width: usize) -> (&[A], &mut [A], A) {
        let (before, after) = self.buffer.split_at_mut(self.at[6]);
        let weights = &before[self.at[3] + row * STRIDE..][..BLOCK];
        (weights, &mut after[acc..acc + width], self.factor[row])
    }
}
