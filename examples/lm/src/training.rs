//! The training of one model, and which bytes a step of it sees.

#[cfg(test)]
mod tests;

use std::path::Path;

use anyhow::Result;
use burn::tensor::Device;
use learn::{Batch, Outcome, Plan, train};
use rand::Rng;

use crate::cost::{Cost, Meter};
use crate::model::{LanguageModel, LanguageModelConfig, tensor};
use crate::weights::drawn;

/// Bytes of a step, in as many pieces as the context makes of them. Few: in the same time a model of this size learns more from many
/// small steps (bits a byte after 600 kB: 2.58 with 512, 2.67 with 1024, 2.88 with 2048).
const BYTES: usize = 512;
/// What to train, and on what.
pub struct Training<'a> {
    /// The model.
    pub config: LanguageModelConfig,
    /// The text.
    pub text: &'a [u8],
    /// Its numbers.
    pub plan: Plan,
}

impl<'a> Training<'a> {
    /// Steps in which a text is seen once.
    pub fn steps_per_epoch(text: usize, context: usize) -> usize {
        let (pieces, batch) = pieces(text, context);
        pieces.div_ceil(batch).max(1)
    }

    /// Of `steps`, of a text with more than the config's context of bytes.
    pub fn new(config: LanguageModelConfig, text: &'a [u8], backend: &'static str, seed: u64, steps: usize) -> Self {
        let (pieces, batch) = pieces(text.len(), config.context);
        let mut plan = Plan::new(format!("lm {config:?}"), backend, seed, pieces, batch, steps);
        plan.learning_rate = 3e-3;
        plan.warm_up = steps / 10;
        Self { config, text, plan }
    }

    /// Learns in `folder`, going on from a checkpoint there unless `fresh`.
    ///
    /// # Errors
    /// If the config makes no model, or those of [`train`].
    pub fn run(&self, device: &Device, folder: &Path, fresh: bool) -> Result<(Outcome<LanguageModel>, Cost)> {
        let device = device.clone().autodiff();
        let model = drawn(self.config.init(&device)?, self.plan.seed);
        let mut meter = Meter::default();
        let outcome = train(&self.plan, &device, folder, fresh, model, |model, batch| {
            meter.step();
            Ok(model.surprise(tensor(&self.pieces(batch), &device))?.mean())
        })?;
        Ok((outcome, meter.stop()))
    }

    /// The pieces of a step, each with the byte after it.
    fn pieces(&self, batch: &mut Batch) -> Vec<&'a [u8]> {
        let context = self.config.context;
        let last = self.text.len() - context - 1;
        // Anywhere in its piece, so that the epochs do not all cut at the same places.
        let starts = batch.samples.iter().map(|&at| (at * context + batch.rng.random_range(0..context)).min(last));
        starts.map(|start| &self.text[start..=start + context]).collect()
    }
}

/// Pieces of a text, and those of a step.
fn pieces(text: usize, context: usize) -> (usize, usize) {
    (text.saturating_sub(1) / context.max(1), (BYTES / context.max(1)).max(1))
}
