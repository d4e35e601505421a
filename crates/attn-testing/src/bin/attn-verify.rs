//! `attn-verify`: runs case files on backends and says how they went.
//!
//! Exit code 0 where every case passed or was skipped for want of its element type or of a CPU's instructions, 1 where any failed
//! or none was found, 2 where the arguments make no sense.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use attn_testing::engine::{DEFAULT, Engine};
use attn_testing::panics;
use attn_testing::report::Report;
use attn_testing::verify::{Entry, files, judge};
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};

/// Judges backends by case files of the format attn-case-1.
#[derive(Parser)]
struct Args {
    /// A backend or kernel path; repeat for more [default: ndarray and flex, as far as they are built in]
    #[arg(long = "backend", value_name = "NAME", value_parser = Engine::named)]
    backends: Vec<Engine>,
    /// Judge the forward pass alone
    #[arg(long)]
    no_grad: bool,
    /// List the GPU devices that this program finds, and judge nothing
    #[arg(long, conflicts_with_all = ["backends", "no_grad", "paths"])]
    adapters: bool,
    /// Case files, or folders of them
    #[arg(required_unless_present = "adapters", value_name = "PATH")]
    paths: Vec<PathBuf>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if args.adapters {
        return adapters();
    }
    let mut engines = args.backends;
    if engines.is_empty() {
        engines = DEFAULT.into_iter().filter_map(|name| Engine::named(name).ok()).collect();
    }
    let mut names = Vec::new();
    engines.retain(|engine| {
        !names.contains(&engine.name()) && {
            names.push(engine.name());
            true
        }
    });
    if engines.is_empty() {
        eprintln!("error: this program was built without a backend; name --backend reference, or build with a feature");
        return ExitCode::from(2);
    }
    panics::quiet();
    let report = run(&engines, &args.paths, !args.no_grad);
    println!("{}", report.table());
    print!("{}", report.notes());
    println!("{}", report.last_line());
    let total = report.total();
    if total.failed > 0 || total.cases == 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// A line for each device.
fn adapters() -> ExitCode {
    #[cfg(any(feature = "wgpu", feature = "cuda"))]
    let found: Vec<String> = attn::adapters().iter().map(ToString::to_string).collect();
    #[cfg(not(any(feature = "wgpu", feature = "cuda")))]
    let found: Vec<String> = Vec::new();
    if found.is_empty() {
        eprintln!("no GPU device is found by the backends that this program was built with");
        return ExitCode::FAILURE;
    }
    found.iter().for_each(|line| println!("{line}"));
    ExitCode::SUCCESS
}

/// One file after the other, each on every engine, so that no more than one is in memory.
fn run(engines: &[Engine], paths: &[PathBuf], gradients: bool) -> Report {
    let files = files(paths);
    let progress = Progress::new(files.len());
    let mut report = Report::default();
    for file in files {
        let entry = match file {
            Ok(path) => Entry::read(&path),
            Err(entry) => entry,
        };
        progress.step(&entry);
        report.judgements.extend(engines.iter().map(|engine| judge(&entry, engine, gradients)));
    }
    progress.bar.finish_and_clear();
    report
}

/// A bar on a terminal; elsewhere a line for each family.
struct Progress {
    bar: ProgressBar,
    last: std::cell::RefCell<String>,
}

impl Progress {
    fn new(files: usize) -> Self {
        let bar = if std::io::stderr().is_terminal() { ProgressBar::new(files as u64) } else { ProgressBar::hidden() };
        if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} {msg}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(200));
        Self { bar, last: std::cell::RefCell::default() }
    }

    fn step(&self, entry: &Entry) {
        let family = entry.family();
        self.bar.inc(1);
        self.bar.set_message(family.clone());
        if self.bar.is_hidden() && self.last.replace(family.clone()) != family {
            eprintln!("verifying {family}");
        }
    }
}
