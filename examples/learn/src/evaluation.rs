//! The metric beside its baselines, and whether the example kept its promise.

use std::fmt::Write;
use std::process::ExitCode;

/// Which numbers are good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// The more the better, shown in percent: a share such as accuracy.
    HighShare,
    /// The more the better.
    High,
    /// The less the better: an error.
    Low,
}

/// What someone else reaches on the same held-out data.
#[derive(Debug, Clone, PartialEq)]
pub struct Baseline {
    /// How.
    pub name: String,
    /// What it reaches.
    pub value: f64,
    /// Whether the example promises to be better. Others are shown to compare.
    pub is_promised: bool,
}

/// What a model reaches on held-out data.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation {
    /// What is measured, and on what.
    pub metric: String,
    /// Which numbers are good.
    pub goal: Goal,
    /// Who reaches it.
    pub name: String,
    /// What the model reaches.
    pub value: f64,
    /// What others do.
    pub baselines: Vec<Baseline>,
}

impl Evaluation {
    /// Of `name`, which reaches `value`.
    pub fn new(metric: impl Into<String>, goal: Goal, name: impl Into<String>, value: f64) -> Self {
        Self { metric: metric.into(), goal, name: name.into(), value, baselines: Vec::new() }
    }

    /// A baseline that must be beaten.
    #[must_use]
    pub fn beats(mut self, name: impl Into<String>, value: f64) -> Self {
        self.baselines.push(Baseline { name: name.into(), value, is_promised: true });
        self
    }

    /// A baseline that is shown to compare.
    #[must_use]
    pub fn beside(mut self, name: impl Into<String>, value: f64) -> Self {
        self.baselines.push(Baseline { name: name.into(), value, is_promised: false });
        self
    }

    /// Whether `value` is better than that of the baseline.
    pub fn is_better_than(&self, baseline: &Baseline) -> bool {
        match self.goal {
            Goal::HighShare | Goal::High => self.value > baseline.value,
            Goal::Low => self.value < baseline.value,
        }
    }

    /// A number of this metric, for a person.
    pub fn shown(&self, value: f64) -> String {
        match self.goal {
            Goal::HighShare => format!("{:.1} %", 100.0 * value),
            Goal::High | Goal::Low => format!("{value:.4}"),
        }
    }

    /// Whether the loss fell and each baseline that must be is beaten.
    pub fn is_kept(&self, losses: &[f32]) -> bool {
        let beaten = self.baselines.iter().filter(|baseline| baseline.is_promised);
        self.value.is_finite()
            && first_and_last(losses).is_some_and(|(first, last)| last < first)
            && beaten.into_iter().all(|baseline| self.is_better_than(baseline))
    }

    /// The table, the losses and the verdict, for a terminal.
    pub fn text(&self, losses: &[f32]) -> String {
        let names = self.baselines.iter().map(|baseline| &baseline.name).chain([&self.name]);
        let width = names.map(|name| name.chars().count()).max().unwrap_or(0);
        let mut text = format!("{}\n", self.metric);
        let mut line = |name: &str, value: f64, note: &str| {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "  {name:<width$}  {:>8}{note}", self.shown(value));
        };
        line(&self.name, self.value, "");
        for baseline in &self.baselines {
            let note = match (self.is_better_than(baseline), baseline.is_promised) {
                (true, _) => "  beaten",
                (false, true) => "  NOT BEATEN",
                (false, false) => "  not beaten; shown to compare",
            };
            line(&baseline.name, baseline.value, note);
        }
        if let Some((first, last)) = first_and_last(losses) {
            let verb = if last < first { "fell" } else { "DID NOT FALL" };
            let _ = writeln!(text, "The loss {verb}: {first:.4} in the first steps, {last:.4} in the last");
        }
        text
    }

    /// Prints [`text`](Self::text); the exit code is 1 unless the promise [`is_kept`](Self::is_kept).
    pub fn conclude(&self, losses: &[f32]) -> ExitCode {
        println!("\n{}", self.text(losses));
        if self.is_kept(losses) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

/// The mean losses of the first and the last twentieth of the steps.
pub fn first_and_last(losses: &[f32]) -> Option<(f32, f32)> {
    let count = losses.len().div_ceil(20);
    let mean = |part: &[f32]| part.iter().sum::<f32>() / part.len() as f32;
    (losses.len() >= 2).then(|| (mean(&losses[..count]), mean(&losses[losses.len() - count..])))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FELL: [f32; 3] = [3.0, 2.0, 1.0];

    #[test]
    fn a_promise_is_kept_where_the_loss_fell_and_the_baselines_are_beaten() {
        let made =
            |value| Evaluation::new("accuracy", Goal::HighShare, "ours", value).beats("mean", 0.9).beside("nn", 0.99);
        assert!(made(0.95).is_kept(&FELL));
        assert!(!made(0.9).is_kept(&FELL) && !made(0.5).is_kept(&FELL) && !made(f64::NAN).is_kept(&FELL));
        assert!(!made(0.95).is_kept(&[1.0, 2.0, 3.0]) && !made(0.95).is_kept(&[1.0]) && !made(0.95).is_kept(&[]));
        let error = |value| Evaluation::new("error", Goal::Low, "ours", value).beats("last year", 0.5);
        assert!(error(0.4).is_kept(&FELL) && !error(0.6).is_kept(&FELL));
    }

    #[test]
    fn the_text_says_who_is_beaten() {
        let made = Evaluation::new("accuracy of 10 digits", Goal::HighShare, "ours", 0.95);
        let text = made.beats("mean", 0.9).beats("best", 0.96).beside("neighbour", 0.99).text(&FELL);
        let expected = "accuracy of 10 digits\n  ours         95.0 %\n  mean         90.0 %  beaten\n  best         96.0 %  NOT BEATEN\n  \
             neighbour    99.0 %  not beaten; shown to compare\nThe loss fell: 3.0000 in the first steps, 1.0000 in the last\n";
        assert_eq!(text, expected);
    }
}
