//! pip: wheels, and sources of packages of Python.

use std::fs;

use super::{Desk, Running, first_of, last_line};
use crate::fetch::{FetchError, Form, Package, at};

/// What Python may be called.
const PYTHONS: [&str; 2] = ["python3", "python"];

/// Starts pip under the first Python there is. It writes to the scratch folder while it downloads and to `kept` at the end.
///
/// pip asks a package's sources for its metadata, which runs code of theirs. So their sum goes to pip itself, which checks it before.
pub(super) fn start(package: &Package, desk: &Desk) -> Result<Running, FetchError> {
    let pinned = desk.log.with_file_name("requirements.txt");
    fs::write(&pinned, format!("{} --hash=sha256:{}\n", package.requirement, package.sha256)).map_err(at(&pinned))?;
    let running = first_of(&PYTHONS, desk, |command| {
        command.args(["-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--progress-bar", "off"]);
        command.args(["--no-input", "--disable-pip-version-check"]).args(package.options);
        if package.form == Form::Sdist {
            let name = package.requirement.split("==").next().unwrap_or(package.requirement);
            command.arg(format!("--no-binary={name}")).arg("--requirement").arg(&pinned);
        } else {
            command.arg(package.requirement);
        }
        command.arg("--dest").arg(&desk.kept);
        for variable in ["TMPDIR", "TEMP", "TMP"] {
            command.env(variable, &desk.scratch);
        }
    })?;
    running.ok_or_else(|| FetchError::Download(format!("it comes through pip, and there is no {}", PYTHONS[0])))
}

/// One line for what pip said on its standard error.
pub(super) fn reason(said: &str) -> String {
    if said.contains("No module named pip") {
        return "it comes through pip, and this Python has none".into();
    }
    if said.contains("DO NOT MATCH THE HASHES") {
        return "pip's package index has another file of that name: its SHA-256 is not the expected one".into();
    }
    let unreachable = ["Retrying (", "NewConnectionError", "NameResolutionError", "ConnectTimeout", "ProxyError"];
    if unreachable.iter().any(|sign| said.contains(sign)) {
        return "pip cannot reach its package index: no network?".into();
    }
    if said.contains("No matching distribution") {
        return "pip's package index does not have it, or cannot be reached".into();
    }
    let error = said.lines().rev().find_map(|line| line.strip_prefix("ERROR: "));
    let last = error.or_else(|| last_line(said));
    last.map_or_else(|| "pip failed and said nothing".into(), |line| format!("pip: {}", line.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_one_line_each() {
        let offline = "WARNING: Retrying (Retry(total=4, connect=None)) after connection broken\nERROR: No matching\n";
        assert_eq!(reason(offline), "pip cannot reach its package index: no network?");
        assert_eq!(reason("/usr/bin/python3: No module named pip\n"), "it comes through pip, and this Python has none");
        assert_eq!(reason("ERROR: first\nERROR: No space\n\n"), "pip: No space");
        let other = "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.\n    vader\n";
        assert!(reason(other).contains("SHA-256"));
        let no_match = "ERROR: Could not find a version\nERROR: No matching distribution found for x\n";
        assert_eq!(reason(no_match), "pip's package index does not have it, or cannot be reached");
        assert_eq!(reason("Killed\n\n"), "pip: Killed");
        assert_eq!(reason(""), "pip failed and said nothing");
    }
}
