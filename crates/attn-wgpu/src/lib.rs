//! Attention on Burn's CubeCL backend, one set of kernels for wgpu (Vulkan, Metal, WebGPU), CUDA and ROCm.
//!
//! ```text
//! kernel.rs      the kernels: what each serves, and both passes from inputs to outputs
//! host/          what is decided before a launch: tiles, splits, bands, arguments, and what a device is
//! device/        what runs on the device: six ways over the keys, the score, the merging of splits, and backward/
//! adapters.rs    which devices are here
//! ```
//!
//! The forward pass of the whole contract is one fused kernel in linear memory, in one of six ways. `cube` runs on any adapter: it
//! needs no subgroups, no f16 arithmetic, and no shared memory but 1.5 KiB where many runs of keys are joined. `cube-decode` serves a few
//! queries against long keys where planes exchange numbers. `cube-matrix` serves f16 and bf16 where the device multiplies matrices of
//! them; `cube-mma`, where it is also known which numbers of a matrix a unit holds, as with CUDA: scores and outputs then never leave the
//! registers; `cube-decode-mma`, there, a few queries. `cube-wgmma` multiplies by groups of planes on the H100's generation of NVIDIA's
//! cards, where keys and values stay in shared memory: the fastest.
//!
//! The backward pass of all of them is that of `cube`: fused too, in linear memory, of the whole contract, and of the same bits each time
//! (device/backward.rs). What `cube` refuses, f64 and functions of the scores, is the composite's.

mod adapters;
mod device;
mod host;
mod kernel;

use attn_core::AttentionKernel;
use attn_core::composite::Composite;

pub use adapters::{Adapter, adapters};
pub use burn_cubecl::{CubeBackend, CubeDevice};
pub use kernel::Cube;

/// The kernels of this backend, the preferred one first: [`Cube::ALL`], and what serves the rest.
pub static KERNELS: &[&dyn AttentionKernel<CubeBackend>] =
    &[&Cube::ALL[0], &Cube::ALL[1], &Cube::ALL[2], &Cube::ALL[3], &Cube::ALL[4], &Cube::ALL[5], &Composite];

/// Whether a CUDA device is there.
#[cfg(feature = "cuda")]
pub fn has_cuda() -> bool {
    CubeDevice::enumerate_all().iter().any(|device| matches!(device, CubeDevice::Cuda(_)))
}

/// Whether a ROCm device is there.
#[cfg(feature = "rocm")]
pub fn has_rocm() -> bool {
    CubeDevice::enumerate_all().iter().any(|device| matches!(device, CubeDevice::Hip(_)))
}
