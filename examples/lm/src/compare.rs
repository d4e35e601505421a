//! The same model twice: with this library's decoder, and of Burn's own modules. Each learns in a process of its own, whose memory is
//! its own, too.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use learn::curve::{self, Series};
use learn::page::{Page, table};
use learn::{Checkpoint, Evaluation, Goal, files, stop};

use crate::report::Report;
use crate::{Args, Attends};

/// Bits a byte by which the two may differ: less than two seeds of one of them do (0.033 after 1000 steps with seeds 1 and 2).
const NOISE: f64 = 0.02;
/// Bytes that the models see at once: enough for attention to matter.
const CONTEXT: usize = 1024;
/// Steps of each, and in a short comparison.
const STEPS: (usize, usize) = (300, 60);
/// How long a run that was asked to stop may take to write its checkpoint.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at a run.
const PAUSE: Duration = Duration::from_millis(50);

/// One of the two.
struct Run {
    name: &'static str,
    report: Report,
    losses: Vec<f32>,
}

/// Runs both in `folder` with the options that this process was given, and shows them beside each other. The exit code is 1 unless they
/// reach the same within noise, and ours takes less time and memory.
///
/// # Errors
/// If one cannot be run, or fails.
pub fn run(args: &Args, folder: &Path) -> Result<ExitCode> {
    stop::listen()?;
    let context = args.context.unwrap_or(CONTEXT);
    let mut runs = Vec::new();
    for (attends, option, name) in [(Attends::Ours, "ours", "ours"), (Attends::Burn, "burn", "Burn's modules")] {
        println!("\n{name}");
        let mut command = Command::new(env::current_exe().context("cannot find this program")?);
        command
            .args(own_options(env::args_os().skip(1)))
            .args(["--attention", option, "--no-promise", "--out"])
            .arg(folder);
        command.arg("--context").arg(context.to_string());
        if args.options.steps.is_none() && args.options.epochs.is_none() {
            command.arg("--steps").arg(if args.options.short { STEPS.1 } else { STEPS.0 }.to_string());
        }
        let status = waited_for(command.spawn().context("cannot run this program again")?)?;
        if status.code() == Some(i32::from(stop::EXIT_CODE)) || stop::is_asked() {
            return Ok(ExitCode::from(stop::EXIT_CODE));
        }
        ensure!(status.success(), "the run with {name} failed: {status}");
        let folder = attends.folder(folder);
        let report = Report::read(&folder)?;
        let checkpoint = Checkpoint::read(&folder.join("checkpoint"))?;
        runs.push(Run { name, report, losses: checkpoint.map(|checkpoint| checkpoint.losses).unwrap_or_default() });
    }
    let [ours, burns] = &runs[..] else { bail!("a run is missing") };
    let page = write(folder, ours, burns, context)?;
    println!("\nThe page: {}", page.display());
    conclude(ours, burns)
}

/// The options without those that each run is given.
fn own_options(words: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let (mut kept, mut is_value) = (Vec::new(), false);
    for word in words {
        const GIVEN: [&str; 3] = ["--attention", "--out", "--context"];
        let text = word.to_string_lossy();
        let is_option = GIVEN.contains(&&*text);
        let is_whole = GIVEN.iter().any(|name| text.starts_with(&format!("{name}="))) || text == "--no-promise";
        if !is_value && !is_option && !is_whole {
            kept.push(word.clone());
        }
        is_value = is_option;
    }
    kept
}

/// Waits for a run. A terminal tells it of Ctrl-C itself; who asks this process alone to stop stops the run, too, whose last checkpoint
/// stands.
fn waited_for(mut child: Child) -> Result<ExitStatus> {
    let mut asked = None;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if stop::is_asked() && asked.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
            child.kill()?;
        }
        sleep(PAUSE);
    }
}

/// Prints what each reached, and judges.
fn conclude(ours: &Run, burns: &Run) -> Result<ExitCode> {
    let difference = (ours.report.bits - burns.report.bits).abs();
    let same =
        Evaluation::new("difference in bits a byte on the held-out text", Goal::Low, "ours and Burn's", difference);
    let mut all = vec![same.beats("noise", NOISE)];
    let costs = [
        ("seconds a step, the median", ours.report.seconds, burns.report.seconds),
        ("the most memory within a step, in MB, the median", ours.report.megabytes(), burns.report.megabytes()),
    ];
    for (what, ours_took, burns_took) in costs {
        match (ours_took, burns_took) {
            (Some(took), Some(theirs)) => {
                all.push(Evaluation::new(what, Goal::Low, ours.name, took).beats(burns.name, theirs))
            }
            _ => println!("{what}: not measured here"),
        }
    }
    all.iter().for_each(|one| println!("{}", one.text(&[])));
    println!("{}", early(ours, burns));
    let is_kept = all.iter().all(|one| one.is_kept(&ours.losses));
    Ok(if is_kept { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// How far the losses of the first steps are apart.
fn early(ours: &Run, burns: &Run) -> String {
    let steps = 50.min(ours.losses.len());
    let apart = ours.losses.iter().zip(&burns.losses).take(steps).map(|(a, b)| (a - b).abs());
    format!("Over the first {steps} steps the losses differ by {:.1e} at most", apart.fold(0.0, f32::max))
}

/// Writes the page and the charts; gives the page's path.
fn write(folder: &Path, ours: &Run, burns: &Run, context: usize) -> Result<PathBuf> {
    let charts = [false, true].map(|by_time| chart(&[ours, burns], by_time));
    for (name, chart) in ["compare.svg", "compare-by-time.svg"].iter().zip(&charts) {
        files::write_atomically(&folder.join(name), chart.as_bytes())?;
    }
    let path = folder.join("compare.html");
    files::write_atomically(&path, page(ours, burns, context, &charts).as_bytes())?;
    Ok(std::path::absolute(&path).unwrap_or(path))
}

/// Mean losses over a sixtieth of the steps, a line a run: by steps, or where `by_time` by the seconds that they took.
fn chart(runs: &[&Run], by_time: bool) -> String {
    let line = |(colour, run): (usize, &&Run)| {
        let window = run.losses.len().div_ceil(60).max(1);
        let unit = if by_time { run.report.seconds.unwrap_or(f64::NAN) } else { 1.0 };
        let mean = |(at, part): (usize, &[f32])| {
            (((at + 1) * window) as f64 * unit, f64::from(part.iter().sum::<f32>()) / part.len() as f64)
        };
        let points = run.losses.chunks_exact(window).enumerate().map(mean).collect();
        Series { name: run.name.to_string(), points, colour, is_faint: false }
    };
    let (title, x_name) = if by_time { ("The loss by time", "seconds") } else { ("The loss by steps", "step") };
    curve::svg(title, x_name, &runs.iter().enumerate().map(line).collect::<Vec<_>>(), None)
}

fn page(ours: &Run, burns: &Run, context: usize, charts: &[String]) -> String {
    let lead = "One language model, trained twice from the same first weights on the same bytes: its blocks are this library's, or made of \
                Burn's own modules, whose attention repeats grouped keys and values and keeps a score for each pair of bytes.";
    let mut page = Page::new("The same loss for less", lead);
    let times = |ours: Option<f64>, burns: Option<f64>| match (ours, burns) {
        (Some(ours), Some(burns)) if ours > 0.0 => format!("Burn's modules take {:.2} times as much", burns / ours),
        _ => "not measured here".to_string(),
    };
    let (mine, theirs) = (&ours.report, &burns.report);
    page.facts(&[
        ("bits a byte, held out", format!("{:.4}", mine.bits), format!("Burn's modules {:.4}", theirs.bits)),
        ("time of a step", mine.shown_time(), times(mine.seconds, theirs.seconds)),
        ("memory of a step", mine.shown_memory(), times(mine.megabytes(), theirs.megabytes())),
        ("steps", ours.losses.len().to_string(), format!("with a context of {context} bytes")),
    ]);
    page.section(
        "The loss",
        &format!("{}: one line hides the other. Later what was rounded otherwise adds up.", early(ours, burns)),
    );
    page.side_by_side(charts);
    page.section(
        "Both",
        "Medians over the steps. Memory is the most that the process held within a step: code, text, weights and moments, too.",
    );
    let row = |run: &Run| {
        let report = &run.report;
        let bits = format!("{:.4}", report.bits);
        vec![run.name.to_string(), report.parameters.to_string(), bits, report.shown_time(), report.shown_memory()]
    };
    page.html(&table(
        &["blocks", "parameters", "bits a byte", "time of a step", "memory of a step"],
        &[row(ours), row(burns)],
    ));
    page.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cost::Cost;
    use learn::Plan;

    fn made(name: &'static str, bits: f64, seconds: f64, memory: u64) -> Run {
        let plan = Plan::new("a test", "any", 1, 10, 2, 5);
        let cost = Cost { seconds: Some(seconds), memory: Some(memory) };
        let report = Report::new(&plan, 9, bits, cost, Path::new("no/such/folder")).unwrap();
        Run { name, report, losses: (1..=100).map(|step| 5.0 / step as f32).collect() }
    }

    #[test]
    fn the_options_are_passed_on_but_for_whose_attention() {
        let words =
            ["--steps", "9", "--attention", "both", "--attention=both", "--no-promise", "--fresh"].map(OsString::from);
        assert_eq!(own_options(words.into_iter()), ["--steps", "9", "--fresh"]);
    }

    #[test]
    fn ours_must_reach_the_same_and_take_less() {
        let burns = made("Burn's modules", 2.5, 0.2, 200_000_000);
        let code = |bits, seconds, memory| conclude(&made("ours", bits, seconds, memory), &burns).unwrap();
        assert_eq!(code(2.51, 0.1, 100_000_000), ExitCode::SUCCESS);
        for (bits, seconds, memory) in [(2.6, 0.1, 100), (2.4, 0.1, 100), (2.5, 0.3, 100), (2.5, 0.1, 300_000_000)] {
            assert_eq!(code(bits, seconds, memory), ExitCode::FAILURE);
        }
    }

    #[test]
    fn the_page_shows_both() {
        let (ours, burns) = (made("ours", 2.5, 0.1, 100_000_000), made("Burn's modules", 2.51, 0.2, 300_000_000));
        let charts = [false, true].map(|by_time| chart(&[&ours, &burns], by_time));
        let html = page(&ours, &burns, 256, &charts);
        for wanted in ["2.00 times as much", "3.00 times as much", "<td>100 ms</td><td>100 MB</td>", "context of 256"] {
            assert!(html.contains(wanted), "{wanted}: {html}");
        }
        assert_eq!(html.matches("<path class=\"series s1\"").count(), 4, "lines and their marks");
    }
}
