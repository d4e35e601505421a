//! `attn-bench`: times attention beside Burn's own operation and writes a report.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use attn_benches::alloc::Counting;
use attn_benches::backend::Backend;
use attn_benches::machine;
use attn_benches::report::tables;
use attn_benches::session::Session;
use attn_benches::shapes::Suite;
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
    /// Fewer rounds: a first look.
    #[arg(long)]
    quick: bool,
    /// The folder for bench.json and bench.html; `out` beside the benchmarks if not given.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Threads, for ours and the peers; as many as CPUs if not given.
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
}

#[derive(Clone, Copy, ValueEnum)]
enum SuiteChoice {
    Prefill,
    Decode,
    Train,
    All,
}

impl SuiteChoice {
    fn suites(self) -> Vec<Suite> {
        match self {
            Self::Prefill => vec![Suite::Prefill],
            Self::Decode => vec![Suite::Decode],
            Self::Train => vec![Suite::Train],
            Self::All => Suite::ALL.to_vec(),
        }
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
    let threads = arguments.threads.unwrap_or_else(machine::cores);
    ensure!(threads > 0, "--threads must be at least 1");
    limit_threads(threads)?;
    let mut backends = arguments.backends;
    if backends.is_empty() {
        backends = Backend::ALL.to_vec();
    }
    ensure!(!backends.is_empty(), "this build has no backend: turn on feature ndarray, flex or tch");
    backends.sort_unstable();
    backends.dedup();
    let out = arguments.out.unwrap_or_else(default_out);
    std::fs::create_dir_all(&out).with_context(|| format!("making the folder {}", out.display()))?;
    let (suites, only, quick) = (arguments.suite.suites(), arguments.only, arguments.quick);
    let report = Session { backends, suites, only, quick, threads }.run()?;
    println!("{}", tables(&report));
    report.write(&out)?;
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
