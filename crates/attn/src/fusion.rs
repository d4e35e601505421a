//! Attention on `Fusion<CubeBackend>`, the GPU backend that puts off its operations to fuse them.
//!
//! A pass of a kernel is one operation among those that are put off; its inputs are made before it runs, as for any other. All
//! that may be refused is refused before it is put off, by the kernel itself; what the driver then says against it comes when
//! the output is read, as with every operation of that backend. The composite needs nothing: it is made of Burn's operations.

use std::sync::{Arc, LazyLock};

use attn_core::composite::Composite;
use attn_core::plan::{Kernels, select};
use attn_core::{
    AttentionError, AttentionInputs, AttentionKernel, AttentionOutputs, Gradients, KernelChoice, Mask, Pass, Polarity,
    Problem, Upstream, Wanted,
};
use attn_wgpu::{Cube, CubeBackend, CubeDevice};
use burn::backend::fusion::Fusion;
use burn::backend::fusion::custom::TensorSpec;
use burn::backend::tensor::{BoolTensor, FloatTensor};
use burn::backend::{Backend, ExtensionType, TensorMetadata, backend_extension};
use burn::tensor::{DType, FloatDType, Shape};

use crate::dispatch::{AttentionBackend, MaybeFloat, MaybeFloatMetadata, Outcome, OutcomeMetadata};

/// A bool tensor that may be absent.
#[derive(Debug, Clone, ExtensionType)]
#[extension_type(fusion: cfg(all(feature = "cubecl", feature = "fusion")))]
pub enum MaybeBool<B: Backend> {
    /// Not given.
    Absent,
    /// Given.
    Given(BoolTensor<B>),
}

/// A forward pass on its way to its kernel.
#[derive(Debug, Clone, ExtensionType)]
#[extension_type(fusion: cfg(all(feature = "cubecl", feature = "fusion")))]
pub struct DeferredCall<B: Backend> {
    pub query: FloatTensor<B>,
    pub key: FloatTensor<B>,
    pub value: FloatTensor<B>,
    #[extension_type]
    pub mask: MaybeBool<B>,
    #[extension_type]
    pub bias: MaybeFloat<B>,
    #[extension_type]
    pub alibi_slopes: MaybeFloat<B>,
    #[extension_type]
    pub relative_bias: MaybeFloat<B>,
    #[extension_type]
    pub sinks: MaybeFloat<B>,
    pub polarity: Polarity,
    pub problem: Arc<Problem>,
    pub choice: KernelChoice,
    pub lse: bool,
}

impl<B: Backend> DeferredCall<B> {
    fn into_inputs(self) -> AttentionInputs<B> {
        AttentionInputs {
            mask: match self.mask {
                MaybeBool::Given(mask) => Some(Mask::new(mask, self.polarity)),
                MaybeBool::Absent => None,
            },
            bias: self.bias.into_option(),
            alibi_slopes: self.alibi_slopes.into_option(),
            relative_bias: self.relative_bias.into_option(),
            sinks: self.sinks.into_option(),
            ..AttentionInputs::new(self.query, self.key, self.value)
        }
    }
}

/// A backward pass on its way to its kernel.
#[derive(Debug, Clone, ExtensionType)]
#[extension_type(fusion: cfg(all(feature = "cubecl", feature = "fusion")))]
pub struct BackwardCall<B: Backend> {
    #[extension_type]
    pub call: DeferredCall<B>,
    pub out: FloatTensor<B>,
    pub row_lse: FloatTensor<B>,
    #[extension_type]
    pub grad_out: MaybeFloat<B>,
    #[extension_type]
    pub grad_lse: MaybeFloat<B>,
    pub wanted: Wanted,
}

/// What a backward pass gives: a gradient of each input that wants one.
#[derive(Debug, Clone, ExtensionType)]
#[extension_type(fusion: cfg(all(feature = "cubecl", feature = "fusion")))]
pub enum BackwardOutcome<B: Backend> {
    /// The gradients.
    Done {
        #[extension_type]
        query: MaybeFloat<B>,
        #[extension_type]
        key: MaybeFloat<B>,
        #[extension_type]
        value: MaybeFloat<B>,
        #[extension_type]
        bias: MaybeFloat<B>,
        #[extension_type]
        alibi_slopes: MaybeFloat<B>,
        #[extension_type]
        relative_bias: MaybeFloat<B>,
        #[extension_type]
        sinks: MaybeFloat<B>,
    },
    /// What went wrong.
    Failed(AttentionError),
}

/// The operations that are put off.
#[backend_extension(Cube, Fusion)]
pub trait Deferral: Backend {
    /// A kernel's forward pass.
    #[fusion(meta = promised)]
    fn deferred_forward(#[extension_type] call: DeferredCall<Self>) -> Outcome<Self>;
    /// A kernel's backward pass.
    #[fusion(meta = promised_backward)]
    fn deferred_backward(#[extension_type] backward: BackwardCall<Self>) -> BackwardOutcome<Self>;
}

impl Deferral for CubeBackend {
    fn deferred_forward(call: DeferredCall<Self>) -> Outcome<Self> {
        let (problem, demand, lse) = (call.problem.clone(), call.choice.forward.clone(), call.lse);
        select(Self::kernels(), &call.query.device(), &problem, Pass::Forward, demand.as_deref())
            .and_then(|(kernel, _)| kernel.forward(&problem, call.into_inputs(), lse))
            .into()
    }

    fn deferred_backward(backward: BackwardCall<Self>) -> BackwardOutcome<Self> {
        let BackwardCall { call, out, row_lse, grad_out, grad_lse, wanted } = backward;
        let (problem, demand) = (call.problem.clone(), call.choice.backward.clone());
        let upstream =
            Upstream { out, lse: row_lse, grad_out: grad_out.into_option(), grad_lse: grad_lse.into_option() };
        let made = select(Self::kernels(), &call.query.device(), &problem, Pass::Backward, demand.as_deref())
            .and_then(|(kernel, _)| kernel.backward(&problem, call.into_inputs(), upstream, wanted));
        match made {
            Ok(Gradients { query, key, value, bias, alibi_slopes, relative_bias, sinks }) => BackwardOutcome::Done {
                query: MaybeFloat::new(query),
                key: MaybeFloat::new(key),
                value: MaybeFloat::new(value),
                bias: MaybeFloat::new(bias),
                alibi_slopes: MaybeFloat::new(alibi_slopes),
                relative_bias: MaybeFloat::new(relative_bias),
                sinks: MaybeFloat::new(sinks),
            },
            Err(error) => BackwardOutcome::Failed(error),
        }
    }
}

/// Shapes and types of what the operation will give.
fn promised(call: &DeferredCallMetadata) -> OutcomeMetadata {
    let problem = &call.problem;
    let rows = [problem.batch, problem.heads, problem.query_len];
    let out = Shape::new([rows[0], rows[1], rows[2], problem.value_dim]);
    let lse = match call.lse {
        true => MaybeFloatMetadata::Given(TensorSpec::new(Shape::new(rows), wide(problem))),
        false => MaybeFloatMetadata::Absent,
    };
    OutcomeMetadata::Done { out: TensorSpec::new(out, problem.dtype.into()), lse }
}

/// The same of the backward pass.
fn promised_backward(backward: &BackwardCallMetadata) -> BackwardOutcomeMetadata {
    let (problem, wanted) = (&backward.call.problem, backward.wanted);
    let Problem { batch, heads, kv_heads, query_len, key_len, head_dim, value_dim, .. } = **problem;
    let like = |shape: Option<Vec<usize>>| match shape {
        Some(shape) => MaybeFloatMetadata::Given(TensorSpec::new(Shape::from(shape), problem.dtype.into())),
        None => MaybeFloatMetadata::Absent,
    };
    BackwardOutcomeMetadata::Done {
        query: like(wanted.query.then(|| vec![batch, heads, query_len, head_dim])),
        key: like(wanted.key.then(|| vec![batch, kv_heads, key_len, head_dim])),
        value: like(wanted.value.then(|| vec![batch, kv_heads, key_len, value_dim])),
        bias: like(problem.bias.filter(|_| wanted.bias).map(|shape| shape.to_vec())),
        alibi_slopes: like((wanted.alibi_slopes && problem.alibi).then(|| vec![heads])),
        relative_bias: like(problem.relative_bias.filter(|_| wanted.relative_bias).map(|shape| shape.to_vec())),
        sinks: like((wanted.sinks && problem.sinks).then(|| vec![heads])),
    }
}

fn wide(problem: &Problem) -> DType {
    match problem.accumulation() {
        FloatDType::F64 => DType::F64,
        _ => DType::F32,
    }
}

/// One of the GPU kernels, put off.
#[derive(Debug, Clone, Copy)]
struct Deferred(Cube);

impl AttentionKernel<Fusion<CubeBackend>> for Deferred {
    fn name(&self) -> &'static str {
        AttentionKernel::<CubeBackend>::name(&self.0)
    }

    fn supports(&self, device: &CubeDevice, problem: &Problem, pass: Pass) -> Result<(), String> {
        self.0.supports(device, problem, pass)
    }

    fn advises(&self, device: &CubeDevice, problem: &Problem, pass: Pass) -> Result<(), String> {
        self.0.advises(device, problem, pass)
    }

    fn cut(&self, device: &CubeDevice, problem: &Problem, pass: Pass) -> Option<String> {
        self.0.cut(device, problem, pass)
    }

    fn workspace_bytes(&self, device: &CubeDevice, problem: &Problem, pass: Pass) -> u64 {
        self.0.workspace_bytes(device, problem, pass)
    }

    fn forward(
        &self,
        problem: &Problem,
        inputs: AttentionInputs<Fusion<CubeBackend>>,
        lse: bool,
    ) -> Result<AttentionOutputs<Fusion<CubeBackend>>, AttentionError> {
        self.refuse(&inputs, problem, Pass::Forward)?;
        let outcome = Fusion::<CubeBackend>::deferred_forward(self.call(problem, inputs, lse));
        match outcome {
            Outcome::Done { out, lse } => Ok(AttentionOutputs { out, lse: lse.into_option() }),
            Outcome::Failed(error) => Err(error),
        }
    }

    fn backward(
        &self,
        problem: &Problem,
        inputs: AttentionInputs<Fusion<CubeBackend>>,
        upstream: Upstream<Fusion<CubeBackend>>,
        wanted: Wanted,
    ) -> Result<Gradients<Fusion<CubeBackend>>, AttentionError> {
        self.refuse(&inputs, problem, Pass::Backward)?;
        let outcome = Fusion::<CubeBackend>::deferred_backward(BackwardCall {
            call: self.call(problem, inputs, false),
            out: upstream.out,
            row_lse: upstream.lse,
            grad_out: MaybeFloat::new(upstream.grad_out),
            grad_lse: MaybeFloat::new(upstream.grad_lse),
            wanted,
        });
        match outcome {
            BackwardOutcome::Done { query, key, value, bias, alibi_slopes, relative_bias, sinks } => Ok(Gradients {
                query: query.into_option(),
                key: key.into_option(),
                value: value.into_option(),
                bias: bias.into_option(),
                alibi_slopes: alibi_slopes.into_option(),
                relative_bias: relative_bias.into_option(),
                sinks: sinks.into_option(),
            }),
            BackwardOutcome::Failed(error) => Err(error),
        }
    }
}

impl Deferred {
    /// A call that demands this kernel, both ways.
    fn call(
        &self,
        problem: &Problem,
        inputs: AttentionInputs<Fusion<CubeBackend>>,
        lse: bool,
    ) -> DeferredCall<Fusion<CubeBackend>> {
        let name = Some(self.name().to_string());
        let (mask, polarity) = match inputs.mask {
            Some(mask) => {
                let (tensor, polarity) = mask.into_parts();
                (MaybeBool::Given(tensor), polarity)
            }
            None => (MaybeBool::Absent, Polarity::Keep),
        };
        DeferredCall {
            query: inputs.query,
            key: inputs.key,
            value: inputs.value,
            mask,
            bias: MaybeFloat::new(inputs.bias),
            alibi_slopes: MaybeFloat::new(inputs.alibi_slopes),
            relative_bias: MaybeFloat::new(inputs.relative_bias),
            sinks: MaybeFloat::new(inputs.sinks),
            polarity,
            problem: Arc::new(problem.clone()),
            choice: KernelChoice { forward: name.clone(), backward: name },
            lse,
        }
    }

    fn refuse(
        &self,
        inputs: &AttentionInputs<Fusion<CubeBackend>>,
        problem: &Problem,
        pass: Pass,
    ) -> Result<(), AttentionError> {
        let device = inputs.query.client.device();
        self.supports(device, problem, pass).map_err(|reason| self.unsupported(reason))
    }

    fn unsupported(&self, reason: String) -> AttentionError {
        AttentionError::Unsupported { kernel: AttentionKernel::<CubeBackend>::name(&self.0).to_string(), reason }
    }
}

impl AttentionBackend for Fusion<CubeBackend> {
    fn kernels() -> Kernels<'static, Self> {
        static EACH: LazyLock<[Deferred; Cube::ALL.len()]> = LazyLock::new(|| Cube::ALL.map(Deferred));
        static KERNELS: LazyLock<Vec<&dyn AttentionKernel<Fusion<CubeBackend>>>> = LazyLock::new(|| {
            let each = EACH.iter().map(|kernel| kernel as &dyn AttentionKernel<Fusion<CubeBackend>>);
            each.chain([&Composite as &dyn AttentionKernel<Fusion<CubeBackend>>]).collect()
        });
        &KERNELS
    }
}
