//! Debian's packages, for machines that only run tests: what they lack is installed where its package manager is at hand.

use std::process::{Command, Stdio};

use anyhow::{Result, bail};

/// Installs packages, those of another architecture by `name:architecture`. No package that is there is removed for them.
///
/// # Errors
/// Where there is no `apt-get`, where it needs a password, or where it fails; the message ends with `otherwise`, what a person does then.
pub fn install(packages: &[&str], otherwise: &str) -> Result<()> {
    println!("Installing {}", packages.join(", "));
    let fail = |what: &str| bail!("{what}; what is missing comes by: {otherwise}");
    let foreign = foreign(packages).into_iter().filter(|name| !knows(name)).collect::<Vec<_>>();
    if foreign.iter().any(|name| !as_root("dpkg", &["--add-architecture", name])) {
        return fail("dpkg does not take another architecture");
    }
    if !as_root("apt-get", &["update", "-qq"]) {
        // Some archives have no other architectures; the next update would fail for them as well.
        foreign.iter().for_each(|name| _ = as_root("dpkg", &["--remove-architecture", name]));
        return fail("apt-get update failed");
    }
    let words = ["install", "-y", "-qq", "--no-install-recommends", "--no-remove"];
    if !as_root("apt-get", &[&words, packages].concat()) {
        return fail("apt-get install failed");
    }
    Ok(())
}

/// Runs a program as it is, else by sudo; tells whether it succeeded. Some machines let anyone install; others ask for sudo, which must
/// then need no password.
fn as_root(program: &str, args: &[&str]) -> bool {
    let ran = |command: &mut Command| {
        let command = command.args(args).env("DEBIAN_FRONTEND", "noninteractive").stdout(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    ran(&mut Command::new(program)) || ran(Command::new("sudo").args(["-n", program]))
}

/// The architectures that packages are asked for, each once.
fn foreign<'a>(packages: &[&'a str]) -> Vec<&'a str> {
    let mut names: Vec<_> = packages.iter().filter_map(|package| Some(package.split_once(':')?.1)).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// Whether the package manager takes packages of an architecture already.
fn knows(architecture: &str) -> bool {
    let has = |option: &str| {
        let output = Command::new("dpkg").arg(option).output();
        output.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).lines().any(|line| line == architecture))
    };
    has("--print-architecture") || has("--print-foreign-architectures")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn architectures_are_those_after_the_colon() {
        assert_eq!(foreign(&["gcc", "libc6:arm64", "zlib1g:arm64", "libc6:armhf"]), ["arm64", "armhf"]);
        assert!(foreign(&["valgrind"]).is_empty());
    }
}
