//! What the heads have learned of the rule: how fast each forgets, and what it thinks goes with each item.

use anyhow::Result;

use crate::model::Recommender;
use crate::rule::{Habit, ITEMS, LENGTH, Rule};

/// Ages that an item of a session can have.
pub const AGES: usize = LENGTH - 1;

/// The share below which an age counts as hardly read.
const LEAST: f64 = 0.01;

/// A head.
#[derive(Debug, Clone, PartialEq)]
pub struct Head {
    /// Its number in the model.
    pub number: usize,
    /// Its bias by age, 0 at age 0.
    pub bias: Vec<f64>,
    /// How fast that falls.
    pub rate: f64,
    /// What it thinks most probable after each item.
    pub follower: Vec<usize>,
}

/// The heads, that which forgets fastest first, as the rule has its habits.
///
/// # Errors
/// If the model refuses.
pub fn heads(model: &Recommender) -> Result<Vec<Head>> {
    let biases: Vec<f64> = model.bias(AGES)?.try_into_data()?.iter::<f64>().collect();
    let followers: Vec<i64> = model.followers().argmax(2).try_into_data()?.iter::<i64>().collect();
    let made = biases.chunks(AGES).zip(followers.chunks(ITEMS)).enumerate().map(|(number, (bias, followers))| Head {
        number,
        bias: bias.iter().map(|b| b - bias[0]).collect(),
        rate: rate(bias),
        follower: followers.iter().map(|&item| item as usize).collect(),
    });
    let mut heads: Vec<Head> = made.collect();
    heads.sort_by(|a, b| b.rate.total_cmp(&a.rate));
    Ok(heads)
}

impl Head {
    /// How many items it knows the follower of.
    pub fn right(&self, habit: &Habit) -> usize {
        self.follower.iter().zip(&habit.follower).filter(|(found, follower)| found == follower).count()
    }
}

/// The greatest error of the rates, as a part of the true one.
pub fn error(rule: &Rule, heads: &[Head]) -> f64 {
    let errors = rule.habits.iter().zip(heads).map(|(habit, head)| (head.rate / habit.rate - 1.0).abs());
    // NaN stays, and is no small error.
    errors.fold(0.0, |most: f64, error| if most.is_nan() || error <= most { most } else { error })
}

/// How fast a bias falls: the line of least squares, where an age counts as much as it is read. One that is hardly read is hardly
/// learned, either, and is left out.
fn rate(bias: &[f64]) -> f64 {
    let most = bias.iter().copied().fold(f64::MIN, f64::max);
    let mut weights: Vec<f64> = bias.iter().map(|b| (b - most).exp()).collect();
    let all: f64 = weights.iter().sum();
    weights.iter_mut().filter(|weight| **weight < LEAST * all).for_each(|weight| *weight = 0.0);
    let sum: f64 = weights.iter().sum();
    let mean = |of: &dyn Fn(usize) -> f64| (0..bias.len()).map(|age| weights[age] * of(age)).sum::<f64>() / sum;
    let (age, level) = (mean(&|age| age as f64), mean(&|age| bias[age]));
    let covariance = mean(&|at| (at as f64 - age) * (bias[at] - level));
    -covariance / mean(&|at| (at as f64 - age).powi(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_of_the_line_and_rare_ages_say_little() {
        let line: Vec<f64> = (0..19).map(|age| 3.0 - 0.8 * f64::from(age)).collect();
        assert!((rate(&line) - 0.8).abs() < 1e-12);
        let mut shaken = line.clone();
        shaken[17] += 1.0;
        assert!((rate(&shaken) - 0.8).abs() < 1e-12, "{}", rate(&shaken));
        shaken = line;
        shaken[0] += 0.4;
        assert!((rate(&shaken) - 0.8).abs() > 0.05, "{}", rate(&shaken));
    }

    #[test]
    fn the_error_is_the_greatest_and_no_number_is_none() {
        let rule = Rule::new(1);
        let of = |rates: [f64; 2]| {
            let head = |rate| Head { number: 0, bias: vec![], rate, follower: vec![] };
            error(&rule, &rates.map(head))
        };
        assert!((of([0.8 * 1.1, 0.15 * 0.8]) - 0.2).abs() < 1e-12);
        assert!(of([f64::NAN, 0.15]).is_nan() && of([0.8, f64::NAN]).is_nan());
    }
}
