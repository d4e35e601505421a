//! npm: packages of JavaScript.

use super::{Desk, Running, first_of, last_line};
use crate::fetch::{FetchError, Package};

/// What npm may be called: a script of its own on Windows.
const NPMS: [&str; 2] = ["npm", "npm.cmd"];

/// Starts `npm pack`, which fetches a package as it is and installs nothing.
pub(super) fn start(package: &Package, desk: &Desk) -> Result<Running, FetchError> {
    let running = first_of(&NPMS, desk, |command| {
        command.args(["pack", package.requirement, "--ignore-scripts", "--loglevel=error", "--logs-max=0"]);
        command
            .args(package.options)
            .arg("--no-update-notifier")
            .arg("--pack-destination")
            .arg(&desk.kept)
            .arg("--cache")
            .arg(&desk.scratch);
        // Elsewhere than in the caller's folder, whose package.json is none of its business.
        command.current_dir(&desk.scratch);
    })?;
    running.ok_or_else(|| {
        let get = "apt-get install -y npm on Debian, Node.js from its makers elsewhere";
        FetchError::Download(format!("it comes through npm, and there is no npm: {get}"))
    })
}

/// One line for what npm said on its standard error.
pub(super) fn reason(said: &str) -> String {
    let errors = || said.lines().filter_map(|line| line.strip_prefix("npm error ").or(line.strip_prefix("npm ERR! ")));
    let code = errors().find_map(|line| line.strip_prefix("code ")).unwrap_or_default().trim();
    match code {
        "ENOTFOUND" | "EAI_AGAIN" | "ECONNREFUSED" | "ETIMEDOUT" | "ERR_SOCKET_TIMEOUT" => {
            return "npm cannot reach its registry: no network?".into();
        }
        "E404" | "ETARGET" => return "npm's registry does not have it".into(),
        "EINTEGRITY" => return "what came through npm is damaged".into(),
        _ => {}
    }
    let told = errors().find(|line| !line.starts_with("code ")).or_else(|| last_line(said));
    told.map_or_else(|| "npm failed and said nothing".into(), |line| format!("npm: {}", line.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_one_line_each() {
        let offline = "npm error code ENOTFOUND\nnpm error syscall getaddrinfo\nnpm error network This is a problem\n";
        assert_eq!(reason(offline), "npm cannot reach its registry: no network?");
        assert_eq!(reason("npm ERR! code ETARGET\nnpm ERR! notarget No matching\n"), "npm's registry does not have it");
        assert_eq!(reason("npm error code EACCES\nnpm error errno -13\n"), "npm: errno -13");
        assert_eq!(reason("Killed\n\n"), "npm: Killed");
        assert_eq!(reason(""), "npm failed and said nothing");
    }
}
