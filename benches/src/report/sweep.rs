//! What a sweep found: how ours stands to the faster of its peers over all shapes, and where it stands worst.

use super::scale::significant;
use super::{Report, Row};
use crate::shapes::Suite;

/// The share of the faster peer's speed below which a shape is told as lost.
pub const LOST: f64 = 0.9;
/// How many of the worst are shown.
const WORST: usize = 12;

/// The rows of a sweep, the worst first.
pub struct Sweep<'a> {
    /// Those that some peer can do.
    pub rows: Vec<&'a Row>,
    /// How many no peer can do.
    pub alone: usize,
}

impl<'a> Sweep<'a> {
    /// The sweep of a report, if it has one.
    pub fn of(report: &'a Report) -> Option<Self> {
        let all: Vec<&Row> = report.rows.iter().filter(|row| row.suite == Suite::Sweep.name()).collect();
        let count = all.len();
        let mut rows: Vec<&Row> = all.into_iter().filter(|row| row.lead().is_some()).collect();
        rows.sort_by(|a, b| a.lead().unwrap_or(f64::NAN).total_cmp(&b.lead().unwrap_or(f64::NAN)));
        (count > 0).then(|| Self { alone: count - rows.len(), rows })
    }

    /// The worst rows.
    pub fn worst(&self) -> &[&'a Row] {
        &self.rows[..WORST.min(self.rows.len())]
    }

    /// How many are slower than `share` of the faster peer.
    pub fn below(&self, share: f64) -> usize {
        self.rows.iter().filter(|row| row.lead().is_some_and(|lead| lead < share)).count()
    }

    /// The lead that `share` of the shapes do not reach.
    fn quantile(&self, share: f64) -> f64 {
        let at = (share * self.rows.len() as f64) as usize;
        self.rows.get(at.min(self.rows.len().saturating_sub(1))).and_then(|row| row.lead()).unwrap_or(f64::NAN)
    }

    /// All of it in a few words.
    pub fn text(&self) -> String {
        let alone = match self.alone {
            0 => String::new(),
            n => format!("; {n} more that no peer can do"),
        };
        if self.rows.is_empty() {
            return format!("Sweep: no shape that a peer can do{alone}");
        }
        let leads = [0.0, 0.05, 0.25, 0.5, 0.75, 1.0].map(|share| significant(self.quantile(share)));
        let [least, twentieth, quarter, median, three, most] = leads;
        format!(
            "Sweep of {} shapes{alone}\nTimes as fast as the faster peer: {least} at least, {twentieth} (5 %), {quarter} (25 %), \
             {median} (half), {three} (75 %), {most} at most; behind it {}, below {LOST} of it {}\nThe worst:",
            self.rows.len(),
            self.below(1.0),
            self.below(LOST),
        )
    }
}
