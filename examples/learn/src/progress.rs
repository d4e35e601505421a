//! How far a training is: a bar on a terminal, a line now and then elsewhere; always on standard error.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Between two lines.
const PAUSE: Duration = Duration::from_secs(5);

/// A training of a known number of steps.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    steps: usize,
    began_at: usize,
    start: Instant,
    told: Option<Instant>,
}

impl Progress {
    /// `done` of `steps` are behind us.
    pub(crate) fn new(steps: usize, done: usize) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(steps as u64).with_position(done as u64);
            let style = ProgressStyle::with_template(
                "{bar:24.cyan/dim} {pos}/{len}  {msg}  {elapsed_precise:.dim}, about {eta} left",
            );
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.reset_eta();
            bar.enable_steady_tick(Duration::from_millis(250));
            bar
        });
        Self { bar, steps, began_at: done, start: Instant::now(), told: None }
    }

    /// `done` steps are behind us; the last losses were about `loss`.
    pub(crate) fn show(&mut self, done: usize, epoch: usize, loss: f32) {
        let text = format!("epoch {}, loss {loss:.4}", epoch + 1);
        if let Some(bar) = &self.bar {
            bar.set_message(text);
            bar.set_position(done as u64);
        } else if self.told.is_none_or(|told| told.elapsed() >= PAUSE) || done == self.steps {
            self.told = Some(Instant::now());
            let spent = self.start.elapsed().as_secs_f64();
            let left = spent / (done - self.began_at).max(1) as f64 * (self.steps - done) as f64;
            eprintln!("step {done} of {}, {text}, {spent:.0} s, about {left:.0} s left", self.steps);
        }
    }

    /// The training is over, well or not.
    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
