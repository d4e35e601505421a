//! Pretrained weights from a safetensors file, by a mapping of names. What does not fit is an error that names it.
//!
//! ```no_run
//! use attn::nn::load::{Mapping, load_safetensors};
//! use attn::nn::TransformerEncoderLayerConfig;
//! use burn::tensor::Device;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let layer = TransformerEncoderLayerConfig::new(384, 12, 1536).init(&Device::default())?;
//! let mapping = Mapping::pytorch()
//!     .ignore(r"^pooler\.")?
//!     .rename(r"^encoder\.layer\.0\.attention\.self\.", "attention.")?;
//! let layer = load_safetensors(layer, "model.safetensors", &mapping)?;
//! # Ok(())
//! # }
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use burn::module::{Module, ModuleVisitor, Param};
use burn::store::{ApplyError, ApplyResult, KeyRemapper, ModuleSnapshot, ModuleStore, SafetensorsStore};
use burn::tensor::{DType, Tensor};
use thiserror::Error;

mod mapping;

pub use mapping::Mapping;

/// Why a file could not be loaded into a module.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum LoadError {
    /// A rule of the mapping is not a regular expression.
    #[error("mapping: expected a regular expression, found {pattern:?} ({reason})")]
    Pattern {
        /// The rule.
        pattern: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The file is not there, cannot be read, or is not in the safetensors format.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// File and module do not fit each other.
    #[error("{}: {mismatch}", path.display())]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        mismatch: Mismatch,
    },
}

/// All that does not fit between a file and a module. Names of the file's tensors are those in the file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mismatch {
    /// Parameters of the module for which the file has nothing, by their path.
    pub missing: Vec<String>,
    /// Tensors of the file that have no place in the module and are not ignored.
    pub unused: Vec<String>,
    /// Tensors with another shape or kind than their parameter, or that could not be read: name, and what is wrong.
    pub unfit: Vec<(String, String)>,
    /// Tensors that the mapping gives the same name: that name, and theirs.
    pub ambiguous: Vec<(String, Vec<String>)>,
}

impl Mismatch {
    /// Whether everything fits.
    pub fn is_empty(&self) -> bool {
        self.missing.is_empty() && self.unused.is_empty() && self.unfit.is_empty() && self.ambiguous.is_empty()
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unfit = self.unfit.iter().map(|(name, why)| format!("{name} ({why})")).collect();
        let ambiguous =
            self.ambiguous.iter().map(|(name, from)| format!("{name} (from {})", from.join(", "))).collect();
        let kinds = [
            ("missing", self.missing.clone()),
            ("unused", self.unused.clone()),
            ("unfit", unfit),
            ("ambiguous", ambiguous),
        ];
        let said: Vec<_> =
            kinds.iter().filter(|(_, names)| !names.is_empty()).map(|(kind, names)| said(kind, names)).collect();
        f.write_str(&said.join("; "))
    }
}

/// `3 tensors missing: a, b, c`, the first few by name.
fn said(kind: &str, names: &[String]) -> String {
    const NAMED: usize = 4;
    let plural = if names.len() == 1 { "tensor" } else { "tensors" };
    let more = names.len().saturating_sub(NAMED);
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{} {plural} {kind}: {}{rest}", names.len(), names[..names.len() - more].join(", "))
}

/// Loads every parameter of a module from a safetensors file. Floats take the element type that the module has.
///
/// # Errors
/// [`LoadError::File`] if the file cannot be read; [`LoadError::Mismatch`], with all that does not fit, if a parameter is missing, a
/// tensor unused, misshapen, or two of them take the same place. The module is given back only where everything fits.
pub fn load_safetensors<M: Module>(mut module: M, path: impl AsRef<Path>, mapping: &Mapping) -> Result<M, LoadError> {
    let path = path.as_ref();
    let mut store = SafetensorsStore::from_file(path);
    let tensors = store
        .get_all_tensors()
        .map_err(|error| LoadError::File { path: path.to_path_buf(), reason: one_line(&error.to_string()) })?;
    let mut mismatch = Mismatch::default();
    let mut parts = Vec::new();
    let mut whole = BTreeMap::<String, String>::new();
    for tensor in tensors.values().filter(|tensor| !mapping.ignores(&tensor.name)) {
        match mapping.parts(tensor) {
            Ok(found) => {
                whole.extend(found.iter().map(|part| (part.name.clone(), tensor.name.clone())));
                parts.extend(found);
            }
            Err(reason) => mismatch.unfit.push((tensor.name.clone(), reason)),
        }
    }
    let (renamed, names) = KeyRemapper::from_compiled_patterns(mapping.rules().to_vec()).remap(parts);
    let mut sources = BTreeMap::<String, Vec<String>>::new();
    for (name, part) in names {
        sources.entry(name).or_default().push(whole.get(&part).cloned().unwrap_or(part));
    }
    let shared = sources.iter().filter(|(_, from)| from.len() > 1).map(|(name, from)| (name.clone(), from.clone()));
    mismatch.ambiguous.extend(shared);
    if mismatch.is_empty() {
        let dtype = float_dtype(&module);
        mismatch = judged(module.apply(renamed, None, Some(mapping.adapter(dtype)), false), &sources);
    }
    match mismatch.is_empty() {
        true => Ok(module),
        false => Err(LoadError::Mismatch { path: path.to_path_buf(), mismatch }),
    }
}

/// What an application left over, by the names of the file.
fn judged(result: ApplyResult, sources: &BTreeMap<String, Vec<String>>) -> Mismatch {
    let source = |name: &String| sources.get(name).map_or_else(|| name.clone(), |from| from.join(", "));
    let unfit = |error: &ApplyError| match error {
        ApplyError::ShapeMismatch { path, expected, found } => {
            (source(path), format!("expected shape {:?}, found {:?}", expected.to_vec(), found.to_vec()))
        }
        ApplyError::DTypeMismatch { path, expected, found } => {
            (source(path), format!("expected element type {}, found {}", expected.name(), found.name()))
        }
        ApplyError::AdapterError { path, message } | ApplyError::LoadError { path, message } => {
            (source(path), one_line(message))
        }
    };
    Mismatch {
        missing: result.missing.iter().map(|(path, _)| path.clone()).collect(),
        unused: result.unused.iter().map(source).collect(),
        unfit: result.errors.iter().map(unfit).collect(),
        ambiguous: Vec::new(),
    }
}

/// The element type of the module's floats: that of its first parameter.
fn float_dtype<M: Module>(module: &M) -> Option<DType> {
    struct First(Option<DType>);
    impl ModuleVisitor for First {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let of_device = || param.lazy_device().settings().float_dtype.into();
            // Reading the type of a parameter that is still to be drawn would draw it.
            self.0.get_or_insert_with(|| if param.is_initialized() { param.val().dtype() } else { of_device() });
        }
    }
    let mut first = First(None);
    module.visit(&mut first);
    first.0
}

/// Line breaks and runs of blanks as one blank.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
