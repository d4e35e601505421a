//! Additive scores on `Autodiff<B>`: one node of the graph, which keeps the inputs and computes the hidden layer anew
//! in the backward pass, a run of queries at a time.

use attn_core::AttentionError;
use attn_core::composite::{additive_gradients, additive_scores};
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend};

/// The backward step. Parents and state: query, key, value.
#[derive(Debug)]
struct AdditiveBackward;

impl<B: Backend> Backward<B, 3> for AdditiveBackward {
    type State = [FloatTensor<B>; 3];

    /// # Panics
    /// Never for inputs that the forward pass took: it checked the same shapes.
    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let [query, key, value] = ops.state;
        let made = match additive_gradients::<B>(query, key, value, &grad) {
            Ok(made) => made,
            Err(error) => panic!("the backward pass of additive scores failed: {error}"),
        };
        for (parent, grad) in ops.parents.into_iter().zip(made) {
            if let Some(parent) = parent {
                grads.register::<B>(parent.id, grad);
            }
        }
    }
}

/// Scores of query `[B, H, Sq, A]`, key `[B, G, Sk, A]` and value `[H, A]` as a node of the graph.
pub(crate) fn tracked_scores<B: Backend, C: CheckpointStrategy>(
    query: FloatTensor<Autodiff<B, C>>,
    key: FloatTensor<Autodiff<B, C>>,
    value: FloatTensor<Autodiff<B, C>>,
) -> Result<FloatTensor<Autodiff<B, C>>, AttentionError> {
    let state = [&query, &key, &value].map(|tensor| tensor.primitive().clone());
    let [q, k, v] = state.clone();
    let scores = additive_scores::<B>(q, k, v)?;
    let nodes = [query.node(), key.node(), value.node()];
    Ok(match AdditiveBackward.prepare::<C>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(prep) => prep.finish(state, scores),
        OpsKind::UnTracked(prep) => prep.finish(scores),
    })
}
