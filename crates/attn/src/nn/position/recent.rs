//! Tables made on the host and kept on the device for as long as the same positions come again.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::{DType, Device};

use super::Positions;

/// Tables kept at a time: one for the queries, one for the keys.
const KEPT: usize = 2;

/// What a table was made for.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Key {
    pub positions: Positions,
    pub length: usize,
    /// Length of the sequence for which the frequencies were chosen.
    pub grown: usize,
    pub dtype: DType,
    pub device: Device,
}

/// The tables made last. Clones share them.
#[derive(Clone)]
pub(super) struct Recent<T>(Arc<Mutex<Vec<(Key, T)>>>);

impl<T: Clone> Recent<T> {
    /// The table of a key, made if it is not there.
    pub fn get(&self, key: Key, make: impl FnOnce(&Key) -> T) -> T {
        // Whoever panicked while holding the lock left whole entries.
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, table)) = kept.iter().find(|(found, _)| *found == key) {
            return table.clone();
        }
        let table = make(&key);
        kept.truncate(KEPT - 1);
        kept.insert(0, (key, table.clone()));
        table
    }
}

impl<T> Default for Recent<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T> fmt::Debug for Recent<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Recent")
    }
}
