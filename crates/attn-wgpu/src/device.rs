//! What runs on the device, in CubeCL: the language that every runtime's compiler takes.

#![allow(
    clippy::assign_op_pattern,
    clippy::collapsible_if,
    clippy::manual_is_multiple_of,
    reason = "what CubeCL translates is a part of Rust, and has none of what these ask for"
)]

pub mod backward;
pub mod blocks;
pub mod decode;
mod dropout;
pub mod fetch;
pub mod forward;
pub mod matrix;
pub mod merge;
pub mod mma;
pub mod place;
pub mod probe;
mod products;
pub mod score;
pub mod wgmma;
