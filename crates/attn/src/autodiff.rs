//! Attention on `Autodiff<B>`: one node of the graph for the output, one for the LSE if it was asked for.
//!
//! A node keeps the inputs, the output and the LSE, and recomputes the scores in the backward pass, so that a step of training
//! takes memory linear in the lengths.

use std::sync::Arc;

use attn_core::composite::{self, Selection};
use attn_core::plan::select;
use attn_core::{AttentionError, AttentionInputs, AttentionOutputs, KernelChoice, Pass, Problem, Upstream, Wanted};
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, AutodiffBackend, Backend, TensorMetadata};

use crate::boxed::{BoxedBool, BoxedFloat};
use crate::dispatch::{AttentionBackend, AttentionExtension, Call, Outcome, Planned, forward, merge, scores, weights};

/// Which output of the attention a node of the graph stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Output {
    Out,
    Lse,
}

/// The backward step of one output. Parents: query, key, value, bias, ALiBi slopes, bias by relative position, sinks.
#[derive(Debug)]
struct AttentionBackward {
    output: Output,
}

/// What a node keeps.
#[derive(Debug, Clone)]
struct Saved<B: Backend> {
    problem: Arc<Problem>,
    choice: KernelChoice,
    inputs: AttentionInputs<B>,
    out: FloatTensor<B>,
    lse: FloatTensor<B>,
}

impl<B: AttentionBackend> Backward<B, 7> for AttentionBackward {
    type State = Saved<B>;

    /// # Panics
    /// If the backend fails while it computes. Burn's backward pass has no other way to say so; that a kernel serves the problem was
    /// made sure of before the forward pass.
    fn backward(self, ops: Ops<Saved<B>, 7>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let Saved { problem, choice, inputs, out, lse } = ops.state;
        let [query, key, value, bias, alibi_slopes, relative_bias, sinks] = ops.parents;
        let wanted = Wanted {
            query: query.is_some(),
            key: key.is_some(),
            value: value.is_some(),
            bias: bias.is_some() && inputs.bias.is_some(),
            alibi_slopes: alibi_slopes.is_some() && inputs.alibi_slopes.is_some(),
            relative_bias: relative_bias.is_some() && inputs.relative_bias.is_some(),
            sinks: sinks.is_some() && inputs.sinks.is_some(),
        };
        let upstream = match self.output {
            Output::Out => Upstream { out, lse, grad_out: Some(grad), grad_lse: None },
            Output::Lse => Upstream { out, lse, grad_out: None, grad_lse: Some(grad) },
        };
        let made = select(B::kernels(), &inputs.query.device(), &problem, Pass::Backward, choice.backward.as_deref())
            .and_then(|(kernel, _)| kernel.backward(&problem, inputs, upstream, wanted));
        let made = match made {
            Ok(made) => made,
            Err(error) => panic!("the backward pass of attention failed: {error}"),
        };
        let pairs = [
            (query, made.query),
            (key, made.key),
            (value, made.value),
            (bias, made.bias),
            (alibi_slopes, made.alibi_slopes),
            (relative_bias, made.relative_bias),
            (sinks, made.sinks),
        ];
        for (node, grad) in pairs {
            if let (Some(node), Some(grad)) = (node, grad) {
                grads.register::<B>(node.id, grad);
            }
        }
    }
}

impl<B: AttentionBackend + AttentionExtension, C: CheckpointStrategy> AttentionExtension for Autodiff<B, C> {
    fn attention_plan(call: Call<Self>) -> Planned<Self> {
        let query = call.query.clone();
        Planned { query, plan: B::attention_plan(inner(&call)).plan }
    }

    fn attention_forward(call: Call<Self>) -> Outcome<Self> {
        tracked_forward(call).into()
    }

    fn attention_weights(call: Call<Self>, lse: FloatTensor<Self>, selection: Selection) -> Outcome<Self> {
        match check_differentiable(&call) {
            Ok(()) => weights(call, lse, &selection),
            Err(error) => Outcome::Failed(error),
        }
    }

    fn attention_scores(call: Call<Self>, selection: Selection) -> Outcome<Self> {
        match check_differentiable(&call) {
            Ok(()) => scores(call, &selection),
            Err(error) => Outcome::Failed(error),
        }
    }

    fn attention_additive_scores(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
    ) -> Outcome<Self> {
        Outcome::single(crate::additive::tracked_scores::<B, C>(query, key, value))
    }

    fn attention_apply_weights(weights: FloatTensor<Self>, value: FloatTensor<Self>) -> Outcome<Self> {
        Outcome::single(composite::apply_weights::<Self>(weights, value))
    }

    fn attention_merge(
        a_out: FloatTensor<Self>,
        a_lse: FloatTensor<Self>,
        b_out: FloatTensor<Self>,
        b_lse: FloatTensor<Self>,
    ) -> Outcome<Self> {
        merge(a_out, a_lse, b_out, b_lse)
    }
}

/// The same call on the backend inside, its float tensors without their places in the graph.
fn inner<B: Backend, C: CheckpointStrategy>(call: &Call<Autodiff<B, C>>) -> Call<B> {
    let inside = |tensor: &BoxedFloat<Autodiff<B, C>>| {
        BoxedFloat::float(tensor.as_option().map(|tensor| tensor.primitive().clone()))
    };
    Call {
        query: call.query.primitive().clone(),
        key: call.key.primitive().clone(),
        value: call.value.primitive().clone(),
        mask: BoxedBool::bools(call.mask.as_option().cloned()),
        bias: inside(&call.bias),
        alibi_slopes: inside(&call.alibi_slopes),
        relative_bias: inside(&call.relative_bias),
        sinks: inside(&call.sinks),
        polarity: call.polarity,
        problem: call.problem.clone(),
        choice: call.choice.clone(),
        lse: call.lse,
    }
}

fn tracked_forward<B: AttentionBackend, C: CheckpointStrategy>(
    call: Call<Autodiff<B, C>>,
) -> Result<AttentionOutputs<Autodiff<B, C>>, AttentionError> {
    let tracked = is_tracked(&call);
    if tracked {
        check_differentiable(&call)?;
        // What the backward pass will need must be there before the forward pass runs.
        let device = call.query.primitive().device();
        select(B::kernels(), &device, &call.problem, Pass::Backward, call.choice.backward.as_deref())?;
    }
    let inside = Call { lse: call.lse || tracked, ..inner(&call) };
    let outputs = forward(inside.clone())?;
    let Some(lse) = outputs.lse else {
        return Ok(AttentionOutputs { out: untracked::<B, C>(outputs.out), lse: None });
    };
    let saved = Saved {
        problem: call.problem.clone(),
        choice: call.choice.clone(),
        inputs: inside.into_inputs(),
        out: outputs.out.clone(),
        lse: lse.clone(),
    };
    Ok(AttentionOutputs {
        out: node(&call, Output::Out, saved.clone(), outputs.out),
        lse: call.lse.then(|| node(&call, Output::Lse, saved, lse)),
    })
}

/// What is to be differentiated must be able to be.
fn check_differentiable<B: Backend, C: CheckpointStrategy>(call: &Call<Autodiff<B, C>>) -> Result<(), AttentionError> {
    if is_tracked(call) { call.problem.check_differentiable() } else { Ok(()) }
}

fn untracked<B: Backend, C: CheckpointStrategy>(tensor: FloatTensor<B>) -> FloatTensor<Autodiff<B, C>> {
    <Autodiff<B, C> as AutodiffBackend>::from_inner(tensor)
}

/// The float inputs in the order of the graph's parents.
fn parents<B: Backend, C: CheckpointStrategy>(
    call: &Call<Autodiff<B, C>>,
) -> [Option<&FloatTensor<Autodiff<B, C>>>; 7] {
    [
        Some(&call.query),
        Some(&call.key),
        Some(&call.value),
        call.bias.as_option(),
        call.alibi_slopes.as_option(),
        call.relative_bias.as_option(),
        call.sinks.as_option(),
    ]
}

fn is_tracked<B: Backend, C: CheckpointStrategy>(call: &Call<Autodiff<B, C>>) -> bool {
    parents(call).into_iter().flatten().any(|tensor| tensor.is_tracked())
}

/// Puts an output into the graph.
fn node<B: AttentionBackend, C: CheckpointStrategy>(
    call: &Call<Autodiff<B, C>>,
    output: Output,
    saved: Saved<B>,
    tensor: FloatTensor<B>,
) -> FloatTensor<Autodiff<B, C>> {
    // An absent input stands in the graph as a constant.
    let nodes = parents(call).map(|parent| match parent {
        Some(tensor) => tensor.node(),
        None => untracked::<B, C>(call.query.primitive().clone()).node(),
    });
    match (AttentionBackward { output }).prepare::<C>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(prep) => prep.finish(saved, tensor),
        OpsKind::UnTracked(prep) => prep.finish(tensor),
    }
}
