//! The table for the terminal, and the page.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use anyhow::Result;
use learn::classes::accuracy;
use learn::curve::{self, Series};
use learn::page::{Page, lit_text, table};
use learn::words::words;
use learn::{Evaluation, Plan, files};

use crate::data::{CLASSES, LEAST_RATING, Snippets, source_names};
use crate::reading::{Damaged, MISSING, Reading, TYPOS, with_typos};

/// Snippets on the page, of each class, read right and read wrong.
const OF_EACH: usize = 6;
/// Snippets that are shown with typos, too.
const WITH_TYPOS: usize = 4;

/// A model that has learned, and what it reads.
pub struct Tried {
    /// Its name.
    pub name: &'static str,
    /// The loss of every step.
    pub losses: Vec<f32>,
    /// What it reads of the held-out snippets.
    pub clean: Reading,
    /// And of damaged ones.
    pub damaged: [Damaged; 2],
}

/// What damage does to each model: rows of a table.
fn robustness(tried: &[Tried], held: &Snippets) -> (Vec<&'static str>, Vec<Vec<String>>) {
    let head = vec![
        "pool",
        "snippets",
        "accuracy",
        "macro F1",
        "decisions turned",
        "weights moved",
        "words that weigh",
        "as many alike",
    ];
    let percent = |share: f64| format!("{:.1} %", 100.0 * share);
    let mut rows = Vec::new();
    for model in tried {
        let weigh = |reading: &Reading| {
            let [all, weigh, alike] = reading.words_read();
            vec![format!("{weigh:.1} of {all:.1}"), format!("{alike:.1}")]
        };
        let f1 = learn::classes::macro_f1(&held.labels, &model.clean.classes);
        let clean = [percent(accuracy(&held.labels, &model.clean.classes)), percent(f1), "–".into(), "–".into()];
        rows.push([vec![model.name.into(), "as they are".into()], clean.to_vec(), weigh(&model.clean)].concat());
        for damaged in &model.damaged {
            let numbers = [damaged.accuracy, damaged.f1, damaged.turned, damaged.moved].map(percent).to_vec();
            let names = vec![model.name.into(), format!("with {}", damaged.what)];
            rows.push([names, numbers, weigh(&damaged.reading)].concat());
        }
    }
    (head, rows)
}

/// The table of robustness for a terminal.
pub fn text(tried: &[Tried], held: &Snippets) -> String {
    let (head, rows) = robustness(tried, held);
    let head: Vec<String> = head.into_iter().map(str::to_string).collect();
    let lines = || std::iter::once(&head).chain(&rows);
    let width = |column: usize| lines().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for row in lines() {
        for (column, cell) in row.iter().enumerate() {
            // Writing to a string cannot fail.
            let _ = match column {
                0 | 1 => write!(text, "  {cell:<0$}", width(column)),
                _ => write!(text, "  {cell:>0$}", width(column)),
            };
        }
        text.push('\n');
    }
    text
}

/// Writes the page and the curves of the losses; gives the page's path.
///
/// # Errors
/// If they cannot be written.
pub fn write(
    folder: &Path,
    plan: &Plan,
    evaluation: &Evaluation,
    by_source: &[(&str, Vec<usize>)],
    held: &Snippets,
    tried: &[Tried],
) -> Result<PathBuf> {
    let line = |(colour, model): (usize, &Tried)| {
        let window = model.losses.len().div_ceil(40).max(1);
        let mean = |(at, part): (usize, &[f32])| {
            ((at * window + part.len()) as f64, f64::from(part.iter().sum::<f32>()) / part.len() as f64)
        };
        let points = model.losses.chunks(window).enumerate().map(mean).collect();
        Series { name: model.name.to_string(), points, colour, is_faint: false }
    };
    let lines: Vec<Series> = tried.iter().enumerate().map(line).collect();
    let curve = curve::svg("The losses while learning, means of a fortieth of the steps", "step", &lines, Some(0.0));
    files::write_atomically(&folder.join("loss.svg"), curve.as_bytes())?;
    let path = folder.join("sentiment.html");
    files::write_atomically(&path, page(plan, evaluation, curve, by_source, held, tried).as_bytes())?;
    Ok(std::path::absolute(&path).unwrap_or(path))
}

fn page(
    plan: &Plan,
    evaluation: &Evaluation,
    curve: String,
    by_source: &[(&str, Vec<usize>)],
    held: &Snippets,
    tried: &[Tried],
) -> String {
    let lead = format!(
        "Attention pooling tells positive from negative in tweets, reviews and editorials that it never saw while learning (rated \
         {LEAST_RATING} or more to either side). The more a word is lit, the more it weighed."
    );
    let mut page = Page::new("The words that the mood hangs on", &lead);
    let of = format!("accuracy on {} held-out snippets", held.labels.len());
    let mut facts = vec![(evaluation.name.as_str(), evaluation.shown(evaluation.value), of)];
    for baseline in &evaluation.baselines {
        let note = if evaluation.is_better_than(baseline) { "beaten" } else { "not beaten" };
        facts.push((&baseline.name, evaluation.shown(baseline.value), note.to_string()));
    }
    let samples = format!("of {} snippets each, seed {}, on {}", plan.batch, plan.seed, plan.backend);
    facts.push(("steps of each", plan.steps.to_string(), samples));
    page.facts(&facts);
    page.beside(&[curve, sources(by_source, held)]);

    let hint = format!(
        "The same snippets with a typo in {:.0} % of the words of four letters or more (two letters swapped, one left out, one doubled), and \
         with {:.0} % of the words missing. Turned: read as the other class than before. Moved: the total variation between the weights \
         before and after, of the words that are left. Alike: so many words of equal weight would be as spread.",
        100.0 * TYPOS,
        100.0 * MISSING
    );
    page.section("What damage does", &hint);
    let (head, rows) = robustness(tried, held);
    page.beside(&[table(&head, &rows)]);
    page.section("The same, misspelt", "As it is, and with typos; above by softmax, below by sparsemax.");
    page.texts(&misspelt(plan.seed, held, tried));

    let [first, ..] = tried else { return page.finish() };
    for is_wrong in [false, true] {
        let heading = if is_wrong { "Read wrong" } else { "Read right" };
        page.section(heading, &format!("Some of each class, from all over the held-out part; lit by {}.", first.name));
        let mut tiles = Vec::new();
        for label in 0..CLASSES.len() {
            let is_one = |&at: &usize| held.labels[at] == label && (first.clean.classes[at] != label) == is_wrong;
            let all: Vec<usize> = (0..held.labels.len()).filter(is_one).collect();
            let shown = all.iter().step_by(all.len().div_ceil(OF_EACH).max(1));
            tiles.extend(shown.map(|&at| {
                let lit = lit(&words(&held.texts[at]), &first.clean.weights[at]);
                (lit, caption(held, &first.clean, at), is_wrong)
            }));
        }
        page.texts(&tiles);
    }
    page.finish()
}

/// Accuracy by source.
fn sources(by_source: &[(&str, Vec<usize>)], held: &Snippets) -> String {
    let head = [&["snippets"][..], &source_names()].concat();
    let of_source = |source: usize, of: &[usize]| -> Vec<usize> {
        of.iter().zip(&held.sources).filter(|(_, from)| **from == source).map(|(class, _)| *class).collect()
    };
    let counts = (0..source_names().len()).map(|source| of_source(source, &held.labels).len().to_string());
    let mut rows = vec![std::iter::once("held out".to_string()).chain(counts).collect::<Vec<_>>()];
    for (name, read) in by_source {
        let share = |source| 100.0 * accuracy(&of_source(source, &held.labels), &of_source(source, read));
        let shares = (0..source_names().len()).map(|source| format!("{:.1} %", share(source)));
        rows.push(std::iter::once((*name).to_string()).chain(shares).collect());
    }
    table(&head, &rows)
}

/// Snippets of some length, right as they are by all, before and after typos.
fn misspelt(seed: u64, held: &Snippets, tried: &[Tried]) -> Vec<(String, String, bool)> {
    let damaged = with_typos(&held.texts, seed);
    let is_right = |at: usize| tried.iter().all(|model| model.clean.classes[at] == held.labels[at]);
    let is_fit = |&at: &usize| (8..=16).contains(&damaged[at].len()) && is_right(at);
    let all: Vec<usize> = (0..held.labels.len()).filter(is_fit).collect();
    let mut tiles = Vec::new();
    for &at in all.iter().step_by(all.len().div_ceil(WITH_TYPOS).max(1)) {
        let typos: Vec<&str> = damaged[at].iter().map(String::as_str).collect();
        for after in [false, true] {
            let reading = |model: &Tried| if after { model.damaged[0].reading.clone() } else { model.clean.clone() };
            let text = if after { typos.clone() } else { words(&held.texts[at]) };
            let readings: Vec<Reading> = tried.iter().map(reading).collect();
            let pictures = readings.iter().map(|reading| lit(&text, &reading.weights[at])).collect();
            let captions: Vec<String> = readings.iter().map(|reading| caption(held, reading, at)).collect();
            let is_wrong = readings.iter().any(|reading| reading.classes[at] != held.labels[at]);
            tiles.push((pictures, captions.join("; "), is_wrong));
        }
    }
    tiles
}

/// Words lit as a share of the most lit one; what was cut off stays dark.
fn lit(words: &[&str], weights: &[f64]) -> String {
    let most = weights.iter().fold(f64::MIN_POSITIVE, |most, &weight| most.max(weight));
    lit_text(words.iter().enumerate().map(|(at, word)| (*word, weights.get(at).map_or(0.0, |weight| weight / most))))
}

fn caption(held: &Snippets, reading: &Reading, at: usize) -> String {
    let (label, class, percent) = (held.labels[at], reading.classes[at], 100.0 * reading.probabilities[at]);
    match label == class {
        true => format!("<b>{}</b>, {percent:.0} % sure", CLASSES[label]),
        false => format!("<b>{}</b> read as <b>{}</b>, {percent:.0} % sure", CLASSES[label], CLASSES[class]),
    }
}
