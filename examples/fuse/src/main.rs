//! A question in words is answered about a row of handwritten digits, through cross-attention from words to digits.
//!
//! `cargo xtask example fuse` fetches scikit-learn's 1797 digits and runs this. A scene is a row of two to six of them and a question,
//! such as "what is the digit left of the seven"; its answer is a word. The question's words attend to the digits, in two looks. One model
//! does so with soft attention (Vaswani et al. 2017), by which each head mixes all digits; another with hard attention, by which each head
//! takes one digit, and learns through a Gumbel-softmax with straight-through gradients (Jang et al. 2017; Maddison et al. 2017). Nobody
//! tells them where to look, nor what a digit shows: both follow from the answers.
//!
//! A fifth of each digit's images, drawn by seed, is held out, and all figures are of rows made of these alone. Some pairs of digits are
//! never joined by a question while learning, and a wording of each kind is never used; how these are answered stands in the table. What
//! must be beaten is the most frequent answer to each question, and the same model without attention to the digits. Beside them stands
//! who reads each digit by the nearest class mean and answers by the rules, which the model does not know.

mod baselines;
mod batch;
mod look;
mod model;
mod page;
mod question;
mod read;
mod results;
mod scene;
mod task;
mod wording;
mod words;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use burn::module::Module;
use clap::{Parser, ValueEnum};
use learn::digits::{ClassMeans, Set};
use learn::order::{Order, Purpose, generator};
use learn::{Options, Plan, files, stop};

use crate::baselines::{QuestionOnly, by_rules};
use crate::look::Looks;
use crate::page::Learned;
use crate::results::{Answerer, Exam, answers};
use crate::scene::Wordings;
use crate::task::Task;

/// Scenes of a step.
const BATCH: usize = 64;
/// Scenes of an epoch. Every one is new.
const SCENES: usize = 100 * BATCH;
/// Held-out questions, and as many in new words.
const QUESTIONS: usize = 2000;

/// Learns to answer questions about rows of handwritten digits, and shows where the answers come from.
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    options: Options,
    /// How the words look at the digits
    #[arg(long, value_enum, default_value_t = Attention::Both)]
    attention: Attention,
}

#[derive(Clone, Copy, ValueEnum)]
enum Attention {
    /// Each head mixes all digits
    Soft,
    /// Each head takes one digit
    Hard,
    /// A model of each
    Both,
}

impl Attention {
    /// Which models learn, the blind one last.
    fn looks(self) -> &'static [Looks] {
        match self {
            Self::Soft => &[Looks::Soft, Looks::Blind],
            Self::Hard => &[Looks::Hard, Looks::Blind],
            Self::Both => &[Looks::Soft, Looks::Hard, Looks::Blind],
        }
    }
}

fn main() -> ExitCode {
    learn::main(|| run(&Args::parse()))
}

fn run(args: &Args) -> Result<ExitCode> {
    let options = &args.options;
    let (backend, device) = options.device()?;
    let task = Task::read(options)?;
    let folder = options.out("fuse")?;
    println!(
        "{} digits from {}: {} to learn from, {} held out; {} questions about rows of the latter, on backend {backend}",
        task.learned.labels.len() + task.held.labels.len(),
        Set::Sklearn.source(),
        task.learned.labels.len(),
        task.held.labels.len(),
        QUESTIONS,
    );
    let steps = options.steps(Order::new(SCENES, BATCH, 0).steps_per_epoch(), 30, 9);
    let mut plan = Plan::new("", backend, options.seed, SCENES, BATCH, steps);
    plan.learning_rate = 3e-3;
    plan.warm_up = steps / 10;

    let exam = Exam::draw(&task.held_scenes, QUESTIONS, options.seed);
    let mut rng = generator(options.seed, Purpose::HeldOut, 11);
    let may_learn = task.scenes.draw_all(10 * QUESTIONS, Wordings::Learned, Some(task.kept_back), &mut rng);
    let (only, means) = (QuestionOnly::of(&may_learn), ClassMeans::of(&task.learned));

    stop::listen()?;
    let start = Instant::now();
    let (mut learned, mut answerers) = (Vec::new(), Vec::new());
    for &looks in args.attention.looks() {
        let Some(trained) = task.train(looks, &plan, &device, &folder, options.fresh)? else {
            return Ok(ExitCode::from(stop::EXIT_CODE));
        };
        let model = trained.model.valid();
        let ask = |samples| answers(&model, samples, &task.held.images, &task.vocabulary, &device);
        let (answers, to_new) = (ask(&exam.held)?, ask(&exam.new)?);
        answerers.push(Answerer { name: looks.name().into(), given: answers.given.clone(), given_new: to_new.given });
        learned.push(Learned { name: looks.name(), losses: trained.losses, answers });
    }
    answerers.push(exam.by("question only", |sample| only.answer(sample.asked)));
    answerers.push(exam.by("means and rules", |sample| by_rules(sample, &task.held.images, &means, &only)));

    let evaluations = results::evaluations(&exam, &answerers);
    let table = results::table(&exam, task.kept_back, &answerers);
    println!("\n{}", results::text(&table));
    let html = page::page(&plan, &evaluations, &table, &learned, (&exam.held, &task.held.images));
    files::write_atomically(&folder.join("fuse.html"), html.as_bytes())?;
    files::write_atomically(&folder.join("loss.svg"), page::curves(&learned).as_bytes())?;
    let path = std::path::absolute(folder.join("fuse.html"))?;
    println!("{:.0} s. The page: {}", start.elapsed().as_secs_f64(), path.display());
    let mut code = ExitCode::SUCCESS;
    for (evaluation, learned) in evaluations.iter().zip(&learned) {
        println!("\n{}", evaluation.text(&learned.losses));
        if !evaluation.is_kept(&learned.losses) {
            code = ExitCode::FAILURE;
        }
    }
    Ok(code)
}
