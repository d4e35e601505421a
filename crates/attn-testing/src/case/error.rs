//! What can be wrong with a case file.

use std::path::PathBuf;

use attn_core::AttentionError;
use thiserror::Error;

/// A file that is not a case, and why.
#[derive(Debug, Clone, PartialEq, Error)]
#[error("{}: {fault}", path.display())]
pub struct CaseError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub fault: Fault,
}

/// What is wrong with a case file.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum Fault {
    /// It cannot be read at all.
    #[error("cannot be read: {0}")]
    Unreadable(String),
    /// It ends before what its header promises.
    #[error("truncated: its header promises {expected} bytes, found {found}")]
    Truncated {
        /// Bytes that the header promises, header included.
        expected: u64,
        /// Bytes that are there.
        found: u64,
    },
    /// Its bytes are not those of the format.
    #[error("not a safetensors file: {0}")]
    NotSafetensors(String),
    /// A metadata key is missing.
    #[error("metadata: expected key {0:?}, found none")]
    MissingMetadata(&'static str),
    /// It is a case of some other format.
    #[error("metadata format: expected {format:?}, found {0:?}", format = super::FORMAT)]
    Format(String),
    /// Metadata that is JSON cannot be understood.
    #[error("metadata {key}: {reason}")]
    Json {
        /// `spec` or `tol`.
        key: &'static str,
        /// Where and why.
        reason: String,
    },
    /// A tensor is missing.
    #[error("expected a tensor {0:?}, found none")]
    MissingTensor(&'static str),
    /// An expected tensor has no tolerance.
    #[error("metadata tol: expected a tolerance of {0:?}, found none")]
    MissingTolerance(&'static str),
    /// A tensor has another element type than the format says.
    #[error("tensor {name}: expected element type {expected}, found {found}")]
    DType {
        /// The tensor.
        name: &'static str,
        /// The types that fit.
        expected: String,
        /// Its type.
        found: String,
    },
    /// A tensor has another shape than the format says.
    #[error("tensor {name}: expected shape {expected}, found {found:?}")]
    Shape {
        /// The tensor.
        name: &'static str,
        /// The shape that fits.
        expected: String,
        /// Its shape.
        found: Vec<usize>,
    },
    /// A tensor holds a value that has no meaning.
    #[error("tensor {name}: expected {expected}, found {found}")]
    Value {
        /// The tensor.
        name: &'static str,
        /// The values that have a meaning.
        expected: String,
        /// The first that has none.
        found: String,
    },
    /// The problem breaks the contract.
    #[error("not a problem of the contract: {0}")]
    Problem(#[from] AttentionError),
}
