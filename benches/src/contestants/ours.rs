//! Our attention, through the face that users call.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use burn::tensor::Tensor;

use super::extras::Extras;
use super::{Contestant, OURS, Operands, Planned, call};
use crate::backend::Backend;
use crate::inputs::Inputs;
use crate::shapes::{Shape, Suite};

/// Sets our attention up, and asks its plan which kernel will serve.
pub fn enter(shape: &Shape, inputs: &Inputs, backend: Backend, operands: Arc<Operands>) -> Result<Contestant> {
    let shape = *shape;
    let extras = Extras::new(&shape, inputs, &backend.device());
    let planned = planned(&shape, &extras, &operands).with_context(|| format!("planning {shape} on {backend}"))?;
    let run = move || {
        call(&shape, &operands, |query, key, value| Ok(build(&shape, &extras, query, key, value).forward()?.out))
    };
    Ok(Contestant { name: OURS, backend, planned: Some(planned), device: backend.device(), call: Box::new(run) })
}

/// What the plan says, whose count of the forward's operations must be ours.
fn planned(shape: &Shape, extras: &Extras, operands: &Operands) -> Result<Planned> {
    let (query, key, value) = operands.next();
    let plan = build(shape, extras, query, key, value).plan()?;
    let forward = Shape { suite: Suite::Prefill, ..*shape };
    ensure!(
        plan.forward.flops as f64 == forward.flops(),
        "the plan counts {} operations, there are {}",
        plan.forward.flops,
        forward.flops()
    );
    Ok(match shape.suite {
        Suite::Prefill | Suite::Decode | Suite::Sweep => {
            Planned { kernel: plan.forward.kernel.to_string(), workspace_bytes: plan.forward.workspace_bytes }
        }
        Suite::Train => Planned {
            kernel: format!("{}, {}", plan.forward.kernel, plan.backward.kernel),
            workspace_bytes: plan.forward.workspace_bytes.max(plan.backward.workspace_bytes),
        },
    })
}

/// The shape's options on the builder.
fn build(shape: &Shape, extras: &Extras, query: Tensor<4>, key: Tensor<4>, value: Tensor<4>) -> attn::Attention {
    let mut attention = attn::Attention::new(query, key, value).causal(shape.causal);
    if let Some(window) = shape.window {
        attention = attention.window(Some(window.left), Some(window.right));
    }
    if let Some(scale) = shape.scale {
        attention = attention.scale(scale);
    }
    if let Some(softcap) = shape.softcap {
        attention = attention.softcap(softcap);
    }
    extras.on(attention)
}
