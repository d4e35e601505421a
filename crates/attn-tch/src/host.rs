//! The kernel named `cpu`: the kernels for CPUs on LibTorch's tensors, for what LibTorch's own cannot do.
//!
//! LibTorch lends no memory without `unsafe`, so what goes in and what comes out is copied once: linear in the lengths, where the work
//! is quadratic. With few queries for many keys the copies of keys and values are most of the time.

use std::borrow::Cow;

use attn_core::{
    AttentionError, AttentionInputs, AttentionKernel, AttentionOutputs, Gradients, Pass, Problem, Upstream, Wanted,
};
use attn_host::{CpuKernel, HostElement, HostMemory, Strided};
use burn_backend::ops::FloatTensorOps as _;
use burn_backend::{FloatDType, TensorMetadata as _, try_read_sync};
use burn_tch::{LibTorch, LibTorchDevice, TchTensor};
use tch::{Kind, TchError, Tensor};

/// Serves the whole contract in both directions where tensors lie in the host's memory.
#[derive(Debug, Clone, Copy)]
pub struct Host;

const CPU: CpuKernel<TchMemory> = CpuKernel::BEST;

impl AttentionKernel<LibTorch> for Host {
    fn name(&self) -> &'static str {
        CPU.name()
    }

    fn supports(&self, device: &LibTorchDevice, problem: &Problem, pass: Pass) -> Result<(), String> {
        match device {
            LibTorchDevice::Cpu => CPU.supports(device, problem, pass),
            _ => Err("the kernels for CPUs take tensors in the host's memory".to_string()),
        }
    }

    fn workspace_bytes(&self, device: &LibTorchDevice, problem: &Problem, pass: Pass) -> u64 {
        CPU.workspace_bytes(device, problem, pass).saturating_add(copies(problem, pass))
    }

    fn forward(
        &self,
        problem: &Problem,
        inputs: AttentionInputs<LibTorch>,
        lse: bool,
    ) -> Result<AttentionOutputs<LibTorch>, AttentionError> {
        self.check(&inputs, problem, Pass::Forward)?;
        CPU.forward(problem, inputs, lse)
    }

    fn backward(
        &self,
        problem: &Problem,
        inputs: AttentionInputs<LibTorch>,
        upstream: Upstream<LibTorch>,
        wanted: Wanted,
    ) -> Result<Gradients<LibTorch>, AttentionError> {
        self.check(&inputs, problem, Pass::Backward)?;
        CPU.backward(problem, inputs, upstream, wanted)
    }
}

impl Host {
    fn check(&self, inputs: &AttentionInputs<LibTorch>, problem: &Problem, pass: Pass) -> Result<(), AttentionError> {
        let refusal = |reason| AttentionError::Unsupported { kernel: self.name().to_string(), reason };
        self.supports(&inputs.query.tensor.device().into(), problem, pass).map_err(refusal)
    }
}

/// An upper bound of the bytes copied: every operand, the largest of them twice, since one that is not contiguous becomes so first,
/// and the results.
fn copies(problem: &Problem, pass: Pass) -> u64 {
    let Problem { batch, heads, kv_heads, query_len, key_len, head_dim, value_dim, .. } = *problem;
    let times = |size: u64, shape: &[usize]| shape.iter().fold(size, |bytes, &axis| bytes.saturating_mul(axis as u64));
    let bytes = |of: FloatDType, shape: &[usize]| times(burn_backend::DType::from(of).size() as u64, shape);
    let sum = |all: &[u64]| all.iter().fold(0, |sum: u64, bytes| sum.saturating_add(*bytes));
    let largest = |all: &[u64]| all.iter().copied().max().unwrap_or(0);
    let tensor = |shape: &[usize]| bytes(problem.dtype, shape);
    let operands = [
        tensor(&[batch, heads, query_len, head_dim]),
        tensor(&[batch, kv_heads, key_len, head_dim]),
        tensor(&[batch, kv_heads, key_len, value_dim]),
        problem.bias.map_or(0, |shape| tensor(&shape)),
        problem.relative_bias.map_or(0, |shape| tensor(&shape)),
        if problem.alibi { tensor(&[heads]) } else { 0 },
        if problem.sinks { tensor(&[heads]) } else { 0 },
    ];
    let mask = problem.mask.map_or(0, |shape| times(1, &shape));
    let out = tensor(&[batch, heads, query_len, value_dim]);
    let lse = bytes(problem.accumulation(), &[batch, heads, query_len]);
    let (all, most) = (sum(&operands), largest(&operands).max(mask));
    match pass {
        Pass::Forward => sum(&[all, mask, most, out, lse]),
        // The output, the LSE and their gradients; a gradient for every operand.
        Pass::Backward => sum(&[all, mask, most.max(out), out, lse, out, lse, all]),
    }
}

/// The memory of LibTorch's tensors on the CPU, copied.
#[derive(Debug, Clone, Copy)]
struct TchMemory;

impl HostMemory for TchMemory {
    type Backend = LibTorch;

    fn floats<T: HostElement>(tensor: &TchTensor) -> Option<Strided<'_, T>> {
        if tensor.dtype() != T::dtype() {
            return None;
        }
        let (kept, strides) = unexpanded(&tensor.tensor).ok()?;
        let data = try_read_sync(LibTorch::float_into_data(TchTensor::new(kept)))?.ok()?;
        Some(Strided { data: Cow::Owned(data.try_into_vec().ok()?), strides })
    }

    fn bools(tensor: &TchTensor) -> Option<Strided<'_, u8>> {
        let (kept, strides) = unexpanded(&tensor.tensor).ok()?;
        let bytes = kept.f_to_kind(Kind::Uint8).and_then(|bytes| bytes.f_reshape([-1])).ok()?;
        Some(Strided { data: Cow::Owned(Vec::try_from(&bytes).ok()?), strides })
    }
}

/// A tensor without the repetitions along axes where its stride is 0, and the strides by which a copy of it in order is the whole: what
/// was expanded without memory is copied without it.
fn unexpanded(tensor: &Tensor) -> Result<(Tensor, [usize; 4]), TchError> {
    let mut kept = tensor.shallow_clone();
    let mut repeated = [false; 4];
    for (axis, (size, stride)) in tensor.size().into_iter().zip(tensor.stride()).enumerate() {
        if size > 1 && stride == 0 {
            let Some(repeated) = repeated.get_mut(axis) else {
                return Err(TchError::Shape(format!("{} axes", tensor.dim())));
            };
            *repeated = true;
            kept = kept.f_narrow(axis as i64, 0, 1)?;
        }
    }
    let mut strides = [0; 4];
    let mut step = 1;
    for (axis, size) in kept.size().into_iter().enumerate().rev() {
        let Some(stride) = strides.get_mut(axis) else {
            return Err(TchError::Shape(format!("{} axes", tensor.dim())));
        };
        *stride = if repeated[axis] { 0 } else { step };
        step *= usize::try_from(size).unwrap_or(0);
    }
    Ok((kept, strides))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(tensor: &Tensor) -> (Vec<f32>, [usize; 4]) {
        let tensor = TchTensor::new(tensor.shallow_clone());
        let strided = TchMemory::floats::<f32>(&tensor).expect("it is f32");
        (strided.data.into_owned(), strided.strides)
    }

    #[test]
    fn what_was_expanded_is_copied_once() {
        let range = Tensor::arange(6, (Kind::Float, tch::Device::Cpu));
        let lies = |tensor: Tensor| numbers(&tensor);
        let plain = range.reshape([1, 2, 1, 3]);
        let counted: Vec<f32> = (0..6).map(|x| x as f32).collect();
        assert_eq!(lies(plain.shallow_clone()), (counted.clone(), [6, 3, 3, 1]));
        assert_eq!(lies(plain.expand([4, 2, 5, 3], false)), (counted, [0, 3, 0, 1]));
        let turned = plain.transpose(1, 3);
        assert_eq!(lies(turned), (vec![0., 3., 1., 4., 2., 5.], [6, 2, 2, 1]));
        assert_eq!(lies(Tensor::zeros([2, 0], (Kind::Float, tch::Device::Cpu))), (vec![], [0, 1, 0, 0]));
    }

    #[test]
    fn a_mask_is_bytes() {
        let mask = Tensor::from_slice(&[true, false]).reshape([1, 1, 1, 2]).expand([1, 1, 3, 2], false);
        let tensor = TchTensor::new(mask);
        let strided = TchMemory::bools(&tensor).expect("it is a mask");
        assert_eq!((strided.data.into_owned(), strided.strides), (vec![1, 0], [2, 2, 0, 1]));
    }
}
