//! Attention on Burn's NdArray backend, served by the kernels for CPUs.
//!
//! NdArray holds f32 and f64; it has no f16 or bf16 tensors.

// Burn drops this backend in 0.23; until then it is bound on purpose. Here is the one place that names it.
#![allow(deprecated)]

use attn_core::AttentionKernel;
use attn_core::composite::Composite;
use attn_host::{CpuKernel, HostElement, HostMemory, Strided};
use burn_backend::DType;
use burn_ndarray::{NdArray, NdArrayTensor};

/// The memory of NdArray's tensors.
#[derive(Debug, Clone, Copy)]
pub struct NdArrayMemory;

/// The kernels of this backend, the preferred one first.
pub static KERNELS: &[&dyn AttentionKernel<NdArray>] = &[
    &CpuKernel::<NdArrayMemory>::BEST,
    &CpuKernel::<NdArrayMemory>::AVX512_BF16,
    &CpuKernel::<NdArrayMemory>::AVX512,
    &CpuKernel::<NdArrayMemory>::AVX2,
    &CpuKernel::<NdArrayMemory>::NEON,
    &CpuKernel::<NdArrayMemory>::PORTABLE,
    &Composite,
];

impl HostMemory for NdArrayMemory {
    type Backend = NdArray;

    fn floats<T: HostElement>(tensor: &NdArrayTensor) -> Option<Strided<'_, T>> {
        match tensor {
            NdArrayTensor::F32(storage) if T::dtype() == DType::F32 => {
                let view = storage.view();
                Strided::new(bytemuck::try_cast_slice(view.to_slice_memory_order()?).ok()?, view.strides())
            }
            NdArrayTensor::F64(storage) if T::dtype() == DType::F64 => {
                let view = storage.view();
                Strided::new(bytemuck::try_cast_slice(view.to_slice_memory_order()?).ok()?, view.strides())
            }
            _ => None,
        }
    }

    fn bools(tensor: &NdArrayTensor) -> Option<Strided<'_, u8>> {
        match tensor {
            NdArrayTensor::Bool(storage) => {
                let view = storage.view();
                Strided::new(bytemuck::try_cast_slice(view.to_slice_memory_order()?).ok()?, view.strides())
            }
            _ => None,
        }
    }
}
