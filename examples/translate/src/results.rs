//! The page: how good each score is, its loss, and what was read for each token that was written.

use std::path::{Path, PathBuf};

use anyhow::Result;
use learn::curve::{self, Series};
use learn::page::{Page, escape, table};
use learn::{files, heat_map};

use crate::lesson::Learned;
use crate::task::Task;

/// Alignments on the page.
const ALIGNMENTS: usize = 6;
/// The longest source whose alignment is drawn, in tokens: beyond, it does not fit beside another.
const LONGEST: usize = 34;
/// Texts in the list at the end.
const LISTED: usize = 40;

/// Writes the page and the curve of the loss; gives the page's path.
///
/// # Errors
/// If they cannot be written, or a text has no tokens.
pub fn write(folder: &Path, task: &Task, all: &[Learned]) -> Result<PathBuf> {
    let curve = losses(all);
    files::write_atomically(&folder.join("loss.svg"), curve.as_bytes())?;
    let path = folder.join("translate.html");
    files::write_atomically(&path, page(task, all, curve).as_bytes())?;
    Ok(std::path::absolute(&path).unwrap_or(path))
}

fn page(task: &Task, all: &[Learned], curve: String) -> String {
    let mut page = Page::new(task.title, task.lead);
    let mut facts = Vec::new();
    for one in all {
        facts.push((one.evaluation.name.as_str(), one.evaluation.shown(one.evaluation.value), task.metric.clone()));
    }
    if let Some(first) = all.first() {
        for baseline in &first.evaluation.baselines {
            let is_beaten = |one: &Learned| one.evaluation.is_better_than(baseline);
            let note = match all.iter().filter(|one| is_beaten(one)).count() {
                0 => "not beaten",
                beaten if beaten < all.len() => "beaten by one",
                _ => "beaten",
            };
            facts.push((&baseline.name, first.evaluation.shown(baseline.value), note.to_string()));
        }
        let plan = &first.plan;
        let note = format!("of {} pairs each, seed {}, on {}", plan.batch, plan.seed, plan.backend);
        facts.push(("steps", plan.steps.to_string(), note));
    }
    page.facts(&facts);
    match kinds(task, all) {
        Some(kinds) => page.beside(&[curve, kinds]),
        None => page.html(&curve),
    }
    let hint = "Each row is a token written, each column a token read: the stronger, the more of it was read.";
    page.section("What it read for what it wrote", &format!("{hint} {}", task.marks));
    for at in drawn(task, all) {
        let alignment = |one: &Learned| {
            let output = &one.outputs[at];
            let picture = heat_map("alignment", &output.read, &output.written, &output.alignment);
            let is_right = output.text == task.held[at].target;
            let caption = format!("{}: <b>{}</b>", one.score.name(), escape(&output.text));
            let truth =
                if is_right { String::new() } else { format!(" in place of {}", escape(&task.held[at].target)) };
            format!("<figure>{picture}<figcaption>{caption}{truth}</figcaption></figure>")
        };
        let columns = format!("grid-template-columns:repeat({},minmax(0,1fr))", all.len());
        let alignments: String = all.iter().map(alignment).collect();
        page.html(&format!("<div style=\"display:grid;gap:12px;margin:12px 0;{columns}\">{alignments}</div>"));
    }
    list(&mut page, task, all);
    page.finish()
}

/// Mean losses over a fortieth of the steps, a line a score.
fn losses(all: &[Learned]) -> String {
    let line = |(colour, one): (usize, &Learned)| {
        let window = one.losses.len().div_ceil(40).max(1);
        let mean = |(at, part): (usize, &[f32])| {
            (((at + 1) * window) as f64, f64::from(part.iter().sum::<f32>()) / part.len() as f64)
        };
        let points = one.losses.chunks_exact(window).enumerate().map(mean).collect();
        Series { name: format!("{} scores", one.score.name()), points, colour, is_faint: false }
    };
    curve::svg("The loss while learning", "step", &all.iter().enumerate().map(line).collect::<Vec<_>>(), Some(0.0))
}

/// How good each score is at each kind, where there are kinds.
fn kinds(task: &Task, all: &[Learned]) -> Option<String> {
    let rows = task.kinds.iter().enumerate().map(|(kind, name)| {
        let members: Vec<usize> = (0..task.held.len()).filter(|&at| task.kind.get(at) == Some(&kind)).collect();
        let share = |one: &Learned| {
            let pairs: Vec<_> = members.iter().map(|&at| (&*one.outputs[at].text, &*task.held[at].target)).collect();
            one.evaluation.shown((task.measure)(&pairs))
        };
        let cells = [name.clone(), members.len().to_string()].into_iter().chain(all.iter().map(share));
        cells.collect::<Vec<_>>()
    });
    let head: Vec<&str> =
        ["written so", "held out"].into_iter().chain(all.iter().map(|one| one.score.name())).collect();
    (!task.kinds.is_empty()).then(|| table(&head, &rows.collect::<Vec<_>>()))
}

/// Which held-out pairs are drawn: the first of each kind that fits, or of all.
fn drawn(task: &Task, all: &[Learned]) -> Vec<usize> {
    let mut drawn = Vec::new();
    let mut is_seen = vec![false; task.kinds.len()];
    for at in 0..task.held.len() {
        let is_new = task.kind.get(at).is_none_or(|&kind| !std::mem::replace(&mut is_seen[kind], true));
        let fits = |one: &Learned| {
            let output = &one.outputs[at];
            (task.shortest_drawn..=LONGEST).contains(&output.read.len()) && output.written.len() <= LONGEST
        };
        if drawn.len() < ALIGNMENTS && is_new && all.iter().all(fits) {
            drawn.push(at);
        }
    }
    drawn
}

/// What was made of some sources: those that went wrong first.
fn list(page: &mut Page, task: &Task, all: &[Learned]) {
    let is_right = |at: usize| all.iter().all(|one| one.outputs[at].text == task.held[at].target);
    let (right, wrong): (Vec<usize>, Vec<usize>) = (0..task.held.len()).partition(|&at| is_right(at));
    let heading = match wrong.len() {
        0 => "Not right: none".to_string(),
        all if all > LISTED => format!("Not right: {all}, of which {LISTED} are here"),
        all => format!("Not right: {all}"),
    };
    page.section(&heading, &format!("Of {} held-out ones. The last rows are right ones.", task.held.len()));
    let row = |&at: &usize| {
        let pair = &task.held[at];
        let found = all.iter().map(|one| one.outputs[at].text.clone());
        [pair.source.clone(), pair.target.clone()].into_iter().chain(found).collect()
    };
    let rows: Vec<Vec<String>> = wrong.iter().take(LISTED).chain(right.iter().take(LISTED / 4)).map(row).collect();
    let head: Vec<&str> = ["source", "should be"].into_iter().chain(all.iter().map(|one| one.score.name())).collect();
    page.html(&format!("<div style=\"overflow-x:auto\">{}</div>", table(&head, &rows)));
}
