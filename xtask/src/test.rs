//! `cargo xtask test`: every unit, property and doc test of every crate, for the chosen backends.

use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Write};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::backends::{self, Backend};
use crate::workspace;

/// What to test on.
#[derive(clap::Args)]
pub struct Args {
    /// A backend to test on; repeat for more [default: ndarray and flex]
    #[arg(long = "backend", value_name = "NAME", value_parser = backends::parse_backend)]
    backends: Vec<&'static Backend>,
    /// What to pass to the tests themselves: a filter, `--nocapture`
    #[arg(last = true, value_name = "ARGS")]
    pass: Vec<OsString>,
}

/// The packages whose tests do not depend on a backend.
const PLAIN: [&str; 3] = ["attn-core", "attn-cpu", "attn-host"];

/// Runs the tests; the exit code is 1 where any failed.
pub fn run(args: &Args) -> Result<ExitCode> {
    let chosen = backends::or_default(&args.backends);
    Ok(if all(&chosen, &args.pass)? { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs all tests for `chosen` and closes with their sum; tells whether all passed.
pub fn all(chosen: &[&Backend], pass: &[OsString]) -> Result<bool> {
    let mut library = workspace::cargo("test");
    library.envs(backends::prepare(chosen)?).arg("--no-fail-fast").args(selection(chosen));
    // On its own, so that it is compiled with the very dependencies that it runs with now.
    let mut own = workspace::cargo("test");
    own.args(["--no-fail-fast", "--package", "xtask"]);
    for command in [&mut library, &mut own] {
        command.arg("--").args(pass);
    }
    let names: Vec<_> = chosen.iter().map(|backend| backend.name).collect();
    let (passed, _) = summed(&names.join(", "), [library, own])?;
    Ok(passed)
}

/// Runs one `cargo test` on `what`, closes with its sum, and fails where a test does or where there was none.
pub fn demand(what: &str, tests: Command) -> Result<()> {
    let shown = workspace::shown(&tests);
    match summed(what, [tests])? {
        (true, Sum { passed: 1.., .. }) => Ok(()),
        (true, _) => bail!("no test ran: {shown}"),
        (false, _) => bail!("tests failed: {shown}"),
    }
}

/// Runs `cargo test`s on `what` and closes with their sum; tells whether all succeeded, and the sum.
fn summed<const N: usize>(what: &str, commands: [Command; N]) -> Result<(bool, Sum)> {
    let start = Instant::now();
    let (mut passed, mut sum) = (true, Sum::default());
    for mut command in commands {
        passed &= watch(&mut command, &mut sum)?;
    }
    println!("\nTests on {what} in {:.0} s:", start.elapsed().as_secs_f64());
    println!("{} passed, {} failed, {} skipped", sum.passed, sum.failed, sum.ignored);
    Ok((passed, sum))
}

/// The `--package` and `--features` of everything that is tested with `chosen`. Whoever builds with these and `--tests`
/// shares every artefact with the tests.
pub fn selection(chosen: &[&Backend]) -> Vec<String> {
    let mut packages = PLAIN.to_vec();
    packages.extend(backends::bindings(chosen));
    packages.extend(backends::WITH_FEATURES);
    backends::selection(&packages, chosen, backends::NEON_MODEL)
}

/// Runs a `cargo test`, shows its lines as they come and adds up its closing ones; tells whether it succeeded.
fn watch(command: &mut Command, sum: &mut Sum) -> Result<bool> {
    let mut child = command.stdout(Stdio::piped()).spawn().context("cannot run cargo test")?;
    let lines = BufReader::new(child.stdout.take().context("cargo test has no output")?);
    let mut shown = io::stdout().lock();
    for line in lines.split(b'\n') {
        let line = line?;
        shown.write_all(&line)?;
        shown.write_all(b"\n")?;
        shown.flush()?;
        sum.add(&String::from_utf8_lossy(&line));
    }
    Ok(child.wait()?.success())
}

/// The sum of the closing lines.
#[derive(Default, PartialEq, Debug)]
struct Sum {
    passed: u64,
    failed: u64,
    ignored: u64,
}

impl Sum {
    /// Adds `test result: ok. 3 passed; 0 failed; 1 ignored; …`, and nothing for any other line.
    fn add(&mut self, line: &str) {
        let Some((_, counts)) = line.strip_prefix("test result: ").and_then(|rest| rest.split_once(". ")) else {
            return;
        };
        for count in counts.split("; ") {
            match count.split_once(' ').map(|(number, what)| (number.parse::<u64>(), what)) {
                Some((Ok(number), "passed")) => self.passed += number,
                Some((Ok(number), "failed")) => self.failed += number,
                Some((Ok(number), "ignored")) => self.ignored += number,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_lines_are_summed_and_others_are_not() {
        let mut sum = Sum::default();
        sum.add("test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.1s");
        sum.add("test result: FAILED. 5 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.1s");
        sum.add("12 passed, 0 failed");
        sum.add("test a ... ok");
        assert_eq!(sum, Sum { passed: 17, failed: 2, ignored: 1 });
    }

    #[test]
    fn one_backend_selects_its_own_binding_alone() {
        let words = selection(&[backends::parse_backend("flex").unwrap()]);
        assert!(words.contains(&"--package=attn-flex".to_owned()));
        assert!(!words.iter().any(|word| word.contains("ndarray")), "{words:?}");
        let features = words.last().unwrap();
        assert!(
            features
                .starts_with("--features=burn-attn/flex,attn-testing/flex,attn-benches/flex,attn-example-minilm/flex"),
            "{features}"
        );
    }
}
