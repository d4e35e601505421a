//! Seeds of dropout, for layers that drop weights by themselves.

use std::cell::Cell;
use std::hash::{BuildHasher, Hasher, RandomState};

thread_local! {
    static STATE: Cell<Option<u64>> = const { Cell::new(None) };
}

/// Sets the seeds with which layers drop attention weights on this thread, as a device's `seed` sets what Burn draws there.
///
/// A layer that trains with dropout takes the next seed in every call, so that a run from the same seed drops the same weights on every
/// backend. Each thread has its own seeds; before this is called they differ from run to run. Where the seed is part of the
/// call, [`Attention::dropout`](crate::Attention::dropout), nothing is taken from here.
pub fn seed(seed: u64) {
    STATE.set(Some(seed));
}

/// The next seed of this thread.
pub(crate) fn next() -> u64 {
    let state = STATE.get().unwrap_or_else(|| RandomState::new().build_hasher().finish());
    let state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    STATE.set(Some(state));
    // SplitMix64 (Steele et al. 2014): states one step apart give unrelated seeds.
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_one_row_of_seeds_to_its_thread() {
        let row = |start| {
            seed(start);
            [next(), next(), next()]
        };
        // The first of SplitMix64 from 0.
        assert_eq!(row(0)[0], 0xE220_A839_7B1D_CDAF);
        assert_eq!(row(7), row(7));
        assert_ne!(row(7), row(8));
        let own: Vec<u64> = (0..2).map(|_| std::thread::spawn(next).join().expect("it does not panic")).collect();
        assert_ne!(own[0], own[1]);
    }
}
