//! Attention kernels for CPUs, on slices and strides.
//!
//! [`forward`] computes one [`Attention`] problem with the instruction set that the caller names ([`Isa::detect`] gives
//! the fastest one of this machine). Inputs are strided [`View`]s that are never copied as a whole.

mod element;
mod error;
mod forward;
mod isa;
mod kernel;
mod math;
mod problem;
mod schedule;
mod scratch;
mod simd;
mod task;
mod view;

pub use element::Element;
pub use error::CpuError;
pub use forward::{forward, workspace_bytes};
pub use isa::Isa;
pub use problem::{Attention, Band, Mask};
pub use view::View;
