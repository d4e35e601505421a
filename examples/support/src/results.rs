//! What was read of the held-out questions, and the page that shows it.

use std::path::{Path, PathBuf};

use anyhow::Result;
use burn::tensor::Device;
use learn::page::{Page, confusion, escape, lit_text};
use learn::words::{HashedText, words};
use learn::{Evaluation, Plan, curve, files};

use crate::LENGTH;
use crate::data::Questions;
use crate::model::{TopicReader, TopicReaderConfig};

/// Questions that go through the model together.
const TOGETHER: usize = 128;
/// Right ones on the page, of each topic.
const RIGHT_OF_EACH: usize = 2;

/// What was read of each held-out question.
pub struct Reading {
    /// The most probable topic.
    pub topics: Vec<usize>,
    /// Its probability.
    pub probabilities: Vec<f32>,
    /// What each word weighed, question by question.
    pub weights: Vec<Vec<f64>>,
}

/// Reads all questions.
///
/// # Errors
/// If the model refuses them.
pub fn read(model: &TopicReader, config: &TopicReaderConfig, held: &Questions, device: &Device) -> Result<Reading> {
    let mut reading = Reading { topics: Vec::new(), probabilities: Vec::new(), weights: Vec::new() };
    for texts in held.texts.chunks(TOGETHER) {
        let hashed: Vec<HashedText> = texts.iter().map(|text| config.words.text(&words(text))).collect();
        let read = model.read(&config.words.batch(&hashed, LENGTH, device))?;
        let probabilities: Vec<f32> = read.probabilities.try_into_data()?.iter::<f32>().collect();
        for row in probabilities.chunks(config.topics) {
            let best = row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
            let (topic, probability) = best.map_or((0, 0.0), |(topic, probability)| (topic, *probability));
            reading.topics.push(topic);
            reading.probabilities.push(probability);
        }
        let weights: Vec<f64> = read.weights.try_into_data()?.iter::<f64>().collect();
        let rows = weights.chunks(LENGTH).zip(&hashed);
        reading.weights.extend(rows.map(|(row, text)| row[..text.len().min(LENGTH)].to_vec()));
    }
    Ok(reading)
}

/// Writes the page and the curve of the loss; gives the page's path.
///
/// # Errors
/// If they cannot be written.
pub fn write(
    folder: &Path,
    plan: &Plan,
    evaluations: [&Evaluation; 2],
    losses: &[f32],
    held: &Questions,
    reading: &Reading,
) -> Result<PathBuf> {
    let curve = curve::of_losses(losses);
    files::write_atomically(&folder.join("loss.svg"), curve.as_bytes())?;
    let path = folder.join("support.html");
    files::write_atomically(&path, page(plan, evaluations, curve, held, reading).as_bytes())?;
    Ok(std::path::absolute(&path).unwrap_or(path))
}

fn page(plan: &Plan, evaluations: [&Evaluation; 2], curve: String, held: &Questions, reading: &Reading) -> String {
    let lead = "Attention pooling sorts questions that it never saw while learning by topic. The more a word is lit, the more of its \
                vector went into the decision.";
    let mut page = Page::new("The words that give the topic away", lead);
    let [accuracy, f1] = evaluations;
    let note = |value: f64| format!("macro F1 {}", f1.shown(value));
    let mut facts =
        vec![(accuracy.name.as_str(), accuracy.shown(accuracy.value), format!("accuracy; {}", note(f1.value)))];
    for (baseline, other) in accuracy.baselines.iter().zip(&f1.baselines) {
        let verdict = if accuracy.is_better_than(baseline) { "beaten" } else { "not beaten" };
        facts.push((&baseline.name, accuracy.shown(baseline.value), format!("{verdict}; {}", note(other.value))));
    }
    let samples = format!("of {} questions each, seed {}, on {}", plan.batch, plan.seed, plan.backend);
    facts.push(("steps", plan.steps.to_string(), samples));
    page.facts(&facts);
    let topics = held.topics.len();
    let mut counts = vec![vec![0; topics]; topics];
    for (&label, &topic) in held.labels.iter().zip(&reading.topics) {
        counts[label][topic] += 1;
    }
    page.beside(&[curve, confusion(&held.topics, &counts)]);

    let (wrong, right): (Vec<usize>, Vec<usize>) =
        (0..held.labels.len()).partition(|&at| reading.topics[at] != held.labels[at]);
    page.section(&format!("Sorted wrong: {}", wrong.len()), "All of them.");
    page.texts(&wrong.iter().map(|&at| tile(held, reading, at)).collect::<Vec<_>>());
    page.section("Sorted right", "Two of each topic.");
    let firsts =
        (0..topics).flat_map(|topic| right.iter().filter(move |&&at| held.labels[at] == topic).take(RIGHT_OF_EACH));
    page.texts(&firsts.map(|&at| tile(held, reading, at)).collect::<Vec<_>>());
    page.finish()
}

/// A question with its words lit, and what it was taken for.
fn tile(held: &Questions, reading: &Reading, at: usize) -> (String, String, bool) {
    let weights = &reading.weights[at];
    let most = weights.iter().fold(f64::MIN_POSITIVE, |most, &weight| most.max(weight));
    let words = words(&held.texts[at]);
    // Lit as a share of the most lit word; what was cut off stays dark.
    let lit = words.iter().enumerate().map(|(at, word)| (*word, weights.get(at).map_or(0.0, |weight| weight / most)));
    let (label, topic, percent) = (held.labels[at], reading.topics[at], 100.0 * reading.probabilities[at]);
    let name = |topic: usize| format!("<b>{}</b>", escape(&held.topics[topic]));
    let caption = match label == topic {
        true => format!("{}, {percent:.0} % sure", name(label)),
        false => format!("{} read as {}, {percent:.0} % sure", name(label), name(topic)),
    };
    (lit_text(lit), caption, label != topic)
}
