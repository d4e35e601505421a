//! What was read of the held-out digits, and the page that shows it.

use std::path::{Path, PathBuf};

use anyhow::Result;
use burn::tensor::Device;
use learn::digits::{Digits, Images};
use learn::page::{Page, confusion, heat_image};
use learn::{Evaluation, Plan, curve, files};

use crate::model::VisionTransformer;
use crate::tensor;

/// Digits that go through the model together.
const TOGETHER: usize = 256;
/// Right ones on the page, of each digit.
const RIGHT_OF_EACH: usize = 2;
/// Wrong ones on the page.
const MOST_WRONG: usize = 30;

/// What was read of each held-out digit.
pub struct Reading {
    /// The most probable class.
    pub classes: Vec<usize>,
    /// Its probability.
    pub probabilities: Vec<f32>,
    /// How much each patch was read, image by image; see [`crate::model::Read`].
    pub patches: Vec<Vec<f64>>,
}

impl Reading {
    /// The share of digits that were read right.
    pub fn accuracy(&self, held: &Digits) -> f64 {
        let right = self.classes.iter().zip(&held.labels).filter(|(class, label)| class == label);
        right.count() as f64 / held.labels.len().max(1) as f64
    }
}

/// Reads all digits.
///
/// # Errors
/// If the model refuses them.
pub fn read(model: &VisionTransformer, held: &Digits, device: &Device) -> Result<Reading> {
    let mut reading = Reading { classes: Vec::new(), probabilities: Vec::new(), patches: Vec::new() };
    for images in held.images.pixels.chunks(TOGETHER * held.images.side.pow(2)) {
        let images = Images { side: held.images.side, pixels: images.to_vec() };
        let read = model.read(tensor(&images, device))?;
        let ([_, classes], [_, cells]) = (read.probabilities.dims(), read.patches.dims());
        let probabilities: Vec<f32> = read.probabilities.try_into_data()?.iter::<f32>().collect();
        for row in probabilities.chunks(classes) {
            let best = row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
            let (class, probability) = best.map_or((0, 0.0), |(class, probability)| (class, *probability));
            reading.classes.push(class);
            reading.probabilities.push(probability);
        }
        let patches: Vec<f64> = read.patches.try_into_data()?.iter::<f64>().collect();
        reading.patches.extend(patches.chunks(cells).map(<[f64]>::to_vec));
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
    evaluation: &Evaluation,
    losses: &[f32],
    held: &Digits,
    reading: &Reading,
) -> Result<PathBuf> {
    let curve = curve::of_losses(losses);
    files::write_atomically(&folder.join("loss.svg"), curve.as_bytes())?;
    let path = folder.join("digits.html");
    files::write_atomically(&path, page(plan, evaluation, &curve, held, reading).as_bytes())?;
    Ok(std::path::absolute(&path).unwrap_or(path))
}

fn page(plan: &Plan, evaluation: &Evaluation, curve: &str, held: &Digits, reading: &Reading) -> String {
    let lead = "A small vision transformer reads handwritten digits that it never saw while learning. Beside each digit: what its class \
                token read of it through all layers together, by attention rollout.";
    let mut page = Page::new("Which patches it read", lead);
    let of = format!("of {} held-out digits read right", held.labels.len());
    let mut facts = vec![(evaluation.name.as_str(), evaluation.shown(evaluation.value), of)];
    for baseline in &evaluation.baselines {
        let note = if evaluation.is_better_than(baseline) { "beaten" } else { "not beaten" };
        facts.push((&baseline.name, evaluation.shown(baseline.value), note.to_string()));
    }
    let samples = format!("of {} digits each, seed {}, on {}", plan.batch, plan.seed, plan.backend);
    facts.push(("steps", plan.steps.to_string(), samples));
    page.facts(&facts);
    let mut counts = vec![vec![0; 10]; 10];
    for (&label, &class) in held.labels.iter().zip(&reading.classes) {
        counts[label][class] += 1;
    }
    let classes: Vec<String> = (0..10).map(|digit| digit.to_string()).collect();
    page.beside(&[curve.to_string(), confusion(&classes, &counts)]);

    let (wrong, right): (Vec<usize>, Vec<usize>) =
        (0..held.labels.len()).partition(|&at| reading.classes[at] != held.labels[at]);
    // Spread over all of them: they come digit by digit.
    let shown: Vec<usize> = wrong.iter().copied().step_by(wrong.len().div_ceil(MOST_WRONG).max(1)).collect();
    let heading = match (wrong.len(), shown.len()) {
        (0, _) => "Read wrong: none".to_string(),
        (all, shown) if shown < all => format!("Read wrong: {all}, of which {shown} are here"),
        (all, _) => format!("Read wrong: {all}"),
    };
    page.section(&heading, "Left the digit, right the same with the patches lit that it read most.");
    page.tiles(&shown.iter().map(|&at| tile(held, reading, at)).collect::<Vec<_>>());
    page.section("Read right", "Two of each digit.");
    let firsts =
        (0..10).flat_map(|digit| right.iter().filter(move |&&at| held.labels[at] == digit).take(RIGHT_OF_EACH));
    page.tiles(&firsts.map(|&at| tile(held, reading, at)).collect::<Vec<_>>());

    page.finish()
}

/// A digit, what was read of it, and the words below.
fn tile(held: &Digits, reading: &Reading, at: usize) -> (String, String, bool) {
    let (image, side, patches) = (held.images.image(at), held.images.side, &reading.patches[at]);
    // Lit from the least read patch to the most read one.
    let (least, most) = patches.iter().fold((f64::MAX, f64::MIN), |(least, most), &x| (least.min(x), most.max(x)));
    let heat: Vec<f64> = patches.iter().map(|patch| (patch - least) / (most - least).max(f64::MIN_POSITIVE)).collect();
    let pair =
        format!("<div class=\"pair\">{}{}</div>", heat_image(image, side, None), heat_image(image, side, Some(&heat)));
    let (label, class, percent) = (held.labels[at], reading.classes[at], 100.0 * reading.probabilities[at]);
    let caption = match label == class {
        true => format!("<b>{label}</b>, {percent:.0} % sure"),
        false => format!("<b>{label}</b> read as <b>{class}</b>, {percent:.0} % sure"),
    };
    (pair, caption, label != class)
}
