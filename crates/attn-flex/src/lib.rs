//! Attention on Burn's Flex backend, served by the kernels for CPUs, in f64, f32, f16 and bf16.

use attn_core::AttentionKernel;
use attn_core::composite::Composite;
use attn_host::{CpuKernel, HostElement, HostMemory, Strided};
use burn_flex::{Flex, FlexTensor};

/// The memory of Flex's tensors.
#[derive(Debug, Clone, Copy)]
pub struct FlexMemory;

/// The kernels of this backend, the preferred one first.
pub static KERNELS: &[&dyn AttentionKernel<Flex>] = &[
    &CpuKernel::<FlexMemory>::BEST,
    &CpuKernel::<FlexMemory>::AVX512_BF16,
    &CpuKernel::<FlexMemory>::AVX512,
    &CpuKernel::<FlexMemory>::AVX2,
    &CpuKernel::<FlexMemory>::NEON,
    &CpuKernel::<FlexMemory>::PORTABLE,
    &Composite,
];

impl HostMemory for FlexMemory {
    type Backend = Flex;

    fn floats<T: HostElement>(tensor: &FlexTensor) -> Option<Strided<'_, T>> {
        if tensor.dtype() != T::dtype() {
            return None;
        }
        strided(tensor)
    }

    fn bools(tensor: &FlexTensor) -> Option<Strided<'_, u8>> {
        // Flex keeps a bool in a byte of 0 or 1.
        if !tensor.dtype().is_bool() || tensor.dtype().size() != 1 {
            return None;
        }
        strided(tensor)
    }
}

/// Strides that run backwards are refused; they are copied.
fn strided<T: bytemuck::Pod>(tensor: &FlexTensor) -> Option<Strided<'_, T>> {
    let layout = tensor.layout();
    let data: &[T] = bytemuck::try_cast_slice(tensor.bytes()).ok()?;
    Strided::new(data.get(layout.start_offset()..)?, layout.strides())
}

#[cfg(test)]
mod tests;
