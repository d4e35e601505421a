//! `cargo xtask`: sets up, tests, verifies, shows and measures the attention of this workspace.
//!
//! One file a command. What they share: `workspace` (paths, cargo, the cache folder), `backends` (the one table of
//! backends), `metadata` (what cargo knows of the packages), `fetch` with `registry` and `progress` (how the pretrained model,
//! the examples' data and LibTorch come here), `table` (plain text tables).
//! Nothing of Burn is in here, so that it compiles in seconds; the programs it runs are built by cargo when they are needed.

mod backends;
mod bench;
mod ci;
mod data;
mod debian;
mod demo;
mod doctor;
mod example;
mod fetch;
mod gpu;
mod libtorch;
mod metadata;
mod model;
mod progress;
mod registry;
mod table;
mod test;
mod tidy;
mod train;
mod verify;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// The command line.
#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about = "Tests, verifies, shows and measures attention on every backend"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// What there is to do.
#[derive(Subcommand)]
enum Command {
    /// Run every unit, property and doc test
    Test(test::Args),
    /// Judge backends by case files, gradients included
    Verify(verify::Args),
    /// Measure our attention beside that of others
    Bench(bench::Args),
    /// Let a pretrained transformer read sentences through our attention, and show where it looks
    Demo(demo::Args),
    /// Run one of the small programs of examples/
    Example(example::Args),
    /// Train a small language model on a novel, and let it write
    Train(train::Args),
    /// Fetch the examples' data into the cache
    Data(data::Args),
    /// Fetch LibTorch for the backend tch into the cache
    Libtorch(libtorch::Args),
    /// Tell which backends can run here, and how to get the others
    Doctor(doctor::Args),
    /// Check the tree: module comments, crate arrows, file lengths, unsafe, host names
    Tidy,
    /// Run all that the continuous integration runs
    Ci(ci::Args),
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Test(args) => test::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Example(args) => example::run(&args),
        Command::Train(args) => train::run(&args),
        Command::Data(args) => data::run(&args),
        Command::Libtorch(args) => libtorch::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Tidy => tidy::run(),
        Command::Ci(args) => ci::run(&args),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn an_unknown_backend_is_refused_with_the_known_ones() {
        let error = Cli::try_parse_from(["xtask", "test", "--backend", "abacus"]).err().expect("abacus is no backend");
        let text = error.to_string();
        assert!(text.contains("abacus") && text.contains("ndarray") && text.contains("flex"), "{text}");
    }

    #[test]
    fn kernel_paths_are_for_verify_alone() {
        assert!(Cli::try_parse_from(["xtask", "verify", "--backend", "cpu-avx2", "cases"]).is_ok());
        assert!(Cli::try_parse_from(["xtask", "test", "--backend", "cpu-avx2"]).is_err());
    }
}
