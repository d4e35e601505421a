//! `cargo xtask bench`: measures our attention beside that of others.

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::Result;
use clap::ValueEnum;

use crate::backends::{self, Backend};
use crate::workspace;

/// What to measure.
#[derive(clap::Args)]
pub struct Args {
    /// A backend to measure; repeat for more [default: ndarray and flex]
    #[arg(long = "backend", value_name = "NAME", value_parser = backends::parse_backend)]
    backends: Vec<&'static Backend>,
    /// Which shapes
    #[arg(long, value_enum, default_value_t = Suite::All)]
    suite: Suite,
    /// Only shapes whose line in the report holds this, such as 1024x64 or causal
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// How many shapes a sweep draws [default: the program's own, 200]
    #[arg(long, value_name = "N")]
    shapes: Option<usize>,
    /// What a sweep's shapes are drawn from; another number draws others [default: 1]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Fewer rounds of each shape: for a first look, not for figures
    #[arg(long)]
    quick: bool,
    /// The folder that takes bench.html and bench.json [default: the program's own]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// A set of shapes.
#[derive(Clone, Copy, ValueEnum)]
enum Suite {
    /// Long queries over long keys
    Prefill,
    /// One query over a long cache
    Decode,
    /// Forward and backward
    Train,
    /// What fills a GPU: f16 and bf16, long queries and long caches
    Card,
    /// Random shapes with all options, beside the faster of LibTorch's operation and Burn's
    Sweep,
    /// The first three
    All,
}

/// Runs the benchmark program and passes its exit code on.
pub fn run(args: &Args) -> Result<ExitCode> {
    let chosen = backends::or_default(&args.backends);
    // LibTorch's own operation is a peer of every backend where LibTorch is there.
    let mut built = chosen.clone();
    built.extend(backends::parse_backend("tch").ok().filter(|tch| (tch.look)().is_ok()));
    // Burn chooses among its kernels for a GPU by trying them, as its default features have it.
    let tuned: &[_] = if chosen.iter().any(|row| row.is_gpu()) { &[("attn-benches", "autotune")] } else { &[] };
    workspace::pass_on(add_arguments(&mut workspace::program("attn-bench", &built, tuned)?, args, &chosen))
}

fn add_arguments<'a>(command: &'a mut Command, args: &Args, chosen: &[&Backend]) -> &'a mut Command {
    command.args(backends::arguments(chosen));
    if let Some(suite) = args.suite.to_possible_value() {
        command.arg("--suite").arg(suite.get_name());
    }
    if let Some(only) = &args.only {
        command.arg("--only").arg(only);
    }
    for (name, number) in [("--shapes", args.shapes.map(|n| n as u64)), ("--seed", args.seed)] {
        if let Some(number) = number {
            command.arg(name).arg(number.to_string());
        }
    }
    if args.quick {
        command.arg("--quick");
    }
    if let Some(out) = &args.out {
        command.arg("--out").arg(out);
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_reach_the_program() {
        let chosen = vec![backends::parse_backend("flex").unwrap()];
        let args = Args {
            backends: chosen.clone(),
            suite: Suite::Decode,
            only: Some("128".into()),
            shapes: None,
            seed: Some(7),
            quick: true,
            out: Some("o".into()),
        };
        let mut command = Command::new("attn-bench");
        add_arguments(&mut command, &args, &chosen);
        assert_eq!(
            workspace::shown(&command),
            "attn-bench --backend flex --suite decode --only 128 --seed 7 --quick --out o"
        );
    }
}
