//! `cargo xtask train`: the language model of `examples/lm`, on its text.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;

use crate::backends::{self, Backend};
use crate::example;

/// How long, and on what.
#[derive(clap::Args)]
pub struct Args {
    /// A backend to train on; repeat for more [default: flex]
    #[arg(long = "backend", value_name = "NAME", value_parser = backends::parse_backend)]
    backends: Vec<&'static Backend>,
    /// How many steps of the optimiser are taken [default: the example's own]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    steps: Option<u64>,
    /// Train it with blocks of Burn's own modules as well, and show both: the loss, the time, the memory
    #[arg(long)]
    compare: bool,
    /// A run of a minute or two
    #[arg(long)]
    short: bool,
    /// Begin anew, also where an earlier run was stopped or is done
    #[arg(long)]
    fresh: bool,
    /// Where the checkpoint, the pictures and the page go [default: examples-out/ in cargo's target folder]
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// What to pass to the program itself: `--seed 2`, `--context 512`, `--prompt TEXT`, `--help`
    #[arg(last = true, value_name = "ARGS")]
    pass: Vec<OsString>,
}

/// Fetches the text where it is not there, and trains; the exit code is that of the first run that failed.
pub fn run(args: &Args) -> Result<ExitCode> {
    example::run(&as_example(args))
}

/// The same as a call of `cargo xtask example`.
fn as_example(args: &Args) -> example::Args {
    let steps = args.steps.map(|steps| ["--steps".into(), OsString::from(steps.to_string())]);
    let both = args.compare.then(|| ["--attention", "both"].map(OsString::from));
    example::Args {
        name: "lm".to_owned(),
        backends: args.backends.clone(),
        short: args.short,
        fresh: args.fresh,
        out: args.out.clone(),
        pass: [steps, both].into_iter().flatten().flatten().chain(args.pass.iter().cloned()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_passed_on_before_the_rest() {
        let args = Args {
            backends: Vec::new(),
            steps: Some(50),
            compare: true,
            short: false,
            fresh: true,
            out: None,
            pass: vec!["--seed".into(), "2".into()],
        };
        let example = as_example(&args);
        assert_eq!((example.name.as_str(), example.fresh), ("lm", true));
        assert_eq!(example.pass, ["--steps", "50", "--attention", "both", "--seed", "2"]);
    }
}
