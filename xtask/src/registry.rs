//! Fetching packages through their registries' own clients, pip and npm, with the user's settings of them (registry, proxy,
//! certificates, time-outs).

mod npm;
mod pip;

use std::cell::{Cell, RefCell};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::fetch::{FetchError, Form, Package, Source, at};
use crate::progress::Transfer;

/// Bytes below which unpacking is over before anyone could read of it.
const WORTH_SHOWING: u64 = 5_000_000;

/// Packages that come through their clients, under a name for people.
pub struct Registry<'a> {
    /// What is fetched, as progress says it.
    label: &'a str,
    fetched: Cell<bool>,
    unpacking: RefCell<Option<(u64, Transfer)>>,
}

impl<'a> Registry<'a> {
    /// Packages of `label`.
    pub fn new(label: &'a str) -> Self {
        Self { label, fetched: Cell::new(false), unpacking: RefCell::new(None) }
    }

    /// Whether anything has come.
    pub fn has_fetched(&self) -> bool {
        self.fetched.get()
    }
}

impl Source for Registry<'_> {
    fn download(&self, package: &Package, into: &Path) -> Result<PathBuf, FetchError> {
        let label = format!("Fetching {}, {}", self.label, package.requirement);
        let path = download(package, into, &Transfer::new(label, package.bytes))?;
        self.fetched.set(true);
        Ok(path)
    }

    fn unpacked(&self, done: u64, total: u64) {
        if total < WORTH_SHOWING {
            return;
        }
        let mut transfer = self.unpacking.borrow_mut();
        // A new total is a new package.
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

/// Where a client works, and what it says.
struct Desk {
    /// For what it needs while it downloads.
    scratch: PathBuf,
    /// For the package.
    kept: PathBuf,
    /// Its standard error.
    log: PathBuf,
}

/// Fetches a package into `folder`, which is empty, and returns its path.
///
/// # Errors
/// [`FetchError::Download`] in one line: no client, no network, no such package.
fn download(package: &Package, folder: &Path, progress: &Transfer) -> Result<PathBuf, FetchError> {
    let desk = Desk { scratch: folder.join("scratch"), kept: folder.join("package"), log: folder.join("client.log") };
    for path in [&desk.scratch, &desk.kept] {
        fs::create_dir(path).map_err(at(path))?;
    }
    let (mut client, reason) = match package.form {
        Form::Wheel | Form::Sdist => (pip::start(package, &desk)?, pip::reason as fn(&str) -> String),
        Form::Npm => (npm::start(package, &desk)?, npm::reason as fn(&str) -> String),
    };
    let success = watch(&mut client, [&desk.scratch, &desk.kept], progress).map_err(at(folder))?;
    progress.finish();
    if !success {
        let said = fs::read_to_string(&desk.log).map_err(at(&desk.log))?;
        return Err(FetchError::Download(reason(&said)));
    }
    let file = first_file(&desk.kept).map_err(at(&desk.kept))?;
    file.ok_or_else(|| FetchError::Download("its client fetched no file".into()))
}

/// Starts the first of `programs` that there is, with its standard error in the log; `None` where there is none of them.
fn first_of(programs: &[&str], desk: &Desk, configure: impl Fn(&mut Command)) -> Result<Option<Running>, FetchError> {
    for program in programs {
        let said = File::create(&desk.log).map_err(at(&desk.log))?;
        let mut command = Command::new(program);
        configure(&mut command);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(said);
        match command.spawn() {
            Ok(child) => return Ok(Some(Running(child))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(FetchError::Download(format!("{program} does not start: {error}"))),
        }
    }
    Ok(None)
}

/// Shows how the files grow until the client ends; tells whether it succeeded.
fn watch(client: &mut Running, folders: [&Path; 2], progress: &Transfer) -> io::Result<bool> {
    loop {
        if let Some(status) = client.0.try_wait()? {
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

/// The length of the largest file under `folder`: the package, wherever its client has it. Files come and go meanwhile.
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

/// The last line with anything in it.
fn last_line(said: &str) -> Option<&str> {
    said.lines().rev().map(str::trim).find(|line| !line.is_empty())
}
