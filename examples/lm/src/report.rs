//! What a run leaves for a comparison: what it reached, and at what cost.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use learn::{Plan, files};
use serde::{Deserialize, Serialize};

use crate::training::Cost;

/// The file in a run's folder.
const FILE: &str = "report.json";

/// What a run reached, and at what cost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Its [`Plan`].
    run: String,
    /// Parameters of the model.
    pub parameters: usize,
    /// Bits a byte on the held-out text.
    pub bits: f64,
    /// Seconds of a step, the median.
    pub seconds: Option<f64>,
    /// The most memory of the process that trained, in bytes.
    pub peak: Option<u64>,
}

impl Report {
    /// Of a run, with its cost; of one that was done before, with that which an earlier report in `folder` tells.
    ///
    /// # Errors
    /// If the plan cannot be written as text.
    pub fn new(plan: &Plan, parameters: usize, bits: f64, cost: Cost, folder: &Path) -> Result<Self> {
        let run = serde_json::to_string(plan)?;
        let earlier = Self::read(folder).ok().filter(|earlier| cost.seconds.is_none() && earlier.run == run);
        let (seconds, peak) = match earlier {
            Some(earlier) => (earlier.seconds, earlier.peak),
            // The memory of a process that did no step is not that of a training.
            None => (cost.seconds, cost.peak.filter(|_| cost.seconds.is_some())),
        };
        Ok(Self { run, parameters, bits, seconds, peak })
    }

    /// Writes it.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        files::write_atomically(&folder.join(FILE), &serde_json::to_vec_pretty(self)?)
    }

    /// Reads that of a folder.
    ///
    /// # Errors
    /// If there is none, or it is none.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(FILE);
        let place = || path.display().to_string();
        serde_json::from_slice(&fs::read(&path).with_context(place)?).with_context(place)
    }

    /// Milliseconds of a step, for a person.
    pub fn time(&self) -> String {
        self.seconds.map_or_else(|| "–".into(), |seconds| format!("{:.0} ms", 1e3 * seconds))
    }

    /// Memory, for a person.
    pub fn memory(&self) -> String {
        self.peak.map_or_else(|| "–".into(), |peak| format!("{:.0} MB", peak as f64 / 1e6))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_was_done_before_keeps_its_cost() {
        let folder = std::env::temp_dir().join(format!("attn-lm-report-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let plan = Plan::new("a test", "any", 1, 10, 2, 5);
        let cost = Cost { seconds: Some(0.25), peak: Some(3_000_000) };
        let first = Report::new(&plan, 9, 2.5, cost, &folder).unwrap();
        first.write(&folder).unwrap();
        assert_eq!(Report::read(&folder).unwrap(), first);
        assert_eq!((first.time(), first.memory()), ("250 ms".into(), "3 MB".into()));
        let idle = Cost { seconds: None, peak: Some(1) };
        assert_eq!(Report::new(&plan, 9, 2.5, idle, &folder).unwrap(), first);
        // Of another run nothing is known, nor does what did nothing cost anything.
        let other = Report::new(&Plan { seed: 2, ..plan }, 9, 2.5, idle, &folder).unwrap();
        assert_eq!((other.time(), other.memory()), ("–".into(), "–".into()));
        fs::remove_dir_all(&folder).unwrap();
        assert!(format!("{:#}", Report::read(&folder).unwrap_err()).contains("report.json"));
    }
}
