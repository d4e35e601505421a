//! The page: rows of digits lit by where the answers come from, soft beside hard, right ones and wrong ones.

use std::fmt::Write;

use learn::curve::{self, Series};
use learn::digits::Images;
use learn::page::{Page, lit_text};
use learn::{Evaluation, Plan};

use crate::look::Looks;
use crate::question::{ANSWERS, Kind};
use crate::results::{Answers, accuracy};
use crate::scene::{MOST, Sample};

/// Questions of a kind that are shown, answered right by all and not.
const SHOWN: [usize; 2] = [3, 3];

const STYLE: &str = "<style>figure .lit{font-size:.84rem;line-height:1.7;\
margin:2px 0 3px}figure .who{font-size:.8rem;color:var(--soft);margin:0}figure .picture+.who{margin-top:12px}figure .heat{opacity:.85}figure .who b{color:var(--ink)}figure .who b.bad{color:var(--accent)}\
td:first-child,th:first-child{text-align:left}</style>";

/// A model that has learned.
#[derive(Debug)]
pub struct Learned {
    /// How it looks.
    pub name: &'static str,
    /// The loss of every step.
    pub losses: Vec<f32>,
    /// What it said.
    pub answers: Answers,
}

/// The whole page. `evaluations` are of the models that look, which come first in `learned`; their answers are shown.
pub fn page(
    plan: &Plan,
    evaluations: &[Evaluation],
    table: &[Vec<String>],
    learned: &[Learned],
    (held, images): (&[Sample], &Images),
) -> String {
    let lead = "A question in words is answered about a row of handwritten digits that were never seen while learning. The words attend to \
                the digits: soft, each head mixes all of them; hard, each head takes one. Lit are the words and digits that the answer \
                comes from, by attention rollout through all layers. Dots below a digit: the heads of the brightest word that took it, in \
                two hard looks.";
    let mut page = Page::new("Where the answer comes from", lead);
    page.html(STYLE);
    let mut facts = Vec::new();
    for evaluation in evaluations {
        let of = format!("of {} questions answered right", held.len());
        facts.push((evaluation.name.as_str(), evaluation.shown(evaluation.value), of));
    }
    for baseline in evaluations.first().into_iter().flat_map(|evaluation| &evaluation.baselines) {
        let beaten = evaluations.iter().filter(|evaluation| evaluation.is_better_than(baseline)).count();
        let note = match (beaten, evaluations.len()) {
            (0, _) => "not beaten".to_string(),
            (some, all) if some < all => format!("beaten by {some} of {all}"),
            _ => "beaten".to_string(),
        };
        facts.push((baseline.name.as_str(), format!("{:.1} %", 100.0 * baseline.value), note));
    }
    page.facts(&facts);
    let steps =
        format!("{} steps of {} new scenes each, seed {}, on {}.", plan.steps, plan.batch, plan.seed, plan.backend);
    page.html(&format!("<p class=\"hint\">{steps}</p>"));
    let (heading, rows) =
        table.split_first().map_or((vec![], table), |(first, rows)| (first.iter().map(String::as_str).collect(), rows));
    page.beside(&[curves(learned), learn::page::table(&heading, rows)]);
    for kind in Kind::ALL {
        section(&mut page, kind, &learned[..evaluations.len().min(learned.len())], held, images);
    }
    page.finish()
}

/// The losses of all, each the mean of some steps.
pub fn curves(learned: &[Learned]) -> String {
    let mean = |name: &str, losses: &[f32], colour: usize| {
        let window = losses.len().div_ceil(60).max(1);
        let points = losses.chunks(window).enumerate().map(|(at, part)| {
            let step = at * window + part.len().div_ceil(2);
            (step as f64, f64::from(part.iter().sum::<f32>()) / part.len() as f64)
        });
        Series { name: name.into(), points: points.collect(), colour, is_faint: false }
    };
    let series: Vec<Series> =
        learned.iter().enumerate().map(|(colour, one)| mean(one.name, &one.losses, colour)).collect();
    curve::svg("The loss while learning", "step", &series, Some(0.0))
}

/// Some questions of a kind that all answered right, and some that not all did.
fn section(page: &mut Page, kind: Kind, learned: &[Learned], held: &[Sample], images: &Images) {
    let shares = learned.iter().filter_map(|one| {
        let share = accuracy(held, &one.answers.given, |sample| sample.asked.kind() == kind)?;
        Some(format!("{} {:.1} % right", one.name, 100.0 * share))
    });
    let hint = format!(
        "{}. First some that all answered right, then some that not all did.",
        shares.collect::<Vec<_>>().join(", ")
    );
    page.section(&format!("{} …", kind.name()), &hint);
    let of_kind = (0..held.len()).filter(|&at| held[at].asked.kind() == kind);
    let is_right = |at: usize| learned.iter().all(|one| one.answers.given[at] == held[at].answer);
    let (right, wrong): (Vec<usize>, Vec<usize>) = of_kind.partition(|&at| is_right(at));
    let shown = right.iter().take(SHOWN[0]).chain(wrong.iter().take(SHOWN[1]));
    page.texts(
        &shown.map(|&at| (tile(&held[at], at, learned, images), caption(&held[at]), !is_right(at))).collect::<Vec<_>>(),
    );
}

fn caption(sample: &Sample) -> String {
    format!("Right is <b>{}</b>.", ANSWERS[sample.answer])
}

/// The question and the row, once for each model, lit by what its answer comes from.
fn tile(sample: &Sample, at: usize, learned: &[Learned], images: &Images) -> String {
    let text = sample.asked.text(sample.wording);
    let mut html = String::new();
    for one in learned {
        let (given, percent) = (one.answers.given[at], 100.0 * one.answers.probabilities[at]);
        let class = if given == sample.answer { "" } else { " class=\"bad\"" };
        let _ =
            write!(html, "<p class=\"who\">{}: <b{class}>{}</b>, {percent:.0} % sure</p>", one.name, ANSWERS[given]);
        // The answer's token stands before the words, the row after all of them.
        let (words, digits) = one.answers.sources[at].split_at(one.answers.sources[at].len() - MOST);
        let words = strongest_is_one(&words[1..]);
        let brightest = 1 + words.iter().position(|&share| share == 1.0).unwrap_or_default();
        let looks = one.answers.looks.get(at).filter(|_| one.name == Looks::Hard.name());
        let dots = looks.and_then(|looks| looks.chunks(MOST).nth(brightest)).unwrap_or_default();
        html += &lit_text(text.split(' ').zip(words));
        html += &row(sample, images, &strongest_is_one(digits), dots);
    }
    html
}

fn strongest_is_one(shares: &[f64]) -> Vec<f64> {
    let most = shares.iter().fold(f64::MIN_POSITIVE, |most, &share| most.max(share));
    shares.iter().map(|share| share / most).collect()
}

/// The digits side by side, a pixel apart, each lit by its weight, and so many dots below it.
fn row(sample: &Sample, images: &Images, weights: &[f64], dots: &[f64]) -> String {
    let side = images.side;
    let (width, height) = (MOST * (side + 1) - 1, side + if dots.is_empty() { 0 } else { 2 });
    let mut svg = format!("<svg class=\"picture\" viewBox=\"0 0 {width} {height}\">");
    for (place, (&at, weight)) in sample.images.iter().zip(weights).enumerate() {
        let left = place * (side + 1);
        let _ = write!(
            svg,
            "<g shape-rendering=\"crispEdges\"><rect class=\"heat\" x=\"{left}\" y=\"0\" width=\"{side}\" height=\"{side}\" \
             fill-opacity=\"{weight:.3}\"/>"
        );
        for (at, &pixel) in images.image(at).iter().enumerate().filter(|(_, pixel)| **pixel > 0.02) {
            let (x, y, opacity) = (left + at % side, at / side, 0.9 * pixel);
            let _ = write!(
                svg,
                "<rect class=\"ink\" x=\"{x}\" y=\"{y}\" width=\"1\" height=\"1\" fill-opacity=\"{opacity:.2}\"/>"
            );
        }
        svg += "</g>";
        for dot in 0..dots.get(place).map_or(0, |count| count.round() as usize) {
            let (x, y) = (left as f64 + 0.5 + dot as f64, side as f64 + 1.0);
            let _ = write!(svg, "<circle class=\"ink\" cx=\"{x}\" cy=\"{y}\" r=\"0.35\"/>");
        }
    }
    svg + "</svg>"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::question::Asked;

    #[test]
    fn a_row_shows_its_digits_lit_and_no_more() {
        let images = Images { side: 2, pixels: vec![1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0] };
        let sample = Sample { images: vec![1, 0], digits: vec![1, 0], asked: Asked::Exists(1), wording: 0, answer: 19 };
        let svg = row(&sample, &images, &strongest_is_one(&[0.1, 0.2, 0.0]), &[2.0, 0.0]);
        assert!(svg.contains("viewBox=\"0 0 17 4\""));
        assert_eq!((svg.matches("class=\"heat\"").count(), svg.matches("class=\"ink\"").count()), (2, 5));
        assert_eq!(svg.matches("<circle").count(), 2);
        assert!(svg.contains("fill-opacity=\"0.500\"") && svg.contains("fill-opacity=\"1.000\""));
        assert!(svg.contains("class=\"ink\" x=\"3\" y=\"0\""), "the second digit begins at the third pixel");
        assert_eq!(caption(&sample), "Right is <b>yes</b>.");
    }
}
