//! Attention on Burn's LibTorch backend.
//!
//! The kernel `libtorch` calls LibTorch's fused kernels wherever they mean what the contract means, with mask polarity, alignment,
//! scale, lengths and grouped heads translated (`parts.rs`, `heads.rs`, `mask.rs`); on a CPU the kernel `cpu` does everything else on
//! copies of the tensors (`host.rs`), on other devices the composite does, and a plan says which and why.
//!
//! | | CPU | CUDA |
//! | --- | --- | --- |
//! | forward | f32, f64, f16, bf16; scale, causal, alignment, right side of a window, masks, bias, sinks, key lengths, GQA | f32, f16, bf16; the same without masks and bias |
//! | backward | the same without bias | composite |
//!
//! Softcap, ALiBi, biases by relative position, masks by blocks, functions of the scores, dropout, a window to the left and values of
//! another dimension than the keys LibTorch has not.

// Burn drops this backend in 0.23; until then it is bound on purpose. Here is the one place that names it.
#![allow(deprecated)]

mod fused;
mod heads;
mod host;
mod kernel;
mod mask;
mod parts;
mod sdpa;
mod workspace;

use attn_core::AttentionKernel;
use attn_core::composite::Composite;
use burn_tch::LibTorch;

pub use host::Host;
pub use kernel::Fused;
pub use sdpa::{torch_sdpa, torch_sdpa_train};

/// Whether this LibTorch was built with CUDA and finds a device.
pub fn has_cuda() -> bool {
    tch::Cuda::is_available()
}

/// The kernels of this backend, the preferred one first.
pub static KERNELS: &[&dyn AttentionKernel<LibTorch>] = &[&Fused, &Host, &Composite];
