//! A task under a mask by blocks: groups of 64 keys that nothing sees are neither packed nor multiplied, groups that everything sees
//! are not masked.

use std::ops::Range;

use super::{Block, Span, Worker};
use crate::element::{Element, Loads};
use crate::kernel::BLOCK;
use crate::math::Float;
use crate::problem::{Blocks, EMPTY, FIRST_PATTERN, FULL, MASK_BLOCK};

/// Groups of [`MASK_BLOCK`] keys of a block, bit by bit.
pub(crate) type Groups = u16;

const _: () = assert!(BLOCK.is_multiple_of(MASK_BLOCK) && BLOCK / MASK_BLOCK <= Groups::BITS as usize);

/// Every group.
pub(crate) const ALL: Groups = Groups::MAX;

/// Runs of neighbouring groups, as keys of a block that has `count` of them.
pub(crate) fn runs(groups: Groups, count: usize) -> impl Iterator<Item = Range<usize>> {
    let mut left = groups;
    std::iter::from_fn(move || {
        let first = left.trailing_zeros();
        let length = left.checked_shr(first)?.trailing_ones();
        left &= !(Groups::MAX.checked_shl(first).unwrap_or(0) & !Groups::MAX.checked_shl(first + length).unwrap_or(0));
        let keys = |group: u32| (group as usize * MASK_BLOCK).min(count);
        Some(keys(first)..keys(first + length))
    })
    .take_while(|keys| !keys.is_empty())
}

impl<S: Loads<T>, T: Element<Accum = S::A>> Worker<'_, S, T> {
    /// The groups of a block that any row of a span sees, by blocks and through the mask.
    pub(crate) fn groups(&self, block: Block, span: Span, strip: usize) -> Groups {
        let through = self.through.get(strip).map_or(ALL, |through| through.some);
        let Some(blocks) = self.problem.blocks else { return through };
        let mut seen = 0;
        let mut last = usize::MAX;
        for row in &self.rows[span.row..span.row + span.rows] {
            // Rows of a head that are neighbours mostly lie in one block of queries.
            if row.blocks != last {
                last = row.blocks;
                for group in span.keys.0 / MASK_BLOCK..span.keys.1.div_ceil(MASK_BLOCK) {
                    seen |= Groups::from(kind(&blocks, row.blocks, block, group) != EMPTY) << group;
                }
            }
        }
        seen & through
    }

    /// The groups of a block that the task sees.
    pub(super) fn groups_of_task(&self, block: Block) -> Groups {
        if self.problem.blocks.is_none() && self.through.is_empty() {
            return ALL;
        }
        let spans = (0..self.strips.len()).filter_map(|strip| Some((strip, self.span(block, strip)?)));
        spans.map(|(strip, span)| self.groups(block, span, strip)).fold(0, |seen, groups| seen | groups)
    }

    /// Sets what the blocks hide to −∞.
    pub(super) fn hide_by_blocks(&mut self, block: Block, span: Span) {
        let Some(blocks) = self.problem.blocks else { return };
        for r in 0..span.rows {
            let row = self.rows[span.row + r];
            for group in span.columns.0 / MASK_BLOCK..span.columns.1.div_ceil(MASK_BLOCK) {
                let first = group * MASK_BLOCK;
                let columns = first.max(span.columns.0)..(first + MASK_BLOCK).min(span.columns.1);
                let scores = &mut self.scratch.row(r)[columns.clone()];
                match kind(&blocks, row.blocks, block, group) {
                    FULL => {}
                    EMPTY => scores.fill(S::A::NEG_INFINITY),
                    pattern => {
                        let word = blocks.patterns[(pattern - FIRST_PATTERN) as usize][row.query % MASK_BLOCK];
                        for (score, bit) in scores.iter_mut().zip(columns.start - first..) {
                            *score = if word >> bit & 1 == 1 { *score } else { S::A::NEG_INFINITY };
                        }
                    }
                }
            }
        }
    }
}

/// The kind of a group of keys, `row` being where its row of the table begins.
fn kind(blocks: &Blocks<'_>, row: usize, block: Block, group: usize) -> u32 {
    // Columns that stand for no key may reach past the last group; the band hides them.
    let at = block.start / MASK_BLOCK + group;
    if at < blocks.key_blocks { blocks.table[row + at] } else { EMPTY }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_those_of_the_bits() {
        let of = |groups, count| runs(groups, count).map(|run| (run.start, run.end)).collect::<Vec<_>>();
        assert_eq!(of(0b0110_1101, 512), [(0, 64), (128, 256), (320, 448)]);
        assert_eq!(of(0b0110_1101, 130), [(0, 64), (128, 130)]);
        assert_eq!(of(0, 512), []);
        assert_eq!(of(ALL, 77), [(0, 77)]);
        assert_eq!(of(1 << 15, 1024), [(960, 1024)]);
    }
}
