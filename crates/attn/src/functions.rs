//! Attention as plain functions on tensors.

use attn_core::{AttentionError, AttentionSpec};
use burn::backend::Dispatch;
use burn::tensor::Tensor;

use crate::attention::{Attention, AttentionOutput, check_devices, check_dtypes, finished};
use crate::dispatch::AttentionExtension;

/// `softmax(scale · query·keyᵀ) · value` with the spec's softcap, causal mask, window, alignment and dropout.
///
/// query `[batch, heads, query_len, head_dim]`, key `[batch, kv_heads, key_len, head_dim]`, value
/// `[batch, kv_heads, key_len, value_dim]`, with heads a multiple of kv_heads; gives `[batch, heads, query_len, value_dim]`. For
/// masks, biases, ALiBi, sinks, lengths, LSE or weights use the builder, [`Attention`].
///
/// # Errors
/// An [`AttentionError`] that names the argument at fault.
pub fn attention(
    query: Tensor<4>,
    key: Tensor<4>,
    value: Tensor<4>,
    spec: &AttentionSpec,
) -> Result<Tensor<4>, AttentionError> {
    Ok(Attention::new(query, key, value).spec(*spec).forward()?.out)
}

/// `weights · value`, where a weight of exactly 0 takes nothing, not even NaN or infinity.
///
/// weights `[batch, heads, query_len, key_len]`, value `[batch, kv_heads, key_len, value_dim]`; gives
/// `[batch, heads, query_len, value_dim]`. Use it to change the weights between softmax and value
/// (pruning, say; for dropout the kernels need no weights in memory, see [`Dropout`](crate::Dropout)).
///
/// # Errors
/// An [`AttentionError`] that names `value` where its shape, type or device does not fit the weights.
pub fn apply_weights(weights: Tensor<4>, value: Tensor<4>) -> Result<Tensor<4>, AttentionError> {
    check_devices(&weights.device(), &[("value", Some(value.device()))])?;
    check_dtypes("weights", weights.dtype(), &[("value", value.dtype())])?;
    let outcome =
        <Dispatch as AttentionExtension>::attention_apply_weights(weights.into_dispatch(), value.into_dispatch());
    Ok(finished(outcome)?.0)
}

/// `Σ_a value_a · tanh(query_a + key_a)` of every pair: query `[B, H, Sq, A]`, key `[B, G, Sk, A]`, value `[H, A]`, of
/// one type and device, which the caller has checked; gives `[B, H, Sq, Sk]`. See
/// [`attn_core::composite::additive_scores`].
pub(crate) fn additive_scores(query: Tensor<4>, key: Tensor<4>, value: Tensor<2>) -> Result<Tensor<4>, AttentionError> {
    let [query, key] = [query, key].map(Tensor::into_dispatch);
    let outcome = <Dispatch as AttentionExtension>::attention_additive_scores(query, key, value.into_dispatch());
    Ok(finished(outcome)?.0)
}

/// Joins attention over two disjoint sets of keys into attention over both, by their LSE; see [`attn_core::merge::merge`].
///
/// # Errors
/// Names `a` or `b` where the LSE is missing or shapes, types or devices differ.
pub fn merge(a: AttentionOutput, b: AttentionOutput) -> Result<AttentionOutput, AttentionError> {
    let lse = |argument, lse: Option<Tensor<3>>| {
        lse.ok_or_else(|| AttentionError::value(argument, "an output with its LSE", "none"))
    };
    let (a_lse, b_lse) = (lse("a", a.lse)?, lse("b", b.lse)?);
    check_devices(
        &a.out.device(),
        &[("a", Some(a_lse.device())), ("b", Some(b.out.device())), ("b", Some(b_lse.device()))],
    )?;
    let (out, lse) = finished(<Dispatch as AttentionExtension>::attention_merge(
        a.out.into_dispatch(),
        a_lse.into_dispatch(),
        b.out.into_dispatch(),
        b_lse.into_dispatch(),
    ))?;
    Ok(AttentionOutput { out, lse, weights: None })
}
