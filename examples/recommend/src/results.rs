//! What is recommended in the held-out sessions, and the page that shows it.

use std::path::{Path, PathBuf};

use anyhow::Result;
use burn::tensor::Device;
use learn::curve::{self, Series};
use learn::page::{Page, lit_text};
use learn::{Evaluation, Plan, files};

use crate::baselines::{LIST, Quality, rank};
use crate::model::Recommender;
use crate::recovered::{AGES, Head};
use crate::rule::{ITEMS, LENGTH, Rule, Session, name};
use crate::tensor;

/// Sessions that go through the model together.
const TOGETHER: usize = 200;
/// Sessions on the page.
const SHOWN: usize = 8;
/// A session on the page goes on after so many items.
const PAST: usize = 12;

/// What the model says of each session: numbers of `[places, ITEMS]`, and of `[heads, places, places]`.
pub struct Reading {
    probabilities: Vec<Vec<f64>>,
    weights: Vec<Vec<f64>>,
}

impl Reading {
    /// The probability of each item after the first `past` ones of a session.
    pub fn scores(&self, session: usize, past: usize) -> Vec<f64> {
        self.probabilities[session][(past - 1) * ITEMS..past * ITEMS].to_vec()
    }

    /// What a head read of the first `past` items.
    fn read(&self, session: usize, head: usize, past: usize) -> &[f64] {
        let row = (head * AGES + past - 1) * AGES;
        &self.weights[session][row..row + past]
    }
}

/// Reads all sessions.
///
/// # Errors
/// If the model refuses them.
pub fn read(model: &Recommender, held: &[Session], device: &Device) -> Result<Reading> {
    let mut reading = Reading { probabilities: Vec::new(), weights: Vec::new() };
    for some in held.chunks(TOGETHER) {
        let sessions = tensor(some, device).narrow(1, 0, AGES);
        let read = model.read(sessions, true)?;
        let split = |data: burn::tensor::TensorData| -> Vec<Vec<f64>> {
            let numbers: Vec<f64> = data.iter::<f64>().collect();
            numbers.chunks(numbers.len() / some.len()).map(<[f64]>::to_vec).collect()
        };
        reading.probabilities.extend(split(read.probabilities.try_into_data()?));
        if let Some(weights) = read.weights {
            reading.weights.extend(split(weights.try_into_data()?));
        }
    }
    Ok(reading)
}

/// What there is to show.
pub struct Results<'a> {
    /// The numbers of the training.
    pub plan: &'a Plan,
    /// The hit rates.
    pub evaluation: &'a Evaluation,
    /// The model's mean of 1 / rank.
    pub quality: Quality,
    /// The error of the rates.
    pub recovery: &'a Evaluation,
    /// The loss of every step.
    pub losses: &'a [f32],
    /// The truth.
    pub rule: &'a Rule,
    /// What was learned of it.
    pub heads: &'a [Head],
    /// The held-out sessions.
    pub held: &'a [Session],
    /// What the model says of them.
    pub reading: &'a Reading,
}

/// Writes the page and its charts; gives the page's path.
///
/// # Errors
/// If they cannot be written.
pub fn write(folder: &Path, results: &Results) -> Result<PathBuf> {
    let loss = curve::of_losses(results.losses);
    let bias = bias(results);
    files::write_atomically(&folder.join("loss.svg"), loss.as_bytes())?;
    files::write_atomically(&folder.join("bias.svg"), bias.as_bytes())?;
    let path = folder.join("recommend.html");
    files::write_atomically(&path, page(results, &loss, &bias).as_bytes())?;
    Ok(std::path::absolute(&path).unwrap_or(path))
}

fn page(results: &Results, loss: &str, bias: &str) -> String {
    let Results { plan, evaluation, recovery, .. } = results;
    let lead = "Two heads of attention recommend the next item of a session. Each has a bias that makes older items count for less, and \
                learns how much less. The sessions are made by a rule, so it can be seen whether what was learned is what is true.";
    let mut page = Page::new("How fast a visitor forgets", lead);
    let of = format!(
        "next items among the first {LIST} of {ITEMS}; mean of 1 / rank {:.3}",
        results.quality.reciprocal_rank
    );
    let mut facts = vec![(evaluation.name.as_str(), evaluation.shown(evaluation.value), of)];
    for baseline in &evaluation.baselines {
        let is_ceiling = !baseline.is_promised;
        let note = match (evaluation.is_better_than(baseline), is_ceiling) {
            (_, true) => "the ceiling: better only by luck",
            (true, _) => "beaten",
            (false, _) => "not beaten",
        };
        facts.push((&baseline.name, evaluation.shown(baseline.value), note.to_string()));
    }
    for ((head, habit), name) in
        results.heads.iter().zip(&results.rule.habits).zip(["rate of the quick head", "of the slow head"])
    {
        let note = format!("true {:.3}; the follower of {} of {ITEMS} items is right", habit.rate, head.right(habit));
        facts.push((name, format!("{:.3}", head.rate), note));
    }
    let samples = format!("of {} sessions each, seed {}, on {}", plan.batch, plan.seed, plan.backend);
    facts.push(("steps", plan.steps.to_string(), samples));
    page.facts(&facts);

    let hint = format!(
        "Left the bias, right the share that each age is read of {AGES} items alike. Lines are the rule, marks what was learned; the \
         worse rate is wrong by {:.1} %. An age that is hardly read says little.",
        100.0 * recovery.value
    );
    page.section("The bias, true and learned", &hint);
    page.side_by_side(&[bias.to_string(), shares(results)]);
    page.section("The loss", "The surprise at the next item, −ln of its probability.");
    page.html(loss);
    let hint = format!(
        "Held-out sessions after {PAST} items, the oldest first, lit by what each head read to say what comes next. ▸ marks the item \
         that the rule went on from."
    );
    page.section("What it read", &hint);
    (0..results.held.len().min(SHOWN)).for_each(|session| page.html(&shown(results, session)));
    page.finish()
}

/// A line for each habit of the rule, and marks for the head that learned it.
fn lines(results: &Results, of: impl Fn(&[f64]) -> Vec<f64>) -> Vec<Series> {
    let line = |colour, bias: &[f64]| {
        let points = of(bias).into_iter().enumerate().map(|(age, y)| (age as f64, y)).collect();
        Series { name: String::new(), points, colour, is_faint: false }
    };
    let each = results.heads.iter().zip(&results.rule.habits).zip(["quick", "slow"]).enumerate();
    let both = each.flat_map(|(at, ((head, habit), name))| {
        let truth: Vec<f64> = (0..AGES).map(|age| -habit.rate * age as f64).collect();
        let (mut truth, mut learned) = (line(2 * at + 1, &truth), line(2 * at, &head.bias));
        truth.name = format!("{name}, rule");
        learned.name = "learned".into();
        learned.points = learned.points.into_iter().flat_map(mark).collect();
        [truth, learned]
    });
    both.collect()
}

/// A short stroke, and a gap after it.
fn mark((x, y): (f64, f64)) -> [(f64, f64); 3] {
    [(x - 0.2, y), (x + 0.2, y), (x, f64::NAN)]
}

fn bias(results: &Results) -> String {
    curve::svg("Bias by age", "age", &lines(results, <[f64]>::to_vec), Some(0.0))
}

fn shares(results: &Results) -> String {
    let softmax = |bias: &[f64]| {
        let sum: f64 = bias.iter().map(|b| b.exp()).sum();
        bias.iter().map(|b| b.exp() / sum).collect()
    };
    curve::svg("Share read by age", "age", &lines(results, softmax), Some(0.0))
}

/// A session, what the heads read of it, and the list.
fn shown(results: &Results, number: usize) -> String {
    let session = &results.held[number];
    let (past, next) = (&session.items[..PAST.min(LENGTH - 1)], session.items[PAST.min(LENGTH - 1)]);
    let scores = results.reading.scores(number, past.len());
    let cause = session.causes[past.len()];
    let mut heads = Vec::new();
    for (at, (head, title)) in results.heads.iter().zip(["quick", "slow"]).enumerate() {
        let weights = results.reading.read(number, head.number, past.len());
        let most = weights.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
        let names: Vec<String> = past
            .iter()
            .enumerate()
            .map(|(place, &item)| {
                let mark = if cause == Some((at, place)) { "▸" } else { "" };
                format!("{mark}{}", name(item).replace(' ', "\u{a0}"))
            })
            .collect();
        let lit = lit_text(names.iter().map(String::as_str).zip(weights.iter().map(|weight| weight / most)));
        heads.push(format!("<div><figcaption>The {title} head</figcaption>{lit}</div>"));
    }
    let mut best: Vec<usize> = (0..ITEMS).collect();
    best.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    let list = best.iter().take(LIST).map(|&item| {
        let text = format!("{} {:.0} %", name(item), 100.0 * scores[item]);
        if item == next { format!("<b>{text}</b>") } else { text }
    });
    let why = if cause.is_none() { ", for no reason" } else { "" };
    let list = list.collect::<Vec<_>>().join(", ");
    format!(
        "<figure style=\"margin:10px 0\"><div class=\"even\">{}</div><figcaption>Recommended: {list}. Then came <b>{}</b>{why}: rank {}.</figcaption></figure>",
        heads.concat(),
        name(next),
        rank(&scores, next)
    )
}
