//! The largest error of what came against what was expected, and its share of what is allowed.

use std::fmt;

/// How far an element may lie from what was expected.
#[derive(Debug, Clone, Copy)]
pub enum Tolerance<'a> {
    /// The same for every element.
    Absolute(f64),
    /// One bound an element.
    Each(&'a [f64]),
}

impl Tolerance<'_> {
    fn at(&self, index: usize) -> f64 {
        match self {
            Self::Absolute(tolerance) => *tolerance,
            Self::Each(tolerances) => tolerances.get(index).copied().unwrap_or(0.0),
        }
    }
}

/// The element that lies worst, measured in its tolerance.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Worst {
    /// `|expected − found|`; infinite where one is NaN or an infinity is not met by the same infinity.
    pub error: f64,
    /// What was allowed there.
    pub tolerance: f64,
    /// Error over tolerance; at most 1 passes. Infinite where the tolerance is 0 and the error is not.
    pub share: f64,
    /// Row-major position.
    pub index: usize,
    /// What was expected there.
    pub expected: f64,
    /// What was found there.
    pub found: f64,
}

impl Worst {
    /// Whether every element lies within its tolerance.
    pub fn passes(&self) -> bool {
        self.share <= 1.0
    }
}

/// Compares element by element. NaN in what came always fails, whatever was expected; `−inf` is met by `−inf` alone.
///
/// With no elements there is no error: the share is 0.
///
/// # Errors
/// Says both lengths where they differ.
pub fn compare(expected: &[f64], found: &[f64], tolerance: Tolerance<'_>) -> Result<Worst, String> {
    if expected.len() != found.len() {
        return Err(format!("expected {} elements, found {}", expected.len(), found.len()));
    }
    let nothing = Worst { error: 0.0, tolerance: tolerance.at(0), share: 0.0, index: 0, expected: 0.0, found: 0.0 };
    Ok(expected.iter().zip(found).enumerate().fold(nothing, |worst, (index, (&expected, &found))| {
        let error = error(expected, found);
        let tolerance = tolerance.at(index);
        // A tolerance that is itself NaN allows nothing.
        let share = match error {
            0.0 => 0.0,
            error if tolerance > 0.0 && error.is_finite() => error / tolerance,
            _ => f64::INFINITY,
        };
        if index == 0 || share > worst.share {
            Worst { error, tolerance, share, index, expected, found }
        } else {
            worst
        }
    }))
}

fn error(expected: f64, found: f64) -> f64 {
    if expected == found {
        return 0.0;
    }
    let difference = (expected - found).abs();
    if difference.is_nan() { f64::INFINITY } else { difference }
}

/// The index along each axis of a row-major position.
pub fn unravel(position: usize, shape: &[usize]) -> Vec<usize> {
    let mut rest = position;
    let mut index: Vec<usize> = shape
        .iter()
        .rev()
        .map(|&axis| {
            let here = rest % axis.max(1);
            rest /= axis.max(1);
            here
        })
        .collect();
    index.reverse();
    index
}

/// [`Worst`] in words, with its place in a shape.
pub struct Described<'a>(pub &'a Worst, pub &'a [usize]);

impl fmt::Display for Described<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(worst, shape) = self;
        write!(
            f,
            "error {:.3e}, tolerance {:.3e}, worst at {:?}: expected {:?}, found {:?}",
            worst.error,
            worst.tolerance,
            unravel(worst.index, shape),
            worst.expected,
            worst.found
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(expected: f64, found: f64) -> f64 {
        compare(&[0.0, expected], &[0.0, found], Tolerance::Absolute(0.5)).map_or(f64::NAN, |worst| worst.share)
    }

    #[test]
    fn shares_are_of_the_tolerance() {
        assert_eq!(share(1.0, 1.25), 0.5);
        assert_eq!(share(1.0, 2.0), 2.0);
        assert_eq!(share(3.0, 3.0), 0.0);
    }

    #[test]
    fn infinity_meets_the_same_infinity_alone() {
        let (plus, minus) = (f64::INFINITY, f64::NEG_INFINITY);
        assert_eq!(share(minus, minus), 0.0);
        for (expected, found) in [(minus, -1e30), (minus, plus), (-1e30, minus), (plus, minus)] {
            assert_eq!(share(expected, found), plus, "{expected} and {found}");
        }
    }

    #[test]
    fn nan_always_fails() {
        for expected in [0.0, f64::NAN, f64::NEG_INFINITY] {
            assert_eq!(share(expected, f64::NAN), f64::INFINITY);
        }
        assert_eq!(share(f64::NAN, 0.0), f64::INFINITY);
    }

    #[test]
    fn a_tolerance_of_nothing_allows_nothing() {
        let worst = |tolerance| compare(&[1.0], &[1.0 + 1e-12], Tolerance::Absolute(tolerance)).map(|w| w.share);
        assert_eq!(worst(0.0), Ok(f64::INFINITY));
        assert_eq!(worst(f64::NAN), Ok(f64::INFINITY));
        let boundless = compare(&[1.0], &[f64::NAN], Tolerance::Absolute(f64::INFINITY)).map(|worst| worst.share);
        assert_eq!(boundless, Ok(f64::INFINITY));
    }

    #[test]
    fn the_worst_is_worst_in_its_own_tolerance() {
        let worst = compare(&[0.0; 3], &[0.3, 0.2, 0.0], Tolerance::Each(&[1.0, 0.1, 1.0])).expect("same lengths");
        assert_eq!((worst.index, worst.share), (1, 2.0));
        assert!(compare(&[0.0; 3], &[0.0; 2], Tolerance::Absolute(1.0)).is_err());
        assert_eq!(unravel(7, &[2, 3, 2]), [1, 0, 1]);
    }
}
