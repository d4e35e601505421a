//! The CPU kernels as attention kernels of a backend in host memory.

use std::marker::PhantomData;

use attn_core::{
    AttentionError, AttentionInputs, AttentionKernel, AttentionOutputs, BlockMask, Gradients, Pass, Polarity, Problem,
    Upstream, Wanted,
};
use attn_cpu::{Attention, Band, Blocks, Isa, Mask, ScoreMod};
use burn_backend::ops::FloatTensorOps as _;
use burn_backend::tensor::{Device, FloatTensor};
use burn_backend::{FloatDType, TensorData, TensorMetadata as _, bf16, f16};

use crate::memory::{self, HostElement, HostMemory, failed};

/// The kernel named `cpu`, which takes the best instructions this machine has, or one named after a fixed set of instructions.
///
/// Where the CPU has dot products of bf16, bf16 problems use them: sums are f32, and each weight is rounded to bf16 before it multiplies a
/// value, as the output is.
///
/// It serves the whole contract forward, in every element type. It has no backward pass: gradients come from the composite.
#[derive(Debug, Clone, Copy)]
pub struct CpuKernel<M> {
    isa: Option<Isa>,
    memory: PhantomData<M>,
}

impl<M: HostMemory> CpuKernel<M> {
    /// The best instructions of this machine.
    pub const BEST: Self = Self::new(None);
    /// AVX-512F with the dot products of AVX512-BF16, which serve bf16; other types are computed as by [`CpuKernel::AVX512`].
    pub const AVX512_BF16: Self = Self::new(Some(Isa::Avx512Bf16));
    /// AVX-512F only.
    pub const AVX512: Self = Self::new(Some(Isa::Avx512));
    /// AVX2 and FMA only.
    pub const AVX2: Self = Self::new(Some(Isa::Avx2));
    /// NEON only.
    pub const NEON: Self = Self::new(Some(Isa::Neon));
    /// No instructions beyond those that the program was compiled for.
    pub const PORTABLE: Self = Self::new(Some(Isa::Portable));

    const fn new(isa: Option<Isa>) -> Self {
        Self { isa, memory: PhantomData }
    }
}

impl<M: HostMemory> AttentionKernel<M::Backend> for CpuKernel<M> {
    fn name(&self) -> &'static str {
        match self.isa {
            None => "cpu",
            Some(Isa::Avx512Bf16) => "cpu-avx512-bf16",
            Some(Isa::Avx512) => "cpu-avx512",
            Some(Isa::Avx2) => "cpu-avx2",
            Some(Isa::Neon) => "cpu-neon",
            Some(Isa::Portable) => "cpu-portable",
        }
    }

    fn supports(&self, _device: &Device<M::Backend>, _problem: &Problem, pass: Pass) -> Result<(), String> {
        if pass == Pass::Backward {
            return Err("the CPU kernels have no backward pass".to_string());
        }
        match self.isa {
            Some(isa) if !isa.is_available() => Err(format!("this machine lacks the instructions of {}", isa.name())),
            _ => Ok(()),
        }
    }

    fn workspace_bytes(&self, _device: &Device<M::Backend>, problem: &Problem, _pass: Pass) -> u64 {
        let isa = self.isa.unwrap_or_else(Isa::detect);
        match problem.dtype {
            FloatDType::F64 => workspace::<f64>(isa, problem),
            FloatDType::F16 => workspace::<f16>(isa, problem),
            FloatDType::BF16 => workspace::<bf16>(isa, problem),
            FloatDType::F32 | FloatDType::Flex32 => workspace::<f32>(isa, problem),
        }
    }

    fn forward(
        &self,
        problem: &Problem,
        inputs: AttentionInputs<M::Backend>,
        lse: bool,
    ) -> Result<AttentionOutputs<M::Backend>, AttentionError> {
        let device = inputs.query.device();
        self.supports(&device, problem, Pass::Forward).map_err(|reason| self.refusal(reason))?;
        let isa = self.isa.unwrap_or_else(Isa::detect);
        match problem.dtype {
            FloatDType::F64 => forward::<M, f64, f64>(problem, &inputs, isa, lse),
            FloatDType::F32 => forward::<M, f32, f32>(problem, &inputs, isa, lse),
            FloatDType::F16 => forward::<M, f16, f32>(problem, &inputs, isa, lse),
            FloatDType::BF16 => forward::<M, bf16, f32>(problem, &inputs, isa, lse),
            FloatDType::Flex32 => Err(self.refusal("flex32 does not lie in host memory".to_string())),
        }
    }

    fn backward(
        &self,
        problem: &Problem,
        inputs: AttentionInputs<M::Backend>,
        _upstream: Upstream<M::Backend>,
        _wanted: Wanted,
    ) -> Result<Gradients<M::Backend>, AttentionError> {
        match self.supports(&inputs.query.device(), problem, Pass::Backward) {
            Err(reason) => Err(self.refusal(reason)),
            Ok(()) => Err(failed(&"the CPU kernels have no backward pass")),
        }
    }
}

impl<M: HostMemory> CpuKernel<M> {
    fn refusal(&self, reason: String) -> AttentionError {
        AttentionError::Unsupported { kernel: AttentionKernel::<M::Backend>::name(self).to_string(), reason }
    }
}

/// The kernel's scratch, and the binding's lists of what is per batch entry and per head: all that a call holds besides the outputs and
/// their tensors' own records.
fn workspace<T: attn_cpu::Element>(isa: Isa, problem: &Problem) -> u64 {
    let scratch = attn_cpu::workspace_bytes::<T>(
        isa,
        problem.batch,
        problem.heads,
        problem.kv_heads,
        problem.query_len,
        problem.key_len,
        problem.head_dim,
        problem.value_dim,
        rayon::current_num_threads(),
    );
    let bands = problem.batch * size_of::<Band>();
    let per_head = [problem.alibi, problem.sinks].map(|given| if given { problem.heads * size_of::<T>() } else { 0 });
    scratch.saturating_add((bands + per_head[0] + per_head[1]) as u64)
}

fn forward<M: HostMemory, T: HostElement + attn_cpu::Element<Accum = A>, A: HostElement>(
    problem: &Problem,
    inputs: &AttentionInputs<M::Backend>,
    isa: Isa,
    lse: bool,
) -> Result<AttentionOutputs<M::Backend>, AttentionError> {
    let Problem { batch, heads, kv_heads, query_len, key_len, head_dim, value_dim, .. } = *problem;
    let scores = [batch, heads, query_len, key_len];
    let query = memory::floats::<M, T>(&inputs.query, true)?;
    let key = memory::floats::<M, T>(&inputs.key, true)?;
    let value = memory::floats::<M, T>(&inputs.value, true)?;
    let mask = inputs.mask.as_ref().map(|mask| memory::bools::<M>(mask.tensor())).transpose()?;
    let bias = inputs.bias.as_ref().map(|bias| memory::floats::<M, T>(bias, false)).transpose()?;
    let table = inputs.relative_bias.as_ref().map(|table| memory::floats::<M, T>(table, false)).transpose()?;
    let slopes = per_head::<M, T>(inputs.alibi_slopes.as_ref(), heads)?;
    let sinks = per_head::<M, T>(inputs.sinks.as_ref(), heads)?;
    let polarity = inputs.mask.as_ref().map(|mask| mask.polarity());
    let bands: Vec<Band> = problem.bands.iter().map(band).collect();
    let blocks = problem.block_mask.as_deref().map(blocks).transpose()?;
    let function = problem
        .score_mod
        .as_ref()
        .map(|function| |score, place: [usize; 4]| function.apply(score, problem.pair(place)));
    let (query_shape, key_shape, value_shape) = (
        [batch, heads, query_len, head_dim],
        [batch, kv_heads, key_len, head_dim],
        [batch, kv_heads, key_len, value_dim],
    );
    let attention = Attention {
        query: query.view(query_shape, query_shape)?,
        key: key.view(key_shape, key_shape)?,
        value: value.view(value_shape, value_shape)?,
        scale: problem.scale,
        softcap: problem.softcap,
        bands: &bands,
        mask: match (&mask, problem.mask) {
            (Some(mask), Some(shape)) => {
                Some(Mask { view: mask.view(shape, scores)?, seen_when: polarity == Some(Polarity::Keep) })
            }
            _ => None,
        },
        bias: match (&bias, problem.bias) {
            (Some(bias), Some(shape)) => Some(bias.view(shape, scores)?),
            _ => None,
        },
        alibi_slopes: slopes.as_deref(),
        relative_bias: match (&table, problem.relative_bias) {
            (Some(table), Some(shape)) => Some(table.view(shape, [heads, shape[1]])?),
            _ => None,
        },
        sinks: sinks.as_deref(),
        blocks,
        score_mod: function.as_ref().map(|function| ScoreMod::new(function)),
    };
    let (out, row_lse) = attn_cpu::compute(&attention, isa, lse).map_err(|error| failed(&error))?;
    let device = inputs.query.device();
    let tensor = |data: TensorData| -> FloatTensor<M::Backend> { M::Backend::float_from_data(data, &device) };
    Ok(AttentionOutputs {
        out: tensor(TensorData::new(out, [batch, heads, query_len, value_dim])),
        lse: row_lse.map(|lse| tensor(TensorData::new(lse, [batch, heads, query_len]))),
    })
}

fn per_head<M: HostMemory, T: HostElement>(
    tensor: Option<&FloatTensor<M::Backend>>,
    heads: usize,
) -> Result<Option<Vec<T>>, AttentionError> {
    tensor.map(|tensor| Ok(memory::floats::<M, T>(tensor, false)?.to_vec(heads))).transpose()
}

fn blocks(mask: &BlockMask) -> Result<Blocks<'_>, AttentionError> {
    Blocks::new(mask.shape(), mask.table(), mask.patterns()).map_err(|error| failed(&error))
}

fn band(band: &attn_core::Band) -> Band {
    Band { offset: band.offset, lower: band.lower, upper: band.upper, keys: band.keys }
}
