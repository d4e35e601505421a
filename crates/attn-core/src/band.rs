//! The part of the score matrix that causal, window, alignment and key lengths leave visible: a band along a diagonal.
//!
//! Everything that skips tiles asks here, so the rule stands in one place.

use std::ops::Range;

/// What one batch entry's queries can see, before masks and biases: query `i` sees key `j` where
///
/// ```text
/// j < keys   and   i + offset + lower ≤ j   and   j ≤ i + offset + upper
/// ```
///
/// with an absent bound leaving that side open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Band {
    /// Absolute position of query 0; see [`Alignment`](crate::Alignment).
    pub offset: i64,
    /// Smallest `j − p` that is seen.
    pub lower: Option<i64>,
    /// Largest `j − p` that is seen.
    pub upper: Option<i64>,
    /// Keys at and past this one are hidden.
    pub keys: usize,
}

/// How much of a tile a band leaves visible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coverage {
    /// Nothing: the tile is never computed.
    None,
    /// Some pairs: the tile is masked.
    Partial,
    /// Every pair: the tile needs no mask.
    Full,
}

impl Band {
    /// The keys that query `row` sees; empty ranges are `0..0`.
    pub fn keys_of(&self, row: usize) -> Range<usize> {
        let position = (row as i64).saturating_add(self.offset);
        let first = self.lower.map_or(0, |l| position.saturating_add(l).max(0));
        let end =
            self.upper.map_or(self.keys as i64, |u| position.saturating_add(u).saturating_add(1).min(self.keys as i64));
        if first < end { first as usize..end as usize } else { 0..0 }
    }

    /// The smallest range that holds every key seen by any of `rows`; empty ranges are `0..0`.
    pub fn keys_of_rows(&self, rows: Range<usize>) -> Range<usize> {
        if rows.is_empty() {
            return 0..0;
        }
        // Both ends of a row's range grow with the row, so that the union runs from the first row's start to the last row's end.
        let position = (rows.start as i64).saturating_add(self.offset);
        let first = self.lower.map_or(0, |l| position.saturating_add(l).max(0));
        let last = (rows.end as i64 - 1).saturating_add(self.offset);
        let end =
            self.upper.map_or(self.keys as i64, |u| last.saturating_add(u).saturating_add(1).min(self.keys as i64));
        if first < end && !self.is_empty() { first as usize..end as usize } else { 0..0 }
    }

    /// Whether the band sees nothing anywhere, its lower bound above its upper one.
    fn is_empty(&self) -> bool {
        matches!((self.lower, self.upper), (Some(l), Some(u)) if l > u)
    }

    /// How much of the tile `rows` × `keys` is visible.
    pub fn coverage(&self, rows: Range<usize>, keys: Range<usize>) -> Coverage {
        if rows.is_empty() || keys.is_empty() {
            return Coverage::None;
        }
        let union = self.keys_of_rows(rows.clone());
        if union.start >= keys.end || union.end <= keys.start {
            return Coverage::None;
        }
        // The last row has the latest start, the first row the earliest end.
        let (start, end) = (self.keys_of(rows.end - 1), self.keys_of(rows.start));
        let full = !start.is_empty() && !end.is_empty() && start.start <= keys.start && end.end >= keys.end;
        if full { Coverage::Full } else { Coverage::Partial }
    }

    /// The number of visible pairs among `query_len` queries.
    pub fn visible_pairs(&self, query_len: usize) -> u64 {
        if self.lower.is_none() && self.upper.is_none() {
            return query_len as u64 * self.keys as u64;
        }
        (0..query_len).map(|row| self.keys_of(row).len() as u64).sum()
    }

    /// Whether every one of `query_len` queries sees every one of `key_len` keys.
    pub fn is_full(&self, query_len: usize, key_len: usize) -> bool {
        self.keys >= key_len
            && (query_len == 0 || (self.keys_of(0) == (0..key_len) && self.keys_of(query_len - 1) == (0..key_len)))
    }
}
