//! `cargo xtask ci`: all that the continuous integration runs, in order, each step named and timed.
//!
//! The order is that of cost: what fails in seconds comes first. The tests and the verifier share one build (the kernels and
//! the backends are optimised in the `dev` profile, see the root manifest); the linter and rustdoc share one check.

mod arm;
mod deny;
mod memory;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};
use std::{env, fmt, fs, io};

use anyhow::{Context, Result, bail};
use clap::builder::PossibleValuesParser;

use crate::backends::{self, Backend, Kind};
use crate::metadata::Metadata;
use crate::{example, gpu, table, test, tidy, verify, workspace};

/// Which steps.
#[derive(clap::Args)]
pub struct Args {
    /// Run this step alone; repeat for more
    #[arg(long, value_name = "STEP", value_parser = PossibleValuesParser::new(STEPS.map(|step| step.name)))]
    only: Vec<String>,
}

/// Something that must succeed.
struct Step {
    name: &'static str,
    what: &'static str,
    run: fn() -> Result<()>,
}

/// The error of a step that cannot run on this machine, which fails nothing: the closing table says so with the reason.
#[derive(Debug)]
struct Skipped(&'static str);

impl Skipped {
    fn because(reason: &'static str) -> anyhow::Error {
        Self(reason).into()
    }
}

impl std::error::Error for Skipped {}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "skipped: {}", self.0)
    }
}

const STEPS: [Step; 17] = [
    Step { name: "lockfile", what: "Cargo.lock is what the manifests ask for", run: lockfile },
    Step { name: "fmt", what: "rustfmt has nothing to change", run: fmt },
    Step { name: "tidy", what: "module comments, crate arrows, lengths, unsafe, host names", run: tidy },
    Step { name: "driver", what: "a Vulkan driver is here; Debian's is installed where none is", run: gpu::install },
    Step { name: "clippy", what: "clippy and the compiler warn of nothing", run: clippy },
    Step { name: "docs", what: "rustdoc warns of nothing", run: docs },
    Step { name: "alone", what: "attn-core builds with its own dependencies alone", run: alone },
    Step { name: "browser", what: "the GPU kernels build for a browser's WebGPU, without a warning", run: browser },
    Step { name: "test", what: "every test passes on every backend here", run: tests },
    Step {
        name: "arm",
        what: "every test of attn-cpu passes on an emulated Arm CPU, NEON's instructions on it",
        run: arm::tests,
    },
    Step { name: "asan", what: "AddressSanitizer has nothing to report of attn-cpu's tests", run: memory::sanitizer },
    Step {
        name: "valgrind",
        what: "Valgrind has nothing to report of attn-cpu's tests, with few cases",
        run: memory::valgrind,
    },
    Step { name: "fusion", what: "the GPU backend answers the same with Burn's fusion and autotune", run: fusion },
    Step { name: "verify", what: "every case passes on every backend and kernel path here", run: cases },
    Step { name: "examples", what: "every example that learns does, in a short run", run: example::run_all_short },
    Step { name: "deny", what: "licences, sources and bans of the dependencies", run: deny::check },
    Step { name: "package", what: "every published crate packages, and builds from its package", run: package },
];

/// Runs the steps up to the first failure, and closes with how long each took.
pub fn run(args: &Args) -> Result<ExitCode> {
    let wanted: Vec<_> =
        STEPS.iter().filter(|step| args.only.is_empty() || args.only.iter().any(|name| name == step.name)).collect();
    let mut done = Vec::new();
    let mut failed = false;
    for (at, step) in wanted.iter().enumerate() {
        println!("\n==> {} of {}: {} ({})", at + 1, wanted.len(), step.name, step.what);
        let start = Instant::now();
        let result = (step.run)();
        let (ended, fine) = outcome(&result);
        done.push([step.name.to_owned(), ended, seconds(start.elapsed())]);
        failed = !fine;
        match result {
            Err(error) if failed => {
                eprintln!("error: {}: {error:#}", step.name);
                break;
            }
            Err(skipped) => println!("{skipped}"),
            Ok(()) => {}
        }
    }
    let left = wanted[done.len()..].iter().map(|step| [step.name.to_owned(), "not run".to_owned(), String::new()]);
    println!("\n{}", table::text(["step", "result", "time"], done.into_iter().chain(left)));
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// How a step ended, and whether the next may begin.
fn outcome(result: &Result<()>) -> (String, bool) {
    match result {
        Ok(()) => ("passed".to_owned(), true),
        Err(error) => match error.downcast_ref::<Skipped>() {
            Some(skipped) => (skipped.to_string(), true),
            None => ("failed".to_owned(), false),
        },
    }
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

/// The backends that the continuous integration judges: those that any machine can run once their libraries have come.
fn chosen() -> Vec<&'static Backend> {
    backends::TABLE.iter().filter(|row| row.kind == Kind::Backend).collect()
}

/// Cargo on the whole workspace with the features of the backends judged.
fn whole(subcommand: &str) -> Result<Command> {
    let mut command = workspace::cargo(subcommand);
    let features = backends::features(&backends::WITH_FEATURES, &chosen(), backends::NEON_MODEL);
    command.args(["--workspace", &features]).envs(backends::prepare(&chosen())?);
    Ok(command)
}

fn lockfile() -> Result<()> {
    let mut cargo = workspace::cargo("metadata");
    workspace::demand(cargo.args(["--locked", "--format-version", "1"]).stdout(Stdio::null()))
}

fn fmt() -> Result<()> {
    workspace::demand(workspace::cargo("fmt").args(["--all", "--check"]))
}

fn tidy() -> Result<()> {
    if !tidy::is_clean()? {
        bail!("there are findings");
    }
    Ok(())
}

fn clippy() -> Result<()> {
    workspace::demand(whole("clippy")?.args(["--all-targets", "--", "--deny", "warnings"]))
}

fn docs() -> Result<()> {
    workspace::demand(whole("doc")?.arg("--no-deps").env("RUSTDOCFLAGS", "--deny warnings"))
}

fn alone() -> Result<()> {
    workspace::demand(workspace::cargo("check").args(["--package", "attn-core"]))
}

/// No step runs them there: that takes a browser. The target's standard library is fetched where rustup can.
fn browser() -> Result<()> {
    const TARGET: &str = "wasm32-unknown-unknown";
    let added = Command::new("rustup").args(["target", "add", TARGET]).status();
    if !added.is_ok_and(|status| status.success()) {
        return Err(Skipped::because(
            "rustup, which adds the target wasm32-unknown-unknown, is not here or has no network",
        ));
    }
    let mut cargo = workspace::cargo("clippy");
    cargo.args(["--package=attn-example-browser", "--target", TARGET, "--", "--deny", "warnings"]);
    workspace::demand(&mut cargo)
}

/// With `fusion` Burn's dispatch calls another type, for which other code of ours stands.
/// With fusion Burn's operations, the composite's among them, become other kernels; with autotune, its matrix products do. The tests
/// that a GPU backend could fail for that are those of cases, gradients, tails, repetition, errors and which kernels there are.
fn fusion() -> Result<()> {
    let mut tests = workspace::cargo("test");
    tests.args(["--package=attn-testing", "--no-default-features", "--features=wgpu,fusion,autotune", "--test=suite"]);
    tests.args([
        "--",
        "cases::",
        "wgpu::with_gradients",
        "wgpu::tails",
        "wgpu::two_runs",
        "wgpu::every_kernel",
        "wgpu_errors::",
    ]);
    workspace::demand(tests.envs(gpu::environment()?))
}

/// Without the test that judges every engine by every shared case where the step `verify` does just that, by the same code.
fn tests() -> Result<()> {
    let skipped: &[OsString] = if shared_cases().is_some() {
        &["--skip".into(), "every_engine_reproduces_every_shared_case".into()]
    } else {
        &[]
    };
    if !test::all(&chosen(), skipped)? {
        bail!("tests failed");
    }
    Ok(())
}

/// The cases lie beside the checkout where the project is developed; a copy of the repository alone has none.
fn cases() -> Result<()> {
    let Some(cases) = shared_cases() else {
        return Err(Skipped::because("there is no folder ../shared/cases beside this checkout"));
    };
    let backends = chosen();
    let environment = backends::prepare(&backends)?;
    let mut build = workspace::cargo("build");
    build.envs(environment.clone()).args(test::selection(&backends)).args(["--tests", "--bin", verify::BIN]);
    workspace::demand(&mut build)?;
    let program = Metadata::read()?.target_directory.join("debug").join(format!(
        "{}{}",
        verify::BIN,
        std::env::consts::EXE_SUFFIX
    ));
    workspace::demand(Command::new(program).envs(environment).args(backends::arguments(&judged(&backends))).arg(cases))
}

/// The folder of shared cases, where it is.
fn shared_cases() -> Option<PathBuf> {
    Some(workspace::root().join("../shared/cases")).filter(|cases| cases.is_dir())
}

/// The backends, and every kernel path that this CPU has.
fn judged(backends: &[&'static Backend]) -> Vec<&'static Backend> {
    let paths = backends::TABLE.iter().filter(|row| row.kind == Kind::Path && (row.look)().is_ok());
    backends.iter().copied().chain(paths).collect()
}

/// Packages every crate that is published, and builds each from its package alone. Cargo lets the packages of one call find
/// each other, so this holds before the first of them is published.
fn package() -> Result<()> {
    forget_packages()?;
    let mut command = workspace::cargo("package");
    command.envs(backends::prepare(&chosen())?);
    // What is not committed yet belongs to what is being checked.
    command.args(["--allow-dirty", "--quiet"]);
    for package in Metadata::read()?.packages {
        if package.is_published() {
            command.args(["--package", &package.name]);
        }
    }
    workspace::demand(&mut command)
}

/// Removes what cargo unpacked and built of our packages in an earlier run: it takes a package of the same name and version as the
/// same, and would build today's packages against those of that day.
fn forget_packages() -> Result<()> {
    let metadata = Metadata::read()?;
    let home = env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| Some(env::home_dir()?.join(".cargo")));
    let registry = home.map(|home| home.join("registry"));
    let mut folders = vec![metadata.target_directory.join("debug/.fingerprint")];
    for kind in registry.iter().flat_map(|registry| [registry.join("src"), registry.join("cache")]) {
        folders.extend(entries(&kind)?);
    }
    let names: Vec<_> = metadata.packages.iter().filter(|package| package.is_published()).collect();
    for path in folders.iter().map(|folder| entries(folder)).collect::<Result<Vec<_>>>()?.into_iter().flatten() {
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        if names.iter().any(|package| is_of(&file, &package.name)) {
            if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) }
                .with_context(|| format!("removing {}", path.display()))?;
        }
    }
    Ok(())
}

/// What lies in a folder; nothing where there is none.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    match fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).with_context(|| format!("reading {}", folder.display())),
    }
}

/// Whether a file or folder is named after a package and a release or a hash of it: `attn-core-0.1.0`, `attn-core-0.1.0.crate`,
/// `attn-core-0f1e2d3c4b5a6978`.
fn is_of(file: &str, package: &str) -> bool {
    let Some(rest) = file.strip_prefix(package).and_then(|rest| rest.strip_prefix('-')) else { return false };
    let is_hash = rest.len() == 16 && rest.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hash || rest.contains('.') && rest.starts_with(|first: char| first.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_skipped_step_fails_nothing_and_gives_its_reason() {
        assert_eq!(outcome(&Ok(())), ("passed".into(), true));
        assert_eq!(outcome(&Err(Skipped::because("no reason"))), ("skipped: no reason".into(), true));
        assert_eq!(outcome(&Err(anyhow::anyhow!("skipped: no"))), ("failed".into(), false));
    }

    #[test]
    fn every_backend_and_path_of_this_cpu_is_judged_once() {
        let names: Vec<_> = judged(&chosen()).iter().map(|row| row.name).collect();
        for name in ["ndarray", "flex", "tch", "wgpu", "composite", "cpu-portable"] {
            assert_eq!(names.iter().filter(|other| **other == name).count(), 1, "{names:?}");
        }
    }

    #[test]
    fn packages_are_told_from_others() {
        let of_core = |file| is_of(file, "attn-core");
        assert!(
            of_core("attn-core-0.1.0") && of_core("attn-core-0.1.0.crate") && of_core("attn-core-0f1e2d3c4b5a6978")
        );
        assert!(!of_core("attn-core-macros-0.1.0") && !of_core("attn-core") && !of_core("attn-cpu-0.1.0"));
    }

    #[test]
    fn what_is_published_is_known() {
        let metadata = Metadata::read().unwrap();
        let published: Vec<_> =
            metadata.packages.iter().filter(|package| package.is_published()).map(|package| &*package.name).collect();
        assert!(published.contains(&"burn-attn") && published.contains(&"attn-core"), "{published:?}");
        assert!(!published.contains(&"xtask") && !published.contains(&"attn-testing"), "{published:?}");
    }
}
