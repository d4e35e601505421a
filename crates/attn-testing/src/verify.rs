//! Judges engines by case files.

use std::path::{Path, PathBuf};

use crate::case::{self, Case, CaseError, Expected};
use crate::compare::{Described, Tolerance, compare};
use crate::engine::Engine;
use crate::host::Answer;
use crate::panics;

/// A file that shall be run: a case, or why it is none.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Where it lies.
    pub path: PathBuf,
    /// What stands in it.
    pub case: Result<Box<Case>, String>,
}

impl Entry {
    /// Reads one file.
    pub fn read(path: &Path) -> Self {
        let case = Case::read(path).map(Box::new).map_err(|error: CaseError| error.to_string());
        Self { path: path.to_path_buf(), case }
    }

    /// Its family, whether it is a case or not.
    pub fn family(&self) -> String {
        case::family(&self.path)
    }
}

/// The files that paths name: a file is itself, a folder its `*.safetensors`, sorted by name. A path that is not there, or a
/// folder without cases, is an entry that says so.
pub fn files(paths: &[PathBuf]) -> Vec<Result<PathBuf, Entry>> {
    paths.iter().flat_map(|path| if path.is_dir() { folder(path) } else { vec![Ok(path.clone())] }).collect()
}

fn folder(path: &Path) -> Vec<Result<PathBuf, Entry>> {
    let broken = |reason: String| vec![Err(Entry { path: path.to_path_buf(), case: Err(reason) })];
    let read = match std::fs::read_dir(path) {
        Ok(read) => read,
        Err(error) => return broken(format!("{}: cannot be read: {error}", path.display())),
    };
    let mut files: Vec<PathBuf> = read
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|file| file.extension().is_some_and(|extension| extension == "safetensors"))
        .collect();
    files.sort();
    if files.is_empty() {
        return broken(format!("{}: holds no *.safetensors file", path.display()));
    }
    files.into_iter().map(Ok).collect()
}

/// How a case went on an engine.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// Everything expected came, within its tolerance.
    Passed,
    /// What did not, one line each.
    Failed(Vec<String>),
    /// Why it could not be asked.
    Skipped(String),
}

/// A case, an engine, and how it went.
#[derive(Debug, Clone, PartialEq)]
pub struct Judgement {
    /// The file's name without its ending.
    pub name: String,
    /// Its family.
    pub family: String,
    /// The engine's name.
    pub engine: &'static str,
    /// How it went.
    pub verdict: Verdict,
    /// The tensor with the largest share of its tolerance, and that share; none where nothing was compared.
    pub worst: Option<(&'static str, f64)>,
}

/// Runs a file's case on an engine, without the gradients unless they are wanted. Panics of a backend are failures.
pub fn judge(entry: &Entry, engine: &Engine, gradients: bool) -> Judgement {
    let (verdict, worst) = match &entry.case {
        Err(reason) => (Verdict::Failed(vec![reason.clone()]), None),
        Ok(case) => run(case, engine, gradients),
    };
    let name = entry.path.file_stem().unwrap_or(entry.path.as_os_str()).to_string_lossy().into_owned();
    Judgement { name, family: entry.family(), engine: engine.name(), verdict, worst }
}

fn run(case: &Case, engine: &Engine, gradients: bool) -> (Verdict, Option<(&'static str, f64)>) {
    if let Some(reason) = engine.unavailable() {
        return (Verdict::Skipped(reason), None);
    }
    let dtype = case.problem.dtype;
    if !engine.has_dtype(dtype) {
        return (Verdict::Skipped(format!("it has no {dtype:?} tensors")), None);
    }
    let ask = case.ask(gradients);
    match panics::catch(|| engine.answer(&case.problem, &ask)) {
        Ok(Ok(answer)) => {
            let expected = case.expected.iter().filter(|expected| gradients || !expected.name.starts_with('d'));
            check(expected, &answer)
        }
        Ok(Err(reason)) | Err(reason) => (Verdict::Failed(vec![reason]), None),
    }
}

/// Compares an answer with what is expected.
pub fn check<'a>(
    expected: impl Iterator<Item = &'a Expected>,
    answer: &Answer,
) -> (Verdict, Option<(&'static str, f64)>) {
    let (mut failures, mut worst) = (Vec::new(), None::<(&'static str, f64)>);
    for Expected { name, shape, data, tolerance } in expected {
        let Some(found) = answer.get(name) else {
            failures.push(format!("{name}: did not come"));
            continue;
        };
        match compare(data, found, Tolerance::Absolute(*tolerance)) {
            Ok(element) => {
                if worst.is_none_or(|(_, share)| element.share > share) {
                    worst = Some((name, element.share));
                }
                if !element.passes() {
                    failures.push(format!("{name}: {}", Described(&element, shape)));
                }
            }
            Err(reason) => failures.push(format!("{name}: {reason}")),
        }
    }
    (if failures.is_empty() { Verdict::Passed } else { Verdict::Failed(failures) }, worst)
}
