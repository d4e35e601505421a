//! `cargo xtask verify`: judges backends and kernel paths by case files.

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::Result;

use crate::backends::{self, Backend};
use crate::workspace;

/// The program that does the judging.
pub const BIN: &str = "attn-verify";

/// What to judge, by what.
#[derive(clap::Args)]
pub struct Args {
    /// A backend or a kernel path to judge; repeat for more [default: ndarray and flex]
    #[arg(long = "backend", value_name = "NAME", value_parser = backends::parse_any)]
    backends: Vec<&'static Backend>,
    /// Judge the forward pass alone
    #[arg(long)]
    no_grad: bool,
    /// Case files, or folders of them
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
}

/// Runs the verifier and passes its exit code on: 1 where any case failed.
pub fn run(args: &Args) -> Result<ExitCode> {
    let chosen = backends::or_default(&args.backends);
    workspace::pass_on(add_arguments(&mut workspace::program(BIN, &chosen, &[])?, args, &chosen))
}

fn add_arguments<'a>(command: &'a mut Command, args: &Args, chosen: &[&Backend]) -> &'a mut Command {
    command.args(backends::arguments(chosen));
    if args.no_grad {
        command.arg("--no-grad");
    }
    command.arg("--").args(&args.paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_reach_the_verifier_in_order() {
        let args = Args { backends: vec![], no_grad: true, paths: vec!["a".into(), "-b".into()] };
        let mut command = Command::new("attn-verify");
        add_arguments(&mut command, &args, &backends::or_default(&args.backends));
        let shown = workspace::shown(&command);
        assert_eq!(shown, "attn-verify --backend ndarray --backend flex --no-grad -- a -b");
    }
}
