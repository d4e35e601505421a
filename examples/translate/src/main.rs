//! A sequence learns to become another, and a page draws what it read for each token that it wrote.
//!
//! `cargo xtask example translate` makes its data: dates as people write them, `Wednesday, March 3rd, 1999` or `03-Mar-99`, become
//! ISO 8601, `1999-03-03`, character by character. It learns so twice, with the two attentions that began it all: additive scores of the
//! decoder's state before a step (Bahdanau et al. 2015), and dot products with the one after it (Luong et al. 2015). 2000 days of sixty
//! years, drawn by seed, are held out with all that is written of them. It must beat rules that know months by name and years of four
//! digits; a whole run promises 99 % exact.
//!
//! `-- --catalogues` learns English to French from the 700 short messages of Django's catalogues, word by word, and can copy what it
//! reads (See et al. 2017). A tenth of the messages is held out, after all have been made unlike each other; words are those of the rest.
//! It must beat copying the English in chrF (Popović 2015).

mod catalogues;
mod dates;
mod lesson;
mod measures;
mod model;
mod po;
mod results;
mod steps;
mod task;
mod text;
mod words;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use clap::{Parser, ValueEnum};
use learn::{Options, stop};

use crate::lesson::{Learned, learn};
use crate::model::Score;

/// Learns to turn dates into ISO 8601, or English into French, and draws what it read for what it wrote.
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    options: Options,
    /// How states are compared: one training each
    #[arg(long, value_enum, default_value_t = Scores::Both)]
    score: Scores,
    /// English to French from Django's message catalogues, in place of dates
    #[arg(long)]
    catalogues: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Scores {
    /// Bahdanau's
    Additive,
    /// Luong's
    Dot,
    /// One after the other
    Both,
}

impl Scores {
    fn each(self) -> &'static [Score] {
        match self {
            Self::Additive => &[Score::Additive],
            Self::Dot => &[Score::Dot],
            Self::Both => &[Score::Additive, Score::Dot],
        }
    }
}

fn main() -> ExitCode {
    learn::main(|| run(&Args::parse()))
}

fn run(args: &Args) -> Result<ExitCode> {
    let options = &args.options;
    let (backend, device) = options.device()?;
    let task = match args.catalogues {
        true => catalogues::task(&options.data("django")?, options.seed)?,
        false => dates::task(options.seed)?,
    };
    let folder = options.out(if args.catalogues { "translate-catalogues" } else { "translate" })?;
    println!("{}: {} held out, on backend {backend}", task.about, task.held.len());

    stop::listen()?;
    let start = Instant::now();
    let mut all: Vec<Learned> = Vec::new();
    for &score in args.score.each() {
        println!("\n{} scores", score.name());
        match learn(&task, score, options, (backend, &device), &folder)? {
            Some(learned) => all.push(learned),
            None => return Ok(ExitCode::from(stop::EXIT_CODE)),
        }
    }
    let page = results::write(&folder, &task, &all)?;
    println!("\n{:.0} s. The page: {}", start.elapsed().as_secs_f64(), page.display());
    let codes: Vec<ExitCode> = all.iter().map(|one| one.evaluation.conclude(&one.losses)).collect();
    Ok(codes.into_iter().find(|&code| code != ExitCode::SUCCESS).unwrap_or(ExitCode::SUCCESS))
}
