//! `cargo xtask tidy`: checks what the compiler does not, and what reviewers tire of.
//!
//! `files` holds the checks of text, `arrows` those of who may use whom, `lexer` blanks comments and strings so that a word
//! in prose is no finding. Each check is a function from a tree to findings, so that tests can give it a made-up tree.

mod arrows;
mod files;
mod lexer;

use std::fmt;
use std::fs;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use crate::metadata::Metadata;
use crate::workspace;

/// A file of the tree.
pub struct Source {
    /// Its path from the root, with `/`.
    pub path: String,
    /// Its text.
    pub text: String,
}

/// Something to mend.
#[derive(PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Finding {
    /// The file, from the root.
    pub path: String,
    /// The line, from 1.
    pub line: usize,
    /// What is wrong.
    pub text: String,
}

impl Finding {
    fn new(path: &str, line: usize, text: impl Into<String>) -> Self {
        Self { path: path.into(), line, text: text.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.text)
    }
}

/// Prints every finding; the exit code is 1 where there is any.
pub fn run() -> Result<ExitCode> {
    Ok(if is_clean()? { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prints every finding and a closing line; tells whether there was none.
pub fn is_clean() -> Result<bool> {
    let sources = sources()?;
    let mut findings = files::check(&sources);
    findings.extend(arrows::check(&Metadata::read()?.packages, &sources));
    findings.sort();
    for finding in &findings {
        println!("{finding}");
    }
    println!("tidy: {} files, {} to mend", sources.len(), findings.len());
    Ok(findings.is_empty())
}

/// Every text file that git tracks, or would track once added.
fn sources() -> Result<Vec<Source>> {
    let root = workspace::root();
    let mut git = Command::new("git");
    git.arg("-C").arg(&root).args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    let listed = git.output().context("tidy asks git for the list of files, and cannot run it")?;
    if !listed.status.success() {
        bail!("tidy asks git for the list of files: {}", String::from_utf8_lossy(&listed.stderr).trim());
    }
    let mut sources = Vec::new();
    for path in String::from_utf8_lossy(&listed.stdout).split_terminator('\0') {
        // A file that was deleted but not yet committed is still listed; one that is no text has no lines to check.
        if let Ok(text) = fs::read_to_string(root.join(path)) {
            sources.push(Source { path: path.to_owned(), text });
        }
    }
    Ok(sources)
}
