//! What a run leaves for a comparison: what it reached, and at what cost.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use learn::{Plan, files};
use serde::{Deserialize, Serialize};

use crate::cost::Cost;

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
    /// The most bytes of memory that the process held within a step, the median.
    pub memory: Option<u64>,
}

impl Report {
    /// Of a run, with its cost; of one that was done before, with that which an earlier report in `folder` tells.
    ///
    /// # Errors
    /// If the plan cannot be written as text.
    pub fn new(plan: &Plan, parameters: usize, bits: f64, cost: Cost, folder: &Path) -> Result<Self> {
        let run = serde_json::to_string(plan)?;
        let earlier = Self::read(folder).ok().filter(|earlier| cost.seconds.is_none() && earlier.run == run);
        let (seconds, memory) =
            earlier.map_or((cost.seconds, cost.memory), |earlier| (earlier.seconds, earlier.memory));
        Ok(Self { run, parameters, bits, seconds, memory })
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
    pub fn shown_time(&self) -> String {
        self.seconds.map_or_else(|| "–".into(), |seconds| format!("{:.0} ms", 1e3 * seconds))
    }

    /// Memory in millions of bytes.
    pub fn megabytes(&self) -> Option<f64> {
        self.memory.map(|bytes| bytes as f64 / 1e6)
    }

    /// Memory, for a person.
    pub fn shown_memory(&self) -> String {
        self.megabytes().map_or_else(|| "–".into(), |megabytes| format!("{megabytes:.0} MB"))
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
        let cost = Cost { seconds: Some(0.25), memory: Some(3_000_000) };
        let first = Report::new(&plan, 9, 2.5, cost, &folder).unwrap();
        first.write(&folder).unwrap();
        assert_eq!(Report::read(&folder).unwrap(), first);
        assert_eq!((first.shown_time(), first.shown_memory()), ("250 ms".into(), "3 MB".into()));
        let idle = Cost::default();
        assert_eq!(Report::new(&plan, 9, 2.5, idle, &folder).unwrap(), first);
        // Of another run nothing is known.
        let other = Report::new(&Plan { seed: 2, ..plan }, 9, 2.5, idle, &folder).unwrap();
        assert_eq!((other.shown_time(), other.shown_memory()), ("–".into(), "–".into()));
        fs::remove_dir_all(&folder).unwrap();
        assert!(format!("{:#}", Report::read(&folder).unwrap_err()).contains("report.json"));
    }
}
