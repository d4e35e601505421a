//! Scenes: a row of digits and a question about it, drawn anew each time.

use anyhow::{Result, bail};
use learn::digits::Digits;
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use crate::question::{Asked, Kind};

/// Digits of the shortest row. Short rows teach what a digit looks like before it is clear where to look.
const LEAST: usize = 2;
/// Digits of the longest row.
pub const MOST: usize = 6;

/// A row and a question about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Which images stand in the row.
    pub images: Vec<usize>,
    /// What they show.
    pub digits: Vec<usize>,
    /// What is asked.
    pub asked: Asked,
    /// In which words.
    pub wording: usize,
    /// Which of the answers is right.
    pub answer: usize,
}

/// Which of the wordings are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wordings {
    /// Any that are learned from.
    Learned,
    /// The one that is not.
    New,
}

/// Pairs of digits that no question joins while learning: those that differ, round the clock of ten, by this much.
///
/// So nobody learns what is left of the seven where it is the three, or what three and seven are together: who answers has learned to
/// look and to add. Every digit has two others that it is not joined with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeptBack(usize);

impl KeptBack {
    /// Follows from the seed. 2, 3 or 4: a difference of 1 would take away the only pair whose sum is one.
    pub fn of(seed: u64) -> Self {
        Self(2 + (seed % 3) as usize)
    }

    /// Whether the question joins such a pair.
    pub fn is_asked(self, asked: Asked, digits: &[usize]) -> bool {
        let apart = |(one, other): (usize, usize)| (one + 10 - other) % 10;
        asked.pair(digits).is_some_and(|pair| [self.0, 10 - self.0].contains(&apart(pair)))
    }
}

/// Where rows come from.
#[derive(Clone, Debug)]
pub struct Scenes {
    /// The images of each digit.
    members: Vec<Vec<usize>>,
}

impl Scenes {
    /// Of these digits.
    ///
    /// # Errors
    /// If one of the ten is not among them.
    pub fn of(digits: &Digits) -> Result<Self> {
        let members = |digit| (0..digits.labels.len()).filter(|&at| digits.labels[at] == digit).collect();
        let members: Vec<Vec<usize>> = (0..10).map(members).collect();
        if let Some(digit) = members.iter().position(Vec::is_empty) {
            bail!("expected images of all ten digits on both sides, found no {digit}");
        }
        Ok(Self { members })
    }

    /// A row of 2 to 6 digits, each as likely as any other, and a question of this kind that does not join a pair of `without`.
    pub fn draw(&self, kind: Kind, wordings: Wordings, without: Option<KeptBack>, rng: &mut StdRng) -> Sample {
        loop {
            let digits: Vec<usize> = (0..rng.random_range(LEAST..=MOST)).map(|_| rng.random_range(0..10)).collect();
            let asked = Asked::draw(kind, &digits, rng);
            let asked = asked.filter(|asked| !without.is_some_and(|pairs| pairs.is_asked(*asked, &digits)));
            // A row without a question of this kind is drawn again.
            let Some((asked, answer)) = asked.and_then(|asked| Some((asked, asked.answer(&digits)?))) else { continue };
            let images = digits.iter().filter_map(|&digit| self.members[digit].choose(rng).copied()).collect();
            let wording = match wordings {
                Wordings::Learned => rng.random_range(0..kind.learned_wordings()),
                Wordings::New => kind.learned_wordings(),
            };
            return Sample { images, digits, asked, wording, answer };
        }
    }

    /// As many of each kind, in turns.
    pub fn draw_all(
        &self,
        count: usize,
        wordings: Wordings,
        without: Option<KeptBack>,
        rng: &mut StdRng,
    ) -> Vec<Sample> {
        (0..count).map(|at| self.draw(Kind::ALL[at % Kind::ALL.len()], wordings, without, rng)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use learn::digits::Images;
    use rand::SeedableRng;

    fn digits() -> Digits {
        Digits { images: Images { side: 1, pixels: vec![0.0; 40] }, labels: (0..40).map(|at| at * 7 % 10).collect() }
    }

    #[test]
    fn rows_show_what_they_say_and_join_no_pair_that_is_kept_back() {
        let (digits, kept) = (digits(), KeptBack::of(1));
        let scenes = Scenes::of(&digits).unwrap();
        let samples = scenes.draw_all(2000, Wordings::Learned, Some(kept), &mut StdRng::seed_from_u64(1));
        for (at, sample) in samples.iter().enumerate() {
            assert_eq!(sample.asked.kind(), Kind::ALL[at % 5]);
            assert_eq!(sample.images.iter().map(|&at| digits.labels[at]).collect::<Vec<_>>(), sample.digits);
            assert!((LEAST..=MOST).contains(&sample.digits.len()));
            assert_eq!(sample.asked.answer(&sample.digits), Some(sample.answer));
            assert!(sample.wording < sample.asked.kind().learned_wordings());
            assert!(!kept.is_asked(sample.asked, &sample.digits));
        }
        let new = scenes.draw_all(2000, Wordings::New, None, &mut StdRng::seed_from_u64(1));
        assert!(new.iter().all(|sample| sample.wording == sample.asked.kind().learned_wordings()));
        // A fifth of two of five kinds.
        let joined = new.iter().filter(|sample| kept.is_asked(sample.asked, &sample.digits)).count();
        assert!((100..260).contains(&joined), "{joined}");
    }

    #[test]
    fn pairs_are_kept_back_in_both_orders() {
        // Three apart.
        let (kept, row) = (KeptBack::of(1), [8, 5, 1, 1]);
        assert!(kept.is_asked(Asked::Beside { left: true, of: 5 }, &row));
        assert!(kept.is_asked(Asked::Beside { left: false, of: 8 }, &row));
        assert!(!kept.is_asked(Asked::Beside { left: false, of: 5 }, &row));
        assert!(!kept.is_asked(Asked::Exists(5), &row));
        assert!(kept.is_asked(Asked::Beside { left: false, of: 8 }, &[8, 1]), "over the ten");
    }

    #[test]
    fn all_ten_must_be_there() {
        let mut digits = digits();
        digits.labels.iter_mut().filter(|label| **label == 7).for_each(|label| *label = 6);
        assert!(Scenes::of(&digits).unwrap_err().to_string().contains("no 7"));
    }
}
