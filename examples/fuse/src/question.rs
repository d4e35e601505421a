//! Questions about a row of digits: what is asked, how it is worded, what the answer is.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

/// What an answer can be: numbers up to the sum of two digits, yes, no.
pub const ANSWERS: [&str; 21] = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "yes",
    "no",
];
const YES: usize = 19;
const NO: usize = 20;

/// Where a digit stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// Counted from 0.
    At(usize),
    /// At the end, wherever that is.
    Last,
}

/// What is asked, whatever the words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Asked {
    /// The digit that stands there.
    At(Place),
    /// The digit left or right of the one that shows this.
    Beside {
        /// Left, or else right.
        left: bool,
        /// What it shows; no other in the row does.
        of: usize,
    },
    /// Whether one shows this.
    Exists(usize),
    /// How many are even, or odd.
    Count {
        /// Even, or else odd.
        even: bool,
    },
    /// The sum of two digits.
    Sum(Place, Place),
}

/// Kinds of questions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// [`Asked::At`].
    At,
    /// [`Asked::Beside`].
    Beside,
    /// [`Asked::Exists`].
    Exists,
    /// [`Asked::Count`].
    Count,
    /// [`Asked::Sum`].
    Sum,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::At, Self::Beside, Self::Exists, Self::Count, Self::Sum];

    /// Its name, for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::At => "which digit stands there",
            Self::Beside => "which digit is left or right of",
            Self::Exists => "is there a",
            Self::Count => "how many are even or odd",
            Self::Sum => "the sum of two",
        }
    }
}

impl Place {
    fn of(self, digits: &[usize]) -> Option<usize> {
        match self {
            Self::At(at) => digits.get(at).copied(),
            Self::Last => digits.last().copied(),
        }
    }
}

impl Asked {
    /// Draws a question of this kind about a row that has an answer there. `None` where the row has none.
    pub fn draw(kind: Kind, digits: &[usize], rng: &mut StdRng) -> Option<Self> {
        let count = |digit: usize| digits.iter().filter(|&&other| other == digit).count();
        match kind {
            Kind::At => {
                let at = rng.random_range(0..=digits.len());
                Some(Self::At(if at == digits.len() { Place::Last } else { Place::At(at) }))
            }
            Kind::Beside => {
                let (at, left) = (rng.random_range(0..digits.len()), rng.random());
                let asked = Self::Beside { left, of: digits[at] };
                (count(digits[at]) == 1 && asked.answer(digits).is_some()).then_some(asked)
            }
            // As often yes as no.
            Kind::Exists => {
                let yes: bool = rng.random();
                let fitting: Vec<usize> = (0..10).filter(|&digit| (count(digit) > 0) == yes).collect();
                fitting.choose(rng).map(|&digit| Self::Exists(digit))
            }
            Kind::Count => Some(Self::Count { even: rng.random() }),
            Kind::Sum => {
                let places = [Place::At(0), Place::At(1), Place::Last];
                let (one, other) = (rng.random_range(0..3), rng.random_range(1..3));
                Some(Self::Sum(places[one], places[(one + other) % 3]))
            }
        }
    }

    /// Of which kind it is.
    pub fn kind(self) -> Kind {
        match self {
            Self::At(_) => Kind::At,
            Self::Beside { .. } => Kind::Beside,
            Self::Exists(_) => Kind::Exists,
            Self::Count { .. } => Kind::Count,
            Self::Sum(..) => Kind::Sum,
        }
    }

    /// The rules: which of [`ANSWERS`] is right of a row. `None` where it has no answer, as where no seven has a left neighbour.
    pub fn answer(self, digits: &[usize]) -> Option<usize> {
        match self {
            Self::At(place) => place.of(digits),
            Self::Beside { left, of } => {
                let at = digits.iter().position(|&digit| digit == of)?;
                let beside = if left { at.checked_sub(1)? } else { at + 1 };
                digits.get(beside).copied()
            }
            Self::Exists(digit) => Some(if digits.contains(&digit) { YES } else { NO }),
            Self::Count { even } => Some(digits.iter().filter(|&&digit| digit.is_multiple_of(2) == even).count()),
            Self::Sum(one, other) => Some(one.of(digits)? + other.of(digits)?),
        }
    }

    /// The two digits that the answer joins: the one named and its neighbour, or the two of a sum.
    pub fn pair(self, digits: &[usize]) -> Option<(usize, usize)> {
        match self {
            Self::Beside { of, .. } => Some((of, self.answer(digits)?)),
            Self::Sum(one, other) => Some((one.of(digits)?, other.of(digits)?)),
            _ => None,
        }
    }

    /// Every question that can be asked about rows of up to `most` digits.
    pub fn all(most: usize) -> Vec<Self> {
        let places = || (0..most).map(Place::At).chain([Place::Last]);
        let both = [true, false];
        let mut all: Vec<Self> = places().map(Self::At).collect();
        all.extend((0..10).flat_map(|of| both.map(|left| Self::Beside { left, of })));
        all.extend((0..10).map(Self::Exists));
        all.extend(both.map(|even| Self::Count { even }));
        all.extend(places().flat_map(|one| places().map(move |other| Self::Sum(one, other))));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    fn answer(asked: Asked, digits: &[usize]) -> &'static str {
        asked.answer(digits).map_or("nothing", |answer| ANSWERS[answer])
    }

    #[test]
    fn the_rules_answer() {
        let row = [3, 7, 8, 8, 9];
        let (first, last) = (Place::At(0), Place::Last);
        assert_eq!(answer(Asked::At(Place::At(1)), &row), "seven");
        assert_eq!((answer(Asked::At(last), &row), answer(Asked::At(Place::At(5)), &row)), ("nine", "nothing"));
        assert_eq!(answer(Asked::Beside { left: true, of: 7 }, &row), "three");
        assert_eq!(answer(Asked::Beside { left: false, of: 7 }, &row), "eight");
        assert_eq!(answer(Asked::Beside { left: true, of: 3 }, &row), "nothing");
        assert_eq!(answer(Asked::Beside { left: false, of: 5 }, &row), "nothing");
        assert_eq!((answer(Asked::Exists(9), &row), answer(Asked::Exists(0), &row)), ("yes", "no"));
        assert_eq!(answer(Asked::Count { even: true }, &row), "two");
        assert_eq!(answer(Asked::Count { even: false }, &row), "three");
        assert_eq!(answer(Asked::Sum(last, first), &row), "twelve");
        assert_eq!((Asked::Sum(last, first).pair(&row), Asked::Exists(9).pair(&row)), (Some((9, 3)), None));
        assert_eq!(Asked::Beside { left: false, of: 7 }.pair(&row), Some((7, 8)));
    }

    #[test]
    fn what_is_drawn_has_one_answer_and_is_as_often_yes_as_no() {
        let (mut rng, row) = (StdRng::seed_from_u64(1), [4, 4, 0, 9]);
        let mut yes = 0;
        for (at, kind) in (0..5000).map(|at| (at, Kind::ALL[at % 5])) {
            let Some(asked) = Asked::draw(kind, &row, &mut rng) else { continue };
            assert_eq!(asked.kind(), kind);
            let answer = asked.answer(&row).unwrap_or_else(|| panic!("{at}: {asked:?}"));
            assert!(!matches!(asked, Asked::Beside { of: 4, .. }), "there are two");
            assert!(!matches!(asked, Asked::Sum(one, other) if one == other));
            yes += usize::from(answer == YES);
        }
        assert!((400..600).contains(&yes), "{yes} of 1000");
    }
}
