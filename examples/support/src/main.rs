//! Attention pooling (Yang et al. 2016) sorts questions by topic, and a page lights the keywords that it went by.
//!
//! `cargo xtask example support` fetches the data and runs this: the questions that open the conversations of the `chatterbot-corpus`, its
//! files' names being the topics, as a help desk sorts what it is asked. A word is the mean of vectors of its pieces, so that words never
//! seen say something, too; a learned context for each of four heads asks every word how much it matters; the topic follows from the
//! words' means by these weights.
//!
//! Each question counts once (the corpus repeats ten of tech support a thousand times). Of every topic a fifth, drawn by seed, is held
//! out, and all figures are of those. What must be beaten are the most frequent topic and the topic of the most alike question; naive
//! Bayes, strong on so few and short texts, stands beside them.

mod baselines;
mod data;
mod model;
mod results;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, bail};
use burn::module::Module;
use burn::nn::loss::CrossEntropyLossConfig;
use burn::tensor::{Int, Tensor};
use clap::Parser;
use learn::classes::{NaiveBayes, accuracy, macro_f1, most_frequent};
use learn::order::{Order, held_out};
use learn::words::{HashedText, WordBagConfig, words};
use learn::{Evaluation, Goal, Options, Outcome, Plan, seeded, stop, train};

use crate::data::Questions;
use crate::model::TopicReaderConfig;

/// One question in so many is held out.
const HELD_OUT: usize = 5;
/// Questions of a step.
const BATCH: usize = 32;
/// Words of a question that are read; the rest of a longer one is not.
pub const LENGTH: usize = 24;

/// Learns to sort questions by topic, and shows the words that it went by.
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    options: Options,
}

fn main() -> ExitCode {
    learn::main(|| run(&Args::parse().options))
}

fn run(options: &Options) -> Result<ExitCode> {
    let (backend, device) = options.device()?;
    let questions = Questions::read(&options.data("chatterbot")?)?;
    if questions.topics.len() < 2 {
        bail!(
            "chatterbot: expected two topics with {} questions or more, found {}",
            data::FEWEST,
            questions.topics.len()
        );
    }
    let (learned, held) = held_out(&questions.labels, HELD_OUT, options.seed);
    let (learned, held) = (questions.some(&learned), questions.some(&held));
    let folder = options.out("support")?;
    let (count, topics) = (questions.texts.len(), questions.topics.len());
    let (first, second) = (learned.texts.len(), held.texts.len());
    println!("{count} questions of {topics} topics: {first} to learn from, {second} held out, on backend {backend}");

    let steps = options.steps(Order::new(first, BATCH, 0).steps_per_epoch(), 120, 60);
    // Wider apart at first than by default: tried, and better on so few questions.
    let config = TopicReaderConfig::new(topics, WordBagConfig::new(32).with_deviation(0.5));
    let mut plan = Plan::new(format!("support {config:?}"), backend, options.seed, first, BATCH, steps);
    plan.learning_rate = 4e-3;

    stop::listen()?;
    let start = Instant::now();
    let training = device.clone().autodiff();
    let texts: Vec<HashedText> = learned.texts.iter().map(|text| config.words.text(&words(text))).collect();
    let model = seeded(&training, options.seed, || config.init(&training))?;
    let loss = CrossEntropyLossConfig::new().with_smoothing(Some(0.05)).init(&training);
    let outcome = train(&plan, &training, &folder, options.fresh, model, |model, batch| {
        let texts = config.words.batch(batch.samples.iter().map(|&at| &texts[at]), LENGTH, &training);
        let labels: Vec<i64> = batch.samples.iter().map(|&at| learned.labels[at] as i64).collect();
        Ok(loss.forward(model.logits(&texts)?, Tensor::<1, Int>::from_data(labels.as_slice(), &training)))
    })?;
    let trained = match outcome {
        Outcome::Finished(trained) => trained,
        Outcome::Stopped(_) => return Ok(ExitCode::from(stop::EXIT_CODE)),
    };

    let reading = results::read(&trained.model.valid(), &config, &held, &device)?;
    let pairs = learned.texts.iter().map(String::as_str).zip(learned.labels.iter().copied());
    let bayes = NaiveBayes::learned(pairs, topics, 0.1);
    let others = [
        ("most frequent topic", vec![most_frequent(&learned.labels); second]),
        ("most alike question", baselines::nearest_question(&learned, &held)),
        ("naive Bayes", held.texts.iter().map(|text| bayes.read(text)).collect()),
    ];
    // Accuracy and macro F1: the same table twice, the first with the promise.
    let metric = format!("accuracy on the {second} held-out questions");
    let mut evaluation =
        Evaluation::new(metric, Goal::HighShare, "attention pooling", accuracy(&held.labels, &reading.topics));
    let metric = format!("macro F1 on the same, of {topics} topics");
    let mut by_f1 =
        Evaluation::new(metric, Goal::HighShare, "attention pooling", macro_f1(&held.labels, &reading.topics));
    for (at, (name, read)) in others.iter().enumerate() {
        let (accuracy, f1) = (accuracy(&held.labels, read), macro_f1(&held.labels, read));
        evaluation = if at < 2 { evaluation.beats(*name, accuracy) } else { evaluation.beside(*name, accuracy) };
        by_f1 = by_f1.beside(*name, f1);
    }
    let page = results::write(&folder, &plan, [&evaluation, &by_f1], &trained.losses, &held, &reading)?;
    println!("{steps} steps, {:.0} s. The page: {}", start.elapsed().as_secs_f64(), page.display());
    println!("\n{}", by_f1.text(&[]).trim_end());
    Ok(evaluation.conclude(&trained.losses))
}
