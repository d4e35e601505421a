//! The step `arm`: the tests of attn-cpu on the instructions of an Arm CPU, which QEMU emulates one program at a time.
//!
//! Elsewhere the NEON kernel is tested on a model of its instructions in plain Rust; here the compiler for Arm makes the code that users
//! run. That takes a standard library for Arm: the toolchain's own where rustup has added one, else Debian's, with Debian's compiler,
//! which alone can use it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, anyhow};

use super::Skipped;
use super::memory::COUNTING;
use crate::metadata::Metadata;
use crate::{debian, test, workspace};

/// What is built for.
const TARGET: &str = "aarch64-unknown-linux-gnu";
/// Links programs for it.
const LINKER: &str = "aarch64-linux-gnu-gcc";
/// Runs them, by either name.
const EMULATORS: [&str; 2] = ["qemu-aarch64-static", "qemu-aarch64"];
/// Where the cross compiler's C library is.
const LIBRARIES: &str = "/usr/aarch64-linux-gnu";
/// What starts a program for it, where the C library of Debian for Arm is here, too.
const LOADER: &str = "/lib/ld-linux-aarch64.so.1";
/// Where Debian's Rust is.
const DEBIAN: &str = "/usr/bin";
/// What to do on a machine that is not Debian's.
const GET: &str = "rustup target add aarch64-unknown-linux-gnu, a cross compiler aarch64-linux-gnu-gcc with its C library, and qemu-aarch64";

/// Runs the tests, and installs before what they need.
pub fn tests() -> Result<()> {
    if cfg!(target_arch = "aarch64") {
        return Err(Skipped::because("this CPU is an Arm, so that the other steps ran its instructions"));
    }
    if !cfg!(target_os = "linux") {
        return Err(Skipped::because("QEMU emulates another CPU's programs on Linux alone"));
    }
    let kit = match Kit::look() {
        Ok(kit) => kit,
        Err(packages) => {
            debian::install(&packages, GET)?;
            Kit::look().map_err(|packages| anyhow!("still missing: {}; {GET}", packages.join(", ")))?
        }
    };
    // In a folder of its own, since another compiler would have cargo build what is for this machine again.
    let folder = Metadata::read()?.target_directory.join("emulated");
    let mut tests = workspace::cargo("test");
    tests.args(["--package=attn-cpu", "--no-fail-fast", "--target", TARGET, "--target-dir"]).arg(folder);
    kit.set_up(&mut tests);
    tests.args(["--", "--skip", COUNTING]);
    test::demand("an emulated Arm CPU", tests)
}

/// What tests for Arm need here.
struct Kit {
    /// Where a compiler lies that has a standard library for Arm, if that is not the one of this toolchain.
    rust: Option<&'static Path>,
    emulator: PathBuf,
}

impl Kit {
    /// Looks for it; the packages that are missing where it is not complete.
    fn look() -> Result<Self, Vec<&'static str>> {
        let mut missing = Vec::new();
        let rust = [None, Some(Path::new(DEBIAN))].into_iter().find(|folder| has_library(*folder));
        if rust.is_none() {
            missing.extend(["rustc-web", "libstd-rust-web-dev:arm64"]);
        }
        if workspace::on_path(LINKER).is_none() || !Path::new(LIBRARIES).join("lib/crt1.o").is_file() {
            missing.extend(["gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross"]);
        }
        let emulator = EMULATORS.into_iter().find_map(workspace::on_path);
        if emulator.is_none() {
            missing.push("qemu-user-static");
        }
        match (rust, emulator) {
            (Some(rust), Some(emulator)) if missing.is_empty() => Ok(Self { rust, emulator }),
            _ => Err(missing),
        }
    }

    /// Tells cargo of it.
    fn set_up(&self, cargo: &mut Command) {
        if let Some(folder) = self.rust {
            cargo.env("RUSTC", folder.join("rustc")).env("RUSTDOC", folder.join("rustdoc"));
        }
        cargo.env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", LINKER);
        let runner = runner(&self.emulator, Path::new(LOADER).exists());
        cargo.env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER", runner);
    }
}

/// What cargo puts before a test program: the emulator, with a folder for a C library where the system has none for Arm. Where it has, its
/// loader would find both, and mixed with the other's libraries a thread's start does not end.
fn runner(emulator: &Path, system_has_loader: bool) -> String {
    let libraries = if system_has_loader { String::new() } else { format!(" -L {LIBRARIES}") };
    format!("{}{libraries}", emulator.display())
}

/// Whether a compiler (that of this toolchain where no folder is named) has a standard library for Arm.
fn has_library(folder: Option<&Path>) -> bool {
    let compiler = folder.map_or_else(|| PathBuf::from("rustc"), |folder| folder.join("rustc"));
    let output = Command::new(compiler).args(["--print", "target-libdir", "--target", TARGET]).output();
    let Some(output) = output.ok().filter(|output| output.status.success()) else { return false };
    let entries = fs::read_dir(String::from_utf8_lossy(&output.stdout).trim());
    entries.is_ok_and(|mut entries| {
        entries.any(|entry| entry.is_ok_and(|entry| entry.file_name().to_string_lossy().starts_with("libstd-")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_c_library_is_used() {
        let emulator = Path::new("/bin/qemu-aarch64");
        assert_eq!(runner(emulator, true), "/bin/qemu-aarch64");
        assert_eq!(runner(emulator, false), "/bin/qemu-aarch64 -L /usr/aarch64-linux-gnu");
    }

    #[test]
    fn another_compiler_brings_its_own_rustdoc() {
        let kit = |rust| {
            let mut cargo = Command::new("cargo");
            Kit { rust, emulator: "qemu-aarch64".into() }.set_up(&mut cargo);
            cargo.get_envs().filter(|(name, _)| name.to_string_lossy().starts_with("RUST")).count()
        };
        assert_eq!((kit(None), kit(Some(Path::new(DEBIAN)))), (0, 2));
    }
}
