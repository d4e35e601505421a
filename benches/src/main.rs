//! `attn-bench`: times attention beside Burn's own operation and writes a report.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use attn_benches::alloc::Counting;
use attn_benches::backend::{Backend, Memory};
use attn_benches::contestants::Peers;
use attn_benches::machine;
use attn_benches::report::{Report, tables};
use attn_benches::session::{Run, Session};
use attn_benches::shapes::{SEED, SWEEP, Shape, Suite, card, suite, sweep};
use clap::{Parser, ValueEnum};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Times our attention beside Burn's own operation, by turns; checks every answer first.
#[derive(Parser)]
#[command(name = "attn-bench", version)]
struct Arguments {
    /// A backend for ours to run on; may be given again. All of this build if not given.
    #[arg(long = "backend", value_name = "NAME")]
    backends: Vec<Backend>,
    /// Which shapes.
    #[arg(long, default_value = "all")]
    suite: SuiteChoice,
    /// Only shapes whose line in the report holds this, such as `1024×64` or `causal`.
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// How many shapes a sweep draws.
    #[arg(long, value_name = "N", default_value_t = SWEEP)]
    shapes: usize,
    /// What a sweep's shapes are drawn from; another number draws others.
    #[arg(long, value_name = "N", default_value_t = SEED)]
    seed: u64,
    /// Fewer rounds: a first look.
    #[arg(long)]
    quick: bool,
    /// The folder for bench.json and bench.html; `out` beside the benchmarks if not given.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Threads, for ours and the peers; as many as CPUs if not given.
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Measures nothing: reads DIR/bench.json, writes its page anew and prints its tables.
    #[arg(long, value_name = "DIR", exclusive = true)]
    page: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum SuiteChoice {
    Prefill,
    Decode,
    Train,
    /// The three above: sized for CPUs
    All,
    /// Random shapes with all options, beside LibTorch's operation and Burn's on the same backend
    Sweep,
    /// Prefill and decode of a graphics card's size, beside peers on the same device; all backends with memory of their own if none
    /// is named
    Card,
}

impl SuiteChoice {
    fn shapes(self, seed: u64, count: usize) -> Vec<Shape> {
        match self {
            Self::Prefill => suite(Suite::Prefill),
            Self::Decode => suite(Suite::Decode),
            Self::Train => suite(Suite::Train),
            Self::All => [Suite::Prefill, Suite::Decode, Suite::Train].into_iter().flat_map(suite).collect(),
            Self::Sweep => sweep(seed, count),
            Self::Card => card(),
        }
    }

    fn peers(self) -> Peers {
        match self {
            Self::Card => Peers::Near,
            Self::Sweep => Peers::Fastest,
            _ => Peers::Everywhere,
        }
    }

    /// The backends that run it where none is named.
    fn backends(self) -> Vec<Backend> {
        let all = Backend::ALL.iter().copied();
        all.filter(|backend| self != Self::Card || backend.memory() == Memory::Device).collect()
    }
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("attn-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<()> {
    if let Some(folder) = arguments.page {
        return page(&folder);
    }
    let threads = arguments.threads.unwrap_or_else(machine::cores);
    ensure!(threads > 0, "--threads must be at least 1");
    limit_threads(threads)?;
    let mut backends = arguments.backends;
    if backends.is_empty() {
        backends = arguments.suite.backends();
    }
    ensure!(
        !backends.is_empty(),
        "this build has no backend for this suite: turn on a feature, such as flex, tch or cuda"
    );
    backends.sort_unstable();
    backends.dedup();
    let out = arguments.out.unwrap_or_else(default_out);
    std::fs::create_dir_all(&out).with_context(|| format!("making the folder {}", out.display()))?;
    let (shapes, peers) = (arguments.suite.shapes(arguments.seed, arguments.shapes), arguments.suite.peers());
    let session = Session { backends, shapes, peers, only: arguments.only, quick: arguments.quick, threads };
    let Run { report, wrong } = session.run(|report| report.write(&out))?;
    show(&report, &out)?;
    ensure!(wrong.is_empty(), "ours was wrong or failed on {} shapes, the first: {}", wrong.len(), wrong[0]);
    Ok(())
}

/// Makes the page of a folder's `bench.json` anew, with what others have added to it since.
fn page(folder: &Path) -> Result<()> {
    let mut report = Report::read(folder)?;
    report.relate();
    show(&report, folder)
}

/// Prints the tables, writes both files and says where the page is.
fn show(report: &Report, out: &Path) -> Result<()> {
    println!("{}", tables(report));
    report.write(out)?;
    println!("{}", out.join("bench.html").display());
    Ok(())
}

/// Limits both pools: rayon's, which ours, Flex and NdArray use, and that of `matrixmultiply`, on which NdArray multiplies.
fn limit_threads(threads: usize) -> Result<()> {
    // SAFETY: called first thing in `main`, before any other thread runs that could read the environment.
    unsafe { std::env::set_var("MATMUL_NUM_THREADS", threads.to_string()) };
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global().context("starting threads")
}

/// `benches/out` of the workspace that this was built in; `benches/out` of the current folder where that is gone.
fn default_out() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    if package.is_dir() { package.join("out") } else { Path::new("benches").join("out") }
}
