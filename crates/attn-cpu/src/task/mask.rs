//! A task under a mask of bytes: it is looked at once for each strip and block. Groups of 64 keys that no row of a strip sees through it are
//! not multiplied, those that no row of the task sees not packed, and where all rows see all keys nothing is hidden.

use super::blocks::{ALL, Groups};
use super::{Block, Row, Span, Worker};
use crate::element::{Element, Loads};
use crate::kernel::mask::{Hide, Look};
use crate::problem::{MASK_BLOCK, Mask};

/// What the rows of a strip see of a block's groups of keys.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Through {
    /// Groups of which any row sees any key.
    pub some: Groups,
    /// Groups of which every row sees every key.
    pub all: Groups,
}

impl Through {
    /// Where there is no mask.
    pub const WHOLE: Self = Self { some: ALL, all: ALL };
}

impl<S: Loads<T>, T: Element<Accum = S::A>> Worker<'_, S, T> {
    /// Looks through the mask at a block with every strip's rows.
    pub(crate) fn look(&mut self, block: Block) {
        self.through.clear();
        let Some(mask) = self.problem.mask else { return };
        for strip in 0..self.strips.len() {
            let through = match self.span(block, strip) {
                Some(span) => self.through(mask, block, span),
                None => Through { some: 0, all: ALL },
            };
            self.through.push(through);
        }
    }

    fn through(&self, mask: Mask<'_>, block: Block, span: Span) -> Through {
        let mut through = Through { some: 0, all: ALL };
        let mut last = None;
        for row in self.rows[span.row..span.row + span.rows].iter().filter(|row| row.start < row.end) {
            let first = self.mask_at(mask, *row, block.start + span.keys.0);
            // Rows that share a row of the mask are looked at once.
            if last == Some(first) {
                continue;
            }
            last = Some(first);
            let job = Look {
                mask: first,
                stride: mask.view.strides()[3],
                keys: span.keys.1 - span.keys.0,
                first_key: span.keys.0,
                seen_when: mask.seen_when,
            };
            // SAFETY: the mask was checked to have the scores' shape, and the span's keys lie below key_len.
            let (some, all) = unsafe { S::enter(job) };
            through = Through { some: through.some | some, all: through.all & all };
        }
        through
    }

    /// Sets what the mask hides to −∞, unless a strip sees all of the span through it.
    pub(super) fn hide_by_mask(&mut self, block: Block, span: Span, through: Through) {
        let Some(mask) = self.problem.mask else { return };
        let (first, last) = (span.keys.0 / MASK_BLOCK, (span.keys.1 - 1) / MASK_BLOCK);
        if (first..=last).all(|group| through.all >> group & 1 == 1) {
            return;
        }
        for r in 0..span.rows {
            let job = Hide::<S> {
                scores: self.scratch.scores(r, span.keys.0),
                mask: self.mask_at(mask, self.rows[span.row + r], block.start + span.keys.0),
                stride: mask.view.strides()[3],
                keys: span.keys.1 - span.keys.0,
                seen_when: mask.seen_when,
            };
            // SAFETY: the mask was checked to have the scores' shape, and the span's keys lie below key_len.
            unsafe { S::enter(job) };
        }
    }

    fn mask_at(&self, mask: Mask<'_>, row: Row, key: usize) -> *const u8 {
        let [b, h, i, j] = mask.view.strides();
        mask.view.data().as_ptr().wrapping_add(self.entry.0 * b + row.head * h + row.query * i + key * j)
    }
}
