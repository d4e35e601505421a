//! Timing by turns.
//!
//! The contestants take turns (a, b, c, a, b, c, …), so that a machine that slows down slows all of them, and ratios hold
//! where absolute times drift. A turn is as many calls as last some ten milliseconds; a contestant's figure is the median of
//! its turns. The number of rounds follows from a time budget, within bounds.
//!
//! On a CPU each call of a turn is waited for, which costs nothing. A device is handed all calls of a turn and waited for
//! once, so that the fixed cost of waiting is shared by them, as it is where a program calls operation after operation.

use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::contestants::Contestant;
use crate::peaks::Reading;

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
        turn: Duration::from_millis(10),
        warm_up: Duration::from_millis(60),
    };

    /// For devices alone, which are lent by the minute: the same turns, fewer of them.
    pub const DEVICE: Self = Self {
        budget: Duration::from_secs(3),
        least_rounds: 5,
        most_rounds: 51,
        turn: Duration::from_millis(5),
        warm_up: Duration::from_millis(60),
    };

    /// For a second look at one of many shapes where ours came out behind: half of the default.
    pub const AGAIN: Self = Self { budget: Duration::from_secs(4), least_rounds: 7, ..Self::FULL };

    /// For a first look.
    pub const QUICK: Self = Self {
        budget: Duration::from_millis(1200),
        least_rounds: 3,
        most_rounds: 25,
        turn: Duration::from_millis(4),
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

/// Times all contestants by turns of as many calls as `repeats` says of each; the result is in their order. Where memory is read beside them,
/// it takes its turn as well, and its median is told in GB/s.
///
/// # Errors
/// Where a call fails.
pub fn measure(
    contestants: &[Contestant],
    repeats: &[u32],
    effort: Effort,
    mut reading: Option<&mut Reading>,
) -> Result<(Vec<Times>, Option<f64>)> {
    let beside = usize::from(reading.is_some());
    let mut turns = by_turns(contestants.len() + beside, effort, |n| match (contestants.get(n), &mut reading) {
        (Some(contestant), _) => {
            rest(contestant, repeats[n])?;
            turn(contestant, repeats[n])
        }
        (None, Some(reading)) => {
            sleep_and_wake();
            Ok(reading.turn(READS))
        }
        (None, None) => Ok(f64::NAN),
    })?;
    let gbps = if beside == 1 { turns.pop().map(|turns| Times::of(turns).median) } else { None };
    Ok((turns.into_iter().map(Times::of).collect(), gbps))
}

/// Reads of 16 MiB a thread that make a turn of some milliseconds.
const READS: usize = 12;

/// The most calls of a turn.
const MOST_CALLS: u32 = 10_000;

/// Calls until the warm-up is over; how many calls then make a turn.
///
/// # Errors
/// Where a call fails.
pub fn warm_up(contestant: &Contestant, effort: Effort) -> Result<u32> {
    if contestant.queues() {
        return queued_calls(effort, |calls| turn(contestant, calls));
    }
    let start = Instant::now();
    let mut fastest = f64::INFINITY;
    loop {
        fastest = fastest.min(turn(contestant, 1)?);
        if start.elapsed() >= effort.warm_up {
            let calls = effort.turn.as_secs_f64() * 1e3 / fastest.max(1e-6);
            return Ok((calls.ceil() as u32).clamp(1, MOST_CALLS));
        }
    }
}

/// How many calls make a turn where one alone lasts longer than its share of many: doubled until that many, once warm, last a
/// turn. `turn` takes a number of calls and answers milliseconds a call.
fn queued_calls(effort: Effort, mut turn: impl FnMut(u32) -> Result<f64>) -> Result<u32> {
    let (wanted, warm) = (effort.turn.as_secs_f64() * 1e3, effort.warm_up.as_secs_f64() * 1e3);
    let (mut calls, mut spent) = (1, 0.0);
    loop {
        let taken = turn(calls)? * f64::from(calls);
        spent += taken;
        if taken < wanted && calls < MOST_CALLS {
            calls = (2 * calls).min(MOST_CALLS);
        } else if spent >= warm || taken == 0.0 {
            return Ok(calls);
        }
    }
}

/// How long the threads of other libraries' pools spin after their last work, and more: GNU OpenMP's, which are LibTorch's, turn 300,000
/// times, five milliseconds here. As long as they do, a core is not there for who comes next.
const REST: Duration = Duration::from_millis(8);

/// How long a core that has slept takes at most to be itself again, and more: on a virtual machine an idle one is given away, and comes back after
/// up to two milliseconds. A program that calls operation after operation has all of its cores.
const WAKE: Duration = Duration::from_millis(3);

/// Lets the pool of whoever had the last turn fall asleep, keeps every core busy until it is awake, with work that is nobody's, and wakes
/// the next one's pool where its calls are short. A device has no such pools.
fn rest(contestant: &Contestant, calls: u32) -> Result<()> {
    if !contestant.queues() {
        sleep_and_wake();
    }
    if calls > 1 {
        black_box(contestant.run()?);
    }
    Ok(())
}

/// Lets other pools fall asleep, and wakes the cores.
fn sleep_and_wake() {
    std::thread::sleep(REST);
    wake();
}

/// Spins on every core that this process may use.
fn wake() {
    let spin = || {
        let start = Instant::now();
        while start.elapsed() < WAKE {
            std::hint::spin_loop();
        }
    };
    let others = std::thread::available_parallelism().map_or(1, usize::from) - 1;
    std::thread::scope(|scope| {
        for _ in 0..others {
            // A core whose thread can't start sleeps on.
            drop(std::thread::Builder::new().spawn_scoped(scope, spin));
        }
        spin();
    });
}

/// Milliseconds a call, over `calls` calls. Each is waited for and its result is used; on a device they are waited for together,
/// and the last result is looked at once the time is taken.
fn turn(contestant: &Contestant, calls: u32) -> Result<f64> {
    let mut outcome = None;
    let start = Instant::now();
    if contestant.queues() {
        for _ in 0..calls {
            outcome = Some(black_box(contestant.submit()?));
        }
        contestant.wait()?;
    } else {
        for _ in 0..calls {
            outcome = Some(black_box(contestant.run()?));
        }
    }
    let taken = start.elapsed();
    match &outcome {
        Some(outcome) if contestant.queues() => contestant.confirm(outcome)?,
        _ => (),
    }
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
    fn queued_calls_last_a_turn_without_the_cost_of_waiting() {
        // A call takes 0.02 ms, waiting 0.5 ms: by one call alone, 10 would make a turn of 5 ms.
        let effort = Effort::DEVICE;
        let mut batches = Vec::new();
        let calls = queued_calls(effort, |calls| {
            batches.push(calls);
            Ok((0.5 + 0.02 * f64::from(calls)) / f64::from(calls))
        });
        assert_eq!(calls.expect("no turn fails"), 256);
        assert_eq!(batches[..9], [1, 2, 4, 8, 16, 32, 64, 128, 256]);
        let spent: f64 = batches.iter().map(|&calls| 0.5 + 0.02 * f64::from(calls)).sum();
        assert!(spent >= 60.0 && batches[9..].iter().all(|&calls| calls == 256), "{spent} ms: {batches:?}");

        // A first batch that is slow, as long as a clock is low, does not settle the number.
        let mut first = true;
        let calls = queued_calls(effort, |calls| {
            let slow = std::mem::take(&mut first);
            Ok(if slow { 9.0 } else { 1.0 / f64::from(calls) + 0.01 })
        });
        assert_eq!(calls.expect("no turn fails"), 512);
        // Long calls are turns of their own, and none is endless.
        assert_eq!(queued_calls(effort, |_| Ok(80.0)).expect("no turn fails"), 1);
        assert_eq!(queued_calls(effort, |_| Ok(0.0)).expect("no turn fails"), MOST_CALLS);
        assert!(queued_calls(effort, |_| Err(anyhow::anyhow!("it fails"))).is_err());
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
