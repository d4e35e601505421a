//! The band against its definition, pair by pair.

use attn_core::{Band, Coverage};
use proptest::prelude::*;

fn sees(band: &Band, row: usize, key: usize) -> bool {
    let relative = key as i64 - row as i64 - band.offset;
    key < band.keys
        && band.lower.is_none_or(|lower| relative >= lower)
        && band.upper.is_none_or(|upper| relative <= upper)
}

fn bands() -> impl Strategy<Value = Band> {
    let bound = || prop::option::of(-12i64..12);
    (-15i64..15, bound(), bound(), 0usize..14).prop_map(|(offset, lower, upper, keys)| Band {
        offset,
        lower,
        upper,
        keys,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn keys_of_a_row_are_those_it_sees(band in bands(), row in 0usize..14) {
        let seen: Vec<usize> = (0..20).filter(|&key| sees(&band, row, key)).collect();
        prop_assert_eq!(band.keys_of(row).collect::<Vec<_>>(), seen);
    }

    #[test]
    fn keys_of_rows_hold_all_that_any_sees(band in bands(), start in 0usize..14, len in 0usize..6) {
        let range = band.keys_of_rows(start..start + len);
        for row in start..start + len {
            for key in (0..20).filter(|&key| sees(&band, row, key)) {
                prop_assert!(range.contains(&key), "row {row} sees key {key}, outside {range:?}");
            }
        }
        // No wider than the outermost keys that are seen.
        let any = |key| (start..start + len).any(|row| sees(&band, row, key));
        if !range.is_empty() && (start..start + len).all(|row| !band.keys_of(row).is_empty()) {
            prop_assert!(any(range.start) && any(range.end - 1));
        }
    }

    #[test]
    fn coverage_is_none_and_full_only_where_it_is(
        band in bands(), start in 0usize..14, rows in 0usize..6, first in 0usize..14, keys in 0usize..6,
    ) {
        let pairs = || (start..start + rows).flat_map(|row| (first..first + keys).map(move |key| (row, key)));
        let count = pairs().filter(|&(row, key)| sees(&band, row, key)).count();
        match band.coverage(start..start + rows, first..first + keys) {
            Coverage::None => prop_assert_eq!(count, 0),
            Coverage::Full => prop_assert_eq!(count, rows * keys),
            // A tile at a corner of the band may be called partial and hold nothing; it must not be called so when all is seen.
            Coverage::Partial => prop_assert!(count < rows * keys),
        }
    }

    #[test]
    fn visible_pairs_are_counted(band in bands(), query_len in 0usize..14) {
        let count = (0..query_len).flat_map(|row| (0..20).map(move |key| (row, key))).filter(|&(row, key)| sees(&band, row, key));
        prop_assert_eq!(band.visible_pairs(query_len), count.count() as u64);
    }

    #[test]
    fn full_means_every_pair(band in bands(), query_len in 0usize..8, key_len in 0usize..14) {
        let all = (0..query_len).all(|row| (0..key_len).all(|key| sees(&band, row, key)));
        prop_assert!(!band.is_full(query_len, key_len) || all);
        if all && band.keys == key_len && query_len > 0 && key_len > 0 {
            prop_assert!(band.is_full(query_len, key_len));
        }
    }
}

#[test]
fn extreme_bounds_do_not_overflow() {
    let band = Band { offset: i64::MAX, lower: Some(i64::MIN + 1), upper: Some(i64::MAX), keys: 3 };
    assert_eq!(band.keys_of(usize::MAX / 4), 0..3);
    let band = Band { offset: i64::MIN, lower: None, upper: Some(0), keys: 3 };
    assert_eq!(band.keys_of_rows(0..5), 0..0);
}
