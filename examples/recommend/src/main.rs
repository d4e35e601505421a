//! Attention over a session recommends the next item, with a recency bias that it learns; the true one is known, and must be recovered.
//!
//! `cargo xtask example recommend` makes its data: sessions of 20 items out of 60, by a rule (`rule.rs`). A visitor goes on from one of
//! the past items, with a probability that falls exponentially with its age, to the item that goes with it. There are two such habits,
//! one that forgets quickly and one that forgets slowly, each with an item of its own that goes with an item; some items are loud; and
//! some looks have no reason.
//!
//! Two heads of causal attention shall find that out from the sessions alone. A bias `−slope · age` of the scores is ALiBi (Press et
//! al. 2022), whose slopes are given; here they are parameters, since the attention is differentiable by its slopes. `--table` learns a
//! number for each age in their place (Shaw et al. 2018 as a bias), which need not lie on a line. The values of the attention are
//! probabilities, so the whole is a mixture of transitions (Raftery 1985).
//!
//! Sessions are all different, and those held out are drawn after those learned from. What must be beaten there: the most popular items,
//! and what most often followed the last item. Who knows the rule stands beside it: that is the ceiling. And the learned rates must be
//! the rule's within a tenth.

mod baselines;
mod model;
mod recovered;
mod results;
mod rule;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData};
use clap::Parser;
use learn::order::Order;
use learn::{Evaluation, Goal, Options, Outcome, Plan, seeded, stop, train};
use rand::{SeedableRng, rngs::StdRng};

use crate::baselines::{LIST, Quality};
use crate::model::RecommenderConfig;
use crate::recovered::AGES;
use crate::results::Results;
use crate::rule::{ITEMS, LENGTH, Rule, Session};

/// Sessions to learn from.
const LEARNED: usize = 16384;
/// Sessions held out.
const HELD: usize = 1000;
/// Sessions of a step.
const BATCH: usize = 64;
/// The part of a true rate by which the learned one may be wrong.
const TOLERANCE: f64 = 0.1;

/// Learns to recommend the next item of a session, and recovers how fast visitors forget.
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    options: Options,
    /// A number for each age in place of a slope
    #[arg(long)]
    table: bool,
}

fn main() -> ExitCode {
    learn::main(|| run(&Args::parse()))
}

fn run(args: &Args) -> Result<ExitCode> {
    let options = &args.options;
    let (backend, device) = options.device()?;
    let rule = Rule::new(options.seed);
    let mut learned = rule.sessions(LEARNED + HELD, &mut StdRng::seed_from_u64(options.seed ^ u64::from(u32::MAX)));
    let held = learned.split_off(LEARNED);
    let folder = options.out(if args.table { "recommend-table" } else { "recommend" })?;
    println!("Sessions of {LENGTH} of {ITEMS} items: {LEARNED} to learn from, {HELD} held out, on backend {backend}");

    let steps = options.steps(Order::new(LEARNED, BATCH, 0).steps_per_epoch(), 12, 6);
    let config = RecommenderConfig::new(ITEMS, AGES, args.table);
    let mut plan = Plan::new(format!("recommend {config:?}"), backend, options.seed, LEARNED, BATCH, steps);
    plan.learning_rate = 1e-2;
    plan.weight_decay = 0.0;

    stop::listen()?;
    let start = Instant::now();
    let training = device.clone().autodiff();
    let model = seeded(&training, options.seed, || config.init(&training))?;
    let begun = recovered::heads(&model.valid())?;
    let outcome = train(&plan, &training, &folder, options.fresh, model, |model, batch| {
        let sessions: Vec<Session> = batch.samples.iter().map(|&at| learned[at].clone()).collect();
        Ok(model.loss(tensor(&sessions, &training))?)
    })?;
    let trained = match outcome {
        Outcome::Finished(trained) => trained,
        Outcome::Stopped(_) => return Ok(ExitCode::from(stop::EXIT_CODE)),
    };

    let model = trained.model.valid();
    let reading = results::read(&model, &held, &device)?;
    let quality = Quality::of(&held, |session, past| reading.scores(session, past));
    let (popular, chain) = (baselines::popularity(&learned), baselines::followers(&learned));
    let popular = Quality::of(&held, |_, _| popular.clone());
    let chain = Quality::of(&held, |session, past| chain[held[session].items[past - 1]].clone());
    let ceiling = Quality::of(&held, |session, past| rule.probabilities(&held[session].items[..past]));
    let metric = format!("hit rate at {LIST}, next items of the {HELD} held-out sessions");
    let evaluation = Evaluation::new(metric, Goal::HighShare, "attention", quality.hit_rate)
        .beats("most popular", popular.hit_rate)
        .beats("what follows the last item", chain.hit_rate)
        .beside("the rule itself, a ceiling", ceiling.hit_rate);

    let heads = recovered::heads(&model)?;
    let metric = "error of the worse learned rate, as a part of the true one";
    let recovery = Evaluation::new(metric, Goal::Low, "learned", recovered::error(&rule, &heads))
        .beats("tolerance", TOLERANCE)
        .beside("as it began", recovered::error(&rule, &begun));
    let (plan, losses, rule) = (&plan, &trained.losses[..], &rule);
    let (evaluation, recovery, held) = (&evaluation, &recovery, &held[..]);
    let all = Results { plan, evaluation, quality, recovery, losses, rule, heads: &heads, held, reading: &reading };
    let page = results::write(&folder, &all)?;
    println!("{steps} steps, {:.0} s. The page: {}", start.elapsed().as_secs_f64(), page.display());
    for (head, habit) in heads.iter().zip(&rule.habits) {
        let (rate, right) = (head.rate, head.right(habit));
        println!("rate {rate:.3}, true {:.3}; the follower of {right} of {ITEMS} items is right", habit.rate);
    }
    let means = [quality, popular, chain, ceiling].map(|quality| format!("{:.3}", quality.reciprocal_rank));
    println!("mean of 1 / rank, in the order below: {}", means.join(", "));
    // Two promises: to recommend better, and to have found the rule.
    let code = evaluation.conclude(losses);
    println!("{}", recovery.text(&[]));
    Ok(if recovery.is_kept(losses) { code } else { ExitCode::FAILURE })
}

/// `[batch, LENGTH]`.
fn tensor(sessions: &[Session], device: &Device) -> Tensor<2, Int> {
    let items: Vec<i64> = sessions.iter().flat_map(|session| &session.items).map(|&item| item as i64).collect();
    Tensor::from_data(TensorData::new(items, [sessions.len(), LENGTH]), device)
}
