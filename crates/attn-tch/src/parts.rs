//! Cuts a problem into rectangles that LibTorch's fused kernels can be asked for.
//!
//! Those kernels know two shapes: every query sees every key, or query `i` sees the keys `0..=i`, counted from the top left of
//! what they are given. Whatever alignment, offset, right side of a window and key lengths leave visible is at most two such
//! rectangles side by side, below rows that see nothing:
//!
//! ```text
//!            keys            end of what is valid
//!        ┌──────────┬──────────┐
//!  rows  │ · · · · ·│· · · · · │  blind: output 0
//!        ├──────────┼──────────┤
//!        │ x x x x x│x · · · · │  a full rectangle and a triangle,
//!        │ x x x x x│x x · · · │  joined by their LSE
//!        │ x x x x x│x x x · · │
//!        └──────────┴──────────┘
//! ```
//!
//! Keys that no row sees are not handed over at all. A left side of a window is no such shape.

use std::ops::Range;

use attn_core::{Band, Problem};

/// A rectangle of keys for all rows of its group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Its keys.
    pub keys: Range<usize>,
    /// Row `r` of the group sees the first `r + 1` of the keys; otherwise every row sees all of them.
    pub causal: bool,
}

/// Batch entries that see the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// The entries.
    pub batch: Range<usize>,
    /// The rows that see something; empty where none does.
    pub rows: Range<usize>,
    /// One or two parts, their keys disjoint; none where no row sees anything.
    pub parts: Vec<Part>,
}

impl Group {
    /// The same for each batch entry alone.
    pub fn singly(self) -> impl Iterator<Item = Group> {
        let Group { batch, rows, parts } = self;
        batch.map(move |entry| Group { batch: entry..entry + 1, rows: rows.clone(), parts: parts.clone() })
    }
}

/// The groups of a problem in the order of the batch.
///
/// # Errors
/// Why it cannot be cut.
pub fn cut(problem: &Problem) -> Result<Vec<Group>, String> {
    let mut groups: Vec<(Band, Group)> = Vec::new();
    for (entry, band) in problem.bands.iter().enumerate() {
        if let Some((_, group)) = groups.last_mut().filter(|(last, _)| last == band) {
            group.batch.end = entry + 1;
            continue;
        }
        let (rows, parts) = cut_band(band, problem.query_len)?;
        groups.push((*band, Group { batch: entry..entry + 1, rows, parts }));
    }
    Ok(groups.into_iter().map(|(_, group)| group).collect())
}

fn cut_band(band: &Band, query_len: usize) -> Result<(Range<usize>, Vec<Part>), String> {
    let nothing = Ok((0..0, Vec::new()));
    let Some(last) = query_len.checked_sub(1) else { return nothing };
    if band.keys == 0 {
        return nothing;
    }
    let position = |row: usize, bound: i64| (row as i64).saturating_add(band.offset).saturating_add(bound);
    if band.lower.is_some_and(|lower| position(last, lower) > 0) {
        return Err("LibTorch's fused kernels know no window to the left".to_string());
    }
    let keys = band.keys as i64;
    // How many keys row 0 sees; negative where that many rows see nothing.
    let first = band.upper.map_or(keys, |upper| position(0, upper).saturating_add(1));
    if first >= keys {
        return Ok((0..query_len, vec![Part { keys: 0..band.keys, causal: false }]));
    }
    let blind = usize::try_from(1_i64.saturating_sub(first)).unwrap_or(0);
    if blind >= query_len {
        return nothing;
    }
    let rows = blind..query_len;
    let first = usize::try_from(first).unwrap_or(0).max(1);
    let end = band.keys.min(first + rows.len() - 1);
    if rows.len() == 1 {
        return Ok((rows, vec![Part { keys: 0..end, causal: false }]));
    }
    let full = (first > 1).then(|| Part { keys: 0..first - 1, causal: false });
    let parts = full.into_iter().chain([Part { keys: first - 1..end, causal: true }]).collect();
    Ok((rows, parts))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pairs that the parts show.
    fn seen(rows: &Range<usize>, parts: &[Part], row: usize) -> Vec<usize> {
        let mut keys = Vec::new();
        for part in parts.iter().filter(|_| rows.contains(&row)) {
            let end =
                if part.causal { part.keys.end.min(part.keys.start + row - rows.start + 1) } else { part.keys.end };
            keys.extend(part.keys.start..end);
        }
        keys
    }

    #[test]
    fn the_parts_show_what_the_band_shows() {
        let mut tried = 0;
        for query_len in [0, 1, 2, 5] {
            for keys in [0, 1, 2, 3, 5, 9] {
                for offset in -7..=12 {
                    for upper in [None, Some(-3), Some(0), Some(2), Some(i64::MAX), Some(i64::MIN)] {
                        for lower in [None, Some(-4), Some(-20), Some(i64::MIN), Some(1)] {
                            let band = Band { offset, lower, upper, keys };
                            let visible = |row| band.keys_of(row).collect::<Vec<_>>();
                            let Ok((rows, parts)) = cut_band(&band, query_len) else {
                                // Refused only where the left side can hide something from a row that is there.
                                assert!(
                                    keys > 0 && lower.is_some_and(|lower| query_len as i64 - 1 + offset + lower > 0)
                                );
                                continue;
                            };
                            assert!(parts.len() <= 2 && parts.iter().all(|part| !part.keys.is_empty()));
                            for row in 0..query_len {
                                assert_eq!(seen(&rows, &parts, row), visible(row), "{band:?} row {row} of {query_len}");
                                assert_eq!(rows.contains(&row), !visible(row).is_empty(), "{band:?} row {row}");
                            }
                            tried += 1;
                        }
                    }
                }
            }
        }
        assert!(tried > 5000, "{tried}");
    }

    #[test]
    fn huge_offsets_do_not_overflow() {
        for offset in [i64::MIN, i64::MAX] {
            let band = Band { offset, lower: None, upper: Some(0), keys: 3 };
            let (rows, parts) = cut_band(&band, 4).unwrap();
            let expected = if offset > 0 { (0..4, vec![Part { keys: 0..3, causal: false }]) } else { (0..0, vec![]) };
            assert_eq!((rows, parts), expected);
        }
    }
}
