//! What the learning examples share, so that each of them is its data, its model and its loss.
//!
//! | for | see |
//! | --- | --- |
//! | options that every example takes | [`Options`] |
//! | the order of samples, the held-out part, random numbers by seed | [`order`] |
//! | a training that stops and resumes to the very same numbers | [`train()`], [`Plan`] |
//! | the metric beside its baselines, and whether the example kept its promise | [`Evaluation`] |
//! | handwritten digits | [`digits`] |
//! | words as bags of hashed pieces, without a vocabulary | [`words`] |
//! | accuracy, macro F1, naive Bayes on words | [`classes`] |
//! | which input each position reads, through all layers | [`rollout()`] |
//! | the curve of the loss, a page with images and text lit up | [`curve`], [`page`] |
//! | which token reads which | [`heat_map()`] |
//!
//! Everything random follows from `--seed`: the first weights, the order of samples, dropout, augmentation. On NdArray and Flex the
//! same command gives the same bits, also across a stop.

mod checkpoint;
pub mod classes;
pub mod curve;
pub mod digits;
mod evaluation;
pub mod files;
mod heat_map;
mod options;
pub mod order;
pub mod page;
mod progress;
mod rollout;
pub mod stop;
mod train;
pub mod words;

pub use checkpoint::Checkpoint;
pub use evaluation::{Baseline, Evaluation, Goal};
pub use heat_map::heat_map;
pub use options::Options;
pub use rollout::rollout;
pub use train::{Batch, Outcome, Plan, Trained, seeded, train};

use std::process::ExitCode;

/// Runs an example to its exit code: its own, or 1 with one line of error.
pub fn main(run: impl FnOnce() -> anyhow::Result<ExitCode>) -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            // One line, whatever a library said.
            let text = format!("{error:#}");
            eprintln!("error: {}", text.split_whitespace().collect::<Vec<_>>().join(" "));
            ExitCode::FAILURE
        }
    }
}
