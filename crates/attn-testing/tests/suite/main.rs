//! One program of all tests, so that the backends are linked once.
//!
//! `cases`: the shared cases on every engine. `reference`: what judges is judged. `random`: engines against the reference over
//! random problems, `tiles`: over some large ones, `libtorch`: those that
//! its fused kernels serve, `wgpu`: those of the GPU kernels, `wgpu_backward`: their gradients, `wgpu_errors`: what drivers refuse. `laws`: what follows from the contract.
//! `dropout`: which weights are dropped. `bad_input`: errors in place of panics. `verifier`: `attn-verify`.

mod bad_input;
mod cases;
mod dropout;
mod laws;
#[cfg(feature = "tch")]
mod libtorch;
mod random;
mod reference;
mod tiles;
mod verifier;
#[cfg(any(feature = "wgpu", feature = "cuda"))]
mod wgpu;
#[cfg(any(feature = "wgpu", feature = "cuda"))]
mod wgpu_backward;
#[cfg(any(feature = "wgpu", feature = "cuda"))]
mod wgpu_errors;

use std::path::PathBuf;

/// The folder of shared cases, beside the workspace; none where it is not there.
fn shared_cases() -> Option<PathBuf> {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/cases"));
    if folder.is_dir() {
        return Some(folder);
    }
    println!("skipped: there is no {}", folder.display());
    None
}
