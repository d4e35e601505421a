//! How far a transfer is: a bar on a terminal, a line now and then elsewhere.

use std::cell::Cell;
use std::io::{self, IsTerminal};

use indicatif::{ProgressBar, ProgressStyle};

/// A transfer of a known number of bytes. Nothing is shown before the first byte is there, so that a transfer that never
/// begins is told by its error alone.
pub struct Transfer {
    label: String,
    total: u64,
    bar: Option<ProgressBar>,
    quarters: Cell<u64>,
}

impl Transfer {
    /// A transfer of `total` bytes, shown on standard error.
    pub fn new(label: String, total: u64) -> Self {
        let bar = io::stderr().is_terminal().then(|| bar(label.clone(), total));
        Self { label, total, bar, quarters: Cell::new(0) }
    }

    /// Shows that `bytes` have come so far.
    pub fn show(&self, bytes: u64) {
        let bytes = bytes.min(self.total);
        if let Some(bar) = &self.bar {
            if bytes > 0 {
                bar.set_position(bytes);
            }
            return;
        }
        if let Some(line) = self.line(bytes) {
            eprintln!("{line}");
        }
    }

    /// Takes the bar away: the transfer is over, well or not.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    /// The line for a newly begun quarter, if one has begun.
    fn line(&self, bytes: u64) -> Option<String> {
        let quarter = if bytes == 0 { 0 } else { 1 + bytes * 4 / self.total.max(1) };
        if quarter <= self.quarters.get() {
            return None;
        }
        self.quarters.set(quarter);
        let megabytes = |bytes: u64| bytes as f64 / 1e6;
        Some(format!("{}: {:.1} of {:.1} MB", self.label, megabytes(bytes), megabytes(self.total)))
    }
}

fn bar(label: String, total: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} [{bar:30}] {decimal_bytes} of {decimal_total_bytes}, {eta} left");
    let bar = ProgressBar::new(total).with_message(label);
    match style {
        Ok(style) => bar.with_style(style.progress_chars("=> ")),
        Err(_) => bar,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_a_quarter_at_a_time_and_not_before_the_first_byte() {
        let transfer = Transfer { label: "x".into(), total: 8_000_000, bar: None, quarters: Cell::new(0) };
        assert_eq!(transfer.line(0), None);
        let shown: Vec<_> = [1, 500_000, 2_000_000, 3_000_000, 8_000_000, 8_000_000]
            .into_iter()
            .filter_map(|bytes| transfer.line(bytes))
            .collect();
        assert_eq!(shown, ["x: 0.0 of 8.0 MB", "x: 2.0 of 8.0 MB", "x: 8.0 of 8.0 MB"]);
    }
}
