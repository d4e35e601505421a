//! What every backend must pass: case files, tolerances, random problems, and the verifier that runs them.
//!
//! | for | see |
//! | --- | --- |
//! | the files of `shared/cases` | [`case`] |
//! | a problem with its data on the host | [`host`] |
//! | who answers: a backend, a kernel path, the reference | [`engine`] |
//! | running on a backend's tensors, gradients through autodiff | [`run`] |
//! | largest errors, and what counts as one | [`compare`] |
//! | bounds of rounding errors, derived | [`bound`] |
//! | random problems | [`generate`] |
//! | judging files, and the table | [`verify`], [`report`] |
//!
//! Nothing here is used by a kernel, and this crate uses kernels only through the public face, `attn`.

pub mod bound;
pub mod case;
pub mod compare;
pub mod engine;
pub mod generate;
pub mod host;
pub mod panics;
pub mod report;
pub mod run;
pub mod verify;
