//! Where things are, and how a program of the workspace is run: the root, the cache folder, cargo.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus};

use anyhow::{Context, Result, bail};

use crate::backends::{self, Backend, Feature};
use crate::metadata::Metadata;

/// The root of the checkout: the folder above this crate, from whatever sub-folder `cargo xtask` was called.
pub fn root() -> PathBuf {
    let manifest = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    let manifest = PathBuf::from(manifest);
    manifest.parent().map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

/// The folder of what outlives a checkout: `$ATTN_CACHE`, else `$XDG_CACHE_HOME/attn`, else `~/.cache/attn`.
///
/// # Errors
/// Where none of the three is known.
pub fn cache() -> Result<PathBuf> {
    cache_from(env::var_os("ATTN_CACHE").as_deref(), env::var_os("XDG_CACHE_HOME").as_deref(), env::home_dir())
}

fn cache_from(own: Option<&OsStr>, xdg: Option<&OsStr>, home: Option<PathBuf>) -> Result<PathBuf> {
    if let Some(own) = own.filter(|path| !path.is_empty()) {
        return std::path::absolute(own).context("ATTN_CACHE is no path");
    }
    // The XDG specification: a relative path is to be ignored.
    let xdg = xdg.map(PathBuf::from).filter(|path| path.is_absolute());
    let base = xdg.or_else(|| home.filter(|home| home.is_absolute()).map(|home| home.join(".cache")));
    Ok(base.context("no cache folder is known: set ATTN_CACHE to one")?.join("attn"))
}

/// Cargo, told where this workspace is, working in the caller's folder so that relative paths mean what the caller meant.
pub fn cargo(subcommand: &str) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.arg(subcommand).arg("--manifest-path").arg(root().join("Cargo.toml"));
    command
}

/// An optimised program of the workspace, built now with the features of `chosen` and `extra` ones; its own arguments are to be
/// added.
///
/// # Errors
/// Where it does not build.
pub fn program(bin: &str, chosen: &[&Backend], extra: &[Feature]) -> Result<Command> {
    let environment = backends::prepare(chosen)?;
    demand(build_programs(chosen, extra).envs(environment.clone()))?;
    let folder = Metadata::read()?.target_directory.join("release");
    let mut program = Command::new(folder.join(format!("{bin}{}", env::consts::EXE_SUFFIX)));
    program.envs(environment);
    Ok(program)
}

/// All programs are built together, so that cargo settles on one set of features for what they share, and compiles Burn once for all of
/// them instead of once for each.
fn build_programs(chosen: &[&Backend], extra: &[Feature]) -> Command {
    let mut command = cargo("build");
    command.args(["--release", "--bins"]).args(backends::selection(&backends::with_programs(), chosen, extra));
    command
}

/// Runs a command to its end with this terminal; an `Err` only where it could not be started.
pub fn status(command: &mut Command) -> Result<ExitStatus> {
    let name = command.get_program().to_string_lossy().into_owned();
    command.status().with_context(|| format!("cannot run {name}"))
}

/// Runs a command to its end and passes its exit code on.
pub fn pass_on(command: &mut Command) -> Result<ExitCode> {
    Ok(exit_code(status(command)?))
}

/// Runs a command to its end; anything but success is an error that shows the command.
pub fn demand(command: &mut Command) -> Result<()> {
    let status = status(command)?;
    if !status.success() {
        bail!("{status}: {}", shown(command));
    }
    Ok(())
}

/// A process's end as an exit code of ours; one that a signal ended counts as failed.
pub fn exit_code(status: ExitStatus) -> ExitCode {
    match status.code() {
        Some(code) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
        None => ExitCode::FAILURE,
    }
}

/// A command as a person would type it, without the path to the manifest.
pub fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let mut words = vec![program.to_string_lossy().into_owned()];
    let mut args = command.get_args();
    while let Some(arg) = args.next() {
        if arg == "--manifest-path" {
            args.next();
        } else {
            words.push(arg.to_string_lossy().into_owned());
        }
    }
    words.join(" ")
}

/// The program that a name means here, if any.
pub fn on_path(program: &str) -> Option<PathBuf> {
    let folders = env::var_os("PATH")?;
    env::split_paths(&folders).map(|folder| folder.join(program)).find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_folder_follows_its_three_rules() {
        let home = || Some(PathBuf::from("/h"));
        let cache =
            |own: Option<&str>, xdg: Option<&str>, home| cache_from(own.map(OsStr::new), xdg.map(OsStr::new), home);
        assert_eq!(cache(Some("/c"), Some("/x"), home()).unwrap(), Path::new("/c"));
        assert_eq!(cache(Some(""), Some("/x"), home()).unwrap(), Path::new("/x/attn"));
        assert_eq!(cache(None, Some("relative"), home()).unwrap(), Path::new("/h/.cache/attn"));
        assert_eq!(cache(None, None, home()).unwrap(), Path::new("/h/.cache/attn"));
        assert!(cache(None, None, None).unwrap_err().to_string().contains("ATTN_CACHE"));
    }

    #[test]
    fn a_command_is_shown_without_its_manifest() {
        let mut command = Command::new("/somewhere/cargo");
        command.args(["check", "--manifest-path", "/x/Cargo.toml", "--workspace"]);
        assert_eq!(shown(&command), "cargo check --workspace");
    }

    #[test]
    fn programs_are_built_together() {
        let flex = backends::parse_backend("flex").unwrap();
        let programs = backends::with_programs();
        assert!(programs.contains(&"attn-benches") && programs.contains(&"attn-example-fuse"), "{programs:?}");
        assert!(!programs.contains(&"burn-attn") && !programs.contains(&"attn-example-learn"), "{programs:?}");
        let each = |of: fn(&str) -> String| programs.iter().map(|name| of(name)).collect::<Vec<_>>();
        let packages = each(|name| format!("--package={name}")).join(" ");
        let features = each(|name| format!("{name}/flex")).join(",");
        assert_eq!(
            shown(&build_programs(&[flex], &[])),
            format!("cargo build --release --bins {packages} --no-default-features --features={features}")
        );
    }

    #[test]
    fn the_root_holds_the_workspace() {
        assert!(root().join("xtask/Cargo.toml").is_file());
    }
}
