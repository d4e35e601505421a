//! Attention on `Fusion<CubeBackend>`, the GPU backend that puts off its operations to fuse them.
//!
//! The kernel's launch is one operation among those that are put off; its inputs are made before it runs, as for any other. All
//! that may be refused is refused before it is put off, by the kernel itself; what the driver then says against it comes when
//! the output is read, as with every operation of that backend. The composite needs nothing: it is made of Burn's operations, and
//! goes backward for all of them here.

use std::sync::Arc;

use attn_core::composite::Composite;
use attn_core::plan::Kernels;
use attn_core::{
    AttentionError, AttentionInputs, AttentionKernel, AttentionOutputs, Gradients, KernelChoice, Pass, Polarity,
    Problem, Upstream, Wanted,
};
use attn_wgpu::{Cube, CubeBackend, CubeDevice};
use burn::backend::fusion::Fusion;
use burn::backend::fusion::custom::TensorSpec;
use burn::backend::{Backend, backend_extension};
use burn::tensor::{DType, FloatDType, Shape};

use crate::dispatch::{
    AttentionBackend, Call, CallMetadata, MaybeBool, MaybeFloat, MaybeFloatMetadata, Outcome, OutcomeMetadata, forward,
};

/// The operation that is put off.
#[backend_extension(Cube, Fusion)]
pub trait DeferredForward: Backend {
    /// The kernel's forward pass.
    #[fusion(meta = promised)]
    fn deferred_forward(#[extension_type] call: Call<Self>) -> Outcome<Self>;
}

impl DeferredForward for CubeBackend {
    fn deferred_forward(call: Call<Self>) -> Outcome<Self> {
        forward(call).into()
    }
}

/// Shapes and types of what the operation will give.
fn promised(call: &CallMetadata) -> OutcomeMetadata {
    let problem = &call.problem;
    let rows = [problem.batch, problem.heads, problem.query_len];
    let out = Shape::new([rows[0], rows[1], rows[2], problem.value_dim]);
    let lse = match call.lse {
        true => MaybeFloatMetadata::Given(TensorSpec::new(Shape::new(rows), wide(problem))),
        false => MaybeFloatMetadata::Absent,
    };
    OutcomeMetadata::Done { out: TensorSpec::new(out, problem.dtype.into()), lse }
}

fn wide(problem: &Problem) -> DType {
    match problem.accumulation() {
        FloatDType::F64 => DType::F64,
        _ => DType::F32,
    }
}

/// Why none of them goes backward here.
const NOT_DEFERRED: &str = "its backward pass is not put off, as Burn's fusion asks";

/// One of the GPU kernels, put off.
#[derive(Debug, Clone, Copy)]
struct Deferred(Cube);

impl AttentionKernel<Fusion<CubeBackend>> for Deferred {
    fn name(&self) -> &'static str {
        AttentionKernel::<CubeBackend>::name(&self.0)
    }

    fn supports(&self, device: &CubeDevice, problem: &Problem, pass: Pass) -> Result<(), String> {
        match pass {
            Pass::Forward => self.0.supports(device, problem, pass),
            Pass::Backward => Err(NOT_DEFERRED.to_string()),
        }
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
        let (mask, polarity) = match inputs.mask {
            Some(mask) => {
                let (tensor, polarity) = mask.into_parts();
                (MaybeBool::Given(tensor), polarity)
            }
            None => (MaybeBool::Absent, Polarity::Keep),
        };
        let outcome = Fusion::<CubeBackend>::deferred_forward(Call {
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
            choice: KernelChoice { forward: Some(self.name().to_string()), backward: None },
            lse,
        });
        match outcome {
            Outcome::Done { out, lse } => Ok(AttentionOutputs { out, lse: lse.into_option() }),
            Outcome::Failed(error) => Err(error),
        }
    }

    fn backward(
        &self,
        problem: &Problem,
        inputs: AttentionInputs<Fusion<CubeBackend>>,
        _upstream: Upstream<Fusion<CubeBackend>>,
        _wanted: Wanted,
    ) -> Result<Gradients<Fusion<CubeBackend>>, AttentionError> {
        self.refuse(&inputs, problem, Pass::Backward)?;
        Err(self.unsupported(NOT_DEFERRED.to_string()))
    }
}

impl Deferred {
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
        static KERNELS: &[&dyn AttentionKernel<Fusion<CubeBackend>>] = &[
            &Deferred(Cube::Decode),
            &Deferred(Cube::Mma),
            &Deferred(Cube::Matrix),
            &Deferred(Cube::Rows),
            &Composite,
        ];
        KERNELS
    }
}
