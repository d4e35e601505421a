//! How a model learns: words left out at random, and a price on weights that are spread over many words.

use std::path::Path;

use anyhow::Result;
use burn::module::Module;
use burn::nn::loss::CrossEntropyLossConfig;
use burn::tensor::{Device, Int, Tensor, activation};
use learn::words::{HashedText, words};
use learn::{Outcome, Plan, seeded, train};
use rand::rngs::StdRng;

use crate::data::Snippets;
use crate::model::{SentimentReader, SentimentReaderConfig};
use crate::{LENGTH, damage};

/// How many words of a snippet are left out of each step, so that others must do.
const UNREAD: f64 = 0.1;
/// About so many words are to decide.
const FEW: f64 = 5.0;
/// What it costs at the end where more do.
const SPREAD: f64 = 0.5;

/// A model that has learned, ready to read, and the loss of every step; `None` where someone stopped it.
///
/// # Errors
/// Those of the training.
pub fn learn(
    plan: &Plan,
    config: &SentimentReaderConfig,
    learned: &Snippets,
    folder: &Path,
    fresh: bool,
    device: &Device,
) -> Result<Option<(SentimentReader, Vec<f32>)>> {
    std::fs::create_dir_all(folder)?;
    let training = device.clone().autodiff();
    let texts: Vec<HashedText> = learned.texts.iter().map(|text| config.words.text(&words(text))).collect();
    let model = seeded(&training, plan.seed, || config.init(&training))?;
    let loss = CrossEntropyLossConfig::new().init(&training);
    let outcome = train(plan, &training, folder, fresh, model, |model, batch| {
        let texts: Vec<HashedText> = batch.samples.iter().map(|&at| some_words(&texts[at], &mut batch.rng)).collect();
        let texts = config.words.batch(&texts, LENGTH, &training);
        let labels: Vec<i64> = batch.samples.iter().map(|&at| learned.labels[at] as i64).collect();
        let (logits, weights) = model.forward(&texts)?;
        let targets = Tensor::<1, Int>::from_data(labels.as_slice(), &training);
        // Weights as spread as those of more than FEW words alike cost something, the more the later: words must mean something first.
        let spread = activation::relu((weights.clone() * weights).sum_dim(1).neg().add_scalar(1.0 / FEW)).mean();
        let part = SPREAD * batch.step as f64 / plan.steps as f64;
        Ok(loss.forward(logits, targets) + spread.mul_scalar(part))
    })?;
    Ok(match outcome {
        Outcome::Finished(trained) => Some((trained.model.valid(), trained.losses)),
        Outcome::Stopped(_) => None,
    })
}

/// A snippet without some of its words, other ones each time.
fn some_words(text: &HashedText, rng: &mut StdRng) -> HashedText {
    damage::left(text.len(), UNREAD, rng).into_iter().map(|word| text[word].clone()).collect()
}
