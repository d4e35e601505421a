//! Attention pooling (Yang et al. 2016) tells positive from negative, a page lights the words that decided, and typos try it.
//!
//! `cargo xtask example sentiment` fetches the data and runs this: VADER's snippets of tweets, reviews and editorials with the mean rating
//! of twenty people or more (Hutto & Gilbert 2014). A word is the mean of vectors of its pieces, so that a typo leaves something of it; a
//! transformer block over some neighbours knows "not good" from "good"; a learned context asks every word how much it matters, and the
//! class follows from the words' mean by these weights; spreading them over many words has a price. Two models learn, alike but for what
//! makes weights of scores: softmax, and sparsemax (Martins & Astudillo 2016), which gives many words none at all.
//!
//! Snippets rated nearer to 0 than half a point are left out, doubles too. Of every source's documents a fifth, drawn by seed, is held
//! out, and all figures are of those; the files of tweets and films do not tell which snippets were one text. What must be beaten are the
//! more frequent class and the sum of VADER's own lexicon, which the model never sees. Naive Bayes stands beside them.

mod damage;
mod data;
mod learning;
mod lexicon;
mod model;
mod reading;
mod results;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, bail};
use attn::nn::Normaliser;
use clap::Parser;
use learn::classes::{NaiveBayes, accuracy, most_frequent};
use learn::order::Order;
use learn::words::WordBagConfig;
use learn::{Evaluation, Goal, Options, Plan, stop};

use crate::data::Snippets;
use crate::learning::learn;
use crate::lexicon::Lexicon;
use crate::model::SentimentReaderConfig;
use crate::results::Tried;

/// One document in so many is held out.
const HELD_OUT: usize = 5;
/// Snippets of a step.
const BATCH: usize = 64;
/// Words of a snippet that are read; the rest of a longer one, of which there are few, is not.
const LENGTH: usize = 40;
/// What makes weights of scores, in one model and the other, and the factor of these. Sparsemax is quick to leave out words for good, so
/// its scores begin close to each other.
const POOLS: [(&str, Normaliser, f64); 2] =
    [("softmax", Normaliser::Softmax, 4.0), ("sparsemax", Normaliser::Sparsemax, 1.0)];

/// Learns to tell positive from negative, and shows the words that decided.
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
    let data = options.data("vader")?;
    let (snippets, lexicon) = (Snippets::read(&data)?, Lexicon::read(&data)?);
    let (learned, held) = snippets.split(HELD_OUT, options.seed);
    let (samples, count) = (learned.texts.len(), held.texts.len());
    if samples == 0 || count == 0 {
        bail!("{}: expected snippets of {HELD_OUT} documents or more, found {}", data.display(), samples + count);
    }
    let folder = options.out("sentiment")?;
    println!("{} snippets: {samples} to learn from, {count} held out, on backend {backend}", samples + count);

    stop::listen()?;
    let start = Instant::now();
    let steps = options.steps(Order::new(samples, BATCH, 0).steps_per_epoch(), 4, 2);
    let mut tried = Vec::new();
    for (name, normaliser, scale) in POOLS {
        let config =
            SentimentReaderConfig::new(normaliser, WordBagConfig::new(32).with_buckets(16384)).with_scale(scale);
        let mut plan = Plan::new(format!("sentiment {config:?}"), backend, options.seed, samples, BATCH, steps);
        plan.learning_rate = 1e-2;
        println!("with {name}:");
        let Some((model, losses)) = learn(&plan, &config, &learned, &folder.join(name), options.fresh, &device)? else {
            return Ok(ExitCode::from(stop::EXIT_CODE));
        };
        let (clean, damaged) = reading::read(&model, &config, (&held.texts, &held.labels), options.seed, &device)?;
        tried.push((Tried { name, losses, clean, damaged }, plan));
    }
    let (tried, mut plans): (Vec<Tried>, Vec<Plan>) = tried.into_iter().unzip();

    let frequent = most_frequent(&learned.labels);
    let pairs = learned.texts.iter().map(String::as_str).zip(learned.labels.iter().copied());
    let bayes = NaiveBayes::learned(pairs, 2, 1.0);
    let read = |class: &dyn Fn(&str) -> usize| held.texts.iter().map(|text| class(text)).collect::<Vec<usize>>();
    let readings = [
        ("attention pooling", tried[0].clean.classes.clone()),
        ("the same with sparsemax", tried[1].clean.classes.clone()),
        ("more frequent class", vec![frequent; count]),
        ("sum of the lexicon", read(&|text| lexicon.read_class(text, frequent))),
        ("naive Bayes", read(&|text| bayes.read(text))),
    ];
    let [ours, sparse, frequent, lexicon, bayes] = readings.each_ref().map(|(_, read)| accuracy(&held.labels, read));
    let metric = format!("accuracy on the {count} held-out snippets");
    let evaluation = Evaluation::new(metric, Goal::HighShare, readings[0].0, ours)
        .beats(readings[2].0, frequent)
        .beats(readings[3].0, lexicon)
        .beside(readings[4].0, bayes)
        .beside(readings[1].0, sparse);
    let page = results::write(&folder, &plans.swap_remove(0), &evaluation, &readings, &held, &tried)?;
    println!("{steps} steps of each, {:.0} s. The page: {}\n", start.elapsed().as_secs_f64(), page.display());
    print!("{}", results::text(&tried, &held));
    Ok(evaluation.conclude(&tried[0].losses))
}
