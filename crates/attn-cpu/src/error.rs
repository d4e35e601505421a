//! The errors of this crate: values that name the argument, what was expected and what was found.

use thiserror::Error;

/// Why a call was refused. Nothing has been computed and no output written when one of these is returned.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CpuError {
    /// A shape disagrees with the shapes of the other arguments.
    #[error("{argument}: expected shape {expected}, found {found}")]
    Shape {
        /// The argument at fault.
        argument: &'static str,
        /// The shape it should have had.
        expected: String,
        /// The shape it has.
        found: String,
    },
    /// A slice has the wrong number of elements, or a strided view reaches past the end of its data.
    #[error("{argument}: expected {expected} elements, found {found}")]
    Length {
        /// The argument at fault.
        argument: &'static str,
        /// How many elements it should have had.
        expected: String,
        /// How many it has.
        found: usize,
    },
    /// A number lies outside the range that has a meaning.
    #[error("{argument}: expected {expected}, found {found}")]
    Value {
        /// The argument at fault.
        argument: &'static str,
        /// The range that has a meaning.
        expected: String,
        /// The number given.
        found: String,
    },
    /// There is no memory for the workspace.
    #[error("workspace: expected memory for {bytes} bytes, found less")]
    Memory {
        /// What [`workspace_bytes`](crate::workspace_bytes) says.
        bytes: usize,
    },
    /// The instruction set demanded is not there on this machine.
    #[error("isa: expected one of {available}, found {found}")]
    IsaUnavailable {
        /// The instruction sets of this machine, by name.
        available: String,
        /// The one that was demanded.
        found: &'static str,
    },
}
