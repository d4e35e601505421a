//! The task, and a model that learns it.

use std::path::Path;

use anyhow::{Context, Result};
use burn::nn::loss::CrossEntropyLossConfig;
use burn::tensor::Device;
use learn::digits::{Digits, Set};
use learn::order::held_out;
use learn::{Options, Outcome, Plan, Trained, seeded, train};

use crate::batch::Batch;
use crate::look::Looks;
use crate::model::{Fuse, FuseConfig};
use crate::question::ANSWERS;
use crate::scene::{KeptBack, MOST, Scenes, Wordings};
use crate::words::Vocabulary;

/// One image of a digit in so many is held out.
const HELD_OUT: usize = 5;

/// Digits, words, and what is kept back of them.
#[derive(Debug)]
pub struct Task {
    /// Digits to learn from.
    pub learned: Digits,
    /// Digits that are held out.
    pub held: Digits,
    /// Rows of the former.
    pub scenes: Scenes,
    /// Rows of the latter.
    pub held_scenes: Scenes,
    /// Pairs that are never joined while learning.
    pub kept_back: KeptBack,
    /// The words.
    pub vocabulary: Vocabulary,
}

impl Task {
    /// Reads the digits.
    ///
    /// # Errors
    /// If they are not there, or not what they should be.
    pub fn read(options: &Options) -> Result<Self> {
        let folder = options.data(Set::Sklearn.name())?;
        let digits = Digits::read(Set::Sklearn, &folder)?;
        let (learned, held) = held_out(&digits.labels, HELD_OUT, options.seed);
        let (learned, held) = (digits.some(&learned), digits.some(&held));
        let scenes = |digits| Scenes::of(digits).with_context(|| folder.display().to_string());
        let (scenes, held_scenes) = (scenes(&learned)?, scenes(&held)?);
        let kept_back = KeptBack::of(options.seed);
        Ok(Self { learned, held, scenes, held_scenes, kept_back, vocabulary: Vocabulary::new() })
    }

    /// Trains a model, or goes on with one, in a folder of its own; `None` if someone asked to stop.
    ///
    /// # Errors
    /// Those of [`train`].
    pub fn train(
        &self,
        looks: Looks,
        plan: &Plan,
        device: &Device,
        folder: &Path,
        fresh: bool,
    ) -> Result<Option<Trained<Fuse>>> {
        let (words, side) = (&self.vocabulary, self.learned.images.side);
        let config = FuseConfig::new(looks, words.tokens(), words.length, MOST, side * side, ANSWERS.len());
        let mut plan = Plan { what: format!("fuse {config:?}"), ..plan.clone() };
        if looks == Looks::Blind {
            // There is less to learn.
            plan = Plan { steps: plan.steps.div_ceil(4), warm_up: plan.warm_up.div_ceil(4), ..plan };
        }
        let folder = folder.join(looks.folder());
        std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        println!("{}, {} steps", looks.name(), plan.steps);
        let training = device.clone().autodiff();
        let model = seeded(&training, plan.seed, || config.init(&training))?;
        let loss = CrossEntropyLossConfig::new().init(&training);
        let outcome = train(&plan, &training, &folder, fresh, model, |model, batch| {
            let (count, kept_back) = (batch.samples.len(), Some(self.kept_back));
            let samples = self.scenes.draw_all(count, Wordings::Learned, kept_back, &mut batch.rng);
            let batch = Batch::of(&samples, &self.learned.images, words, &training);
            Ok(loss.forward(model.logits(&batch)?, batch.answers))
        })?;
        Ok(match outcome {
            Outcome::Finished(trained) => Some(trained),
            Outcome::Stopped(_) => None,
        })
    }
}
