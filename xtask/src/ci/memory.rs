//! The steps `asan` and `valgrind`: attn-cpu, the one library here with unsafe code, reads and writes no memory but its own.
//!
//! AddressSanitizer sees each access of every kernel that this CPU has, but a nightly compiler must build them. Valgrind takes what any
//! compiler built, and knows uninitialised memory too; it is tens of times slower, and hides AVX-512, which it cannot translate. So
//! AVX2's, the portable and the model of NEON's run in it, on fewer random cases.

use std::env;
use std::process::Command;

use anyhow::Result;

use super::Skipped;
use crate::backends::NEON_MODEL;
use crate::metadata::Metadata;
use crate::{debian, test, workspace};

/// What to do on a machine that is not Debian's.
const GET_VALGRIND: &str = "apt-get install -y valgrind (Debian), or your system's own package of it";
/// Stops at nothing, so that a report does not hide another; a program with any ends with a code that no test has.
const VALGRIND: &str = "valgrind --quiet --error-exitcode=99";
/// What the names of the tests hold that count what is allocated: the same on any machine, and a thousand calls of kernels.
pub(super) const COUNTING: &str = "is_what_the_plan_says";
/// Tests that take Valgrind minutes; the others compare bits with bits, of accesses that more tests make.
const LEFT_OUT: [&str; 2] = [COUNTING, "the_same_bits"];

/// The tests under AddressSanitizer, where a nightly toolchain is.
pub fn sanitizer() -> Result<()> {
    if !has_nightly() {
        return Err(Skipped::because("no nightly toolchain (rustup toolchain install nightly)"));
    }
    let folder = Metadata::read()?.target_directory.join("asan");
    let mut tests = Command::new("rustup");
    tests.args(["run", "nightly", "cargo", "test", "--manifest-path"]).arg(workspace::root().join("Cargo.toml"));
    // With a target named, what runs at build time is built without the sanitizer.
    tests.args(["--target=host-tuple", "--target-dir"]).arg(folder).args(selection());
    // Of the ways to give rustc flags the one that no other overrides.
    tests.env("CARGO_ENCODED_RUSTFLAGS", "-Zsanitizer=address");
    test::demand("AddressSanitizer", tests)
}

/// The tests in Valgrind, which is installed where there is none.
pub fn valgrind() -> Result<()> {
    if !cfg!(target_os = "linux") {
        return Err(Skipped::because("Valgrind is set up for Linux alone"));
    }
    if workspace::on_path("valgrind").is_none() {
        debian::install(&["valgrind"], GET_VALGRIND)?;
    }
    let mut tests = workspace::cargo("test");
    tests.args(["--config", &format!("target.'cfg(unix)'.runner='{VALGRIND}'")]).args(selection());
    tests.arg("--").args(LEFT_OUT.map(|name| format!("--skip={name}"))).env("ATTN_FEW_CASES", "1");
    test::demand("Valgrind", tests)
}

/// Documentation's programs are left out: rustdoc links no sanitizer into them.
fn selection() -> Vec<String> {
    let features = NEON_MODEL.iter().map(|(package, feature)| format!("--features={package}/{feature}"));
    let words = ["--package=attn-cpu", "--lib", "--tests", "--no-fail-fast"].map(str::to_owned);
    words.into_iter().chain(features).collect()
}

/// Whether `rustup run nightly` finds a toolchain.
fn has_nightly() -> bool {
    let output = Command::new("rustup").args(["toolchain", "list"]).output();
    output.is_ok_and(|output| lists_nightly(&String::from_utf8_lossy(&output.stdout)))
}

/// Whether the plain `nightly` is in rustup's list; one of a certain day has another name.
fn lists_nightly(list: &str) -> bool {
    list.lines().any(|line| line.strip_prefix("nightly-").is_some_and(|rest| rest.starts_with(env::consts::ARCH)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nightly_is_told_from_other_toolchains() {
        let lists = |line: &str| lists_nightly(&format!("stable-x-y (default)\n{line}\n1.95.0-x-y (active)\n"));
        let arch = env::consts::ARCH;
        assert!(lists(&format!("nightly-{arch}-unknown-linux-gnu")) && lists(&format!("nightly-{arch}-x (override)")));
        assert!(!lists(&format!("nightly-2026-01-01-{arch}-x")) && !lists(&format!("beta-{arch}-x")));
    }

    #[test]
    fn the_features_are_those_of_the_other_tests() {
        assert_eq!(
            selection().iter().filter(|word| word.starts_with("--features=attn-cpu/")).count(),
            NEON_MODEL.len()
        );
    }
}
