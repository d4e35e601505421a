//! Tells, before anything runs, which kernel will serve a problem, why, and what it will cost.

use std::borrow::Cow;

use burn_backend::Backend;
use burn_backend::tensor::Device;

use crate::{AttentionError, AttentionKernel, Pass, Problem};

/// The kernels by which a caller insists to be served; `None` leaves the choice to the binding's order of preference.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KernelChoice {
    /// Name of the kernel for the forward pass.
    pub forward: Option<String>,
    /// Name of the kernel for the backward pass.
    pub backward: Option<String>,
}

/// Which kernel serves one direction, and at what cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PassPlan {
    /// Name of the kernel.
    pub kernel: &'static str,
    /// Why this one: demanded, first choice, or what kept each preferred one from serving.
    pub reason: String,
    /// How the kernel cuts the work for the device, where it tells.
    pub cut: Option<String>,
    /// Floating-point operations of the matrix products on pairs that the bands leave visible:
    /// forward `2·(D + E)` a pair; backward, recomputing scores, `6·D + 4·E`.
    pub flops: u64,
    /// Upper bound of the bytes allocated beyond inputs and outputs.
    pub workspace_bytes: u64,
}

/// The plan of both directions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Inputs to outputs.
    pub forward: PassPlan,
    /// Gradients of outputs to gradients of inputs; carried out only under autodiff.
    pub backward: PassPlan,
}

impl std::fmt::Display for PassPlan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "kernel {} ({})", self.kernel, self.reason)?;
        if let Some(cut) = &self.cut {
            write!(f, ", {cut}")?;
        }
        let mebibytes = self.workspace_bytes as f64 / (1024.0 * 1024.0);
        write!(f, ", {:.3} GFLOP, workspace {mebibytes:.2} MiB", self.flops as f64 / 1e9)
    }
}

impl std::fmt::Display for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "forward: {}; backward: {}", self.forward, self.backward)
    }
}

/// A binding's kernels for backend `B`, the preferred ones first. The last is one that serves everything.
pub type Kernels<'a, B> = &'a [&'a dyn AttentionKernel<B>];

/// Chooses a kernel for each direction on a device and states the cost. Nothing runs.
///
/// # Errors
/// [`Unsupported`](AttentionError::Unsupported) where a demanded kernel is unknown or cannot serve, or where none can.
pub fn plan<B: Backend>(
    kernels: Kernels<'_, B>,
    device: &Device<B>,
    problem: &Problem,
    choice: &KernelChoice,
) -> Result<Plan, AttentionError> {
    let pass_plan = |pass, demand: Option<&str>| {
        let (kernel, reason) = select(kernels, device, problem, pass, demand)?;
        Ok(PassPlan {
            kernel: kernel.name(),
            reason: reason.into_owned(),
            cut: kernel.cut(device, problem, pass),
            flops: flops(problem, pass),
            workspace_bytes: kernel.workspace_bytes(device, problem, pass),
        })
    };
    Ok(Plan {
        forward: pass_plan(Pass::Forward, choice.forward.as_deref())?,
        backward: pass_plan(Pass::Backward, choice.backward.as_deref())?,
    })
}

/// A kernel, and why it was chosen.
pub type Choice<'a, B> = (&'a dyn AttentionKernel<B>, Cow<'static, str>);

/// The kernel that serves a problem in one direction, and why.
///
/// # Errors
/// As [`plan`].
pub fn select<'a, B: Backend>(
    kernels: Kernels<'a, B>,
    device: &Device<B>,
    problem: &Problem,
    pass: Pass,
    demand: Option<&str>,
) -> Result<Choice<'a, B>, AttentionError> {
    match demand {
        Some(name) => demanded(kernels, device, problem, pass, name),
        None => preferred(kernels, device, problem, pass),
    }
}

fn demanded<'a, B: Backend>(
    kernels: Kernels<'a, B>,
    device: &Device<B>,
    problem: &Problem,
    pass: Pass,
    name: &str,
) -> Result<Choice<'a, B>, AttentionError> {
    let unsupported = |reason| AttentionError::Unsupported { kernel: name.to_string(), reason };
    let Some(kernel) = kernels.iter().find(|kernel| kernel.name() == name) else {
        let names: Vec<_> = kernels.iter().map(|kernel| kernel.name()).collect();
        return Err(unsupported(format!("this backend has the kernels {}", names.join(", "))));
    };
    kernel.supports(device, problem, pass).map_err(unsupported)?;
    Ok((*kernel, Cow::Borrowed("demanded")))
}

fn preferred<'a, B: Backend>(
    kernels: Kernels<'a, B>,
    device: &Device<B>,
    problem: &Problem,
    pass: Pass,
) -> Result<Choice<'a, B>, AttentionError> {
    let mut refusals: Vec<String> = Vec::new();
    for kernel in kernels {
        let advised = kernel.supports(device, problem, pass).and_then(|()| kernel.advises(device, problem, pass));
        match advised {
            Ok(()) if refusals.is_empty() => return Ok((*kernel, Cow::Borrowed("first choice"))),
            Ok(()) => return Ok((*kernel, Cow::Owned(refusals.join("; ")))),
            Err(reason) => {
                let refusal = format!("not {}: {reason}", kernel.name());
                // Kernels of one family refuse for the same reason; say it once.
                if !refusals.iter().any(|said| said.ends_with(&reason)) {
                    refusals.push(refusal);
                }
            }
        }
    }
    Err(AttentionError::Unsupported { kernel: "any".to_string(), reason: refusals.join("; ") })
}

fn flops(problem: &Problem, pass: Pass) -> u64 {
    let (d, e) = (problem.head_dim as u64, problem.value_dim as u64);
    let per_pair = match pass {
        Pass::Forward => 2 * (d + e),
        Pass::Backward => 6 * d + 4 * e,
    };
    problem.visible_pairs().saturating_mul(per_pair)
}
