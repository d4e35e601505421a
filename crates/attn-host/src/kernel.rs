//! The CPU kernels as attention kernels of a backend in host memory.

use std::marker::PhantomData;

use attn_core::{
    AttentionError, AttentionInputs, AttentionKernel, AttentionOutputs, BlockMask, Gradients, Pass, Polarity, Problem,
    Upstream, Wanted,
};
use attn_cpu::{Attention, Band, Blocks, Dropout, Isa, Mask, ScoreMod};
use burn_backend::ops::FloatTensorOps as _;
use burn_backend::tensor::{Device, FloatTensor};
use burn_backend::{FloatDType, TensorData, TensorMetadata as _, bf16, f16};

use crate::memory::{self, HostElement, HostMemory, failed};

/// The kernel named `cpu`, which takes the best instructions this machine has, or one named after a fixed set of instructions.
///
/// Where the CPU has dot products of bf16, bf16 problems use them: sums are f32, and each weight is rounded to bf16 before it multiplies a
/// value, as the output is.
///
/// It serves the whole contract in both directions, in every element type.
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

    fn supports(&self, _device: &Device<M::Backend>, problem: &Problem, pass: Pass) -> Result<(), String> {
        if pass == Pass::Backward {
            problem.check_differentiable().map_err(|error| error.to_string())?;
        }
        match self.isa {
            Some(isa) if !isa.is_available() => Err(format!("this machine lacks the instructions of {}", isa.name())),
            _ => Ok(()),
        }
    }

    fn workspace_bytes(&self, _device: &Device<M::Backend>, problem: &Problem, pass: Pass) -> u64 {
        let isa = self.isa.unwrap_or_else(Isa::detect);
        match problem.dtype {
            FloatDType::F64 => workspace::<f64>(isa, problem, pass),
            FloatDType::F16 => workspace::<f16>(isa, problem, pass),
            FloatDType::BF16 => workspace::<bf16>(isa, problem, pass),
            FloatDType::F32 | FloatDType::Flex32 => workspace::<f32>(isa, problem, pass),
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
        upstream: Upstream<M::Backend>,
        wanted: Wanted,
    ) -> Result<Gradients<M::Backend>, AttentionError> {
        let device = inputs.query.device();
        self.supports(&device, problem, Pass::Backward).map_err(|reason| self.refusal(reason))?;
        let isa = self.isa.unwrap_or_else(Isa::detect);
        match problem.dtype {
            FloatDType::F64 => backward::<M, f64, f64>(problem, &inputs, &upstream, isa, wanted),
            FloatDType::F32 => backward::<M, f32, f32>(problem, &inputs, &upstream, isa, wanted),
            FloatDType::F16 => backward::<M, f16, f32>(problem, &inputs, &upstream, isa, wanted),
            FloatDType::BF16 => backward::<M, bf16, f32>(problem, &inputs, &upstream, isa, wanted),
            FloatDType::Flex32 => Err(self.refusal("flex32 does not lie in host memory".to_string())),
        }
    }
}

impl<M: HostMemory> CpuKernel<M> {
    fn refusal(&self, reason: String) -> AttentionError {
        AttentionError::Unsupported { kernel: AttentionKernel::<M::Backend>::name(self).to_string(), reason }
    }
}

/// The kernel's scratch, and the binding's lists of what is per batch entry and per head: all that a call holds besides the outputs and
/// their tensors' own records. Backward: with all gradients wanted.
fn workspace<T: attn_cpu::Element>(isa: Isa, problem: &Problem, pass: Pass) -> u64 {
    let Problem { batch, heads, kv_heads, query_len, key_len, head_dim, value_dim, .. } = *problem;
    let threads = rayon::current_num_threads();
    let lengths = [batch, heads, kv_heads, query_len, key_len, head_dim, value_dim];
    let scratch = match pass {
        Pass::Forward => {
            let [b, h, g, q, k, d, e] = lengths;
            attn_cpu::workspace_bytes::<T>(isa, b, h, g, q, k, d, e, threads)
        }
        Pass::Backward => attn_cpu::backward_bytes::<T>(isa, lengths, &kernel_wants(problem, ALL), threads),
    };
    let bands = Bands::bytes(problem.batch);
    let per_head = [problem.alibi, problem.sinks].map(|given| if given { problem.heads * size_of::<T>() } else { 0 });
    scratch.saturating_add((bands + per_head[0] + per_head[1]) as u64)
}

/// Every gradient.
const ALL: Wanted =
    Wanted { query: true, key: true, value: true, bias: true, alibi_slopes: true, relative_bias: true, sinks: true };

/// What is wanted of what is there, with the shapes that the kernel takes.
fn kernel_wants(problem: &Problem, wanted: Wanted) -> attn_cpu::Wanted {
    attn_cpu::Wanted {
        query: wanted.query,
        key: wanted.key,
        value: wanted.value,
        bias: problem.bias.filter(|_| wanted.bias),
        alibi_slopes: wanted.alibi_slopes && problem.alibi,
        relative_bias: problem.relative_bias.filter(|_| wanted.relative_bias),
        sinks: wanted.sinks && problem.sinks,
    }
}

/// Looks into the inputs, and runs `run` on the problem that they are.
fn with_attention<M: HostMemory, T: HostElement, R>(
    problem: &Problem,
    inputs: &AttentionInputs<M::Backend>,
    run: impl FnOnce(&Attention<'_, T>) -> Result<R, AttentionError>,
) -> Result<R, AttentionError> {
    let Problem { batch, heads, kv_heads, query_len, key_len, head_dim, value_dim, .. } = *problem;
    let scores = [batch, heads, query_len, key_len];
    let query = memory::rows::<M, T>(&inputs.query, head_dim)?;
    let key = memory::rows::<M, T>(&inputs.key, head_dim)?;
    let value = memory::rows::<M, T>(&inputs.value, value_dim)?;
    let mask = inputs.mask.as_ref().map(|mask| memory::bools::<M>(mask.tensor())).transpose()?;
    let bias = inputs.bias.as_ref().map(|bias| memory::floats::<M, T>(bias)).transpose()?;
    let table = inputs.relative_bias.as_ref().map(|table| memory::floats::<M, T>(table)).transpose()?;
    let slopes = per_head::<M, T>(inputs.alibi_slopes.as_ref(), heads)?;
    let sinks = per_head::<M, T>(inputs.sinks.as_ref(), heads)?;
    let polarity = inputs.mask.as_ref().map(|mask| mask.polarity());
    let bands = Bands::new(&problem.bands);
    let blocks = problem.block_mask.as_deref().map(blocks).transpose()?;
    let function = problem.score_mod.as_ref();
    let value_of = function.map(|function| |score, place: [usize; 4]| function.apply(score, problem.pair(place)));
    let slope_of = function
        .filter(|function| function.has_slope())
        .map(|function| |score, place: [usize; 4]| function.slope(score, problem.pair(place)).unwrap_or(0.0));
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
        bands: bands.as_slice(),
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
        dropout: problem.dropout.map(|dropout| Dropout { probability: dropout.probability, seed: dropout.seed }),
        score_mod: value_of.as_ref().map(|value| match &slope_of {
            Some(slope) => ScoreMod::new(value).with_slope(slope),
            None => ScoreMod::new(value),
        }),
    };
    run(&attention)
}

fn forward<M: HostMemory, T: HostElement + attn_cpu::Element<Accum = A>, A: HostElement>(
    problem: &Problem,
    inputs: &AttentionInputs<M::Backend>,
    isa: Isa,
    lse: bool,
) -> Result<AttentionOutputs<M::Backend>, AttentionError> {
    let Problem { batch, heads, query_len, value_dim, .. } = *problem;
    let (out, row_lse) = with_attention::<M, T, _>(problem, inputs, |attention| {
        attn_cpu::compute(attention, isa, lse).map_err(|error| failed(&error))
    })?;
    let device = inputs.query.device();
    let tensor = |data: TensorData| -> FloatTensor<M::Backend> { M::Backend::float_from_data(data, &device) };
    Ok(AttentionOutputs {
        out: tensor(TensorData::new(out, [batch, heads, query_len, value_dim])),
        lse: row_lse.map(|lse| tensor(TensorData::new(lse, [batch, heads, query_len]))),
    })
}

fn backward<M: HostMemory, T: HostElement + attn_cpu::Element<Accum = A>, A: HostElement>(
    problem: &Problem,
    inputs: &AttentionInputs<M::Backend>,
    upstream: &Upstream<M::Backend>,
    isa: Isa,
    wanted: Wanted,
) -> Result<Gradients<M::Backend>, AttentionError> {
    let Problem { batch, heads, kv_heads, query_len, key_len, head_dim, value_dim, .. } = *problem;
    let (outs, rows) = ([batch, heads, query_len, value_dim], [batch, heads, query_len]);
    let out = memory::rows::<M, T>(&upstream.out, value_dim)?;
    let lse = memory::floats::<M, A>(&upstream.lse)?;
    let grad_out = upstream.grad_out.as_ref().map(|grad| memory::rows::<M, T>(grad, value_dim)).transpose()?;
    let grad_lse = upstream.grad_lse.as_ref().map(|grad| memory::floats::<M, A>(grad)).transpose()?;
    let upstream = attn_cpu::Upstream {
        out: out.view(outs, outs)?,
        lse: lse.view(rows, rows)?,
        grad_out: grad_out.as_ref().map(|grad| grad.view(outs, outs)).transpose()?,
        grad_lse: grad_lse.as_ref().map(|grad| grad.view(rows, rows)).transpose()?,
    };
    let wanted = kernel_wants(problem, wanted);
    let made = with_attention::<M, T, _>(problem, inputs, |attention| {
        attn_cpu::backward(attention, isa, &upstream, wanted).map_err(|error| failed(&error))
    })?;
    let device = inputs.query.device();
    let tensor = |numbers: Option<Vec<T>>, shape: &[usize]| -> Option<FloatTensor<M::Backend>> {
        numbers.map(|numbers| M::Backend::float_from_data(TensorData::new(numbers, shape.to_vec()), &device))
    };
    Ok(Gradients {
        query: tensor(made.query, &[batch, heads, query_len, head_dim]),
        key: tensor(made.key, &[batch, kv_heads, key_len, head_dim]),
        value: tensor(made.value, &[batch, kv_heads, key_len, value_dim]),
        bias: tensor(made.bias, &problem.bias.unwrap_or_default()),
        alibi_slopes: tensor(made.alibi_slopes, &[heads]),
        relative_bias: tensor(made.relative_bias, &problem.relative_bias.unwrap_or_default()),
        sinks: tensor(made.sinks, &[heads]),
    })
}

fn per_head<M: HostMemory, T: HostElement>(
    tensor: Option<&FloatTensor<M::Backend>>,
    heads: usize,
) -> Result<Option<Vec<T>>, AttentionError> {
    tensor.map(|tensor| Ok(memory::floats::<M, T>(tensor)?.to_vec(heads))).transpose()
}

fn blocks(mask: &BlockMask) -> Result<Blocks<'_>, AttentionError> {
    Blocks::new(mask.shape(), mask.table(), mask.patterns()).map_err(|error| failed(&error))
}

/// The bands as the kernel takes them. That of a batch of one needs no memory.
enum Bands {
    One([Band; 1]),
    Each(Vec<Band>),
}

impl Bands {
    fn new(bands: &[attn_core::Band]) -> Self {
        match bands {
            [one] => Self::One([band(one)]),
            bands => Self::Each(bands.iter().map(band).collect()),
        }
    }

    /// Bytes allocated for so many.
    fn bytes(bands: usize) -> usize {
        if bands == 1 { 0 } else { bands * size_of::<Band>() }
    }

    fn as_slice(&self) -> &[Band] {
        match self {
            Self::One(one) => one,
            Self::Each(bands) => bands,
        }
    }
}

fn band(band: &attn_core::Band) -> Band {
    Band { offset: band.offset, lower: band.lower, upper: band.upper, keys: band.keys }
}
