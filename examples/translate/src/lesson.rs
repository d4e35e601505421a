//! One training of one score, and what it makes of the held-out sources.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use burn::module::Module;
use burn::nn::loss::CrossEntropyLossConfig;
use burn::tensor::Device;
use learn::order::Order;
use learn::{Evaluation, Goal, Options, Outcome, Plan, seeded, train};

use crate::model::{Score, Translator, TranslatorConfig};
use crate::task::{Task, padded};
use crate::text::{BEGIN, PAD, UNKNOWN};

/// Sources that go through the model together.
const TOGETHER: usize = 500;

/// A model that has learned, and what it does.
pub struct Learned {
    /// How it compares states.
    pub score: Score,
    /// The numbers of its training.
    pub plan: Plan,
    /// The loss of every step.
    pub losses: Vec<f32>,
    /// How good it is.
    pub evaluation: Evaluation,
    /// What it made of each held-out source.
    pub outputs: Vec<Output>,
}

/// What a model made of a source.
pub struct Output {
    /// The text.
    pub text: String,
    /// The source's tokens, for people, the end included.
    pub read: Vec<String>,
    /// Its own.
    pub written: Vec<String>,
    /// How much of each token of the source, the end included, it read for each of its own.
    pub alignment: Vec<Vec<f64>>,
}

/// Learns; `None` if someone asked to stop.
///
/// # Errors
/// Those of the training, or if the model refuses what it is given.
pub fn learn(
    task: &Task,
    score: Score,
    options: &Options,
    (backend, device): (&'static str, &Device),
    folder: &Path,
) -> Result<Option<Learned>> {
    let (recipe, folder) = (&task.recipe, folder.join(score.name()));
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let config = TranslatorConfig::new(task.source.size(), task.target.size(), score, recipe.d_hidden)
        .with_dropout(recipe.dropout)
        .with_copies(recipe.copies);
    let per_epoch = Order::new(task.samples, recipe.batch, 0).steps_per_epoch();
    let steps = options.steps(per_epoch, recipe.epochs.0, recipe.epochs.1);
    let what = format!("translate {} {config:?} {recipe:?}", task.name);
    let mut plan = Plan::new(what, backend, options.seed, task.samples, recipe.batch, steps);
    plan.learning_rate = recipe.rate;
    plan.warm_up = steps / 10;

    let training = device.clone().autodiff();
    let model = seeded(&training, options.seed, || config.init(&training))?;
    let loss = CrossEntropyLossConfig::new().with_pad_tokens(Some(vec![PAD]));
    let loss = loss.init(&training);
    let outcome = train(&plan, &training, &folder, options.fresh, model, |model, batch| {
        let (mut sources, mut targets, mut fed): (Vec<_>, Vec<Vec<usize>>, Vec<_>) = Default::default();
        for &sample in &batch.samples {
            let pair = (task.pair)(sample, &mut batch.rng);
            let (source, strange) = task.source.read(&pair.source);
            let target = task.target.write(&pair.target, &strange);
            sources.push(source);
            fed.push([&[BEGIN], &target[..target.len() - 1]].concat());
            // What has no token is not learned to be written.
            targets.push(target.into_iter().map(|token| if token == UNKNOWN { PAD } else { token }).collect());
        }
        let (read, written) = (width(&sources, task.longest.0), width(&targets, task.longest.1));
        let (source, lengths) = padded(&sources, read, &training);
        let (fed, targets) = (padded(&fed, written, &training).0, padded(&targets, written, &training).0);
        let log_probs = model.log_probs(source, &lengths, fed)?;
        Ok(loss.forward(log_probs.flatten(0, 1), targets.flatten(0, 1)))
    })?;
    let trained = match outcome {
        Outcome::Finished(trained) => trained,
        Outcome::Stopped(_) => return Ok(None),
    };
    let outputs = translate(&trained.model.valid(), task, device)?;
    let evaluation = evaluate(task, score, &outputs, is_whole(options));
    Ok(Some(Learned { score, plan, losses: trained.losses, evaluation, outputs }))
}

/// How wide the tensor of some rows is: a multiple of 8, so that shapes are few, up to the longest row that there is at all.
fn width(rows: &[Vec<usize>], longest: usize) -> usize {
    rows.iter().map(Vec::len).max().unwrap_or(0).next_multiple_of(8).min(longest)
}

fn is_whole(options: &Options) -> bool {
    !options.short && options.steps.is_none() && options.epochs.is_none()
}

fn evaluate(task: &Task, score: Score, outputs: &[Output], is_whole: bool) -> Evaluation {
    let pairs: Vec<_> = outputs.iter().zip(&task.held).map(|(found, pair)| (&*found.text, &*pair.target)).collect();
    let name = format!("{} scores", score.name());
    let mut evaluation = Evaluation::new(&task.metric, Goal::HighShare, name, (task.measure)(&pairs));
    for (name, value, is_promised) in &task.baselines {
        evaluation = if *is_promised { evaluation.beats(name, *value) } else { evaluation.beside(name, *value) };
    }
    match task.promise.filter(|_| is_whole) {
        Some(promise) => evaluation.beats("what a whole run promises", promise),
        None => evaluation,
    }
}

/// What the model makes of all held-out sources, and what it read for that.
fn translate(model: &Translator, task: &Task, device: &Device) -> Result<Vec<Output>> {
    let mut outputs = Vec::new();
    for pairs in task.held.chunks(TOGETHER) {
        let (sources, strange): (Vec<_>, Vec<_>) = pairs.iter().map(|pair| task.source.read(&pair.source)).unzip();
        let longest = sources.iter().map(Vec::len).max().unwrap_or(0);
        let (source, lengths) = padded(&sources, longest, device);
        let made = model.translate(source.clone(), &lengths, task.longest.1 + task.longest.1 / 2, task.recipe.beams)?;
        let fed: Vec<Vec<usize>> =
            made.iter().map(|tokens| [&[BEGIN], &tokens[..tokens.len().saturating_sub(1)]].concat()).collect();
        let steps = fed.iter().map(Vec::len).max().unwrap_or(0);
        let weights = model.alignment(source, &lengths, padded(&fed, steps, device).0)?;
        let weights: Vec<f64> = weights.try_into_data()?.iter::<f64>().collect();
        let read = sources.iter().zip(strange);
        for ((tokens, (source, strange)), weights) in made.into_iter().zip(read).zip(weights.chunks(steps * longest)) {
            let rows = weights.chunks(longest).take(tokens.len()).map(|row| row[..source.len()].to_vec());
            let alignment = rows.collect();
            outputs.push(Output {
                text: task.target.text(&tokens, &strange),
                read: task.source.pieces(source, &strange),
                written: task.target.pieces(&tokens, &strange),
                alignment,
            });
        }
    }
    Ok(outputs)
}
