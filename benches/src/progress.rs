//! How far a run is: a bar on a terminal, plain lines elsewhere; always on stderr.

use std::io::IsTerminal;
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};

/// A count of steps.
pub struct Progress {
    bar: Option<ProgressBar>,
    steps: usize,
    done: usize,
    start: Instant,
}

impl Progress {
    /// Nothing of `steps` done yet.
    pub fn new(steps: usize) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(steps as u64);
            let style = ProgressStyle::with_template(
                "{bar:24.cyan/dim} {pos:>2}/{len}  {msg}  {elapsed_precise:.dim}, about {eta} left",
            );
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.enable_steady_tick(std::time::Duration::from_millis(250));
            bar
        });
        Self { bar, steps, done: 0, start: Instant::now() }
    }

    /// The step before is over; `what` begins.
    pub fn step(&mut self, what: &str) {
        match &self.bar {
            Some(bar) => {
                bar.set_position(self.done as u64);
                bar.set_message(what.to_string());
            }
            None => {
                eprintln!("[{:>2}/{}] {:>4.0} s  {what}", self.done + 1, self.steps, self.start.elapsed().as_secs_f64())
            }
        }
        self.done += 1;
    }

    /// A line that stays.
    pub fn note(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => eprintln!("{text}"),
        }
    }

    /// All is done.
    pub fn finish(&self) {
        match &self.bar {
            Some(bar) => bar.finish_and_clear(),
            None => eprintln!("done in {:.0} s", self.start.elapsed().as_secs_f64()),
        }
    }
}
