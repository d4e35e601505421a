//! Timing by turns.
//!
//! The contestants take turns (a, b, c, a, b, c, …), so that a machine that slows down slows all of them, and ratios hold
//! where absolute times drift. A turn is as many calls as last a few milliseconds; a contestant's figure is the median of
//! its turns. The number of rounds follows from a time budget, within bounds.

use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::contestants::Contestant;

/// How long and how often to measure.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Time for one shape, all contestants together.
    pub budget: Duration,
    /// Rounds that are run even past the budget.
    pub least_rounds: usize,
    /// Rounds that are never exceeded.
    pub most_rounds: usize,
    /// Time that one turn should last, by repeating short calls.
    pub turn: Duration,
    /// Time to warm each contestant up.
    pub warm_up: Duration,
}

impl Effort {
    /// The default: seconds a shape.
    pub const FULL: Self = Self {
        budget: Duration::from_secs(8),
        least_rounds: 5,
        most_rounds: 101,
        turn: Duration::from_millis(4),
        warm_up: Duration::from_millis(60),
    };

    /// For a first look.
    pub const QUICK: Self = Self {
        budget: Duration::from_millis(1200),
        least_rounds: 3,
        most_rounds: 25,
        turn: Duration::from_millis(2),
        warm_up: Duration::from_millis(10),
    };
}

/// The times of one contestant, each in milliseconds a call.
#[derive(Clone, Debug, PartialEq)]
pub struct Times {
    /// The median turn.
    pub median: f64,
    /// The fastest turn.
    pub min: f64,
    /// The slowest turn.
    pub max: f64,
    /// How many turns.
    pub rounds: usize,
}

impl Times {
    fn of(mut turns: Vec<f64>) -> Self {
        turns.sort_by(f64::total_cmp);
        Self {
            median: median(&turns),
            min: turns.first().copied().unwrap_or(f64::NAN),
            max: turns.last().copied().unwrap_or(f64::NAN),
            rounds: turns.len(),
        }
    }
}

/// The median of sorted numbers: the middle one, or the mean of the middle two; NaN of none.
pub fn median(sorted: &[f64]) -> f64 {
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => 0.5 * (sorted[n / 2 - 1] + sorted[n / 2]),
    }
}

/// Times all contestants by turns; the result is in their order.
pub fn measure(contestants: &[Contestant], effort: Effort) -> Result<Vec<Times>> {
    let mut repeats = Vec::new();
    for contestant in contestants {
        repeats.push(warm_up(contestant, effort)?);
    }
    let turns = by_turns(contestants.len(), effort, |n| {
        rest(&contestants[n], repeats[n])?;
        turn(&contestants[n], repeats[n])
    })?;
    Ok(turns.into_iter().map(Times::of).collect())
}

/// Calls until the warm-up is over; how many calls then make a turn.
fn warm_up(contestant: &Contestant, effort: Effort) -> Result<u32> {
    let start = Instant::now();
    let mut fastest = f64::INFINITY;
    loop {
        fastest = fastest.min(turn(contestant, 1)?);
        if start.elapsed() >= effort.warm_up {
            let calls = effort.turn.as_secs_f64() * 1e3 / fastest.max(1e-6);
            return Ok((calls.ceil() as u32).clamp(1, 10_000));
        }
    }
}

/// How long the threads of other libraries' pools spin after their last work, and more: OpenMP's take a millisecond.
const REST: Duration = Duration::from_millis(3);

/// Lets the pool of whoever had the last turn fall asleep, and wakes the next one's where its calls are short.
fn rest(contestant: &Contestant, calls: u32) -> Result<()> {
    std::thread::sleep(REST);
    if calls > 1 {
        black_box(contestant.run()?);
    }
    Ok(())
}

/// Milliseconds a call, over `calls` calls. Each is waited for and its result is used.
fn turn(contestant: &Contestant, calls: u32) -> Result<f64> {
    let mut outcome = None;
    let start = Instant::now();
    for _ in 0..calls {
        outcome = Some(black_box(contestant.run()?));
    }
    let taken = start.elapsed();
    drop(outcome);
    Ok(taken.as_secs_f64() * 1e3 / f64::from(calls))
}

/// Rounds of `turn(0)`, `turn(1)`, … until the budget is spent.
fn by_turns(contestants: usize, effort: Effort, mut turn: impl FnMut(usize) -> Result<f64>) -> Result<Vec<Vec<f64>>> {
    let mut turns = vec![Vec::new(); contestants];
    let start = Instant::now();
    for round in 0..effort.most_rounds {
        if round >= effort.least_rounds && start.elapsed() >= effort.budget {
            break;
        }
        for (n, times) in turns.iter_mut().enumerate() {
            times.push(turn(n)?);
        }
    }
    Ok(turns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert!(median(&[]).is_nan());
        assert_eq!(median(&[3.0]), 3.0);
        assert_eq!(median(&[1.0, 2.0]), 1.5);
        assert_eq!(median(&[1.0, 2.0, 50.0]), 2.0);
        let times = Times::of(vec![9.0, 1.0, 4.0, 2.0]);
        assert_eq!((times.median, times.min, times.max, times.rounds), (3.0, 1.0, 9.0, 4));
    }

    #[test]
    fn contestants_take_turns_and_rounds_keep_their_bounds() {
        let spent = Effort { budget: Duration::ZERO, ..Effort::QUICK };
        let mut order = Vec::new();
        let turns = by_turns(3, spent, |n| {
            order.push(n);
            Ok(n as f64)
        });
        assert_eq!(order, [0, 1, 2, 0, 1, 2, 0, 1, 2]);
        assert_eq!(turns.expect("no turn fails"), [[0.0; 3], [1.0; 3], [2.0; 3]]);

        let endless = Effort { budget: Duration::MAX, ..Effort::QUICK };
        let turns = by_turns(1, endless, |_| Ok(1.0)).expect("no turn fails");
        assert_eq!(turns[0].len(), Effort::QUICK.most_rounds);
    }

    #[test]
    fn an_error_in_a_turn_ends_the_measurement() {
        let result = by_turns(2, Effort::QUICK, |n| {
            anyhow::ensure!(n == 0, "the second fails");
            Ok(1.0)
        });
        assert!(result.is_err());
    }
}
