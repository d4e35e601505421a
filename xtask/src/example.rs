//! `cargo xtask example`: runs one of the small programs of `examples/`, with the data it needs, on the chosen backends.
//!
//! [`TABLE`] has a row for each; a new example is a new row.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus};
use std::sync::Once;

use anyhow::{Context, Result};
use clap::builder::PossibleValuesParser;

use crate::backends::{self, Backend};
use crate::data;
use crate::metadata::Metadata;
use crate::workspace;

/// Which program, on what.
#[derive(clap::Args)]
pub struct Args {
    /// The program
    #[arg(value_parser = PossibleValuesParser::new(TABLE.map(|row| row.name)))]
    pub name: String,
    /// A backend to run it on; repeat for more [default: the example's own]
    #[arg(long = "backend", value_name = "NAME", value_parser = backends::parse_backend)]
    pub backends: Vec<&'static Backend>,
    /// For examples that learn: a run of a minute or two
    #[arg(long)]
    pub short: bool,
    /// For examples that learn: begin anew, also where an earlier run was stopped or is done
    #[arg(long)]
    pub fresh: bool,
    /// For examples that learn: where the checkpoint, the pictures and the page go [default: examples/ in cargo's target folder]
    #[arg(long, value_name = "FOLDER")]
    pub out: Option<PathBuf>,
    /// What to pass to the program itself: `--seed 2`, `--epochs 9`, `--help`, and what it has of its own
    #[arg(last = true, value_name = "ARGS")]
    pub pass: Vec<OsString>,
}

/// An example.
struct Example {
    /// Its name here, and that of its binary.
    name: &'static str,
    /// The backends it runs on where none is named.
    backends: &'static [&'static str],
    kind: Kind,
}

enum Kind {
    /// It runs once, on all backends, and takes no options.
    Once,
    /// It learns, from a data set, on each backend by itself, and takes the options of `examples/learn`.
    Learns {
        /// Its data set.
        data: Option<&'static str>,
        /// Options of its own that make it read another: option, data set.
        instead: &'static [(&'static str, &'static str)],
    },
}

const TABLE: [Example; 9] = [
    Example { name: "libtorch", backends: &["ndarray", "tch"], kind: Kind::Once },
    learns("translate", None, &[("--catalogues", "django")]),
    learns("sentiment", Some("vader"), &[]),
    learns("support", Some("chatterbot"), &[]),
    learns("digits", Some("sklearn-digits"), &[("--mnist", "mnist")]),
    learns("recommend", None, &[]),
    learns("forecast", Some("vega"), &[]),
    learns("fuse", Some("sklearn-digits"), &[]),
    learns("lm", Some("moby-dick"), &[]),
];

/// An example that learns, on Flex where no backend is named.
const fn learns(
    name: &'static str,
    data: Option<&'static str>,
    instead: &'static [(&'static str, &'static str)],
) -> Example {
    Example { name, backends: &["flex"], kind: Kind::Learns { data, instead } }
}

/// Builds the program with the chosen backends and runs it; the exit code is that of the first run that failed.
pub fn run(args: &Args) -> Result<ExitCode> {
    let row = TABLE.iter().find(|row| row.name == args.name).context("no such example")?;
    let default = || row.backends.iter().filter_map(|name| backends::parse_backend(name).ok()).collect();
    let chosen: Vec<_> = if args.backends.is_empty() { default() } else { args.backends.clone() };
    let Kind::Learns { data, instead } = &row.kind else {
        return workspace::pass_on(workspace::program(row.name, &chosen, &[])?.args(&args.pass));
    };
    let instead = instead.iter().find(|(option, _)| args.pass.iter().any(|word| word == option)).map(|(_, set)| *set);
    let data = instead.or(*data).map(|set| ensure(set, &args.pass)).transpose()?.flatten();
    for backend in &chosen {
        let mut program = workspace::program(row.name, &chosen, &[])?;
        add_arguments(&mut program, args, backend, &out(args, backend, chosen.len() > 1, instead)?, data.as_deref());
        let status = waited_for(&mut program)?;
        if !status.success() {
            return Ok(workspace::exit_code(status));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Every example that learns, by `--short` and anew, on its own backends; for the continuous integration.
pub fn run_all_short() -> Result<()> {
    for row in TABLE.iter().filter(|row| matches!(row.kind, Kind::Learns { .. })) {
        let (name, pass) = (row.name.to_owned(), Vec::new());
        let code = run(&Args { name, backends: Vec::new(), short: true, fresh: true, out: None, pass })?;
        anyhow::ensure!(code == ExitCode::SUCCESS, "the example {} failed", row.name);
    }
    Ok(())
}

/// The folder of a data set, unless the program is told of another.
fn ensure(set: &str, pass: &[OsString]) -> Result<Option<PathBuf>> {
    let is_told = |word: &OsString| word == "--data" || word.to_string_lossy().starts_with("--data=");
    if pass.iter().any(is_told) {
        return Ok(None);
    }
    Ok(Some(data::ensure(data::parse(set).map_err(anyhow::Error::msg)?)?.0))
}

/// Where a run writes: each backend and each data set in a folder of its own, and a short run apart from a whole one.
fn out(args: &Args, backend: &Backend, several: bool, instead: Option<&str>) -> Result<PathBuf> {
    match &args.out {
        Some(folder) if several => Ok(folder.join(backend.name)),
        Some(folder) => Ok(folder.clone()),
        None => {
            let words = [Some(&*args.name), instead, Some(backend.name), args.short.then_some("short")];
            let name = words.into_iter().flatten().collect::<Vec<_>>().join("-");
            Ok(Metadata::read()?.target_directory.join("examples-out").join(name))
        }
    }
}

/// Runs a program to its end, also through Ctrl-C: the terminal tells the program of it, which ends in its own way.
fn waited_for(program: &mut Command) -> Result<ExitStatus> {
    static LISTENING: Once = Once::new();
    let mut set = Ok(());
    LISTENING.call_once(|| set = ctrlc::set_handler(|| ()));
    set.context("cannot listen for Ctrl-C")?;
    workspace::status(program)
}

fn add_arguments(program: &mut Command, args: &Args, backend: &Backend, out: &Path, data: Option<&Path>) {
    program.args(["--backend", backend.name]).arg("--out").arg(out);
    if let Some(folder) = data {
        program.arg("--data").arg(folder);
    }
    for (option, is_on) in [("--short", args.short), ("--fresh", args.fresh)] {
        if is_on {
            program.arg(option);
        }
    }
    program.args(&args.pass);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(out: Option<&str>, short: bool) -> Args {
        let (name, pass) = ("digits".to_owned(), vec!["--seed".into(), "2".into()]);
        Args { name, backends: Vec::new(), short, fresh: true, out: out.map(Into::into), pass }
    }

    #[test]
    fn every_row_names_a_package_backends_and_data_that_there_are() {
        for row in &TABLE {
            let package = format!("attn-example-{}", row.name);
            assert!(backends::WITH_FEATURES.contains(&&*package), "{package}");
            assert!(row.backends.iter().all(|name| backends::parse_backend(name).is_ok()), "{}", row.name);
            if let Kind::Learns { data, instead } = &row.kind {
                let sets = instead.iter().map(|(_, set)| *set).chain(*data);
                assert!(sets.into_iter().all(|set| data::parse(set).is_ok()), "{}", row.name);
            }
        }
    }

    #[test]
    fn runs_do_not_share_folders() {
        let [flex, ndarray] = ["flex", "ndarray"].map(|name| backends::parse_backend(name).unwrap());
        let mut folders = Vec::new();
        for (short, backend, instead) in
            [(true, flex, None), (false, flex, None), (false, ndarray, None), (false, flex, Some("mnist"))]
        {
            folders.push(out(&args(None, short), backend, false, instead).unwrap());
        }
        let names: Vec<_> = folders.iter().map(|folder| folder.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["digits-flex-short", "digits-flex", "digits-ndarray", "digits-mnist-flex"]);
        assert_eq!(out(&args(Some("o"), false), flex, false, None).unwrap(), Path::new("o"));
        assert_eq!(out(&args(Some("o"), false), flex, true, None).unwrap(), Path::new("o/flex"));
    }

    #[test]
    fn arguments_reach_the_program() {
        let mut program = Command::new("digits");
        let flex = backends::parse_backend("flex").unwrap();
        add_arguments(&mut program, &args(None, true), flex, Path::new("o"), Some(Path::new("d")));
        let expected = "digits --backend flex --out o --data d --short --fresh --seed 2";
        assert_eq!(workspace::shown(&program), expected);
        assert!(ensure("sklearn-digits", &["--data".into(), "d".into()]).unwrap().is_none());
    }
}
