//! What can go wrong, as values: every error names the argument, what was expected and what came.

use thiserror::Error;

/// The error of every fallible function of this workspace.
///
/// `argument` is the name under which the caller passed the offending value: `query`, `key`, `value`, `mask`, `bias`,
/// `alibi_slopes`, `sinks`, `kv_lens`, `scale`, `softcap`, `spec`, or a parameter of a layer.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AttentionError {
    /// The shape of a tensor does not fit the others.
    #[error("{argument}: expected shape {expected}, found {found}")]
    Shape {
        /// Name of the argument.
        argument: &'static str,
        /// The shape that fits, axes by name or number.
        expected: String,
        /// The shape that came.
        found: String,
    },
    /// A value is outside the range in which it has a meaning.
    #[error("{argument}: expected {expected}, found {found}")]
    Value {
        /// Name of the argument.
        argument: &'static str,
        /// The values that have a meaning.
        expected: String,
        /// The value that came.
        found: String,
    },
    /// The element type of a tensor is not a float, or differs from the query's.
    #[error("{argument}: expected element type {expected}, found {found}")]
    DType {
        /// Name of the argument.
        argument: &'static str,
        /// The type that fits.
        expected: String,
        /// The type that came.
        found: String,
    },
    /// A tensor lies on another device (or backend) than the query.
    #[error("{argument}: expected on device {expected}, found on {found}")]
    Device {
        /// Name of the argument.
        argument: &'static str,
        /// The query's device.
        expected: String,
        /// The device of the argument.
        found: String,
    },
    /// The kernel that the caller demanded does not exist on this backend, or cannot serve this problem.
    #[error("kernel {kernel} cannot serve this problem: {reason}")]
    Unsupported {
        /// Name of the kernel.
        kernel: String,
        /// Why it cannot.
        reason: String,
    },
    /// The kernel was started and failed: a driver's error, or memory that could not be had. A GPU's driver is asked about the first
    /// call of each kind, and about large ones; what it refuses else is an error where the output is read.
    #[error("kernel {kernel} failed: {reason}")]
    Execution {
        /// Name of the kernel.
        kernel: String,
        /// What the backend said.
        reason: String,
    },
}

impl AttentionError {
    /// A [`Shape`](Self::Shape) error; `expected` in words such as `[batch, heads, key_len, _]`.
    pub fn shape(argument: &'static str, expected: impl Into<String>, found: &[usize]) -> Self {
        Self::Shape { argument, expected: expected.into(), found: format!("{found:?}") }
    }

    /// A [`Value`](Self::Value) error.
    pub fn value(argument: &'static str, expected: impl Into<String>, found: impl ToString) -> Self {
        Self::Value { argument, expected: expected.into(), found: found.to_string() }
    }

    /// The argument that the error names, where it is an argument's fault.
    pub fn argument(&self) -> Option<&'static str> {
        match self {
            Self::Shape { argument, .. }
            | Self::Value { argument, .. }
            | Self::DType { argument, .. }
            | Self::Device { argument, .. } => Some(argument),
            Self::Unsupported { .. } | Self::Execution { .. } => None,
        }
    }
}
