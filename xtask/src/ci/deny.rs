//! The step `deny`: cargo-deny, built once into the cache folder, reads deny.toml.
//!
//! Advisories are left out: they change while the tree does not, so they would turn a tree that passed into one that fails.
//! The scheduled job of the workflow asks for them.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::workspace;

/// The release that is used, so that every machine agrees.
const VERSION: &str = "0.20.2";

/// Judges the licences, the sources and the bans of every dependency.
pub fn check() -> Result<()> {
    let mut deny = Command::new(program()?);
    deny.arg("--manifest-path").arg(workspace::root().join("Cargo.toml"));
    workspace::demand(deny.args(["check", "--hide-inclusion-graph", "bans", "licenses", "sources"]))
}

/// The program in the cache, built now where it is missing.
fn program() -> Result<PathBuf> {
    let tools = workspace::cache()?.join("tools");
    let program = tools.join("bin").join(format!("cargo-deny{}", std::env::consts::EXE_SUFFIX));
    if !is_right(&program) {
        println!("building cargo-deny {VERSION} into {}, once", tools.display());
        let build = tools.join("build");
        let mut install = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        install
            .args(["install", "--quiet", "--locked", "--force", "--version", VERSION, "cargo-deny", "--root"])
            .arg(&tools);
        workspace::demand(install.env("CARGO_TARGET_DIR", &build))?;
        std::fs::remove_dir_all(&build).with_context(|| format!("cannot remove {}", build.display()))?;
    }
    Ok(program)
}

fn is_right(program: &Path) -> bool {
    let output = Command::new(program).arg("--version").output();
    output.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).trim() == format!("cargo-deny {VERSION}"))
}
