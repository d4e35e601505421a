//! Serves the contract of `attn-core` with the kernels of `attn-cpu`, on any Burn backend whose tensors lie in host memory.
//!
//! A binding says how to look into its tensors ([`HostMemory`]) and gets the kernels named `cpu`, `cpu-avx512-bf16`,
//! `cpu-avx512`, `cpu-avx2`, `cpu-neon` and `cpu-portable` ([`CpuKernel`]). Tensors are read where they lie, by their strides, where the backend lends
//! their memory; one whose last axis is not contiguous, or that runs backwards, is copied first.

mod kernel;
mod memory;

pub use attn_cpu::Isa;
pub use kernel::CpuKernel;
pub use memory::{HostElement, HostMemory, Strided};
