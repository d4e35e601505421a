//! `cargo xtask example`: runs one of the small programs of `examples/` on the chosen backends.

use std::process::ExitCode;

use anyhow::Result;
use clap::ValueEnum;

use crate::backends::{self, Backend};
use crate::workspace;

/// Which program, on what.
#[derive(clap::Args)]
pub struct Args {
    /// The program
    #[arg(value_enum)]
    name: Name,
    /// A backend to run it on; repeat for more [default: ndarray and tch]
    #[arg(long = "backend", value_name = "NAME", value_parser = backends::parse_backend)]
    backends: Vec<&'static Backend>,
}

/// The programs, by the names of their binaries.
#[derive(Clone, Copy, ValueEnum)]
enum Name {
    /// What Burn's own attention answers on each backend, what it should answer, and what ours does
    Libtorch,
}

/// Builds the program with the chosen backends, runs it and passes its exit code on.
pub fn run(args: &Args) -> Result<ExitCode> {
    let (bin, default) = match args.name {
        Name::Libtorch => ("libtorch", ["ndarray", "tch"]),
    };
    let default: Vec<_> = default.into_iter().filter_map(|name| backends::parse_backend(name).ok()).collect();
    let chosen = if args.backends.is_empty() { default } else { args.backends.clone() };
    workspace::pass_on(&mut workspace::program(bin, &chosen, &[])?)
}
