//! Where tokens stand, and how attention learns of it: rotary positions, ALiBi slopes, relative biases, absolute encodings.

mod absolute;
mod alibi;
mod recent;
mod relative;
mod rotary;
mod scaling;

use attn_core::AttentionError;

pub use absolute::{LearnedPositions, LearnedPositionsConfig, SinusoidalPositions, SinusoidalPositionsConfig};
pub use alibi::{AlibiSlopes, alibi_slopes};
pub use relative::{DistanceRule, RelativeBias, RelativeBiasConfig};
pub use rotary::{Rotary, RotaryConfig, RotaryLayout};
pub use scaling::RotaryScaling;

/// The positions of the tokens of a batch, `[batch, length]`.
///
/// They stand on the host, as key lengths do: tables are made from them in f64 and indices are checked, and nothing is read back
/// from a device.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Positions {
    /// `start, start + 1, …` in every batch entry: a cache's length, or 0.
    From(i64),
    /// `start, start + 1, …` from a start of each batch entry's own, `[batch]`.
    FromEach(Vec<i64>),
    /// Every token's own, `[batch][length]`, or `[1][length]` for all batch entries alike: packed sequences, tokens left out.
    Each(Vec<Vec<i64>>),
}

impl Default for Positions {
    /// `0, 1, …`
    fn default() -> Self {
        Self::From(0)
    }
}

impl Positions {
    /// Checks the shape against `[batch, length]`.
    ///
    /// # Errors
    /// Names the argument.
    pub(super) fn check(&self, argument: &'static str, batch: usize, length: usize) -> Result<(), AttentionError> {
        match self {
            Self::From(_) => Ok(()),
            Self::FromEach(starts) if starts.len() == batch => Ok(()),
            Self::FromEach(starts) => {
                Err(AttentionError::shape(argument, format!("[{batch}] (one start a batch entry)"), &[starts.len()]))
            }
            Self::Each(rows) => {
                let expected = || format!("[{batch}, {length}] (batch, length)");
                if rows.len() != 1 && rows.len() != batch {
                    let found = [rows.len(), rows.first().map_or(0, Vec::len)];
                    return Err(AttentionError::shape(argument, expected(), &found));
                }
                match rows.iter().find(|row| row.len() != length) {
                    Some(row) => Err(AttentionError::shape(argument, expected(), &[rows.len(), row.len()])),
                    None => Ok(()),
                }
            }
        }
    }

    /// Rows that differ: 1, or one a batch entry.
    pub(super) fn rows(&self) -> usize {
        match self {
            Self::From(_) => 1,
            Self::FromEach(starts) if starts.windows(2).all(|pair| pair[0] == pair[1]) => starts.len().min(1),
            Self::FromEach(starts) => starts.len(),
            Self::Each(rows) => rows.len(),
        }
    }

    /// Where all batch entries begin, if that is the same for all and positions run on from there.
    pub(super) fn run(&self) -> Option<i64> {
        match self {
            Self::From(start) => Some(*start),
            Self::FromEach(starts) if self.rows() == 1 => starts.first().copied(),
            _ => None,
        }
    }

    /// The position of a token. The shape must have been checked.
    pub(super) fn at(&self, row: usize, token: usize) -> i64 {
        match self {
            Self::From(start) => start.saturating_add(token as i64),
            Self::FromEach(starts) => starts[row].saturating_add(token as i64),
            Self::Each(rows) => rows[row.min(rows.len() - 1)][token],
        }
    }

    /// All of `[rows, length]`, row by row.
    pub(super) fn all(&self, length: usize) -> impl Iterator<Item = i64> {
        (0..self.rows()).flat_map(move |row| (0..length).map(move |token| self.at(row, token)))
    }

    /// One past the greatest position, and at least 0: how long the sequence has grown.
    pub(super) fn end(&self, length: usize) -> usize {
        let end = match self.run() {
            Some(start) => start.saturating_add(length as i64),
            None => self.all(length).max().map_or(0, |position| position.saturating_add(1)),
        };
        usize::try_from(end).unwrap_or(0)
    }
}
